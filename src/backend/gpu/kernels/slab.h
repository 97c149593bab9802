// Slabs: some outputs' weights as bf16, each rounded once. What is stored [inputs, outputs] becomes [inputs, count], everything else
// [count, inputs].
#pragma once
#include "packed_product.h"

// Two values, the first in the lower half.
DEVICE u32 two_bf16(float a, float b) {
    return f32_to_bf16(a) | (u32)f32_to_bf16(b) << 16;
}

// Writes `count` values at a place that is aligned to 16 bytes where `whole`.
DEVICE void store_unit(u16* out, const float (&value)[UNIT], int count, bool whole) {
    if (whole) {
        Sixteen all;
#pragma unroll
        for (int k = 0; k < UNIT / 2; ++k) all.words[k] = two_bf16(value[2 * k], value[2 * k + 1]);
        *(Sixteen*)out = all;
        return;
    }
#pragma unroll
    for (int k = 0; k < UNIT; ++k) {
        if (k < count) out[k] = f32_to_bf16(value[k]);
    }
}

// A block takes row `index` of the slab, an output's weights.
template <class F>
struct Slab {
    DEVICE void write(u16* out, const Matrix& matrix, int index, int first, int) {
        const int inputs = matrix.inputs;
        for (int i = threadIdx.x * UNIT; i < inputs; i += THREADS * UNIT) {
            float value[UNIT];
            RowUnit<F>::load(value, matrix, first + index, i);
            store_unit(out + (u64)index * inputs + i, value, inputs - i, inputs % UNIT == 0);
        }
    }
};

// A block takes row `index` of the slab, an input's weights of `count` outputs.
template <class F>
struct Slab<InOut<F>> {
    DEVICE void write(u16* out, const Matrix& matrix, int index, int first, int count) {
        const u8* weights = matrix.data + index * row_bytes<F>(matrix.outputs);
        for (int o = threadIdx.x * UNIT; o < count; o += THREADS * UNIT) {
            float value[UNIT];
            unpack<F>(value, weights, first + o, matrix.outputs);
            if (matrix.scales) {
                float factor[UNIT];
                Strip<InOut<F>, 1>::load_factors(factor, matrix, first + o, index / matrix.scale_inputs);
#pragma unroll
                for (int k = 0; k < UNIT; ++k) value[k] *= factor[k];
            }
            store_unit(out + (u64)index * count + o, value, count - o, count % UNIT == 0);
        }
    }
};

// As many blocks as there are outputs in a tile share the tiles of those outputs: a lane unpacks all that it has of one.
template <class F>
struct Slab<Packed<F>> {
    typedef Packed<F> P;

    DEVICE void write(u16* out, const Matrix& matrix, int index, int first, int) {
        const int inputs = matrix.inputs, lane = threadIdx.x % TILE_LANES, g = lane / 4;
        const int strip = index / TILE_OUTPUTS * TILE_OUTPUTS, team = index % TILE_OUTPUTS * TILE_TEAMS + threadIdx.x / TILE_LANES;
        const u8* tiles = tiles_of<P>(matrix.data, inputs, first + strip);
        const BesideScales beside = BesideScales::of(matrix, first + strip + g);
        for (int i = team; i < inputs / TILE_INPUTS; i += TILE_OUTPUTS * TILE_TEAMS) {
            const Lane<P> own = Lane<P>::load(tiles + (u64)i * tile_bytes<P>(), lane);
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                u16* row = out + (u64)(strip + g + 8 * h) * inputs + i * TILE_INPUTS;
                write_row(row, own, h, BesideScales::at(beside, h, i * TILE_INPUTS));
            }
        }
    }

    // What a lane has of a tile's row.
    DEVICE void write_row(u16* row, const Lane<P>& own, int h, float beside) {
#pragma unroll
        for (int step = 0; step < STEPS; ++step) {
            const Four<float> weight = step_weights(own, h, step, beside);
            const u64 low = two_bf16(weight.values[0], weight.values[1]), high = two_bf16(weight.values[2], weight.values[3]);
            ((Eight*)(row + step_input<P::RUN>(step, threadIdx.x % 4)))->bytes = low | high << 32;
        }
    }
};
