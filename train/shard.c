#include "train/shard.h"

enum { PIECES = 64 }; /* gathered in one call */

size_t shard_buckets(const Params *p) { return div_up(p->size, p->bucket); }

Bucket shard_bucket(const Params *p, size_t i) {
    size_t offset = i * p->bucket, size = size_min(p->bucket, p->size - offset);
    size_t length = size / p->shards, rank = is_sharded(p) ? (size_t)p->comm->rank : 0;
    return (Bucket){offset, size, offset + rank * length, length, offset / p->shards};
}

acc *shard_whole(const Params *p, acc *moment) {
    if (!is_sharded(p)) return moment;
    for (size_t i = 0; i < shard_buckets(p); i++) {
        Bucket b = shard_bucket(p, i);
        acc *own = acc_at(p->k, p->grad, b.slice);
        p->k->copy(own, acc_at(p->k, moment, b.moment), b.length * p->k->acc_size);
        p->comm->all_gather(acc_at(p->k, p->grad, b.offset), own, b.length);
    }
    return p->grad;
}

acc *shard_fill(const Params *p, acc *moment) { return is_sharded(p) ? p->grad : moment; }

void shard_split(const Params *p, acc *moment) {
    if (!is_sharded(p)) return;
    for (size_t i = 0; i < shard_buckets(p); i++) {
        Bucket b = shard_bucket(p, i);
        p->k->copy(acc_at(p->k, moment, b.moment), acc_at(p->k, p->grad, b.slice),
                   b.length * p->k->acc_size);
    }
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
