#!/usr/bin/env python3
"""Writes tests/fixtures/quant: blocks of every format and hashes of what the `gguf` package makes of them.

A file is a row of records: the bytes of one block (32 elements of plain types), then the 64-bit FNV-1a hash of its elements as
little-endian f32, every NaN written as 0x7fc00000. The same bytes come out of every run.

Needs Python 3 and `pip install gguf==0.19.0`.
"""

import itertools
import pathlib

import gguf
import numpy as np

# Where a block's f16 scales lie. IQ1_M spreads its own over the upper nibbles of four words.
SCALES = {
    "Q4_0": [0],
    "Q4_1": [0, 2],
    "Q5_0": [0],
    "Q5_1": [0, 2],
    "Q8_0": [0],
    "Q2_K": [80, 82],
    "Q3_K": [108],
    "Q4_K": [0, 2],
    "Q5_K": [0, 2],
    "Q6_K": [208],
    "IQ4_NL": [0],
    "IQ4_XS": [0],
    "IQ3_XXS": [0],
    "IQ3_S": [0],
    "IQ2_XXS": [0],
    "IQ2_XS": [0],
    "IQ2_S": [0],
    "IQ1_S": [0],
    "IQ1_M": None,
}
PLAIN = {"F32": 4, "F16": 2, "BF16": 2}

# f16: zeros, smallest and largest subnormal, smallest normal, ones, largest, infinities, NaNs.
EDGES = [
    *(0x0000, 0x8000, 0x0001, 0x8001, 0x03FF, 0x83FF, 0x0400, 0x3C00, 0xBC00),
    *(0x7BFF, 0xFBFF, 0x7C00, 0xFC00, 0x7E00, 0x7C01, 0xFFFF),
]
RANDOM_BLOCKS = 12


def with_scales(block, places, scales):
    block = block.copy()
    if places is None:
        words = block[48:56].view(np.uint16)
        nibbles = (np.uint16(scales[0]) >> np.array([0, 4, 8, 12], np.uint16)) & np.uint16(15)
        words[:] = (words & np.uint16(0x0FFF)) | (nibbles << np.uint16(12))
    else:
        for place, scale in zip(places, scales):
            block[place : place + 2] = np.array([scale], np.uint16).view(np.uint8)
    return block


def sweeps(name, random):
    """Blocks that together contain every point of the format's lattice."""
    size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]][1]

    def rows(points, per_block):
        for first in range(0, points, per_block):
            block = random.integers(0, 256, size, np.uint8)
            yield np.arange(first, first + per_block, dtype=np.uint16), block

    def packed(high, bits, count):
        """`count` values of `bits` bits to a number."""
        shifts = np.arange(count, dtype=np.uint16) * np.uint16(bits)
        return np.bitwise_or.reduce(high.reshape(-1, count) << shifts, axis=1)

    match name:
        case "IQ2_XXS":
            for index, block in rows(256, 32):
                block[2:].reshape(8, 8)[:, :4] = index.reshape(8, 4)
                yield block
        case "IQ2_XS":
            for index, block in rows(512, 32):
                words = block[2:66].view(np.uint16)
                words[:] = (words & np.uint16(0xFE00)) | index
                yield block
        case "IQ2_S":
            for index, block in rows(1024, 32):
                block[2:34], block[66:74] = index & 255, packed(index >> 8, 2, 4)
                yield block
        case "IQ3_XXS":
            for index, block in rows(256, 64):
                block[2:66] = index
                yield block
        case "IQ3_S":
            for index, block in rows(512, 64):
                block[2:66], block[66:74] = index & 255, packed(index >> 8, 1, 8)
                yield block
        case "IQ1_S":
            for index, block in rows(2048, 32):
                words = block[34:50].view(np.uint16)
                block[2:34] = index & 255
                words[:] = (words & np.uint16(0xF000)) | packed(index >> 8, 3, 4)
                yield block
        case "IQ1_M":
            for index, block in rows(2048, 32):
                block[:32] = index & 255
                block[32:48] = (block[32:48] & 0x88) | packed(index >> 8, 4, 2)
                yield block


def blocks(name, random):
    if name in PLAIN:
        size, words = 32 * PLAIN[name], {"F32": np.uint32}.get(name, np.uint16)
        edges = np.array((EDGES * 2)[:32], words) << words(16 if name == "F32" else 0)
        yield edges.view(np.uint8)
    else:
        size, places = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]][1], SCALES[name]
        count = 1 if places is None else len(places)
        yield from (with_scales(random.integers(0, 256, size, np.uint8), places, edges)
                    for edge in EDGES for edges in [[edge] * count, [edge, 0x3C00], [0x3C00, edge]][: 2 * count - 1])
        yield from (with_scales(block, places, [0x2C66, 0xB0CD]) for block in sweeps(name, random))
    yield np.zeros(size, np.uint8)
    yield np.full(size, 0xFF, np.uint8)
    yield from (random.integers(0, 256, size, np.uint8) for _ in range(RANDOM_BLOCKS))


def fnv1a(data):
    state = 0xCBF29CE484222325
    for byte in data:
        state = (state ^ byte) * 0x100000001B3 % 2**64
    return state


def main():
    folder = pathlib.Path(__file__).parent.parent / "tests/fixtures/quant"
    for seed, name in enumerate(itertools.chain(PLAIN, SCALES)):
        random = np.random.Generator(np.random.PCG64(seed))
        with open(folder / f"{name.lower()}.bin", "wb") as file, np.errstate(all="ignore"):
            for block in blocks(name, random):
                values = gguf.quants.dequantize(block.reshape(1, -1), gguf.GGMLQuantizationType[name])
                values = np.where(np.isnan(values), np.float32(np.nan), values).astype("<f4")
                file.write(block.tobytes() + fnv1a(values.tobytes()).to_bytes(8, "little"))


if __name__ == "__main__":
    main()
