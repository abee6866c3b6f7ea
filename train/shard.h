/* shard: the flat parameter block over ranks. It is cut into buckets, whose gradients are reduced
 * one by one while backward still runs. With a sharded optimiser (ZeRO-1: Rajbhandari et al. 2020)
 * each bucket is cut again into one equal slice a rank, whose owner alone keeps the moments,
 * updates the weights and sends them to the others. If compute weights are a separate block (bf16),
 * only the owner keeps the masters of matrices, and it sends compute weights. Only trainable
 * tensors are sharded: frozen masters are whole on every rank. */
#pragma once
#include "train/optim_state.h"

typedef struct Bucket {
    size_t offset, size;  /* in the flat block */
    size_t slice, length; /* this rank's slice: its start in the flat block, its elements */
    size_t moment;        /* start of the slice in m, v and slices */
} Bucket;

size_t shard_buckets(const OptimState *s);
Bucket shard_bucket(const OptimState *s, size_t i);
static inline bool is_sharded(const OptimState *s) { return s->shards > 1; }

/* A moment (s->m or s->v) as a whole block of acc: itself or, if it is sharded or bf16, assembled
 * in the gradients' block, which is lost. All ranks call it. */
acc *shard_whole(const OptimState *s, void *moment);
/* The block to fill before shard_split, which copies the moment (this rank's slices of it) from
 * it. */
acc *shard_fill(const OptimState *s, void *moment);
void shard_split(const OptimState *s, void *moment);
/* Call after the last of these calls: zeroes the gradients again. */
void shard_done(const OptimState *s);
/* From now on each rank keeps only its slices of the matrices' masters. Call it once all ranks have
 * the weights; params_round must not be called afterwards. */
void shard_masters(OptimState *s);
/* The masters of a bucket's elements, as the address at which a whole flat block would start. */
acc *shard_master(const OptimState *s, const Bucket *b);
/* The masters as a whole block: themselves or, if they are sharded, assembled in the gradients'
 * block, like a moment. */
acc *shard_whole_masters(const OptimState *s);
/* Sends this rank's slices of the weights and receives the others'; rounds compute weights. */
void shard_share_weights(OptimState *s);
