// Soft-capped attention of many rows of a sequence by matrix instructions, with keys and values of bf16: for NVIDIA from sm_80 on.
//
// Queries are bf16 values, so that scores are sums of exact products. A weight goes into the sum of values as two bf16, which leaves
// out 2^-18 of it.
#include "flash_page.h"

// FORMAT is head_dim: a multiple of 16, at most FLASH_HEAD_DIM.
//
// grid: [tiles, kv_heads]; shared memory: u32 [2, 2, PAGE, head_dim / 2 + 4]
KERNEL(NAME(flash_mma),
       float* attended,    // [rows, heads, head_dim]
       const float* query, // [rows, heads, head_dim], bf16 values
       Cache cache,        // of bf16
       const int* tiles,   // [tiles, 2]: first row and number of rows, of which all heads are up to FLASH_MMA_QUERIES queries
       int heads, float scale, float cap, int round) {
    constexpr int DIM = FORMAT, STRIDE = FLASH_STRIDE(DIM);
    DYNAMIC_SHARED(u32, memory);
    const FlashTile tile = flash_tile(tiles + 2 * blockIdx.x, cache, heads);
    // A warp has 16 queries; this lane has elements 2t, 2t + 1 of every eighth of those at g and g + 8.
    const int kv_head = blockIdx.y, lane = lane_index(), g = lane / 4, t = lane % 4, first = warp_index() * 16;
    int position[2];
    float largest[2] = {-3.4e38f, -3.4e38f}, total[2] = {}, sum[DIM / 8][4] = {};
    u32 queries[DIM / 16][4] = {};
#pragma unroll
    for (int h = 0; h < 2; ++h) {
        const int m = first + g + 8 * h;
        position[h] = position_of(tile, cache, m);
        if (m >= tile.queries) continue;
        const float* own = query + offset_of(tile, cache, heads, kv_head, m) + 2 * t;
#pragma unroll
        for (int d = 0; d < DIM / 8; ++d) queries[d / 2][d % 2 * 2 + h] = bf16_pair(own[d * 8], own[d * 8 + 1]);
    }
    const Shared<u32> stages = memory; // [2, keys and values, PAGE, STRIDE]
    copy_page<DIM>(stages, cache, tile, KEYS, kv_head, 0);
    copy_page<DIM>(stages + PAGE * STRIDE, cache, tile, VALUES, kv_head, 0);
    end_copies();
    for (int start = 0; start <= tile.last; start += PAGE) {
        wait_copies<0>();
        __syncthreads();
        if (start + PAGE <= tile.last) {
            const Shared<u32> next = stages + (start / PAGE + 1) % 2 * 2 * PAGE * STRIDE;
            copy_page<DIM>(next, cache, tile, KEYS, kv_head, start + PAGE);
            copy_page<DIM>(next + PAGE * STRIDE, cache, tile, VALUES, kv_head, start + PAGE);
        }
        end_copies();
        if (first >= tile.queries) continue;
        const Shared<u32> keys = stages + start / PAGE % 2 * 2 * PAGE * STRIDE, values = keys + PAGE * STRIDE;
        float score[PAGE / 8][4] = {};
#pragma unroll
        for (int d = 0; d < DIM / 16; ++d) {
#pragma unroll
            for (int p = 0; p < PAGE / 16; ++p) {
                u32 key[4];
                load_matrices(key, keys + (p * 16 + lane / 16 * 8 + lane % 8) * STRIDE + d * 8 + lane / 8 % 2 * 4);
                multiply_add(score[2 * p], queries[d], {key[0], key[1]});
                multiply_add(score[2 * p + 1], queries[d], {key[2], key[3]});
            }
        }
        float factor[2];
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            float most = largest[h];
            const int seen = position[h] - start - 2 * t;
#pragma unroll
            for (int p = 0; p < PAGE / 4; ++p) {
                float& own = score[p / 2][2 * h + p % 2];
                own = soft_cap(own * scale, cap);
                if (p / 2 * 8 + p % 2 <= seen) most = fmaxf(most, own);
            }
            most = lanes_max<4>(most);
            factor[h] = expf(largest[h] - most);
            largest[h] = most;
            total[h] *= factor[h];
#pragma unroll
            for (int p = 0; p < PAGE / 4; ++p) {
                float& own = score[p / 2][2 * h + p % 2];
                own = p / 2 * 8 + p % 2 <= seen ? expf(own - most) : 0.0f;
                total[h] += own;
            }
        }
#pragma unroll
        for (int d = 0; d < DIM / 8; ++d) {
#pragma unroll
            for (int i = 0; i < 4; ++i) sum[d][i] *= factor[i / 2];
        }
#pragma unroll
        for (int p = 0; p < PAGE / 16; ++p) {
            u32 high[4], low[4];
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const float* own = &score[2 * p + i / 2][i % 2 * 2];
                high[i] = bf16_pair(own[0], own[1]);
                low[i] = bf16_pair(own[0] - bf16_to_f32(high[i]), own[1] - bf16_to_f32(high[i] >> 16));
            }
#pragma unroll
            for (int d = 0; d < DIM / 16; ++d) {
                u32 value[4];
                load_matrices_transposed(value, values + (p * 16 + lane % 16) * STRIDE + d * 8 + lane / 16 * 4);
                multiply_add(sum[2 * d], high, {value[0], value[1]});
                multiply_add(sum[2 * d], low, {value[0], value[1]});
                multiply_add(sum[2 * d + 1], high, {value[2], value[3]});
                multiply_add(sum[2 * d + 1], low, {value[2], value[3]});
            }
        }
    }
#pragma unroll
    for (int h = 0; h < 2; ++h) {
        const int m = first + g + 8 * h;
        // All lanes of a warp without queries are here too.
        const float share = 1.0f / lanes_sum<4>(total[h]);
        if (m >= tile.queries) continue;
        float* out = attended + offset_of(tile, cache, heads, kv_head, m) + 2 * t;
#pragma unroll
        for (int d = 0; d < DIM / 8; ++d) {
            out[d * 8] = rounded(sum[d][2 * h] * share, round);
            out[d * 8 + 1] = rounded(sum[d][2 * h + 1] * share, round);
        }
    }
}
