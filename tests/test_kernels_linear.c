/* linear: matrix products and projections. */
#include "tests/support_kernels.h"

#include <dlfcn.h>
#include <math.h>
#include <string.h>
#include <stdlib.h>
#include <unistd.h>

/* M, N, K */
static const size_t shapes[][3] = {
    {0, 3, 5},    {1, 1, 1},      {1, 7, 3},     {2, 1, 16},     {3, 16, 1},    {5, 17, 33},
    {7, 64, 64},  {16, 16, 16},   {33, 31, 65},  {64, 48, 80},   {50, 192, 64}, {129, 96, 257},
    {9, 5, 2048}, {77, 130, 100}, {197, 64, 48}, {1061, 37, 20},
};
/* A product of two values in [-1, 1): a sum of few of them may be far smaller by chance. */
#define TERM 0.3
#define FOR_SHAPES                                                                                 \
    for (size_t i_ = 0, M, N, K;                                                                   \
         i_ < COUNT(shapes) && (M = shapes[i_][0], N = shapes[i_][1], K = shapes[i_][2], true);    \
         i_++)

static void linear_fwd(void **state) {
    (void)state;
    for (int bias = 0; bias < 2; bias++) FOR_SHAPES {
            Buf *y = act_out(M * N), *x = act_in(M * K, 1), *w = act_in(N * K, 1);
            Buf *b = bias ? act_in(N, 1) : NULL;
            RUN(linear_fwd, A(y), A(x), A(w), A(b), M, N, K);
            y->size = bias ? 1 : TERM; /* the bias is a term too */
            check(y, 1, K);
            becomes_input(y);
            Buf *sum = act_out(M * N);
            RUN(linear_add_fwd, A(sum), A(y), A(x), A(w), A(b), M, N, K);
            sum->size = y->size;
            check(sum, 2, K); /* the product may be rounded before the sum */
            bufs_free();
        }
}

static void throw_in_library(void *k) {
    const Kernels *kernels = k;
    float one = 1, y;
    kernels->linear_fwd((act *)&y, (act *)&one, (act *)&one, NULL, 1, 1, 1);
    void (*throw_bad_alloc)(void);
    *(void **)&throw_bad_alloc = dlsym(RTLD_DEFAULT, "_ZSt17__throw_bad_allocv");
    if (throw_bad_alloc) throw_bad_alloc();
    _exit(77);
}

/* A C++ exception of the library of products ends with a line. */
static void exceptions(void **state) {
    (void)state;
    const Kernels *k = kernels_open_device(DEVICE_CPU, PRECISION_FP32);
    test_dies(throw_in_library, (void *)k, EXIT_ERROR,
              "clipc: oneDNN or another C++ library gave up");
}

static void linear_bwd_input(void **state) {
    (void)state;
    FOR_SHAPES {
        Buf *dx = act_out(M * K), *dy = act_in(M * N, 1), *w = act_in(N * K, 1);
        RUN(linear_bwd_input, A(dx), A(dy), A(w), M, N, K);
        dx->size = TERM;
        check(dx, 1, N);
        bufs_free();
    }
}

/* The layer that runs CUDA without a GPU counts products that sum an operand (3): all with a bias
 * gradient, unless it is set to refuse them. */
unsigned long cudaemuCount(int what) __attribute__((weak));
static unsigned long sums(void) { return cudaemuCount ? cudaemuCount(3) : 0; }

static void check_sums(unsigned long before, bool wanted) {
    const char *refused = getenv("CUDAEMU_BGRAD");
    if (cudaemuCount) assert_true((sums() > before) == (wanted && !refused));
}

static void linear_bwd_weight(void **state) {
    (void)state;
    for (int bias = 0; bias < 2; bias++) FOR_SHAPES {
            Buf *dw = acc_inout(N * K, 1), *db = bias ? acc_inout(N, 1) : NULL;
            Buf *dy = act_in(M * N, 1), *x = act_in(M * K, 1);
            unsigned long before = sums();
            RUN(linear_bwd_weight, F(dw), F(db), A(dy), A(x), M, N, K);
            check_sums(before, bias && M);
            check(dw, 1, M);
            if (db) check(db, 1, M);
            bufs_free();
        }
}

/* Whichever way --autotune finds faster, the gradients are the same. */
static void linear_bwd_weight_tuned(void **state) {
    (void)state;
    enum { M = 130, N = 40, K = 24 };
    kernel_tuning.autotune = true;
    Buf *dw = acc_inout(N * K, 1), *db = acc_inout(N, 1), *dy = act_in(M * N, 1);
    Buf *x = act_in(M * K, 1);
    RUN(linear_bwd_weight, F(dw), F(db), A(dy), A(x), (size_t)M, (size_t)N, (size_t)K);
    kernel_tuning.autotune = false;
    check(dw, 1, M);
    check(db, 1, M);
    bufs_free();
}

static unsigned char *choices(size_t *bytes) { return kernels_algorithms(bytes); }

/* Once nothing is measured, a product with another number of rows has the measured algorithm: the
 * stored choices differ in the rows, and in that it was not measured itself. */
static void a_choice_serves_other_rows(void **state) {
    (void)state;
    enum { N = 48, K = 16, SIDE = 256 };
    size_t before, one, two, differing = 0;
    act *x = backend->device->alloc(4 * SIDE * SIDE * backend->act_size),
        *y = act_at(backend, x, SIDE * SIDE);
    backend->device->zero(x, 4 * SIDE * SIDE * backend->act_size);
    free(choices(&before));
    kernel_tuning.autotune = true;
    backend->linear_fwd(y, x, x, NULL, 96, N, K);
    kernel_tuning.autotune = false;
    free(choices(&one));
    backend->linear_fwd(y, x, x, NULL, 112, N, K);
    unsigned char *all = choices(&two);
    size_t each = one - before;
    assert_true(two - one == each);
    for (size_t i = 0; each && i < each; i++) differing += all[before + i] != all[one + i];
    assert_int_equal(differing, each ? 2 : 0);
    free(all);
    backend->device->release(x);
}

static void linear_activation_fwd(void **state) {
    (void)state;
    for (int f = 0; f < ACTIVATIONS; f++)
        for (int bias = 0; bias < 2; bias++) FOR_SHAPES {
                Buf *y = act_out(M * N), *pre = act_out(M * N);
                Buf *x = act_in(M * K, 1), *w = act_in(N * K, 3 / sqrt((double)K));
                Buf *b = bias ? act_in(N, 1) : NULL;
                RUN(linear_activation_fwd, A(y), A(pre), A(x), A(w), A(b), M, N, K, (Activation)f);
                y->size = pre->size = bias ? 1 : TERM;
                check(pre, 1, K);
                check(y, 2, K); /* f of the rounded pre, |f'| < 1.13, rounded again */
                bufs_free();
            }
}

/* As CLIP stores it; transposed; transposed with a bias. */
enum { PROJECTIONS = 3 };

static void project_fwd(void **state) {
    (void)state;
    for (int form = 0; form < PROJECTIONS; form++) FOR_SHAPES {
            Buf *y = acc_out(M * N), *x = act_in(M * K, 1), *p = act_in(K * N, 1);
            Buf *b = form == 2 ? acc_in(N, 1) : NULL;
            RUN(project_fwd, F(y), A(x), A(p), form > 0, F(b), M, K, N);
            y->size = TERM;
            check(y, 1, K);
            bufs_free();
        }
}

static void project_bwd(void **state) {
    (void)state;
    for (int form = 0; form < PROJECTIONS; form++) FOR_SHAPES {
            Buf *dx = act_out(M * K), *dp = acc_inout(K * N, 1);
            Buf *db = form == 2 ? acc_inout(N, 1) : NULL;
            Buf *dy = acc_in(M * N, 1), *x = act_in(M * K, 1), *p = act_in(K * N, 1);
            RUN(project_bwd, A(dx), F(dp), F(db), F(dy), A(x), A(p), form > 0, M, K, N);
            /* dy may be rounded to act for the products. */
            dx->size = TERM;
            check(dx, 2, N);
            check_as_act(dp, 1, M);
            if (db) check_as_act(db, 1, M);
            bufs_free();
        }
}

/* A frozen projection needs only dx. */
static void project_bwd_input(void **state) {
    (void)state;
    for (int tp = 0; tp < 2; tp++) FOR_SHAPES {
            Buf *dx = act_out(M * K), *dy = acc_in(M * N, 1), *x = act_in(M * K, 1);
            Buf *p = act_in(K * N, 1);
            RUN(project_bwd, A(dx), NULL, NULL, F(dy), A(x), A(p), tp, M, K, N);
            dx->size = TERM;
            check(dx, 2, N);
            bufs_free();
        }
}

/* Larger than what stays in a cache: the CPU cuts rows, columns and contraction. */
static void linear_cut(void **state) {
    (void)state;
    const size_t M = 66, N = 700, K = 1000;
    Buf *y = act_out(M * N), *x = act_in(M * K, 1), *w = act_in(N * K, 1), *b = act_in(N, 1);
    RUN(linear_fwd, A(y), A(x), A(w), A(b), M, N, K);
    check(y, 1, K);
    bufs_free();
    Buf *dx = act_out(M * K), *dy = act_in(M * N, 1);
    w = act_in(N * K, 1);
    RUN(linear_bwd_input, A(dx), A(dy), A(w), M, N, K);
    check(dx, 1, N);
    bufs_free();
}

static bool on_gpu(void) { return !strncmp(backend->name, "cuda", 4); }

static void gemm_all_forms(void **state) {
    (void)state;
    /* TF32 keeps 10 bits of both factors */
    double factor = on_gpu() && backend->act_size == 2 ? 2 * 0x1p-11 / 0x1p-23 : 1;
    FOR_SHAPES
    for (int form = 0; form < 8; form++)
        for (size_t pad = 0; pad < 4; pad += 3) {
            bool ta = form & 1, tb = form & 2, add = form & 4;
            size_t lda = (ta ? M : K) + pad, ldb = (tb ? K : N) + pad, ldc = N + pad;
            /* The elements between the rows of c must be unchanged. */
            Buf *c = add || pad ? acc_inout(M * ldc, 1) : acc_out(M * ldc);
            Buf *a = acc_in((ta ? K : M) * lda, 1), *b = acc_in((tb ? N : K) * ldb, 1);
            RUN(gemm, F(c), ldc, F(a), lda, ta, F(b), ldb, tb, M, N, K, add);
            c->size = TERM;
            check(c, factor, K);
            bufs_free();
        }
}

/* 1 + 2^-12 needs 12 bits of mantissa: its square is 1 if factors are rounded to TF32. */
static void tf32(void **state) {
    (void)state;
    const float in[2] = {1 + 0x1p-12f, 1 + 0x1p-12f};
    for (int allowed = 0; allowed < 2; allowed++) {
        double out;
        kernel_tuning.tf32 = allowed;
        acc *x = backend->device->alloc(4 * backend->acc_size);
        backend->acc_set_f32(x, in, 2);
        acc *c = acc_at(backend, x, 2);
        backend->gemm(c, 1, x, 1, false, acc_at(backend, x, 1), 1, false, 1, 1, 1, false);
        backend->acc_get(&out, c, 1);
        backend->device->release(x);
        kernel_tuning.tf32 = false;
        bool rounded = on_gpu() && (allowed || backend->act_size == 2);
        assert_true(out == (rounded ? 1 : (double)(float)((1 + 0x1p-12) * (1 + 0x1p-12))));
    }
}

/* ---- ref against difference quotients ---- */

enum { M = 3, N = 4, K = 5 };

typedef enum Form { LINEAR, ACTIVATED, PROJECTION, PROJECTION_T } Form;

typedef struct Operands {
    double *x, *w, *b, *r; /* loss = Σ r·y */
    Form form;
    Activation f;
} Operands;

static double layer_loss(void *ctx) {
    const Operands *l = ctx;
    double y[M * N], pre[M * N];
    const act *x = (act *)l->x, *w = (act *)l->w, *b = (act *)l->b;
    if (l->form >= PROJECTION)
        ref->project_fwd((acc *)y, x, w, l->form == PROJECTION_T, (acc *)l->b, M, K, N);
    else if (l->form == ACTIVATED)
        ref->linear_activation_fwd((act *)y, (act *)pre, x, w, b, M, N, K, l->f);
    else
        ref->linear_fwd((act *)y, x, w, b, M, N, K);
    return test_dot(l->r, y, M * N);
}

static void check_layer(Form form, Activation f) {
    Operands l = {
        test_randoms(M * K), test_randoms(N * K), test_randoms(N), test_randoms(M * N), form, f};
    double dx[M * K], dw[N * K] = {0}, db[N] = {0}, dpre[M * N], pre[M * N], y[M * N];
    const act *x = (act *)l.x, *w = (act *)l.w, *dy = (act *)l.r;
    if (form >= PROJECTION) {
        ref->project_bwd((act *)dx, (acc *)dw, (acc *)db, (acc *)l.r, x, w, form == PROJECTION_T, M,
                         K, N);
    } else {
        if (form == ACTIVATED) {
            ref->linear_fwd((act *)pre, x, w, (act *)l.b, M, N, K);
            ref->activation_bwd((act *)dpre, (act *)y, NULL, dy, (act *)pre, M, N, f);
            dy = (act *)dpre;
        }
        ref->linear_bwd_input((act *)dx, dy, w, M, N, K);
        ref->linear_bwd_weight((acc *)dw, (acc *)db, dy, x, M, N, K);
    }
    assert_gradient(layer_loss, &l, l.b, db, N);
    assert_gradient(layer_loss, &l, l.x, dx, M * K);
    assert_gradient(layer_loss, &l, l.w, dw, N * K);
    free(l.x);
    free(l.w);
    free(l.b);
    free(l.r);
}

static void gradients_of_ref(void **state) {
    (void)state;
    check_layer(LINEAR, ACTIVATION_GELU);
    check_layer(ACTIVATED, ACTIVATION_GELU);
    check_layer(ACTIVATED, ACTIVATION_QUICK_GELU);
    check_layer(ACTIVATED, ACTIVATION_GELU_TANH);
    check_layer(PROJECTION, ACTIVATION_GELU);
    check_layer(PROJECTION_T, ACTIVATION_GELU);
}

int main(void) {
    const struct CMUnitTest each[] = {
        cmocka_unit_test(linear_fwd),
        cmocka_unit_test(linear_bwd_input),
        cmocka_unit_test(linear_bwd_weight),
        cmocka_unit_test(linear_activation_fwd),
        cmocka_unit_test(project_fwd),
        cmocka_unit_test(project_bwd),
        cmocka_unit_test(project_bwd_input),
        cmocka_unit_test(linear_bwd_weight_tuned),
        cmocka_unit_test(a_choice_serves_other_rows),
        cmocka_unit_test(gemm_all_forms),
        cmocka_unit_test(tf32),
        cmocka_unit_test(linear_cut),
    };
    const struct CMUnitTest once[] = {cmocka_unit_test(gradients_of_ref),
                                      cmocka_unit_test(exceptions)};
    return kernel_tests_run("kernels_linear", each, COUNT(each), once, COUNT(once));
}
