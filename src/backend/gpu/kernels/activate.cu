// GELU of the gate times up, where their formats differ and `gate_up` cannot do it.
#include "numbers.h"

// grid: [ceil(count / THREADS)]
KERNEL(activate,
       float* activated,  // [count]
       const float* gate, // [count]
       const float* up,   // [count]
       int count, int round) {
    const int i = blockIdx.x * THREADS + threadIdx.x;
    if (i < count) activated[i] = rounded(gelu(gate[i]) * up[i], round);
}
