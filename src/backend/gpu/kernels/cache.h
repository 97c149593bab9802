// Keys and values in pages of PAGE positions.
#pragma once
#include "formats.h"

enum Part { KEYS, VALUES };

// The pages of a batch, as one layer sees them; `Cache` in mod.rs is the same.
struct Cache {
    const u64* pages;     // addresses of the sequences' pages, each [layers, 2, kv_heads, PAGE, head_dim]
    const int* first;     // [rows], where those of the row's sequence begin
    const int* positions; // [rows]
    int layer, kv_heads, head_dim;
    int is_bf16;          // how elements are stored: bf16, or f32
};

// The key or value of a head at a position of the row's sequence. F is how elements are stored.
template <class F>
DEVICE u8* cached(const Cache& cache, int row, Part part, int kv_head, int position) {
    const u64 head = ((u64)cache.layer * 2 + part) * cache.kv_heads + kv_head;
    u8* page = (u8*)cache.pages[cache.first[row] + position / PAGE];
    return page + (head * PAGE + position % PAGE) * row_bytes<F>(cache.head_dim);
}

// Element `j` of the key or value of a head at the row's own position becomes `value`.
DEVICE void store_cached(const Cache& cache, int row, Part part, int kv_head, int j, float value) {
    const int position = cache.positions[row];
    if (cache.is_bf16) {
        ((u16*)cached<bf16>(cache, row, part, kv_head, position))[j] = f32_to_bf16(value);
    } else {
        ((float*)cached<f32>(cache, row, part, kv_head, position))[j] = value;
    }
}
