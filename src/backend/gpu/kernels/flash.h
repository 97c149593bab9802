// Attention of many rows of a sequence at once: tiles of queries go over the positions in steps that begin at fixed positions, with a
// running largest score. A row's bits depend on nothing but its own sequence; they are those of neither `attention` nor another kernel.
//
// A tile is some rows that follow each other in the batch and belong to one sequence. Its queries are theirs for all heads that share a
// key/value head: query `m` is of row `first + m / group` and head `m % group` of these.
#pragma once
#include "cache.h"
#include "reduce.h"

// A tile for one key/value head.
struct FlashTile {
    int row, rows; // the first, and how many
    int queries;
    int group;     // heads that share the key/value head
    int last;      // the last position that a row sees
};

// `tile` is the first row and the number of rows.
DEVICE FlashTile flash_tile(const int* tile, const Cache& cache, int heads) {
    const int row = tile[0], rows = tile[1], group = heads / cache.kv_heads;
    int last = 0;
    for (int r = 0; r < rows; ++r) {
        const int position = cache.positions[row + r];
        last = position > last ? position : last;
    }
    return {row, rows, rows * group, group, last};
}

// The last position that a query sees; none for one that there is not.
DEVICE int position_of(const FlashTile& tile, const Cache& cache, int query) {
    return query < tile.queries ? cache.positions[tile.row + query / tile.group] : -1;
}

// Where a query's elements begin in buffers of the shape [rows, heads, head_dim].
DEVICE u64 offset_of(const FlashTile& tile, const Cache& cache, int heads, int kv_head, int query) {
    const u64 row = tile.row + query / tile.group;
    return (row * heads + kv_head * tile.group + query % tile.group) * cache.head_dim;
}
