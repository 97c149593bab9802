// Activations as bf16, for matrix instructions. In Standard precision they are such values already.
#include "numbers.h"

// grid: [ceil(count / THREADS)]
KERNEL(narrow,
       u16* out,       // [count]: bf16
       const float* x, // [count]
       int count) {
    const int i = blockIdx.x * THREADS + threadIdx.x;
    if (i < count) out[i] = f32_to_bf16(x[i]);
}
