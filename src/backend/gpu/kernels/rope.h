// Where projected queries, keys and values go.
#pragma once
#include "cache.h"

// Elements `j` and `half + j` of a head are turned together, unless it is a value's. Heads are numbered queries first, then keys, then
// values.
DEVICE void store_projected(float* query, const Cache& cache, const float* rotary, int row, int number, int heads, int j, float a,
                            float b, int round) {
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
