// A product of many pairs with the matrices of their experts: `expert_linear`, sharing every weight read among more rows.
#include "tiled.h"

// grid: [ceil(outputs / TILED_OUTPUTS), pairs / TILED_ROWS + groups], for groups of min(experts, pairs)
KERNEL(NAME(expert_linear_tiled),
       float* out,     // [pairs, outputs]
       const float* x, // [pairs / share, inputs]
       Matrix weights, // of all experts
       Groups groups, int count, int share) { // how many groups there may be
    SHARED(int, source, TILED_ROWS);
    const PairTile tile = pair_tile(groups, count, blockIdx.y, TILED_ROWS);
    if (tile.expert < 0) return;
    const int first = blockIdx.x * TILED_OUTPUTS;
    const int* pairs = groups.pairs + tile.first;
    const Matrix own = matrix_of<FORMAT>(weights, tile.expert);
    TiledSums sum = {};
    tiled_product<FORMAT, false>(sum, own, own, first, rows_of_pairs(source, x, pairs, tile.count, share));
#pragma unroll
    for (int m = 0; m < OWN_ROWS; ++m) {
        const int pair = m * 16 + threadIdx.x / 16;
        if (pair >= tile.count) continue;
        float* row = out + (u64)pairs[pair] * own.outputs;
#pragma unroll
        for (int n = 0; n < OWN_OUTPUTS; ++n) {
            const int output = first + n * 16 + threadIdx.x % 16;
            if (output < own.outputs) row[output] = sum[m][n];
        }
    }
}
