// Products of many rows with a tile of a matrix's outputs, on any device: TILED_ROWS rows share every weight read.
//
// A sum goes through the inputs in their order, whatever rows are beside it.
#pragma once
#include "experts.h"

// Inputs of a step. A thread has TILED_ROWS / 16 rows and every 16th output.
#define TILED_STEP 32
#define OWN_ROWS (TILED_ROWS / 16)
#define OWN_OUTPUTS (TILED_OUTPUTS / 16)

// A step's rows and weights in shared memory; the padding puts neighbouring ones into different banks.
#define TILED_STRIDE (TILED_STEP + 4)

// Weights of COUNT outputs from `first` on, [COUNT, TILED_STRIDE]; zeros beyond the matrix.
template <class F, int COUNT>
struct TiledWeights {
    DEVICE void load(Shared<float> to, const Matrix& matrix, int first, int input) {
        for (int i = threadIdx.x; i < COUNT * TILED_STEP / UNIT; i += THREADS) {
            const int o = i / (TILED_STEP / UNIT), k = i % (TILED_STEP / UNIT) * UNIT;
            float weight[UNIT] = {};
            if (first + o < matrix.outputs && input + k < matrix.inputs) RowUnit<F>::load(weight, matrix, first + o, input + k);
            store_unit(to + o * TILED_STRIDE + k, weight);
        }
    }
};

template <class F, int COUNT>
struct TiledWeights<InOut<F>, COUNT> {
    DEVICE void load(Shared<float> to, const Matrix& matrix, int first, int input) {
        // Neighbouring lanes take neighbouring inputs, which lie in different banks.
        for (int i = threadIdx.x; i < COUNT / UNIT * TILED_STEP; i += THREADS) {
            const int k = i % TILED_STEP, o = i / TILED_STEP * UNIT, output = first + o;
            float weight[UNIT] = {};
            if (output < matrix.outputs && input + k < matrix.inputs) {
                const u8* weights = matrix.data + (input + k) * row_bytes<F>(matrix.outputs);
                unpack<F>(weight, weights, output, matrix.outputs);
                const int group = (input + k) / matrix.scale_inputs;
                for (int n = 0; matrix.scales && n < min_of(matrix.outputs - output, UNIT); ++n) {
                    weight[n] *= scales_of(matrix, output + n)[group];
                }
            }
#pragma unroll
            for (int n = 0; n < UNIT; ++n) to[(o + n) * TILED_STRIDE + k] = weight[n];
        }
    }
};

static_assert(TILED_ROWS * TILED_STEP == THREADS * UNIT, "each thread copies one unit of a step");

// The row of which this thread copies a unit in each step. Beyond the last one it is that again, for sums that are nobody's.
DEVICE const float* copied_row(const Rows& rows, int inputs) {
    return row_of(rows, min_of(threadIdx.x / (TILED_STEP / UNIT), rows.count - 1), inputs);
}

// Copies a step of rows from `input` on, [TILED_ROWS, TILED_STRIDE]; zeros beyond the last input. WHOLE: inputs are whole steps.
template <bool WHOLE>
DEVICE void copy_rows(Shared<float> to, const float* row, int inputs, int input) {
    const int m = threadIdx.x / (TILED_STEP / UNIT), k = threadIdx.x % (TILED_STEP / UNIT) * UNIT;
    float value[UNIT] = {};
    if (WHOLE) {
        unpack_unit<f32>(value, (const u8*)row, input + k);
    } else if (input + k < inputs) {
        unpack<f32>(value, (const u8*)row, input + k, inputs);
    }
    store_unit(to + m * TILED_STRIDE + k, value);
}

// A thread's sums: sum[m][n] is of row `16 * m + threadIdx.x / 16`, output `16 * n + threadIdx.x % 16` of the block's.
typedef float TiledSums[OWN_ROWS][OWN_OUTPUTS];

// Adds a step's products. Others may still have to read what is there when it returns.
DEVICE void add_tiled_step(TiledSums& sum, Shared<float> values, Shared<float> weights) {
    const int row = threadIdx.x / 16, column = threadIdx.x % 16;
    __syncthreads();
#pragma unroll 1
    for (int k = 0; k < TILED_STEP; k += 4) {
        Four<float> value[OWN_ROWS];
#pragma unroll
        for (int m = 0; m < OWN_ROWS; ++m) value[m] = load_four(values + (m * 16 + row) * TILED_STRIDE + k);
#pragma unroll
        for (int n = 0; n < OWN_OUTPUTS; ++n) {
            const Four<float> weight = load_four(weights + (n * 16 + column) * TILED_STRIDE + k);
#pragma unroll
            for (int m = 0; m < OWN_ROWS; ++m) sum[m][n] = add_products(sum[m][n], weight, value[m]);
        }
    }
    __syncthreads();
}

// `add` adds the products of rows with TILED_OUTPUTS outputs from `first` on. Where there are two matrices, `b` has the second half of
// them, and both begin at `first`.
template <class F, bool TWO>
struct Tiled {
    static const int COUNT = TWO ? TILED_OUTPUTS / 2 : TILED_OUTPUTS;

    DEVICE void add(TiledSums& sum, Shared<float> values, Shared<float> weights, const Matrix& a, const Matrix& b, int first,
                    const Rows& rows) {
        const float* row = copied_row(rows, a.inputs);
        for (int input = 0; input < a.inputs; input += TILED_STEP) {
            copy_rows<false>(values, row, a.inputs, input);
            TiledWeights<F, COUNT>::load(weights, a, first, input);
            if (TWO) TiledWeights<F, COUNT>::load(weights + COUNT * TILED_STRIDE, b, first, input);
            add_tiled_step(sum, values, weights);
        }
    }
};

// A team of lanes takes TILE_OUTPUTS of the outputs. What a lane has of a tile stays in its registers while the tile's steps go by.
template <class F, bool TWO>
struct Tiled<Packed<F>, TWO> {
    typedef Packed<F> P;
    static const int COUNT = Tiled<F, TWO>::COUNT;
    static_assert(TILE_TEAMS * TILE_OUTPUTS == TILED_OUTPUTS, "each team has a tile");

    DEVICE void add(TiledSums& sum, Shared<float> values, Shared<float> weights, const Matrix& a, const Matrix& b, int first,
                    const Rows& rows) {
        const int lane = threadIdx.x % TILE_LANES, g = lane / 4, t = lane % 4;
        const int slot = threadIdx.x / TILE_LANES * TILE_OUTPUTS;
        Matrix matrix = a;
        if (TWO && slot >= COUNT) matrix = b;
        // Beyond the last one its sums are nobody's.
        const int output = min_of(first + slot % COUNT, matrix.outputs - TILE_OUTPUTS);
        const u8* tile = tiles_of<P>(matrix.data, matrix.inputs, output);
        const BesideScales beside = BesideScales::of(matrix, output + g);
        const float* row = copied_row(rows, a.inputs);
        const Shared<float> own_weights = weights + (slot + g) * TILED_STRIDE;
        for (int input = 0; input < a.inputs; input += TILE_INPUTS, tile += tile_bytes<P>()) {
            const Lane<P> own = Lane<P>::load(tile, lane);
            const float scale[2] = {BesideScales::at(beside, 0, input), BesideScales::at(beside, 1, input)};
#pragma unroll
            for (int first_step = 0; first_step < STEPS; first_step += TILED_STEP / 16) {
                copy_rows<true>(values, row, a.inputs, input + first_step * 16);
#pragma unroll
                for (int h = 0; h < 2; ++h) {
#pragma unroll
                    for (int s = 0; s < TILED_STEP / 16; ++s) {
                        const Four<float> weight = step_weights(own, h, first_step + s, scale[h]);
                        store_four(own_weights + 8 * h * TILED_STRIDE + step_input<P::RUN>(s, t), weight);
                    }
                }
                add_tiled_step(sum, values, weights);
            }
        }
    }
};

// Adds the products of `rows` with the outputs of a block.
template <class F, bool TWO>
DEVICE void tiled_product(TiledSums& sum, const Matrix& a, const Matrix& b, int first, const Rows& rows) {
    SHARED(float, values, TILED_ROWS * TILED_STRIDE);
    SHARED(float, weights, TILED_OUTPUTS * TILED_STRIDE);
    Tiled<F, TWO>::add(sum, values, weights, a, b, first, rows);
}
