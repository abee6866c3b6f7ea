#include "train/shard.h"

enum { PIECES = 64 }; /* gathered in one call */

size_t shard_buckets(const Params *p) { return div_up(p->size, p->bucket); }

Bucket shard_bucket(const Params *p, size_t i) {
    size_t offset = i * p->bucket, size = size_min(p->bucket, p->size - offset);
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
        p->k->copy(to, moment_at(p, moment, i), n * p->k->acc_size);
}

static void moment_write(const Params *p, void *moment, size_t i, const acc *from, size_t n) {
    if (p->moments == MOMENTS_BF16)
        p->k->bf16_from_acc(moment_at(p, moment, i), from, n);
    else
        p->k->copy(moment_at(p, moment, i), from, n * p->k->acc_size);
}

acc *shard_whole(const Params *p, void *moment) {
    if (!is_borrowed(p)) return moment;
    if (!is_sharded(p)) moment_read(p, p->grad, moment, 0, p->size);
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
    if (!is_sharded(p)) moment_write(p, moment, 0, p->grad, p->size);
    for (size_t i = 0; is_sharded(p) && i < shard_buckets(p); i++) {
        Bucket b = shard_bucket(p, i);
        moment_write(p, moment, b.moment, acc_at(p->k, p->grad, b.slice), b.length);
    }
}

void shard_done(const Params *p) {
    if (is_borrowed(p)) p->k->zero(p->grad, p->size * p->k->acc_size);
}

void shard_share_weights(Params *p) {
    CommPiece pieces[PIECES];
    for (size_t i = 0, n = 0; i < shard_buckets(p); i++) {
        Bucket b = shard_bucket(p, i);
        pieces[n++] = (CommPiece){acc_at(p->k, p->master, b.offset),
                                  acc_at(p->k, p->master, b.slice), b.length * p->k->acc_size};
        if (n < PIECES && i + 1 < shard_buckets(p)) continue;
        p->comm->gather_pieces(pieces, n);
        n = 0;
    }
    params_round(p);
}
