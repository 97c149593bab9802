// Pre-MoE norm, router softmax, selection.
#include "norm.h"

// grid: [rows]; shared memory: float [experts]
KERNEL(route,
       float* moe_input,     // [rows, width]
       float* probabilities, // [rows, experts]
       int* selection,       // [rows, selected], best first
       float* gates,         // [rows, selected]
       const float* hidden,  // [rows, width]
       const float* scale,   // [width], of the norm
       const float* router,  // [experts, width]
       int width, int experts, int selected, float epsilon, float cap, int renormalise, int round) {
    DYNAMIC_SHARED(float, scores);
    const u64 row = blockIdx.x;
    const float* x = hidden + row * width;
    const float factor = norm_factor(x, width, epsilon);
    for (int i = threadIdx.x; i < width; i += THREADS) {
        moe_input[row * width + i] = rounded(scale[i] * (x[i] * factor), round);
    }
    for (int e = warp_index(); e < experts; e += THREADS / WARP) {
        float sum = 0.0f;
        for (int i = lane_index(); i < width; i += WARP) {
            sum = fmaf(router[(u64)e * width + i], scale[i] * (x[i] * factor), sum);
        }
        sum = warp_sum(sum);
        if (lane_index() == 0) scores[e] = soft_cap(sum, cap);
    }
    __syncthreads();
    if (threadIdx.x > 0) return;

    // Experts are few: one thread does the rest.
    float largest = scores[0], total = 0.0f, kept = 0.0f;
    for (int e = 1; e < experts; ++e) largest = fmaxf(largest, scores[e]);
    for (int e = 0; e < experts; ++e) total += expf(scores[e] - largest);
    for (int e = 0; e < experts; ++e) {
        const float probability = expf(scores[e] - largest) / total;
        probabilities[row * experts + e] = probability;
        scores[e] = probability;
    }
    for (int slot = 0; slot < selected; ++slot) {
        int best = 0;
        // Of equal experts the lower one comes first.
        for (int e = 1; e < experts; ++e) {
            if (scores[e] > scores[best]) best = e;
        }
        selection[row * selected + slot] = best;
        gates[row * selected + slot] = scores[best];
        kept += scores[best];
        scores[best] = -1.0f;
    }
    for (int slot = 0; renormalise && slot < selected; ++slot) gates[row * selected + slot] /= kept;
}
