#include "train/optim.h"

#include "train/model/lora.h"
#include "train/shard.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Groups of the flat block's tensors; values that depend only on the setting are stored once. */
typedef struct Groups {
    OptimGroup *list;
    size_t count;
} Groups;

/* Adjacent tensors of one group in the flat block. The padding between them is zero and stays
 * zero. */
typedef struct Range {
    size_t offset, size;
    uint32_t group;
} Range;

/* Chunks up to number `end`, whose masters are in one block: shard_master. */
typedef struct Call {
    size_t end;
    acc *masters;
} Call;

struct Optim {
    OptimState *state;
    OptimOptions options;
    Groups settings;
    size_t tensors; /* of LARS: the first groups, each of one tensor whose steps are scaled */
    size_t count;   /* of chunks */
    Call *calls;
    size_t call_count;
    const acc *loss; /* the loss compared with max_loss; NULL: none */
    double max_loss;
    /* device memory, one allocation */
    void *memory;
    acc *squares, *norms; /* norms: [2·tensors] */
    OptimGroup *groups;
    AdamW *numbers;
    OptimChunk *chunks;
    AdamW *host; /* [2]: sources of the copies of the last two steps */
};

bool optim_decays(const Param *q, WdGroups g) {
    return q->ndim >= 2 && (g == WD_LEGACY || q->role != ROLE_POSITIONS);
}

static int by_offset(const void *a, const void *b) {
    size_t x = (*(const Param *const *)a)->offset, y = (*(const Param *const *)b)->offset;
    return (x > y) - (x < y);
}

static OptimGroup setting_of(const Param *q, const OptimOptions *o) {
    OptimGroup g = {.lo = -INFINITY, .hi = INFINITY};
    g.lr_scale = q->lr_scale;
    if (optim_decays(q, o->wd_groups)) g.weight_decay = o->weight_decay;
    if (q->role != ROLE_LOGIT_SCALE) return g;
    /* CLIP's bounds: the temperature stays at 1/100 or above, the scale at 1 or above */
    g.lo = 0;
    g.hi = log(100);
    return g;
}

static uint32_t group_add(Groups *all, const OptimGroup *g) {
    all->list = xrealloc(all->list, (all->count + 1) * sizeof *g);
    all->list[all->count] = *g;
    return (uint32_t)all->count++;
}

/* The index of the tensor's setting, which is added if new. */
static uint32_t group_of(Optim *o, const Param *q) {
    OptimGroup g = setting_of(q, &o->options);
    for (size_t i = o->tensors; i < o->settings.count; i++)
        if (!memcmp(&o->settings.list[i], &g, sizeof g)) return (uint32_t)i;
    return group_add(&o->settings, &g);
}

/* Returns true if LARS scales the tensor's steps. */
static bool is_scaled(const Optim *o, const Param *q) {
    return o->state->optimizer == OPTIMIZER_LARS && optim_decays(q, o->options.wd_groups);
}

/* The tensors that learn, sorted by offset; malloc'd. */
static const Param **sort_learning(const Params *p, size_t *learning) {
    const Param **sorted = xmalloc(size_mul(p->count, sizeof(Param *)));
    *learning = 0;
    for (size_t i = 0; i < p->count; i++)
        if (p->list[i].trainable) sorted[(*learning)++] = &p->list[i];
    qsort(sorted, *learning, sizeof *sorted, by_offset);
    return sorted;
}

/* One group for each tensor whose steps are scaled, in the order of their offsets. */
static void add_tensors(Optim *o) {
    size_t learning;
    const Param **sorted = sort_learning(o->state->p, &learning);
    for (size_t i = 0; i < learning; i++) {
        OptimGroup g = setting_of(sorted[i], &o->options);
        if (is_scaled(o, sorted[i])) group_add(&o->settings, &g);
    }
    o->tensors = o->settings.count;
    free(sorted);
}

/* Sorted by offset; malloc'd. */
static Range *find_ranges(Optim *o, size_t *count) {
    size_t learning, tensor = 0;
    const Param **sorted = sort_learning(o->state->p, &learning);
    Range *ranges = xcalloc(learning, sizeof *ranges);
    *count = 0;
    for (size_t i = 0; i < learning; i++) {
        const Param *q = sorted[i];
        Range *last = *count ? &ranges[*count - 1] : NULL;
        uint32_t group = is_scaled(o, q) ? (uint32_t)tensor++ : group_of(o, q);
        if (!last || last->group != group) {
            last = &ranges[(*count)++];
            *last = (Range){q->offset, 0, group};
        }
        last->size = q->offset + q->size - last->offset;
    }
    free(sorted);
    return ranges;
}

/* Cuts `size` elements into chunks; with `list` NULL only counts them. */
static void add_chunks(OptimChunk *list, size_t *count, size_t weights, size_t moments, size_t size,
                       uint32_t group) {
    for (size_t at = 0; at < size; at += OPTIM_CHUNK, ++*count)
        if (list)
            list[*count] = (OptimChunk){weights + at, moments + at,
                                        (uint32_t)size_min(OPTIM_CHUNK, size - at), group};
}

static size_t find_chunks(Optim *o, OptimChunk *list) {
    const OptimState *s = o->state;
    const Params *p = s->p;
    size_t ranges, buckets = is_sharded(s) ? shard_buckets(s) : 1, count = 0;
    Range *range = find_ranges(o, &ranges);
    for (size_t j = 0; j < buckets; j++) {
        Bucket b = is_sharded(s) ? shard_bucket(s, j) : (Bucket){.length = p->learning};
        for (const Range *r = range; r < range + ranges; r++) {
            size_t from = size_max(r->offset, b.slice);
            size_t to = size_min(r->offset + r->size, b.slice + b.length);
            if (from < to)
                add_chunks(list, &count, from, b.moment + from - b.slice, to - from, r->group);
        }
        o->calls[j] = (Call){count, shard_master(s, &b)};
    }
    o->call_count = buckets;
    if (!p->master_first) o->calls[0] = (Call){count, p->master}, o->call_count = 1;
    free(range);
    return count;
}

static void lay_out(Optim *o, Arena *a) {
    o->squares = arena_take(a, 1, o->state->k->acc_size);
    o->norms = arena_take(a, 2 * o->tensors, o->state->k->acc_size);
    o->groups = arena_take(a, o->settings.count, sizeof *o->groups);
    o->numbers = arena_take(a, 1, sizeof *o->numbers);
    o->chunks = arena_take(a, o->count, sizeof *o->chunks);
}

Optim *optim_new(OptimState *s, const OptimOptions *options) {
    const Kernels *k = s->k;
    Optim *o = xcalloc(1, sizeof *o);
    o->state = s;
    o->options = *options;
    o->max_loss = INFINITY;
    o->calls = xcalloc(shard_buckets(s), sizeof *o->calls);
    add_tensors(o);
    o->count = find_chunks(o, NULL);
    Arena a = {0};
    lay_out(o, &a);
    o->memory = k->device->alloc(a.used);
    a = (Arena){.base = o->memory, .size = a.used};
    lay_out(o, &a);
    o->host = k->device->host_alloc(2 * sizeof *o->host);

    OptimChunk *chunks = xmalloc(size_mul(o->count, sizeof *chunks));
    find_chunks(o, chunks);
    k->device->upload(o->groups, o->settings.list, o->settings.count * sizeof *o->groups);
    k->device->upload(o->chunks, chunks, o->count * sizeof *chunks);
    free(chunks);
    return o;
}

void optim_free(Optim *o) {
    if (!o) return;
    const Device *device = o->state->k->device;
    device->sync();
    device->release(o->memory);
    device->host_release(o->host);
    FREE_ALL(o->settings.list, o->calls, o);
}

const acc *optim_squares(const Optim *o) { return o->squares; }

void optim_limit(Optim *o, const acc *loss, double most) {
    o->loss = loss;
    o->max_loss = most;
}

void optim_set(Optim *o, double lr, uint64_t t) {
    assert(t >= 1);
    const OptimOptions *s = &o->options;
    AdamW *host = &o->host[t % 2];
    *host = (AdamW){.lr = lr,
                    .beta1 = s->beta1,
                    .beta2 = s->beta2,
                    .eps = s->eps,
                    .correction1 = 1 - pow(s->beta1, (double)t),
                    .correction2 = 1 - pow(s->beta2, (double)t),
                    .max_norm = s->grad_clip_norm,
                    .t = t,
                    .max_loss = o->max_loss};
    o->state->k->device->upload_start(QUEUE_COMPUTE, o->numbers, host, sizeof *host);
}

static void run_adamw(Optim *o, act *weights) {
    OptimState *s = o->state;
    for (size_t i = 0, first = 0; i < o->call_count; first = o->calls[i++].end)
        s->k->adamw(o->calls[i].masters, weights, s->p->grad, s->m, s->v, s->moments,
                    o->chunks + first, o->calls[i].end - first, o->groups, o->numbers, o->squares);
}

static void run_lars(Optim *o, act *weights) {
    static const double trust = 1e-3; /* You et al. 2017, SimCLR */
    OptimState *s = o->state;
    const Kernels *k = s->k;
    k->device->zero(o->norms, 2 * o->tensors * k->acc_size);
    for (size_t i = 0, first = 0; i < o->call_count; first = o->calls[i++].end)
        k->lars_norms(o->norms, o->calls[i].masters, s->p->grad, o->chunks + first,
                      o->calls[i].end - first, o->groups, o->tensors, o->numbers, o->squares);
    if (is_sharded(s)) s->comm->all_reduce_sum(o->norms, 2 * o->tensors);
    for (size_t i = 0, first = 0; i < o->call_count; first = o->calls[i++].end)
        k->lars(o->calls[i].masters, weights, s->p->grad, s->m, s->moments, o->chunks + first,
                o->calls[i].end - first, o->groups, o->tensors, o->numbers, o->squares, o->norms,
                trust);
}

void optim_update(Optim *o) {
    OptimState *s = o->state;
    Params *p = s->p;
    const Kernels *k = s->k;
    bool separate = params_are_rounded(p) && !is_sharded(s);
    k->device->zero(o->squares, k->acc_size);
    k->sum_squares(o->squares, p->grad, o->chunks, o->count);
    if (is_sharded(s)) s->comm->all_reduce_sum(o->squares, 1);
    if (o->loss) k->skip_spike(o->squares, o->loss, o->numbers);
    (s->optimizer == OPTIMIZER_LARS ? run_lars : run_adamw)(o, separate ? p->compute : NULL);
    if (is_sharded(s)) {
        shard_share_weights(s);
        k->device->zero(p->grad, p->learning * k->acc_size);
    }
    lora_merge(p);
    if (s->ema) k->ema(s->ema, p->master, s->ema_decay, p->learning);
}
