// What hipRTC has built in, as far as the kernels use it, for a clang without HIP's headers.
#pragma once
#define __global__ __attribute__((global))
#define __device__ __attribute__((device))
#define __shared__ __attribute__((shared))
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(threads) __attribute__((amdgpu_flat_work_group_size(threads, threads)))

extern "C" __device__ __attribute__((const)) float __ocml_exp_f32(float);
extern "C" __device__ __attribute__((const)) float __ocml_tanh_f32(float);
#define expf __ocml_exp_f32
#define tanhf __ocml_tanh_f32
#define fmaf __builtin_fmaf
#define fmaxf __builtin_fmaxf
#define sqrtf __builtin_sqrtf

struct Index {
    unsigned x, y, z;
};
#define threadIdx (Index{__builtin_amdgcn_workitem_id_x(), 0, 0})
#define blockIdx \
    (Index{__builtin_amdgcn_workgroup_id_x(), __builtin_amdgcn_workgroup_id_y(), __builtin_amdgcn_workgroup_id_z()})
#define gridDim                                                                       \
    (Index{__builtin_amdgcn_grid_size_x() / __builtin_amdgcn_workgroup_size_x(), \
           __builtin_amdgcn_grid_size_y() / __builtin_amdgcn_workgroup_size_y(), \
           __builtin_amdgcn_grid_size_z() / __builtin_amdgcn_workgroup_size_z()})

static __device__ __forceinline__ void __syncthreads() {
    __builtin_amdgcn_fence(__ATOMIC_RELEASE, "workgroup");
    __builtin_amdgcn_s_barrier();
    __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, "workgroup");
}

static __device__ __forceinline__ float __shfl_xor(float value, int mask, int width) {
    const int low = __builtin_amdgcn_mbcnt_lo(~0u, 0);
    const int lane = width == 64 ? __builtin_amdgcn_mbcnt_hi(~0u, low) : low;
    const int other = __builtin_amdgcn_ds_bpermute((lane ^ mask) * 4, __builtin_bit_cast(int, value));
    return __builtin_bit_cast(float, other);
}
