// Steps of `flash`: keys or values of some positions in shared memory.
#pragma once
#include "flash.h"

// A thread has FLASH_QUERIES / 16 queries, and every 16th position or four of every 64 elements.
#define OWN_QUERIES (FLASH_QUERIES / 16)
#define OWN_POSITIONS (FLASH_STEP / 16)
#define OWN_FOURS (FLASH_HEAD_DIM / 64)

// Elements of a step's keys or values as floats, [FLASH_STEP, stride], zeros beyond the last position.
template <class F>
DEVICE void load_step(Shared<float> elements, const Cache& cache, const FlashTile& tile, Part part, int kv_head, int start,
                      int units, int stride) {
    for (int i = threadIdx.x; i < FLASH_STEP * units; i += THREADS) {
        const int p = i / units, d = i % units * UNIT;
        float own[UNIT] = {};
        if (start + p <= tile.last) unpack<F>(own, cached<F>(cache, tile.row, part, kv_head, start + p), d, cache.head_dim);
        store_unit(elements + p * stride + d, own);
    }
}
