#include "train/shard.h"

size_t shard_buckets(const OptimState *s) { return div_up(s->p->learning, s->bucket); }

Bucket shard_bucket(const OptimState *s, size_t i) {
    size_t offset = i * s->bucket, size = size_min(s->bucket, s->p->learning - offset);
    size_t length = size / s->shards, rank = is_sharded(s) ? (size_t)s->comm->rank : 0;
    return (Bucket){offset, size, offset + rank * length, length, offset / s->shards};
}

/* Returns true if a whole moment is assembled in the gradients' block. */
static bool is_borrowed(const OptimState *s) { return is_sharded(s) || s->moments == MOMENTS_BF16; }

static void *moment_at(const OptimState *s, void *moment, size_t i) {
    return (char *)moment + i * moment_size(s->k, s->moments);
}

static void moment_read(const OptimState *s, acc *to, void *moment, size_t i, size_t n) {
    if (s->moments == MOMENTS_BF16)
        s->k->acc_from_bf16(to, moment_at(s, moment, i), n);
    else
        s->k->device->copy(to, moment_at(s, moment, i), n * s->k->acc_size);
}

static void moment_write(const OptimState *s, void *moment, size_t i, const acc *from, size_t n) {
    if (s->moments == MOMENTS_BF16)
        s->k->bf16_from_acc(moment_at(s, moment, i), from, n);
    else
        s->k->device->copy(moment_at(s, moment, i), from, n * s->k->acc_size);
}

acc *shard_whole(const OptimState *s, void *moment) {
    acc *whole = s->p->grad;
    if (!is_borrowed(s)) return moment;
    if (!is_sharded(s)) moment_read(s, whole, moment, 0, s->p->learning);
    for (size_t i = 0; is_sharded(s) && i < shard_buckets(s); i++) {
        Bucket b = shard_bucket(s, i);
        acc *own = acc_at(s->k, whole, b.slice);
        moment_read(s, own, moment, b.moment, b.length);
        s->comm->all_gather(acc_at(s->k, whole, b.offset), own, b.length);
    }
    return whole;
}

acc *shard_fill(const OptimState *s, void *moment) { return is_borrowed(s) ? s->p->grad : moment; }

void shard_split(const OptimState *s, void *moment) {
    const acc *whole = s->p->grad;
    if (!is_borrowed(s)) return;
    if (!is_sharded(s)) moment_write(s, moment, 0, whole, s->p->learning);
    for (size_t i = 0; is_sharded(s) && i < shard_buckets(s); i++) {
        Bucket b = shard_bucket(s, i);
        moment_write(s, moment, b.moment, acc_at(s->k, whole, b.slice), b.length);
    }
}

void shard_done(const OptimState *s) {
    if (is_borrowed(s)) s->k->device->zero(s->p->grad, s->p->learning * s->k->acc_size);
}

void shard_masters(OptimState *s) {
    const Kernels *k = s->k;
    Params *p = s->p;
    assert(is_sharded(s) && !p->master_first && params_are_rounded(p) && !s->ema && !p->lora);
    size_t first = p->matrices / s->bucket * s->bucket, rest = p->learning - first;
    if (!first) return;
    /* the gradients' block, still zero, holds the whole block between freeing the old one and
     * allocating the new one */
    k->device->copy(p->grad, p->master, p->learning * k->acc_size);
    k->device->sync();
    k->device->release(p->master);
    s->slices = params_block(p, first / s->shards, k->acc_size);
    p->master = params_block(p, rest, k->acc_size);
    p->master_first = first;
    for (size_t i = 0; i * s->bucket < first; i++) {
        Bucket b = shard_bucket(s, i);
        k->device->copy(acc_at(k, s->slices, b.moment), acc_at(k, p->grad, b.slice),
                        b.length * k->acc_size);
    }
    k->device->copy(p->master, acc_at(k, p->grad, first), rest * k->acc_size);
    k->device->zero(p->grad, p->learning * k->acc_size);
}

acc *shard_master(const OptimState *s, const Bucket *b) {
    const Params *p = s->p;
    return b->offset < p->master_first ? acc_at(s->k, s->slices, b->moment - b->slice)
                                       : acc_at(s->k, p->master, (size_t)0 - p->master_first);
}

acc *shard_whole_masters(const OptimState *s) {
    const Kernels *k = s->k;
    const Params *p = s->p;
    size_t first = p->master_first;
    if (!first) return p->master;
    for (size_t i = 0; i * s->bucket < first; i++) {
        Bucket b = shard_bucket(s, i);
        acc *own = acc_at(k, p->grad, b.slice);
        k->device->copy(own, acc_at(k, s->slices, b.moment), b.length * k->acc_size);
        s->comm->all_gather(acc_at(k, p->grad, b.offset), own, b.length);
    }
    k->device->copy(acc_at(k, p->grad, first), p->master, (p->learning - first) * k->acc_size);
    return p->grad;
}

/* The part of a bucket that is sent: compute weights if only they are needed, else masters. */
static CommPiece share_piece(const OptimState *s, const Bucket *b) {
    const Kernels *k = s->k;
    const Params *p = s->p;
    const acc *master = shard_master(s, b);
    if (b->offset >= p->master_first)
        return (CommPiece){acc_at(k, master, b->offset), acc_at(k, master, b->slice),
                           b->length * k->acc_size};
    k->act_from_acc(act_at(k, p->compute, b->slice), acc_at(k, master, b->slice), b->length);
    return (CommPiece){act_at(k, p->compute, b->offset), act_at(k, p->compute, b->slice),
                       b->length * k->act_size};
}

void shard_share_weights(OptimState *s) {
    const Params *p = s->p;
    CommPiece pieces[COMM_PIECES];
    for (size_t i = 0, n = 0; i < shard_buckets(s); i++) {
        Bucket b = shard_bucket(s, i);
        pieces[n++] = share_piece(s, &b);
        if (n < COMM_PIECES && i + 1 < shard_buckets(s)) continue;
        s->comm->gather_pieces(pieces, n);
        n = 0;
    }
    if (params_are_rounded(p))
        s->k->act_from_acc(act_at(s->k, p->compute, p->master_first), p->master,
                           p->learning - p->master_first);
}
