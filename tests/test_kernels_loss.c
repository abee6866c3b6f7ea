/* loss: logit statistics in tiles, CLIP and SigLIP losses and gradients. */
#include "tests/support_kernels.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* One tile: n rows, m columns, the positive of row i in column i + diag. */
typedef struct Tile {
    size_t n, m;
    ptrdiff_t diag;
} Tile;
static const Tile tiles[] = {{0, 3, 0},     {3, 0, 0},    {1, 1, 0},     {1, 7, 3},
                             {5, 1, -4},    {2, 3, -100}, {7, 7, 0},     {16, 16, 5},
                             {17, 33, -16}, {33, 17, 20}, {64, 100, 36}, {100, 64, -36},
                             {129, 130, 1}};

/* CLIP's starting scale, the largest that training allows, and none. */
static const double scales[] = {1 / 0.07, 100, 1};
/* A logit of size s has the error s·eps, and its exponential that error relative to itself. */
static double logit_terms(double scale, size_t sum_of) { return scale * scale * (double)sum_of; }

static void logits_stats(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT(tiles) * 2 * COUNT(scales); i++) {
        Tile t = tiles[i % COUNT(tiles)];
        double scale = scales[i / COUNT(tiles) / 2];
        bool with_bias = i / COUNT(tiles) % 2;
        Buf *row_max = acc_inout(t.n, scale), *row_sum = acc_inout(t.n, 2);
        Buf *col_max = acc_inout(t.m, scale), *col_sum = acc_inout(t.m, 2);
        Buf *positive = acc_inout(t.n, 1), *cos = acc_in(t.n * t.m, 1);
        Buf *log_scale = acc_scalar(log(scale)), *bias = with_bias ? acc_scalar(-10) : NULL;
        /* Some rows and columns have met no tile yet. */
        for (size_t r = 0; r < t.n; r++) {
            row_sum->host[r] = r % 3 ? 1 + fabs(row_sum->host[r]) : 0;
            if (r % 3 == 0) row_max->host[r] = backend->acc_size == 8 ? -DBL_MAX : -(double)FLT_MAX;
        }
        for (size_t c = 0; c < t.m; c++) {
            col_sum->host[c] = c % 2 ? 1 + fabs(col_sum->host[c]) : 0;
            if (c % 2 == 0) col_max->host[c] = backend->acc_size == 8 ? -DBL_MAX : -(double)FLT_MAX;
        }
        RUN(logits_stats, F(row_max), F(row_sum), F(col_max), F(col_sum), F(positive), F(cos),
            F(log_scale), F(bias), t.n, t.m, t.diag);
        if (t.n && t.m) {
            check(row_max, 4, scale * scale);
            check(col_max, 4, scale * scale);
            check(row_sum, 4, logit_terms(scale, t.m));
            check(col_sum, 4, logit_terms(scale, t.n));
            check(positive, 4, scale * scale);
        } else {
            check_exact(row_max);
            check_exact(col_max);
            check_exact(row_sum);
            check_exact(col_sum);
            check_exact(positive);
        }
        bufs_free();
    }
}

static void stats_init(void **state) {
    (void)state;
    for (size_t n = 0; n < 70; n += 1 + n / 2) {
        Buf *max = acc_out(n), *sum = acc_out(n);
        RUN(stats_init, F(max), F(sum), n);
        double lowest = backend->acc_size == 8 ? -DBL_MAX : -(double)FLT_MAX;
        for (int t = 0; t < THREAD_COUNTS; t++)
            for (size_t i = 0; i < n; i++)
                assert_true(max->got[t][i] == lowest && max->want[i] == -DBL_MAX);
        max->checked = true;
        check_exact(sum);
        bufs_free();
    }
}

static void stats_join(void **state) {
    (void)state;
    for (size_t n = 0; n < 300; n += 1 + n / 2) {
        Buf *max = acc_inout(n, 50), *sum = acc_inout(n, 2);
        Buf *other_max = acc_in(n, 50), *other_sum = acc_in(n, 2);
        for (size_t i = 0; i < n; i++) {
            sum->host[i] = 1 + fabs(sum->host[i]);
            other_sum->host[i] = 1 + fabs(other_sum->host[i]);
            if (i % 4 == 1) other_max->host[i] = max->host[i];
            /* An empty part leaves the other unchanged. */
            if (i % 4 == 2) max->host[i] = -(double)FLT_MAX, sum->host[i] = 0;
            if (i % 4 == 3) other_max->host[i] = -(double)FLT_MAX, other_sum->host[i] = 0;
        }
        RUN(stats_join, F(max), F(sum), F(other_max), F(other_sum), n);
        check_exact(max);
        check(sum, 1, 10 * 10);
        bufs_free();
    }
}

static void stats_lse(void **state) {
    (void)state;
    for (int in_place = 0; in_place < 2; in_place++)
        for (size_t n = 0; n < 300; n += 1 + n / 2) {
            Buf *max = in_place ? acc_inout(n, 50) : acc_in(n, 50), *sum = acc_in(n, 100);
            Buf *lse = in_place ? max : acc_out(n);
            for (size_t i = 0; i < n; i++) sum->host[i] = 1 + fabs(sum->host[i]);
            RUN(stats_lse, F(lse), F(max), F(sum), n);
            lse->size = 5; /* of the logarithm: the two terms may cancel */
            check(lse, 2, 1);
            bufs_free();
        }
}

static void clip_loss(void **state) {
    (void)state;
    for (size_t n = 0; n < 5000; n += 1 + n / 2) {
        Buf *loss = acc_inout(1, 1), *row = acc_in(n, 10), *col = acc_in(n, 10);
        Buf *positive = acc_in(n, 10);
        double weight = n ? 0.5 / (double)n : 1;
        RUN(clip_loss, F(loss), F(row), F(col), F(positive), n, weight);
        loss->size = 10;
        check(loss, 2, 16);
        bufs_free();
    }
}

/* Log-sum-exps above every logit, so that probabilities are at most 1, as in use. */
static void lse_above(Buf *row_lse, Buf *col_lse, double scale) {
    for (size_t r = 0; r < row_lse->n; r++) row_lse->host[r] = scale + 0.1 * (double)(r % 7);
    for (size_t c = 0; c < col_lse->n; c++) col_lse->host[c] = scale + 0.3 * (double)(c % 5);
}

/* The gradients of a tile, and loss (or NULL) whose terms have one sign and are at most scale + 10:
 * sums of row means. */
static void check_tile(Buf *cos, Buf *loss, Buf *dlog_scale, Buf *dbias, Tile t, double scale) {
    double terms = logit_terms(scale, size_max(t.n, t.m));
    cos->size = 1e-30; /* the only gradient of a tile may be too small for a float */
    check(cos, 4, scale * scale);
    if (loss) check(loss, 4, terms);
    check(dlog_scale, 4, terms);
    if (dbias) check(dbias, 4, terms);
    bufs_free();
}

static void clip_logits_grad(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT(tiles) * 2 * COUNT(scales); i++) {
        Tile t = tiles[i % COUNT(tiles)];
        double scale = scales[i / COUNT(tiles) / 2], weight = 0.5 / (double)size_max(t.n, 1);
        bool with_bias = i / COUNT(tiles) % 2;
        Buf *cos = acc_inout(t.n * t.m, 1), *dlog_scale = acc_inout(1, 1);
        Buf *dbias = with_bias ? acc_inout(1, 1) : NULL;
        Buf *row_lse = acc_in(t.n, 0), *col_lse = acc_in(t.m, 0);
        Buf *log_scale = acc_scalar(log(scale)), *bias = with_bias ? acc_scalar(-10) : NULL;
        lse_above(row_lse, col_lse, scale);
        RUN(clip_logits_grad, F(cos), F(dlog_scale), F(dbias), F(row_lse), F(col_lse), F(log_scale),
            F(bias), t.n, t.m, t.diag, weight);
        check_tile(cos, NULL, dlog_scale, dbias, t, scale);
    }
}

static void siglip_tile(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT(tiles) * 2 * COUNT(scales); i++) {
        Tile t = tiles[i % COUNT(tiles)];
        double scale = scales[i / COUNT(tiles) / 2], weight = 1 / (double)size_max(t.n, 1);
        bool with_bias = i / COUNT(tiles) % 2;
        Buf *cos = acc_inout(t.n * t.m, 1), *loss = acc_inout(1, 1), *dlog_scale = acc_inout(1, 1);
        Buf *dbias = with_bias ? acc_inout(1, 1) : NULL;
        Buf *log_scale = acc_scalar(log(scale)), *bias = with_bias ? acc_scalar(-10) : NULL;
        RUN(siglip_tile, F(cos), F(loss), F(dlog_scale), F(dbias), F(log_scale), F(bias), t.n, t.m,
            t.diag, weight);
        check_tile(cos, loss, dlog_scale, dbias, t, scale);
    }
}

static void mask_pairs(void **state) {
    (void)state;
    static const size_t halves[] = {1, 2, 3, 16, 100}, firsts[] = {0, 5, 64};
    for (size_t i = 0; i < COUNT(tiles) * COUNT(halves) * COUNT(firsts); i++) {
        Tile t = tiles[i % COUNT(tiles)];
        size_t half = halves[i / COUNT(tiles) % COUNT(halves)];
        size_t row = firsts[i / COUNT(tiles) / COUNT(halves)], col = firsts[i % COUNT(firsts)];
        Buf *cos = acc_inout(t.n * t.m, 1);
        RUN(mask_pairs, F(cos), t.n, t.m, row, col, half);
        for (size_t r = 0; r < t.n; r++)
            for (size_t c = 0; c < t.m; c++) {
                size_t x = row + r, y = col + c;
                bool pair = x / (2 * half) == y / (2 * half) && x % half == y % half && x != y;
                assert_true((cos->want[r * t.m + c] == (double)LOGIT_MASKED) == pair);
            }
        check_exact(cos);
        bufs_free();
    }
}

/* Groups of which some have one member, some several. */
static int32_t *random_groups(size_t n) {
    int32_t *g = malloc((n + 1) * sizeof *g);
    for (size_t i = 0; i < n; i++) g[i] = (int32_t)test_random_below(1 + n / 2);
    return g;
}

static void group_targets(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT(tiles); i++) {
        Tile t = tiles[i];
        int32_t *rows = random_groups(t.n), *cols = random_groups(t.m);
        Buf *target = acc_out(t.n * t.m), *share = acc_in(t.n, 1);
        Buf *row_group = i32_in(t.n, rows), *col_group = i32_in(t.m, cols);
        RUN(group_targets, F(target), P(row_group), P(col_group), F(share), t.n, t.m);
        check_exact(target);
        bufs_free();
        free(rows);
        free(cols);
    }
}

static void teacher_targets(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT(tiles) * COUNT(scales); i++) {
        Tile t = tiles[i % COUNT(tiles)];
        double scale = scales[i / COUNT(tiles)];
        Buf *target = acc_inout(t.n * t.m, 1), *cos = acc_in(t.n * t.m, 1);
        Buf *row_lse = acc_in(t.n, 0), *col_lse = acc_in(t.m, 0);
        Buf *log_scale = acc_scalar(log(scale));
        lse_above(row_lse, col_lse, scale);
        RUN(teacher_targets, F(target), F(cos), F(row_lse), F(col_lse), F(log_scale), t.n, t.m);
        check(target, 4, scale * scale);
        bufs_free();
    }
}

static void soft_logits_grad(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT(tiles) * 2 * COUNT(scales); i++) {
        Tile t = tiles[i % COUNT(tiles)];
        double scale = scales[i / COUNT(tiles) / 2], weight = 0.5 / (double)size_max(t.n, 1);
        bool with_bias = i / COUNT(tiles) % 2;
        Buf *cos = acc_inout(t.n * t.m, 1), *loss = acc_inout(1, 1), *dlog_scale = acc_inout(1, 1);
        Buf *target = acc_in(t.n * t.m, 1), *dbias = with_bias ? acc_inout(1, 1) : NULL;
        Buf *row_lse = acc_in(t.n, 0), *col_lse = acc_in(t.m, 0);
        Buf *log_scale = acc_scalar(log(scale)), *bias = with_bias ? acc_scalar(-10) : NULL;
        lse_above(row_lse, col_lse, scale);
        RUN(soft_logits_grad, F(cos), F(loss), F(dlog_scale), F(dbias), F(target), F(row_lse),
            F(col_lse), F(log_scale), F(bias), t.n, t.m, with_bias ? 2.0 : 1.0, weight);
        check_tile(cos, loss, dlog_scale, dbias, t, scale);
    }
}

static void siglip_targets_tile(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT(tiles) * 2 * COUNT(scales); i++) {
        Tile t = tiles[i % COUNT(tiles)];
        double scale = scales[i / COUNT(tiles) / 2], weight = 1 / (double)size_max(t.n, 1);
        bool with_bias = i / COUNT(tiles) % 2;
        Buf *cos = acc_inout(t.n * t.m, 1), *loss = acc_inout(1, 1), *dlog_scale = acc_inout(1, 1);
        Buf *dbias = with_bias ? acc_inout(1, 1) : NULL, *target = acc_in(t.n * t.m, 1);
        Buf *log_scale = acc_scalar(log(scale)), *bias = with_bias ? acc_scalar(-10) : NULL;
        for (size_t j = 0; j < t.n * t.m; j += 2) target->host[j] = 0;
        RUN(siglip_targets_tile, F(cos), F(loss), F(dlog_scale), F(dbias), F(target), F(log_scale),
            F(bias), t.n, t.m, weight);
        check_tile(cos, loss, dlog_scale, dbias, t, scale);
    }
}

/* ---- whole losses, walked in tiles, on any backend ---- */

enum { N = 4, E = 3 };

static const double image_rows[N * E] = {1, 2, 3, -1, 0, 1, 2, -1, .5, .1, .2, -.3};
static const double text_rows[N * E] = {1, 1, 1, -1, .5, 2, 3, -1, 0, 0, 1, -1};

typedef struct Golden {
    double loss, dlog_scale, dbias, dimages[N * E], dtexts[N * E];
} Golden;

/* Device arrays of one whole loss. */
typedef struct LossArrays {
    acc *images, *texts, *raw, *cos, *tile, *dimages, *dtexts;
    acc *row_max, *row_sum, *col_max, *col_sum, *positive;
    acc *part_max, *part_sum, *loss, *dlog_scale, *dbias, *log_scale, *bias;
} LossArrays;

static acc *acc_zeros(const Kernels *k, size_t n) {
    acc *p = k->device->alloc(n * k->acc_size);
    k->device->zero(p, n * k->acc_size);
    return p;
}

static LossArrays loss_arrays(const Kernels *k, double log_scale, double bias) {
    LossArrays l;
    acc **all = (acc **)&l;
    for (size_t i = 0; i < sizeof l / sizeof *all; i++) all[i] = acc_zeros(k, 16);
    k->acc_set(l.log_scale, &log_scale, 1);
    k->acc_set(l.bias, &bias, 1);
    k->acc_set(l.raw, image_rows, N * E);
    k->l2norm_fwd(l.images, l.row_max, l.raw, N, E);
    k->acc_set(l.raw, text_rows, N * E);
    k->l2norm_fwd(l.texts, l.row_max, l.raw, N, E);
    return l;
}

static Golden loss_result(const Kernels *k, LossArrays *l) {
    Golden g;
    k->acc_get(&g.loss, l->loss, 1);
    k->acc_get(&g.dlog_scale, l->dlog_scale, 1);
    k->acc_get(&g.dbias, l->dbias, 1);
    k->acc_get(g.dimages, l->dimages, N * E);
    k->acc_get(g.dtexts, l->dtexts, N * E);
    acc **all = (acc **)l;
    for (size_t i = 0; i < sizeof *l / sizeof *all; i++) k->device->release(all[i]);
    return g;
}

/* dI += G·T and dT += Gᵀ·I for a tile of rows i0…, columns j0…. */
static void add_gradients(const Kernels *k, const LossArrays *l, size_t i0, size_t n, size_t j0,
                          size_t m) {
    k->gemm(acc_at(k, l->dimages, i0 * E), E, l->tile, m, false, acc_at(k, l->texts, j0 * E), E,
            false, n, E, m, true);
    k->gemm(acc_at(k, l->dtexts, j0 * E), E, l->tile, m, true, acc_at(k, l->images, i0 * E), E,
            false, m, E, n, true);
}

static void tile_cos(const Kernels *k, const LossArrays *l, size_t i0, size_t n, size_t j0,
                     size_t m) {
    k->gemm(l->tile, m, acc_at(k, l->images, i0 * E), E, false, acc_at(k, l->texts, j0 * E), E,
            true, n, m, E, false);
}

/* Tiles of at most `height` rows and `width` columns: the positives are anywhere in them. */
#define FOR_TILES(height, width, i0, n, j0, m)                                                     \
    for (size_t i0 = 0, n; i0 < N && (n = size_min(height, N - i0), true); i0 += height)           \
        for (size_t j0 = 0, m; j0 < N && (m = size_min(width, N - j0), true); j0 += width)

/* Column statistics are gathered a strip of rows at a time and then joined, as ranks do it. */
static Golden clip_whole(const Kernels *k, double log_scale, size_t height, size_t width) {
    LossArrays l = loss_arrays(k, log_scale, 0);
    k->stats_init(l.row_max, l.row_sum, N);
    k->stats_init(l.col_max, l.col_sum, N);
    FOR_TILES(height, width, i0, n, j0, m) {
        tile_cos(k, &l, i0, n, j0, m);
        k->stats_init(l.part_max, l.part_sum, m);
        k->logits_stats(acc_at(k, l.row_max, i0), acc_at(k, l.row_sum, i0), l.part_max, l.part_sum,
                        acc_at(k, l.positive, i0), l.tile, l.log_scale, NULL, n, m,
                        (ptrdiff_t)i0 - (ptrdiff_t)j0);
        k->stats_join(acc_at(k, l.col_max, j0), acc_at(k, l.col_sum, j0), l.part_max, l.part_sum,
                      m);
    }
    k->stats_lse(l.row_max, l.row_max, l.row_sum, N);
    k->stats_lse(l.col_max, l.col_max, l.col_sum, N);
    for (size_t i = 0; i < N; i += 2)
        k->clip_loss(l.loss, acc_at(k, l.row_max, i), acc_at(k, l.col_max, i),
                     acc_at(k, l.positive, i), 2, 0.5 / N);
    FOR_TILES(height, width, i0, n, j0, m) {
        tile_cos(k, &l, i0, n, j0, m);
        k->clip_logits_grad(l.tile, l.dlog_scale, l.dbias, acc_at(k, l.row_max, i0),
                            acc_at(k, l.col_max, j0), l.log_scale, NULL, n, m,
                            (ptrdiff_t)i0 - (ptrdiff_t)j0, 0.5 / N);
        add_gradients(k, &l, i0, n, j0, m);
    }
    return loss_result(k, &l);
}

static Golden siglip_whole(const Kernels *k, double log_scale, double bias, size_t height,
                           size_t width) {
    LossArrays l = loss_arrays(k, log_scale, bias);
    FOR_TILES(height, width, i0, n, j0, m) {
        tile_cos(k, &l, i0, n, j0, m);
        k->siglip_tile(l.tile, l.loss, l.dlog_scale, l.dbias, l.log_scale, l.bias, n, m,
                       (ptrdiff_t)i0 - (ptrdiff_t)j0, 1.0 / N);
        add_gradients(k, &l, i0, n, j0, m);
    }
    return loss_result(k, &l);
}

/* Values of torch in float64 (CLIP with s = 1/0.07; SigLIP with s = 10, b = -10). */
static void check_golden(const Kernels *k, double tolerance) {
    static const double dimage0[E] = {-.0991300348, -.0100186779, .0791178447};
    static const double dtext0[E] = {-.0174203665, -.0372603298, -.0549235532};
    for (size_t i = 0; i < N * N; i++) {
        size_t height = 1 + i / N, width = 1 + i % N;
        Golden c = clip_whole(k, log(1 / 0.07), height, width);
        assert_near(c.loss, 0.009797976577643, tolerance);
        assert_near(c.dlog_scale, -0.031429646527159, 10 * tolerance);
        assert_near(c.dbias, 0, tolerance);
        for (int e = 0; e < E; e++) {
            assert_near(c.dimages[e], dimage0[e], 5e-11 + 10 * tolerance);
            assert_near(c.dtexts[e], dtext0[e], 5e-11 + 10 * tolerance);
        }
        Golden s = siglip_whole(k, log(10), -10, height, width);
        assert_near(s.loss, 1.049120488133190, tolerance);
        assert_near(s.dbias, -0.630857570916900, tolerance);
        assert_near(s.dlog_scale, -5.959832617088461, 10 * tolerance);
    }
}

static void golden_losses(void **state) {
    (void)state;
    /* a GPU's logits are products of TF32 (10 bits of mantissa) in amp_bf16 */
    check_golden(backend, strstr(backend->name, "cuda-amp") ? 2e-3 : 1e-5);
}

static void golden_losses_of_ref(void **state) {
    (void)state;
    check_golden(ref, 1e-13);
}

/* ---- ref against difference quotients: the loss of a whole matrix of cosines ---- */

typedef struct Matrix {
    double cos[N * N], log_scale, bias;
    bool siglip, soft;
    double targets[N * N]; /* rows and columns sum up to 1.5 */
    double lse[2][N];
} Matrix;

static double matrix_loss(void *ctx) {
    Matrix *x = ctx;
    double loss = 0, max[2][N], sum[2][N], positive[N];
    if (x->siglip) {
        double unused[2] = {0}, cos[N * N];
        memcpy(cos, x->cos, sizeof cos);
        ref->siglip_tile((acc *)cos, (acc *)&loss, (acc *)&unused[0], (acc *)&unused[1],
                         (acc *)&x->log_scale, (acc *)&x->bias, N, N, 0, 1.0 / N);
        return loss;
    }
    ref->stats_init((acc *)max, (acc *)sum, 2 * N);
    ref->logits_stats((acc *)max[0], (acc *)sum[0], (acc *)max[1], (acc *)sum[1], (acc *)positive,
                      (acc *)x->cos, (acc *)&x->log_scale, (acc *)&x->bias, N, N, 0);
    ref->stats_lse((acc *)x->lse, (acc *)max, (acc *)sum, 2 * N);
    if (x->soft) {
        double zero[N] = {0}, unused[2] = {0}, cos[N * N];
        memcpy(cos, x->cos, sizeof cos);
        ref->clip_loss((acc *)&loss, (acc *)x->lse[0], (acc *)x->lse[1], (acc *)zero, N,
                       1.5 * 0.5 / N);
        ref->soft_logits_grad((acc *)cos, (acc *)&loss, (acc *)&unused[0], (acc *)&unused[1],
                              (acc *)x->targets, (acc *)x->lse[0], (acc *)x->lse[1],
                              (acc *)&x->log_scale, (acc *)&x->bias, N, N, 1.5, 0.5 / N);
        return loss;
    }
    ref->clip_loss((acc *)&loss, (acc *)x->lse[0], (acc *)x->lse[1], (acc *)positive, N, 0.5 / N);
    return loss;
}

static void gradients_of_ref(void **state) {
    (void)state;
    for (int siglip = 0; siglip < 2; siglip++) {
        Matrix x = {.log_scale = 0.7, .bias = -0.4, .siglip = siglip};
        for (int i = 0; i < N * N; i++) x.cos[i] = test_random();
        double loss = matrix_loss(&x), again = 0, dcos[N * N], dlog_scale = 0, dbias = 0;
        memcpy(dcos, x.cos, sizeof dcos);
        if (siglip) {
            ref->siglip_tile((acc *)dcos, (acc *)&again, (acc *)&dlog_scale, (acc *)&dbias,
                             (acc *)&x.log_scale, (acc *)&x.bias, N, N, 0, 1.0 / N);
            assert_near(again, loss, 0);
        } else {
            ref->clip_logits_grad((acc *)dcos, (acc *)&dlog_scale, (acc *)&dbias, (acc *)x.lse[0],
                                  (acc *)x.lse[1], (acc *)&x.log_scale, (acc *)&x.bias, N, N, 0,
                                  0.5 / N);
        }
        assert_gradient(matrix_loss, &x, x.cos, dcos, N * N);
        assert_gradient(matrix_loss, &x, &x.log_scale, &dlog_scale, 1);
        assert_gradient(matrix_loss, &x, &x.bias, &dbias, 1);
    }
}

/* Targets that are a circulant matrix: a half on the diagonal, the rest next to it. */
static void soft_targets_of_ref(void **state) {
    (void)state;
    Matrix x = {.log_scale = 0.7, .bias = -0.4, .soft = true};
    double unused = 0, dcos[N * N], dlog_scale = 0, dbias = 0;
    for (int i = 0; i < N * N; i++) {
        x.cos[i] = test_random();
        x.targets[i] = i / N == i % N ? 0.5 : (i / N + 1) % N == i % N ? 1 : 0;
    }
    matrix_loss(&x);
    memcpy(dcos, x.cos, sizeof dcos);
    ref->soft_logits_grad((acc *)dcos, (acc *)&unused, (acc *)&dlog_scale, (acc *)&dbias,
                          (acc *)x.targets, (acc *)x.lse[0], (acc *)x.lse[1], (acc *)&x.log_scale,
                          (acc *)&x.bias, N, N, 1.5, 0.5 / N);
    assert_gradient(matrix_loss, &x, x.cos, dcos, N * N);
    assert_gradient(matrix_loss, &x, &x.log_scale, &dlog_scale, 1);
    assert_gradient(matrix_loss, &x, &x.bias, &dbias, 1);
}

/* On the diagonal alone it is siglip_tile. */
static void siglip_targets_of_ref(void **state) {
    (void)state;
    double log_scale = 0.7, bias = -0.4, cos[2][N * N], eye[N * N], loss[2] = {0}, ds[2] = {0},
           db[2] = {0};
    for (int i = 0; i < N * N; i++) {
        cos[0][i] = cos[1][i] = test_random();
        eye[i] = i / N == i % N;
    }
    ref->siglip_tile((acc *)cos[0], (acc *)&loss[0], (acc *)&ds[0], (acc *)&db[0],
                     (acc *)&log_scale, (acc *)&bias, N, N, 0, 0.25);
    ref->siglip_targets_tile((acc *)cos[1], (acc *)&loss[1], (acc *)&ds[1], (acc *)&db[1],
                             (acc *)eye, (acc *)&log_scale, (acc *)&bias, N, N, 0.25);
    assert_memory_equal(cos[0], cos[1], sizeof cos[0]);
    assert_true(loss[0] == loss[1] && ds[0] == ds[1] && db[0] == db[1]);
}

int main(void) {
    const struct CMUnitTest each[] = {
        cmocka_unit_test(logits_stats),        cmocka_unit_test(stats_init),
        cmocka_unit_test(stats_join),          cmocka_unit_test(stats_lse),
        cmocka_unit_test(clip_loss),           cmocka_unit_test(clip_logits_grad),
        cmocka_unit_test(siglip_tile),         cmocka_unit_test(mask_pairs),
        cmocka_unit_test(golden_losses),       cmocka_unit_test(group_targets),
        cmocka_unit_test(teacher_targets),     cmocka_unit_test(soft_logits_grad),
        cmocka_unit_test(siglip_targets_tile),
    };
    const struct CMUnitTest once[] = {
        cmocka_unit_test(golden_losses_of_ref), cmocka_unit_test(gradients_of_ref),
        cmocka_unit_test(soft_targets_of_ref), cmocka_unit_test(siglip_targets_of_ref)};
    return kernel_tests_run("kernels_loss", each, COUNT(each), once, COUNT(once));
}
