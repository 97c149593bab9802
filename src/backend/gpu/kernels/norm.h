// RMS norm of a row by a block. A thread has the same elements of a row throughout.
#pragma once
#include "numbers.h"
#include "reduce.h"

// What each value of the row is multiplied by, besides its scale.
DEVICE float norm_factor(const float* row, int width, float epsilon) {
    float sum = 0.0f;
    for (int i = threadIdx.x; i < width; i += THREADS) sum = fmaf(row[i], row[i], sum);
    return 1.0f / sqrtf(block_sum(sum) / (float)width + epsilon);
}

// Element `i` of what a row's experts say, weighted by its gates, best expert first.
DEVICE float combined(const float* down, const float* gates, u64 row, int i, int width, int selected) {
    float sum = 0.0f;
    for (int slot = 0; slot < selected; ++slot) {
        const u64 pair = row * selected + slot;
        sum += gates[pair] * down[pair * width + i];
    }
    return sum;
}

// Nothing else points at what these write, so that loads need not wait for the stores before them.

// Normed, by a factor that is known, and scaled.
DEVICE void write_scaled(float* __restrict__ out, const float* x, const float* scale, float factor, int width, int round) {
#pragma unroll 8
    for (int i = threadIdx.x; i < width; i += THREADS) out[i] = rounded(scale[i] * (x[i] * factor), round);
}

// Normed and scaled.
DEVICE void write_normed(float* out, const float* x, const float* scale, int width, float epsilon, int round) {
    write_scaled(out, x, scale, norm_factor(x, width, epsilon), width, round);
}

// Post-norm of a branch, added to the residual stream.
DEVICE void add_normed(float* __restrict__ hidden, const float* branch, const float* scale, int width, float epsilon) {
    const float factor = norm_factor(branch, width, epsilon);
#pragma unroll 8
    for (int i = threadIdx.x; i < width; i += THREADS) hidden[i] += scale[i] * (branch[i] * factor);
}
