// Rows in the order of their experts go to the places of their pairs.
#include "portable.h"

// grid: [rows]
KERNEL(scatter,
       float* out,       // [pairs, width]
       const float* x,   // [rows, width]
       const int* pairs, // [rows]
       int width) {
    for (int i = threadIdx.x; i < width; i += THREADS) {
        out[(u64)pairs[blockIdx.x] * width + i] = x[(u64)blockIdx.x * width + i];
    }
}
