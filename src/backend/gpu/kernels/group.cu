// Pairs of a batch by expert, without a look at them from the host: what `Groups` in experts.h describes.
#include "portable.h"

// grid: [1]; shared memory: int [experts, 2]
KERNEL(group,
       int* group_experts,   // [min(experts, pairs)]
       int* starts,          // [min(experts, pairs) + 1]
       int* pairs,           // [count]
       const int* selection, // [count]: the expert of each pair, by `route`
       int count, int experts) {
    DYNAMIC_SHARED(int, memory);
    const Shared<int> counts = memory, first = memory + experts; // [experts] each
    for (int e = threadIdx.x; e < experts; e += THREADS) {
        int own = 0;
        for (int pair = 0; pair < count; ++pair) own += selection[pair] == e;
        counts[e] = own;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        int groups = 0, before = 0;
        for (int e = 0; e < experts; ++e) {
            first[e] = before;
            if (counts[e] > 0) {
                group_experts[groups] = e;
                starts[groups] = before;
                before += counts[e];
                ++groups;
            }
        }
        starts[groups] = before;
        for (; groups < min_of(experts, count); ++groups) group_experts[groups] = -1;
    }
    __syncthreads();
    for (int e = threadIdx.x; e < experts; e += THREADS) {
        int place = first[e];
        for (int pair = 0; pair < count; ++pair) {
            if (selection[pair] == e) pairs[place++] = pair;
        }
    }
}
