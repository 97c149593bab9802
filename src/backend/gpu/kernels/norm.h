// RMS norm of a row by a block.
#pragma once
#include "numbers.h"
#include "reduce.h"

// What each value of the row is multiplied by, besides its scale.
DEVICE float norm_factor(const float* row, int width, float epsilon) {
    float sum = 0.0f;
    for (int i = threadIdx.x; i < width; i += THREADS) sum = fmaf(row[i], row[i], sum);
    return 1.0f / sqrtf(block_sum(sum) / (float)width + epsilon);
}
