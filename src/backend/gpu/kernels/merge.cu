// The spans of a row's attention become one, in their order.
#include "numbers.h"

// grid: [heads, rows]
KERNEL(merge,
       float* attended,      // [rows, heads, head_dim]
       const float* sums,    // [rows, heads, spans, head_dim], by `attention`
       const float* stats,   // [rows, heads, spans, 2]
       const int* positions, // [rows]
       int heads, int head_dim, int spans, int round) {
    const u64 head = (u64)blockIdx.y * heads + blockIdx.x;
    const float* own = stats + head * spans * 2;
    const int used = positions[blockIdx.y] / SPAN + 1;
    float largest = own[0], total = 0.0f;
    for (int span = 1; span < used; ++span) largest = fmaxf(largest, own[2 * span]);
    for (int span = 0; span < used; ++span) total += own[2 * span + 1] * expf(own[2 * span] - largest);
    for (int d = threadIdx.x; d < head_dim; d += THREADS) {
        float sum = 0.0f;
        for (int span = 0; span < used; ++span) {
            sum = fmaf(sums[(head * spans + span) * head_dim + d], expf(own[2 * span] - largest), sum);
        }
        attended[head * head_dim + d] = rounded(sum / total, round);
    }
}
