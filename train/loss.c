#include "train/loss.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { TILE_LEAST = 16 };

/* At most two walks over the n×N block of this rank: the first gathers the statistics of rows and
 * columns, the second turns cosines into gradients and multiplies them into dI and dT. SigLIP needs
 * only the second. */
struct Loss {
    const Kernels *k;
    const Comm *comm;
    LossKind kind;
    size_t n, E, tile_rows, tile_cols;
    size_t samples; /* of LOSS_NTXENT: samples of a block of views (kernels.h, mask_pairs) */
    double share;   /* factor of the loss */
    bool bf16;      /* texts are sent as bf16 */
    bool kept; /* every tile has a separate place, so the second walk need not multiply again */
    const acc *sent; /* of loss_send_texts */
    void *memory;
    acc *logits;                    /* one tile, or all tiles one after another */
    acc *texts, *dtexts;            /* [N,E], with several ranks */
    acc *row_max, *row_sum;         /* [n]; row_max becomes the log-sum-exp */
    acc *positive;                  /* [n] */
    acc *col_max, *col_sum;         /* [N]: this rank's part */
    acc *all_col_max, *all_col_sum; /* [N], with several ranks: joined; max becomes the lse */
    acc *scratch;                   /* receives unused gradients of the scale */
    const acc *views;               /* of loss_send_views */
    acc *others, *dothers;          /* [n,E] of LOSS_NTXENT: row i is the other view of row i */
    struct Soft *soft;              /* NULL: every row has its own column */
    bool softened;                  /* soft has the targets of the next run */
};

/* Memory of soft targets. */
typedef struct Soft {
    void *memory;
    SoftTargets targets;
    size_t dim;                                         /* the teacher's embedding; 0: none */
    acc *target, *cos;                                  /* one tile each */
    acc *share;                                         /* [n] */
    acc *zero;                                          /* [n] */
    acc *texts, *row_max, *row_sum, *col_max, *col_sum; /* of the teacher, like the student's */
    acc *all_col_max, *all_col_sum;                     /* [N] */
    int32_t *groups;                                    /* device [N] */
    uint64_t *host_ids, *host_sorted;                   /* [N] */
    int32_t *host_groups;                               /* [N] */
    double *host_share;                                 /* [n] */
} Soft;

/* The arguments of loss_run, and values derived from them. */
typedef struct Walk {
    const acc *images, *texts, *log_scale, *bias;
    acc *loss, *dimages, *dtexts, *dlog_scale, *dbias;
    const acc *row_lse, *col_lse;
    const acc *teacher_row_lse, *teacher_col_lse;
    size_t n, N, first; /* first: the column of row 0's positive */
    double weight;
} Walk;

/* Returns true if both directions are softmaxes; SigLIP's is a sum over pairs. */
static bool is_softmax(const Loss *l) { return l->kind != LOSS_SIGLIP; }

/* ---- memory ---- */

static void choose_tiles(Loss *l, size_t N, size_t logit_memory) {
    size_t fits = logit_memory / l->k->acc_size;
    l->kept = is_softmax(l) && N <= fits / l->n;
    size_t side = l->k->logit_side ? l->k->logit_side : N;
    l->tile_rows = size_min(l->n, side);
    l->tile_cols = size_min(N, side);
    if (l->kept) return;
    while (l->tile_rows > fits / l->tile_cols &&
           (l->tile_rows > TILE_LEAST || l->tile_cols > TILE_LEAST)) {
        if (l->tile_cols >= l->tile_rows)
            l->tile_cols = div_up(l->tile_cols, 2);
        else
            l->tile_rows = div_up(l->tile_rows, 2);
    }
}

static void lay_out(Loss *l, Arena *a) {
    size_t size = l->k->acc_size, N = size_mul(l->n, (size_t)l->comm->size);
    l->logits = l->kept ? arena_take(a, size_mul(l->n, N), size)
                        : arena_take(a, l->tile_rows * l->tile_cols, size);
    l->row_max = arena_take(a, l->n, size);
    l->row_sum = arena_take(a, l->n, size);
    l->positive = arena_take(a, l->n, size);
    l->col_max = arena_take(a, N, size);
    l->col_sum = arena_take(a, N, size);
    l->scratch = arena_take(a, 1, size);
    if (l->kind == LOSS_NTXENT) {
        l->others = arena_take(a, size_mul(l->n, l->E), size);
        l->dothers = arena_take(a, size_mul(l->n, l->E), size);
    }
    if (l->comm->size == 1) return;
    l->texts = arena_take(a, size_mul(N, l->E), size);
    l->dtexts = arena_take(a, size_mul(N, l->E), size);
    l->all_col_max = arena_take(a, N, size);
    l->all_col_sum = arena_take(a, N, size);
}

Loss *loss_new(const Kernels *k, const Comm *comm, LossKind kind, size_t n, size_t E,
               size_t logit_memory) {
    assert(n > 0 && E > 0 && comm->size > 0);
    Arena arena = {0};
    Loss *l = xmalloc(sizeof *l);
    *l = (Loss){.k = k, .comm = comm, .kind = kind, .n = n, .E = E, .share = 1};
    choose_tiles(l, size_mul(n, (size_t)comm->size), logit_memory);
    lay_out(l, &arena);
    l->memory = k->device->alloc(arena.used);
    arena = (Arena){.base = l->memory, .size = arena.used};
    lay_out(l, &arena);
    return l;
}

static void lay_out_soft(const Loss *l, Soft *s, Arena *a) {
    size_t size = l->k->acc_size, n = l->n, N = size_mul(n, (size_t)l->comm->size);
    size_t tile = l->tile_rows * l->tile_cols;
    s->target = arena_take(a, tile, size);
    s->share = arena_take(a, n, size);
    s->zero = arena_take(a, n, size);
    s->groups = arena_take(a, N, sizeof *s->groups);
    if (!s->dim) return;
    s->cos = arena_take(a, tile, size);
    s->texts = arena_take(a, size_mul(N, s->dim), size);
    s->row_max = arena_take(a, n, size);
    s->row_sum = arena_take(a, n, size);
    s->col_max = arena_take(a, N, size);
    s->col_sum = arena_take(a, N, size);
    s->all_col_max = arena_take(a, N, size);
    s->all_col_sum = arena_take(a, N, size);
}

void loss_allow_soft(Loss *l, size_t teacher_dim) {
    assert((l->kind == LOSS_CLIP || !teacher_dim) && !l->soft);
    Soft *s = l->soft = xcalloc(1, sizeof *s);
    size_t N = size_mul(l->n, (size_t)l->comm->size);
    s->dim = teacher_dim;
    Arena arena = {0};
    lay_out_soft(l, s, &arena);
    s->memory = l->k->device->alloc(arena.used);
    arena = (Arena){.base = s->memory, .size = arena.used};
    lay_out_soft(l, s, &arena);
    l->k->device->zero(s->zero, l->n * l->k->acc_size);
    s->host_ids = xcalloc(N, sizeof *s->host_ids);
    s->host_sorted = xcalloc(N, sizeof *s->host_sorted);
    s->host_groups = xcalloc(N, sizeof *s->host_groups);
    s->host_share = xcalloc(l->n, sizeof *s->host_share);
}

static void soft_free(Loss *l) {
    Soft *s = l->soft;
    if (!s) return;
    l->k->device->release(s->memory);
    FREE_ALL(s->host_ids, s->host_sorted, s->host_groups, s->host_share, s);
}

void loss_soften(Loss *l, const SoftTargets *t) {
    assert(l->soft && !t->teacher_images == !l->soft->dim);
    l->soft->targets = *t;
    l->softened = true;
}

void loss_free(Loss *l) {
    if (!l) return;
    soft_free(l);
    l->k->device->release(l->memory);
    free(l);
}

void loss_gather_bf16(Loss *l) { l->bf16 = true; }

/* As bf16 they are received where the gradients are written later. */
void loss_send_texts(Loss *l, const acc *texts, size_t n) {
    size_t count = n * l->E, size = l->bf16 ? 2 : l->k->acc_size;
    assert(n > 0 && n <= l->n);
    l->sent = texts;
    if (l->comm->size == 1) return;
    CommPiece piece = {l->texts, texts, count * size};
    if (l->bf16) {
        char *own = (char *)l->dtexts + (size_t)l->comm->rank * piece.bytes;
        l->k->bf16_from_acc(own, texts, count);
        piece.all = l->dtexts;
        piece.part = own;
    }
    l->comm->gather_start(&piece, 1);
}

static void receive_texts(const Loss *l, size_t N) {
    l->comm->wait();
    if (l->bf16) l->k->acc_from_bf16(l->texts, l->dtexts, N * l->E);
}

/* ---- the walks ---- */

typedef struct Tile {
    size_t i0, j0, n, m; /* rows i0 … i0+n-1, columns j0 … j0+m-1 */
    ptrdiff_t diag;
    acc *z; /* [n,m] */
} Tile;

/* Tile number t in row-major order; false past the last. A kept tile starts at the end of the
 * previous ones. */
static bool tile_at(const Loss *l, const Walk *w, size_t t, Tile *tile) {
    size_t across = div_up(w->N, l->tile_cols);
    tile->i0 = t / across * l->tile_rows;
    tile->j0 = t % across * l->tile_cols;
    if (tile->i0 >= w->n) return false;
    tile->n = size_min(l->tile_rows, w->n - tile->i0);
    tile->m = size_min(l->tile_cols, w->N - tile->j0);
    tile->diag = (ptrdiff_t)(w->first + tile->i0) - (ptrdiff_t)tile->j0;
    tile->z = l->kept ? acc_at(l->k, l->logits, tile->i0 * w->N + tile->n * tile->j0) : l->logits;
    return true;
}

static void tile_cosines(const Loss *l, const Walk *w, const Tile *t) {
    const Kernels *k = l->k;
    k->gemm(t->z, t->m, acc_at(k, w->images, t->i0 * l->E), l->E, false,
            acc_at(k, w->texts, t->j0 * l->E), l->E, true, t->n, t->m, l->E, false);
    if (l->samples) k->mask_pairs(t->z, t->n, t->m, w->first + t->i0, t->j0, l->samples);
}

/* The tile holds s·G; adds its share of dI = s·G·T and dT = s·Gᵀ·I. */
static void tile_gradients(const Loss *l, const Walk *w, const Tile *t) {
    const Kernels *k = l->k;
    const acc *I = acc_at(k, w->images, t->i0 * l->E), *T = acc_at(k, w->texts, t->j0 * l->E);
    k->gemm(acc_at(k, w->dimages, t->i0 * l->E), l->E, t->z, t->m, false, T, l->E, false, t->n,
            l->E, t->m, t->j0 > 0);
    k->gemm(acc_at(k, w->dtexts, t->j0 * l->E), l->E, t->z, t->m, true, I, l->E, false, t->m, l->E,
            t->n, t->i0 > 0);
}

static void walk_stats(const Loss *l, const Walk *w) {
    const Kernels *k = l->k;
    k->stats_init(l->row_max, l->row_sum, w->n);
    k->stats_init(l->col_max, l->col_sum, w->N);
    Tile t;
    for (size_t i = 0; tile_at(l, w, i, &t); i++) {
        tile_cosines(l, w, &t);
        k->logits_stats(acc_at(k, l->row_max, t.i0), acc_at(k, l->row_sum, t.i0),
                        acc_at(k, l->col_max, t.j0), acc_at(k, l->col_sum, t.j0),
                        acc_at(k, l->positive, t.i0), t.z, w->log_scale, w->bias, t.n, t.m, t.diag);
    }
}

/* Every rank has n rows of each column. Maxima are joined first, then each rank's sums relative to
 * them, in all_max and all_sum. Returns the columns' log-sum-exp. */
static const acc *join_columns(const Loss *l, size_t N, acc *max, acc *sum, acc *all_max,
                               acc *all_sum) {
    const Kernels *k = l->k;
    if (l->comm->size == 1) {
        k->stats_lse(max, max, sum, N);
        return max;
    }
    k->stats_init(all_max, all_sum, N);
    k->device->copy(all_max, max, N * k->acc_size);
    l->comm->all_reduce_max(all_max, N);
    k->stats_join(all_max, all_sum, max, sum, N);
    l->comm->all_reduce_sum(all_sum, N);
    k->stats_lse(all_max, all_max, all_sum, N);
    return all_max;
}

/* ---- soft targets ---- */

static int compare_ids(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* The number of sorted values below x. */
static size_t count_below(const uint64_t *sorted, size_t n, uint64_t x) {
    size_t lo = 0, hi = n;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (sorted[mid] < x)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

/* Converts every rank's groups to small numbers (the index of the first equal one in sorted order)
 * and shares: one over the group's size. */
static void soft_groups(const Loss *l, const Walk *w) {
    Soft *s = l->soft;
    l->comm->gather_bytes(s->host_ids, s->targets.group, w->n * sizeof *s->host_ids);
    memcpy(s->host_sorted, s->host_ids, w->N * sizeof *s->host_ids);
    qsort(s->host_sorted, w->N, sizeof *s->host_sorted, compare_ids);
    for (size_t i = 0; i < w->N; i++) {
        uint64_t id = s->host_ids[i];
        size_t first = count_below(s->host_sorted, w->N, id);
        size_t end = id == UINT64_MAX ? w->N : count_below(s->host_sorted, w->N, id + 1);
        size_t members = end - first;
        s->host_groups[i] = (int32_t)first;
        if (i >= w->first && i < w->first + w->n) s->host_share[i - w->first] = 1 / (double)members;
    }
    l->k->device->upload(s->groups, s->host_groups, w->N * sizeof *s->groups);
    l->k->acc_set(s->share, s->host_share, w->n);
}

static void teacher_cosines(const Loss *l, const Tile *t) {
    const Kernels *k = l->k;
    const Soft *s = l->soft;
    k->gemm(s->cos, t->m, acc_at(k, s->targets.teacher_images, t->i0 * s->dim), s->dim, false,
            acc_at(k, s->texts, t->j0 * s->dim), s->dim, true, t->n, t->m, s->dim, false);
}

static void walk_teacher(const Loss *l, Walk *w) {
    const Kernels *k = l->k;
    const Soft *s = l->soft;
    l->comm->all_gather(s->texts, s->targets.teacher_texts, w->n * s->dim);
    k->stats_init(s->row_max, s->row_sum, w->n);
    k->stats_init(s->col_max, s->col_sum, w->N);
    Tile t;
    for (size_t i = 0; tile_at(l, w, i, &t); i++) {
        teacher_cosines(l, &t);
        k->logits_stats(acc_at(k, s->row_max, t.i0), acc_at(k, s->row_sum, t.i0),
                        acc_at(k, s->col_max, t.j0), acc_at(k, s->col_sum, t.j0),
                        acc_at(k, l->positive, t.i0), s->cos, s->targets.teacher_log_scale, NULL,
                        t.n, t.m, t.diag);
    }
    k->stats_lse(s->row_max, s->row_max, s->row_sum, w->n);
    w->teacher_row_lse = s->row_max;
    w->teacher_col_lse =
        join_columns(l, w->N, s->col_max, s->col_sum, s->all_col_max, s->all_col_sum);
}

/* The sum of a row's targets: its positives, and the teacher's probabilities. */
static double soft_mass(const Loss *l) { return l->soft->dim ? 2 : 1; }

static void soft_tile(const Loss *l, const Walk *w, const Tile *t) {
    const Kernels *k = l->k;
    const Soft *s = l->soft;
    k->group_targets(s->target, s->groups + w->first + t->i0, s->groups + t->j0,
                     acc_at(k, s->share, t->i0), t->n, t->m);
    if (s->dim) {
        teacher_cosines(l, t);
        k->teacher_targets(s->target, s->cos, acc_at(k, w->teacher_row_lse, t->i0),
                           acc_at(k, w->teacher_col_lse, t->j0), s->targets.teacher_log_scale, t->n,
                           t->m);
    }
    if (l->kind == LOSS_SIGLIP) {
        k->siglip_targets_tile(t->z, w->loss, w->dlog_scale, w->dbias, s->target, w->log_scale,
                               w->bias, t->n, t->m, w->weight);
        return;
    }
    k->soft_logits_grad(t->z, w->loss, w->dlog_scale, w->dbias, s->target,
                        acc_at(k, w->row_lse, t->i0), acc_at(k, w->col_lse, t->j0), w->log_scale,
                        w->bias, t->n, t->m, soft_mass(l), w->weight);
}

static void walk_gradients(const Loss *l, const Walk *w) {
    const Kernels *k = l->k;
    Tile t;
    for (size_t i = 0; tile_at(l, w, i, &t); i++) {
        if (!l->kept) tile_cosines(l, w, &t);
        if (l->softened)
            soft_tile(l, w, &t);
        else if (l->kind == LOSS_SIGLIP)
            k->siglip_tile(t.z, w->loss, w->dlog_scale, w->dbias, w->log_scale, w->bias, t.n, t.m,
                           t.diag, w->weight);
        else
            k->clip_logits_grad(t.z, w->dlog_scale, w->dbias, acc_at(k, w->row_lse, t.i0),
                                acc_at(k, w->col_lse, t.j0), w->log_scale, w->bias, t.n, t.m,
                                t.diag, w->weight);
        if (w->dimages) tile_gradients(l, w, &t);
    }
}

void loss_run(Loss *l, acc *loss, acc *dimages, acc *dtexts, acc *dlog_scale, acc *dbias,
              const acc *images, const acc *texts, const acc *log_scale, const acc *bias,
              size_t n) {
    assert(n > 0 && n <= l->n && !dimages == !dtexts);
    const Kernels *k = l->k;
    const Comm *comm = l->comm;
    bool alone = comm->size == 1;
    if (texts) loss_send_texts(l, texts, n);
    size_t N = n * (size_t)comm->size, first = n * (size_t)comm->rank;
    Walk w = {.images = images,
              .texts = alone ? l->sent : l->texts,
              .log_scale = log_scale,
              .bias = bias,
              .loss = loss,
              .dimages = dimages,
              .dtexts = alone || !dtexts ? dtexts : l->dtexts,
              .dlog_scale = dlog_scale ? dlog_scale : l->scratch,
              .dbias = dbias,
              .n = n,
              .N = N,
              .first = first,
              .weight = (is_softmax(l) ? 0.5 : 1.0) * l->share / (double)N};
    k->device->zero(loss, k->acc_size);
    k->device->zero(l->scratch, k->acc_size);
    if (!alone) receive_texts(l, N);
    if (l->softened) soft_groups(l, &w);
    if (l->softened && l->soft->dim) walk_teacher(l, &w);
    if (is_softmax(l)) {
        walk_stats(l, &w);
        k->stats_lse(l->row_max, l->row_max, l->row_sum, n);
        w.row_lse = l->row_max;
        w.col_lse = join_columns(l, N, l->col_max, l->col_sum, l->all_col_max, l->all_col_sum);
        k->clip_loss(loss, w.row_lse, acc_at(k, w.col_lse, first),
                     l->softened ? l->soft->zero : l->positive, n,
                     l->softened ? w.weight * soft_mass(l) : w.weight);
    }
    if (!is_softmax(l) || dimages || l->softened) walk_gradients(l, &w);
    l->softened = false;
    comm->all_reduce_sum(loss, 1);
    if (!alone && dtexts) comm->reduce_scatter(dtexts, l->dtexts, n * l->E);
}

/* to[n,E] = the other view of each row of from. */
static void exchange(const Loss *l, acc *to, const acc *from, size_t n) {
    const Kernels *k = l->k;
    size_t block = l->samples * l->E;
    for (size_t row = 0; row < n; row += l->samples)
        k->device->copy(acc_at(k, to, row * l->E),
                        acc_at(k, from, other_view(row, l->samples) * l->E), block * k->acc_size);
}

void loss_send_views(Loss *l, const acc *views, size_t samples, size_t n) {
    assert(l->kind == LOSS_NTXENT && samples > 0 && n % (2 * samples) == 0);
    l->samples = samples;
    l->views = views;
    exchange(l, l->others, views, n);
    loss_send_texts(l, l->others, n);
}

void loss_run_views(Loss *l, acc *loss, acc *dviews, const acc *log_scale, double share, size_t n) {
    const Kernels *k = l->k;
    l->share = share;
    loss_run(l, loss, dviews, dviews ? l->dothers : NULL, NULL, NULL, l->views, NULL, log_scale,
             NULL, n);
    for (size_t row = 0; dviews && row < n; row += l->samples)
        k->axpy(acc_at(k, dviews, row * l->E), 1,
                acc_at(k, l->dothers, other_view(row, l->samples) * l->E), l->samples * l->E);
}
