// A product of many rows with a matrix by matrix instructions: `linear_tiled` for bf16 activations, for NVIDIA from sm_80 on.
#include "mma_product.h"

// grid: [ceil(rows / MMA_ROWS), ceil(outputs / MMA_OUTPUTS)]; shared memory: see `mma_product`
KERNEL(NAME(linear_tiled_mma),
       float* out,        // [rows, outputs]
       const u16* x,      // [rows, inputs]: bf16
       const float* sums, // [rows, inputs / 32], by `row_sums` where the format has minima
       Matrix weights, int rows, float scale, float cap) {
    SHARED(int, source, MMA_ROWS);
    const int first_row = blockIdx.x * MMA_ROWS, first = blockIdx.y * MMA_OUTPUTS;
    if (threadIdx.x < MMA_ROWS) source[threadIdx.x] = first_row + threadIdx.x;
    __syncthreads();
    const MmaRows tile = {x, sums, source, min_of(rows - first_row, MMA_ROWS)};
    MmaSums sum = {};
    mma_product<MmaWeights<FORMAT>, false>(sum, weights, weights, first, tile);
    for_each_sum([&](int slot, int n, int i, int output, int row) {
        output += first + slot * TILE_OUTPUTS;
        if (row < tile.count && output < weights.outputs) {
            out[(u64)(first_row + row) * weights.outputs + output] = soft_cap(sum[slot % 2][n][i] * scale, cap);
        }
    });
}
