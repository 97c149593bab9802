// Pairs of a batch by expert, without a look at them from the host: what `Groups` in experts.h describes.
#include "portable.h"

// grid: [1]
KERNEL(group,
       int* group_experts,   // [min(experts, pairs)]
       int* starts,          // [min(experts, pairs) + 1]
       int* pairs,           // [count]
       const int* selection, // [count]: the expert of each pair, by `route`
       int count, int experts) {
    SHARED(int, places, MAX_EXPERTS); // [experts, workers]
    SHARED(int, sums, THREADS);
    // A worker takes neighbouring pairs and has a counter for each expert: an expert's pairs stay in their order.
    const int workers = min_of(min_of(MAX_EXPERTS / experts, THREADS), count), counters = experts * workers;
    const int share = ceil_div(count, workers);
    const int begin = min_of(threadIdx.x * share, count), end = min_of(begin + share, count);
    for (int i = threadIdx.x; i < counters; i += THREADS) places[i] = 0;
    __syncthreads();
    for (int pair = begin; pair < end; ++pair) places[selection[pair] * workers + threadIdx.x] += 1;
    __syncthreads();

    // Counters become sums of those before them.
    const int each = ceil_div(counters, THREADS);
    const int first = min_of(threadIdx.x * each, counters), last = min_of(first + each, counters);
    int own = 0, before = 0;
    for (int i = first; i < last; ++i) own += places[i];
    sums[threadIdx.x] = own;
    __syncthreads();
    for (int i = 0; i < threadIdx.x && first < last; ++i) before += sums[i];
    for (int i = first; i < last; ++i) {
        own = places[i];
        places[i] = before;
        before += own;
    }
    __syncthreads();

    if (threadIdx.x == 0) {
        int groups = 0;
        for (int e = 0; e < experts; ++e) {
            const int start = places[e * workers], next = e + 1 < experts ? (int)places[(e + 1) * workers] : count;
            if (start == next) continue;
            group_experts[groups] = e;
            starts[groups] = start;
            ++groups;
        }
        starts[groups] = count;
        for (; groups < min_of(experts, count); ++groups) group_experts[groups] = -1;
    }
    __syncthreads();
    for (int pair = begin; pair < end; ++pair) {
        const int counter = selection[pair] * workers + threadIdx.x, place = places[counter];
        pairs[place] = pair;
        places[counter] = place + 1;
    }
}
