// Embedding rows times their scale become the residual stream.
#include "packed_product.h"

// grid: [rows]
KERNEL(NAME(embed),
       float* hidden,     // [rows, width]
       const int* tokens, // [rows]
       Matrix table,      // inputs = width, outputs = vocab, stored [vocab, width] or packed
       float scale) {
    const int width = table.inputs, token = tokens[blockIdx.x];
    for (int i = threadIdx.x * UNIT; i < width; i += THREADS * UNIT) {
        float value[UNIT];
        RowUnit<FORMAT>::load(value, table, token, i);
        for (int k = 0; k < UNIT && i + k < width; ++k) hidden[(u64)blockIdx.x * width + i + k] = value[k] * scale;
    }
}
