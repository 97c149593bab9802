// A product of many rows with a matrix: `linear`, sharing every weight read among more rows.
#include "tiled.h"

// grid: [ceil(outputs / TILED_OUTPUTS), ceil(rows / TILED_ROWS)]
KERNEL(NAME(linear_tiled),
       float* out,     // [rows, outputs]
       const float* x, // [rows, inputs]
       Matrix weights, int rows, float scale, float cap) {
    SHARED(int, source, TILED_ROWS);
    const int first = blockIdx.x * TILED_OUTPUTS, first_row = blockIdx.y * TILED_ROWS;
    const Rows tile = consecutive_rows(source, x, first_row, rows, TILED_ROWS);
    TiledSums sum = {};
    tiled_product<FORMAT, false>(sum, weights, weights, first, tile);
#pragma unroll
    for (int m = 0; m < OWN_ROWS; ++m) {
#pragma unroll
        for (int n = 0; n < OWN_OUTPUTS; ++n) {
            const int row = first_row + m * 16 + threadIdx.x / 16, output = first + n * 16 + threadIdx.x % 16;
            if (row < rows && output < weights.outputs) {
                out[(u64)row * weights.outputs + output] = soft_cap(sum[m][n] * scale, cap);
            }
        }
    }
}
