// Q4_0 to Q8_0: blocks of 32 weights with an f16 scale and, in the `_1` formats, an f16 minimum.
//
// Weight `i` of the first half is the low nibble of byte `i`, weight `16 + i` the high one; fifth bits lie together in a word.
#pragma once
#include "bytes.h"
#include "numbers.h"

// The nibbles of a unit, whose bytes begin at `codes`.
template <int ALIGN>
DEVICE u64 half_nibbles(const u8* codes, int unit) {
    return load_64<ALIGN>(codes + unit % 2 * 8) >> unit / 2 * 4 & eight(15);
}

struct q4_0 {
    static const bool PLAIN = false;
    static const int WEIGHTS = 32, BYTES = 18;

    DEVICE void unpack(float (&out)[UNIT], const u8* block, int unit) {
        const float scale = f16_to_f32(load_16(block));
        const u64 codes = half_nibbles<2>(block + 2, unit);
#pragma unroll
        for (int k = 0; k < UNIT; ++k) out[k] = scale * (byte_of(codes, k) - 8.0f);
    }
};

struct q4_1 {
    static const bool PLAIN = false;
    static const int WEIGHTS = 32, BYTES = 20;

    DEVICE void unpack(float (&out)[UNIT], const u8* block, int unit) {
        const float scale = f16_to_f32(load_16(block)), min = f16_to_f32(load_16(block + 2));
        const u64 codes = half_nibbles<4>(block + 4, unit);
#pragma unroll
        for (int k = 0; k < UNIT; ++k) out[k] = scale * byte_of(codes, k) + min;
    }
};

struct q5_0 {
    static const bool PLAIN = false;
    static const int WEIGHTS = 32, BYTES = 22;

    DEVICE void unpack(float (&out)[UNIT], const u8* block, int unit) {
        const float scale = f16_to_f32(load_16(block));
        const u64 codes = half_nibbles<2>(block + 6, unit) | spread(block[2 + unit], 4);
#pragma unroll
        for (int k = 0; k < UNIT; ++k) out[k] = scale * (byte_of(codes, k) - 16.0f);
    }
};

struct q5_1 {
    static const bool PLAIN = false;
    static const int WEIGHTS = 32, BYTES = 24;

    DEVICE void unpack(float (&out)[UNIT], const u8* block, int unit) {
        const float scale = f16_to_f32(load_16(block)), min = f16_to_f32(load_16(block + 2));
        const u64 codes = half_nibbles<8>(block + 8, unit) | spread(block[4 + unit], 4);
#pragma unroll
        for (int k = 0; k < UNIT; ++k) out[k] = scale * byte_of(codes, k) + min;
    }
};

struct q8_0 {
    static const bool PLAIN = false;
    static const int WEIGHTS = 32, BYTES = 34;

    DEVICE void unpack(float (&out)[UNIT], const u8* block, int unit) {
        const float scale = f16_to_f32(load_16(block));
        const u64 codes = load_64<2>(block + 2 + unit * 8);
#pragma unroll
        for (int k = 0; k < UNIT; ++k) out[k] = scale * signed_byte_of(codes, k);
    }
};
