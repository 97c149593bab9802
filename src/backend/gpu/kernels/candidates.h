// Tokens in the order of their logits: ranks of 64 bits, as `Candidate::rank` in candidates.rs makes them.
#pragma once
#include "numbers.h"

// Higher is better: by logit, equal ones by id; NaN is above everything. Never 0.
DEVICE u64 rank_of(float logit, int token) {
    const u32 sign = 1u << 31;
    // -0 is equal to 0.
    const u32 bits = bits_of(logit) == sign ? 0 : bits_of(logit);
    const u32 ordered = logit != logit ? ~0u : bits & sign ? ~bits : bits | sign;
    return (u64)ordered << 32 | (u32)~token;
}

DEVICE float logit_of(u64 rank) {
    const u32 ordered = rank >> 32;
    return float_of(ordered >> 31 ? ordered << 1 >> 1 : ~ordered);
}

// Ranks that have to be sorted where there are so many, and so many of them are wanted.
DEVICE int sorted_size(int ranks, int count) {
    int size = 1;
    while (size < ranks || size < count) size *= 2;
    return size;
}

// Sorts them, a power of two, best first, and writes the best. The whole block takes part, and need not wait before.
DEVICE void write_best(u64* best, const Shared<u64>& ranks, int size, int count) {
    for (int run = 2; run <= size; run *= 2) {
        for (int step = run / 2; step > 0; step /= 2) {
            __syncthreads();
            for (int i = threadIdx.x; i < size / 2; i += THREADS) {
                const int low = 2 * (i & -step) + (i & (step - 1)), high = low + step;
                const u64 a = ranks[low], b = ranks[high];
                // Every second run is sorted the other way round, so that it and the one before it can be merged.
                const bool swap = low & run ? a > b : a < b;
                if (swap) {
                    ranks[low] = b;
                    ranks[high] = a;
                }
            }
        }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < count; i += THREADS) best[i] = ranks[i];
}
