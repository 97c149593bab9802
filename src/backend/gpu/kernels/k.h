// Q2_K to Q6_K: super-blocks of 256 weights, in 8 or 16 runs with a small integer scale each, and f16 scales of those.
#pragma once
#include "bytes.h"
#include "numbers.h"

// Where a unit lies among bytes whose pairs of bits belong to different runs of 32 in the same half of the block.
struct PairPlace {
    int run;    // of 16
    int half;   // of the block
    int pair;   // of bits
    int offset; // within 32 bytes
};

DEVICE PairPlace pair_place(int unit) {
    return {unit / 2, unit / 16, unit / 4 % 4, unit % 4 * 8};
}

struct q2_k {
    static const bool PLAIN = false;
    static const int WEIGHTS = 256, BYTES = 84;

    DEVICE void unpack(float (&out)[UNIT], const u8* block, int unit) {
        const PairPlace at = pair_place(unit);
        const float scale = f16_to_f32(load_16(block + 80)) * (float)(block[at.run] & 15);
        const float min = f16_to_f32(load_16(block + 82)) * (float)(block[at.run] >> 4);
        const u64 codes = load_64<4>(block + 16 + at.half * 32 + at.offset) >> at.pair * 2 & eight(3);
#pragma unroll
        for (int k = 0; k < UNIT; ++k) out[k] = scale * byte_of(codes, k) - min;
    }
};

// The scale of a run of 16 in Q3_K, 32 too large: six bits, the upper two apart from the others.
DEVICE u32 q3_k_scale(const u8* block, int run) {
    const u8* scales = block + 96;
    return (scales[run % 8] >> run / 8 * 4 & 15) | (scales[8 + run % 4] >> run / 4 * 2 & 3) << 4;
}

struct q3_k {
    static const bool PLAIN = false;
    static const int WEIGHTS = 256, BYTES = 110;

    DEVICE void unpack(float (&out)[UNIT], const u8* block, int unit) {
        const PairPlace at = pair_place(unit);
        const float scale = f16_to_f32(load_16(block + 108)) * (float)((int)q3_k_scale(block, at.run) - 32);
        // A clear bit subtracts four.
        const u64 high = load_64<2>(block + at.offset) >> unit / 4 & eight(1);
        const u64 low = load_64<2>(block + 32 + at.half * 32 + at.offset) >> at.pair * 2 & eight(3);
        const u64 codes = low | high << 2;
#pragma unroll
        for (int k = 0; k < UNIT; ++k) out[k] = scale * (byte_of(codes, k) - 4.0f);
    }
};

// Scale and minimum of a run of 32 in Q4_K and Q5_K, which begin alike: six bits each.
struct RunCodes {
    u32 scale, min;
};

DEVICE RunCodes run_codes(const u8* block, int run) {
    const u8 *scales = block + 4, *mins = block + 8, *last = block + 12;
    const int i = run % 4;
    // The upper two bits of the last four of each lie above those of the first four.
    const u32 scale = run < 4 ? scales[i] & 63 : (last[i] & 15) | scales[i] >> 6 << 4;
    const u32 min = run < 4 ? mins[i] & 63 : last[i] >> 4 | mins[i] >> 6 << 4;
    return {scale, min};
}

// The same, times the block's.
struct RunScale {
    float scale, min;
};

DEVICE RunScale run_scale(const u8* block, int run) {
    const RunCodes codes = run_codes(block, run);
    return {f16_to_f32(load_16(block)) * (float)codes.scale, f16_to_f32(load_16(block + 2)) * (float)codes.min};
}

struct q4_k {
    static const bool PLAIN = false;
    static const int WEIGHTS = 256, BYTES = 144;

    DEVICE void unpack(float (&out)[UNIT], const u8* block, int unit) {
        const int run = unit / 4;
        const RunScale at = run_scale(block, run);
        const u64 codes = load_64<8>(block + 16 + run / 2 * 32 + unit % 4 * 8) >> run % 2 * 4 & eight(15);
#pragma unroll
        for (int k = 0; k < UNIT; ++k) out[k] = at.scale * byte_of(codes, k) - at.min;
    }
};

struct q5_k {
    static const bool PLAIN = false;
    static const int WEIGHTS = 256, BYTES = 176;

    DEVICE void unpack(float (&out)[UNIT], const u8* block, int unit) {
        const int run = unit / 4, offset = unit % 4 * 8;
        const RunScale at = run_scale(block, run);
        const u64 high = load_64<8>(block + 16 + offset) >> run & eight(1);
        const u64 low = load_64<8>(block + 48 + run / 2 * 32 + offset) >> run % 2 * 4 & eight(15);
        const u64 codes = low | high << 4;
#pragma unroll
        for (int k = 0; k < UNIT; ++k) out[k] = at.scale * byte_of(codes, k) - at.min;
    }
};

struct q6_k {
    static const bool PLAIN = false;
    static const int WEIGHTS = 256, BYTES = 210;

    DEVICE void unpack(float (&out)[UNIT], const u8* block, int unit) {
        const PairPlace at = pair_place(unit);
        const float scale = f16_to_f32(load_16(block + 208)) * (float)(s8)block[192 + at.run];
        // In each half of the block, 64 bytes: the low nibbles are its first two runs of 32, the high ones the others.
        const u8* nibbles = block + at.half * 64 + at.pair % 2 * 32 + at.offset;
        const u64 low = load_64<2>(nibbles) >> at.pair / 2 * 4 & eight(15);
        const u64 high = load_64<2>(block + 128 + at.half * 32 + at.offset) >> at.pair * 2 & eight(3);
        const u64 codes = low | high << 4;
#pragma unroll
        for (int k = 0; k < UNIT; ++k) out[k] = scale * (byte_of(codes, k) - 32.0f);
    }
};
