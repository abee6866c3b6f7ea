/* cuda/linear: the products of the model and of the loss (by blas), with biases and activations. */
#include "kernels/cuda/blas.h"
#include "kernels/cuda/cuda.cuh"

static double product_flops(size_t M, size_t N, size_t K) {
    return 2.0 * (double)M * (double)N * (double)K;
}
static double product_bytes(size_t M, size_t N, size_t K, size_t in, size_t out) {
    return (double)((M * K + N * K) * in + M * N * out);
}

static void linear(act *y, const act *r, const act *x, const act *w, const act *b, size_t M,
                   size_t N, size_t K) {
    if (!M || FN(fp8_fwd)(y, r, x, w, b, M, N, K)) return;
    Product p = {x, w, b, y, M, N, K, K, K, N, false, true, false, TF32, ACT_TYPE, ACT_TYPE};
    p.addend = r;
    blas_product(&p);
}

void FN(linear_fwd)(act *y, const act *x, const act *w, const act *b, size_t M, size_t N,
                    size_t K) {
    GPU_TIMER(linear_fwd, product_flops(M, N, K), product_bytes(M, N, K, sizeof(act), sizeof(act)));
    linear(y, NULL, x, w, b, M, N, K);
}

void FN(linear_add_fwd)(act *y, const act *r, const act *x, const act *w, const act *b, size_t M,
                        size_t N, size_t K) {
    GPU_TIMER(linear_add_fwd, product_flops(M, N, K),
              product_bytes(M, N, K, sizeof(act), 2 * sizeof(act)));
    linear(y, r, x, w, b, M, N, K);
}

void FN(linear_activation_fwd)(act *y, act *pre, const act *x, const act *w, const act *b, size_t M,
                               size_t N, size_t K, Activation f) {
    GPU_TIMER(linear_activation_fwd, product_flops(M, N, K),
              product_bytes(M, N, K, sizeof(act), 2 * sizeof(act)));
    linear(pre, NULL, x, w, b, M, N, K);
    FN(activate)(y, pre, M * N, f);
}

void FN(linear_bwd_input)(act *dx, const act *dy, const act *w, size_t M, size_t N, size_t K) {
    GPU_TIMER(linear_bwd_input, product_flops(M, N, K),
              product_bytes(M, K, N, sizeof(act), sizeof(act)));
    if (!M || FN(fp8_bwd_input)(dx, dy, w, M, N, K)) return;
    Product p = {dy, w, NULL, dx, M, K, N, N, K, K, false, false, false, TF32, ACT_TYPE, ACT_TYPE};
    blas_product(&p);
}

static void sum_apart(const Product *p) {
    FN(add_columns)((acc *)p->sums, (const act *)p->a, p->lda, p->K, p->M);
}

void FN(linear_bwd_weight)(acc *dw, acc *db, const act *dy, const act *x, size_t M, size_t N,
                           size_t K) {
    GPU_TIMER(linear_bwd_weight, product_flops(M, N, K),
              product_bytes(N, K, M, sizeof(act), 2 * sizeof(acc)));
    if (!M) return;
    bool summed = false;
    float *sums = db ? (float *)device_scratch(SCRATCH_SUMS, N * sizeof *sums) : NULL;
    if (!FN(fp8_bwd_weight)(dw, dy, x, M, N, K)) {
        Product p = {dy, x, NULL, dw,    N,    K,    M,        N,
                     K,  K, true, false, true, TF32, ACT_TYPE, CUDA_R_32F};
        p.sums = sums, p.sums_apart = sum_apart;
        summed = blas_product(&p);
    }
    if (summed)
        FN(add_partials)(db, sums, 1, N);
    else if (db)
        FN(add_columns)(db, dy, N, M, N);
}

void FN(project_fwd)(acc *y, const act *x, const act *p, bool tp, const acc *b, size_t M, size_t C,
                     size_t E) {
    GPU_TIMER(project_fwd, product_flops(M, E, C),
              product_bytes(M, E, C, sizeof(act), sizeof(acc)));
    size_t ldp = tp ? C : E;
    Product q = {x, p, b, y, M, E, C, C, ldp, E, false, tp, false, TF32, ACT_TYPE, CUDA_R_32F};
    blas_product(&q);
}

void FN(project_bwd)(act *dx, acc *dp, acc *db, const acc *dy, const act *x, const act *p, bool tp,
                     size_t M, size_t C, size_t E) {
    double products = dp ? 2 : 1;
    GPU_TIMER(project_bwd, products * product_flops(M, E, C),
              products * product_bytes(M, E, C, sizeof(act), sizeof(acc)));
    if (!M) return;
    act *d = (act *)device_scratch(SCRATCH_CAST, M * E * sizeof *d);
    FN(round_acc)(d, dy, M * E);
    size_t ldp = tp ? C : E;
    Product in = {d, p, NULL, dx, M, C, E, E, ldp, C, false, !tp, false, TF32, ACT_TYPE, ACT_TYPE};
    blas_product(&in);
    if (!dp) return;
    size_t rows = tp ? E : C, cols = tp ? C : E;
    Product weight = {tp ? d : x, tp ? x : d, NULL, dp,    rows, cols, M,        rows,
                      cols,       cols,       true, false, true, TF32, ACT_TYPE, CUDA_R_32F};
    blas_product(&weight);
    if (db) FN(add_columns)(db, d, E, M, E);
}

void FN(gemm)(acc *c, size_t ldc, const acc *a, size_t lda, bool ta, const acc *b, size_t ldb,
              bool tb, size_t M, size_t N, size_t K, bool add) {
    GPU_TIMER(gemm, product_flops(M, N, K), product_bytes(M, N, K, sizeof(acc), sizeof(acc)));
    Product p = {a, b, NULL, c, M, N, K, lda, ldb, ldc, ta, tb, add, TF32, CUDA_R_32F, CUDA_R_32F};
    blas_product(&p);
}
