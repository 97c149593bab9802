// Sums and maxima over the lanes of a warp and the threads of a block, always in the same order.
#pragma once
#include "portable.h"

// Over WIDTH neighbouring lanes; each gets the result.
template <int WIDTH>
DEVICE float lanes_sum(float value) {
#pragma unroll
    for (int mask = WIDTH / 2; mask > 0; mask /= 2) value += shuffle_xor(value, mask);
    return value;
}

DEVICE float warp_sum(float value) {
    return lanes_sum<WARP>(value);
}

template <int WIDTH>
DEVICE float lanes_max(float value) {
#pragma unroll
    for (int mask = WIDTH / 2; mask > 0; mask /= 2) {
        const float other = shuffle_xor(value, mask);
        value = other > value ? other : value;
    }
    return value;
}

DEVICE float warp_max(float value) {
    return lanes_max<WARP>(value);
}

// Over the block; every thread gets the result.
DEVICE float block_sum(float value) {
    SHARED(float, warps, THREADS / WARP);
    // Somebody may still read what an earlier sum left there.
    __syncthreads();
    value = warp_sum(value);
    if (lane_index() == 0) warps[warp_index()] = value;
    __syncthreads();
    float sum = 0.0f;
    for (int warp = 0; warp < THREADS / WARP; ++warp) sum += warps[warp];
    return sum;
}
