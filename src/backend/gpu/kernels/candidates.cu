// The best tokens of each block of logits. Of a token -infinity is left like any other logit.
#include "candidates.h"

// grid: [ceil(vocab / CANDIDATES_BLOCK), rows]
KERNEL(candidates,
       u64* best,           // [rows, blocks, count]: ranks, best first; 0 where a block has fewer
       const float* logits, // [rows, vocab]
       int vocab, int count) {
    SHARED(u64, ranks, CANDIDATES_BLOCK);
    const int first = blockIdx.x * CANDIDATES_BLOCK, here = min_of(CANDIDATES_BLOCK, vocab - first);
    const float* own = logits + (u64)blockIdx.y * vocab + first;
    const int size = sorted_size(here, count);
    for (int i = threadIdx.x; i < size; i += THREADS) ranks[i] = i < here ? rank_of(own[i], first + i) : 0;
    write_best(best + ((u64)blockIdx.y * gridDim.x + blockIdx.x) * count, ranks, size, count);
}
