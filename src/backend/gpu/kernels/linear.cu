// A product with a matrix: attention's output, and logits with their scale and cap.
#include "packed_product.h"

// grid: [ceil(outputs / OUTPUTS), ceil(rows / ROWS)]
KERNEL(NAME_ROWS(linear),
       float* out,     // [rows, outputs]
       const float* x, // [rows, inputs]
       Matrix weights, int rows, float scale, float cap) {
    typedef Strip<FORMAT, ROWS> Product;
    SHARED(float, sums, Product::OUTPUTS * ROWS);
    SHARED(int, source, ROWS);
    const int first = blockIdx.x * Product::OUTPUTS, first_row = blockIdx.y * ROWS;
    const Rows tile = consecutive_rows(source, x, first_row, rows, ROWS);
    Product::product(sums, weights, first, tile);
    __syncthreads();
    for (int i = threadIdx.x; i < tile.count * Product::OUTPUTS; i += THREADS) {
        const int r = i / Product::OUTPUTS, o = i % Product::OUTPUTS;
        if (first + o < weights.outputs) {
            out[(u64)(first_row + r) * weights.outputs + first + o] = soft_cap(sums[o * ROWS + r] * scale, cap);
        }
    }
}
