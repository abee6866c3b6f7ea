/* cpu/linear: the slots of matrix products, with activations beside them. */
#include "kernels/cpu/matmul.h"

static double gemm_bytes(size_t M, size_t N, size_t K) {
    return (double)sizeof(act) *
           ((double)M * (double)K + (double)K * (double)N + (double)M * (double)N);
}
#define GEMM_FLOPS(M, N, K) (2.0 * (double)(M) * (double)(N) * (double)(K))

static Product forward(act *y, const act *x, const act *w, const act *b, size_t M, size_t N,
                       size_t K) {
    return (Product){.a = x,
                     .b = w,
                     .c = y,
                     .bias = b,
                     .M = M,
                     .N = N,
                     .K = K,
                     .lda = K,
                     .ldb = K,
                     .ldc = N,
                     .tb = true,
                     .in = ELEMENT_ACT,
                     .out = ELEMENT_ACT};
}

void FN(linear_fwd)(act *y, const act *x, const act *w, const act *b, size_t M, size_t N,
                    size_t K) {
    KERNEL_TIMER(linear_fwd, GEMM_FLOPS(M, N, K), gemm_bytes(M, N, K));
    Product p = forward(y, x, w, b, M, N, K);
    FN(matmul)(&p);
}

void FN(linear_bwd_input)(act *dx, const act *dy, const act *w, size_t M, size_t N, size_t K) {
    KERNEL_TIMER(linear_bwd_input, GEMM_FLOPS(M, N, K), gemm_bytes(M, N, K));
    FN(matmul)
    (&(Product){.a = dy,
                .b = w,
                .c = dx,
                .M = M,
                .N = K,
                .K = N,
                .lda = N,
                .ldb = K,
                .ldc = K,
                .in = ELEMENT_ACT,
                .out = ELEMENT_ACT});
}

void FN(linear_bwd_weight)(acc *dw, acc *db, const act *dy, const act *x, size_t M, size_t N,
                           size_t K) {
    KERNEL_TIMER(linear_bwd_weight, GEMM_FLOPS(M, N, K),
                 (double)sizeof(act) * (double)M * (double)(N + K) + 8.0 * (double)N * (double)K);
    FN(matmul)
    (&(Product){.a = dy,
                .b = x,
                .c = dw,
                .M = N,
                .N = K,
                .K = M,
                .lda = N,
                .ldb = K,
                .ldc = K,
                .ta = true,
                .add = true,
                .in = ELEMENT_ACT,
                .out = ELEMENT_F32,
                .left_sums = db ? &db->v : NULL});
}

static void activation_row(act *y, const act *x, size_t n, Activation f) {
#if defined GELU_ROUGH
    Cubic below = cubic_load(gelu_cubics()->below);
#endif
    for (size_t i = 0; i < n; i += VW) {
        ahead(x + i), ahead_to_write(y + i);
        vf v = act_load(x + i, n - i), r;
        if (f == ACTIVATION_QUICK_GELU) {
            r = v * vsigmoid(v * vset(1.702f));
        } else {
#if defined GELU_ROUGH
            r = gelu_rough(&below, v);
#else
            vf bell;
            r = v * vnormal(v, &bell);
#endif
        }
        act_store(y + i, r, n - i);
    }
}

void FN(linear_activation_fwd)(act *y, act *pre, const act *x, const act *w, const act *b, size_t M,
                               size_t N, size_t K, Activation f) {
    KERNEL_TIMER(linear_activation_fwd, GEMM_FLOPS(M, N, K) + 20.0 * (double)M * (double)N,
                 gemm_bytes(M, N, K) + (double)sizeof(act) * (double)M * (double)N);
    Product p = forward(pre, x, w, b, M, N, K);
    FN(matmul)(&p);
#pragma omp parallel for schedule(static) if (M * N > SERIAL_BELOW)
    for (size_t i = 0; i < M; i++) activation_row(y + i * N, pre + i * N, N, f);
}

void FN(project_fwd)(acc *y, const act *x, const act *p, size_t M, size_t C, size_t E) {
    KERNEL_TIMER(project_fwd, GEMM_FLOPS(M, C, E), gemm_bytes(M, C, E));
    FN(matmul)
    (&(Product){.a = x,
                .b = p,
                .c = y,
                .M = M,
                .N = E,
                .K = C,
                .lda = C,
                .ldb = E,
                .ldc = E,
                .in = ELEMENT_ACT,
                .out = ELEMENT_F32});
}

void FN(project_bwd)(act *dx, acc *dp, const acc *dy, const act *x, const act *p, size_t M,
                     size_t C, size_t E) {
    double products = dp ? 2 : 1;
    KERNEL_TIMER(project_bwd, products * GEMM_FLOPS(M, C, E), products * gemm_bytes(M, C, E));
    act *d = FN(scratch)(SCRATCH_LINEAR, M * E * sizeof *d);
    for (size_t i = 0; i < M * E; i += VW) act_store(d + i, acc_load(dy + i, M * E - i), M * E - i);
    FN(matmul)
    (&(Product){.a = d,
                .b = p,
                .c = dx,
                .M = M,
                .N = C,
                .K = E,
                .lda = E,
                .ldb = E,
                .ldc = C,
                .tb = true,
                .in = ELEMENT_ACT,
                .out = ELEMENT_ACT});
    if (!dp) return;
    FN(matmul)
    (&(Product){.a = x,
                .b = d,
                .c = dp,
                .M = C,
                .N = E,
                .K = M,
                .lda = C,
                .ldb = E,
                .ldc = E,
                .ta = true,
                .add = true,
                .in = ELEMENT_ACT,
                .out = ELEMENT_F32});
}

void FN(gemm)(acc *c, size_t ldc, const acc *a, size_t lda, bool ta, const acc *b, size_t ldb,
              bool tb, size_t M, size_t N, size_t K, bool add) {
    KERNEL_TIMER(gemm, GEMM_FLOPS(M, N, K), 2 * gemm_bytes(M, N, K));
    FN(matmul)
    (&(Product){.a = a,
                .b = b,
                .c = c,
                .M = M,
                .N = N,
                .K = K,
                .lda = lda,
                .ldb = ldb,
                .ldc = ldc,
                .ta = ta,
                .tb = tb,
                .add = add,
                .in = ELEMENT_F32,
                .out = ELEMENT_F32});
}
