// RMS norm of rows of the residual stream.
#include "norm.h"

// grid: [rows]
KERNEL(rms_norm,
       float* out,         // [rows, width]
       const float* x,     // [any, width]
       const int* source,  // [rows], which rows of `x`; null: all
       const float* scale, // [width]
       int width, float epsilon, int round) {
    const float* row = x + (u64)(source ? source[blockIdx.x] : blockIdx.x) * width;
    const float factor = norm_factor(row, width, epsilon);
    for (int i = threadIdx.x; i < width; i += THREADS) {
        out[(u64)blockIdx.x * width + i] = rounded(scale[i] * (row[i] * factor), round);
    }
}
