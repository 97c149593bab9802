// Pre-MoE norm, router softmax, selection.
#pragma once
#include "norm.h"

// The router's weights and settings; `Router` in mod.rs is the same.
struct Router {
    const float* norm;    // [width], scale of the norm before it
    const float* weights; // [experts, width]
    int width, experts, selected;
    float epsilon, cap;
    int renormalise;
};

// What it decides; `Routed` in mod.rs is the same.
struct Routed {
    float* input;         // [rows, width]: normed, for the experts
    float* probabilities; // [rows, experts]
    int* selection;       // [rows, selected], best first
    float* gates;         // [rows, selected]
};

// The block's row. Needs dynamic shared memory: float [experts].
DEVICE void route_row(const Routed& out, const float* hidden, const Router& router, int round) {
    DYNAMIC_SHARED(float, scores);
    const int width = router.width, experts = router.experts, selected = router.selected;
    const u64 row = blockIdx.x;
    const float *x = hidden + row * width, *scale = router.norm;
    const float factor = norm_factor(x, width, router.epsilon);
    write_scaled(out.input + row * width, x, scale, factor, width, round);
    for (int e = warp_index(); e < experts; e += THREADS / WARP) {
        float sum = 0.0f;
#pragma unroll 16
        for (int i = lane_index(); i < width; i += WARP) {
            sum = fmaf(router.weights[(u64)e * width + i], scale[i] * (x[i] * factor), sum);
        }
        sum = warp_sum(sum);
        if (lane_index() == 0) scores[e] = soft_cap(sum, router.cap);
    }
    __syncthreads();
    if (threadIdx.x > 0) return;

    // Experts are few: one thread does the rest.
    float largest = scores[0], total = 0.0f, kept = 0.0f;
    for (int e = 1; e < experts; ++e) largest = fmaxf(largest, scores[e]);
    for (int e = 0; e < experts; ++e) total += expf(scores[e] - largest);
    for (int e = 0; e < experts; ++e) {
        const float probability = expf(scores[e] - largest) / total;
        out.probabilities[row * experts + e] = probability;
        scores[e] = probability;
    }
    int* selection = out.selection + row * selected;
    float* gates = out.gates + row * selected;
    for (int slot = 0; slot < selected; ++slot) {
        int best = 0;
        // Of equal experts the lower one comes first.
        for (int e = 1; e < experts; ++e) {
            if (scores[e] > scores[best]) best = e;
        }
        selection[slot] = best;
        gates[slot] = scores[best];
        kept += scores[best];
        scores[best] = -1.0f;
    }
    for (int slot = 0; router.renormalise && slot < selected; ++slot) gates[slot] /= kept;
}
