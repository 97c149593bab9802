// Rows of a batch by the expert they were sent to. A pair is a row and one of its selected experts: `row * selected + slot`.
#pragma once
#include "packed_product.h"

// What `group` writes; groups beyond the last are of no expert.
struct Groups {
    const int* experts; // [groups], or -1
    const int* starts;  // [groups + 1], among `pairs`
    const int* pairs;   // [rows * selected], ascending within a group
};

// The matrix of one of the experts, which lie one after another.
template <class F>
DEVICE Matrix matrix_of(Matrix all, int expert) {
    all.data += expert * Strip<F, 1>::bytes(all);
    if (all.scales) {
        all.scales += (u64)expert * ceil_div(all.outputs, all.scale_outputs) * ceil_div(all.inputs, all.scale_inputs);
    }
    return all;
}

// The rows of `count` pairs; `share` pairs share one. Waits for the block, and so for what it did with rows before.
DEVICE Rows rows_of_pairs(Shared<int> source, const float* x, const int* pairs, int count, int share) {
    if (threadIdx.x < count) source[threadIdx.x] = pairs[threadIdx.x] / share;
    __syncthreads();
    return {x, source, count};
}

// Some pairs of a group, up to `most`: the tile of this number among those of all groups, of which there are up to `count`.
struct PairTile {
    int expert;       // -1 if there are not so many tiles
    int first, count; // among the groups' pairs
};

DEVICE PairTile pair_tile(const Groups& groups, int count, int number, int most) {
    for (int group = 0; group < count && groups.experts[group] >= 0; ++group) {
        const int start = groups.starts[group], end = groups.starts[group + 1], first = start + number * most;
        if (first < end) return {groups.experts[group], first, min_of(end - first, most)};
        number -= ceil_div(end - start, most);
    }
    return {-1, 0, 0};
}
