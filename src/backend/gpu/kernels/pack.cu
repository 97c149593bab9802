// A stored matrix becomes a packed one, whose form is in packed.h.
#include "packed_formats.h"

// grid: [inputs / TILE_INPUTS, outputs / TILE_OUTPUTS]
KERNEL(NAME(pack),
       u8* packed,       // tiles
       const u8* stored, // [outputs, inputs] or [inputs, outputs]
       int inputs, int outputs) {
    const Stored matrix = {stored, inputs, outputs};
    const int first = blockIdx.x * TILE_INPUTS, first_output = blockIdx.y * TILE_OUTPUTS;
    u8* tile = packed + ((u64)blockIdx.y * (inputs / TILE_INPUTS) + blockIdx.x) * tile_bytes<FORMAT>();
    // In the order of memory: see packed.h.
    const int whole = FORMAT::WORDS / 4 * 4 * 2 * TILE_LANES;
    for (int i = threadIdx.x; i < FORMAT::WORDS * 2 * TILE_LANES; i += THREADS) {
        const int j = i - whole;
        const int n = j < 0 ? i / (8 * TILE_LANES) * 4 + i % 4 : FORMAT::WORDS / 4 * 4 + j % 2;
        const int h = j < 0 ? i / (4 * TILE_LANES) % 2 : j / 2 % 2, lane = j < 0 ? i / 4 % TILE_LANES : j / 4;
        const int output = first_output + lane / 4 + 8 * h;
        ((u32*)tile)[i] = FORMAT::word(matrix, first, output, lane % 4, n);
    }
    if (threadIdx.x < TILE_OUTPUTS) {
        u8* section = tile + code_bytes<FORMAT>();
        FORMAT::Scales::pack(section, threadIdx.x, matrix, first, first_output + threadIdx.x);
    }
}
