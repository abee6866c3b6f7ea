/* shard: the flat parameter block over ranks. It is cut into buckets, whose gradients are reduced
 * one by one while backward still runs; with a sharded optimiser (ZeRO-1: Rajbhandari et al. 2020)
 * each bucket is cut again into one equal slice a rank, whose owner alone keeps the moments,
 * updates the weights and gives them to the others. Called by step, optim, checkpoint. */
#ifndef TRAIN_SHARD_H
#define TRAIN_SHARD_H
#include "train/params.h"

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
/* Every rank's slices of the master weights for all; the compute weights follow. */
void shard_share_weights(Params *p);
#endif
