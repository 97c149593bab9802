// `residual` of attention's branch and `route` of what it makes, in one launch; of a batch of one row what `group` makes too.
#include "experts.h"
#include "router.h"

// grid: [rows]; shared memory: float [experts]
KERNEL(residual_route,
       float* hidden,       // [rows, width], added to
       const float* branch, // [rows, width]
       const float* scale,  // [width], of the branch's norm
       Routed out, Router router,
       int* group_experts, int* starts, int* pairs, // see `group`
       int round) {
    const u64 row = (u64)blockIdx.x * router.width;
    add_normed(hidden + row, branch + row, scale, router.width, router.epsilon);
    // Others read what this thread wrote.
    __syncthreads();
    route_row(out, hidden, router, round);
    if (gridDim.x > 1 || threadIdx.x > 0) return;
    for (int slot = 0; slot < router.selected; ++slot) {
        group_experts[slot] = out.selection[slot];
        starts[slot] = slot;
        pairs[slot] = slot;
    }
    starts[router.selected] = router.selected;
}
