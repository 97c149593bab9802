// The best of the best: fewer each time, until a block is enough.
#include "candidates.h"

// grid: [ceil(len / CANDIDATES_BLOCK), rows]
KERNEL(candidates_merge,
       u64* best,       // [rows, blocks, count]: as `candidates` writes them
       const u64* from, // [rows, len]
       int len, int count) {
    SHARED(u64, ranks, CANDIDATES_BLOCK);
    const int first = blockIdx.x * CANDIDATES_BLOCK, here = min_of(CANDIDATES_BLOCK, len - first);
    const u64* own = from + (u64)blockIdx.y * len + first;
    const int size = sorted_size(here, count);
    for (int i = threadIdx.x; i < size; i += THREADS) ranks[i] = i < here ? own[i] : 0;
    write_best(best + ((u64)blockIdx.y * gridDim.x + blockIdx.x) * count, ranks, size, count);
}
