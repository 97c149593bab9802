// Soft-capped attention of many rows of a sequence, on any device.
#include "flash_step.h"

// FORMAT is how the cache stores elements. Heads have up to FLASH_HEAD_DIM.
//
// grid: [tiles, kv_heads]; shared memory: float [FLASH_QUERIES + FLASH_STEP, stride] and [FLASH_QUERIES, FLASH_STEP + 4], for a stride of head_dim,
// rounded up to a multiple of 8, and 4
KERNEL(NAME(flash),
       float* attended,    // [rows, heads, head_dim]
       const float* query, // [rows, heads, head_dim]
       Cache cache,
       const int* tiles,   // [tiles, 2]: first row and number of rows, of which all heads are up to FLASH_QUERIES queries
       int heads, float scale, float cap, int round) {
    DYNAMIC_SHARED(float, memory);
    const FlashTile tile = flash_tile(tiles + 2 * blockIdx.x, cache, heads);
    const int kv_head = blockIdx.y, dim = cache.head_dim, units = ceil_div(dim, UNIT), stride = units * UNIT + 4;
    const Shared<float> queries = memory;                        // [FLASH_QUERIES, stride]
    const Shared<float> elements = queries + FLASH_QUERIES * stride; // [FLASH_STEP, stride]: keys, then values
    const Shared<float> weights = elements + FLASH_STEP * stride;      // [FLASH_QUERIES, FLASH_STEP + 4]
    const int column = threadIdx.x % 16, first_query = threadIdx.x / 16 * OWN_QUERIES;

    for (int i = threadIdx.x; i < FLASH_QUERIES * units; i += THREADS) {
        const int m = i / units, d = i % units * UNIT;
        float own[UNIT] = {};
        if (m < tile.queries) unpack<f32>(own, (const u8*)(query + offset_of(tile, cache, heads, kv_head, m)), d, dim);
        store_unit(queries + m * stride + d, own);
    }
    int position[OWN_QUERIES];
    float largest[OWN_QUERIES], total[OWN_QUERIES], sum[OWN_QUERIES][OWN_FOURS][4] = {};
#pragma unroll
    for (int m = 0; m < OWN_QUERIES; ++m) {
        position[m] = position_of(tile, cache, first_query + m);
        largest[m] = -3.4e38f;
        total[m] = 0.0f;
    }
    for (int start = 0; start <= tile.last; start += FLASH_STEP) {
        __syncthreads();
        load_step<FORMAT>(elements, cache, tile, KEYS, kv_head, start, units, stride);
        __syncthreads();
        float score[OWN_QUERIES][OWN_POSITIONS] = {};
        for (int d = 0; d < units * UNIT; d += 4) {
            Four<float> key[OWN_POSITIONS];
#pragma unroll
            for (int p = 0; p < OWN_POSITIONS; ++p) key[p] = load_four(elements + (p * 16 + column) * stride + d);
#pragma unroll
            for (int m = 0; m < OWN_QUERIES; ++m) {
                const Four<float> own = load_four(queries + (first_query + m) * stride + d);
#pragma unroll
                for (int p = 0; p < OWN_POSITIONS; ++p) score[m][p] = add_products(score[m][p], own, key[p]);
            }
        }
#pragma unroll
        for (int m = 0; m < OWN_QUERIES; ++m) {
            float most = largest[m];
#pragma unroll
            for (int p = 0; p < OWN_POSITIONS; ++p) {
                score[m][p] = soft_cap(score[m][p] * scale, cap);
                if (start + p * 16 + column <= position[m]) most = fmaxf(most, score[m][p]);
            }
            most = lanes_max<16>(most);
            const float factor = expf(largest[m] - most);
            largest[m] = most;
            total[m] *= factor;
#pragma unroll
            for (int f = 0; f < OWN_FOURS; ++f) {
#pragma unroll
                for (int k = 0; k < 4; ++k) sum[m][f][k] *= factor;
            }
#pragma unroll
            for (int p = 0; p < OWN_POSITIONS; ++p) {
                const bool seen = start + p * 16 + column <= position[m];
                const float weight = seen ? expf(score[m][p] - most) : 0.0f;
                total[m] += weight;
                weights[(first_query + m) * (FLASH_STEP + 4) + p * 16 + column] = weight;
            }
        }
        __syncthreads();
        load_step<FORMAT>(elements, cache, tile, VALUES, kv_head, start, units, stride);
        __syncthreads();
        for (int p = 0; p < FLASH_STEP; p += 4) {
            Four<float> weight[OWN_QUERIES];
#pragma unroll
            for (int m = 0; m < OWN_QUERIES; ++m) weight[m] = load_four(weights + (first_query + m) * (FLASH_STEP + 4) + p);
#pragma unroll
            for (int k = 0; k < 4; ++k) {
#pragma unroll
                for (int f = 0; f < OWN_FOURS; ++f) {
                    const int d = f * 64 + column * 4;
                    if (d >= dim) continue;
                    const Four<float> value = load_four(elements + (p + k) * stride + d);
#pragma unroll
                    for (int m = 0; m < OWN_QUERIES; ++m) {
#pragma unroll
                        for (int j = 0; j < 4; ++j) sum[m][f][j] = fmaf(weight[m].values[k], value.values[j], sum[m][f][j]);
                    }
                }
            }
        }
    }
#pragma unroll
    for (int m = 0; m < OWN_QUERIES; ++m) {
        const float share = 1.0f / lanes_sum<16>(total[m]);
        if (first_query + m >= tile.queries) continue;
        float* out = attended + offset_of(tile, cache, heads, kv_head, first_query + m);
#pragma unroll
        for (int f = 0; f < OWN_FOURS; ++f) {
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                const int d = f * 64 + column * 4 + j;
                if (d < dim) out[d] = rounded(sum[m][f][j] * share, round);
            }
        }
    }
}
