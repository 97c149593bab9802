// Weights for matrix instructions. A tile of TILE_OUTPUTS x TILE_INPUTS lies in shared memory as it does in global memory; in registers
// weights become whole numbers, which are exact as bf16. Scales are applied to sums.
//
// `MmaWeights<F>` says of a format
//   WORDS                       of a tile in shared memory,
//   RUN                         neighbouring inputs that a lane has, 8 or 4: see `step_input` in packed.h,
//   SCALED, SCALE_STEPS         whether sums are scaled, and after how many steps of 16 inputs,
//   MINS                        whether minima times sums of activations are subtracted,
//   BESIDE                      whether scales lie beside the matrix,
//   copy(to, matrix, output, i, piece)   begins to copy one of the WORDS / 4 pieces of tile `i` of the outputs from `output` on,
//   Own, load(tile, lane)       what a lane needs of a tile that has been copied,
//   Table, table()              what fragments are looked up in, made by all threads of a block,
//   fragment(a, table, own, step)        a lane's share of the first operand: 16 outputs, 16 inputs,
//   scale(own, h, step), min(own, h, step)   of the lane's output g + 8 * h.
#pragma once
#include "packed_mma.h"

// A row of MMA_INPUTS in shared memory: eight units of 16 bytes.
#define MMA_ROW_WORDS (MMA_INPUTS / 2)

// Where a unit of a row lies: lanes that load units of neighbouring rows at once find them in different banks.
DEVICE int mma_unit(int row, int unit) {
    return row * MMA_ROW_WORDS + (unit ^ ((row & 1) << 2 | (row & 2))) * 4;
}

template <class F>
struct MmaWeights;

template <class F>
struct MmaWeights<Packed<F>> {
    typedef Packed<F> P;
    static const int WORDS = tile_bytes<P>() / 4, RUN = P::RUN;
    static const bool SCALED = true, MINS = P::MINS, BESIDE = P::BESIDE;
    static const int SCALE_STEPS = BESIDE ? 4 : P::SCALE_STEPS;

    DEVICE void copy(Shared<u32> to, const Matrix& matrix, int output, int i, int piece) {
        const u8* tile = tiles_of<P>(matrix.data, matrix.inputs, output) + (u64)i * tile_bytes<P>();
        copy_async(to + piece * 4, tile + piece * 16, output < matrix.outputs);
    }

    struct Own {
        u32 words[2][P::WORDS];
        typename P::Scales scales[2];
    };

    // What a step does not use costs nothing: loads of it are left out.
    DEVICE Own load(Shared<u32> tile, int lane) {
        constexpr int WHOLE = P::WORDS / 4;
        Own out;
#pragma unroll
        for (int v = 0; v < WHOLE; ++v) {
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                const Four<u32> some = load_four(tile + ((v * 2 + h) * TILE_LANES + lane) * 4);
#pragma unroll
                for (int i = 0; i < 4; ++i) out.words[h][v * 4 + i] = some.values[i];
            }
        }
        if constexpr (P::WORDS % 4 != 0) {
            const Four<u32> some = load_four(tile + (WHOLE * 2 * TILE_LANES + lane) * 4);
#pragma unroll
            for (int i = 0; i < 4; ++i) out.words[i / 2][WHOLE * 4 + i % 2] = some.values[i];
        }
        const u8* section = bytes_of(tile + code_bytes<P>() / 4, TILE_OUTPUTS * P::Scales::BYTES / 4);
#pragma unroll
        for (int h = 0; h < 2; ++h) out.scales[h] = P::Scales::load(section, lane / 4 + 8 * h);
        return out;
    }

    typedef typename Pairs<F>::Table Table;

    DEVICE Table table() {
        return Pairs<F>::table();
    }

    DEVICE void fragment(u32 (&a)[4], const Table& table, const Own& own, int step) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            u32 pairs[2];
            Pairs<F>::load(pairs, table, own.words[h], step);
            a[h] = pairs[0];
            a[2 + h] = pairs[1];
        }
    }

    DEVICE float scale(const Own& own, int h, int step) {
        return P::Scales::scale(own.scales[h], step / P::SCALE_STEPS);
    }

    DEVICE float min(const Own& own, int h, int step) {
        return P::Scales::min(own.scales[h], step / P::SCALE_STEPS);
    }
};

// As they are stored, [outputs, inputs]; inputs are a multiple of eight.
template <>
struct MmaWeights<bf16> {
    static const int WORDS = TILE_OUTPUTS * TILE_INPUTS / 2, RUN = 8, SCALE_STEPS = 4;
    // Sums in the matrix units are cut off, not rounded: they are short, and added in f32.
    static const bool SCALED = true, MINS = false, BESIDE = false;

    // In shared memory rows of MMA_INPUTS: [TILE_INPUTS / MMA_INPUTS, TILE_OUTPUTS, MMA_INPUTS].
    DEVICE void copy(Shared<u32> to, const Matrix& matrix, int output, int i, int piece) {
        const int row = piece / (TILE_INPUTS / 8), unit = piece % (TILE_INPUTS / 8), input = i * TILE_INPUTS + unit * 8;
        const u8* from = matrix.data + ((u64)(output + row) * matrix.inputs + input) * 2;
        const bool real = output + row < matrix.outputs && input < matrix.inputs;
        copy_async(to + unit / 8 * TILE_OUTPUTS * MMA_ROW_WORDS + mma_unit(row, unit % 8), from, real);
    }

    struct Own {
        Four<u32> units[2][TILE_INPUTS / 32];
    };

    DEVICE Own load(Shared<u32> tile, int lane) {
        Own out;
#pragma unroll
        for (int h = 0; h < 2; ++h) {
#pragma unroll
            for (int n = 0; n < TILE_INPUTS / 32; ++n) {
                const Shared<u32> rows = tile + n / 2 * TILE_OUTPUTS * MMA_ROW_WORDS;
                out.units[h][n] = load_four(rows + mma_unit(lane / 4 + 8 * h, n % 2 * 4 + lane % 4));
            }
        }
        return out;
    }

    struct Table {};

    DEVICE Table table() {
        return {};
    }

    DEVICE void fragment(u32 (&a)[4], const Table&, const Own& own, int step) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            a[h] = own.units[h][step / 2].values[step % 2 * 2];
            a[2 + h] = own.units[h][step / 2].values[step % 2 * 2 + 1];
        }
    }

    DEVICE float scale(const Own&, int, int) {
        return 1.0f;
    }

    DEVICE float min(const Own&, int, int) {
        return 0.0f;
    }
};
