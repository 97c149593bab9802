// Queries, keys and values: products, rotary embedding, and keys and values into the cache.
#include "packed_product.h"
#include "rotary.h"

// Heads are numbered as in rotary.h; a launch takes `gridDim.y` from `first_head` on, those whose matrices are stored in this format.
//
// grid: [ceil(head_dim / 2 / OUTPUTS), heads of this launch, ceil(rows / ROWS)]
KERNEL(NAME_ROWS(qkv),
       float* query,        // [rows, heads, head_dim]
       Cache cache,         // keys and values at the rows' positions
       const float* x,      // [rows, width]
       Matrix queries, Matrix keys, Matrix values,
       const float* rotary, // [positions, head_dim / 2, 2]: cosine and sine
       int heads, int first_head, int rows, int round) {
    typedef Strip<FORMAT, ROWS> Product;
    SHARED(float, lower, Product::OUTPUTS * ROWS);
    SHARED(float, upper, Product::OUTPUTS * ROWS);
    SHARED(int, source, ROWS);
    const int half = cache.head_dim / 2, first = blockIdx.x * Product::OUTPUTS, first_row = blockIdx.z * ROWS;
    const int number = first_head + blockIdx.y;
    const bool is_query = number < heads, is_value = number >= heads + cache.kv_heads;
    const int head = is_query ? number : (number - heads) % cache.kv_heads;
    Matrix weights = keys;
    if (is_query) weights = queries;
    if (is_value) weights = values;
    const Rows tile = consecutive_rows(source, x, first_row, rows, ROWS);
    // Elements `j` and `half + j` are turned together.
    const int output = head * cache.head_dim + first;
    two_products<Product>(lower, weights, output, upper, weights, output + half, tile);
    __syncthreads();
    for (int i = threadIdx.x; i < tile.count * Product::OUTPUTS; i += THREADS) {
        const int o = i % Product::OUTPUTS, j = first + o, row = first_row + i / Product::OUTPUTS;
        if (j >= half) continue;
        const float a = lower[o * ROWS + i / Product::OUTPUTS], b = upper[o * ROWS + i / Product::OUTPUTS];
        finish_projection(query, cache, rotary, heads, round, number, row, j, a, b);
    }
}
