/* mem: allocation, transfers and conversions of elements. */
#include "tests/support_kernels.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The death test allocates more than there is: AddressSanitizer must return NULL, as malloc
 * does. */
const char *__asan_default_options(void);
const char *__asan_default_options(void) { return "allocator_may_return_null=1"; }

static const size_t sizes[] = {0, 1, 2, 3, 7, 16, 17, 63, 64, 65, 1000, 4099};

static void memory_is_aligned(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT(sizes); i++) {
        void *p = backend->device->alloc(sizes[i]);
        assert_non_null(p);
        assert_int_equal((uintptr_t)p % 64, 0);
        backend->device->release(p);
    }
    backend->device->release(NULL);
}

static const size_t too_much = (size_t)1 << 60;

/* In a fresh process: a device that was used before a fork cannot be used after it. */
static void ask_too_much(void *k) {
    setenv("TEST_ASK_TOO_MUCH", ((const Kernels *)k)->name, 1);
    execl("/proc/self/exe", "test_kernels_mem", NULL);
}
static void ask_too_much_here(const char *name) {
    const char *device = !strcmp(name, "ref") ? "ref" : !strncmp(name, "cpu", 3) ? "cpu" : "cuda";
    Precision precision = strstr(name, "bf16") ? PRECISION_AMP_BF16 : PRECISION_FP32;
    kernels_open(device, precision)->device->alloc(too_much);
}

static void memory_runs_out(void **state) {
    (void)state;
    test_dies(ask_too_much, (void *)backend, EXIT_ERROR, "1152921504606846976");
}

/* A dry run does no work: memory is unchanged, alloc takes none. */
static void planning_does_nothing(void **state) {
    (void)state;
    enum { N = 5000 };
    double *x = test_randoms(N), *got = test_randoms(N);
    acc *a = backend->device->alloc(N * backend->acc_size);
    backend->acc_set(a, x, N);
    backend->acc_get(x, a, N);
    MemoryUse before = backend->device->memory();
    bool is_ref = !strcmp(backend->name, "ref"); /* it has no dry run */
    backend->device->plan_begin();
    acc *b = backend->device->alloc((size_t)1 << 40);
    assert_non_null(b);
    assert_int_equal(backend->device->size(b), (size_t)1 << 40);
    assert_int_equal(backend->device->memory().taken, (size_t)1 << 40);
    backend->device->zero(b, (size_t)1 << 40);
    backend->device->copy(a, b, N * backend->acc_size);
    if (!is_ref) {
        backend->axpy(a, 2, b, N);
        backend->gemm(a, 10, b, 10, false, b, 10, true, 10, 10, 10, false);
        backend->acc_set(a, got, N);
    }
    void *host = backend->device->host_alloc((size_t)1 << 41);
    MemoryUse planning = backend->device->memory();
    assert_true(planning.host + planning.taken == 3 * ((size_t)1 << 40));
    backend->device->host_release(host);
    backend->device->release(b);
    size_t planned = backend->device->plan_end(0), most = planning.taken;
    if (backend->device->gpu)
        assert_true(planned > most && planned < most + ((size_t)1 << 30)); /* and a workspace */
    else
        assert_int_equal(planned, most);
    MemoryUse after = backend->device->memory();
    assert_int_equal(after.taken, before.taken);
    assert_int_equal(after.unused, before.unused);
    backend->acc_get(got, a, N);
    assert_memory_equal(got, x, N * sizeof *x);
    backend->device->release(a);
    after = backend->device->memory();
    assert_true(after.taken + round_up(N * backend->acc_size, 64) >= before.taken);
    assert_true(after.taken + N * backend->acc_size <= before.taken);
    free(x);
    free(got);
}

/* On a CPU the same calls take as much as was planned; released blocks no longer count. */
static void plan_is_taken(void **state) {
    (void)state;
    size_t planned = 0, none = backend->device->memory().taken;
    if (backend->device->gpu) return;
    for (int real = 0; real < 2; real++) {
        if (!real) backend->device->plan_begin();
        void *a = backend->device->alloc((size_t)3 << 20), *b = backend->device->alloc(5000);
        assert_int_equal(backend->device->size(b), round_up(5000, 64));
        assert_int_equal(backend->device->size(NULL), 0);
        backend->device->release(a);
        a = backend->device->host_alloc((size_t)5 << 20);
        MemoryUse m = backend->device->memory();
        assert_int_equal(m.taken, (real ? none : 0) + ((size_t)5 << 20) + round_up(5000, 64));
        if (real) assert_true(m.most >= none + planned);
        backend->device->release(b);
        backend->device->host_release(a);
        if (!real) planned = backend->device->plan_end(0);
    }
    assert_int_equal(planned, ((size_t)5 << 20) + round_up(5000, 64));
    assert_int_equal(backend->device->memory().taken, none);
}

/* On a GPU, after planning the same calls divide the arena; memory beyond it is allocated
 * separately. */
static void plan_is_divided(void **state) {
    (void)state;
    if (!backend->device->gpu) return;
    enum { N = 10 };
    double x[N * N], got[N * N];
    MemoryUse none = backend->device->memory();
    size_t planned = 0;
    for (int i = 0; i < N * N; i++) x[i] = i;
    for (int real = 0; real < 2; real++) {
        if (!real) backend->device->plan_begin();
        void *a = backend->device->alloc(4 * N * N), *b = backend->device->alloc(5000), *c,
             *d = NULL;
        backend->acc_set(b, x, N * N);
        backend->gemm(a, N, b, N, false, b, N, true, N, N, N, false);
        backend->device->release(a);
        c = backend->device->alloc(300);
        assert_ptr_equal(c, a); /* the first gap that is large enough */
        assert_int_equal((uintptr_t)b % 256, 0);
        if (real) {
            MemoryUse m = backend->device->memory();
            assert_int_equal(m.taken, none.taken + planned);
            assert_int_equal(m.unplanned, 0);
            d = backend->device->alloc(planned);
            m = backend->device->memory();
            assert_int_equal(m.taken, none.taken + 2 * planned);
            assert_int_equal(m.unplanned, planned);
            backend->device->zero(d, planned);
            backend->device->zero(c, 300);
            backend->acc_get(got, b, N * N);
            assert_memory_equal(got, x, sizeof x);
        }
        backend->device->release(d);
        backend->device->release(c);
        backend->device->release(b);
        if (!real) planned = backend->device->plan_end(SIZE_MAX);
    }
    /* two blocks, the workspace and little else */
    assert_in_range(planned, 5000 + 4 * N * N, (33 << 20));
    assert_int_equal(backend->device->memory().taken, none.taken + planned);
    backend->device->plan_begin();
    assert_int_equal(backend->device->plan_end(SIZE_MAX), 0);
    assert_int_equal(backend->device->memory().taken, none.taken);
}

static void bytes_travel(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT(sizes); i++)
        for (size_t offset = 0; offset < 4; offset++) {
            size_t n = sizes[i], whole = n + 8;
            unsigned char *sent = xmalloc(whole), *got = xmalloc(whole);
            unsigned char *a = backend->device->alloc(whole), *b = backend->device->alloc(whole);
            for (size_t j = 0; j < whole; j++) sent[j] = (unsigned char)test_random_below(256);
            backend->device->upload(a, sent, whole);
            backend->device->zero(b, whole);
            backend->device->copy(b + offset, a + offset, n);
            backend->device->sync();
            memset(got, 1, whole);
            backend->device->download(got + offset, b + offset, n);
            assert_memory_equal(got + offset, sent + offset, n);
            backend->device->download(got, b, whole);
            for (size_t j = 0; j < whole; j++)
                assert_int_equal(got[j], j >= offset && j < offset + n ? sent[j] : 0);
            backend->device->zero(a + offset, n);
            backend->device->download(got, a, whole);
            for (size_t j = 0; j < whole; j++)
                assert_int_equal(got[j], j >= offset && j < offset + n ? 0 : sent[j]);
            backend->device->release(a);
            backend->device->release(b);
            free(sent);
            free(got);
        }
}

/* x rounded to a float with `bits` of significand, ties to even. */
static double rounded(double x, int bits) {
    int e;
    frexp(x, &e);
    return ldexp(nearbyint(ldexp(x, bits - e)), e - bits);
}

static int significant_bits(size_t elem_size) {
    return elem_size == 2 ? 8 : elem_size == 4 ? FLT_MANT_DIG : DBL_MANT_DIG;
}

/* Every value is a float, so that a conversion by way of float is as good as a direct one. */
static double *conversion_values(size_t n) {
    static const double special[] = {0,
                                     -0.0,
                                     1,
                                     -1,
                                     1 + 0x1p-8,
                                     1 + 3 * 0x1p-8,
                                     1 + 0x1p-9,
                                     1 - 0x1p-9,
                                     1 - 0x1p-8,
                                     65504,
                                     -3.0517578125e-5,
                                     1 + 0x1p-8 + 0x1p-23,
                                     2 - 0x1p-9,
                                     -2 + 0x1p-23,
                                     0x1p-126,
                                     0x1p127,
                                     0x1.fep127,
                                     INFINITY,
                                     -INFINITY,
                                     NAN,
                                     0x1p-100,
                                     255,
                                     256,
                                     257};
    double *x = xmalloc(n * sizeof *x);
    for (size_t i = 0; i < n; i++)
        x[i] = i < COUNT(special) ? special[i]
                                  : (double)(float)(test_random() * pow(2, 40 * test_random()));
    return x;
}

static void assert_converted(const double *got, const double *x, size_t n, int bits) {
    for (size_t i = 0; i < n; i++) {
        if (isnan(x[i])) {
            assert_true(isnan(got[i]));
        } else if (got[i] != (isinf(x[i]) ? x[i] : rounded(x[i], bits)) ||
                   signbit(got[i]) != signbit(x[i])) {
            fail_msg("%a became %a with %d bits", x[i], got[i], bits);
        }
    }
}

static void conversions_round_to_even(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT(sizes); i++) {
        size_t n = sizes[i];
        double *x = conversion_values(n), *got = xmalloc(n * sizeof *got);
        float *f = xmalloc(n * sizeof *f);
        for (size_t j = 0; j < n; j++) f[j] = (float)x[j];
        act *a = backend->device->alloc(n * backend->act_size);
        acc *c = backend->device->alloc(n * backend->acc_size);

        backend->acc_set(c, x, n);
        backend->acc_get(got, c, n);
        assert_converted(got, x, n, significant_bits(backend->acc_size));

        backend->device->zero(a, n * backend->act_size);
        backend->act_from_acc(a, c, n);
        test_act_get(backend, got, a, n);
        assert_converted(got, x, n, significant_bits(backend->act_size));

        backend->device->zero(c, n * backend->acc_size);
        backend->acc_set_f32(c, f, n);
        backend->acc_get(got, c, n);
        assert_converted(got, x, n, significant_bits(backend->acc_size));

        memset(f, 0, n * sizeof *f);
        backend->acc_get_f32(f, c, n);
        for (size_t j = 0; j < n; j++) got[j] = (double)f[j];
        assert_converted(got, x, n, FLT_MANT_DIG);

        backend->device->release(a);
        backend->device->release(c);
        free(x);
        free(got);
        free(f);
    }
}

static void sync_returns(void **state) {
    (void)state;
    backend->device->sync();
    backend->device->sync();
}

/* The largest floats round up to infinity, never to NaN or a wrong sign. */
static void overflow_is_infinite(void **state) {
    (void)state;
    double x[2] = {(double)FLT_MAX, -(double)FLT_MAX}, got[2];
    act *a = backend->device->alloc(2 * backend->act_size);
    acc *c = backend->device->alloc(2 * backend->acc_size);
    backend->acc_set(c, x, 2);
    backend->act_from_acc(a, c, 2);
    test_act_get(backend, got, a, 2);
    for (int i = 0; i < 2; i++)
        assert_true(got[i] == (backend->act_size == 2 ? copysign(INFINITY, x[i]) : x[i]));
    backend->device->release(a);
    backend->device->release(c);
}

static void act_from_acc_guarded(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT(sizes); i++) {
        Buf *dst = act_out(sizes[i]), *src = acc_in(sizes[i], 3);
        RUN(act_from_acc, A(dst), F(src), sizes[i]);
        check(dst, 1, 0);
        bufs_free();
        dst = acc_out(sizes[i]), src = act_in(sizes[i], 3);
        RUN(acc_from_act, F(dst), A(src), sizes[i]);
        check_exact(dst);
        bufs_free();
    }
}

int main(void) {
    const char *name = getenv("TEST_ASK_TOO_MUCH");
    if (name) {
        ask_too_much_here(name);
        return EXIT_OK;
    }
    const struct CMUnitTest each[] = {
        cmocka_unit_test(memory_is_aligned),
        cmocka_unit_test(memory_runs_out),
        cmocka_unit_test(planning_does_nothing),
        cmocka_unit_test(plan_is_divided),
        cmocka_unit_test(plan_is_taken),
        cmocka_unit_test(bytes_travel),
        cmocka_unit_test(conversions_round_to_even),
        cmocka_unit_test(sync_returns),
        cmocka_unit_test(overflow_is_infinite),
        cmocka_unit_test(act_from_acc_guarded),
    };
    /* ref too: the other slots cannot show an error that both directions share. */
    return kernel_tests_run("kernels_mem", each, COUNT(each), each, COUNT(each));
}
