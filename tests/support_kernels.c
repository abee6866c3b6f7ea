#include "tests/support_kernels.h"

#include "kernels/rng.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

/* The backends under test; a new one is one line. */
static const struct BackendRow {
    const char *name;
    Precision precision;
    bool host_memory; /* its pointers are the host's: AddressSanitizer can check the guards */
} backends[] = {
#if defined TEST_CUDA /* linked with the CUDA backend: on a GPU, or on the CPU-run layer */
    {"cuda", PRECISION_FP32, false},
    {"cuda", PRECISION_AMP_BF16, false},
    {"cuda", PRECISION_AMP_FP8, false}, /* last: not every GPU has it */
#else
    {"cpu", PRECISION_FP32, true},
    {"cpu", PRECISION_AMP_BF16, true},
#endif
};

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#define POISON(p, n) __asan_poison_memory_region(p, n)
#define UNPOISON(p, n) __asan_unpoison_memory_region(p, n)
#else
#define POISON(p, n) ((void)(p), (void)(n))
#define UNPOISON(p, n) ((void)(p), (void)(n))
#endif

/* A guard's bytes form a huge finite number in every element type, so that a read across the border
 * that affects the result is detected as an error. */
enum { GUARD = 128, GUARD_BYTE = 0xFD, NAN_BYTE = 0xFF, MAX_BUFS = 32, REPEATS = 2 };

static const int thread_counts[] = {1, 2, 3, 8};

const Kernels *backend, *ref;
static bool backend_on_host;
static uint64_t draws;
static Buf *bufs[MAX_BUFS];
static size_t buf_count;
static struct Run {
    const char *slot, *file;
    int line, stage; /* stage 0: ref; then REPEATS runs a thread count */
} run;

double test_random(void) { return 2 * rng_uniform(test_seed(), RNG_TEST, draws++) - 1; }

size_t test_random_below(size_t n) { return rng_below(test_seed(), RNG_TEST, draws++, n); }

double *test_randoms(size_t n) {
    double *x = xmalloc(n * sizeof *x);
    for (size_t i = 0; i < n; i++) x[i] = test_random();
    return x;
}

double test_dot(const double *a, const double *b, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}

/* ---- arrays ---- */

static size_t elem_size(const Kernels *k, BufType type) {
    switch (type) {
    case BUF_ACT:
        return k->act_size;
    case BUF_ACC:
        return k->acc_size;
    case BUF_U8:
    case BUF_RAW:
        return 1;
    case BUF_BF16:
        return 2;
    default:
        return 4;
    }
}

static Buf *buf_new(BufType type, BufRole role, size_t n, double scale) {
    assert(buf_count < MAX_BUFS);
    Buf *b = bufs[buf_count++] = xcalloc(1, sizeof *b);
    *b = (Buf){.type = type, .role = role, .n = n, .bytes = n * elem_size(backend, type)};
    b->size = role == BUF_INOUT ? scale : 0;
    b->host = xmalloc(n * sizeof(double));
    b->want = xmalloc(n * sizeof(double));
    b->before = xmalloc(b->bytes);
    b->after = xmalloc(b->bytes);
    for (int t = 0; t < THREAD_COUNTS; t++) b->got[t] = xmalloc(n * sizeof(double));
    b->ref = ref->device->alloc(n * elem_size(ref, type));
    b->block = backend->device->alloc(b->bytes + 2 * GUARD);
    for (size_t i = 0; i < n; i++) b->host[i] = role == BUF_OUT ? NAN : scale * test_random();
    return b;
}

Buf *act_in(size_t n, double scale) { return buf_new(BUF_ACT, BUF_IN, n, scale); }
Buf *act_out(size_t n) { return buf_new(BUF_ACT, BUF_OUT, n, 0); }
Buf *act_inout(size_t n, double scale) { return buf_new(BUF_ACT, BUF_INOUT, n, scale); }
Buf *acc_in(size_t n, double scale) { return buf_new(BUF_ACC, BUF_IN, n, scale); }
Buf *acc_out(size_t n) { return buf_new(BUF_ACC, BUF_OUT, n, 0); }
Buf *acc_inout(size_t n, double scale) { return buf_new(BUF_ACC, BUF_INOUT, n, scale); }

Buf *i32_in(size_t n, const int32_t *values) {
    Buf *b = buf_new(BUF_I32, BUF_IN, n, 0);
    for (size_t i = 0; i < n; i++) b->host[i] = values[i];
    return b;
}

Buf *u8_in(size_t n) {
    Buf *b = buf_new(BUF_U8, BUF_IN, n, 0);
    for (size_t i = 0; i < n; i++) b->host[i] = (double)test_random_below(256);
    return b;
}

Buf *u8_out(size_t n) {
    Buf *b = buf_new(BUF_U8, BUF_OUT, n, 0);
    for (size_t i = 0; i < n; i++) b->host[i] = 0;
    return b;
}

Buf *bf16_inout(size_t n, double scale) { return buf_new(BUF_BF16, BUF_INOUT, n, scale); }

Buf *raw_in(const void *content, size_t n) {
    Buf *b = buf_new(BUF_RAW, BUF_IN, n, 0);
    b->raw = content;
    return b;
}

Buf *acc_scalar(double value) {
    Buf *b = acc_in(1, 0);
    b->host[0] = value;
    return b;
}

void becomes_input(Buf *b) {
    b->role = BUF_IN;
    memcpy(b->host, b->want, b->n * sizeof(double));
}

static void buf_free(Buf *b) {
    UNPOISON(b->block, b->bytes + 2 * GUARD);
    ref->device->release(b->ref);
    backend->device->release(b->block);
    for (int t = 0; t < THREAD_COUNTS; t++) free(b->got[t]);
    free(b->host);
    free(b->want);
    free(b->before);
    free(b->after);
    free(b);
}

void bufs_free(void) {
    for (size_t i = 0; i < buf_count; i++) {
        bool forgotten = bufs[i]->role != BUF_IN && !bufs[i]->checked;
        buf_free(bufs[i]);
        if (forgotten) fail_msg("array %zu of the test of %s is never checked", i, run.slot);
    }
    buf_count = 0;
}

void *P(const Buf *b) { return !b ? NULL : run.stage == 0 ? b->ref : b->at; }
act *A(const Buf *b) {
    assert(!b || b->type == BUF_ACT);
    return P(b);
}
acc *F(const Buf *b) {
    assert(!b || b->type == BUF_ACC);
    return P(b);
}

static uint16_t bf16_bits(float f) {
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return (uint16_t)(isnan(f) ? 0x7fc0 : (u + 0x7fff + (u >> 16 & 1)) >> 16);
}

static float bf16_float(uint16_t bits) {
    uint32_t u = (uint32_t)bits << 16;
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

/* Host values ↔ floats of `size` bytes in device memory. */
static void floats_set(const Kernels *k, size_t size, void *dst, const double *host, size_t n) {
    void *raw = xmalloc(n * size);
    for (size_t i = 0; i < n; i++) {
        if (size == 2) ((uint16_t *)raw)[i] = bf16_bits((float)host[i]);
        if (size == 4) ((float *)raw)[i] = (float)host[i];
        if (size == 8) ((double *)raw)[i] = host[i];
    }
    k->device->upload(dst, raw, n * size);
    free(raw);
}

static void floats_get(const Kernels *k, size_t size, double *host, const void *src, size_t n) {
    void *raw = xmalloc(n * size);
    k->device->download(raw, src, n * size);
    for (size_t i = 0; i < n; i++)
        host[i] = size == 2   ? (double)bf16_float(((uint16_t *)raw)[i])
                  : size == 4 ? (double)((float *)raw)[i]
                              : ((double *)raw)[i];
    free(raw);
}

void test_act_set(const Kernels *k, act *dst, const double *host, size_t n) {
    floats_set(k, k->act_size, dst, host, n);
}

void test_act_get(const Kernels *k, double *host, const act *src, size_t n) {
    floats_get(k, k->act_size, host, src, n);
}

static bool is_float(BufType type) {
    return type == BUF_ACT || type == BUF_ACC || type == BUF_BF16;
}

/* Host values ↔ elements of one backend. */
static void elements_set(const Kernels *k, BufType type, void *dst, const double *host, size_t n) {
    size_t size = elem_size(k, type);
    if (is_float(type)) {
        floats_set(k, size, dst, host, n);
        return;
    }
    unsigned char *raw = xmalloc(n * size);
    for (size_t i = 0; i < n; i++) {
        if (type == BUF_I32) ((int32_t *)raw)[i] = (int32_t)host[i];
        if (type == BUF_U8) raw[i] = (uint8_t)host[i];
    }
    k->device->upload(dst, raw, n * size);
    free(raw);
}

static void elements_get(const Kernels *k, BufType type, double *host, const void *src, size_t n) {
    if (is_float(type)) floats_get(k, elem_size(k, type), host, src, n);
    if (type != BUF_U8) return;
    uint8_t *raw = xmalloc(n);
    k->device->download(raw, src, n);
    for (size_t i = 0; i < n; i++) host[i] = raw[i];
    free(raw);
}

/* ---- running a slot ---- */

static void ref_prepare(Buf *b) {
    if (b->role != BUF_OUT && (b->type == BUF_ACT || b->type == BUF_ACC)) {
        elements_set(backend, b->type, b->block, b->host, b->n);
        elements_get(backend, b->type, b->host, b->block, b->n);
    }
    if (b->raw)
        ref->device->upload(b->ref, b->raw, b->n);
    else
        elements_set(ref, b->type, b->ref, b->host, b->n);
}

static void backend_prepare(Buf *b, size_t shift) {
    unsigned char *bytes = xmalloc(b->bytes + 2 * GUARD);
    memset(bytes, GUARD_BYTE, b->bytes + 2 * GUARD);
    memset(bytes + GUARD + shift, NAN_BYTE, b->bytes);
    backend->device->upload(b->block, bytes, b->bytes + 2 * GUARD);
    free(bytes);
    b->at = (char *)b->block + GUARD + shift;
    if (b->raw)
        backend->device->upload(b->at, b->raw, b->n);
    else if (b->role != BUF_OUT)
        elements_set(backend, b->type, b->at, b->host, b->n);
    backend->device->download(b->before, b->at, b->bytes);
    if (backend_on_host) {
        POISON(b->block, GUARD + shift);
        POISON((char *)b->at + b->bytes, GUARD - shift);
    }
}

static void backend_collect(Buf *b, size_t index, int threads, int repeat) {
    size_t whole = b->bytes + 2 * GUARD, shift = (size_t)((char *)b->at - (char *)b->block) - GUARD;
    UNPOISON(b->block, whole);
    unsigned char *bytes = xmalloc(whole);
    backend->device->download(bytes, b->block, whole);
    bool guarded = true;
    for (size_t i = 0; i < whole; i++)
        if ((i < GUARD + shift || i >= GUARD + shift + b->bytes) && bytes[i] != GUARD_BYTE)
            guarded = false;
    unsigned char *data = bytes + GUARD + shift;
    const char *wrong = NULL;
    if (!guarded)
        wrong = "was written outside its bounds";
    else if (b->role == BUF_IN && memcmp(data, b->before, b->bytes))
        wrong = "is an input and was written";
    else if (repeat && memcmp(data, b->after, b->bytes))
        wrong = "has other bits after the same call";
    memcpy(b->after, data, b->bytes);
    free(bytes);
    if (wrong) {
        print_error("%s %s, %d threads: array %zu (%zu elements) %s\n", backend->name, run.slot,
                    thread_counts[threads], index, b->n, wrong);
        _fail(run.file, run.line);
    }
    elements_get(backend, b->type, b->got[threads], b->at, b->n);
}

void run_begin(const char *slot, const char *file, int line) {
    run = (struct Run){slot, file, line, -1};
    for (size_t i = 0; i < buf_count; i++) bufs[i]->checked = false;
}

const Kernels *run_next(void) {
    int last = run.stage++; /* the stage whose call has just returned */
    if (last < 0) {
        for (size_t i = 0; i < buf_count; i++) ref_prepare(bufs[i]);
        omp_set_num_threads(2);
        return ref;
    }
    backend->device->sync();
    for (size_t i = 0; i < buf_count; i++) {
        Buf *b = bufs[i];
        if (last == 0)
            elements_get(ref, b->type, b->want, b->ref, b->n);
        else
            backend_collect(b, i, (last - 1) / REPEATS, (last - 1) % REPEATS);
    }
    if (last == THREAD_COUNTS * REPEATS) {
        omp_set_num_threads(2);
        return NULL;
    }
    int threads = last / REPEATS;
    omp_set_num_threads(thread_counts[threads]);
    for (size_t i = 0; i < buf_count; i++)
        backend_prepare(bufs[i],
                        threads % 2 && !bufs[i]->raw ? elem_size(backend, bufs[i]->type) : 0);
    return backend;
}

/* ---- comparing ---- */

static double eps_of(size_t elem_bytes) {
    return elem_bytes == 2 ? 0x1p-8 : elem_bytes == 4 ? 0x1p-23 : 0x1p-52;
}

void check_at(Buf *b, double factor, double terms, bool as_act, const char *name, const char *file,
              int line) {
    assert(b->role != BUF_IN);
    double eps_acc = eps_of(backend->acc_size);
    double eps = b->type == BUF_BF16            ? 0x1p-7
                 : as_act || b->type == BUF_ACT ? eps_of(backend->act_size)
                                                : eps_acc;
    double tolerance = factor * (eps + eps_acc * sqrt(terms));
    b->checked = true;
    for (int t = 0; t < THREAD_COUNTS; t++) {
        size_t worst = 0;
        double error = 0, size = b->size;
        for (size_t i = 0; i < b->n; i++) {
            double e = fabs(b->got[t][i] - b->want[i]);
            if (isnan(e)) e = INFINITY;
            if (e > error) worst = i, error = e;
            size = fmax(size, fabs(b->want[i]));
        }
        if (error <= tolerance * size) continue;
        print_error("%s %s, %d threads: %s has error %.3g, allowed %.3g; element %zu of %zu is "
                    "%.9g, wanted %.9g (run from %s:%d)\n",
                    backend->name, run.slot, thread_counts[t], name, error, tolerance * size, worst,
                    b->n, b->got[t][worst], b->want[worst], run.file, run.line);
        _fail(file, line);
    }
}

void test_gradient(double (*f)(void *), void *ctx, double *x, const double *grad, size_t n,
                   const char *name, const char *file, int line) {
    /* The truncation error h² and the rounding error 2^-53/h meet near 1e-11. */
    const double h = 1e-5, tolerance = 1e-8;
    double largest = 1;
    for (size_t i = 0; i < n; i++) largest = fmax(largest, fabs(grad[i]));
    for (size_t i = 0; i < n; i++) {
        double x0 = x[i];
        x[i] = x0 + h;
        double up = f(ctx);
        x[i] = x0 - h;
        double down = f(ctx);
        x[i] = x0;
        double want = (up - down) / (2 * h);
        if (fabs(grad[i] - want) <= tolerance * largest) continue;
        print_error("gradient by %s[%zu] is %.12g, the difference quotient %.12g\n", name, i,
                    grad[i], want);
        _fail(file, line);
    }
}

/* ---- main ---- */

static int backend_setup(void **state) {
    const struct BackendRow *row = *state;
    backend = kernels_open(row->name, row->precision);
    backend_on_host = row->host_memory;
    buf_count = 0; /* a failed test leaves its arrays */
    return 0;
}

static int ref_setup(void **state) {
    (void)state;
    backend = ref;
    return 0;
}

#if defined TEST_CUDA
extern bool device_has_fp8(void);
static size_t backend_count(void) { return COUNT(backends) - !device_has_fp8(); }
#else
static size_t backend_count(void) { return COUNT(backends); }
#endif

int kernel_tests_run(const char *group, const struct CMUnitTest *each, size_t each_count,
                     const struct CMUnitTest *once, size_t once_count) {
    size_t n = 0;
    struct CMUnitTest *tests = xcalloc(each_count * backend_count() + once_count, sizeof *tests);
    ref = kernels_open("ref", PRECISION_FP32);
    test_seed();
    for (size_t i = 0; i < once_count; i++, n++) {
        tests[n] = once[i];
        tests[n].setup_func = ref_setup;
    }
    for (size_t b = 0; b < backend_count(); b++)
        for (size_t i = 0; i < each_count; i++, n++) {
            const char *name = kernels_open(backends[b].name, backends[b].precision)->name;
            tests[n] = each[i];
            tests[n].name = xasprintf("%s %s", each[i].name, name);
            tests[n].setup_func = backend_setup;
            tests[n].initial_state = (void *)&backends[b];
        }
    int failed = _cmocka_run_group_tests(group, tests, n, NULL, NULL);
    for (size_t i = once_count; i < n; i++) free((void *)tests[i].name);
    free(tests);
    return failed;
}
