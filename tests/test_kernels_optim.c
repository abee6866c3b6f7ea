/* optim: gradient norm, clipping, AdamW, clamping. */
#include "tests/support_kernels.h"

#include <math.h>
#include <stdlib.h>

static const size_t sizes[] = {0, 1, 2, 3, 7, 15, 16, 17, 33, 100, 1000, 4097, 100003};

static void sum_squares(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT(sizes); i++) {
        size_t n = sizes[i];
        Buf *out = acc_inout(1, 1), *x = acc_in(n, 2);
        out->host[0] = fabs(out->host[0]);
        RUN(sum_squares, F(out), F(x), n);
        check(out, 1, n);
        bufs_free();
    }
}

/* One bad gradient must reach the norm: it is how a step knows to skip itself. */
static void sum_squares_keeps_nan_and_infinity(void **state) {
    (void)state;
    enum { N = 1001 };
    static const double bad[] = {NAN, INFINITY, -INFINITY};
    acc *x = backend->alloc(N * backend->acc_size), *out = backend->alloc(backend->acc_size);
    double *host = test_randoms(N), got;
    for (size_t i = 0; i < 40; i++) {
        size_t at = i < 20 ? i : test_random_below(N);
        double old = host[at];
        host[at] = bad[i % COUNT(bad)];
        backend->acc_set(x, host, N);
        backend->zero(out, backend->acc_size);
        backend->sum_squares(out, x, N);
        backend->acc_get(&got, out, 1);
        assert_true(isnan(host[at]) ? isnan(got) : isinf(got) && got > 0);
        host[at] = old;
    }
    free(host);
    backend->release(x);
    backend->release(out);
}

/* Every hyper-parameter differs from 0 and 1, so that none can be forgotten. */
static const AdamW ordinary = {1e-2, 0.9, 0.98, 1e-6, 0.2, 0.1, 0.02};
static const AdamW others[] = {
    {1e-2, 0.9, 0.98, 1e-6, 0, 0.1, 0.02},      /* no decay */
    {5e-4, 0.9, 0.999, 1e-8, 0.1, 0.99, 0.632}, /* later */
    {1e-3, 0, 0, 1e-3, 0.2, 1, 1},              /* no memory, large eps */
};

static void compare_adamw(size_t n, const AdamW *o, bool scaled, bool weights) {
    Buf *p = acc_inout(n, 1), *g = acc_inout(n, 1e-2), *m = acc_inout(n, 1e-2);
    Buf *v = acc_inout(n, 1e-2), *w = weights ? act_out(n) : NULL;
    Buf *grad_scale = scaled ? acc_scalar(0.37) : NULL;
    for (size_t i = 0; i < n; i++) v->host[i] = v->host[i] * v->host[i];
    v->size = 0; /* its terms cannot cancel */
    RUN(adamw, F(p), A(w), F(g), F(m), F(v), F(grad_scale), o, n);
    check(p, 2, 1);
    check(m, 1, 1);
    check(v, 1, 1);
    check_exact(g);
    if (w) check(w, 1, 4);
    for (int t = 0; t < THREAD_COUNTS; t++)
        for (size_t i = 0; i < n; i++) assert_true(g->got[t][i] == 0);
    bufs_free();
}

static void adamw(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT(sizes); i++)
        for (int form = 0; form < 4; form++) compare_adamw(sizes[i], &ordinary, form & 1, form & 2);
    for (size_t i = 0; i < COUNT(others); i++) compare_adamw(1000, &others[i], true, true);
}

/* With fresh moments the first step is lr in size whatever the gradient's, so a tiny gradient shows
 * errors of the second moment's square root. */
static void adamw_first_step(void **state) {
    (void)state;
    enum { N = 257 };
    Buf *p = acc_inout(N, 0), *g = acc_inout(N, 1e-12), *m = acc_inout(N, 0), *v = acc_inout(N, 0);
    AdamW o = ordinary;
    o.eps = 1e-14;
    RUN(adamw, F(p), NULL, F(g), F(m), F(v), NULL, &o, (size_t)N);
    check(p, 2, 1);
    check(m, 1, 1);
    check(v, 1, 1);
    check_exact(g);
    bufs_free();
}

/* The compute weights are the new master weights, rounded once. */
static void adamw_weights_are_rounded(void **state) {
    (void)state;
    enum { N = 1001 };
    double *host = test_randoms(N), *got[2] = {test_randoms(N), test_randoms(N)};
    acc *a[4];
    act *w[2];
    for (int i = 0; i < 4; i++) {
        a[i] = backend->alloc(N * backend->acc_size);
        backend->acc_set(a[i], host, N);
    }
    backend->zero(a[3], N * backend->acc_size);
    for (int i = 0; i < 2; i++) w[i] = backend->alloc(N * backend->act_size);
    for (int step = 0; step < 3; step++) {
        backend->acc_set(a[1], host, N);
        backend->adamw(a[0], w[0], a[1], a[2], a[3], NULL, &ordinary, N);
        backend->act_from_acc(w[1], a[0], N);
        for (int i = 0; i < 2; i++) backend->act_get(got[i], w[i], N);
        assert_memory_equal(got[0], got[1], N * sizeof(double));
    }
    for (int i = 0; i < 4; i++) backend->release(a[i]);
    for (int i = 0; i < 2; i++) backend->release(w[i]), free(got[i]);
    free(host);
}

static void clip_factor(void **state) {
    (void)state;
    static const double norms[] = {0, 1e-8, 0.5, 0.999, 1, 1.001, 3, 1e4, 1e15};
    for (size_t i = 0; i < COUNT(norms); i++)
        for (int j = 0; j < 2; j++) {
            Buf *scale = acc_out(1), *sum = acc_scalar(norms[i] * norms[i]);
            RUN(clip_factor, F(scale), F(sum), j ? 0.1 : 1.0);
            check(scale, 2, 1);
            for (int t = 0; t < THREAD_COUNTS; t++) assert_true(scale->got[t][0] <= 1);
            bufs_free();
        }
}

static void clamp(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT(sizes); i++) {
        Buf *x = acc_inout(sizes[i], 10);
        RUN(clamp, F(x), 0.0, 4.605170185988092, sizes[i]);
        check(x, 1, 0);
        bufs_free();
    }
}

static void axpy(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT(sizes); i++) {
        Buf *y = acc_inout(sizes[i], 1), *x = acc_in(sizes[i], 2);
        RUN(axpy, F(y), 0.7, F(x), sizes[i]);
        check(y, 2, 1);
        bufs_free();
    }
}

static void ema(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT(sizes); i++) {
        Buf *avg = acc_inout(sizes[i], 1), *x = acc_in(sizes[i], 1);
        /* where the values are equal the average has to keep its bits */
        for (size_t j = 0; j < sizes[i]; j += 3) x->host[j] = avg->host[j];
        RUN(ema, F(avg), F(x), 0.93, sizes[i]);
        check(avg, 2, 1);
        for (int t = 0; t < THREAD_COUNTS; t++)
            for (size_t j = 0; j < sizes[i]; j += 3) assert_true(avg->got[t][j] == avg->host[j]);
        bufs_free();
    }
}

/* ---- ref ---- */

/* Two steps by hand with β₁ = ½, β₂ = ¾, lr = ½, weight decay 0.4, eps = ¼; gradients 2, then -1,
 * of which grad_scale takes half: t = 1: g = 1: m = ½, v = ¼; m̂ = 1, √v̂ = 1; p = 1·0.8 - ½·1/(1+¼)
 * = 0.4 t = 2: g = -½: m = 0, v = ¾·¼ + ¼·¼ = ¼; p = 0.4·0.8 = 0.32 */
static void ref_adamw_by_hand(void **state) {
    (void)state;
    double p = 1, w = 0, g = 2, m = 0, v = 0, half = 0.5;
    AdamW o = {0.5, 0.5, 0.75, 0.25, 0.4, 0.5, 0.25};
    ref->adamw((acc *)&p, (act *)&w, (acc *)&g, (acc *)&m, (acc *)&v, (acc *)&half, &o, 1);
    assert_near(p, 0.4, 1e-15);
    assert_near(w, p, 0);
    assert_near(g, 0, 0);
    assert_near(m, 0.5, 0);
    assert_near(v, 0.25, 0);
    g = -1;
    o.correction1 = 1 - 0.5 * 0.5;
    o.correction2 = 1 - 0.75 * 0.75;
    ref->adamw((acc *)&p, NULL, (acc *)&g, (acc *)&m, (acc *)&v, (acc *)&half, &o, 1);
    assert_near(p, 0.32, 1e-15);
    assert_near(m, 0, 0);
    assert_near(v, 0.25, 0);
    assert_near(w, 0.4, 1e-15);
}

static void ref_averages_by_hand(void **state) {
    (void)state;
    double y[2] = {1, -2}, x[2] = {4, 6};
    ref->axpy((acc *)y, 0.5, (acc *)x, 2);
    assert_near(y[0], 3, 0);
    assert_near(y[1], 1, 0);
    ref->ema((acc *)y, (acc *)x, 0.75, 2);
    assert_near(y[0], 3.25, 0);
    assert_near(y[1], 2.25, 0);
}

static void ref_norm_by_hand(void **state) {
    (void)state;
    double x[2] = {3, -4}, sum = 11, scale;
    ref->sum_squares((acc *)&sum, (acc *)x, 2);
    assert_near(sum, 36, 0);
    ref->clip_factor((acc *)&scale, (acc *)&sum, 3);
    assert_near(scale, 3 / (6 + 1e-6), 1e-16);
    ref->clip_factor((acc *)&scale, (acc *)&sum, 7);
    assert_near(scale, 1, 0);
    ref->clamp((acc *)x, -1, 2, 2);
    assert_near(x[0], 2, 0);
    assert_near(x[1], -1, 0);
}

int main(void) {
    const struct CMUnitTest each[] = {
        cmocka_unit_test(sum_squares),
        cmocka_unit_test(sum_squares_keeps_nan_and_infinity),
        cmocka_unit_test(adamw),
        cmocka_unit_test(adamw_first_step),
        cmocka_unit_test(adamw_weights_are_rounded),
        cmocka_unit_test(clip_factor),
        cmocka_unit_test(clamp),
        cmocka_unit_test(axpy),
        cmocka_unit_test(ema),
    };
    const struct CMUnitTest once[] = {cmocka_unit_test(ref_adamw_by_hand),
                                      cmocka_unit_test(ref_norm_by_hand),
                                      cmocka_unit_test(ref_averages_by_hand)};
    return kernel_tests_run("kernels_optim", each, COUNT(each), once, COUNT(once));
}
