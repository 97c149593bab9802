// What the tokens of each block of logits weigh together, to the bit what softmax.rs says: a sum of integers, each made by additions and
// multiplications of doubles that are not contracted.
#include "candidates.h"

DEVICE double double_of(u64 bits) {
    union {
        u64 bits;
        double value;
    } both = {bits};
    return both.value;
}

DEVICE u64 bits_of(double value) {
    union {
        double value;
        u64 bits;
    } both = {value};
    return both.bits;
}

// `Softmax::weight`.
DEVICE u64 weight_of(double below_largest, double scale) {
    // Adding 1.5 * 2^52 rounds to an integer and leaves it in the low bits; adding 2^52 does so for positive numbers.
    const double round = 6755399441055744.0, round_positive = 4503599627370496.0;
    const double coefficients[] = {SOFTMAX_COEFFICIENTS};
    const int terms = sizeof coefficients / sizeof *coefficients;
    double power = below_largest * scale;
    power = power > -64.0 ? power : -64.0;
    const double rounded = power + round, fraction = power - (rounded - round);
    double exp2 = coefficients[terms - 1];
#pragma unroll
    for (int i = terms - 2; i >= 0; --i) exp2 = exp2 * fraction + coefficients[i];
    const double exponent = double_of((bits_of(rounded) + 1023 + SOFTMAX_BITS) << 52);
    return bits_of(exp2 * exponent + round_positive) - bits_of(round_positive);
}

// grid: [ceil(vocab / CANDIDATES_BLOCK), rows]
KERNEL(weigh,
       u64* totals,          // [rows, blocks, 2]: at either scale
       const float* logits,  // [rows, vocab]
       const u64* best,      // [rows, count]: ranks, best first
       const double* scales, // [rows, 2]
       int vocab, int count) {
    SHARED(u64, sums, THREADS * 2);
    const int end = min_of((blockIdx.x + 1) * CANDIDATES_BLOCK, vocab);
    const double largest = logit_of(best[(u64)blockIdx.y * count]);
    const double scale = scales[blockIdx.y * 2], other = scales[blockIdx.y * 2 + 1];
    u64 sum = 0, other_sum = 0;
    for (int i = blockIdx.x * CANDIDATES_BLOCK + threadIdx.x; i < end; i += THREADS) {
        const double below_largest = logits[(u64)blockIdx.y * vocab + i] - largest;
        sum += weight_of(below_largest, scale);
        if (other != scale) other_sum += weight_of(below_largest, other);
    }
    sums[threadIdx.x] = sum;
    sums[threadIdx.x + THREADS] = other != scale ? other_sum : sum;
    for (int half = THREADS / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x >= half) continue;
        sums[threadIdx.x] += sums[threadIdx.x + half];
        sums[threadIdx.x + THREADS] += sums[threadIdx.x + THREADS + half];
    }
    if (threadIdx.x > 0) return;
    u64* own = totals + ((u64)blockIdx.y * gridDim.x + blockIdx.x) * 2;
    own[0] = sums[0];
    own[1] = sums[THREADS];
}
