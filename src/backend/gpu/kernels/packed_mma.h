// Products with packed matrices by matrix instructions: up to 16 rows of activations, which have to be bf16 values.
//
// The codes of a tile's step become bf16, exactly, and are a team's share of one instruction for 16 outputs and 8 rows; its sums over
// the steps with one scale are then scaled. A team is a warp of 32 lanes here.
#pragma once
#include "mma.h"
#include "packed_product.h"

// Two bf16 and two others, of whole numbers whose sums are bf16 too.
DEVICE u32 add_pairs(u32 a, u32 b) {
#ifdef SIMT_HOST
    return bf16_pair(bf16_to_f32(a) + bf16_to_f32(b), bf16_to_f32(a >> 16) + bf16_to_f32(b >> 16));
#else
    u32 out;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(out) : "r"(a), "r"(0x3f803f80u), "r"(b));
    return out;
#endif
}

// Bytes `first` and `first + 2` of a quad, with `above` over each.
DEVICE u32 spread_bytes(u32 quad, int first, u32 above) {
#ifdef SIMT_HOST
    return (quad >> first * 8 & 0x00ff00ff) | above << 8 | above << 24;
#else
    return __byte_perm(quad, above, 0x4240 + first * 0x0101);
#endif
}

// The values of a step as bf16: out[0] has the first two of its four weights, out[1] the others. For codes in planes.
template <class F>
struct Pairs {
    typedef Packed<F> P;
    struct Table {};

    // What `load` looks up, by all threads of a block; it waits for them.
    DEVICE Table table() {
        return {};
    }

    DEVICE void load(u32 (&out)[2], const Table&, const u32 (&words)[P::WORDS], int step) {
#pragma unroll
        for (int i = 0; i < 2; ++i) out[i] = pair(P::Codes::quad(words, step / 2 * 2 + i), step % 2);
    }

    DEVICE u32 pair(u32 quad, int first) {
        if constexpr (P::CODE_BITS < 8) {
            // A bf16 between 128 and 256 has a mantissa whose unit is 1.
            constexpr u32 less = 0xc300 + P::ZERO;
            return add_pairs(spread_bytes(quad, first, 0x43), less | less << 16);
        } else {
            // The upper bit is the sign of the code less 128, inverted: 128 or 256 is taken from its other bits and 128.
            const u32 codes = spread_bytes(quad, first, 0);
            return add_pairs(masked_below(codes, 0x007f007f, 0x43004300), (codes & 0x00800080) ^ 0xc380c380);
        }
    }
};

// For Q3_K's pairs, wherever bf16 have a mantissa for them.
template <>
struct Pairs<q3_k> {
    typedef Packed<q3_k> P;
    struct Table {};

    DEVICE Table table() {
        return {};
    }

    DEVICE void load(u32 (&out)[2], const Table&, const u32 (&words)[P::WORDS], int step) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const int pair = step * 2 + i, slot = pair % 5;
            if (pair >= P::PAIRS) {
                out[i] = add_pairs(P::spare_pair(words, pair) | 0x43004300, 0xc304c304);
            } else if (slot % 2 == 0) {
                // Above 128 the unit is the lowest bit; four more are subtracted.
                out[i] = add_pairs(masked_below(words[pair / 5] >> slot * 3, 0x00070007, 0x43004300), 0xc304c304);
            } else {
                // Above 16 it is the fourth.
                out[i] = add_pairs(masked_below(words[pair / 5] >> (slot - 1) * 3, 0x00380038, 0x41804180), 0xc1a0c1a0);
            }
        }
    }
};

// Words of a row of a table of 256 rows: as many as there are banks, so that lanes which look up different rows find them in different
// ones.
#define TABLE_ROW 32

// This lane's words, as a T, of the row that byte `index` of a word numbers. The word is shifted only as far as addresses want it.
template <class T>
DEVICE T table_element(Shared<u32> table, u32 word, int index) {
    const int down = index * 8 - 7;
    const u32 own = threadIdx.x % (TABLE_ROW * 4 / sizeof(T)) * sizeof(T);
    const u32 bytes = ((down < 0 ? word << -down : word >> down) & 0x7f80) | own;
#ifdef SIMT_HOST
    if constexpr (sizeof(T) == 4) {
        return {table[bytes / 4]};
    } else {
        return load_both(table + bytes / 4);
    }
#else
    return *(const T*)((const u8*)table + bytes);
#endif
}

// A word of table IQ4's values for each two codes.
template <>
struct Pairs<iq4_xs> {
    struct Table {
        Shared<u32> words; // [16, 16, TABLE_ROW]: by the second code, then by the first
    };

    DEVICE Table table() {
        SHARED(u32, words, 256 * TABLE_ROW);
        static_assert(THREADS / TABLE_ROW == 8, "a thread has two of the first codes");
        const int row = threadIdx.x / TABLE_ROW, column = threadIdx.x % TABLE_ROW;
        const float firsts[2] = {IQ4[row], IQ4[row + 8]};
#pragma unroll
        for (int second = 0; second < 16; ++second) {
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                words[(second * 16 + i * 8 + row) * TABLE_ROW + column] = bf16_pair(firsts[i], IQ4[second]);
            }
        }
        __syncthreads();
        return {words};
    }

    DEVICE void load(u32 (&out)[2], const Table& table, const u32 (&words)[8], int step) {
#pragma unroll
        for (int i = 0; i < 2; ++i) out[i] = table_element<u32>(table.words, words[step / 2], step % 2 * 2 + i);
    }
};

// A point's four coordinates.
template <>
struct Pairs<iq3_xxs> {
    typedef Packed<iq3_xxs> P;
    struct Table {
        Shared<u32> words; // [256, TABLE_ROW]: two for each of half as many lanes
    };

    DEVICE Table table() {
        SHARED(u32, words, 256 * TABLE_ROW);
        for (int point = threadIdx.x / 8; point < 256; point += THREADS / 8) {
            const u32 bytes = IQ3_XXS[point];
            const u32 first = bf16_pair(byte_of(bytes, 0), byte_of(bytes, 1));
            const u32 second = bf16_pair(byte_of(bytes, 2), byte_of(bytes, 3));
            store_four(words + point * TABLE_ROW + threadIdx.x % 8 * 4, {first, second, first, second});
        }
        __syncthreads();
        return {words};
    }

    DEVICE void load(u32 (&out)[2], const Table& table, const u32 (&words)[P::WORDS], int step) {
        const Both<u32> four = table_element<Both<u32>>(table.words, words[step / 4], step % 4);
        const u32 signs = words[4 + step / 8];
#pragma unroll
        for (int i = 0; i < 2; ++i) out[i] = four.values[i] ^ (signs << (15 - P::sign_place(step, 2 * i)) & 0x80008000u);
    }
};

// A packed format, multiplied by matrix instructions.
template <class F>
struct Mma;
typedef Mma<q8_0> q8_0_packed_mma;
typedef Mma<q4_0> q4_0_packed_mma;
typedef Mma<q3_k> q3_k_packed_mma;
typedef Mma<q4_k> q4_k_packed_mma;
typedef Mma<q5_k> q5_k_packed_mma;
typedef Mma<q6_k> q6_k_packed_mma;
typedef Mma<iq4_xs> iq4_xs_packed_mma;
typedef Mma<iq3_xxs> iq3_xxs_packed_mma;
typedef Mma<i8> i8_packed_mma;
typedef Mma<InOut<i8>> i8_in_out_packed_mma;

template <class F, int MOST>
struct Strip<Mma<F>, MOST> {
    typedef Packed<F> P;
    static const int OUTPUTS = TILE_OUTPUTS;
    static const bool TOGETHER = true;
    // Instructions, and rows of activations that they take.
    static const int COUNT = (MOST + 7) / 8, COLUMNS = COUNT * 8;
    // Whether columns are of one row: see `add_eight_alone`. Then column 0 of the totals is the row's.
    static const bool ALONE = MOST == 1 && !P::BESIDE;

    // Sums as an instruction gives them: this lane's of rows g and g + 8, two columns each.
    typedef float Sums[COUNT][4];

    DEVICE u64 bytes(const Matrix& matrix) {
        return packed_bytes<P>(matrix.inputs, matrix.outputs);
    }

    DEVICE void product(Shared<float> sums, const Matrix& matrix, int first, const Rows& rows) {
        Sums total[1] = {};
        const u8* const tiles[1] = {tiles_of<P>(matrix.data, matrix.inputs, first)};
        const BesideScales scales[1] = {BesideScales::of(matrix, first + threadIdx.x % TILE_LANES / 4)};
        add_tiles(total, tiles, scales, matrix.inputs, rows);
        add_teams(sums, total[0], rows.count);
    }

    DEVICE void products(Shared<float> a_sums, const Matrix& a, int a_first, Shared<float> b_sums, const Matrix& b,
                         int b_first, const Rows& rows) {
        const int g = threadIdx.x % TILE_LANES / 4;
        Sums total[2] = {};
        const u8* const tiles[2] = {tiles_of<P>(a.data, a.inputs, a_first), tiles_of<P>(b.data, b.inputs, b_first)};
        const BesideScales scales[2] = {BesideScales::of(a, a_first + g), BesideScales::of(b, b_first + g)};
        add_tiles(total, tiles, scales, a.inputs, rows);
        add_teams(a_sums, total[0], rows.count);
        add_teams(b_sums, total[1], rows.count);
    }

    template <int MATRICES>
    DEVICE void add_tiles(Sums (&total)[MATRICES], const u8* const (&tiles)[MATRICES], const BesideScales (&scales)[MATRICES],
                          int inputs, const Rows& rows) {
        const int lane = threadIdx.x % TILE_LANES, g = lane / 4, t = lane % 4;
        const auto table = Pairs<F>::table();
        // What this lane loads for its column: of each instruction; columns beyond the last row are not looked at.
        const float* x[COUNT];
#pragma unroll
        for (int n = 0; n < COUNT; ++n) {
            const int row = ALONE ? 0 : min_of(g + n * 8, rows.count - 1);
            x[n] = row_of(rows, row, inputs) + step_input<P::RUN>(ALONE ? g * P::SCALE_STEPS : 0, t);
        }
        for (int i = threadIdx.x / TILE_LANES; i < inputs / TILE_INPUTS; i += TILE_TEAMS) {
            Lane<P> own[MATRICES];
#pragma unroll
            for (int m = 0; m < MATRICES; ++m) own[m] = Lane<P>::load(tiles[m] + (u64)i * tile_bytes<P>(), lane);
            if constexpr (P::BESIDE) {
                Sums part[MATRICES] = {}, ones = {};
#pragma unroll
                for (int step = 0; step < STEPS; ++step) add_step(part, ones, table, own, x, i * TILE_INPUTS, step);
#pragma unroll
                for (int m = 0; m < MATRICES; ++m) {
#pragma unroll
                    for (int h = 0; h < 2; ++h) {
                        add_scaled(total[m], h, BesideScales::at(scales[m], h, i * TILE_INPUTS), part[m]);
                    }
                }
            } else {
#pragma unroll
                for (int first = 0; first < STEPS; first += 8 * P::SCALE_STEPS) {
                    if constexpr (ALONE) {
                        add_eight_alone(total, table, own, x[0], i * TILE_INPUTS, first);
                    } else {
                        add_eight(total, table, own, x, i * TILE_INPUTS, first);
                    }
                }
            }
        }
    }

    // One row: each of eight columns is of other steps, those with one scale, so that lanes scale no more than two columns. The steps of
    // eight scales from `first` on.
    template <int MATRICES, class Table>
    DEVICE void add_eight_alone(Sums (&total)[MATRICES], const Table& table, const Lane<P> (&own)[MATRICES], const float* x,
                                int input, int first) {
        const int g = threadIdx.x % TILE_LANES / 4, t = threadIdx.x % 4;
        u32 column[P::SCALE_STEPS][2];
#pragma unroll
        for (int j = 0; j < P::SCALE_STEPS; ++j) load_pairs(column[j], x, input + step_input<P::RUN>(first + j, 0));
        Sums part[MATRICES] = {}, ones = {};
#pragma unroll
        for (int j = 0; j < 8 * P::SCALE_STEPS; ++j) {
            const u32* const all = column[j % P::SCALE_STEPS];
            const bool mine = g == j / P::SCALE_STEPS;
            const u32 b[1][2] = {{mine ? all[0] : 0, mine ? all[1] : 0}};
            multiply(part, ones, table, own, b, first + j);
        }
#pragma unroll
        for (int m = 0; m < MATRICES; ++m) {
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                const auto& scales = own[m].scales[h];
                const float* const both = part[m][0] + 2 * h;
                const ScalePair run = P::Scales::runs(scales, first > 0, t);
                float sum = P::Scales::block(scales) * fmaf(run.second, both[1], run.first * both[0]);
                if constexpr (P::MINS) {
                    const ScalePair min = P::Scales::min_runs(scales, t);
                    sum = fmaf(-P::Scales::min_block(scales), fmaf(min.second, ones[0][1], min.first * ones[0][0]), sum);
                }
                total[m][0][2 * h] += lanes_sum<4>(sum);
            }
        }
    }

    // Several rows, with sums in the same order.
    template <int MATRICES, class Table>
    DEVICE void add_eight(Sums (&total)[MATRICES], const Table& table, const Lane<P> (&own)[MATRICES],
                          const float* const (&x)[COUNT], int input, int first) {
        Sums sum[2][MATRICES] = {};
#pragma unroll
        for (int two = 0; two < 4; ++two) {
            Sums scaled[MATRICES] = {}, mins[MATRICES] = {};
#pragma unroll
            for (int j = 0; j < 2; ++j) {
                const int index = first / P::SCALE_STEPS + two * 2 + j;
                Sums part[MATRICES] = {}, ones = {};
#pragma unroll
                for (int k = 0; k < P::SCALE_STEPS; ++k) {
                    add_step(part, ones, table, own, x, input, index * P::SCALE_STEPS + k);
                }
#pragma unroll
                for (int m = 0; m < MATRICES; ++m) {
#pragma unroll
                    for (int h = 0; h < 2; ++h) {
                        add_scaled(scaled[m], h, P::Scales::run(own[m].scales[h], index), part[m]);
                        if constexpr (P::MINS) add_scaled(mins[m], h, P::Scales::min_run(own[m].scales[h], index), ones);
                    }
                }
            }
#pragma unroll
            for (int m = 0; m < MATRICES; ++m) {
#pragma unroll
                for (int h = 0; h < 2; ++h) {
                    Sums both = {};
                    add_scaled(both, h, P::Scales::block(own[m].scales[h]), scaled[m]);
                    if constexpr (P::MINS) add_scaled(both, h, -P::Scales::min_block(own[m].scales[h]), mins[m]);
                    add_row(sum[two % 2][m], h, both);
                }
            }
        }
#pragma unroll
        for (int m = 0; m < MATRICES; ++m) {
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                add_row(sum[0][m], h, sum[1][m]);
                add_row(total[m], h, sum[0][m]);
            }
        }
    }

    template <int MATRICES, class Table>
    DEVICE void add_step(Sums (&part)[MATRICES], Sums& ones, const Table& table, const Lane<P> (&own)[MATRICES],
                         const float* const (&x)[COUNT], int input, int step) {
        u32 b[COUNT][2];
#pragma unroll
        for (int n = 0; n < COUNT; ++n) load_pairs(b[n], x[n], input + step_input<P::RUN>(step, 0));
        multiply(part, ones, table, own, b, step);
    }

    // Adds a step's products, and of formats with minima its activations.
    template <int MATRICES, class Table>
    DEVICE void multiply(Sums (&part)[MATRICES], Sums& ones, const Table& table, const Lane<P> (&own)[MATRICES],
                         const u32 (&b)[COUNT][2], int step) {
#pragma unroll
        for (int m = 0; m < MATRICES; ++m) {
            u32 upper[2], lower[2];
            Pairs<F>::load(upper, table, own[m].words[0], step);
            Pairs<F>::load(lower, table, own[m].words[1], step);
            const u32 a[4] = {upper[0], lower[0], upper[1], lower[1]};
#pragma unroll
            for (int n = 0; n < COUNT; ++n) multiply_add(part[m][n], a, b[n]);
        }
        if constexpr (P::MINS) {
            const u32 one = 0x3f803f80;
            const u32 a[4] = {one, one, one, one};
#pragma unroll
            for (int n = 0; n < COUNT; ++n) multiply_add(ones[n], a, b[n]);
        }
    }

    // Of row g, or g + 8.
    DEVICE void add_scaled(Sums& to, int h, float scale, const Sums& from) {
#pragma unroll
        for (int n = 0; n < COUNT; ++n) {
#pragma unroll
            for (int i = 2 * h; i < 2 * h + 2; ++i) to[n][i] = fmaf(scale, from[n][i], to[n][i]);
        }
    }

    DEVICE void add_row(Sums& to, int h, const Sums& from) {
#pragma unroll
        for (int n = 0; n < COUNT; ++n) {
#pragma unroll
            for (int i = 2 * h; i < 2 * h + 2; ++i) to[n][i] += from[n][i];
        }
    }

    // Four activations.
    DEVICE void load_pairs(u32 (&out)[2], const float* x, int first) {
        const Sixteen all = *(const Sixteen*)(x + first);
#pragma unroll
        for (int i = 0; i < 2; ++i) out[i] = exact_pair(float_of(all.words[2 * i]), float_of(all.words[2 * i + 1]));
    }

    DEVICE void add_teams(Shared<float> sums, const Sums& total, int count) {
        SHARED(float, teams, TILE_TEAMS * TILE_OUTPUTS * COLUMNS); // [teams, outputs, rows]
        const int team = threadIdx.x / TILE_LANES, lane = threadIdx.x % TILE_LANES;
        __syncthreads();
#pragma unroll
        for (int n = 0; n < COUNT; ++n) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const int output = lane / 4 + i / 2 * 8, row = n * 8 + lane % 4 * 2 + i % 2;
                if (row < count) teams[(team * TILE_OUTPUTS + output) * COLUMNS + row] = total[n][i];
            }
        }
        __syncthreads();
        for (int i = threadIdx.x; i < TILE_OUTPUTS * MOST; i += THREADS) {
            const int output = i / MOST, row = i % MOST;
            if (row < count) {
                float all = 0.0f;
                for (int other = 0; other < TILE_TEAMS; ++other) {
                    all += teams[(other * TILE_OUTPUTS + output) * COLUMNS + row];
                }
                sums[i] = all;
            }
        }
    }
};
