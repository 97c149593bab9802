// Products with packed matrices: a team of lanes takes every TILE_TEAMS-th tile of TILE_OUTPUTS outputs.
//
// Codes are multiplied first and their sums then scaled, once for each scale: an exact weight differs from that of `src/quant` by its
// rounding only. The order of a sum is fixed by the matrix's shape alone.
#pragma once
#include "packed_formats.h"
#include "product.h"

#ifdef __CUDACC__
#define FEW_ROWS 4
#else
// AMD's compiler spills with more.
#define FEW_ROWS 1
#endif

// Whether one row's products with two matrices want more registers than there are: where codes are looked up, AMD's compiler takes all
// of that to the front.
template <class P>
struct Crowded {
    static const bool VALUE = false;
};
#ifndef __CUDACC__
template <>
struct Crowded<Packed<iq4_xs>> {
    static const bool VALUE = true;
};
#endif

// The scales beside the matrix of both rows of a lane.
struct BesideScales {
    const float* rows[2]; // or null
    int inputs;

    // Of outputs `output` and, if there is one, `output + 8`.
    DEVICE BesideScales of(const Matrix& matrix, int output) {
        if (!matrix.scales) return {{nullptr, nullptr}, 1};
        const int other = min_of(output + 8, matrix.outputs - 1);
        return {{scales_of(matrix, output), scales_of(matrix, other)}, matrix.scale_inputs};
    }

    DEVICE float at(const BesideScales& scales, int h, int input) {
        return scales.rows[h] ? scales.rows[h][input / scales.inputs] : 1.0f;
    }
};

template <class F, int MOST>
struct Strip<Packed<F>, MOST> {
    typedef Packed<F> P;
    static const int OUTPUTS = TILE_OUTPUTS;
    // Beyond, there are not registers enough.
    static const bool TOGETHER = MOST <= 4 && !(MOST == 1 && Crowded<P>::VALUE);
    // Rows that share what is unpacked, where there are registers for their sums.
    static const int FEW = MOST < FEW_ROWS ? MOST : FEW_ROWS;

    DEVICE u64 bytes(const Matrix& matrix) {
        return packed_bytes<P>(matrix.inputs, matrix.outputs);
    }

    DEVICE void product(Shared<float> sums, const Matrix& matrix, int first, const Rows& rows) {
        float total[1][2][MOST] = {};
        const u8* const tiles[1] = {tiles_of<P>(matrix.data, matrix.inputs, first)};
        const BesideScales scales[1] = {BesideScales::of(matrix, first + threadIdx.x % TILE_LANES / 4)};
        add_tiles(total, tiles, scales, matrix.inputs, rows);
        add_teams(sums, total[0], rows.count);
    }

    DEVICE void products(Shared<float> a_sums, const Matrix& a, int a_first, Shared<float> b_sums, const Matrix& b,
                         int b_first, const Rows& rows) {
        const int g = threadIdx.x % TILE_LANES / 4;
        float total[2][2][MOST] = {};
        const u8* const tiles[2] = {tiles_of<P>(a.data, a.inputs, a_first), tiles_of<P>(b.data, b.inputs, b_first)};
        const BesideScales scales[2] = {BesideScales::of(a, a_first + g), BesideScales::of(b, b_first + g)};
        add_tiles(total, tiles, scales, a.inputs, rows);
        add_teams(a_sums, total[0], rows.count);
        add_teams(b_sums, total[1], rows.count);
    }

    // This lane's share of the tiles that are its team's.
    template <int COUNT>
    DEVICE void add_tiles(float (&total)[COUNT][2][MOST], const u8* const (&tiles)[COUNT],
                          const BesideScales (&scales)[COUNT], int inputs, const Rows& rows) {
        const int lane = threadIdx.x % TILE_LANES;
        for (int i = threadIdx.x / TILE_LANES; i < inputs / TILE_INPUTS; i += TILE_TEAMS) {
            Lane<P> own[COUNT];
#pragma unroll
            for (int c = 0; c < COUNT; ++c) own[c] = Lane<P>::load(tiles[c] + (u64)i * tile_bytes<P>(), lane);
            if constexpr (MOST == FEW) {
                add_rows(total, own, scales, i * TILE_INPUTS, inputs, rows, 0);
            } else {
#pragma unroll 1
                for (int row = 0; row < rows.count; row += FEW) {
                    forget(own);
                    add_rows(total, own, scales, i * TILE_INPUTS, inputs, rows, row);
                }
            }
        }
    }

    // A tile's products with FEW rows from `row` on.
    template <int COUNT>
    DEVICE void add_rows(float (&total)[COUNT][2][MOST], const Lane<P> (&own)[COUNT], const BesideScales (&scales)[COUNT],
                         int first, int inputs, const Rows& rows, int row) {
        float sum[COUNT][2][FEW] = {}, mins[COUNT][2][FEW] = {};
        add_tile(sum, mins, own, first, inputs, rows, row);
#pragma unroll
        for (int c = 0; c < COUNT; ++c) {
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                const float scale =
                    P::BESIDE ? BesideScales::at(scales[c], h, first) : P::Scales::block(own[c].scales[h]);
                add_scaled<FEW>(total[c][h] + row, scale, sum[c][h]);
                if constexpr (P::MINS) {
                    add_scaled<FEW>(total[c][h] + row, -P::Scales::min_block(own[c].scales[h]), mins[c][h]);
                }
            }
        }
    }

    // Keeps the compiler from unpacking once for all rows: there are not registers enough for that.
    template <int COUNT>
    DEVICE void forget(Lane<P> (&own)[COUNT]) {
#pragma unroll
        for (int c = 0; c < COUNT; ++c) {
#pragma unroll
            for (int i = 0; i < 2 * P::WORDS; ++i) forget_value(own[c].words[i / P::WORDS][i % P::WORDS]);
        }
    }

    // Sums of a tile with FEW rows from `row` on, before its outputs' scales multiply them.
    template <int COUNT>
    DEVICE void add_tile(float (&sum)[COUNT][2][FEW], float (&mins)[COUNT][2][FEW], const Lane<P> (&own)[COUNT], int first,
                         int inputs, const Rows& rows, int row) {
        const int t = threadIdx.x % 4;
        float part[COUNT][2][FEW] = {}, ones[FEW] = {}; // of the steps with one scale
#pragma unroll
        for (int step = 0; step < STEPS; ++step) {
            float value[COUNT][2][4];
#pragma unroll
            for (int c = 0; c < COUNT; ++c) {
#pragma unroll
                for (int h = 0; h < 2; ++h) P::values(value[c][h], own[c].words[h], step);
            }
#pragma unroll
            for (int r = 0; r < FEW; ++r) {
                if (r > 0 && row + r >= rows.count) break;
                float x[4];
                load_four(x, row_of(rows, row + r, inputs) + first + step_input<P::RUN>(step, t));
#pragma unroll
                for (int c = 0; c < COUNT; ++c) {
#pragma unroll
                    for (int h = 0; h < 2; ++h) {
#pragma unroll
                        for (int k = 0; k < 4; ++k) part[c][h][r] = fmaf(value[c][h][k], x[k], part[c][h][r]);
                    }
                }
                if (P::MINS) ones[r] += x[0] + x[1] + (x[2] + x[3]);
            }
            // Loads of all steps at once would want more registers than there are.
            if (MOST > 1 && step % 2 == 1) keep_loads();
            if (step % P::SCALE_STEPS != P::SCALE_STEPS - 1) continue;
            const int index = step / P::SCALE_STEPS;
#pragma unroll
            for (int c = 0; c < COUNT; ++c) {
#pragma unroll
                for (int h = 0; h < 2; ++h) {
                    add_scaled<FEW>(sum[c][h], P::Scales::run(own[c].scales[h], index), part[c][h]);
                    if constexpr (P::MINS) {
                        add_scaled<FEW>(mins[c][h], P::Scales::min_run(own[c].scales[h], index), ones);
                    }
#pragma unroll
                    for (int r = 0; r < FEW; ++r) part[c][h][r] = 0.0f;
                }
            }
#pragma unroll
            for (int r = 0; r < FEW; ++r) ones[r] = 0.0f;
        }
    }

    template <int LENGTH>
    DEVICE void add_scaled(float* to, float scale, const float* from) {
#pragma unroll
        for (int i = 0; i < LENGTH; ++i) to[i] = fmaf(scale, from[i], to[i]);
    }

    DEVICE void load_four(float (&out)[4], const float* at) {
        const Sixteen all = *(const Sixteen*)at;
#pragma unroll
        for (int k = 0; k < 4; ++k) out[k] = float_of(all.words[k]);
    }

    DEVICE void add_teams(Shared<float> sums, const float (&total)[2][MOST], int count) {
        SHARED(float, teams, TILE_TEAMS * TILE_OUTPUTS * MOST); // [teams, outputs, rows]
        const int team = threadIdx.x / TILE_LANES, lane = threadIdx.x % TILE_LANES;
        __syncthreads();
#pragma unroll
        for (int h = 0; h < 2; ++h) {
#pragma unroll
            for (int r = 0; r < MOST; ++r) {
                if (r < count) {
                    const float four = lanes_sum<4>(total[h][r]);
                    if (lane % 4 == 0) teams[(team * TILE_OUTPUTS + lane / 4 + 8 * h) * MOST + r] = four;
                }
            }
        }
        __syncthreads();
        for (int i = threadIdx.x; i < TILE_OUTPUTS * MOST; i += THREADS) {
            if (i % MOST < count) {
                float all = 0.0f;
                for (int other = 0; other < TILE_TEAMS; ++other) all += teams[other * TILE_OUTPUTS * MOST + i];
                sums[i] = all;
            }
        }
    }
};

// The weights of a step of one of a lane's rows. `beside` is their scale where that lies beside the matrix.
template <class P>
DEVICE Four<float> step_weights(const Lane<P>& own, int h, int step, float beside) {
    const int index = step / P::SCALE_STEPS;
    const float scale = P::BESIDE ? beside : P::Scales::scale(own.scales[h], index);
    float value[4];
    P::values(value, own.words[h], step);
    Four<float> out;
#pragma unroll
    for (int k = 0; k < 4; ++k) {
        out.values[k] = scale * value[k];
        if (P::MINS) out.values[k] -= P::Scales::min(own.scales[h], index);
    }
    return out;
}

// Of a row: four weights each of two steps or of two lanes.
template <class F>
struct RowUnit<Packed<F>> {
    typedef Packed<F> P;

    DEVICE void load(float (&out)[UNIT], const Matrix& matrix, int output, int first) {
        const u8* tile = tiles_of<P>(matrix.data, matrix.inputs, output) + (u64)(first / TILE_INPUTS) * tile_bytes<P>();
        const float beside = BesideScales::at(BesideScales::of(matrix, output), 0, first);
        for (int four = 0; four < UNIT; four += 4) {
            const StepPlace at = step_place<P::RUN>((first + four) % TILE_INPUTS);
            const Lane<P> own = Lane<P>::load(tile, output % 8 * 4 + at.t);
            const Four<float> weight = step_weights(own, output % TILE_OUTPUTS / 8, at.step, beside);
            for (int k = 0; k < 4; ++k) out[four + k] = weight.values[k];
        }
    }
};
