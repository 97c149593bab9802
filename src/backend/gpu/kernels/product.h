// Products of activations with a strip of a matrix's outputs, for each way in which matrices lie in memory.
//
// A block computes the sums of OUTPUTS neighbouring outputs with up to MOST rows of activations, and reads each weight once. The
// order of a sum is fixed by the matrix's shape and the warp's width: neither the rows beside it nor MOST change its bits.
#pragma once
#include "formats.h"
#include "reduce.h"

// A weight matrix on the device; `Matrix` in mod.rs is the same.
struct Matrix {
    const u8* data;      // [outputs, inputs] or [inputs, outputs], as stored
    const float* scales; // [ceil(outputs / scale_outputs), ceil(inputs / scale_inputs)], or null
    int scale_inputs, scale_outputs;
    int inputs, outputs;
};

// The scales of an output.
DEVICE const float* scales_of(const Matrix& matrix, int output) {
    return matrix.scales + (u64)(output / matrix.scale_outputs) * ceil_div(matrix.inputs, matrix.scale_inputs);
}

// Multiplies weights `first` and following of an output by their scales.
DEVICE void scale_unit(float (&weight)[UNIT], const Matrix& matrix, int output, int first) {
    const float* scales = scales_of(matrix, output);
#pragma unroll
    for (int k = 0; k < UNIT; ++k) {
        if (first + k < matrix.inputs) weight[k] *= scales[(first + k) / matrix.scale_inputs];
    }
}

// Weights of an output from `first` on, UNIT of them, which is a multiple of UNIT; zeros beyond its end.
template <class F>
struct RowUnit {
    DEVICE void load(float (&out)[UNIT], const Matrix& matrix, int output, int first) {
        unpack<F>(out, matrix.data + output * row_bytes<F>(matrix.inputs), first, matrix.inputs);
        if (matrix.scales) scale_unit(out, matrix, output, first);
    }
};

// Rows of activations, and which of them are multiplied.
struct Rows {
    const float* x;     // [any, inputs]
    Shared<int> source; // [count]
    int count;
};

DEVICE const float* row_of(const Rows& rows, int index, int inputs) {
    return rows.x + (u64)rows.source[index] * inputs;
}

// Matrices stored [outputs, inputs]: a warp takes an output, its lanes the units of that row.
template <class F, int MOST>
struct Strip {
    static const int OUTPUTS = OUT_IN_STRIP;
    static const bool TOGETHER = false; // see `two_products`

    DEVICE u64 bytes(const Matrix& matrix) {
        return matrix.outputs * row_bytes<F>(matrix.inputs);
    }

    // `sums[o * MOST + r]` becomes the product of row `r` with output `first + o`, where both exist. The block has to wait before
    // it reads them.
    DEVICE void product(Shared<float> sums, const Matrix& matrix, int first, const Rows& rows) {
        for (int o = warp_index(); o < OUTPUTS && first + o < matrix.outputs; o += THREADS / WARP) {
            float sum[MOST] = {};
            if (!F::PLAIN || matrix.inputs % UNIT == 0) {
                add_units(sum, matrix, first + o, rows);
            } else {
                add_single(sum, matrix, first + o, rows);
            }
#pragma unroll
            for (int r = 0; r < MOST; ++r) {
                if (r < rows.count) {
                    const float total = warp_sum(sum[r]);
                    if (lane_index() == 0) sums[o * MOST + r] = total;
                }
            }
        }
    }

    // This lane's share of a row of whole units.
    DEVICE void add_units(float (&sum)[MOST], const Matrix& matrix, int output, const Rows& rows) {
        const int inputs = matrix.inputs;
        const u8* weights = matrix.data + output * row_bytes<F>(inputs);
        for (int i = lane_index() * UNIT; i < inputs; i += WARP * UNIT) {
            float weight[UNIT];
            unpack_unit<F>(weight, weights, i);
            if (matrix.scales) scale_unit(weight, matrix, output, i);
#pragma unroll
            for (int r = 0; r < MOST; ++r) {
                if (r < rows.count) {
                    float value[UNIT];
                    unpack_unit<f32>(value, (const u8*)row_of(rows, r, inputs), i);
#pragma unroll
                    for (int k = 0; k < UNIT; ++k) sum[r] = fmaf(weight[k], value[k], sum[r]);
                }
            }
        }
    }

    // The same for a row of any length of weights that stand by themselves.
    DEVICE void add_single(float (&sum)[MOST], const Matrix& matrix, int output, const Rows& rows) {
        if constexpr (F::PLAIN) {
            const int inputs = matrix.inputs;
            const u8* weights = matrix.data + output * row_bytes<F>(inputs);
            for (int i = lane_index(); i < inputs; i += WARP) {
                float weight = F::at(weights, i);
                if (matrix.scales) weight *= scales_of(matrix, output)[i / matrix.scale_inputs];
#pragma unroll
                for (int r = 0; r < MOST; ++r) {
                    if (r < rows.count) sum[r] = fmaf(weight, row_of(rows, r, inputs)[i], sum[r]);
                }
            }
        }
    }
};

// A format whose matrices are stored [inputs, outputs].
template <class F>
struct InOut;
typedef InOut<f32> f32_in_out;
typedef InOut<f16> f16_in_out;
typedef InOut<bf16> bf16_in_out;
typedef InOut<f8_e4m3> f8_e4m3_in_out;
typedef InOut<i8> i8_in_out;

// A thread takes UNIT neighbouring outputs of every SLICES-th input.
template <class F, int MOST>
struct Strip<InOut<F>, MOST> {
    static const int OUTPUTS = IN_OUT_STRIP, SLICES = THREADS * UNIT / OUTPUTS;
    static const bool TOGETHER = false;

    DEVICE u64 bytes(const Matrix& matrix) {
        return matrix.inputs * row_bytes<F>(matrix.outputs);
    }

    DEVICE void product(Shared<float> sums, const Matrix& matrix, int first, const Rows& rows) {
        const int slice = threadIdx.x / (OUTPUTS / UNIT), own = threadIdx.x % (OUTPUTS / UNIT) * UNIT;
        const int output = first + own;
        float sum[MOST][UNIT] = {};
        float factor[UNIT] = {};
        int scaled_to = 0; // inputs before this one are multiplied by `factor`
        for (int i = slice; i < matrix.inputs && output < matrix.outputs; i += SLICES) {
            float weight[UNIT];
            unpack<F>(weight, matrix.data + i * row_bytes<F>(matrix.outputs), output, matrix.outputs);
            if (matrix.scales) {
                if (i >= scaled_to) {
                    const int group = i / matrix.scale_inputs;
                    scaled_to = (group + 1) * matrix.scale_inputs;
                    load_factors(factor, matrix, output, group);
                }
#pragma unroll
                for (int k = 0; k < UNIT; ++k) weight[k] *= factor[k];
            }
#pragma unroll
            for (int r = 0; r < MOST; ++r) {
                if (r < rows.count) {
                    const float value = row_of(rows, r, matrix.inputs)[i];
#pragma unroll
                    for (int k = 0; k < UNIT; ++k) sum[r][k] = fmaf(weight[k], value, sum[r][k]);
                }
            }
        }
        add_slices(sums, sum, slice, own, rows.count);
    }

    DEVICE void load_factors(float (&factor)[UNIT], const Matrix& matrix, int output, int group) {
#pragma unroll
        for (int k = 0; k < UNIT; ++k) {
            if (output + k < matrix.outputs) factor[k] = scales_of(matrix, output + k)[group];
        }
    }

    DEVICE void add_slices(Shared<float> sums, const float (&sum)[MOST][UNIT], int slice, int own, int count) {
        SHARED(float, slices, SLICES * OUTPUTS);
#pragma unroll
        for (int r = 0; r < MOST; ++r) {
            if (r < count) {
                __syncthreads();
#pragma unroll
                for (int k = 0; k < UNIT; ++k) slices[slice * OUTPUTS + own + k] = sum[r][k];
                __syncthreads();
                if (threadIdx.x < OUTPUTS) {
                    float total = 0.0f;
#pragma unroll 1
                    for (int s = 0; s < SLICES; ++s) total += slices[s * OUTPUTS + threadIdx.x];
                    sums[threadIdx.x * MOST + r] = total;
                }
            }
        }
    }
};

// Rows `first` and following of `rows`, as many as there are up to `most`.
DEVICE Rows consecutive_rows(Shared<int> source, const float* x, int first, int rows, int most) {
    if (threadIdx.x < most) source[threadIdx.x] = first + threadIdx.x;
    __syncthreads();
    return {x, source, min_of(rows - first, most)};
}

// Products with two matrices of as many inputs, at once where that reads activations once.
template <class Product>
DEVICE void two_products(Shared<float> a_sums, const Matrix& a, int a_first, Shared<float> b_sums, const Matrix& b, int b_first,
                         const Rows& rows) {
    if constexpr (Product::TOGETHER) {
        Product::products(a_sums, a, a_first, b_sums, b, b_first, rows);
    } else {
        Product::product(a_sums, a, a_first, rows);
        Product::product(b_sums, b, b_first, rows);
    }
}
