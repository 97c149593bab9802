// Soft-capped attention of one span of SPAN positions, for the heads that share a key/value head.
//
// Spans begin at fixed positions, and each has its own largest score and sum; `merge` adds them in order. A row's bits therefore depend
// on nothing but its own sequence.
#include "cache.h"
#include "reduce.h"

// Lanes that take a key together.
#define TEAM 16

// From one unit of a query to the next in shared memory: those of neighbouring lanes then lie in different banks.
#define QUERY_STRIDE (UNIT + 4)

// FORMAT is how the cache stores elements.
//
// grid: [spans, kv_heads, rows]; shared memory: float [group, units, UNIT + 4] and [group, SPAN], for a group of `heads / kv_heads` and
// head_dim in units of UNIT
KERNEL(NAME(attention),
       float* sums,        // [rows, heads, spans, head_dim]: values times exponentials
       float* stats,       // [rows, heads, spans, 2]: largest score, sum of exponentials
       const float* query, // [rows, heads, head_dim]
       Cache cache, int heads, int spans, float scale, float cap) {
    DYNAMIC_SHARED(float, memory);
    const int span = blockIdx.x, kv_head = blockIdx.y, row = blockIdx.z;
    const int group = heads / cache.kv_heads, dim = cache.head_dim, units = ceil_div(dim, UNIT), first = span * SPAN;
    // The row sees its own position and those before.
    const int count = min_of(cache.positions[row] + 1 - first, SPAN);
    if (count <= 0) return;
    const u64 first_head = (u64)row * heads + kv_head * group;
    const Shared<float> queries = memory, scores = memory + group * units * QUERY_STRIDE; // [group, units, QUERY_STRIDE], [group, SPAN]
    for (int i = threadIdx.x; i < group * units; i += THREADS) {
        float own[UNIT];
        unpack<f32>(own, (const u8*)(query + (first_head + i / units) * dim), i % units * UNIT, dim);
        store_unit(queries + i * QUERY_STRIDE, own);
    }
    __syncthreads();

    // A team of lanes takes a key for all heads.
    const int team = threadIdx.x / TEAM, member = threadIdx.x % TEAM;
    for (int start = 0; start < count; start += THREADS / TEAM) {
        const int p = start + team;
        const u8* key = cached<FORMAT>(cache, row, KEYS, kv_head, first + min_of(p, count - 1));
        for (int h = 0; h < group; ++h) {
            float score = 0.0f;
            for (int i = member; i < units; i += TEAM) {
                float element[UNIT];
                unpack<FORMAT>(element, key, i * UNIT, dim);
#pragma unroll
                for (int k = 0; k < UNIT; k += 4) {
                    const Four<float> own = load_four(queries + (h * units + i) * QUERY_STRIDE + k);
                    score = add_products(score, own, {element[k], element[k + 1], element[k + 2], element[k + 3]});
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
