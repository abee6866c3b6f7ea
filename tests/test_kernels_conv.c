/* conv: convolutions and pools. */
#include "tests/support_kernels.h"

#include <math.h>
#include <stdlib.h>

/* A picture's window, and the channels in and out. */
typedef struct Shape {
    Windows g;
    size_t C, N;
} Shape;
static const Shape shapes[] = {
    {{0, 4, 4, 3, 1, 1}, 4, 4},    {{1, 1, 1, 1, 1, 0}, 1, 1},     {{1, 1, 1, 3, 1, 1}, 8, 8},
    {{2, 5, 5, 3, 1, 1}, 3, 7},    {{1, 5, 7, 3, 2, 1}, 5, 3},     {{2, 6, 6, 3, 2, 1}, 16, 24},
    {{1, 9, 8, 7, 2, 3}, 3, 16},   {{2, 7, 7, 7, 2, 3}, 3, 9},     {{3, 4, 4, 1, 1, 0}, 17, 33},
    {{2, 5, 6, 1, 2, 0}, 16, 8},   {{1, 3, 3, 3, 1, 0}, 8, 70},    {{5, 8, 8, 3, 1, 1}, 32, 40},
    {{1, 2, 11, 3, 3, 2}, 4, 6},   {{2, 14, 14, 3, 1, 1}, 64, 64}, {{1, 6, 5, 3, 2, 1}, 72, 130},
    {{3, 16, 16, 3, 2, 1}, 3, 32}, {{1, 6, 6, 2, 2, 0}, 24, 8},
};

static size_t weights_of(const Shape *s) { return s->N * s->C * s->g.side * s->g.side; }

static void conv2d(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT(shapes); i++) {
        const Shape *s = &shapes[i];
        size_t rows = window_count(&s->g), taps = s->g.side * s->g.side;
        size_t pixels = window_pixels(&s->g);
        Buf *y = act_out(rows * s->N), *x = act_in(pixels * s->C, 1);
        Buf *w = act_in(weights_of(s), 1);
        RUN(conv2d_fwd, A(y), A(x), A(w), s->g, s->C, s->N);
        y->size = 1;
        check(y, 2, (double)(s->C * taps));
        becomes_input(y);
        Buf *dx = act_out(pixels * s->C), *dy = act_in(rows * s->N, 1);
        RUN(conv2d_bwd_input, A(dx), A(dy), A(w), s->g, s->C, s->N);
        dx->size = 1;
        check(dx, 2, (double)(s->N * taps));
        becomes_input(dx);
        Buf *dw = acc_inout(weights_of(s), 1);
        RUN(conv2d_bwd_weight, F(dw), A(dy), A(x), s->g, s->C, s->N);
        check(dw, 2, (double)rows);
        bufs_free();
    }
}

/* A picture's output and input gradient are the same bits alone and among others. */
static void pictures_are_independent(void **state) {
    (void)state;
    enum { B = 5, C = 24, N = 40, S = 9 };
    Windows all = {B, S, S, 3, 2, 1}, one = all;
    one.B = 1;
    size_t n_x = S * S * C, n_y = window_count(&one) * N;
    const Device *d = backend->device;
    act *x = d->alloc(B * n_x * backend->act_size), *y = d->alloc(B * n_y * backend->act_size);
    act *w = d->alloc(N * C * 9 * backend->act_size), *dx = d->alloc(B * n_x * backend->act_size);
    double *values = test_randoms(B * n_x), *got = xmalloc(2 * B * n_x * sizeof *got);
    double *again = got + B * n_x;
    test_act_set(backend, x, values, B * n_x);
    test_act_set(backend, w, values, N * C * 9);
    backend->conv2d_fwd(y, x, w, all, C, N);
    test_act_get(backend, got, y, B * n_y);
    backend->conv2d_bwd_input(dx, y, w, all, C, N);
    test_act_get(backend, again, dx, B * n_x);
    double *alone = xmalloc(n_x * sizeof *alone);
    for (size_t b = 0; b < B; b++) {
        backend->conv2d_fwd(y, act_at(backend, x, b * n_x), w, one, C, N);
        test_act_get(backend, alone, y, n_y);
        assert_memory_equal(alone, got + b * n_y, n_y * sizeof *alone);
        backend->conv2d_bwd_input(dx, y, w, one, C, N);
        test_act_get(backend, alone, dx, n_x);
        assert_memory_equal(alone, again + b * n_x, n_x * sizeof *alone);
    }
    act *const taken[] = {x, y, w, dx};
    for (size_t i = 0; i < COUNT(taken); i++) d->release(taken[i]);
    free(values);
    free(got);
    free(alone);
}

static const Windows windows[] = {{0, 3, 3, 3, 2, 1}, {1, 1, 1, 1, 1, 0}, {1, 1, 1, 3, 2, 1},
                                  {2, 5, 7, 3, 2, 1}, {3, 8, 8, 2, 2, 0}, {1, 7, 5, 2, 2, 0},
                                  {2, 6, 6, 3, 1, 1}, {1, 9, 9, 4, 3, 2}, {2, 12, 12, 3, 2, 1}};
static const size_t channels[] = {1, 3, 8, 17, 64};

static void max_pool(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT(windows) * COUNT(channels); i++) {
        Windows g = windows[i / COUNT(channels)];
        size_t C = channels[i % COUNT(channels)], n = window_count(&g) * C;
        Buf *y = act_out(n), *from = u8_out(n), *x = act_in(window_pixels(&g) * C, 1);
        /* many equal values: the first counts */
        for (size_t j = 0; j < x->n; j++) x->host[j] = floor(4 * x->host[j]) / 4;
        RUN(max_pool_fwd, A(y), P(from), A(x), g, C);
        check_exact(y);
        check_exact(from);
        becomes_input(y);
        becomes_input(from);
        Buf *dx = act_out(x->n), *dy = act_in(n, 1);
        RUN(max_pool_bwd, A(dx), A(dy), P(from), g, C);
        dx->size = 1;
        check(dx, 2, 4);
        bufs_free();
    }
}

static void avg_pool(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT(windows) * COUNT(channels); i++) {
        Windows g = windows[i / COUNT(channels)];
        size_t C = channels[i % COUNT(channels)];
        g.pad = 0;
        g.H += g.side, g.W += g.side;
        size_t n = window_count(&g) * C;
        Buf *y = act_out(n), *x = act_in(window_pixels(&g) * C, 1);
        RUN(avg_pool_fwd, A(y), A(x), g, C);
        y->size = 1;
        check(y, 2, 16);
        becomes_input(y);
        Buf *dx = act_out(x->n), *dy = act_in(n, 1);
        RUN(avg_pool_bwd, A(dx), A(dy), g, C);
        dx->size = 1;
        check(dx, 2, 16);
        bufs_free();
    }
}

/* A NaN is the largest, as in PyTorch. */
static void max_pool_of_nan(void **state) {
    (void)state;
    Windows g = {1, 3, 3, 3, 1, 0};
    double x[9] = {1, 2, 3, 4, NAN, 9, 0, 0, 0}, y;
    uint8_t tap, *from = backend->device->alloc(1);
    act *in = backend->device->alloc(9 * backend->act_size);
    act *out = backend->device->alloc(backend->act_size);
    test_act_set(backend, in, x, 9);
    backend->max_pool_fwd(out, from, in, g, 1);
    test_act_get(backend, &y, out, 1);
    backend->device->download(&tap, from, 1);
    assert_true(isnan(y) && tap == 4);
    backend->device->release(in);
    backend->device->release(out);
    backend->device->release(from);
}

/* ---- ref against difference quotients ---- */

enum { MOST = 4096 };
typedef struct Case {
    Shape s;
    double x[MOST], w[MOST], y[MOST], dy[MOST]; /* loss = Σ dy·y */
    uint8_t from[MOST];
} Case;

static double conv_loss(void *ctx) {
    Case *c = ctx;
    ref->conv2d_fwd((act *)c->y, (act *)c->x, (act *)c->w, c->s.g, c->s.C, c->s.N);
    return test_dot(c->dy, c->y, window_count(&c->s.g) * c->s.N);
}
static double max_loss(void *ctx) {
    Case *c = ctx;
    ref->max_pool_fwd((act *)c->y, c->from, (act *)c->x, c->s.g, c->s.C);
    return test_dot(c->dy, c->y, window_count(&c->s.g) * c->s.C);
}
static double avg_loss(void *ctx) {
    Case *c = ctx;
    ref->avg_pool_fwd((act *)c->y, (act *)c->x, c->s.g, c->s.C);
    return test_dot(c->dy, c->y, window_count(&c->s.g) * c->s.C);
}

static void gradients_of_ref(void **state) {
    (void)state;
    static Case c;
    static double dx[MOST], dw[MOST];
    for (size_t i = 0; i < COUNT(shapes); i++) {
        c.s = shapes[i];
        size_t n = window_pixels(&c.s.g) * c.s.C, m = weights_of(&c.s);
        if (n > 400 || m > 600) continue;
        for (size_t j = 0; j < MOST; j++)
            c.x[j] = test_random(), c.w[j] = test_random(), c.dy[j] = test_random(), dw[j] = 0;
        ref->conv2d_bwd_input((act *)dx, (act *)c.dy, (act *)c.w, c.s.g, c.s.C, c.s.N);
        ref->conv2d_bwd_weight((acc *)dw, (act *)c.dy, (act *)c.x, c.s.g, c.s.C, c.s.N);
        assert_gradient(conv_loss, &c, c.x, dx, n);
        assert_gradient(conv_loss, &c, c.w, dw, m);
    }
    for (size_t i = 0; i < COUNT(windows); i++) {
        c.s = (Shape){windows[i], 3, 3};
        size_t n = window_pixels(&c.s.g) * c.s.C;
        max_loss(&c);
        ref->max_pool_bwd((act *)dx, (act *)c.dy, c.from, c.s.g, c.s.C);
        assert_gradient(max_loss, &c, c.x, dx, n);
        if (c.s.g.pad) continue;
        ref->avg_pool_bwd((act *)dx, (act *)c.dy, c.s.g, c.s.C);
        assert_gradient(avg_loss, &c, c.x, dx, n);
    }
}

/* A 3 × 3 cross-correlation over 2 × 2 pixels with a border. */
static void ref_by_hand(void **state) {
    (void)state;
    double x[4] = {1, 2, 3, 4}, w[9] = {1, 2, 3, 4, 5, 6, 7, 8, 9}, y[4];
    Windows g = {1, 2, 2, 3, 1, 1};
    ref->conv2d_fwd((act *)y, (act *)x, (act *)w, g, 1, 1);
    assert_near(y[0], 5 * 1 + 6 * 2 + 8 * 3 + 9 * 4, 0);
    assert_near(y[1], 4 * 1 + 5 * 2 + 7 * 3 + 8 * 4, 0);
    assert_near(y[2], 2 * 1 + 3 * 2 + 5 * 3 + 6 * 4, 0);
    assert_near(y[3], 1 * 1 + 2 * 2 + 4 * 3 + 5 * 4, 0);
}

int main(void) {
    const struct CMUnitTest each[] = {
        cmocka_unit_test(conv2d),   cmocka_unit_test(pictures_are_independent),
        cmocka_unit_test(max_pool), cmocka_unit_test(max_pool_of_nan),
        cmocka_unit_test(avg_pool),
    };
    const struct CMUnitTest once[] = {cmocka_unit_test(gradients_of_ref),
                                      cmocka_unit_test(ref_by_hand)};
    return kernel_tests_run("kernels_conv", each, COUNT(each), once, COUNT(once));
}
