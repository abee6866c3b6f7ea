#include "train/optim.h"

#include "train/shard.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Neighbours in the flat block with one setting: one AdamW call. The padding between them is all
 * zeros and stays so. */
typedef struct Range {
    size_t offset, size;
    bool trainable, decays;
} Range;

/* What one AdamW call works on: a range, or where the optimiser is sharded its part of one slice.
 */
typedef struct Piece {
    size_t weights, moments, size; /* offsets into the blocks; gradients stand as weights do */
    bool trainable, decays;
} Piece;

struct Optim {
    Params *p;
    OptimOptions options;
    Piece *pieces;
    size_t count;
    acc *squares, *factor; /* device scalars */
    const Param *logit_scale;
};

bool optim_decays(const Param *p, WdGroups g) {
    if (p->ndim < 2) return false;
    if (g == WD_HEAD)
        return strcmp(p->name, "positional_embedding") &&
               strcmp(p->name, "visual.positional_embedding");
    static const char *const without[] = {"bn", "ln", "bias", "logit_scale"};
    for (size_t i = 0; i < COUNT(without); i++)
        if (strstr(p->name, without[i])) return false;
    return true;
}

static int by_offset(const void *a, const void *b) {
    size_t x = (*(const Param *const *)a)->offset, y = (*(const Param *const *)b)->offset;
    return (x > y) - (x < y);
}

/* Sorted by offset; malloc'd. */
static Range *find_ranges(const Optim *o, size_t *count) {
    const Params *p = o->p;
    const Param **sorted = xmalloc(size_mul(p->count, sizeof(Param *)));
    for (size_t i = 0; i < p->count; i++) sorted[i] = &p->list[i];
    qsort(sorted, p->count, sizeof *sorted, by_offset);
    Range *ranges = xcalloc(p->count, sizeof *ranges);
    *count = 0;
    for (size_t i = 0; i < p->count; i++) {
        const Param *q = sorted[i];
        Range *last = *count ? &ranges[*count - 1] : NULL;
        bool decays = optim_decays(q, o->options.wd_groups);
        if (!last || last->trainable != q->trainable || (q->trainable && last->decays != decays)) {
            last = &ranges[(*count)++];
            *last = (Range){q->offset, 0, q->trainable, decays};
        }
        last->size = q->offset + q->size - last->offset;
    }
    free(sorted);
    return ranges;
}

static void find_pieces(Optim *o) {
    size_t ranges, buckets = is_sharded(o->p) ? shard_buckets(o->p) : 0;
    Range *range = find_ranges(o, &ranges);
    o->pieces = xcalloc(size_mul(ranges, buckets + 1), sizeof *o->pieces);
    for (size_t i = 0; i < ranges; i++) {
        const Range *r = &range[i];
        if (!buckets)
            o->pieces[o->count++] = (Piece){r->offset, r->offset, r->size, r->trainable, r->decays};
        for (size_t j = 0; j < buckets; j++) {
            Bucket b = shard_bucket(o->p, j);
            size_t from = size_max(r->offset, b.slice);
            size_t to = size_min(r->offset + r->size, b.slice + b.length);
            if (from >= to) continue;
            o->pieces[o->count++] =
                (Piece){from, b.moment + from - b.slice, to - from, r->trainable, r->decays};
        }
    }
    free(range);
}

Optim *optim_new(Params *p, const OptimOptions *options) {
    assert(p->grad && p->m && p->v);
    Optim *o = xcalloc(1, sizeof *o);
    o->p = p;
    o->options = *options;
    find_pieces(o);
    o->squares = p->k->alloc(p->k->acc_size);
    o->factor = p->k->alloc(p->k->acc_size);
    o->logit_scale = params_find(p, "logit_scale");
    return o;
}

void optim_free(Optim *o) {
    if (!o) return;
    o->p->k->release(o->squares);
    o->p->k->release(o->factor);
    free(o->pieces);
    free(o);
}

static double grad_norm(const Optim *o) {
    const Kernels *k = o->p->k;
    k->zero(o->squares, k->acc_size);
    for (const Piece *r = o->pieces; r < o->pieces + o->count; r++)
        if (r->trainable) k->sum_squares(o->squares, acc_at(k, o->p->grad, r->weights), r->size);
    if (is_sharded(o->p)) o->p->comm->all_reduce_sum(o->squares, 1);
    double squares;
    k->acc_get(&squares, o->squares, 1);
    return sqrt(squares);
}

/* CLIP's bound: the temperature stays at 1/100 or above, the scale at 1 or above. */
static void clamp_logit_scale(const Optim *o) {
    const Param *q = o->logit_scale;
    if (!q || !q->trainable) return;
    o->p->k->clamp(param_acc(o->p, q), 0, log(100), 1);
    if ((void *)o->p->compute != (void *)o->p->master)
        o->p->k->act_from_acc(param_act(o->p, q), param_acc(o->p, q), 1);
}

double optim_step(Optim *o, double lr, uint64_t t) {
    assert(t >= 1);
    Params *p = o->p;
    const Kernels *k = p->k;
    double norm = grad_norm(o);
    if (!isfinite(norm)) {
        k->zero(p->grad, p->size * k->acc_size);
        return norm;
    }
    const OptimOptions *s = &o->options;
    if (s->grad_clip_norm > 0) k->clip_factor(o->factor, o->squares, s->grad_clip_norm);
    bool separate = (void *)p->compute != (void *)p->master && !is_sharded(p);
    AdamW adam = {.lr = lr,
                  .beta1 = s->beta1,
                  .beta2 = s->beta2,
                  .eps = s->eps,
                  .correction1 = 1 - pow(s->beta1, (double)t),
                  .correction2 = 1 - pow(s->beta2, (double)t)};
    for (const Piece *r = o->pieces; r < o->pieces + o->count; r++) {
        acc *grad = acc_at(k, p->grad, r->weights);
        if (!r->trainable) {
            k->zero(grad, r->size * k->acc_size);
            continue;
        }
        adam.weight_decay = r->decays ? s->weight_decay : 0;
        k->adamw(acc_at(k, p->master, r->weights),
                 separate ? act_at(k, p->compute, r->weights) : NULL, grad,
                 acc_at(k, p->m, r->moments), acc_at(k, p->v, r->moments),
                 s->grad_clip_norm > 0 ? o->factor : NULL, &adam, r->size);
    }
    if (is_sharded(p)) {
        shard_share_weights(p);
        k->zero(p->grad, p->size * k->acc_size);
    }
    clamp_logit_scale(o);
    return norm;
}
