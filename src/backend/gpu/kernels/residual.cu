// Post-norm of a branch, added to the residual stream.
#include "norm.h"

// grid: [rows]
KERNEL(residual,
       float* hidden,       // [rows, width], added to
       const float* branch, // [rows, width]
       const float* scale,  // [width]
       int width, float epsilon) {
    const u64 row = (u64)blockIdx.x * width;
    add_normed(hidden + row, branch + row, scale, width, epsilon);
}
