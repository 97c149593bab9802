// Pages of `flash_mma`: keys or values of bf16 in shared memory.
#pragma once
#include "flash.h"
#include "mma.h"

// Words from one position's elements to the next: rows of eight positions then lie in different banks.
#define FLASH_STRIDE(dim) ((dim) / 2 + 4)

// Begins to copy keys or values of a page, [PAGE, stride]; zeros beyond the last position.
template <int DIM>
DEVICE void copy_page(Shared<u32> to, const Cache& cache, const FlashTile& tile, Part part, int kv_head, int start) {
    const u8* from = cached<bf16>(cache, tile.row, part, kv_head, start);
    for (int i = threadIdx.x; i < PAGE * DIM / 8; i += THREADS) {
        const int p = i / (DIM / 8), unit = i % (DIM / 8);
        copy_async(to + p * FLASH_STRIDE(DIM) + unit * 4, from + i * 16, start + p <= tile.last);
    }
}
