// Queries, keys and values that were projected as products of their own, where `qkv` does not do all: rotary embedding, and keys and
// values into the cache.
#include "rotary.h"

// grid: [ceil((heads + 2 * kv_heads) * head_dim / 2 / THREADS), rows]
KERNEL(rotary,
       float* query,         // [rows, heads, head_dim]; may be `queries`
       Cache cache,          // keys and values at the rows' positions
       const float* queries, // [rows, heads, head_dim]
       const float* keys,    // [rows, kv_heads, head_dim]
       const float* values,  // [rows, kv_heads, head_dim]
       const float* rotary,  // [positions, head_dim / 2, 2]: cosine and sine
       int heads, int round) {
    const int half = cache.head_dim / 2, i = blockIdx.x * THREADS + threadIdx.x, number = i / half, j = i % half;
    const u64 row = blockIdx.y;
    if (number >= heads + 2 * cache.kv_heads) return;
    const float* from = queries + (row * heads + number) * cache.head_dim;
    if (number >= heads) from = keys + (row * cache.kv_heads + number - heads) * cache.head_dim;
    if (number >= heads + cache.kv_heads) from = values + (row * cache.kv_heads + number - heads - cache.kv_heads) * cache.head_dim;
    finish_projection(query, cache, rotary, heads, round, number, row, j, from[j], from[half + j]);
}
