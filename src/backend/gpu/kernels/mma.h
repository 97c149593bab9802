// Matrix instructions of NVIDIA from sm_80 on: products of bf16 tiles by a warp of 32 lanes, and what brings tiles there.
//
// Lane `4 * g + t` holds of a product of [16, 16] with [16, 8], in words of two bf16 that follow each other along the contracted axis:
//   a[0]: row g, columns 2t, 2t + 1      a[2]: row g, columns 2t + 8, 2t + 9
//   a[1]: row g + 8, the same            a[3]: row g + 8, the same
//   b[0]: rows 2t, 2t + 1 of column g    b[1]: rows 2t + 8, 2t + 9
//   sum[0], sum[1]: row g, columns 2t, 2t + 1; sum[2], sum[3]: row g + 8
// Products are exact and their sums f32, in an order that the device chooses.
#pragma once
#include "numbers.h"

#ifndef SIMT_HOST

// Adds the product of `a` and `b` to `sum`.
DEVICE void multiply_add(float (&sum)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

DEVICE u32 shared_address(const u32* shared) {
    u32 address;
    asm("{ .reg .u64 wide; cvta.to.shared.u64 wide, %1; cvt.u32.u64 %0, wide; }" : "=r"(address) : "l"(shared));
    return address;
}

// Four matrices of [8, 8] bf16. Lanes 8 * i to 8 * i + 7 say where the rows of matrix `i` are, 16 aligned bytes each; out[i] is
// columns 2t, 2t + 1 of its row g.
DEVICE void load_matrices(u32 (&out)[4], const u32* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// The same, but out[i] is rows 2t, 2t + 1 of its column g.
DEVICE void load_matrices_transposed(u32 (&out)[4], const u32* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// Begins to copy 16 aligned bytes from global memory, or zeros if they are not real, where nothing is then read.
DEVICE void copy_async(u32* to, const void* from, bool real) {
    asm volatile("{ .reg .u64 global; cvta.to.global.u64 global, %1; cp.async.cg.shared.global [%0], [global], 16, %2; }" ::"r"(
                     shared_address(to)),
                 "l"(from), "r"(real ? 16 : 0)
                 : "memory");
}

// Ends a group of this thread's copies.
DEVICE void end_copies() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}

// Waits for this thread's groups but the last `LATER`. Others see the copies after a barrier.
template <int LATER>
DEVICE void wait_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(LATER) : "memory");
}

// Two values, rounded to bf16, the first in the lower half.
DEVICE u32 bf16_pair(float first, float second) {
    u32 pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(second), "f"(first));
    return pair;
}

// The same of values that are bf16.
DEVICE u32 exact_pair(float first, float second) {
    return __byte_perm(bits_of(first), bits_of(second), 0x7632);
}

#else

DEVICE u32 bf16_pair(float first, float second) {
    return f32_to_bf16(first) | (u32)f32_to_bf16(second) << 16;
}

DEVICE u32 exact_pair(float first, float second) {
    return bits_of(first) >> 16 | (bits_of(second) & 0xffff0000u);
}

#endif
