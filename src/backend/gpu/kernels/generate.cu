// Bytes of random weights, which are the same on the host: see `Formula` in source.rs.
#include "portable.h"

DEVICE u64 mix(u64 key, u64 index) {
    u64 z = key + index * 0x9e3779b97f4a7c15ull;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

// grid: [ceil(count / THREADS)]
KERNEL(generate,
       u64* out,         // [count]
       const u64* masks, // [period, 2]: bits that are random, and those that are set
       u64 key, u64 count, u32 period) {
    const u64 i = (u64)blockIdx.x * THREADS + threadIdx.x;
    if (i >= count) return;
    const u64* own = masks + 2 * (i % period);
    out[i] = (mix(key, i) & own[0]) | own[1];
}
