// What simt.h makes of mma.h: products that are right, and mistakes that it has to find.
#include "mma.h"

// All warps do the same.
KERNEL(product,
       float* out,    // [16, 8]
       const u32* a,  // bf16 [16, 16]
       const u32* b) { // bf16 [8, 16]: columns
    const int g = lane_index() / 4, t = lane_index() % 4;
    const u32 own_a[4] = {a[g * 8 + t], a[(g + 8) * 8 + t], a[g * 8 + t + 4], a[(g + 8) * 8 + t + 4]};
    const u32 own_b[2] = {b[g * 8 + t], b[g * 8 + t + 4]};
    float sum[4] = {1.0f, 1.0f, 1.0f, 1.0f};
    multiply_add(sum, own_a, own_b);
    for (int i = 0; i < 4; ++i) out[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = sum[i];
}

// The same by copies and ldmatrix; the columns of `b` as rows and, if so, transposed on the way.
DEVICE void product_of_tiles(float* out, const u32* a, const u32* b, bool rows) {
    SHARED(u32, tiles, 16 * 8 + 16 * 8);
    // [16, 16] of `a` first. Then [8, 16] of `b`; as rows [16, 8].
    if (threadIdx.x < 48) copy_async(tiles + threadIdx.x * 4, threadIdx.x < 32 ? a + threadIdx.x * 4 : b + threadIdx.x * 4 - 128, true);
    if (threadIdx.x >= 48 && threadIdx.x < 64) copy_async(tiles + threadIdx.x * 4, b, false);
    end_copies();
    wait_copies<0>();
    __syncthreads();
    const int lane = lane_index();
    u32 own_a[4], pairs[4];
    load_matrices(own_a, tiles + lane % 16 * 8 + lane / 16 * 4);
    if (rows) {
        load_matrices_transposed(pairs, tiles + 128 + lane * 4);
    } else {
        load_matrices(pairs, tiles + 128 + lane % 8 * 8 + lane / 8 % 2 * 4);
    }
    const u32 own_b[2] = {pairs[0], pairs[1]};
    float sum[4] = {1.0f, 1.0f, 1.0f, 1.0f};
    multiply_add(sum, own_a, own_b);
    for (int i = 0; i < 4; ++i) out[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = sum[i];
}

KERNEL(product_of_columns, float* out, const u32* a, const u32* b) {
    product_of_tiles(out, a, b, false);
}

KERNEL(product_of_rows, float* out, const u32* a, const u32* b) {
    product_of_tiles(out, a, b, true);
}

KERNEL(lane_missing, float* out, const u32* a, const u32*) {
    const u32 own_a[4] = {a[0], a[1], a[2], a[3]}, own_b[2] = {a[0], a[1]};
    float sum[4] = {};
    if (lane_index() != 7) multiply_add(sum, own_a, own_b);
    out[threadIdx.x % 128] = sum[0];
}

KERNEL(row_missing, float* out, const u32* a, const u32*) {
    SHARED(u32, tile, 31 * 4);
    if (threadIdx.x < 31 * 4) tile[threadIdx.x] = a[0];
    __syncthreads();
    u32 words[4];
    load_matrices(words, tile + lane_index() * 4);
    out[threadIdx.x % 128] = (float)words[0];
}

KERNEL(copy_without_barrier, float* out, const u32* a, const u32*) {
    SHARED(u32, tile, THREADS * 4);
    copy_async(tile + threadIdx.x * 4, a, true);
    end_copies();
    wait_copies<0>();
    out[threadIdx.x % 128] = (float)tile[(threadIdx.x * 4 + 4) % (THREADS * 4)];
}

// Copies to where others may still read.
KERNEL(copy_too_early, float* out, const u32* a, const u32*) {
    SHARED(u32, tile, THREADS * 4);
    for (int i = 0; i < 4; ++i) tile[threadIdx.x * 4 + i] = a[0];
    __syncthreads();
    out[threadIdx.x % 128] = (float)tile[(threadIdx.x * 4 + 4) % (THREADS * 4)];
    copy_async(tile + threadIdx.x * 4, a, true);
    end_copies();
}

KERNEL(copy_not_aligned, float* out, const u32* a, const u32*) {
    SHARED(u32, tile, THREADS * 4 + 4);
    copy_async(tile + threadIdx.x * 4 + 1, a, true);
    out[threadIdx.x % 128] = 1.0f;
}

// Waits for one group of two only: what it reads are NaNs.
KERNEL(waits_too_little, float* out, const u32* a, const u32*) {
    SHARED(u32, tile, THREADS * 4);
    copy_async(tile + threadIdx.x * 4, a, true);
    end_copies();
    wait_copies<1>();
    out[threadIdx.x % 128] = bf16_to_f32(tile[threadIdx.x * 4]);
}
