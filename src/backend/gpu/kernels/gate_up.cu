// The experts' hidden values: gate and up projection, GELU, product of both.
#include "experts.h"

// grid: [ceil(ffn_width / OUTPUTS), min(experts, pairs)]
KERNEL(NAME_ROWS(gate_up),
       float* activated, // [pairs, ffn_width]
       const float* x,   // [rows, width]
       Matrix gate, Matrix up, // of all experts
       Groups groups, int selected, int round) {
    typedef Strip<FORMAT, ROWS> Product;
    SHARED(float, gates, Product::OUTPUTS * ROWS);
    SHARED(float, ups, Product::OUTPUTS * ROWS);
    SHARED(int, source, ROWS);
    const int group = blockIdx.y, expert = groups.experts[group], first = blockIdx.x * Product::OUTPUTS;
    if (expert < 0) return;
    const Matrix own_gate = matrix_of<FORMAT>(gate, expert), own_up = matrix_of<FORMAT>(up, expert);
    const int end = groups.starts[group + 1];
    for (int start = groups.starts[group]; start < end; start += ROWS) {
        const int* pairs = groups.pairs + start;
        const Rows tile = rows_of_pairs(source, x, pairs, min_of(end - start, ROWS), selected);
        two_products<Product>(gates, own_gate, first, ups, own_up, first, tile);
        __syncthreads();
        for (int i = threadIdx.x; i < tile.count * Product::OUTPUTS; i += THREADS) {
            const int r = i / Product::OUTPUTS, o = i % Product::OUTPUTS;
            if (first + o < gate.outputs) {
                const float value = gelu(gates[o * ROWS + r]) * ups[o * ROWS + r];
                activated[(u64)pairs[r] * gate.outputs + first + o] = rounded(value, round);
            }
        }
    }
}
