// The sum of what a row's experts say, weighted by its gates, best expert first.
#include "portable.h"

// grid: [ceil(width / THREADS), rows]
KERNEL(combine,
       float* branch,      // [rows, width]
       const float* down,  // [rows, selected, width]
       const float* gates, // [rows, selected]
       int width, int selected) {
    const int i = blockIdx.x * THREADS + threadIdx.x;
    if (i >= width) return;
    float sum = 0.0f;
    for (int slot = 0; slot < selected; ++slot) {
        const u64 pair = (u64)blockIdx.y * selected + slot;
        sum += gates[pair] * down[pair * width + i];
    }
    branch[(u64)blockIdx.y * width + i] = sum;
}
