/* norm: LayerNorm and L2 normalisation. */
#include "tests/support_kernels.h"

#include <math.h>
#include <stdlib.h>

/* rows, C */
static const size_t shapes[][2] = {{0, 8},  {1, 1},   {2, 1},    {1, 2},   {3, 7},    {5, 16},
                                   {7, 17}, {33, 64}, {50, 100}, {9, 768}, {2, 1408}, {130, 48}};

/* x = offset + [-scale, scale). */
typedef struct Input {
    double offset, scale, eps;
} Input;
static const Input inputs[] = {{0, 1, 1e-5},  {0, 1e-3, 1e-5}, {0, 300, 1e-5},
                               {16, 1, 1e-5}, {0, 1e-3, 1e-6}, {0, 1, 0.1}};
#define EPS 1e-5 /* CLIP's */

static Buf *shifted_act(size_t n, Input in) {
    Buf *x = act_in(n, in.scale);
    for (size_t i = 0; i < n; i++) x->host[i] += in.offset;
    return x;
}

static double largest(const Buf *b) {
    double x = 0;
    for (size_t i = 0; i < b->n; i++) x = fmax(x, fabs(b->want[i]));
    return x;
}

/* x - mean has the error eps·|x|, which the division by the standard deviation enlarges. */
static double terms_of(size_t C, const Buf *x, const Buf *rstd) {
    double spread = 1 + largest(x) * largest(rstd);
    return (double)C * spread * spread;
}

static void layernorm_fwd(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT(shapes) * COUNT(inputs); i++) {
        size_t rows = shapes[i % COUNT(shapes)][0], C = shapes[i % COUNT(shapes)][1];
        Input in = inputs[i / COUNT(shapes)];
        Buf *y = act_out(rows * C), *mean = acc_out(rows), *rstd = acc_out(rows);
        Buf *x = shifted_act(rows * C, in), *w = acc_in(C, 2), *b = acc_in(C, 1);
        RUN(layernorm_fwd, A(y), F(mean), F(rstd), NULL, A(x), NULL, F(w), F(b), rows, C, in.eps);
        mean->size = 0.3 * in.scale;
        y->size = 1;
        check(y, 2, terms_of(C, x, rstd));
        check(mean, 2, C);
        check(rstd, 2, terms_of(C, x, rstd));
        bufs_free();
    }
}

/* Multiples of 1/16: their sums are exact in every element type. */
static void make_coarse(Buf *x) {
    for (size_t i = 0; i < x->n; i++) x->host[i] = floor(16 * x->host[i]) / 16;
}

static void layernorm_fwd_residual(void **state) {
    (void)state;
    for (int in_place = 0; in_place < 2; in_place++)
        for (size_t i = 0; i < COUNT(shapes); i++) {
            size_t rows = shapes[i][0], C = shapes[i][1];
            Buf *y = act_out(rows * C), *mean = acc_out(rows), *rstd = acc_out(rows);
            Buf *x = in_place ? act_inout(rows * C, 1) : act_in(rows * C, 1);
            Buf *sum = in_place ? x : act_out(rows * C);
            Buf *r = act_in(rows * C, 1), *w = acc_in(C, 2), *b = acc_in(C, 1);
            make_coarse(x);
            make_coarse(r);
            RUN(layernorm_fwd, A(y), F(mean), F(rstd), A(sum), A(x), A(r), F(w), F(b), rows, C,
                EPS);
            check_exact(sum);
            mean->size = 0.3;
            y->size = 1;
            check(y, 2, terms_of(C, sum, rstd));
            check(mean, 2, C);
            check(rstd, 2, terms_of(C, sum, rstd));
            bufs_free();
        }
}

/* The rounded sum is normalised: its statistics equal those of a second call that reads the sum. */
static void layernorm_fwd_rounds_sum_first(void **state) {
    (void)state;
    enum { ROWS = 5, C = 33, N = ROWS * C };
    double *x = test_randoms(N), *r = test_randoms(N), got[4][ROWS], sum[N], want[N];
    act *in[2], *y = backend->device->alloc(N * backend->act_size);
    act *s = backend->device->alloc(N * backend->act_size);
    acc *stats[4], *w = backend->device->alloc(C * backend->acc_size);
    for (int i = 0; i < 2; i++) in[i] = backend->device->alloc(N * backend->act_size);
    for (int i = 0; i < 4; i++) stats[i] = backend->device->alloc(ROWS * backend->acc_size);
    test_act_set(backend, in[0], x, N);
    test_act_set(backend, in[1], r, N);
    backend->acc_set(w, x, C);
    backend->layernorm_fwd(y, stats[0], stats[1], s, in[0], in[1], w, w, ROWS, C, EPS);
    backend->layernorm_fwd(y, stats[2], stats[3], NULL, s, NULL, w, w, ROWS, C, EPS);
    for (int i = 0; i < 4; i++) backend->acc_get(got[i], stats[i], ROWS);
    assert_true(test_error_max(got[0], got[2], ROWS) <= 1e-5);
    assert_true(test_error_max(got[1], got[3], ROWS) <= 1e-5);
    test_act_get(backend, sum, s, N);
    test_act_get(backend, x, in[0], N);
    test_act_get(backend, r, in[1], N);
    for (int i = 0; i < N; i++) want[i] = x[i] + r[i];
    assert_true(test_error_max(sum, want, N) <= (backend->act_size == 2 ? 0x1p-8 : 0x1p-23));
    for (int i = 0; i < 2; i++) backend->device->release(in[i]);
    for (int i = 0; i < 4; i++) backend->device->release(stats[i]);
    backend->device->release(y);
    backend->device->release(s);
    backend->device->release(w);
    free(x);
    free(r);
}

/* Which input shares dx's array. */
typedef enum { APART, DX_IS_DY, DX_IS_DRES } Sharing;

static void compare_layernorm_bwd(size_t rows, size_t C, Sharing sharing, bool residual,
                                  bool again) {
    Buf *y = act_out(rows * C), *mean = acc_out(rows), *rstd = acc_out(rows);
    Buf *x = act_in(rows * C, 1), *w = acc_in(C, 2), *b = acc_in(C, 1);
    RUN(layernorm_fwd, A(y), F(mean), F(rstd), NULL, A(x), NULL, F(w), F(b), rows, C, EPS);
    y->size = 1;
    check(y, 2, terms_of(C, x, rstd));
    becomes_input(mean);
    becomes_input(rstd);

    Buf *dy = sharing == DX_IS_DY ? act_inout(rows * C, 1) : act_in(rows * C, 1);
    Buf *dres = !residual               ? NULL
                : sharing == DX_IS_DRES ? act_inout(rows * C, 1)
                                        : act_in(rows * C, 1);
    Buf *dx = sharing == DX_IS_DY ? dy : sharing == DX_IS_DRES ? dres : act_out(rows * C);
    Buf *dw = acc_inout(C, 1), *db = acc_inout(C, 1);
    RUN(layernorm_bwd, A(dx), F(dw), F(db), again ? A(y) : NULL, A(dy), A(dres), A(x), F(mean),
        F(rstd), F(w), F(b), rows, C);
    /* dx sums terms of size rstd·dy·w, which all but cancel in rows of one or two elements. */
    dx->size = largest(rstd);
    check(dx, 4, C);
    check(dw, 4, rows);
    check(db, 4, rows);
    if (again) check(y, 2, terms_of(C, x, rstd));
    y->checked = true;
    bufs_free();
}

static void layernorm_bwd(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT(shapes); i++)
        for (int form = 0; form < 10; form++) {
            Sharing sharing = (Sharing)(form / 4);
            bool residual = form % 2 || sharing == DX_IS_DRES, again = form / 2 % 2;
            compare_layernorm_bwd(shapes[i][0], shapes[i][1], sharing, residual, again);
        }
}

static void compare_l2norm(size_t rows, size_t E, bool in_place) {
    Buf *y = acc_out(rows * E), *norm = acc_out(rows), *x = acc_in(rows * E, 1);
    /* Rows of zeros, of underflowing squares and of large values. */
    static const double factors[] = {1, 0, 1e-30, 1e6};
    for (size_t i = 0; i < rows; i++)
        for (size_t e = 0; e < E; e++) x->host[i * E + e] *= factors[i % 4];
    RUN(l2norm_fwd, F(y), F(norm), F(x), rows, E);
    check(y, 2, E);
    check(norm, 2, E);
    becomes_input(y);
    becomes_input(norm);
    for (size_t i = 0; i < rows; i++) norm->host[i] = 0.5 + (double)i;
    Buf *dy = in_place ? acc_inout(rows * E, 1) : acc_in(rows * E, 1);
    Buf *dx = in_place ? dy : acc_out(rows * E);
    RUN(l2norm_bwd, F(dx), F(dy), F(y), F(norm), rows, E);
    dx->size = 1;
    check(dx, 2, E);
    bufs_free();
}

static void l2norm(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT(shapes); i++) {
        compare_l2norm(shapes[i][0], shapes[i][1], false);
        compare_l2norm(shapes[i][0], shapes[i][1], true);
    }
}

/* The norm of a zero or tiny row is the smallest allowed one, and its direction is 0 or tiny. */
static void l2norm_of_zero(void **state) {
    (void)state;
    enum { E = 19 };
    Buf *y = acc_out(2 * E), *norm = acc_out(2), *x = acc_in(2 * E, 1e-15);
    for (size_t e = 0; e < E; e++) x->host[e] = 0;
    RUN(l2norm_fwd, F(y), F(norm), F(x), (size_t)2, (size_t)E);
    check(y, 2, 1);
    check(norm, 2, 1);
    for (int t = 0; t < THREAD_COUNTS; t++)
        for (int i = 0; i < 2; i++) assert_near(norm->got[t][i], 1e-12, 1e-18);
    bufs_free();
}

/* ---- ref against difference quotients ---- */

enum { ROWS = 3, WIDTH = 5, ALL = ROWS * WIDTH };

typedef struct Norm {
    double x[ALL], r[ALL], w[WIDTH], b[WIDTH], dy[ALL], dsum[ALL]; /* loss = Σ dy·y + Σ dsum·sum */
    double y[ALL], sum[ALL], mean[ROWS], rstd[ROWS];
} Norm;

static double layernorm_loss(void *ctx) {
    Norm *n = ctx;
    ref->layernorm_fwd((act *)n->y, (acc *)n->mean, (acc *)n->rstd, (act *)n->sum, (act *)n->x,
                       (act *)n->r, (acc *)n->w, (acc *)n->b, ROWS, WIDTH, EPS);
    return test_dot(n->dy, n->y, ALL) + test_dot(n->dsum, n->sum, ALL);
}

static double l2norm_loss(void *ctx) {
    Norm *n = ctx;
    ref->l2norm_fwd((acc *)n->y, (acc *)n->mean, (acc *)n->x, ROWS, WIDTH);
    return test_dot(n->dy, n->y, ALL);
}

static void gradients_of_ref(void **state) {
    (void)state;
    Norm n;
    double dx[ALL], dw[WIDTH] = {0}, db[WIDTH] = {0}, again[ALL];
    for (size_t i = 0; i < sizeof n / sizeof(double); i++) ((double *)&n)[i] = test_random();
    layernorm_loss(&n);
    ref->layernorm_bwd((act *)dx, (acc *)dw, (acc *)db, (act *)again, (act *)n.dy, (act *)n.dsum,
                       (act *)n.sum, (acc *)n.mean, (acc *)n.rstd, (acc *)n.w, (acc *)n.b, ROWS,
                       WIDTH);
    assert_true(test_error_max(again, n.y, ALL) == 0);
    assert_gradient(layernorm_loss, &n, n.x, dx, ALL);
    assert_gradient(layernorm_loss, &n, n.r, dx, ALL);
    assert_gradient(layernorm_loss, &n, n.w, dw, WIDTH);
    assert_gradient(layernorm_loss, &n, n.b, db, WIDTH);
    l2norm_loss(&n);
    ref->l2norm_bwd((acc *)dx, (acc *)n.dy, (acc *)n.y, (acc *)n.mean, ROWS, WIDTH);
    assert_gradient(l2norm_loss, &n, n.x, dx, ALL);
}

/* (1, 3): mean 2, variance 1. */
static void ref_by_hand(void **state) {
    (void)state;
    double x[2] = {1, 3}, w[2] = {2, 10}, b[2] = {0, 1}, y[2], mean, rstd;
    ref->layernorm_fwd((act *)y, (acc *)&mean, (acc *)&rstd, NULL, (act *)x, NULL, (acc *)w,
                       (acc *)b, 1, 2, 0.25);
    assert_near(mean, 2, 0);
    assert_near(rstd, 1 / sqrt(1 + 0.25), 1e-15);
    assert_near(y[0], -2 * rstd, 1e-15);
    assert_near(y[1], 10 * rstd + 1, 1e-14);
}

int main(void) {
    const struct CMUnitTest each[] = {
        cmocka_unit_test(layernorm_fwd),
        cmocka_unit_test(layernorm_fwd_residual),
        cmocka_unit_test(layernorm_fwd_rounds_sum_first),
        cmocka_unit_test(layernorm_bwd),
        cmocka_unit_test(l2norm),
        cmocka_unit_test(l2norm_of_zero),
    };
    const struct CMUnitTest once[] = {cmocka_unit_test(gradients_of_ref),
                                      cmocka_unit_test(ref_by_hand)};
    return kernel_tests_run("kernels_norm", each, COUNT(each), once, COUNT(once));
}
