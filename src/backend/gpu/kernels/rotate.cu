// Rotary embedding, and keys and values into the cache: what `qkv` does with its products, for products that were made apart.
#include "rope.h"

// grid: [heads + 2 * kv_heads, rows]
KERNEL(rotate,
       float* query,        // [rows, heads, head_dim], turned where they are
       Cache cache,         // keys and values at the rows' positions
       const float* keys,   // [rows, kv_heads, head_dim]
       const float* values, // [rows, kv_heads, head_dim]
       const float* rotary, // [positions, head_dim / 2, 2]: cosine and sine
       int heads, int round) {
    const int number = blockIdx.x, row = blockIdx.y, half = cache.head_dim / 2, kv = number - heads;
    const float* from = query + ((u64)row * heads + number) * cache.head_dim;
    if (kv >= 0) {
        const float* all = kv < cache.kv_heads ? keys : values;
        from = all + ((u64)row * cache.kv_heads + kv % cache.kv_heads) * cache.head_dim;
    }
    for (int j = threadIdx.x; j < half; j += THREADS) {
        store_projected(query, cache, rotary, row, number, heads, j, from[j], from[half + j], round);
    }
}
