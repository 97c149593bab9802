// Small kernels, one for each thing that a runtime has to get right. THREADS and WARP are options.
#ifndef SIMT_HOST
#define KERNEL(name, ...) extern "C" __global__ void __launch_bounds__(THREADS) name(__VA_ARGS__)
#define DYNAMIC_SHARED(type, name)                              \
    extern __shared__ __attribute__((aligned(16))) type name##_memory[]; \
    type* name = name##_memory
#endif

// A grid of blocks, a scalar.
KERNEL(add, float* sum, const float* a, const float* b, int count) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) sum[i] = a[i] + b[i];
}

// Scalars of every size, and a struct.
struct Line {
    const float* x;
    float slope, offset;
};

KERNEL(on_line, float* y, Line line, long long first, unsigned count) {
    for (unsigned i = threadIdx.x; i < count; i += THREADS) y[i] = line.slope * line.x[first + i] + line.offset;
}

// Memory that the launch gives, and a barrier.
KERNEL(reverse, int* values, int count) {
    DYNAMIC_SHARED(int, copy);
    for (int i = threadIdx.x; i < count; i += THREADS) copy[i] = values[i];
    __syncthreads();
    for (int i = threadIdx.x; i < count; i += THREADS) values[i] = copy[count - 1 - i];
}

// The width of a warp as the code was compiled for it.
KERNEL(warp, int* width) {
    if (threadIdx.x == 0) *width = WARP;
}

// A mistake: a barrier that half of the block reaches.
KERNEL(uneven_barrier, int* values) {
    if (threadIdx.x < THREADS / 2) __syncthreads();
    values[threadIdx.x] = 1;
}
