#include "train/shard.h"

size_t shard_buckets(const Params *p) { return div_up(p->learning, p->bucket); }

Bucket shard_bucket(const Params *p, size_t i) {
    size_t offset = i * p->bucket, size = size_min(p->bucket, p->learning - offset);
    size_t length = size / p->shards, rank = is_sharded(p) ? (size_t)p->comm->rank : 0;
    return (Bucket){offset, size, offset + rank * length, length, offset / p->shards};
}

/* Whether a whole moment is put together in the gradients' block. */
static bool is_borrowed(const Params *p) { return is_sharded(p) || p->moments == MOMENTS_BF16; }

static void *moment_at(const Params *p, void *moment, size_t i) {
    return (char *)moment + i * moment_size(p->k, p->moments);
}

static void moment_read(const Params *p, acc *to, void *moment, size_t i, size_t n) {
    if (p->moments == MOMENTS_BF16)
        p->k->acc_from_bf16(to, moment_at(p, moment, i), n);
    else
        p->k->device->copy(to, moment_at(p, moment, i), n * p->k->acc_size);
}

static void moment_write(const Params *p, void *moment, size_t i, const acc *from, size_t n) {
    if (p->moments == MOMENTS_BF16)
        p->k->bf16_from_acc(moment_at(p, moment, i), from, n);
    else
        p->k->device->copy(moment_at(p, moment, i), from, n * p->k->acc_size);
}

acc *shard_whole(const Params *p, void *moment) {
    if (!is_borrowed(p)) return moment;
    if (!is_sharded(p)) moment_read(p, p->grad, moment, 0, p->learning);
    for (size_t i = 0; is_sharded(p) && i < shard_buckets(p); i++) {
        Bucket b = shard_bucket(p, i);
        acc *own = acc_at(p->k, p->grad, b.slice);
        moment_read(p, own, moment, b.moment, b.length);
        p->comm->all_gather(acc_at(p->k, p->grad, b.offset), own, b.length);
    }
    return p->grad;
}

acc *shard_fill(const Params *p, void *moment) { return is_borrowed(p) ? p->grad : moment; }

void shard_split(const Params *p, void *moment) {
    if (!is_borrowed(p)) return;
    if (!is_sharded(p)) moment_write(p, moment, 0, p->grad, p->learning);
    for (size_t i = 0; is_sharded(p) && i < shard_buckets(p); i++) {
        Bucket b = shard_bucket(p, i);
        moment_write(p, moment, b.moment, acc_at(p->k, p->grad, b.slice), b.length);
    }
}

void shard_done(const Params *p) {
    if (is_borrowed(p)) p->k->device->zero(p->grad, p->learning * p->k->acc_size);
}

void shard_masters(Params *p) {
    const Kernels *k = p->k;
    assert(is_sharded(p) && !p->split && params_are_rounded(p) && !p->ema && !p->lora);
    p->split = p->matrices / p->bucket * p->bucket;
    p->gap = p->split - p->split / p->shards;
    /* the gradients, still zero, hold the whole block while there is neither the old nor the new */
    k->device->copy(p->grad, p->master, p->learning * k->acc_size);
    k->device->sync();
    k->device->release(p->master);
    p->master = k->device->alloc((p->learning - p->gap) * k->acc_size);
    for (size_t i = 0; i * p->bucket < p->split; i++) {
        Bucket b = shard_bucket(p, i);
        k->device->copy(acc_at(k, p->master, b.moment), acc_at(k, p->grad, b.slice),
                        b.length * k->acc_size);
    }
    k->device->copy(acc_at(k, p->master, p->split - p->gap), acc_at(k, p->grad, p->split),
                    (p->learning - p->split) * k->acc_size);
    k->device->zero(p->grad, p->learning * k->acc_size);
}

acc *shard_whole_masters(const Params *p) {
    const Kernels *k = p->k;
    if (!p->split) return p->master;
    for (size_t i = 0; i * p->bucket < p->split; i++) {
        Bucket b = shard_bucket(p, i);
        acc *own = acc_at(k, p->grad, b.slice);
        k->device->copy(own, acc_at(k, p->master, b.moment), b.length * k->acc_size);
        p->comm->all_gather(acc_at(k, p->grad, b.offset), own, b.length);
    }
    k->device->copy(acc_at(k, p->grad, p->split), acc_at(k, p->master, p->split - p->gap),
                    (p->learning - p->split) * k->acc_size);
    return p->grad;
}

/* What of a bucket travels: compute weights where only they are needed, else masters. */
static CommPiece share_piece(const Params *p, const Bucket *b) {
    const Kernels *k = p->k;
    if (b->offset >= p->split)
        return (CommPiece){acc_at(k, p->master, b->offset - p->gap),
                           acc_at(k, p->master, b->slice - p->gap), b->length * k->acc_size};
    k->act_from_acc(act_at(k, p->compute, b->slice), acc_at(k, p->master, b->moment), b->length);
    return (CommPiece){act_at(k, p->compute, b->offset), act_at(k, p->compute, b->slice),
                       b->length * k->act_size};
}

void shard_share_weights(Params *p) {
    CommPiece pieces[COMM_PIECES];
    for (size_t i = 0, n = 0; i < shard_buckets(p); i++) {
        Bucket b = shard_bucket(p, i);
        pieces[n++] = share_piece(p, &b);
        if (n < COMM_PIECES && i + 1 < shard_buckets(p)) continue;
        p->comm->gather_pieces(pieces, n);
        n = 0;
    }
    if (params_are_rounded(p))
        p->k->act_from_acc(act_at(p->k, p->compute, p->split),
                           acc_at(p->k, p->master, p->split - p->gap), p->learning - p->split);
}
