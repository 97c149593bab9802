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
        for (int i = threadIdx.x; i < COUNT / UNIT * TILED_STEP; i += THREADS) {
            const int k = i / (COUNT / UNIT), o = i % (COUNT / UNIT) * UNIT, output = first + o;
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

// Adds the products of `rows` with the outputs of a tile from `first` on. Where there are two matrices, `b` has its second half and both
// begin at `first`. sum[m][n] is of row `16 * m + threadIdx.x / 16`, output `16 * n + threadIdx.x % 16` of the tile.
template <class F, bool TWO>
DEVICE void tiled_product(float (&sum)[OWN_ROWS][OWN_OUTPUTS], const Matrix& a, const Matrix& b, int first, const Rows& rows) {
    SHARED(float, values, TILED_ROWS * TILED_STRIDE);
    SHARED(float, weights, TILED_OUTPUTS * TILED_STRIDE);
    static const int COUNT = TWO ? TILED_OUTPUTS / 2 : TILED_OUTPUTS;
    const int row = threadIdx.x / 16, column = threadIdx.x % 16;
    for (int input = 0; input < a.inputs; input += TILED_STEP) {
        for (int i = threadIdx.x; i < TILED_ROWS * TILED_STEP / UNIT; i += THREADS) {
            const int m = i / (TILED_STEP / UNIT), k = i % (TILED_STEP / UNIT) * UNIT;
            float value[UNIT] = {};
            if (m < rows.count && input + k < a.inputs) {
                unpack<f32>(value, (const u8*)row_of(rows, m, a.inputs), input + k, a.inputs);
            }
            store_unit(values + m * TILED_STRIDE + k, value);
        }
        TiledWeights<F, COUNT>::load(weights, a, first, input);
        if (TWO) TiledWeights<F, COUNT>::load(weights + COUNT * TILED_STRIDE, b, first, input);
        __syncthreads();
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
}
