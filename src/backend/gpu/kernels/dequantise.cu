// Weights of a range of outputs as bf16, each rounded once, for a library that multiplies nothing else.
#include "experts.h"
#include "slab.h"

// grid: [count], or [inputs] where stored [inputs, outputs]. Where packed, `first` and `count` are multiples of TILE_OUTPUTS.
KERNEL(NAME(dequantise),
       u16* out,       // bf16 [count, inputs] or [inputs, count], aligned to 16 bytes
       Matrix weights, // of all experts
       int expert, int first, int count) {
    Slab<FORMAT>::write(out, matrix_of<FORMAT>(weights, expert), blockIdx.x, first, count);
}
