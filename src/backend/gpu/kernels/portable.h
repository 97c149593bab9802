// What the kernels need beyond the language, for NVRTC, for hipRTC or clang, and for a host compiler with `tests/gpu/simt.h`.
// No header of a vendor or of the standard library. Uses generated.h, which the host writes: constants both sides must agree on.
//
// Every module begins with `#define WARP 32` or 64. It is compiled without contraction of products and sums (`--fmad=false`,
// `-ffp-contract=off`): an element then has the same bits in every kernel, and a fused operation is one that is written so.
#pragma once

typedef signed char s8;
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#include "generated.h"

#ifdef SIMT_HOST

#define DEVICE static inline

#else

#define DEVICE static __device__ __forceinline__

// A kernel and its parameters. Blocks always have THREADS threads in one dimension.
#define KERNEL(name, ...) extern "C" __global__ void __launch_bounds__(THREADS) name(__VA_ARGS__)

// An array that the threads of a block share, and the one whose size the launch gives. Both are used through `Shared<T>`.
#define SHARED(type, name, count) __shared__ type name[count]
#define DYNAMIC_SHARED(type, name)                                            \
    extern __shared__ __attribute__((aligned(16))) u8 dynamic_shared_memory[]; \
    type* name = (type*)dynamic_shared_memory

// A table that is part of the module.
#define TABLE(type, name, count) static __device__ const type name[count]

template <class T>
using Shared = T*;

// The value of the lane whose number differs from this one's by the bits of `mask`. All lanes of the warp take part.
DEVICE float shuffle_xor(float value, int mask) {
#ifdef __CUDACC__
    return __shfl_xor_sync(0xffffffffu, value, mask);
#else
    return __shfl_xor(value, mask, WARP);
#endif
}

// Four neighbours in shared memory at once, at a multiple of 16 bytes.
template <class T>
struct alignas(16) Four {
    T values[4];
};

template <class T>
DEVICE Four<T> load_four(const T* shared) {
    return *(const Four<T>*)shared;
}

// Two, at a multiple of eight bytes.
template <class T>
struct alignas(8) Both {
    T values[2];
};

template <class T>
DEVICE Both<T> load_both(const T* shared) {
    return *(const Both<T>*)shared;
}

// Shared memory of which `count` elements are read as bytes.
template <class T>
DEVICE const u8* bytes_of(const T* shared, int) {
    return (const u8*)shared;
}

template <class T>
DEVICE void store_four(T* shared, const Four<T>& four) {
    *(Four<T>*)shared = four;
}

#endif

// Has the compiler take a value for another than it was, without an instruction.
DEVICE void forget_value(u32& value) {
#ifdef __CUDACC__
    asm volatile("" : "+r"(value));
#elif !defined(SIMT_HOST)
    asm volatile("" : "+v"(value));
#endif
}

// Has the compiler move no load over it.
DEVICE void keep_loads() {
#ifndef SIMT_HOST
    asm volatile("" ::: "memory");
#endif
}

// NAME(linear) with FORMAT q4_k is linear_q4_k; NAME_ROWS(linear) with ROWS 4 too is linear_q4_k_4.
#define JOINED_(a, b) a##_##b
#define JOINED(a, b) JOINED_(a, b)
#define NAME(stage) JOINED(stage, FORMAT)
#define NAME_ROWS(stage) JOINED(NAME(stage), ROWS)

DEVICE int lane_index() {
    return threadIdx.x % WARP;
}

DEVICE int warp_index() {
    return threadIdx.x / WARP;
}

DEVICE int min_of(int a, int b) {
    return a < b ? a : b;
}

DEVICE int ceil_div(int a, int b) {
    return (a + b - 1) / b;
}
