// Narrow floats, rounding and the model's scalar functions.
#pragma once
#include "portable.h"

DEVICE float float_of(u32 bits) {
    union {
        u32 bits;
        float value;
    } both = {bits};
    return both.value;
}

DEVICE u32 bits_of(float value) {
    union {
        float value;
        u32 bits;
    } both = {value};
    return both.bits;
}

DEVICE float bf16_to_f32(u16 bits) {
    return float_of((u32)bits << 16);
}

// Rounded to the nearest bf16, ties to even; NaNs stay such.
DEVICE u16 f32_to_bf16(float value) {
    const u32 bits = bits_of(value);
    const bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
    return nan ? bits >> 16 | 0x40 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

// What a product with weights sees of an activation.
DEVICE float rounded(float value, int round) {
    return round ? bf16_to_f32(f32_to_bf16(value)) : value;
}

// The float of this magnitude, whose exponent is as wide as f32's but too small by `bias`.
DEVICE u32 rebias(u32 bits, u32 bias) {
    const u32 smallest = (bias + 1) << 23;
    // A subnormal gets the leading one that it lacks, which is then subtracted.
    const u32 subnormal = bits_of(float_of(bits + smallest) - float_of(smallest));
    return bits < 1u << 23 ? subnormal : bits + (bias << 23);
}

DEVICE float f16_to_f32(u16 half) {
#ifdef __CUDACC__
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(half));
    return value;
#else
    const u32 magnitude = (u32)(half & 0x7fff) << 13;
    // Infinities and NaNs have all bits of the exponent set in both types.
    const u32 number = magnitude < 31u << 23 ? rebias(magnitude, 127 - 15) : magnitude | 0x7f800000u;
    return float_of((u32)(half & 0x8000) << 16 | number);
#endif
}

// Four bits of exponent, three of mantissa, no infinities.
DEVICE float f8_e4m3_to_f32(u8 byte) {
    const u32 magnitude = byte & 0x7f;
    const u32 number = magnitude == 0x7f ? 0x7fc00000u : rebias(magnitude << 20, 127 - 7);
    return float_of((u32)(byte & 0x80) << 24 | number);
}

// `cap * tanh(x / cap)`; a cap of 0 is none.
DEVICE float soft_cap(float x, float cap) {
    // The division is the same for many values, and then done once.
    return cap > 0.0f ? cap * tanhf(x * (1.0f / cap)) : x;
}

// GELU by its tanh approximation.
DEVICE float gelu(float x) {
    return 0.5f * x * (1.0f + tanhf(0.7978845608f * (x + 0.044715f * x * x * x)));
}
