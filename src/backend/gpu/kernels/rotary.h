// What becomes of projections: the rotary embedding of queries and keys, and keys and values into the cache.
#pragma once
#include "cache.h"

// Heads are numbered queries first, then keys, then values. Elements `j` and `head_dim / 2 + j` of a row's head are `a` and `b`: they are
// turned together.
DEVICE void finish_projection(float* query,        // [rows, heads, head_dim]
                              const Cache& cache,
                              const float* rotary, // [positions, head_dim / 2, 2]: cosine and sine
                              int heads, int round, int number, int row, int j, float a, float b) {
    const int half = cache.head_dim / 2;
    const bool is_query = number < heads, is_value = number >= heads + cache.kv_heads;
    const int head = is_query ? number : (number - heads) % cache.kv_heads;
    if (!is_value) {
        const float* angle = rotary + ((u64)cache.positions[row] * half + j) * 2;
        const float turned = a * angle[0] - b * angle[1];
        b = b * angle[0] + a * angle[1];
        a = turned;
    }
    if (is_query) {
        float* out = query + ((u64)row * heads + head) * cache.head_dim;
        out[j] = rounded(a, round);
        out[half + j] = rounded(b, round);
    } else {
        const Part part = is_value ? VALUES : KEYS;
        store_cached(cache, row, part, head, j, a);
        store_cached(cache, row, part, head, half + j, b);
    }
}
