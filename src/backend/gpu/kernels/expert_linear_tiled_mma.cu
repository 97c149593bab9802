// A product of many pairs with the matrices of their experts by matrix instructions: `expert_linear_tiled` for bf16 activations, for NVIDIA
// from sm_80 on.
#include "mma_product.h"

// grid: [pairs / MMA_ROWS + groups, ceil(outputs / MMA_OUTPUTS)], for groups of min(experts, pairs); shared memory: see `mma_product`
KERNEL(NAME(expert_linear_tiled_mma),
       float* out,        // [pairs, outputs]
       const u16* x,      // [pairs / share, inputs]: bf16
       const float* sums, // [pairs / share, inputs / 32], by `row_sums` where the format has minima
       Matrix weights,    // of all experts
       Groups groups, int count, int share) { // how many groups there may be
    SHARED(int, source, MMA_ROWS);
    const PairTile tile = pair_tile(groups, count, blockIdx.x, MMA_ROWS);
    if (tile.expert < 0) return;
    const int first = blockIdx.y * MMA_OUTPUTS;
    const int* pairs = groups.pairs + tile.first;
    if (threadIdx.x < tile.count) source[threadIdx.x] = pairs[threadIdx.x] / share;
    __syncthreads();
    const Matrix own = matrix_of<FORMAT>(weights, tile.expert);
    MmaSums sum = {};
    mma_product<MmaWeights<FORMAT>, false>(sum, own, own, first, {x, sums, source, tile.count});
    for_each_sum([&](int slot, int n, int i, int output, int row) {
        output += first + slot * TILE_OUTPUTS;
        if (row < tile.count && output < own.outputs) out[(u64)pairs[row] * own.outputs + output] = sum[slot % 2][n][i];
    });
}
