// Post-norm of a branch, added to the residual stream.
#include "norm.h"

// grid: [rows]
KERNEL(residual,
       float* hidden,       // [rows, width], added to
       const float* branch, // [rows, width]
       const float* scale,  // [width]
       int width, float epsilon) {
    const float* row = branch + (u64)blockIdx.x * width;
    const float factor = norm_factor(row, width, epsilon);
    for (int i = threadIdx.x; i < width; i += THREADS) {
        hidden[(u64)blockIdx.x * width + i] += scale[i] * (row[i] * factor);
    }
}
