// Rows of activations in the order of their experts, as bf16, for a library that multiplies nothing else.
#include "slab.h"

// grid: [rows]
KERNEL(gather,
       u16* out,         // bf16 [rows, width], aligned to 16 bytes
       const float* x,   // [pairs / share, width]
       const int* pairs, // [rows]
       int share, int width) {
    const int source = pairs[blockIdx.x] / share;
    for (int i = threadIdx.x * UNIT; i < width; i += THREADS * UNIT) {
        float value[UNIT];
        unpack<f32>(value, (const u8*)(x + (u64)source * width), i, width);
        store_unit(out + (u64)blockIdx.x * width + i, value, width - i, width % UNIT == 0);
    }
}
