/* fp8: scales from past magnitudes, and products of 8-bit factors if the backend has them. */
#include "tests/support_kernels.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { FACTORS = 9 };

static void fp8_update(void **state) {
    (void)state;
    for (int round = 0; round < 20; round++) {
        Buf *s = acc_inout(FACTORS * FP8_SCALING, 1);
        for (size_t i = 0; i < s->n; i++) s->host[i] = fabs(s->host[i]) * exp2(round * 3 - 30);
        if (round == 3) memset(s->host, 0, s->n * sizeof *s->host);
        s->host[4] = round % 3 == 0 ? NAN : INFINITY; /* leaves its scale and its past alone */
        if (round == 5) s->host[5] = s->host[3 * FACTORS + 5] = 1e-30; /* the exponent's limit */
        RUN(fp8_update, F(s), FACTORS);
        check_exact(s);
        bufs_free();
    }
}

/* ---- products ---- */

static bool in_8_bits(void) { return backend->fp8; }

typedef struct Fp8Layer {
    size_t M, N, K, part; /* the product takes the rows of w from `part` on */
    double *x, *w, *dy;
    act *dx, *y, *dev_x, *dev_w, *dev_dy;
    acc *dw, *scaling;
} Fp8Layer;

/* Integers that e4m3 and e5m2 hold exactly, times a power of two. */
static void fill(double *v, size_t n, double unit, bool e5m2) {
    for (size_t i = 0; i < n; i++) {
        size_t most = e5m2 ? 4 : 8;
        v[i] = ((double)test_random_below(2 * most + 1) - (double)most) * unit;
    }
}

static act *to_device(const double *v, size_t n) {
    act *p = backend->device->alloc(n * backend->act_size);
    test_act_set(backend, p, v, n);
    return p;
}

static Fp8Layer layer_new(size_t M, size_t N, size_t K, size_t part) {
    Fp8Layer l = {.M = M, .N = N, .K = K, .part = part};
    l.x = xmalloc(M * K * sizeof *l.x);
    l.w = xmalloc((part + N) * K * sizeof *l.w);
    l.dy = xmalloc(M * N * sizeof *l.dy);
    fill(l.x, M * K, 0x1p-3, false);
    fill(l.w, (part + N) * K, 0x1p-9, false);
    fill(l.dy, M * N, 0x1p-20, true);
    l.dev_x = to_device(l.x, M * K);
    l.dev_w = to_device(l.w, (part + N) * K);
    l.dev_dy = to_device(l.dy, M * N);
    l.y = backend->device->alloc(M * N * backend->act_size);
    l.dx = backend->device->alloc(M * K * backend->act_size);
    l.dw = backend->device->alloc((part + N) * K * backend->acc_size);
    l.scaling = backend->device->alloc(FACTORS * FP8_SCALING * backend->acc_size);
    double scaling[FACTORS * FP8_SCALING] = {0};
    for (size_t i = FACTORS; i < 3 * FACTORS; i++) scaling[i] = 1;
    backend->acc_set(l.scaling, scaling, COUNT(scaling));
    backend->fp8_weight(l.dev_w, l.dw, l.scaling, FACTORS, 3, part + N, K);
    return l;
}

static void layer_run(Fp8Layer *l) {
    const act *w = act_at(backend, l->dev_w, l->part * l->K);
    acc *dw = acc_at(backend, l->dw, l->part * l->K);
    backend->device->zero(l->dw, (l->part + l->N) * l->K * backend->acc_size);
    backend->linear_fwd(l->y, l->dev_x, w, NULL, l->M, l->N, l->K);
    backend->linear_bwd_input(l->dx, l->dev_dy, w, l->M, l->N, l->K);
    backend->linear_bwd_weight(dw, NULL, l->dev_dy, l->dev_x, l->M, l->N, l->K);
}

static void layer_free(Fp8Layer *l) {
    backend->fp8_weight(l->dev_w, l->dw, NULL, 0, 0, 0, 0);
    void *device[] = {l->dev_x, l->dev_w, l->dev_dy, l->y, l->dx, l->dw, l->scaling};
    for (size_t i = 0; i < COUNT(device); i++) backend->device->release(device[i]);
    free(l->x);
    free(l->w);
    free(l->dy);
}

static double as_act(double v) {
    double out;
    act *p = to_device(&v, 1);
    test_act_get(backend, &out, p, 1);
    backend->device->release(p);
    return out;
}

static double largest(const double *v, size_t n) {
    double most = 0;
    for (size_t i = 0; i < n; i++) most = fmax(most, fabs(v[i]));
    return most;
}

/* Every sum is one of a few products of small integers: f32 holds it exactly, in any order. */
static void check_exactly(const Fp8Layer *l) {
    const double *w = l->w + l->part * l->K;
    double *y = xmalloc(l->M * l->N * sizeof *y), *dx = xmalloc(l->M * l->K * sizeof *dx);
    double *dw = xmalloc(l->N * l->K * sizeof *dw);
    test_act_get(backend, y, l->y, l->M * l->N);
    test_act_get(backend, dx, l->dx, l->M * l->K);
    backend->acc_get(dw, acc_at(backend, l->dw, l->part * l->K), l->N * l->K);
    for (size_t m = 0; m < l->M; m++)
        for (size_t n = 0; n < l->N; n++) {
            double sum = 0;
            for (size_t k = 0; k < l->K; k++) sum += l->x[m * l->K + k] * w[n * l->K + k];
            assert_true(y[m * l->N + n] == as_act(sum));
        }
    for (size_t m = 0; m < l->M; m++)
        for (size_t k = 0; k < l->K; k++) {
            double sum = 0;
            for (size_t n = 0; n < l->N; n++) sum += l->dy[m * l->N + n] * w[n * l->K + k];
            assert_true(dx[m * l->K + k] == as_act(sum));
        }
    for (size_t n = 0; n < l->N; n++)
        for (size_t k = 0; k < l->K; k++) {
            double sum = 0;
            for (size_t m = 0; m < l->M; m++) sum += l->dy[m * l->N + n] * l->x[m * l->K + k];
            assert_true(dw[n * l->K + k] == sum);
        }
    free(y);
    free(dx);
    free(dw);
}

/* With scales of 1 the gradients vanish in e5m2; after one step's magnitudes nothing is lost. */
static void fp8_weight(void **state) {
    (void)state;
    static const size_t shapes[][4] = {{1, 16, 16, 0},  {5, 48, 80, 0},   {16, 64, 32, 0},
                                       {77, 32, 64, 0}, {33, 64, 32, 32}, {7, 8, 24, 0},
                                       {24, 48, 80, 0}, {72, 64, 32, 32}, {8, 16, 16, 0}};
    for (size_t i = 0; i < COUNT(shapes); i++) {
        Fp8Layer l = layer_new(shapes[i][0], shapes[i][1], shapes[i][2], shapes[i][3]);
        bool eight = in_8_bits() && l.N % 16 == 0 && l.K % 16 == 0 && l.M % 8 == 0;
        kernel_fp8_products = (Fp8Products){0};
        layer_run(&l);
        assert_int_equal(kernel_fp8_products.all, in_8_bits() ? 3 : 0);
        assert_int_equal(kernel_fp8_products.in_act, in_8_bits() && !eight ? 3 : 0);
        double amax[FACTORS];
        backend->acc_get(amax, l.scaling, FACTORS);
        assert_true(amax[0] == 0 && amax[6] == 0);
        assert_true(amax[3] == (eight ? largest(l.x, l.M * l.K) : 0));
        assert_true(amax[4] == (eight ? largest(l.w + l.part * l.K, l.N * l.K) : 0));
        assert_true(amax[5] == (eight ? largest(l.dy, l.M * l.N) : 0));
        backend->fp8_update(l.scaling, FACTORS);
        layer_run(&l);
        check_exactly(&l);
        layer_free(&l);
    }
}

/* Rows of padding (from start[B] on, or from B on if there is one row a sequence) are multiplied
 * like others, but do not count in x's largest magnitude. */
static void fp8_padding(void **state) {
    (void)state;
    enum { N = 32, K = 48, ROWS = 72, SEQUENCES = 8, B = 6 };
    static const int32_t starts[SEQUENCES + 1] = {0, 20, 21, 30, 31, 32, 37, 68, ROWS};
    for (int pooled = 0; pooled < 2; pooled++) {
        size_t M = pooled ? SEQUENCES : ROWS, real = pooled ? B : (size_t)starts[B];
        int32_t *start = backend->device->alloc(sizeof starts);
        backend->device->upload(start, starts, sizeof starts);
        for (int padded = 0; padded < 2; padded++) {
            Fp8Layer l = layer_new(M, N, K, 0);
            for (size_t i = 0; i < N; i++) l.dy[(M - 1) * N + i] = 0;
            l.x[real * K - 1] = -1.25; /* the last that counts */
            l.x[real * K] = 1.5;
            test_act_set(backend, l.dev_x, l.x, M * K);
            test_act_set(backend, l.dev_dy, l.dy, M * N);
            backend->fp8_padding(padded ? start : NULL, B, SEQUENCES);
            layer_run(&l);
            backend->fp8_padding(NULL, 0, 0);
            double amax[FACTORS];
            backend->acc_get(amax, l.scaling, FACTORS);
            assert_true(amax[3] == (!in_8_bits() ? 0 : padded ? 1.25 : 1.5));
            assert_true(amax[4] == (in_8_bits() ? largest(l.w, N * K) : 0));
            assert_true(amax[5] == (in_8_bits() ? largest(l.dy, M * N) : 0));
            backend->fp8_update(l.scaling, FACTORS);
            layer_run(&l);
            check_exactly(&l);
            layer_free(&l);
        }
        backend->device->release(start);
    }
}

/* Of the layer without a GPU (tests/cuda_on_cpu/runtime.h); absent on a GPU and a CPU. */
const char *cudaemuKernel(int index, unsigned long *launches) __attribute__((weak));
static unsigned long factors_rounded(void) {
    unsigned long launches, sum = 0;
    const char *name;
    for (int i = 0; cudaemuKernel && (name = cudaemuKernel(i, &launches)); i++)
        if (!strncmp(name, "quantise", 8)) sum += launches;
    return sum;
}

/* A gradient is rounded once for its two products; a second linear_bwd_weight reads it again. */
static void gradients_once(void **state) {
    (void)state;
    Fp8Layer l = layer_new(24, 48, 80, 0);
    layer_run(&l);
    backend->fp8_update(l.scaling, FACTORS);
    unsigned long before = factors_rounded();
    layer_run(&l);
    check_exactly(&l);
    unsigned long after = factors_rounded();
    if (cudaemuKernel && in_8_bits()) assert_int_equal(after - before, 5); /* x, w; dy, w; x */
    for (size_t i = 0; i < l.M * l.N; i++) l.dy[i] = -l.dy[i];
    test_act_set(backend, l.dev_dy, l.dy, l.M * l.N);
    backend->device->zero(l.dw, l.N * l.K * backend->acc_size);
    backend->linear_bwd_weight(l.dw, NULL, l.dev_dy, l.dev_x, l.M, l.N, l.K);
    backend->linear_bwd_input(l.dx, l.dev_dy, l.dev_w, l.M, l.N, l.K);
    check_exactly(&l);
    layer_free(&l);
}

/* 1 + 2^-5 has five bits after the point; e4m3 keeps three. */
static void takes_8_bits(void **state) {
    (void)state;
    Fp8Layer l = layer_new(8, 16, 16, 0);
    double got[16];
    for (size_t i = 0; i < 8 * 16; i++) l.x[i] = i ? 0 : 1 + 0x1p-5;
    for (size_t i = 0; i < 16 * 16; i++) l.w[i] = 1;
    test_act_set(backend, l.dev_x, l.x, 8 * 16);
    test_act_set(backend, l.dev_w, l.w, 16 * 16);
    for (int registered = 1; registered >= 0; registered--) {
        layer_run(&l);
        test_act_get(backend, got, l.y, 16);
        assert_true(got[0] == (registered && in_8_bits() ? 1 : 1 + 0x1p-5));
        backend->fp8_weight(l.dev_w, l.dw, NULL, 0, 0, 0, 0);
    }
    layer_free(&l);
}

int main(void) {
    const struct CMUnitTest each[] = {
        cmocka_unit_test(fp8_update), cmocka_unit_test(fp8_weight), cmocka_unit_test(fp8_padding),
        cmocka_unit_test(gradients_once), cmocka_unit_test(takes_8_bits)};
#if defined TEST_CUDA
    setenv("CUDAEMU_ARCH", "90", 0); /* for runs without a GPU: an architecture with FP8 */
#endif
    return kernel_tests_run("kernels_fp8", each, COUNT(each), NULL, 0);
}
