// The experts' hidden values of many pairs: `gate_up`, sharing every weight read among more rows.
#include "tiled.h"

// grid: [ceil(ffn_width / (TILED_OUTPUTS / 2)), pairs / TILED_ROWS + groups], for groups of min(experts, pairs)
KERNEL(NAME(gate_up_tiled),
       float* activated, // [pairs, ffn_width]
       const float* x,   // [rows, width]
       Matrix gate, Matrix up, // of all experts
       Groups groups, int count, int selected, int round) { // how many groups there may be
    SHARED(int, source, TILED_ROWS);
    const PairTile tile = pair_tile(groups, count, blockIdx.y, TILED_ROWS);
    if (tile.expert < 0) return;
    const int first = blockIdx.x * (TILED_OUTPUTS / 2);
    const int* pairs = groups.pairs + tile.first;
    const Matrix own_gate = matrix_of<FORMAT>(gate, tile.expert), own_up = matrix_of<FORMAT>(up, tile.expert);
    TiledSums sum = {};
    tiled_product<FORMAT, true>(sum, own_gate, own_up, first, rows_of_pairs(source, x, pairs, tile.count, selected));
#pragma unroll
    for (int m = 0; m < OWN_ROWS; ++m) {
        const int pair = m * 16 + threadIdx.x / 16;
        if (pair >= tile.count) continue;
        float* row = activated + (u64)pairs[pair] * gate.outputs;
#pragma unroll
        for (int n = 0; n < OWN_OUTPUTS / 2; ++n) {
            const int output = first + n * 16 + threadIdx.x % 16;
            const float value = gelu(sum[m][n]) * sum[m][n + OWN_OUTPUTS / 2];
            if (output < gate.outputs) row[output] = rounded(value, round);
        }
    }
}
