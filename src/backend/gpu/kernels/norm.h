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

// Scaled and normed.
DEVICE void write_normed(float* out, const float* x, const float* scale, int width, float epsilon, int round) {
    const float factor = norm_factor(x, width, epsilon);
    for (int i = threadIdx.x; i < width; i += THREADS) out[i] = rounded(scale[i] * (x[i] * factor), round);
}

// Post-norm of a branch, added to the residual stream.
DEVICE void add_normed(float* hidden, const float* branch, const float* scale, int width, float epsilon) {
    const float factor = norm_factor(branch, width, epsilon);
    for (int i = threadIdx.x; i < width; i += THREADS) hidden[i] += scale[i] * (branch[i] * factor);
}
