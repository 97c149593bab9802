// Bytes of a block, little-endian.
#pragma once
#include "portable.h"

// Those that a load may take at once.
struct alignas(8) Eight {
    u64 bytes;
};
struct alignas(16) Sixteen {
    u32 words[4];
};

// Sixteen bytes that no other thread reads: they need not stay near.
DEVICE Sixteen load_once(const Sixteen* bytes) {
#ifdef __CUDACC__
    Sixteen out;
    asm("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
        : "=r"(out.words[0]), "=r"(out.words[1]), "=r"(out.words[2]), "=r"(out.words[3])
        : "l"(bytes));
    return out;
#else
    return *bytes;
#endif
}

DEVICE u32 load_16(const u8* bytes) {
    return *(const u16*)bytes;
}

// At an address that is a multiple of 2.
DEVICE u32 load_32(const u8* bytes) {
    return load_16(bytes) | load_16(bytes + 2) << 16;
}

// At an address that is a multiple of ALIGN.
template <int ALIGN>
DEVICE u64 load_64(const u8* bytes) {
    if constexpr (ALIGN == 8) {
        return ((const Eight*)bytes)->bytes;
    } else if constexpr (ALIGN == 4) {
        return *(const u32*)bytes | (u64) * (const u32*)(bytes + 4) << 32;
    } else {
        return load_32(bytes) | (u64)load_32(bytes + 4) << 32;
    }
}

// Byte `index` as a number.
DEVICE float byte_of(u64 bytes, int index) {
    return (float)(u32)(bytes >> 8 * index & 0xff);
}

DEVICE float signed_byte_of(u64 bytes, int index) {
    return (float)(s8)(bytes >> 8 * index);
}

// Nibble `index` of some bytes, low ones first.
DEVICE u32 nibble(const u8* bytes, int index) {
    return bytes[index / 2] >> index % 2 * 4 & 15;
}

// The same where low ones are the first half of 32.
DEVICE u32 nibble_of_halves(const u8* bytes, int index) {
    return bytes[index % 16] >> index / 16 * 4 & 15;
}

// `value` in each byte.
DEVICE constexpr u64 eight(u8 value) {
    return value * 0x0101010101010101ull;
}

// Bit `i` of `bits` as bit `place` of byte `i`.
DEVICE u64 spread(u32 bits, int place) {
    // Byte `i` keeps bit `i`; adding what is missing to 128 moves a set one up to the highest bit.
    const u64 kept = (bits & 0xff) * eight(1) & 0x8040201008040201ull;
    return (kept + 0x00406070787c7e7full) >> (7 - place) & eight(1u << place);
}
