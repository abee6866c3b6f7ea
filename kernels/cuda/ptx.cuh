/* ptx: instructions without a C form: tensor cores, their loads, asynchronous copies. Private to
 * kernels/cuda/.
 *
 * mma_bf16 multiplies a 16 × 16 tile by a 16 × 8 tile (PTX ISA, "mma.sync.m16n8k16"). Lane l, with
 * r = l / 4 and c = 2·(l % 4), holds of
 *   a (row-major)     words (r, c), (r+8, c), (r, c+8), (r+8, c+8), two neighbours each;
 *   b (column-major)  words (k = c, n = r), (k = c+8, n = r);
 *   c                 (r, c), (r, c+1), (r+8, c), (r+8, c+1).
 * ldmatrix_x4 loads four 8 × 8 tiles, whose rows' addresses are in lanes 0-7, 8-15, 16-23, 24-31;
 * lane l gets the words (r, c) of each, with _trans (c, r) and (c+1, r). */
#pragma once

__device__ static __forceinline__ unsigned shared_address(const void *p) {
    return (unsigned)__cvta_generic_to_shared(p);
}

__device__ static __forceinline__ void mma_bf16(float c[4], const unsigned a[4], unsigned b0,
                                                unsigned b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, "
                 "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* c = a·b: the first term of a sum, without registers for zeros. */
__device__ static __forceinline__ void mma_bf16_first(float c[4], const unsigned a[4], unsigned b0,
                                                      unsigned b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, "
                 "{%4, %5, %6, %7}, {%8, %9}, {%10, %10, %10, %10};"
                 : "=f"(c[0]), "=f"(c[1]), "=f"(c[2]), "=f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "f"(0.0f));
}

__device__ static __forceinline__ void ldmatrix_x4(unsigned r[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}
__device__ static __forceinline__ void ldmatrix_x4_trans(unsigned r[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

/* Copies 16 bytes to shared memory; if not valid, writes zeros and reads nothing. */
__device__ static __forceinline__ void cp_async_16(void *dst, const void *src, bool valid) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(dst)),
                 "l"(src), "r"(valid ? 16 : 0)
                 : "memory");
}
__device__ static __forceinline__ void cp_async_commit(void) {
    asm volatile("cp.async.commit_group;" ::: "memory");
}
/* Waits until at most N of the groups that this thread committed are in flight. */
template <int N> __device__ static __forceinline__ void cp_async_wait(void) {
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

/* 2^x */
__device__ static __forceinline__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
