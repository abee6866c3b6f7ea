/* batchnorm: sums, statistics, and both passes with the residual and the ReLU. */
#include "tests/support_kernels.h"

#include <math.h>
#include <stdlib.h>

/* rows, C */
static const size_t shapes[][2] = {{0, 3},   {1, 1},   {2, 1},    {1, 9},     {3, 7},    {5, 16},
                                   {64, 17}, {70, 64}, {300, 24}, {1000, 33}, {130, 300}};
#define EPS 1e-5
#define MOMENTUM 0.1

static void batchnorm_sums(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT(shapes); i++) {
        size_t rows = shapes[i][0], C = shapes[i][1];
        Buf *sums = acc_out(2 * C), *x = act_in(rows * C, 2), *shift = acc_in(C, 1);
        RUN(batchnorm_sums, F(sums), A(x), F(shift), rows, C);
        check(sums, 2, (double)rows);
        bufs_free();
    }
}

static void batchnorm_stats(void **state) {
    (void)state;
    for (int form = 0; form < 4; form++)
        for (size_t C = 1; C < 40; C += 13) {
            double count = form == 1 ? 1 : 30;
            Buf *mean = acc_out(C), *rstd = acc_out(C), *sums = acc_in(2 * C, 20);
            Buf *m = form == 2 ? acc_in(C, 1) : acc_inout(C, 1), *v = acc_inout(C, 1);
            if (form == 2) v->role = BUF_IN; /* the statistics stay as they are */
            for (size_t c = 0; c < C; c++) {
                v->host[c] = 1.5 + v->host[c];
                sums->host[C + c] =
                    form == 1 ? sums->host[c] * sums->host[c] : 40 + sums->host[C + c];
            }
            RUN(batchnorm_stats, F(mean), F(rstd), F(m), F(v), form == 2 ? NULL : F(sums), count, C,
                EPS, form == 3 ? 0 : MOMENTUM);
            mean->size = 1;
            check(mean, 2, 1);
            /* count 1: the variance of one row is the rounding of its square */
            if (form == 1)
                rstd->checked = true;
            else
                check(rstd, 4, 1);
            if (form != 2) {
                check(m, 2, 1);
                check(v, 4, 1);
            }
            bufs_free();
        }
}

static Buf *positive(size_t n) {
    Buf *b = acc_in(n, 0.4);
    for (size_t i = 0; i < n; i++) b->host[i] += 1;
    return b;
}

static void batchnorm_fwd(void **state) {
    (void)state;
    for (int form = 0; form < 8; form++)
        for (size_t i = 0; i < COUNT(shapes); i++) {
            size_t rows = shapes[i][0], C = shapes[i][1], n = rows * C;
            bool relu = form & 1, in_place = form & 4;
            Buf *x = in_place ? act_inout(n, 2) : act_in(n, 2), *y = in_place ? x : act_out(n);
            Buf *r = form & 2 ? act_in(n, 1) : NULL;
            Buf *mean = acc_in(C, 1), *rstd = positive(C), *w = acc_in(C, 1), *b = acc_in(C, 1);
            RUN(batchnorm_fwd, A(y), A(x), A(r), F(mean), F(rstd), F(w), F(b), rows, C, relu);
            y->size = 2;
            check(y, 2, 4);
            bufs_free();
        }
}

static void batchnorm_bwd(void **state) {
    (void)state;
    for (int form = 0; form < 8; form++)
        for (size_t i = 0; i < COUNT(shapes); i++) {
            size_t rows = shapes[i][0], C = shapes[i][1], n = rows * C;
            bool relu = form & 1, in_place = form & 2, frozen = form & 4;
            Buf *dy = relu && in_place ? act_inout(n, 1) : act_in(n, 1);
            Buf *dz = !relu ? NULL : in_place ? dy : act_out(n);
            Buf *y = relu ? act_in(n, 1) : NULL, *x = act_in(n, 2), *sums = acc_out(2 * C);
            Buf *mean = acc_in(C, 1), *rstd = positive(C), *w = acc_in(C, 1);
            for (size_t j = 0; y && j < n; j++) y->host[j] = fmax(0, y->host[j]);
            RUN(batchnorm_bwd_sums, F(sums), A(dz), A(dy), A(y), A(x), F(mean), F(rstd), rows, C);
            if (dz) check_exact(dz);
            sums->size = 4;
            check(sums, 4, (double)rows);
            becomes_input(sums);
            if (dz) becomes_input(dz);
            Buf *d = in_place ? act_inout(n, 1) : act_in(n, 1), *dx = in_place ? d : act_out(n);
            RUN(batchnorm_bwd, A(dx), A(d), A(x), F(mean), F(rstd), F(w), frozen ? NULL : F(sums),
                (double)(rows + !rows), rows, C);
            dx->size = 2;
            check(dx, 4, 4);
            bufs_free();
        }
}

/* NaN passes the ReLU; the gradient at 0 is 0. */
static void relu_edges(void **state) {
    (void)state;
    double x[3] = {NAN, 0, -1}, one[3] = {1, 1, 1}, zero[3] = {0, 0, 0}, y[3];
    act *a = backend->device->alloc(3 * backend->act_size);
    act *d = backend->device->alloc(3 * backend->act_size);
    acc *s = backend->device->alloc(6 * backend->acc_size);
    acc *o = backend->device->alloc(3 * backend->acc_size);
    acc *z = backend->device->alloc(3 * backend->acc_size);
    test_act_set(backend, a, x, 3);
    backend->acc_set(o, one, 3);
    backend->acc_set(z, zero, 3);
    backend->batchnorm_fwd(a, a, NULL, z, o, o, z, 1, 3, true);
    test_act_get(backend, y, a, 3);
    assert_true(isnan(y[0]) && y[1] == 0 && y[2] == 0);
    test_act_set(backend, d, one, 3);
    test_act_set(backend, a, zero, 3);
    backend->batchnorm_bwd_sums(s, d, d, a, a, z, o, 1, 3);
    test_act_get(backend, y, d, 3);
    assert_true(y[0] == 0 && y[1] == 0 && y[2] == 0);
    void *const taken[] = {a, d, s, o, z};
    for (size_t i = 0; i < COUNT(taken); i++) backend->device->release(taken[i]);
}

/* ---- ref against difference quotients ---- */

enum { ROWS = 6, WIDTH = 3, ALL = ROWS * WIDTH };
typedef struct Norm {
    double x[ALL], r[ALL], w[WIDTH], b[WIDTH], dy[ALL]; /* loss = Σ dy·y */
    double y[ALL], sums[2 * WIDTH], mean[WIDTH], rstd[WIDTH], run[WIDTH], var[WIDTH];
    bool frozen;
} Norm;

static double batchnorm_loss(void *ctx) {
    Norm *n = ctx;
    ref->batchnorm_sums((acc *)n->sums, (act *)n->x, (acc *)n->run, ROWS, WIDTH);
    ref->batchnorm_stats((acc *)n->mean, (acc *)n->rstd, (acc *)n->run, (acc *)n->var,
                         n->frozen ? NULL : (acc *)n->sums, ROWS, WIDTH, EPS, 0);
    ref->batchnorm_fwd((act *)n->y, (act *)n->x, (act *)n->r, (acc *)n->mean, (acc *)n->rstd,
                       (acc *)n->w, (acc *)n->b, ROWS, WIDTH, true);
    return test_dot(n->dy, n->y, ALL);
}

static void gradients_of_ref(void **state) {
    (void)state;
    static Norm n;
    double dz[ALL], dx[ALL], sums[2 * WIDTH];
    for (int frozen = 0; frozen < 2; frozen++) {
        for (size_t i = 0; i < offsetof(Norm, y) / sizeof(double); i++)
            ((double *)&n)[i] = test_random();
        for (size_t c = 0; c < WIDTH; c++) n.run[c] = test_random(), n.var[c] = 0.7;
        n.frozen = frozen;
        batchnorm_loss(&n);
        ref->batchnorm_bwd_sums((acc *)sums, (act *)dz, (act *)n.dy, (act *)n.y, (act *)n.x,
                                (acc *)n.mean, (acc *)n.rstd, ROWS, WIDTH);
        ref->batchnorm_bwd((act *)dx, (act *)dz, (act *)n.x, (acc *)n.mean, (acc *)n.rstd,
                           (acc *)n.w, frozen ? NULL : (acc *)sums, ROWS, ROWS, WIDTH);
        assert_gradient(batchnorm_loss, &n, n.x, dx, ALL);
        assert_gradient(batchnorm_loss, &n, n.r, dz, ALL);
        assert_gradient(batchnorm_loss, &n, n.b, sums, WIDTH);
        assert_gradient(batchnorm_loss, &n, n.w, sums + WIDTH, WIDTH);
    }
}

/* (1, 3): mean 2, variance 1, unbiased 2. */
static void ref_by_hand(void **state) {
    (void)state;
    double x[2] = {1, 3}, run = 0.5, var = 4, sums[2], mean, rstd;
    ref->batchnorm_sums((acc *)sums, (act *)x, (acc *)&run, 2, 1);
    ref->batchnorm_stats((acc *)&mean, (acc *)&rstd, (acc *)&run, (acc *)&var, (acc *)sums, 2, 1,
                         0.25, 0.1);
    assert_near(mean, 2, 1e-15);
    assert_near(rstd, 1 / sqrt(1.25), 1e-15);
    assert_near(run, 0.9 * 0.5 + 0.1 * 2, 1e-15);
    assert_near(var, 0.9 * 4 + 0.1 * 2, 1e-15);
}

int main(void) {
    const struct CMUnitTest each[] = {
        cmocka_unit_test(batchnorm_sums), cmocka_unit_test(batchnorm_stats),
        cmocka_unit_test(batchnorm_fwd),  cmocka_unit_test(batchnorm_bwd),
        cmocka_unit_test(relu_edges),
    };
    const struct CMUnitTest once[] = {cmocka_unit_test(gradients_of_ref),
                                      cmocka_unit_test(ref_by_hand)};
    return kernel_tests_run("kernels_batchnorm", each, COUNT(each), once, COUNT(once));
}
