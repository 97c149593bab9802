// Embedding rows times their scale become the residual stream.
#include "product.h"

// grid: [rows]
KERNEL(NAME(embed),
       float* hidden,     // [rows, width]
       const int* tokens, // [rows]
       Matrix table,      // inputs = width, outputs = vocab, stored [vocab, width]
       float scale) {
    const int width = table.inputs, token = tokens[blockIdx.x];
    const u8* row = table.data + (u64)token * row_bytes<FORMAT>(width);
    for (int i = threadIdx.x * UNIT; i < width; i += THREADS * UNIT) {
        float value[UNIT];
        unpack<FORMAT>(value, row, i, width);
        if (table.scales) scale_unit(value, table, token, i);
        for (int k = 0; k < UNIT && i + k < width; ++k) hidden[(u64)blockIdx.x * width + i + k] = value[k] * scale;
    }
}
