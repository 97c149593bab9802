// `combine`, `residual` of the experts' branch and the norm before the next layer's attention, in one launch.
#include "norm.h"

// grid: [rows]
KERNEL(combine_residual,
       float* hidden,      // [rows, width], added to
       float* branch,      // [rows, width]
       float* normed,      // [rows, width]
       const float* down,  // [rows, selected, width]
       const float* gates, // [rows, selected]
       const float* scale, // [width], of the branch's norm
       const float* next,  // [width], of the next norm; null: there is none
       int width, int selected, float epsilon, int round) {
    const u64 row = blockIdx.x;
    for (int i = threadIdx.x; i < width; i += THREADS) {
        branch[row * width + i] = combined(down, gates, row, i, width, selected);
    }
    add_normed(hidden + row * width, branch + row * width, scale, width, epsilon);
    if (next) write_normed(normed + row * width, hidden + row * width, next, width, epsilon, round);
}
