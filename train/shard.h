/* shard: the flat parameter block over ranks. It is cut into buckets, whose gradients are reduced
 * one by one while backward still runs; with a sharded optimiser (ZeRO-1: Rajbhandari et al. 2020)
 * each bucket is cut again into one equal slice a rank, whose owner alone keeps the moments,
 * updates the weights and gives them to the others. Where compute weights are a block of their own
 * (bf16), the owner alone keeps the masters of matrices, too, and what travels are the compute
 * weights. All this is about what learns; frozen masters are whole on every rank. Called by
 * learner, step, optim, checkpoint. */
#ifndef TRAIN_SHARD_H
#define TRAIN_SHARD_H
#include "train/model/params.h"

typedef struct Bucket {
    size_t offset, size;  /* in the flat block */
    size_t slice, length; /* this rank's slice: where it starts in the flat block, its elements */
    size_t moment;        /* where the slice's moments start in Params.m and .v */
} Bucket;

size_t shard_buckets(const Params *p);
Bucket shard_bucket(const Params *p, size_t i);
static inline bool is_sharded(const Params *p) { return p->shards > 1; }

/* A moment (p->m or p->v) as a whole block of acc: itself or, where it is sharded or bf16, put
 * together in the gradients' block, which is lost. All ranks call it. */
acc *shard_whole(const Params *p, void *moment);
/* The block to fill before shard_split, which takes the moment (of this rank: its slices) out of
 * it.
 */
acc *shard_fill(const Params *p, void *moment);
void shard_split(const Params *p, void *moment);
/* After the last of these calls: the gradients are zero again. */
void shard_done(const Params *p);
/* From now on each rank keeps its slices of the matrices' masters only. Once all ranks have the
 * weights; params_round may not be called afterwards. */
void shard_masters(Params *p);
/* How far an element of the bucket stands behind its place in the flat block in p->master. */
static inline size_t shard_shift(const Params *p, const Bucket *b) {
    return b->offset < p->split ? b->moment - b->slice : (size_t)0 - p->gap;
}
/* The masters as a whole block: themselves or, where they are sharded, put together in the
 * gradients' block, like a moment. */
acc *shard_whole_masters(const Params *p);
/* Every rank's slices of the weights for all; their compute weights follow. */
void shard_share_weights(Params *p);
#endif
