/* cpu/linear: the slots of matrix products and their activations. */
#include "kernels/cpu/matmul.h"

static double gemm_bytes(size_t M, size_t N, size_t K) {
    return (double)sizeof(act) *
           ((double)M * (double)K + (double)K * (double)N + (double)M * (double)N);
}
#define GEMM_FLOPS(M, N, K) (2.0 * (double)(M) * (double)(N) * (double)(K))

static Product forward(act *y, const act *x, const act *w, const act *b, size_t M, size_t N,
                       size_t K) {
    return (Product){M, N, K, .a = {x, K}, .b = {w, K}, .c = {y, N}, .tb = true, .bias = b};
}

void FN(linear_fwd)(act *y, const act *x, const act *w, const act *b, size_t M, size_t N,
                    size_t K) {
    KERNEL_BEGIN(linear_fwd, GEMM_FLOPS(M, N, K), gemm_bytes(M, N, K));
    Product p = forward(y, x, w, b, M, N, K);
    FN(matmul)(&p);
}

void FN(linear_add_fwd)(act *y, const act *r, const act *x, const act *w, const act *b, size_t M,
                        size_t N, size_t K) {
    KERNEL_BEGIN(linear_add_fwd, GEMM_FLOPS(M, N, K),
                 gemm_bytes(M, N, K) + (double)sizeof(act) * (double)M * (double)N);
    Product p = forward(y, x, w, b, M, N, K);
    FN(matmul)(&p);
    for (size_t i = 0, n = M * N; i < n; i += VW)
        act_store(y + i, act_load(y + i, n - i) + act_load(r + i, n - i), n - i);
}

void FN(linear_bwd_input)(act *dx, const act *dy, const act *w, size_t M, size_t N, size_t K) {
    KERNEL_BEGIN(linear_bwd_input, GEMM_FLOPS(M, N, K), gemm_bytes(M, N, K));
    Product p = {M, K, N, .a = {dy, N}, .b = {w, K}, .c = {dx, K}};
    FN(matmul)(&p);
}

void FN(linear_bwd_weight)(acc *dw, acc *db, const act *dy, const act *x, size_t M, size_t N,
                           size_t K) {
    KERNEL_BEGIN(linear_bwd_weight, GEMM_FLOPS(M, N, K),
                 (double)sizeof(act) * (double)M * (double)(N + K) + 8.0 * (double)N * (double)K);
    Product p = {N, K, M, .a = {dy, N}, .b = {x, K}, .c = {dw, K}, .out = ELEMENT_F32};
    p.ta = p.add = true;
    if (db) p.left_sums = &db->v;
    FN(matmul)(&p);
}

void FN(linear_activation_fwd)(act *y, act *pre, const act *x, const act *w, const act *b, size_t M,
                               size_t N, size_t K, Activation f) {
    KERNEL_BEGIN(linear_activation_fwd, GEMM_FLOPS(M, N, K) + 20.0 * (double)M * (double)N,
                 gemm_bytes(M, N, K) + (double)sizeof(act) * (double)M * (double)N);
    Product p = forward(pre, x, w, b, M, N, K);
    FN(matmul)(&p);
#pragma omp parallel for schedule(static) if (M * N > SERIAL_BELOW)
    for (size_t i = 0; i < M; i++) FN(activation_row)(y + i * N, pre + i * N, N, f);
}

void FN(project_fwd)(acc *y, const act *x, const act *p, bool tp, const acc *b, size_t M, size_t C,
                     size_t E) {
    KERNEL_BEGIN(project_fwd, GEMM_FLOPS(M, C, E), gemm_bytes(M, C, E));
    Product product = {M, E, C, .a = {x, C}, .b = {p, tp ? C : E}, .c = {y, E}, .tb = tp};
    product.out = ELEMENT_F32;
    FN(matmul)(&product);
    for (size_t m = 0; m < M && b; m++)
        for (size_t e = 0; e < E; e++) y[m * E + e].v += b[e].v;
}

void FN(project_bwd)(act *dx, acc *dp, acc *db, const acc *dy, const act *x, const act *p, bool tp,
                     size_t M, size_t C, size_t E) {
    double products = dp ? 2 : 1;
    KERNEL_BEGIN(project_bwd, products * GEMM_FLOPS(M, C, E), products * gemm_bytes(M, C, E));
    act *d = FN(scratch)(SCRATCH_LINEAR, M * E * sizeof *d);
    for (size_t i = 0; i < M * E; i += VW) act_store(d + i, acc_load(dy + i, M * E - i), M * E - i);
    Product q = {M, C, E, .a = {d, E}, .b = {p, tp ? C : E}, .c = {dx, C}, .tb = !tp};
    FN(matmul)(&q);
    if (!dp) return;
    q = tp ? (Product){E, C, M, .a = {d, E}, .b = {x, C}, .c = {dp, C}}
           : (Product){C, E, M, .a = {x, C}, .b = {d, E}, .c = {dp, E}};
    q.out = ELEMENT_F32;
    q.ta = q.add = true;
    if (db) q.left_sums = &db->v;
    FN(matmul)(&q);
}

void FN(gemm)(acc *c, size_t ldc, const acc *a, size_t lda, bool ta, const acc *b, size_t ldb,
              bool tb, size_t M, size_t N, size_t K, bool add) {
    KERNEL_BEGIN(gemm, GEMM_FLOPS(M, N, K), 2 * gemm_bytes(M, N, K));
    Product p = {M, N, K, .a = {a, lda}, .b = {b, ldb}, .c = {c, ldc}, .ta = ta, .tb = tb};
    p.add = add;
    p.in = p.out = ELEMENT_F32;
    FN(matmul)(&p);
}
