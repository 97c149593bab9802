// The sum of what a row's experts say.
#include "norm.h"

// grid: [ceil(width / THREADS), rows]
KERNEL(combine,
       float* branch,      // [rows, width]
       const float* down,  // [rows, selected, width]
       const float* gates, // [rows, selected]
       int width, int selected) {
    const int i = blockIdx.x * THREADS + threadIdx.x;
    if (i < width) branch[(u64)blockIdx.y * width + i] = combined(down, gates, blockIdx.y, i, width, selected);
}
