// Packed weights: matrices rearranged so that a lane loads 16 bytes at a time, and that lanes hold what matrix instructions want.
//
// A matrix is tiles of TILE_OUTPUTS x TILE_INPUTS, those of the same outputs one after another, then the next outputs. A team of 32
// lanes takes a tile: lane 4 * g + t has rows g and g + 8 of it, and of each row the codes of STEPS steps with four neighbouring
// weights each, from `step_input` on. So the lanes of a step with the same g have 16 weights of an output, all of one scale: the share
// that `mma.m16n8k16` asks of them, were the sum's order that of memory.
//
// A tile is the codes, WORDS words for each lane and row, and then the scales, row by row in a form of each format. Of the codes come
//   [WORDS / 4, 2, 32, 4]  words 4 * v to 4 * v + 3 of each row and lane: a lane's load of 16 bytes is one row's; then
//   [32, 2, 2]             where WORDS is not a multiple of four, the other two words: a load is both rows'.
#pragma once
#include "bytes.h"
#include "numbers.h"

// Lanes that take a tile, and how many such a block has; teams and warps need not be the same.
static const int TILE_LANES = 32, TILE_TEAMS = THREADS / TILE_LANES;

// Steps through the inputs of a tile, of four weights for each lane and row.
static const int STEPS = TILE_INPUTS / 16;

// Where in the tile the four weights of lane t and a step begin. RUN is how many neighbours a lane has in all: eight of each 32 weights,
// two steps, where those have a scale in common, and four of each 16 otherwise.
template <int RUN>
DEVICE int step_input(int step, int t) {
    return RUN == 8 ? step / 2 * 32 + t * 8 + step % 2 * 4 : step * 16 + t * 4;
}

// The step and the lane's t to whom an input belongs: the inverse.
struct StepPlace {
    int step, t;
};

template <int RUN>
DEVICE StepPlace step_place(int input) {
    if (RUN == 8) return {input / 32 * 2 + input % 8 / 4, input % 32 / 8};
    return {input / 16, input % 16 / 4};
}

// Bytes of a tile's codes, after which its scales come.
template <class P>
DEVICE constexpr int code_bytes() {
    return P::WORDS * 2 * TILE_LANES * 4;
}

template <class P>
DEVICE constexpr int tile_bytes() {
    return code_bytes<P>() + TILE_OUTPUTS * P::Scales::BYTES;
}

template <class P>
DEVICE u64 packed_bytes(int inputs, int outputs) {
    return (u64)(inputs / TILE_INPUTS) * (outputs / TILE_OUTPUTS) * tile_bytes<P>();
}

// The first tile of some outputs.
template <class P>
DEVICE const u8* tiles_of(const u8* data, int inputs, int output) {
    return data + (u64)(output / TILE_OUTPUTS) * (inputs / TILE_INPUTS) * tile_bytes<P>();
}

// What a lane has of a tile.
template <class P>
struct Lane {
    u32 words[2][P::WORDS];
    typename P::Scales scales[2];

    DEVICE Lane load(const u8* tile, int lane) {
        static const int WHOLE = P::WORDS / 4;
        const Sixteen* vectors = (const Sixteen*)tile + lane;
        Lane out;
#pragma unroll
        for (int v = 0; v < WHOLE; ++v) {
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                const Sixteen some = load_once(vectors + (v * 2 + h) * TILE_LANES);
#pragma unroll
                for (int i = 0; i < 4; ++i) out.words[h][v * 4 + i] = some.words[i];
            }
        }
        if constexpr (P::WORDS % 4 != 0) {
            const Sixteen some = load_once(vectors + WHOLE * 2 * TILE_LANES);
#pragma unroll
            for (int i = 0; i < 4; ++i) out.words[i / 2][WHOLE * 4 + i % 2] = some.words[i];
        }
#pragma unroll
        for (int h = 0; h < 2; ++h) out.scales[h] = P::Scales::load(tile + code_bytes<P>(), lane / 4 + 8 * h);
        return out;
    }
};

// Codes of LOW + HIGH bits, the low and the high ones in words of their own. Both lie in quads, one for the bytes of a word after masking:
// quad `2 * eight + n` has weights a, a + 4, a + 1 and a + 5 of a lane's eight, with a = 2 * n. Step `2 * eight` is its weights 0 to 3,
// the next one the others, so each step finds neighbours 16 bits apart.
template <int LOW, int HIGH>
struct Planes {
    static const int WORDS = 2 * (LOW + HIGH);

    // A quad, a code in each byte.
    DEVICE u32 quad(const u32 (&words)[WORDS], int index) {
        u32 codes = part<LOW>(words[index / (8 / LOW)], index, 0);
        if constexpr (HIGH > 0) codes |= part<HIGH>(words[2 * LOW + index / (8 / HIGH)], index, LOW);
        return codes;
    }

    // The quad's bits in a word with BITS of each code, moved up to bit `place` of their bytes.
    template <int BITS>
    DEVICE u32 part(u32 word, int index, int place) {
        const int down = index % (8 / BITS) * BITS - place;
        return (down < 0 ? word << -down : word >> down) & ((1u << BITS) - 1 << place) * 0x01010101u;
    }

    // Word `n` of a row's codes, given the code of each of the lane's weights by number: eight, then within it.
    template <class Code>
    DEVICE u32 word(int n, Code code) {
        if constexpr (HIGH > 0) {
            if (n >= 2 * LOW) return packed_word<HIGH>(n - 2 * LOW, LOW, code);
        }
        return packed_word<LOW>(n, 0, code);
    }

    template <int BITS, class Code>
    DEVICE u32 packed_word(int n, int place, Code code) {
        u32 out = 0;
        for (int slot = 0; slot < 8 / BITS; ++slot) {
            const int index = n * (8 / BITS) + slot;
            for (int byte = 0; byte < 4; ++byte) {
                const int within = index % 2 * 2 + byte % 2 * 4 + byte / 2;
                out |= (code(index / 2, within) >> place & ((1u << BITS) - 1)) << (byte * 8 + slot * BITS);
            }
        }
        return out;
    }
};

// `bits & mask | above`, which compilers may not know to be one instruction.
DEVICE u32 masked_below(u32 bits, u32 mask, u32 above) {
#ifdef __CUDACC__
    u32 out;
    asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(out) : "r"(bits), "r"(mask), "r"(above));
    return out;
#else
    return (bits & mask) | above;
#endif
}

// Byte `index` of a quad less `zero`, exactly.
DEVICE float code_of(u32 quad, int index, float zero) {
#ifdef __CUDACC__
    // Conversions are slow there: the byte becomes the end of a mantissa whose unit is 1.
    return float_of(__byte_perm(quad, 0x4b000000u, 0x7650 + index)) - (8388608.0f + zero);
#else
    return (float)(quad >> 8 * index & 255) - zero;
#endif
}

// BITS bits of a word from bit `place` on, less `zero`, exactly.
template <int BITS>
DEVICE float field_of(u32 word, int place, float zero) {
#ifdef __CUDACC__
    // Wherever the bits lie in a mantissa, an exponent gives them the unit 1.
    const int down = place + BITS > 23 ? 12 : 0, at = place - down;
    const u32 mask = ((1u << BITS) - 1) << at, exponent = (150 - at) << 23;
    return float_of(masked_below(word >> down, mask, exponent)) - (float_of(exponent) + zero);
#else
    return (float)(word >> place & ((1u << BITS) - 1)) - zero;
#endif
}
