// The experts' hidden values of many pairs by matrix instructions: `gate_up_tiled` for bf16 activations, for NVIDIA from sm_80 on.
#include "mma_product.h"

// grid: [pairs / MMA_ROWS + groups, ceil(ffn_width / (MMA_OUTPUTS / 2))], for groups of min(experts, pairs); shared memory: see
// `mma_product`
KERNEL(NAME(gate_up_tiled_mma),
       u16* activated,    // [pairs, ffn_width]: bf16
       const u16* x,      // [rows, width]: bf16
       const float* sums, // [rows, width / 32], by `row_sums` where the format has minima
       Matrix gate, Matrix up, // of all experts
       Groups groups, int count, int selected) { // how many groups there may be
    SHARED(int, source, MMA_ROWS);
    const PairTile tile = pair_tile(groups, count, blockIdx.x, MMA_ROWS);
    if (tile.expert < 0) return;
    const int first = blockIdx.y * (MMA_OUTPUTS / 2);
    const int* pairs = groups.pairs + tile.first;
    if (threadIdx.x < tile.count) source[threadIdx.x] = pairs[threadIdx.x] / selected;
    __syncthreads();
    const Matrix own_gate = matrix_of<FORMAT>(gate, tile.expert), own_up = matrix_of<FORMAT>(up, tile.expert);
    MmaSums sum = {};
    mma_product<MmaWeights<FORMAT>, true>(sum, own_gate, own_up, first, {x, sums, source, tile.count});
    // A warp has a slot of the gate and the same of up.
    for_each_sum([&](int slot, int n, int i, int output, int row) {
        output += first + slot / 2 * TILE_OUTPUTS;
        if (slot % 2 == 0 && row < tile.count && output < gate.outputs) {
            activated[(u64)pairs[row] * gate.outputs + output] = f32_to_bf16(gelu(sum[0][n][i]) * sum[1][n][i]);
        }
    });
}
