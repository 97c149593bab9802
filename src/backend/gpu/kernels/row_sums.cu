// Sums of 32 neighbouring activations each, which minima of weights are multiplied by.
#include "bytes.h"
#include "numbers.h"

// grid: [ceil(count / THREADS)]
KERNEL(row_sums,
       float* sums,  // [count]
       const u16* x, // [count, 32]: bf16
       int count) {
    const int i = blockIdx.x * THREADS + threadIdx.x;
    if (i >= count) return;
    float sum = 0.0f;
    for (int n = 0; n < 4; ++n) {
        const Sixteen some = ((const Sixteen*)x)[(u64)i * 4 + n];
#pragma unroll
        for (int k = 0; k < 8; ++k) sum += bf16_to_f32(some.words[k / 2] >> k % 2 * 16);
    }
    sums[i] = sum;
}
