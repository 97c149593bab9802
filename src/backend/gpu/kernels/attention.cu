// Soft-capped attention of one span of SPAN positions, for the heads that share a key/value head.
//
// Spans begin at fixed positions, and each has its own largest score and sum; `merge` adds them in order. A row's bits therefore depend
// on nothing but its own sequence.
#include "cache.h"
#include "reduce.h"

// Lanes that take a key together.
#define TEAM 16

// FORMAT is how the cache stores elements.
//
// grid: [spans, kv_heads, rows]; shared memory: float [group, head_dim + SPAN] for a group of `heads / kv_heads`
KERNEL(NAME(attention),
       float* sums,        // [rows, heads, spans, head_dim]: values times exponentials
       float* stats,       // [rows, heads, spans, 2]: largest score, sum of exponentials
       const float* query, // [rows, heads, head_dim]
       Cache cache, int heads, int spans, float scale, float cap) {
    DYNAMIC_SHARED(float, memory);
    const int span = blockIdx.x, kv_head = blockIdx.y, row = blockIdx.z;
    const int group = heads / cache.kv_heads, dim = cache.head_dim, first = span * SPAN;
    // The row sees its own position and those before.
    const int count = min_of(cache.positions[row] + 1 - first, SPAN);
    if (count <= 0) return;
    const u64 first_head = (u64)row * heads + kv_head * group;
    const Shared<float> queries = memory, scores = memory + group * dim; // [group, head_dim], [group, SPAN]
    for (int i = threadIdx.x; i < group * dim; i += THREADS) queries[i] = query[first_head * dim + i];
    __syncthreads();

    // A team of lanes takes a key for all heads.
    const int team = threadIdx.x / TEAM, member = threadIdx.x % TEAM;
    for (int start = 0; start < count; start += THREADS / TEAM) {
        const int p = start + team;
        const u8* key = cached<FORMAT>(cache, row, KEYS, kv_head, first + min_of(p, count - 1));
        for (int h = 0; h < group; ++h) {
            float score = 0.0f;
            for (int i = member * UNIT; i < dim; i += TEAM * UNIT) {
                float element[UNIT];
                unpack<FORMAT>(element, key, i, dim);
#pragma unroll
                for (int k = 0; k < UNIT; ++k) {
                    if (i + k < dim) score = fmaf(queries[h * dim + i + k], element[k], score);
                }
            }
            score = lanes_sum<TEAM>(score);
            if (member == 0 && p < count) scores[h * SPAN + p] = soft_cap(score * scale, cap);
        }
    }
    __syncthreads();

    // A warp takes a head's softmax.
    for (int h = warp_index(); h < group; h += THREADS / WARP) {
        float largest = -3.4e38f, sum = 0.0f;
        for (int p = lane_index(); p < count; p += WARP) largest = fmaxf(largest, scores[h * SPAN + p]);
        largest = warp_max(largest);
        for (int p = lane_index(); p < count; p += WARP) {
            const float weight = expf(scores[h * SPAN + p] - largest);
            scores[h * SPAN + p] = weight;
            sum += weight;
        }
        sum = warp_sum(sum);
        float* out = stats + ((first_head + h) * spans + span) * 2;
        if (lane_index() == 0) {
            out[0] = largest;
            out[1] = sum;
        }
    }
    __syncthreads();

    // A thread takes an element of a head's weighted values.
    for (int i = threadIdx.x; i < group * dim; i += THREADS) {
        const int h = i / dim, d = i % dim;
        float sum = 0.0f;
        for (int start = 0; start < count; start += PAGE) {
            const u8* values = cached<FORMAT>(cache, row, VALUES, kv_head, first + start);
            for (int p = 0; p < min_of(count - start, PAGE); ++p) {
                sum = fmaf(scores[h * SPAN + start + p], FORMAT::at(values, (u64)p * dim + d), sum);
            }
        }
        sums[((first_head + h) * spans + span) * dim + d] = sum;
    }
}
