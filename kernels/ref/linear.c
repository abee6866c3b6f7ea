#include "kernels/ref/ref.h"

/* Every function runs its outermost loop over rows of the output: each sum belongs to one thread,
 * in index order. */

void ref_linear_fwd(act *y, const act *x, const act *w, const act *b, size_t M, size_t N,
                    size_t K) {
#pragma omp parallel for
    for (size_t m = 0; m < M; m++)
        for (size_t n = 0; n < N; n++) {
            double sum = b ? b[n].v : 0;
            for (size_t k = 0; k < K; k++) sum += x[m * K + k].v * w[n * K + k].v;
            y[m * N + n].v = sum;
        }
}

void ref_linear_add_fwd(act *y, const act *r, const act *x, const act *w, const act *b, size_t M,
                        size_t N, size_t K) {
    ref_linear_fwd(y, x, w, b, M, N, K);
    for (size_t i = 0; i < M * N; i++) y[i].v += r[i].v;
}

void ref_linear_bwd_input(act *dx, const act *dy, const act *w, size_t M, size_t N, size_t K) {
#pragma omp parallel for
    for (size_t m = 0; m < M; m++) {
        for (size_t k = 0; k < K; k++) dx[m * K + k].v = 0;
        for (size_t n = 0; n < N; n++)
            for (size_t k = 0; k < K; k++) dx[m * K + k].v += dy[m * N + n].v * w[n * K + k].v;
    }
}

void ref_linear_bwd_weight(acc *dw, acc *db, const act *dy, const act *x, size_t M, size_t N,
                           size_t K) {
#pragma omp parallel for
    for (size_t n = 0; n < N; n++)
        for (size_t m = 0; m < M; m++) {
            double g = dy[m * N + n].v;
            for (size_t k = 0; k < K; k++) dw[n * K + k].v += g * x[m * K + k].v;
            if (db) db[n].v += g;
        }
}

void ref_linear_activation_fwd(act *y, act *pre, const act *x, const act *w, const act *b, size_t M,
                               size_t N, size_t K, Activation f) {
    ref_linear_fwd(pre, x, w, b, M, N, K);
    for (size_t i = 0; i < M * N; i++) y[i].v = ref_activation(pre[i].v, f);
}

void ref_project_fwd(acc *y, const act *x, const act *p, bool tp, const acc *b, size_t M, size_t C,
                     size_t E) {
#pragma omp parallel for
    for (size_t m = 0; m < M; m++)
        for (size_t e = 0; e < E; e++) {
            double sum = 0;
            for (size_t c = 0; c < C; c++) sum += x[m * C + c].v * p[tp ? e * C + c : c * E + e].v;
            y[m * E + e].v = b ? sum + b[e].v : sum;
        }
}

void ref_project_bwd(act *dx, acc *dp, acc *db, const acc *dy, const act *x, const act *p, bool tp,
                     size_t M, size_t C, size_t E) {
    for (size_t m = 0; m < M; m++)
        for (size_t c = 0; c < C; c++) {
            double sum = 0;
            for (size_t e = 0; e < E; e++) sum += dy[m * E + e].v * p[tp ? e * C + c : c * E + e].v;
            dx[m * C + c].v = sum;
        }
    if (!dp) return;
#pragma omp parallel for
    for (size_t c = 0; c < C; c++)
        for (size_t m = 0; m < M; m++)
            for (size_t e = 0; e < E; e++)
                dp[tp ? e * C + c : c * E + e].v += x[m * C + c].v * dy[m * E + e].v;
    for (size_t m = 0; m < M && db; m++)
        for (size_t e = 0; e < E; e++) db[e].v += dy[m * E + e].v;
}

void ref_gemm(acc *c, size_t ldc, const acc *a, size_t lda, bool ta, const acc *b, size_t ldb,
              bool tb, size_t M, size_t N, size_t K, bool add) {
#pragma omp parallel for
    for (size_t m = 0; m < M; m++)
        for (size_t n = 0; n < N; n++) {
            double sum = add ? c[m * ldc + n].v : 0;
            for (size_t k = 0; k < K; k++)
                sum += a[ta ? k * lda + m : m * lda + k].v * b[tb ? n * ldb + k : k * ldb + n].v;
            c[m * ldc + n].v = sum;
        }
}
