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
    write_normed(out + (u64)blockIdx.x * width, row, scale, width, epsilon, round);
}
