// The formats of weights, by the names that types have in files. They are unpacked UNIT weights at a time, by one lane; the bits are
// those of `src/quant`, operation by operation.
//
// A format is a struct with
//   WEIGHTS, BYTES                 weights and bytes of a block,
//   unpack(out, block, unit)       weights UNIT * unit to UNIT * (unit + 1) of a block;
// where weights stand by themselves a block is UNIT of them, and besides
//   at(data, index)                is one of them.
#pragma once
#include "iq.h"
#include "k.h"
#include "legacy.h"
#include "plain.h"

template <class F>
DEVICE u64 row_bytes(int inputs) {
    if constexpr (F::PLAIN) {
        return (u64)inputs * (F::BYTES / F::WEIGHTS);
    } else {
        return (u64)(inputs / F::WEIGHTS) * F::BYTES;
    }
}

// Weights `first` to `first + UNIT` of a row of whole units; `first` is a multiple of UNIT.
template <class F>
DEVICE void unpack_unit(float (&out)[UNIT], const u8* row, int first) {
    F::unpack(out, row + (u64)(first / F::WEIGHTS) * F::BYTES, first % F::WEIGHTS / UNIT);
}

// The same in a row of any length, with zeros beyond its end; where weights stand by themselves `first` is any number.
template <class F>
DEVICE void unpack(float (&out)[UNIT], const u8* row, int first, int inputs) {
    if constexpr (F::PLAIN) {
        if ((inputs | first) % UNIT != 0) {
#pragma unroll
            for (int k = 0; k < UNIT; ++k) out[k] = first + k < inputs ? F::at(row, first + k) : 0.0f;
            return;
        }
    }
    unpack_unit<F>(out, row, first);
}

// A unit in shared memory, at a multiple of 16 bytes.
DEVICE void store_unit(Shared<float> to, const float (&unit)[UNIT]) {
    store_four(to, Four<float>{unit[0], unit[1], unit[2], unit[3]});
    store_four(to + 4, Four<float>{unit[4], unit[5], unit[6], unit[7]});
}

// Four more products of a sum, in their order.
DEVICE float add_products(float sum, const Four<float>& a, const Four<float>& b) {
#pragma unroll
    for (int k = 0; k < 4; ++k) sum = fmaf(a.values[k], b.values[k], sum);
    return sum;
}
