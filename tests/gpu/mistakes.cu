// Kernels with a mistake each, that simt.h has to find.
#include "reduce.h"

KERNEL(missing_barrier, float* out) {
    SHARED(float, values, THREADS);
    values[threadIdx.x] = (float)threadIdx.x;
    out[threadIdx.x] = values[THREADS - 1 - threadIdx.x];
}

// The next round writes what other threads may still read.
KERNEL(missing_second_barrier, float* out) {
    SHARED(float, values, THREADS);
    for (int round = 0; round < 2; ++round) {
        values[threadIdx.x] = (float)round;
        __syncthreads();
        out[threadIdx.x] = values[THREADS - 1 - threadIdx.x];
    }
}

KERNEL(all_write_one, float* out) {
    SHARED(float, values, 1);
    values[0] = 1.0f;
    __syncthreads();
    out[threadIdx.x] = values[0];
}

KERNEL(divergent_barrier, float* out) {
    if (threadIdx.x < 100) __syncthreads();
    out[threadIdx.x] = 1.0f;
}

KERNEL(two_barriers_for_one, float* out) {
    if (threadIdx.x < 100) {
        __syncthreads();
    } else {
        __syncthreads();
    }
    out[threadIdx.x] = 1.0f;
}

KERNEL(early_exit, float* out) {
    if (threadIdx.x >= WARP) return;
    __syncthreads();
    out[threadIdx.x] = 1.0f;
}

KERNEL(divergent_shuffle, float* out) {
    float value = 1.0f;
    if (lane_index() < 16) value = shuffle_xor(value, 1);
    out[threadIdx.x] = value;
}

KERNEL(shuffle_after_exit, float* out) {
    if (lane_index() == 3) return;
    out[threadIdx.x] = shuffle_xor(1.0f, 1);
}

KERNEL(uninitialised, float* out) {
    SHARED(float, values, THREADS);
    if (threadIdx.x < THREADS / 2) values[threadIdx.x] = 1.0f;
    __syncthreads();
    out[threadIdx.x] = values[threadIdx.x];
}

KERNEL(beyond_the_end, float* out) {
    DYNAMIC_SHARED(float, values);
    values[threadIdx.x + 1] = 1.0f;
    out[threadIdx.x] = 1.0f;
}

KERNEL(before_the_start, float* out) {
    SHARED(float, values, THREADS);
    values[(int)threadIdx.x - 1] = 1.0f;
    out[threadIdx.x] = 1.0f;
}

// Right for 32 lanes only.
KERNEL(assumes_32_lanes, float* out) {
    float sum = (float)threadIdx.x;
    for (int mask = 16; mask > 0; mask /= 2) sum += shuffle_xor(sum, mask);
    out[threadIdx.x] = sum;
}

// No mistake.
KERNEL(sound, float* out) {
    out[threadIdx.x] = block_sum((float)threadIdx.x);
}
