// A product with the matrices of the experts that rows were sent to: the down projection; gate and up where their formats differ.
#include "experts.h"

// grid: [ceil(outputs / OUTPUTS), min(experts, pairs)]
KERNEL(NAME_ROWS(expert_linear),
       float* out,     // [pairs, outputs]
       const float* x, // [pairs / share, inputs]
       Matrix weights, // of all experts
       Groups groups, int share) {
    typedef Strip<FORMAT, ROWS> Product;
    SHARED(float, sums, Product::OUTPUTS * ROWS);
    SHARED(int, source, ROWS);
    const int group = blockIdx.y, expert = groups.experts[group], first = blockIdx.x * Product::OUTPUTS;
    if (expert < 0) return;
    const Matrix own = matrix_of<FORMAT>(weights, expert);
    const int end = groups.starts[group + 1];
    for (int start = groups.starts[group]; start < end; start += ROWS) {
        const int* pairs = groups.pairs + start;
        const Rows tile = rows_of_pairs(source, x, pairs, min_of(end - start, ROWS), share);
        Product::product(sums, own, first, tile);
        __syncthreads();
        for (int i = threadIdx.x; i < tile.count * Product::OUTPUTS; i += THREADS) {
            const int r = i / Product::OUTPUTS, o = i % Product::OUTPUTS;
            if (first + o < own.outputs) out[(u64)pairs[r] * own.outputs + first + o] = sums[o * ROWS + r];
        }
    }
}
