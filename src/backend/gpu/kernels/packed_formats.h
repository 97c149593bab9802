// The packed formats. `Packed<F>` is made of matrices of F; it is a struct with
//   WORDS                      of codes, for each lane and row,
//   RUN                        neighbours that a lane has, 8 or 4: see `step_input`,
//   SCALE_STEPS                steps that share a scale,
//   MINS                       whether a minimum is subtracted,
//   BESIDE                     whether scales lie beside the matrix, instead,
//   values(out, words, step)   the codes of a step as the whole numbers they stand for, of eight significant bits at most,
//   Scales                     those of a row of a tile: BYTES, load(section, row), and two factors, block(scales) and
//                              run(scales, index), and where MINS says so those of the minimum, min_block and min_run; runs(scales,
//                              set, t) and min_runs(scales, t) are those of indices 8 * set + 2 * t and the next;
// and for making them
//   word(stored, first, output, t, n)                 word n of a lane's codes of an output, in the tile whose inputs begin at `first`,
//   Scales::pack(section, row, stored, first, output).
// A weight is `block * run * value`, less `min_block * min_run`, and has the bits of `src/quant`.
#pragma once
#include "formats.h"
#include "packed.h"

template <class F>
struct InOut;

template <class F>
struct Packed;

// A matrix as it is stored.
struct Stored {
    const u8* data;
    int inputs, outputs;
};

// The block of an input of an output.
template <class F>
DEVICE const u8* block_of(const Stored& stored, int output, int input) {
    return stored.data + output * row_bytes<F>(stored.inputs) + (u64)(input / F::WEIGHTS) * F::BYTES;
}

// ScalePair neighbouring scales.
struct ScalePair {
    float first, second;
};

// One of four words.
DEVICE u32 one_of(const u32 (&words)[4], int index) {
    const u32 low = index & 1 ? words[1] : words[0], high = index & 1 ? words[3] : words[2];
    return index & 2 ? high : low;
}

// S with both factors multiplied.
template <class S, bool MINS>
struct Scaled : S {
    DEVICE Scaled load(const u8* section, int row) {
        return {S::load(section, row)};
    }

    DEVICE float scale(const S& all, int index) {
        return S::block(all) * S::run(all, index);
    }

    DEVICE float min(const S& all, int index) {
        if constexpr (MINS) {
            return S::min_block(all) * S::min_run(all, index);
        } else {
            return 0.0f;
        }
    }
};

// Codes in planes, which stand for themselves less ZERO.
template <class F, int LOW, int HIGH, int RUN_, int ZERO_>
struct Plain {
    typedef Planes<LOW, HIGH> Codes;
    static const int WORDS = Codes::WORDS, RUN = RUN_, SCALE_STEPS = RUN / 4, CODE_BITS = LOW + HIGH, ZERO = ZERO_;
    static const bool MINS = false, BESIDE = false;

    DEVICE void values(float (&out)[4], const u32 (&words)[WORDS], int step) {
#pragma unroll
        for (int k = 0; k < 4; ++k) {
            out[k] = code_of(Codes::quad(words, step / 2 * 2 + k / 2), step % 2 + k % 2 * 2, ZERO);
        }
    }

    DEVICE u32 word(const Stored& stored, int first, int output, int t, int n) {
        return Codes::word(n, [&](int eight, int within) {
            const int step = eight * 2 + within / 4;
            return Packed<F>::code(stored, output, first + step_input<RUN>(step, t) + within % 4);
        });
    }
};

// An f16 for each 32 weights, as the blocks have it at their beginning.
template <class F>
struct HalfScales {
    static const int BYTES = 16;
    u32 words[4];

    DEVICE HalfScales load(const u8* section, int row) {
        const Sixteen all = ((const Sixteen*)section)[row];
        return {{all.words[0], all.words[1], all.words[2], all.words[3]}};
    }

    DEVICE float block(const HalfScales&) {
        return 1.0f;
    }

    DEVICE float run(const HalfScales& all, int index) {
        return f16_to_f32(all.words[index / 2] >> index % 2 * 16);
    }

    DEVICE ScalePair runs(const HalfScales& all, int, int t) {
        const u32 both = one_of(all.words, t);
        return {f16_to_f32(both), f16_to_f32(both >> 16)};
    }

    DEVICE void pack(u8* section, int row, const Stored& stored, int first, int output) {
        u16* out = (u16*)section + row * 8;
        for (int i = 0; i < 8; ++i) out[i] = load_16(block_of<F>(stored, output, first + i * 32));
    }
};

template <>
struct Packed<q8_0> : Plain<q8_0, 8, 0, 8, 128> {
    typedef Scaled<HalfScales<q8_0>, MINS> Scales;

    DEVICE u32 code(const Stored& stored, int output, int input) {
        return block_of<q8_0>(stored, output, input)[2 + input % 32] ^ 0x80;
    }
};

template <>
struct Packed<q4_0> : Plain<q4_0, 4, 0, 8, 8> {
    typedef Scaled<HalfScales<q4_0>, MINS> Scales;

    DEVICE u32 code(const Stored& stored, int output, int input) {
        return nibble_of_halves(block_of<q4_0>(stored, output, input) + 2, input % 32);
    }
};

// Scales that lie beside the matrix.
struct NoScales {
    static const int BYTES = 0;

    DEVICE NoScales load(const u8*, int) {
        return {};
    }

    DEVICE float block(const NoScales&) {
        return 1.0f;
    }

    DEVICE float run(const NoScales&, int) {
        return 1.0f;
    }

    DEVICE void pack(u8*, int, const Stored&, int, int) {}
};

template <class F>
struct PackedBytes : Plain<F, 8, 0, 8, 128> {
    static const int SCALE_STEPS = STEPS;
    static const bool BESIDE = true;
    typedef Scaled<NoScales, false> Scales;
};

template <>
struct Packed<i8> : PackedBytes<i8> {
    DEVICE u32 code(const Stored& stored, int output, int input) {
        return stored.data[(u64)output * stored.inputs + input] ^ 0x80;
    }
};

template <>
struct Packed<InOut<i8>> : PackedBytes<InOut<i8>> {
    DEVICE u32 code(const Stored& stored, int output, int input) {
        return stored.data[(u64)input * stored.outputs + output] ^ 0x80;
    }
};

// Number `index` of eight of six bits in the lower 24 bits of two words, less `zero`.
DEVICE float six_bits(u32 first, u32 second, int index, float zero) {
    return field_of<6>(index < 4 ? first : second, index % 4 * 6, zero);
}

// Numbers 2 * t and 2 * t + 1.
DEVICE ScalePair two_sixes(u32 first, u32 second, int t, float zero) {
    const u32 both = (t & 2 ? second : first) >> t % 2 * 12;
    return {field_of<6>(both, 0, zero), field_of<6>(both, 6, zero)};
}

// Four numbers of six bits.
template <class Number>
DEVICE u32 four_sixes(Number number, int first) {
    return number(first) | number(first + 1) << 6 | number(first + 2) << 12 | number(first + 3) << 18;
}

// Of Q4_K and Q5_K: both f16, then a word of four scales, one of the others, one of four minima; the other minima are their upper bytes.
template <class F>
struct RunScales {
    static const int BYTES = 16;
    u32 halves, scales[2], mins[2];

    DEVICE RunScales load(const u8* section, int row) {
        const Sixteen all = ((const Sixteen*)section)[row];
        const u32 a = all.words[1], b = all.words[2], c = all.words[3];
        return {all.words[0], {a, b}, {c, a >> 24 | b >> 24 << 8 | c >> 24 << 16}};
    }

    DEVICE float block(const RunScales& all) {
        return f16_to_f32(all.halves);
    }

    DEVICE float run(const RunScales& all, int index) {
        return six_bits(all.scales[0], all.scales[1], index, 0);
    }

    DEVICE ScalePair runs(const RunScales& all, int, int t) {
        return two_sixes(all.scales[0], all.scales[1], t, 0);
    }

    DEVICE float min_block(const RunScales& all) {
        return f16_to_f32(all.halves >> 16);
    }

    DEVICE float min_run(const RunScales& all, int index) {
        return six_bits(all.mins[0], all.mins[1], index, 0);
    }

    DEVICE ScalePair min_runs(const RunScales& all, int t) {
        return two_sixes(all.mins[0], all.mins[1], t, 0);
    }

    DEVICE void pack(u8* section, int row, const Stored& stored, int first, int output) {
        const u8* block = block_of<F>(stored, output, first);
        const auto scale = [&](int run) { return run_codes(block, run).scale; };
        const auto min = [&](int run) { return run_codes(block, run).min; };
        u32* out = (u32*)section + row * 4;
        const u32 last = four_sixes(min, 4);
        out[0] = load_32(block);
        out[1] = four_sixes(scale, 0) | last << 24;
        out[2] = four_sixes(scale, 4) | last >> 8 << 24;
        out[3] = four_sixes(min, 0) | last >> 16 << 24;
    }
};

template <>
struct Packed<q4_k> : Plain<q4_k, 4, 0, 8, 0> {
    static const bool MINS = true;
    typedef Scaled<RunScales<q4_k>, MINS> Scales;

    DEVICE u32 code(const Stored& stored, int output, int input) {
        const int k = input % 256, run = k / 32;
        return block_of<q4_k>(stored, output, input)[16 + run / 2 * 32 + k % 32] >> run % 2 * 4 & 15;
    }
};

template <>
struct Packed<q5_k> : Plain<q5_k, 4, 1, 8, 0> {
    static const bool MINS = true;
    typedef Scaled<RunScales<q5_k>, MINS> Scales;

    DEVICE u32 code(const Stored& stored, int output, int input) {
        const u8* block = block_of<q5_k>(stored, output, input);
        const int k = input % 256, run = k / 32;
        const u32 low = block[48 + run / 2 * 32 + k % 32] >> run % 2 * 4 & 15;
        return low | (block[16 + k % 32] >> run & 1) << 4;
    }
};

// An f16 for each row, behind `before` bytes of each.
DEVICE u16* half_behind(u8* section, int row, int before) {
    return (u16*)(section + TILE_OUTPUTS * before) + row;
}

DEVICE u32 load_half_behind(const u8* section, int row, int before) {
    return load_16(section + TILE_OUTPUTS * before + row * 2);
}

// Of Q6_K: a signed byte for each 16 weights, then an f16.
struct ByteScales {
    static const int BYTES = 18;
    u32 words[4], half;

    DEVICE ByteScales load(const u8* section, int row) {
        const Sixteen all = ((const Sixteen*)section)[row];
        return {{all.words[0], all.words[1], all.words[2], all.words[3]}, load_half_behind(section, row, 16)};
    }

    DEVICE float block(const ByteScales& all) {
        return f16_to_f32(all.half);
    }

    DEVICE float run(const ByteScales& all, int index) {
        return code_of(all.words[index / 4], index % 4, 128);
    }

    DEVICE ScalePair runs(const ByteScales& all, int set, int t) {
        const u32 both = (t & 2 ? all.words[set * 2 + 1] : all.words[set * 2]) >> t % 2 * 16;
        return {code_of(both, 0, 128), code_of(both, 1, 128)};
    }

    DEVICE void pack(u8* section, int row, const Stored& stored, int first, int output) {
        const u8* block = block_of<q6_k>(stored, output, first);
        for (int i = 0; i < 16; ++i) section[row * 16 + i] = block[192 + i] ^ 0x80;
        *half_behind(section, row, 16) = load_16(block + 208);
    }
};

template <>
struct Packed<q6_k> : Plain<q6_k, 4, 2, 4, 32> {
    typedef Scaled<ByteScales, MINS> Scales;

    DEVICE u32 code(const Stored& stored, int output, int input) {
        const u8* block = block_of<q6_k>(stored, output, input);
        const int k = input % 256, half = k / 128, pair = k / 32 % 4, offset = k % 32;
        const u32 low = block[half * 64 + pair % 2 * 32 + offset] >> pair / 2 * 4 & 15;
        return low | (block[128 + half * 32 + offset] >> pair * 2 & 3) << 4;
    }
};

// Of Q3_K: three words with four scales of six bits, the last four in their upper bytes, then an f16.
struct SixBitScales {
    static const int BYTES = 14;
    u32 words[4], half;

    DEVICE SixBitScales load(const u8* section, int row) {
        const Eight both = ((const Eight*)section)[row];
        const u32 a = both.bytes, b = both.bytes >> 32, c = ((const u32*)(section + TILE_OUTPUTS * 8))[row];
        return {{a, b, c, a >> 24 | b >> 24 << 8 | c >> 24 << 16}, load_half_behind(section, row, 12)};
    }

    DEVICE float block(const SixBitScales& all) {
        return f16_to_f32(all.half);
    }

    DEVICE float run(const SixBitScales& all, int index) {
        return field_of<6>(all.words[index / 4], index % 4 * 6, 32);
    }

    DEVICE ScalePair runs(const SixBitScales& all, int set, int t) {
        return two_sixes(all.words[set * 2], all.words[set * 2 + 1], t, 32);
    }

    DEVICE void pack(u8* section, int row, const Stored& stored, int first, int output) {
        const u8* block = block_of<q3_k>(stored, output, first);
        const auto scale = [&](int run) { return q3_k_scale(block, run); };
        const u32 last = four_sixes(scale, 12);
        u32* out = (u32*)section + row * 2;
        out[0] = four_sixes(scale, 0) | last << 24;
        out[1] = four_sixes(scale, 4) | last >> 8 << 24;
        ((u32*)(section + TILE_OUTPUTS * 8))[row] = four_sixes(scale, 8) | last >> 16 << 24;
        *half_behind(section, row, 12) = load_16(block + 108);
    }
};

// Five pairs of neighbours in each word, of three bits from bit `3 * slot` and, for the second, `16 + 3 * slot` on; two more pairs have
// their bits over those, a word for each bit. A step is two pairs.
template <>
struct Packed<q3_k> {
    static const int WORDS = 6, RUN = 4, SCALE_STEPS = 1, PAIRS = 30;
    static const bool MINS = false, BESIDE = false;
    typedef Scaled<SixBitScales, MINS> Scales;

    // The last pairs, as the first slot of a word.
    DEVICE u32 spare_pair(const u32 (&words)[WORDS], int pair) {
        const int first = (pair - PAIRS) * 3;
        return (words[first] >> 15 & 0x00010001) | (words[first + 1] >> 14 & 0x00020002) |
               (words[first + 2] >> 13 & 0x00040004);
    }

    DEVICE void values(float (&out)[4], const u32 (&words)[WORDS], int step) {
#pragma unroll
        for (int k = 0; k < 4; ++k) {
            const int pair = step * 2 + k / 2;
            if (pair < PAIRS) {
                out[k] = field_of<3>(words[pair / 5], pair % 5 * 3 + k % 2 * 16, 4);
            } else {
                out[k] = field_of<3>(spare_pair(words, pair), k % 2 * 16, 4);
            }
        }
    }

    DEVICE u32 word(const Stored& stored, int first, int output, int t, int n) {
        u32 out = 0;
        for (int second = 0; second < 2; ++second) {
            const auto code_of_pair = [&](int pair) {
                return code(stored, output, first + step_input<RUN>(pair / 2, t) + pair % 2 * 2 + second);
            };
            for (int slot = 0; slot < 5; ++slot) out |= code_of_pair(n * 5 + slot) << (slot * 3 + second * 16);
            out |= (code_of_pair(PAIRS + n / 3) >> n % 3 & 1) << (15 + second * 16);
        }
        return out;
    }

    DEVICE u32 code(const Stored& stored, int output, int input) {
        const u8* block = block_of<q3_k>(stored, output, input);
        const int k = input % 256, half = k / 128, pair = k / 32 % 4, offset = k % 32;
        return (block[32 + half * 32 + offset] >> pair * 2 & 3) | (block[offset] >> k / 32 & 1) << 2;
    }
};

// Of IQ4_XS: an f16 and eight numbers of six bits.
struct TableScales {
    static const int BYTES = 8;
    u32 half, scales[2];

    DEVICE TableScales load(const u8* section, int row) {
        const u64 all = ((const Eight*)section)[row].bytes;
        return {(u32)all & 0xffff, {(u32)(all >> 16), (u32)(all >> 40)}};
    }

    DEVICE float block(const TableScales& all) {
        return f16_to_f32(all.half);
    }

    DEVICE float run(const TableScales& all, int index) {
        return six_bits(all.scales[0], all.scales[1], index, 32);
    }

    DEVICE ScalePair runs(const TableScales& all, int, int t) {
        return two_sixes(all.scales[0], all.scales[1], t, 32);
    }

    DEVICE void pack(u8* section, int row, const Stored& stored, int first, int output) {
        const u8* block = block_of<iq4_xs>(stored, output, first);
        const auto scale = [&](int run) { return iq4_xs_scale(block, run); };
        const u64 scales = four_sixes(scale, 0) | (u64)four_sixes(scale, 4) << 24;
        ((Eight*)section)[row].bytes = load_16(block) | scales << 16;
    }
};

// Codes in the order of the lane's weights, eight in a word: those of two neighbours are a byte.
template <>
struct Packed<iq4_xs> {
    static const int WORDS = 8, RUN = 8, SCALE_STEPS = 2;
    static const bool MINS = false, BESIDE = false;
    typedef Scaled<TableScales, MINS> Scales;

    DEVICE void values(float (&out)[4], const u32 (&words)[WORDS], int step) {
        // Looked up for a whole tile at once, they would want more registers than there are.
        if (step % 4 == 0) keep_loads();
#pragma unroll
        for (int k = 0; k < 4; ++k) out[k] = IQ4[words[step / 2] >> (step % 2 * 16 + k * 4) & 15];
    }

    DEVICE u32 word(const Stored& stored, int first, int output, int t, int n) {
        const u8* codes = block_of<iq4_xs>(stored, output, first) + 8 + n * 16;
        u32 out = 0;
        for (int i = 0; i < 8; ++i) out |= nibble_of_halves(codes, t * 8 + i) << i * 4;
        return out;
    }
};

// Of IQ3_XXS: eight numbers of four bits, then an f16.
struct NibbleScales {
    static const int BYTES = 6;
    u32 word, half;

    DEVICE NibbleScales load(const u8* section, int row) {
        return {((const u32*)section)[row], load_half_behind(section, row, 4)};
    }

    DEVICE float block(const NibbleScales& all) {
        return 0.5f * f16_to_f32(all.half);
    }

    DEVICE float run(const NibbleScales& all, int index) {
        return field_of<4>(all.word, index * 4, -0.5f);
    }

    DEVICE ScalePair runs(const NibbleScales& all, int, int t) {
        const u32 both = all.word >> t * 8;
        return {field_of<4>(both, 0, -0.5f), field_of<4>(both, 4, -0.5f)};
    }

    DEVICE void pack(u8* section, int row, const Stored& stored, int first, int output) {
        const u8* block = block_of<iq3_xxs>(stored, output, first);
        u32 word = 0;
        for (int i = 0; i < 8; ++i) word |= load_32(block + 66 + i * 4) >> 28 << i * 4;
        ((u32*)section)[row] = word;
        *half_behind(section, row, 4) = load_16(block);
    }
};

// Four words of points, a byte for each step; two of signs, four for each step: those of two neighbours lie 16 bits apart.
template <>
struct Packed<iq3_xxs> {
    static const int WORDS = 6, RUN = 8, SCALE_STEPS = 2;
    static const bool MINS = false, BESIDE = false;
    typedef Scaled<NibbleScales, MINS> Scales;

    // Where in its word the sign of weight `k` of a step is.
    DEVICE constexpr int sign_place(int step, int k) {
        return step % 8 * 2 + k / 2 + k % 2 * 16;
    }

    DEVICE void values(float (&out)[4], const u32 (&words)[WORDS], int step) {
        const u32 point = IQ3_XXS[words[step / 4] >> step % 4 * 8 & 255];
#pragma unroll
        for (int k = 0; k < 4; ++k) {
            const u32 sign = words[4 + step / 8] << (31 - sign_place(step, k)) & 0x80000000u;
            out[k] = float_of(bits_of(code_of(point, k, 0)) ^ sign);
        }
    }

    DEVICE u32 word(const Stored& stored, int first, int output, int t, int n) {
        const u8* block = block_of<iq3_xxs>(stored, output, first);
        u32 out = 0;
        for (int i = 0; i < (n < 4 ? 4 : 8); ++i) {
            const int step = n < 4 ? n * 4 + i : (n - 4) * 8 + i, k = step_input<RUN>(step, t);
            if (n < 4) {
                out |= (u32)block[2 + k / 4] << i * 8;
            } else {
                const u32 signs = even_signs(load_32(block + 66 + k / 32 * 4) >> k % 32 / 8 * 7) >> k % 8;
                for (int j = 0; j < 4; ++j) out |= (signs >> j & 1) << sign_place(step, j);
            }
        }
        return out;
    }
};

typedef Packed<q8_0> q8_0_packed;
typedef Packed<q4_0> q4_0_packed;
typedef Packed<q3_k> q3_k_packed;
typedef Packed<q4_k> q4_k_packed;
typedef Packed<q5_k> q5_k_packed;
typedef Packed<q6_k> q6_k_packed;
typedef Packed<iq4_xs> iq4_xs_packed;
typedef Packed<iq3_xxs> iq3_xxs_packed;
typedef Packed<i8> i8_packed;
typedef Packed<InOut<i8>> i8_in_out_packed;
