// Weights that stand by themselves: floats of several widths, and bytes that scales beside the matrix multiply.
#pragma once
#include "bytes.h"
#include "numbers.h"

struct f32 {
    static const bool PLAIN = true;
    static const int WEIGHTS = UNIT, BYTES = 4 * UNIT;

    DEVICE float at(const u8* data, u64 index) {
        return ((const float*)data)[index];
    }

    DEVICE void unpack(float (&out)[UNIT], const u8* block, int) {
        const Sixteen halves[2] = {((const Sixteen*)block)[0], ((const Sixteen*)block)[1]};
#pragma unroll
        for (int k = 0; k < UNIT; ++k) out[k] = float_of(halves[k / 4].words[k % 4]);
    }
};

// Two bytes each.
template <float (*TO_F32)(u16)>
struct Halves {
    static const bool PLAIN = true;
    static const int WEIGHTS = UNIT, BYTES = 2 * UNIT;

    DEVICE float at(const u8* data, u64 index) {
        return TO_F32(((const u16*)data)[index]);
    }

    DEVICE void unpack(float (&out)[UNIT], const u8* block, int) {
        const Sixteen all = *(const Sixteen*)block;
#pragma unroll
        for (int k = 0; k < UNIT; ++k) out[k] = TO_F32(all.words[k / 2] >> k % 2 * 16);
    }
};

typedef Halves<f16_to_f32> f16;
typedef Halves<bf16_to_f32> bf16;

DEVICE float i8_to_f32(u8 byte) {
    return (s8)byte;
}

// One byte each.
template <float (*TO_F32)(u8)>
struct Bytes {
    static const bool PLAIN = true;
    static const int WEIGHTS = UNIT, BYTES = UNIT;

    DEVICE float at(const u8* data, u64 index) {
        return TO_F32(data[index]);
    }

    DEVICE void unpack(float (&out)[UNIT], const u8* block, int) {
        const u64 all = load_64<8>(block);
#pragma unroll
        for (int k = 0; k < UNIT; ++k) out[k] = TO_F32(all >> 8 * k);
    }
};

typedef Bytes<f8_e4m3_to_f32> f8_e4m3;
typedef Bytes<i8_to_f32> i8;
