// Products of many rows with a tile of a matrix's outputs by matrix instructions: MMA_ROWS rows of bf16 share every weight read.
//
// Outputs are the first operand, rows the second. A block has MMA_SLOTS slots of TILE_OUTPUTS outputs; a warp takes two of them and half
// of the rows. Inputs go by in steps of 16, four to a phase; while one phase is computed, the next rows and a fourth of the next
// weights are copied. The order of a sum is fixed by the number of inputs.
#pragma once
#include "experts.h"
#include "mma_weights.h"

#define MMA_SLOTS (MMA_OUTPUTS / TILE_OUTPUTS)
#define MMA_PHASES (TILE_INPUTS / MMA_INPUTS)
// Groups of eight rows that a warp has.
#define MMA_OWN (MMA_ROWS / 2 / 8)
// Sums of activations that belong to a row and a tile of weights: of 32 each.
#define MMA_ROW_SUMS (TILE_INPUTS / 32)

// Rows of bf16 activations, and which of them are multiplied.
struct MmaRows {
    const u16* x;       // [any, inputs]
    const float* sums;  // [any, inputs / 32]: of 32 neighbours each, for formats with minima
    Shared<int> source; // [count]
    int count;
};

// Where the slots of a block find their outputs: one matrix, or gate and up by turns.
template <bool TWO>
struct MmaSlots {
    const Matrix &a, &b;
    int first;

    DEVICE const Matrix& matrix(const MmaSlots& all, int slot) {
        return TWO && slot % 2 ? all.b : all.a;
    }

    DEVICE int output(const MmaSlots& all, int slot) {
        return all.first + (TWO ? slot / 2 : slot) * TILE_OUTPUTS;
    }
};

// Begins to copy a phase of all rows: [MMA_ROWS, MMA_INPUTS].
DEVICE void copy_rows(Shared<u32> to, const MmaRows& rows, int inputs, int phase) {
    const int unit = threadIdx.x % 8, input = phase * MMA_INPUTS + unit * 8;
#pragma unroll
    for (int row = threadIdx.x / 8; row < MMA_ROWS; row += THREADS / 8) {
        const bool real = row < rows.count && input < inputs;
        const u64 source = real ? (u64)rows.source[row] * inputs + input : 0;
        copy_async(to + mma_unit(row, unit), rows.x + source, real);
    }
}

// Begins to copy the sums of activations that go with tile `i`: [MMA_ROWS, MMA_ROW_SUMS].
DEVICE void copy_sums(Shared<u32> to, const MmaRows& rows, int inputs, int i) {
    const int row = threadIdx.x / 2, unit = threadIdx.x % 2 * 4;
    const bool real = row < rows.count;
    const u64 source = real ? (u64)rows.source[row] * (inputs / 32) + i * MMA_ROW_SUMS + unit : 0;
    copy_async(to + row * MMA_ROW_SUMS + unit, rows.sums + source, real);
}

// Begins to copy a fourth of the block's tiles `i`.
template <class W, bool TWO>
DEVICE void copy_weights(Shared<u32> to, const MmaSlots<TWO>& slots, int i, int fourth) {
    constexpr int PIECES = W::WORDS / 4, SHARE = MMA_SLOTS / MMA_PHASES;
#pragma unroll 1
    for (int n = threadIdx.x; n < SHARE * PIECES; n += THREADS) {
        const int slot = fourth * SHARE + n / PIECES;
        W::copy(to + slot * W::WORDS, MmaSlots<TWO>::matrix(slots, slot), MmaSlots<TWO>::output(slots, slot), i, n % PIECES);
    }
}

// What a lane has of one input's rows for SCALE_STEPS steps: two words for each.
template <int RUN, int COUNT>
DEVICE void row_fragment(u32 (&b)[COUNT][2], Shared<u32> values, int row, int first_step) {
    const int t = lane_index() % 4;
    if constexpr (RUN == 8) {
#pragma unroll
        for (int s = 0; s < COUNT; s += 2) {
            const Four<u32> both = load_four(values + mma_unit(row, (first_step + s) / 2 * 4 + t));
#pragma unroll
            for (int i = 0; i < 4; ++i) b[s + i / 2][i % 2] = both.values[i];
        }
    } else {
#pragma unroll
        for (int s = 0; s < COUNT; ++s) {
            const Both<u32> own = load_both(values + mma_unit(row, (first_step + s) * 2 + t / 2) + t % 2 * 2);
            b[s][0] = own.values[0];
            b[s][1] = own.values[1];
        }
    }
}

// The sums of a lane: sum[slot][n][i] is of its warp's slot, output g + i / 2 * 8, and row 8 * n + 2 * t + i % 2.
typedef float MmaSums[2][MMA_OWN][4];

// Adds the products of one phase. `values` are the rows of this warp, `tiles` its two tiles.
template <class W>
DEVICE void add_phase(MmaSums& sum, Shared<u32> values, const typename W::Table& table, Shared<u32> tiles, Shared<u32> row_sums,
                      const float (&beside)[2][2], int phase) {
    constexpr int STEPS_AT_ONCE = W::SCALE_STEPS;
    const int lane = lane_index(), g = lane / 4, t = lane % 4;
    const typename W::Own own[2] = {W::load(tiles, lane), W::load(tiles + W::WORDS, lane)};
#pragma unroll
    for (int s = 0; s < 4; s += STEPS_AT_ONCE) {
        const int step = phase * 4 + s;
        u32 a[2][STEPS_AT_ONCE][4];
        float scale[2][2], min[2][2];
#pragma unroll
        for (int c = 0; c < 2; ++c) {
#pragma unroll
            for (int i = 0; i < STEPS_AT_ONCE; ++i) W::fragment(a[c][i], table, own[c], step + i);
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                scale[c][h] = W::BESIDE ? beside[c][h] : W::scale(own[c], h, step);
                min[c][h] = W::min(own[c], h, step);
            }
        }
#pragma unroll
        for (int n = 0; n < MMA_OWN; ++n) {
            u32 b[STEPS_AT_ONCE][2];
            row_fragment<W::RUN>(b, values, n * 8 + g, s);
            float row_sum[2];
            if constexpr (W::MINS) {
#pragma unroll
                for (int i = 0; i < 2; ++i) {
                    row_sum[i] = float_of(row_sums[(n * 8 + 2 * t + i) * MMA_ROW_SUMS + step / 2]);
                }
            }
#pragma unroll
            for (int c = 0; c < 2; ++c) {
                float part[4] = {};
#pragma unroll
                for (int i = 0; i < STEPS_AT_ONCE; ++i) multiply_add(W::SCALED ? part : sum[c][n], a[c][i], b[i]);
#pragma unroll
                for (int i = 0; i < 4 && W::SCALED; ++i) {
                    sum[c][n][i] = fmaf(scale[c][i / 2], part[i], sum[c][n][i]);
                    if (W::MINS) sum[c][n][i] = fmaf(-min[c][i / 2], row_sum[i % 2], sum[c][n][i]);
                }
            }
        }
    }
}

// The block's shared memory, u32:
//   [2, MMA_ROWS, MMA_INPUTS / 2]      rows of two phases,
//   [2, MMA_SLOTS, WORDS]              tiles of weights,
//   [2, MMA_ROWS, MMA_ROW_SUMS]        sums of activations, for formats with minima.
// Adds the products of `rows` with the outputs of the block's slots.
template <class W, bool TWO>
DEVICE void mma_product(MmaSums& sum, const Matrix& a, const Matrix& b, int first, const MmaRows& rows) {
    DYNAMIC_SHARED(u32, memory);
    constexpr int PHASE = MMA_ROWS * MMA_ROW_WORDS, TILES = MMA_SLOTS * W::WORDS, SUMS = MMA_ROWS * MMA_ROW_SUMS;
    const Shared<u32> values = memory, weights = values + 2 * PHASE, sums = weights + (W::MINS ? 2 * TILES : 0);
    const MmaSlots<TWO> slots = {a, b, first};
    const int inputs = a.inputs, tiles = ceil_div(inputs, TILE_INPUTS);
    const int slot = warp_index() % (MMA_SLOTS / 2) * 2, row = warp_index() / (MMA_SLOTS / 2) * (MMA_ROWS / 2);
    BesideScales beside[2];
#pragma unroll
    for (int c = 0; c < 2 && W::BESIDE; ++c) {
        const Matrix& matrix = MmaSlots<TWO>::matrix(slots, slot + c);
        const int output = MmaSlots<TWO>::output(slots, slot + c) + lane_index() / 4;
        beside[c] = BesideScales::of(matrix, min_of(output, matrix.outputs - 1));
    }
    const typename W::Table table = W::table();
    copy_rows(values, rows, inputs, 0);
    for (int fourth = 0; fourth < MMA_PHASES; ++fourth) copy_weights<W>(weights, slots, 0, fourth);
    if (W::MINS) copy_sums(sums, rows, inputs, 0);
    end_copies();
    for (int i = 0; i < tiles; ++i) {
        const Shared<u32> own = weights + i % 2 * TILES + slot * W::WORDS, own_sums = sums + (W::MINS ? i % 2 * SUMS + row * MMA_ROW_SUMS : 0);
        float factor[2][2];
#pragma unroll
        for (int n = 0; n < 4 && W::BESIDE; ++n) factor[n / 2][n % 2] = BesideScales::at(beside[n / 2], n % 2, i * TILE_INPUTS);
#pragma unroll
        for (int phase = 0; phase < MMA_PHASES; ++phase) {
            wait_copies<0>();
            __syncthreads();
            const int next = i * MMA_PHASES + phase + 1;
            if (next < tiles * MMA_PHASES) copy_rows(values + (phase + 1) % 2 * PHASE, rows, inputs, next);
            if (i + 1 < tiles) {
                copy_weights<W>(weights + (i + 1) % 2 * TILES, slots, i + 1, phase);
                if (W::MINS && phase == 0) copy_sums(sums + (i + 1) % 2 * SUMS, rows, inputs, i + 1);
            }
            end_copies();
            if (row < rows.count) {
                add_phase<W>(sum, values + phase % 2 * PHASE + row * MMA_ROW_WORDS, table, own, own_sums, factor, phase);
            }
        }
    }
}

// Calls `take(slot, n, i, output, row)` for each of a lane's sums, with its output among those of the slot and its row.
template <class Take>
DEVICE void for_each_sum(Take take) {
    const int slot = warp_index() % (MMA_SLOTS / 2) * 2, row = warp_index() / (MMA_SLOTS / 2) * (MMA_ROWS / 2);
    const int g = lane_index() / 4, t = lane_index() % 4;
#pragma unroll
    for (int c = 0; c < 2; ++c) {
#pragma unroll
        for (int n = 0; n < MMA_OWN; ++n) {
#pragma unroll
            for (int i = 0; i < 4; ++i) take(slot + c, n, i, g + i / 2 * 8, row + n * 8 + 2 * t + i % 2);
        }
    }
}
