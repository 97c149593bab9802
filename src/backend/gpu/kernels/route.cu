// Pre-MoE norm, router softmax, selection.
#include "router.h"

// grid: [rows]; shared memory: float [experts]
KERNEL(route,
       Routed out,
       const float* hidden, // [rows, width]
       Router router, int round) {
    route_row(out, hidden, router, round);
}
