/* pointwise: activations, sums, moving rows, mean pooling. */
#include "tests/support_kernels.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const size_t sizes[] = {0, 1, 2, 3, 7, 8, 15, 16, 17, 31, 33, 64, 100, 1000, 20011};

/* db is the sum of the stored dx, exact except for the order of an f32 sum. */
static void check_bias(Buf *db, const Buf *dx, size_t rows, size_t C) {
    for (size_t c = 0; c < C; c++) {
        db->want[c] = db->host[c];
        for (size_t i = 0; i < rows; i++) db->want[c] += dx->got[0][i * C + c];
    }
    check(db, 1, (double)rows);
}

static void activation_bwd(void **state) {
    (void)state;
    static const size_t shapes[][2] = {{0, 3},     {1, 1},    {3, 1},    {1, 17},   {5, 7},
                                       {2, 8},     {8, 16},   {15, 33},  {33, 15},  {64, 256},
                                       {20011, 1}, {67, 264}, {30, 301}, {137, 96}, {530, 40}};
    for (int f = 0; f < ACTIVATIONS; f++)
        for (int form = 0; form < 4; form++)
            for (size_t i = 0; i < COUNT(shapes); i++) {
                size_t rows = shapes[i][0], C = shapes[i][1], n = rows * C;
                bool in_place = form & 1;
                Buf *y = act_out(n), *x = act_in(n, i % 2 ? 6 : 2);
                Buf *dy = in_place ? act_inout(n, 1) : act_in(n, 1);
                Buf *dx = in_place ? dy : act_out(n), *db = form & 2 ? acc_inout(C, 1) : NULL;
                RUN(activation_bwd, A(dx), A(y), F(db), A(dy), A(x), rows, C, (Activation)f);
                dx->size = y->size = 1; /* in the left tail all of them may be tiny */
                check(dx, 4, 1);
                check(y, 4, 1);
                if (db) check_bias(db, dx, rows, C);
                bufs_free();
            }
}

/* apart, and in place */
static void activation_fwd(void **state) {
    (void)state;
    for (int f = 0; f < ACTIVATIONS; f++)
        for (size_t i = 0; i < 2 * COUNT(sizes); i++) {
            size_t n = sizes[i / 2];
            Buf *x = i % 2 ? act_inout(n, 3) : act_in(n, 3), *y = i % 2 ? x : act_out(n);
            RUN(activation_fwd, A(y), A(x), n, (Activation)f);
            y->size = 1;
            check(y, 4, 1);
            bufs_free();
        }
}

static void bias_bwd(void **state) {
    (void)state;
    static const size_t shapes[][2] = {{0, 3}, {1, 1}, {3, 17}, {16, 8}, {137, 96}, {5000, 7}};
    for (size_t i = 0; i < COUNT(shapes); i++) {
        size_t rows = shapes[i][0], C = shapes[i][1];
        Buf *db = acc_inout(C, 1), *dy = act_in(rows * C, 1);
        RUN(bias_bwd, F(db), A(dy), rows, C);
        check(db, 1, (double)rows);
        bufs_free();
    }
}

/* Far from 0 the activations are 0 or x and their slopes 0 or 1: no overflow, no NaN. */
static void activation_tails(void **state) {
    (void)state;
    static const double values[] = {-1e30, -1000, -200, -100, -60, 0, 60, 100, 200, 1000, 1e30};
    enum { N = COUNT(values) };
    for (int f = 0; f < ACTIVATIONS; f++) {
        Buf *dx = act_out(N), *y = act_out(N), *dy = act_in(N, 1), *x = act_in(N, 1);
        for (int i = 0; i < N; i++) x->host[i] = values[i], dy->host[i] = 1;
        RUN(activation_bwd, A(dx), A(y), NULL, A(dy), A(x), (size_t)1, (size_t)N, (Activation)f);
        check(dx, 2, 1);
        check(y, 2, 1);
        for (int t = 0; t < THREAD_COUNTS; t++)
            for (int i = 0; i < N; i++)
                assert_near(y->got[t][i], fmax(x->host[i], 0), 1e-12 + 1e-6 * fmax(x->host[i], 0));
        bufs_free();
    }
}

/* apart, and in place of x */
static void swiglu(void **state) {
    (void)state;
    static const size_t shapes[][2] = {{0, 3},  {1, 1},   {3, 1},    {1, 17},   {5, 7},   {2, 8},
                                       {8, 16}, {15, 33}, {64, 256}, {137, 96}, {30, 301}};
    for (size_t i = 0; i < 2 * COUNT(shapes); i++) {
        size_t rows = shapes[i / 2][0], F = shapes[i / 2][1], n = rows * F;
        Buf *y = act_out(n), *x = act_in(2 * n, i % 4 ? 6 : 2);
        RUN(swiglu_fwd, A(y), A(x), rows, F);
        y->size = 1;
        check(y, 4, 1);
        bufs_free();

        bool in_place = i % 2;
        Buf *dy = act_in(n, 1);
        x = in_place ? act_inout(2 * n, 6) : act_in(2 * n, 6);
        Buf *dx = in_place ? x : act_out(2 * n);
        RUN(swiglu_bwd, A(dx), A(dy), A(x), rows, F);
        dx->size = 1;
        check(dx, 4, 1);
        bufs_free();
    }
}

/* Far from 0 the gate is 0 or itself: no overflow, no NaN. */
static void swiglu_tails(void **state) {
    (void)state;
    static const double values[] = {-0x1p100, -1024, -128, 0, 128, 1024, 0x1p60};
    enum { N = COUNT(values) };
    Buf *y = act_out(N), *x = act_in(2 * N, 1);
    for (int i = 0; i < N; i++) x->host[i] = values[i], x->host[N + i] = 0.5;
    RUN(swiglu_fwd, A(y), A(x), (size_t)1, (size_t)N);
    check(y, 2, 1);
    for (int i = 0; i < THREAD_COUNTS * N; i++) {
        double silu = fmax(x->host[i % N], 0);
        assert_near(y->got[i / N][i % N], 0.5 * silu, 1e-12 + 1e-6 * silu);
    }
    bufs_free();

    Buf *dy = act_in(N, 1), *dx = act_out(2 * N);
    x = act_in(2 * N, 1);
    for (int i = 0; i < N; i++) x->host[i] = values[i], x->host[N + i] = 0.5, dy->host[i] = 1;
    RUN(swiglu_bwd, A(dx), A(dy), A(x), (size_t)1, (size_t)N);
    check(dx, 2, 1);
    for (int i = 0; i < THREAD_COUNTS * N; i++) {
        double g = x->host[i % N], silu = fmax(g, 0), slope = g ? g > 0 : 0.5;
        assert_near(dx->got[i / N][i % N], 0.5 * slope, 1e-6);
        assert_near(dx->got[i / N][N + i % N], silu, 1e-12 + 1e-6 * silu);
    }
    bufs_free();
}

static void add(void **state) {
    (void)state;
    for (int form = 0; form < 3; form++) /* apart, y is a, y is b */
        for (size_t i = 0; i < COUNT(sizes); i++) {
            size_t n = sizes[i];
            Buf *a = form == 1 ? act_inout(n, 1) : act_in(n, 1);
            Buf *b = form == 2 ? act_inout(n, 1) : act_in(n, 1);
            Buf *y = form == 1 ? a : form == 2 ? b : act_out(n);
            RUN(add, A(y), A(a), A(b), n);
            check(y, 1, 1);
            bufs_free();
        }
}

/* rows of the source, selected rows, width */
static const size_t row_shapes[][3] = {{1, 1, 1},    {5, 0, 3},    {4, 4, 7},     {9, 5, 16},
                                       {33, 20, 33}, {64, 3, 768}, {300, 257, 17}};

/* `count` different rows out of n, in random order. */
static void choose_rows(int32_t *idx, size_t count, size_t n) {
    int32_t *all = xmalloc(n * sizeof *all);
    for (size_t i = 0; i < n; i++) all[i] = (int32_t)i;
    for (size_t i = 0; i < count; i++) {
        size_t j = i + test_random_below(n - i);
        idx[i] = all[j];
        all[j] = all[i];
    }
    free(all);
}

static void gather_and_scatter_rows(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT(row_shapes); i++) {
        size_t rows = row_shapes[i][0], n = row_shapes[i][1], C = row_shapes[i][2];
        int32_t *chosen = xmalloc(n * sizeof *chosen);
        choose_rows(chosen, n, rows);
        Buf *idx = i32_in(n, chosen), *y = act_out(n * C), *x = act_in(rows * C, 1);
        RUN(gather_rows, A(y), A(x), P(idx), n, C);
        check_exact(y);
        bufs_free();

        Buf *into = act_inout(rows * C, 1), *from = act_in(n * C, 1);
        idx = i32_in(n, chosen);
        RUN(scatter_add_rows, A(into), A(from), P(idx), n, C);
        check(into, 1, 1);
        bufs_free();
        free(chosen);
    }
}

static void gather_takes_a_row_twice(void **state) {
    (void)state;
    const int32_t same[] = {2, 2, 0, 2};
    Buf *y = act_out(4 * 5), *x = act_in(3 * 5, 1), *idx = i32_in(4, same);
    RUN(gather_rows, A(y), A(x), P(idx), (size_t)4, (size_t)5);
    check_exact(y);
    bufs_free();
}

static void mean_pool(void **state) {
    (void)state;
    static const size_t lengths[] = {5, 2, 17, 3, 50, 2, 197};
    static const size_t widths[] = {1, 7, 16, 100};
    int32_t first[COUNT(lengths) + 1] = {0};
    for (size_t b = 0; b < COUNT(lengths); b++) first[b + 1] = first[b] + (int32_t)lengths[b];
    for (size_t skip = 0; skip < 2; skip++)
        for (size_t B = 0; B <= COUNT(lengths); B++) {
            size_t C = widths[B % COUNT(widths)], rows = (size_t)first[B];
            Buf *y = act_out(B * C), *x = act_in(rows * C, 1), *start = i32_in(B + 1, first);
            RUN(mean_pool_fwd, A(y), A(x), P(start), B, skip, C);
            y->size = 0.3;
            check(y, 2, 8);
            bufs_free();

            Buf *dx = act_out(rows * C), *dy = act_in(B * C, 1);
            start = i32_in(B + 1, first);
            RUN(mean_pool_bwd, A(dx), A(dy), P(start), B, skip, C);
            check(dx, 1, 1);
            bufs_free();
        }
}

/* ---- ref ---- */

enum { N = 6, B = 2, C = 3, ROWS = 7 };

typedef struct Pointwise {
    double x[ROWS * C], r[ROWS * C], y[ROWS * C];
    Activation f;
} Pointwise;

static const int32_t two_starts[B + 1] = {0, 4, ROWS}, some_rows[N] = {3, 0, 6, 1, 5, 2};

static void fill(Pointwise *p) {
    for (size_t i = 0; i < ROWS * C; i++) p->x[i] = test_random(), p->r[i] = test_random();
}

/* f from its definition, by way of linear_activation_fwd with the weight 1. */
static double activation_loss(void *ctx) {
    Pointwise *p = ctx;
    double one = 1, pre[N];
    ref->linear_activation_fwd((act *)p->y, (act *)pre, (act *)p->x, (act *)&one, NULL, N, 1, 1,
                               p->f);
    return test_dot(p->r, p->y, N);
}

/* The same of x + b, b the first C elements of p->y. */
static double biased_loss(void *ctx) {
    Pointwise *p = ctx;
    double one = 1, pre[N], x[N], y[N];
    for (size_t i = 0; i < N; i++) x[i] = p->x[i] + p->y[i % C];
    ref->linear_activation_fwd((act *)y, (act *)pre, (act *)x, (act *)&one, NULL, N, 1, 1, p->f);
    return test_dot(p->r, y, N);
}

static double swiglu_loss(void *ctx) {
    Pointwise *p = ctx;
    ref->swiglu_fwd((act *)p->y, (act *)p->x, ROWS / 2, C);
    return test_dot(p->r, p->y, ROWS / 2 * C);
}

/* The first C elements of p->x as every row. */
static double bias_loss(void *ctx) {
    Pointwise *p = ctx;
    static const int32_t first[N / C] = {0};
    ref->gather_rows((act *)p->y, (act *)p->x, first, N / C, C);
    return test_dot(p->r, p->y, N);
}

static double mean_pool_loss(void *ctx) {
    Pointwise *p = ctx;
    ref->mean_pool_fwd((act *)p->y, (act *)p->x, two_starts, B, 1, C);
    return test_dot(p->r, p->y, B * C);
}

static double gather_loss(void *ctx) {
    Pointwise *p = ctx;
    ref->gather_rows((act *)p->y, (act *)p->x, some_rows, N, C);
    return test_dot(p->r, p->y, N * C);
}

static void gradients_of_ref(void **state) {
    (void)state;
    Pointwise p;
    double dx[ROWS * C], y[N];
    for (int f = 0; f < ACTIVATIONS; f++) {
        fill(&p);
        p.f = (Activation)f;
        double db[C] = {0};
        ref->activation_bwd((act *)dx, (act *)y, (acc *)db, (act *)p.r, (act *)p.x, N / C, C, p.f);
        assert_gradient(activation_loss, &p, p.x, dx, N);
        memset(p.y, 0, sizeof p.y);
        assert_gradient(biased_loss, &p, p.y, db, C);
        activation_loss(&p);
        assert_true(test_error_max(y, p.y, N) == 0);
    }
    ref->swiglu_bwd((act *)dx, (act *)p.r, (act *)p.x, ROWS / 2, C);
    assert_gradient(swiglu_loss, &p, p.x, dx, ROWS / 2 * 2 * C);
    double db[C] = {0};
    ref->bias_bwd((acc *)db, (act *)p.r, N / C, C);
    memset(p.x, 0, sizeof p.x);
    assert_gradient(bias_loss, &p, p.x, db, C);
    ref->mean_pool_bwd((act *)dx, (act *)p.r, two_starts, B, 1, C);
    assert_gradient(mean_pool_loss, &p, p.x, dx, ROWS * C);
    for (size_t i = 0; i < ROWS * C; i++) dx[i] = 1;
    ref->scatter_add_rows((act *)dx, (act *)p.r, some_rows, N, C);
    for (size_t i = 0; i < ROWS * C; i++) dx[i] -= 1;
    assert_gradient(gather_loss, &p, p.x, dx, ROWS * C);
}

/* Φ(1), σ(1.702) and the approximation by tanh. */
static void ref_by_hand(void **state) {
    (void)state;
    double x[2] = {1, -1}, dy[2] = {1, 1}, dx[2], y[2];
    ref->activation_bwd((act *)dx, (act *)y, NULL, (act *)dy, (act *)x, 2, 1, ACTIVATION_GELU);
    assert_near(y[0], 0.8413447460685429, 1e-15);
    assert_near(y[1], -0.1586552539314571, 1e-15);
    assert_near(dx[0], 0.8413447460685429 + 0.24197072451914337, 1e-15);
    ref->activation_bwd((act *)dx, (act *)y, NULL, (act *)dy, (act *)x, 2, 1,
                        ACTIVATION_QUICK_GELU);
    assert_near(y[0], 1 / (1 + exp(-1.702)), 1e-15);
    assert_near(y[1], -1 / (1 + exp(1.702)), 1e-15);
    ref->activation_bwd((act *)dx, (act *)y, NULL, (act *)dy, (act *)x, 2, 1, ACTIVATION_GELU_TANH);
    assert_near(y[0], 0.8411919906082768, 1e-15); /* ½(1 + tanh(1.044715·√(2/π))) */
    assert_near(y[1], 0.8411919906082768 - 1, 1e-15);
    double gated[4] = {1, -1, 3, 5};
    ref->swiglu_fwd((act *)y, (act *)gated, 1, 2);
    assert_near(y[0], 3 / (1 + exp(-1)), 1e-15);
    assert_near(y[1], -5 / (1 + exp(1)), 1e-15);
}

int main(void) {
    const struct CMUnitTest each[] = {
        cmocka_unit_test(activation_fwd),
        cmocka_unit_test(activation_bwd),
        cmocka_unit_test(activation_tails),
        cmocka_unit_test(swiglu),
        cmocka_unit_test(swiglu_tails),
        cmocka_unit_test(bias_bwd),
        cmocka_unit_test(add),
        cmocka_unit_test(gather_and_scatter_rows),
        cmocka_unit_test(gather_takes_a_row_twice),
        cmocka_unit_test(mean_pool),
    };
    const struct CMUnitTest once[] = {cmocka_unit_test(gradients_of_ref),
                                      cmocka_unit_test(ref_by_hand)};
    return kernel_tests_run("kernels_pointwise", each, COUNT(each), once, COUNT(once));
}
