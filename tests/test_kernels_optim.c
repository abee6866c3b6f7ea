/* optim: gradient norm, AdamW with clipping and clamping, bf16 moments. */
#include "tests/support_kernels.h"

#include <math.h>
#include <stdlib.h>

static const size_t sizes[] = {0, 1, 2, 3, 7, 15, 16, 17, 33, 100, 1000, 4097, 50003};

/* A flat block of n elements in chunks of all groups, with gaps between them; the moments have
 * other offsets than the weights. Chunk sizes rise, so that large n has full ones. */
enum { GROUPS = 3, MOST_CHUNKS = 64, GAP = 3, MOMENTS_AT = 2 };
typedef struct Chunks {
    OptimChunk chunk[MOST_CHUNKS];
    size_t count, n; /* n: elements with all gaps */
} Chunks;
static const OptimGroup groups[GROUPS] = {
    {0, -INFINITY, INFINITY, 1},
    {0, -0.1, 0.4, 1},              /* clamped */
    {0.2, -INFINITY, INFINITY, 0.6} /* decays, and learns more slowly */
};

static Chunks chunks_new(size_t n) {
    Chunks b = {.count = 0};
    size_t at = 0;
    for (size_t left = n, size; left; left -= size) {
        size = size_min(left, size_min(OPTIM_CHUNK, 1 + 20 * b.count * b.count * b.count));
        assert(b.count < MOST_CHUNKS);
        b.chunk[b.count] =
            (OptimChunk){at, at + MOMENTS_AT, (uint32_t)size, (uint32_t)((b.count + n) % GROUPS)};
        b.count++;
        at += size + GAP;
    }
    b.n = at + MOMENTS_AT;
    return b;
}

static void sum_squares(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT(sizes); i++) {
        Chunks b = chunks_new(sizes[i]);
        Buf *out = acc_inout(1, 1), *x = acc_in(b.n, 2);
        Buf *chunk = raw_in(b.chunk, b.count * sizeof *b.chunk);
        out->host[0] = fabs(out->host[0]);
        RUN(sum_squares, F(out), F(x), P(chunk), b.count);
        check(out, 1, b.n);
        bufs_free();
    }
}

/* A step is skipped if its loss is above the limit; a NaN is detected by the norm. */
static void skip_spike(void **state) {
    (void)state;
    static const double losses[] = {0.5, 2, 2.5, INFINITY, NAN};
    for (size_t i = 0; i < COUNT(losses); i++) {
        AdamW numbers = {.max_loss = 2};
        Buf *squares = acc_inout(1, 1), *loss = acc_scalar(losses[i]);
        Buf *o = raw_in(&numbers, sizeof numbers);
        RUN(skip_spike, F(squares), F(loss), P(o));
        for (int t = 0; t < THREAD_COUNTS; t++)
            assert_true(losses[i] > 2 ? isinf(squares->got[t][0])
                                      : squares->got[t][0] == squares->host[0]);
        squares->checked = true;
        bufs_free();
    }
}

/* One bad gradient must reach the norm: it is how a step knows to skip itself. */
static void sum_squares_keeps_nan_and_infinity(void **state) {
    (void)state;
    enum { N = 1001 };
    static const double bad[] = {NAN, INFINITY, -INFINITY};
    acc *x = backend->device->alloc(N * backend->acc_size),
        *out = backend->device->alloc(backend->acc_size);
    OptimChunk one = {.size = N, .group = 1}, *chunk = backend->device->alloc(sizeof one);
    backend->device->upload(chunk, &one, sizeof one);
    double *host = test_randoms(N), got;
    for (size_t i = 0; i < 40; i++) {
        size_t at = i < 20 ? i : test_random_below(N);
        double old = host[at];
        host[at] = bad[i % COUNT(bad)];
        backend->acc_set(x, host, N);
        backend->device->zero(out, backend->acc_size);
        backend->sum_squares(out, x, chunk, 1);
        backend->acc_get(&got, out, 1);
        assert_true(isnan(host[at]) ? isnan(got) : isinf(got) && got > 0);
        host[at] = old;
    }
    free(host);
    backend->device->release(x);
    backend->device->release(out);
    backend->device->release(chunk);
}

/* Every hyper-parameter differs from 0 and 1, so that none can be forgotten. */
static const AdamW ordinary = {1e-2, 0.9, 0.98, 1e-6, 0.1, 0.02, 0.5, 7, INFINITY};
static const AdamW others[] = {
    {5e-4, 0.9, 0.999, 1e-8, 0.99, 0.632, 0, 1, 1}, /* later, not clipped */
    {1e-3, 0, 0, 1e-3, 1, 1, 100, 2, 1},            /* no memory, large eps, below the clip */
};

static void compare_adamw(size_t n, const AdamW *o, double squares, Moments moments, bool weights) {
    Chunks b = chunks_new(n);
    bool bf16 = moments == MOMENTS_BF16;
    Buf *p = acc_inout(b.n, 1), *g = acc_inout(b.n, 1e-2), *w = weights ? act_inout(b.n, 1) : NULL;
    Buf *m = bf16 ? bf16_inout(b.n, 1e-2) : acc_inout(b.n, 1e-2);
    Buf *v = bf16 ? bf16_inout(b.n, 1e-2) : acc_inout(b.n, 1e-2);
    Buf *group = raw_in(groups, sizeof groups), *numbers = raw_in(o, sizeof *o);
    Buf *chunk = raw_in(b.chunk, b.count * sizeof *b.chunk), *sum = acc_scalar(squares);
    for (size_t i = 0; i < b.n; i++) v->host[i] = v->host[i] * v->host[i];
    v->size = 0; /* its terms cannot cancel */
    RUN(adamw, F(p), A(w), F(g), P(m), P(v), moments, P(chunk), b.count, P(group), P(numbers),
        F(sum));
    check(p, 2, 1);
    check(m, 1, 1);
    check(v, 1, 1);
    check_exact(g);
    if (w) check(w, 1, 4);
    bool *ours = xcalloc(b.n, 1);
    for (size_t k = 0; k < b.count; k++)
        for (size_t i = 0; i < b.chunk[k].size; i++) {
            ours[b.chunk[k].weights + i] = true;
            assert_true(g->got[0][b.chunk[k].weights + i] == 0);
        }
    for (size_t i = 0; i < b.n; i++) assert_true(ours[i] || g->got[0][i] == g->host[i]);
    free(ours);
    if (!isfinite(squares)) {
        check_exact(p);
        check_exact(m);
        check_exact(v);
        if (w) check_exact(w);
    }
    bufs_free();
}

static void adamw(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT(sizes); i++)
        for (int form = 0; form < 4; form++)
            compare_adamw(sizes[i], &ordinary, 2.5, form & 1 ? MOMENTS_BF16 : MOMENTS_FP32,
                          form & 2);
    for (size_t i = 0; i < COUNT(others); i++)
        compare_adamw(1000, &others[i], 2.5, MOMENTS_FP32, true);
}

static void adamw_leaves_out_what_is_not_finite(void **state) {
    (void)state;
    static const double squares[] = {NAN, INFINITY};
    for (int i = 0; i < 2; i++) {
        compare_adamw(1000, &ordinary, squares[i], MOMENTS_FP32, true);
        compare_adamw(1000, &ordinary, squares[i], MOMENTS_BF16, true);
    }
}

/* ---- LARS ---- */

/* Two tensors and what is not scaled, a third of the chunks each. */
static void compare_lars(size_t n, const AdamW *o, double squares, Moments moments, bool weights) {
    enum { TENSORS = 2 }; /* groups 0 and 1; group 2 steps without a ratio */
    Chunks b = chunks_new(n);
    bool bf16 = moments == MOMENTS_BF16;
    for (size_t c = 0; c < b.count; c++) b.chunk[c].group = (uint32_t)(GROUPS * c / b.count);
    OptimGroup decaying[GROUPS];
    for (size_t i = 0; i < GROUPS; i++) {
        decaying[i] = groups[i];
        decaying[i].weight_decay = 0.1 * (double)i;
    }
    Buf *p = acc_inout(b.n, 1), *g = acc_inout(b.n, 1e-2), *w = weights ? act_inout(b.n, 1) : NULL;
    Buf *m = bf16 ? bf16_inout(b.n, 1e-2) : acc_inout(b.n, 1e-2);
    Buf *group = raw_in(decaying, sizeof decaying), *numbers = raw_in(o, sizeof *o);
    Buf *chunk = raw_in(b.chunk, b.count * sizeof *b.chunk), *sum = acc_scalar(squares);
    Buf *norms = acc_inout(2 * TENSORS, 1), *grad = acc_in(b.n, 1e-2);
    for (size_t i = 0; i < 2 * TENSORS; i++) norms->host[i] = fabs(norms->host[i]);
    for (size_t i = 0; i < b.n; i++) grad->host[i] = g->host[i];
    Buf *start = acc_in(b.n, 1);
    for (size_t i = 0; i < b.n; i++) start->host[i] = p->host[i];
    RUN(lars_norms, F(norms), F(start), F(grad), P(chunk), b.count, P(group), (size_t)TENSORS,
        P(numbers), F(sum));
    if (isfinite(squares)) {
        check(norms, 2, b.n);
    } else {
        norms->checked = true; /* the step that would read them is skipped */
    }
    becomes_input(norms);
    RUN(lars, F(p), A(w), F(g), P(m), moments, P(chunk), b.count, P(group), (size_t)TENSORS,
        P(numbers), F(sum), F(norms), 0.3);
    check(p, 2, 1);
    check(m, 2, 1);
    check_exact(g);
    if (w) check(w, 1, 4);
    if (!isfinite(squares)) {
        check_exact(p);
        check_exact(m);
        if (w) check_exact(w);
    }
    bufs_free();
}

static void lars(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT(sizes); i++)
        for (int form = 0; form < 4; form++)
            compare_lars(sizes[i], &ordinary, 2.5, form & 1 ? MOMENTS_BF16 : MOMENTS_FP32,
                         form & 2);
    for (size_t i = 0; i < COUNT(others); i++)
        compare_lars(1000, &others[i], 2.5, MOMENTS_FP32, true);
}

static void lars_leaves_out_what_is_not_finite(void **state) {
    (void)state;
    static const double squares[] = {NAN, INFINITY};
    for (int i = 0; i < 2; i++) {
        compare_lars(1000, &ordinary, squares[i], MOMENTS_FP32, true);
        compare_lars(1000, &ordinary, squares[i], MOMENTS_BF16, true);
    }
}

/* A whole block of n elements that all train and decay, on the backend under test. */
typedef struct Flat {
    acc *p, *g, *squares;
    act *w;
    void *m, *v;
    Moments moments;
    OptimChunk *chunk;
    OptimGroup *group;
    AdamW *numbers;
    size_t n;
} Flat;

static Flat flat_new(size_t n, Moments moments) {
    Flat f = {.moments = moments, .n = n};
    size_t bytes = n * backend->acc_size;
    assert(n <= OPTIM_CHUNK);
    OptimChunk one = {.size = (uint32_t)n, .group = 2};
    f.p = backend->device->alloc(bytes);
    f.g = backend->device->alloc(bytes);
    f.m = backend->device->alloc(bytes);
    f.v = backend->device->alloc(bytes);
    f.w = backend->device->alloc(n * backend->act_size);
    f.squares = backend->device->alloc(backend->acc_size);
    f.chunk = backend->device->alloc(sizeof one);
    f.group = backend->device->alloc(sizeof groups);
    f.numbers = backend->device->alloc(sizeof *f.numbers);
    backend->device->upload(f.chunk, &one, sizeof one);
    backend->device->upload(f.group, groups, sizeof groups);
    backend->device->zero(f.p, bytes);
    backend->device->zero(f.m, bytes);
    backend->device->zero(f.v, bytes);
    backend->device->zero(f.squares, backend->acc_size);
    return f;
}

static void flat_free(Flat *f) {
    void *all[] = {f->p, f->g, f->m, f->v, f->w, f->squares, f->chunk, f->group, f->numbers};
    for (size_t i = 0; i < COUNT(all); i++) backend->device->release(all[i]);
}

static void flat_step(const Flat *f, const double *gradient, AdamW o) {
    backend->acc_set(f->g, gradient, f->n);
    backend->device->upload(f->numbers, &o, sizeof o);
    backend->adamw(f->p, f->w, f->g, f->m, f->v, f->moments, f->chunk, 1, f->group, f->numbers,
                   f->squares);
}

/* With fresh moments the first step is lr in size whatever the gradient's, so a tiny gradient shows
 * errors of the second moment's square root. */
static void adamw_first_step(void **state) {
    (void)state;
    enum { N = 257 };
    AdamW o = {1e-2, 0.9, 0.98, 1e-14, 0.1, 0.02, 0, 1, 1};
    Flat f = flat_new(N, MOMENTS_FP32);
    double *gradient = test_randoms(N), *got = test_randoms(N);
    for (size_t i = 0; i < N; i++) gradient[i] *= 1e-12;
    flat_step(&f, gradient, o);
    backend->acc_get(got, f.p, N);
    for (size_t i = 0; i < N; i++) {
        double rate = 1e-2 * groups[2].lr_scale;
        double want = -rate * gradient[i] / (fabs(gradient[i]) + 1e-14);
        assert_near(got[i], want, 4e-7 * 1e-2);
    }
    free(gradient);
    free(got);
    flat_free(&f);
}

/* The compute weights are the new master weights, rounded once. */
static void adamw_weights_are_rounded(void **state) {
    (void)state;
    enum { N = 1001 };
    double *host = test_randoms(N), *got[2] = {test_randoms(N), test_randoms(N)};
    Flat f = flat_new(N, MOMENTS_FP32);
    act *w = backend->device->alloc(N * backend->act_size);
    for (int step = 0; step < 3; step++) {
        flat_step(&f, host, ordinary);
        backend->act_from_acc(w, f.p, N);
        test_act_get(backend, got[0], f.w, N);
        test_act_get(backend, got[1], w, N);
        assert_memory_equal(got[0], got[1], N * sizeof(double));
    }
    backend->device->release(w);
    flat_free(&f);
    for (int i = 0; i < 2; i++) free(got[i]);
    free(host);
}

/* bf16 moments drift as f32 ones do: with β₂ = 0.999 a step changes v by less than half of its last
 * bit, which rounding to nearest would lose for ever. */
static void bf16_moments_keep_small_changes(void **state) {
    (void)state;
    enum { N = 4096, STEPS = 400 };
    double *one = test_randoms(N), *got = test_randoms(N);
    Flat f = flat_new(N, MOMENTS_BF16);
    AdamW o = {0, 0.9, 0.999, 1e-6, 1, 1, 0, 1, 1};
    for (size_t i = 0; i < N; i++) one[i] = 1;
    acc *wide = backend->device->alloc(N * backend->acc_size);
    for (o.t = 1; o.t <= STEPS; o.t++) flat_step(&f, one, o);
    for (size_t i = 0; i < N; i++) one[i] = 0;
    for (; o.t <= 2 * STEPS; o.t++) flat_step(&f, one, o);
    backend->acc_from_bf16(wide, f.v, N);
    backend->acc_get(got, wide, N);
    double sum = 0, keep = pow(0.999, STEPS), want = (1 - keep) * keep;
    for (size_t i = 0; i < N; i++) sum += got[i];
    assert_near(sum / N, want, 0.004 * want);
    for (size_t i = 0; i < N; i++) assert_near(got[i], want, 0.3 * want);
    backend->device->release(wide);
    flat_free(&f);
    free(one);
    free(got);
}

static void acc_from_bf16(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT(sizes); i++) {
        Buf *x = bf16_inout(sizes[i], 1), *y = acc_out(sizes[i]);
        RUN(acc_from_bf16, F(y), P(x), sizes[i]);
        check_exact(y);
        check_exact(x);
        bufs_free();
    }
}

static void bf16_from_acc(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT(sizes); i++) {
        Buf *x = acc_in(sizes[i], 1), *y = bf16_inout(sizes[i], 1);
        RUN(bf16_from_acc, P(y), F(x), sizes[i]);
        check_exact(y);
        bufs_free();
    }
}

/* Halfway between two numbers: to the one whose last bit is 0. */
static void ref_bf16_by_hand(void **state) {
    (void)state;
    const double x[] = {1 + 0x1p-8, 1 + 3 * 0x1p-8, -(1 + 0x1p-8), 1 + 0x1.02p-8, NAN, INFINITY};
    const uint16_t want[] = {0x3f80, 0x3f82, 0xbf80, 0x3f81, 0x7fc0, 0x7f80};
    uint16_t got[COUNT(x)];
    ref->bf16_from_acc(got, (const acc *)x, COUNT(x));
    for (size_t i = 0; i < COUNT(x); i++) assert_int_equal(got[i], want[i]);
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
        /* if the values are equal, the average must keep its bits */
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
 * of which the clip takes half: t = 1: g = 1: m = ½, v = ¼; m̂ = 1, √v̂ = 1; p = 1·0.8 - ½·1/(1+¼)
 * = 0.4 t = 2: g = -½: m = 0, v = ¾·¼ + ¼·¼ = ¼; p = 0.4·0.8 = 0.32 */
static void ref_adamw_by_hand(void **state) {
    (void)state;
    double p = 1, w = 0, g = 2, m = 0, v = 0, squares = 4;
    AdamW o = {0.5, 0.5, 0.75, 0.25, 0.5, 0.25, 0.5 * (2 + 1e-6), 1, 1};
    OptimGroup group = {0.4, -INFINITY, INFINITY, 1};
    OptimChunk chunk = {.size = 1};
#define STEP(weights)                                                                              \
    ref->adamw((acc *)&p, weights, (acc *)&g, &m, &v, MOMENTS_FP32, &chunk, 1, &group, &o,         \
               (acc *)&squares)
    STEP((act *)&w);
    assert_near(p, 0.4, 1e-15);
    assert_near(w, p, 0);
    assert_near(g, 0, 0);
    assert_near(m, 0.5, 0);
    assert_near(v, 0.25, 0);
    g = -1;
    o.correction1 = 1 - 0.5 * 0.5;
    o.correction2 = 1 - 0.75 * 0.75;
    STEP(NULL);
    assert_near(p, 0.32, 1e-15);
    assert_near(m, 0, 0);
    assert_near(v, 0.25, 0);
    assert_near(w, 0.4, 1e-15);
    group.lo = 0.5;
    STEP(NULL);
    assert_near(p, 0.5, 0);
#undef STEP
}

/* Momentum ½, lr = 2, trust ⅛, decay ½. The tensor p = (3, 4) with gradients (-1.5, 0): d = (0, 2),
 * ‖p‖ = 5, ‖d‖ = 2, ratio 5/16: m = (0, 1.25). The rest p = 1, gradient 3, without decay: m = 6.
 * Then gradients (-1.5, -1.375), 0: d = 0: no ratio; m is half of what it was. */
static void ref_lars_by_hand(void **state) {
    (void)state;
    double p[3] = {3, 4, 1}, w[3], g[3] = {-1.5, 0, 3}, m[3] = {0}, squares = 1, norms[2] = {0};
    AdamW o = {.lr = 2, .beta1 = 0.5, .t = 1};
    const OptimGroup group[2] = {{0.5, -INFINITY, INFINITY, 1}, {0, -INFINITY, INFINITY, 1}};
    const OptimChunk chunk[2] = {{.size = 2}, {2, 2, 1, 1}};
#define STEP()                                                                                     \
    ref->lars_norms((acc *)norms, (acc *)p, (acc *)g, chunk, 2, group, 1, &o, (acc *)&squares);    \
    ref->lars((acc *)p, (act *)w, (acc *)g, m, MOMENTS_FP32, chunk, 2, group, 1, &o,               \
              (acc *)&squares, (acc *)norms, 0.125)
    STEP();
    const double first[3] = {3, 2.75, -5}, moved[3] = {0, 1.25, 6};
    assert_near(norms[0], 25, 0);
    assert_near(norms[1], 4, 0);
    for (int i = 0; i < 3; i++) {
        assert_near(p[i], first[i], 1e-15);
        assert_near(m[i], moved[i], 1e-15);
        assert_near(w[i], p[i], 0);
        assert_near(g[i], 0, 0);
    }
    g[0] = -1.5, g[1] = -1.375;
    norms[0] = norms[1] = 0;
    STEP();
    const double second[3] = {3, 2.125, -8};
    for (int i = 0; i < 3; i++) assert_near(p[i], second[i], 1e-15);
#undef STEP
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
    double x[3] = {3, -4, 100}, sum = 11;
    OptimChunk chunk[2] = {{.size = 1}, {.weights = 1, .size = 1, .group = 1}};
    ref->sum_squares((acc *)&sum, (acc *)x, chunk, 2);
    assert_near(sum, 36, 0);
}

int main(void) {
    const struct CMUnitTest each[] = {
        cmocka_unit_test(sum_squares),
        cmocka_unit_test(skip_spike),
        cmocka_unit_test(sum_squares_keeps_nan_and_infinity),
        cmocka_unit_test(adamw),
        cmocka_unit_test(adamw_leaves_out_what_is_not_finite),
        cmocka_unit_test(lars),
        cmocka_unit_test(lars_leaves_out_what_is_not_finite),
        cmocka_unit_test(adamw_first_step),
        cmocka_unit_test(adamw_weights_are_rounded),
        cmocka_unit_test(bf16_moments_keep_small_changes),
        cmocka_unit_test(acc_from_bf16),
        cmocka_unit_test(bf16_from_acc),
        cmocka_unit_test(ref_bf16_by_hand),
        cmocka_unit_test(axpy),
        cmocka_unit_test(ema),
    };
    const struct CMUnitTest once[] = {
        cmocka_unit_test(ref_adamw_by_hand), cmocka_unit_test(ref_lars_by_hand),
        cmocka_unit_test(ref_norm_by_hand), cmocka_unit_test(ref_averages_by_hand)};
    return kernel_tests_run("kernels_optim", each, COUNT(each), once, COUNT(once));
}
