// IQ1 to IQ3: super-blocks of 256 weights in points of a lattice, with signs and small scales; IQ4: values of a table.
#pragma once
#include "bytes.h"
#include "numbers.h"
#include "tables.h"

// Eight signs of which seven bits are kept: the last makes the number of negative ones even.
DEVICE u32 even_signs(u32 seven) {
    seven &= 127;
    // Bit `n` of the constant is the parity of `n`.
    const u32 odd = 0x6996 >> ((seven ^ seven >> 4) & 15) & 1;
    return seven | odd << 7;
}

// Coordinates times `scale`, negative where `signs` has a bit.
DEVICE void signed_point(float (&out)[UNIT], float scale, u64 point, u32 signs) {
#pragma unroll
    for (int k = 0; k < UNIT; ++k) {
        const float code = byte_of(point, k);
        out[k] = scale * (signs >> k & 1 ? -code : code);
    }
}

struct iq3_xxs {
    static const bool PLAIN = false;
    static const int WEIGHTS = 256, BYTES = 98;

    DEVICE void unpack(float (&out)[UNIT], const u8* block, int unit) {
        const u8* points = block + 2 + 2 * unit;
        const u32 word = load_32(block + 66 + unit / 4 * 4);
        const float scale = f16_to_f32(load_16(block)) * (0.5f + (float)(word >> 28)) * 0.5f;
        const u64 point = IQ3_XXS[points[0]] | (u64)IQ3_XXS[points[1]] << 32;
        signed_point(out, scale, point, even_signs(word >> unit % 4 * 7));
    }
};

struct iq3_s {
    static const bool PLAIN = false;
    static const int WEIGHTS = 256, BYTES = 110;

    DEVICE void unpack(float (&out)[UNIT], const u8* block, int unit) {
        const u8* points = block + 2 + 2 * unit;
        const u32 high = block[66 + unit / 4] >> unit % 4 * 2;
        const float scale = f16_to_f32(load_16(block)) * (float)(1 + 2 * nibble(block + 106, unit / 4));
        const u32 first = IQ3_S[points[0] | (high & 1) << 8], second = IQ3_S[points[1] | (high >> 1 & 1) << 8];
        signed_point(out, scale, first | (u64)second << 32, block[74 + unit]);
    }
};

struct iq2_xxs {
    static const bool PLAIN = false;
    static const int WEIGHTS = 256, BYTES = 66;

    DEVICE void unpack(float (&out)[UNIT], const u8* block, int unit) {
        // For each 32 weights four points of a byte each, then their signs and scale.
        const u8* run = block + 2 + unit / 4 * 8;
        const u32 word = load_32(run + 4);
        const float scale = f16_to_f32(load_16(block)) * (0.5f + (float)(word >> 28)) * 0.25f;
        signed_point(out, scale, IQ2_XXS[run[unit % 4]], even_signs(word >> unit % 4 * 7));
    }
};

struct iq2_xs {
    static const bool PLAIN = false;
    static const int WEIGHTS = 256, BYTES = 74;

    DEVICE void unpack(float (&out)[UNIT], const u8* block, int unit) {
        const u32 code = load_16(block + 2 + 2 * unit);
        const float scale =
            f16_to_f32(load_16(block)) * (0.5f + (float)nibble(block + 66, unit / 2)) * 0.25f;
        signed_point(out, scale, IQ2_XS[code & 511], even_signs(code >> 9));
    }
};

struct iq2_s {
    static const bool PLAIN = false;
    static const int WEIGHTS = 256, BYTES = 82;

    DEVICE void unpack(float (&out)[UNIT], const u8* block, int unit) {
        const u32 high = block[66 + unit / 4] >> unit % 4 * 2 & 3;
        const float scale =
            f16_to_f32(load_16(block)) * (0.5f + (float)nibble(block + 74, unit / 2)) * 0.25f;
        signed_point(out, scale, IQ2_S[block[2 + unit] | high << 8], block[34 + unit]);
    }
};

// IQ1's scales are taken by an eighth, so that the shift of its points by an eighth up or down is a whole number.
DEVICE void shifted_point(float (&out)[UNIT], float scale, u32 point, bool down) {
    // The table holds eight times one more than the coordinates.
    const u64 codes = IQ1[point & 2047];
    const float shift = down ? 9.0f : 7.0f;
#pragma unroll
    for (int k = 0; k < UNIT; ++k) out[k] = scale * (byte_of(codes, k) - shift);
}

struct iq1_s {
    static const bool PLAIN = false;
    static const int WEIGHTS = 256, BYTES = 50;

    DEVICE void unpack(float (&out)[UNIT], const u8* block, int unit) {
        const u32 high = load_16(block + 34 + unit / 4 * 2);
        const float scale = f16_to_f32(load_16(block)) * 0.125f * (float)(2 * (high >> 12 & 7) + 1);
        const u32 point = block[2 + unit] | (high >> unit % 4 * 3 & 7) << 8;
        shifted_point(out, scale, point, high & 0x8000);
    }
};

struct iq1_m {
    static const bool PLAIN = false;
    static const int WEIGHTS = 256, BYTES = 56;

    DEVICE void unpack(float (&out)[UNIT], const u8* block, int unit) {
        const u8* scales = block + 48;
        // The f16 is spread over the upper nibbles of the words that hold the small scales.
        u32 half = 0;
#pragma unroll
        for (int i = 0; i < 4; ++i) half |= load_16(scales + 2 * i) >> 12 << 4 * i;
        const int run = unit / 2;
        const u32 small = load_16(scales + run / 4 * 2) >> run % 4 * 3 & 7;
        const float scale = f16_to_f32(half) * 0.125f * (float)(2 * small + 1);
        const u32 high = nibble(block + 32, unit);
        shifted_point(out, scale, block[unit] | (high & 7) << 8, high & 8);
    }
};

// Codes that number the values of a table; low nibbles are the first half of 32 weights.
template <int ALIGN>
DEVICE void table_values(float (&out)[UNIT], float scale, const u8* codes, int unit) {
    const u64 nibbles = load_64<ALIGN>(codes + unit % 2 * 8) >> unit / 2 * 4;
#pragma unroll
    for (int k = 0; k < UNIT; ++k) out[k] = scale * IQ4[nibbles >> 8 * k & 15];
}

struct iq4_nl {
    static const bool PLAIN = false;
    static const int WEIGHTS = 32, BYTES = 18;

    DEVICE void unpack(float (&out)[UNIT], const u8* block, int unit) {
        table_values<2>(out, f16_to_f32(load_16(block)), block + 2, unit);
    }
};

// The scale of a run of 32 in IQ4_XS, 32 too large: six bits, the upper two apart from the others.
DEVICE u32 iq4_xs_scale(const u8* block, int run) {
    return nibble(block + 4, run) | (load_16(block + 2) >> run * 2 & 3) << 4;
}

struct iq4_xs {
    static const bool PLAIN = false;
    static const int WEIGHTS = 256, BYTES = 136;

    DEVICE void unpack(float (&out)[UNIT], const u8* block, int unit) {
        const int run = unit / 4;
        const float scale = f16_to_f32(load_16(block)) * (float)((int)iq4_xs_scale(block, run) - 32);
        table_values<8>(out, scale, block + 8 + run * 16, unit % 4);
    }
};
