/* tower: shared by the image and the text tower: a stack of blocks, then pooling, the final
 * LayerNorm, the projection (if there is one) and the L2 norm. Owns no memory: it lays out an arena
 * of the caller's. */
#pragma once
#include "train/model/block.h"

/* Buffers of one kind of forward pass. */
typedef struct TowerPass {
    BlockStore *layer; /* [layers] */
    BlockScratch scratch;
    BlockStore pool;  /* of attention pooling */
    act *x3;          /* input of the final LayerNorm: [n,C], n = B or rows (mean of LayerNorms) */
    acc *mean, *rstd; /* [n]; with attention pooling all three NULL */
    act *pooled;      /* [B,C] the projection's input */
    acc *unit, *norm; /* [B,E], [B] normalised features, their norms before */
    acc *raw;         /* [B,E] scratch: features or their gradients before the norm */
    unsigned char *front; /* bytes free before the first block; apart from scratch.y, .branch */
} TowerPass;

/* All rows of one layer, written by every forward that is not kept. */
typedef struct TowerTap {
    acc *to; /* [max_rows,C]; NULL: none */
    size_t
        layer; /* the output of this block, from 1; 0: the last one's after the final LayerNorm */
} TowerTap;

/* Called in a backward with the gradient [B,C] of the pooled rows, which it may change. */
typedef struct PooledGradient {
    void (*call)(void *context, act *dpooled); /* NULL: not called */
    void *context;
} PooledGradient;

typedef struct Tower {
    const Kernels *k;
    const Params *p;
    TowerConfig config;
    size_t C, layers, E;
    bool prune; /* the last block for the pooled row only */
    bool training;
    size_t recomputed;                 /* blocks, from the first on, that keep only their input */
    size_t max_B, kept_rows, max_rows; /* rows of a kept forward, of any */
    size_t front;                      /* its bytes */
    Block *blocks;                     /* [layers] */
    Block pool;                        /* attention pooling, if the configuration has it */
    Layer ln_final, proj;              /* proj: empty without projection */
    TowerPass kept, transient;
    GradientsReady ready;
    PooledGradient on_pooled;
    TowerTap tap; /* of a tower whose tapped block computes all rows */
} Tower;

/* Packed rows of a batch are padded to a multiple of `bucket` (1: not), so that few shapes occur:
 * by a fixed number of sequences after the B of the batch, each of 1 to `longest` rows. They are
 * enough for up to bucket - 1 rows; with them the pooled block has a number of rows that 8-bit
 * products take. */
static inline size_t padding_sequences(size_t B, size_t bucket, size_t longest) {
    return bucket > 1 ? round_up(B + div_up(bucket - 1, longest - 1), FP8_ROWS) - B : 0;
}
static inline size_t padded_rows(size_t rows, size_t padding, size_t bucket) {
    return round_up(size_add(rows, padding), bucket);
}

/* Fills the blocks; p may be NULL if only sizes are wanted. */
void tower_init(Tower *t, const Kernels *k, const Params *p, const TowerConfig *c,
                ParamTower tower);
void tower_free(Tower *t);
/* Lays out buffers that must last from a kept forward to its backward. */
void tower_layout_kept(Tower *t, Arena *a);
/* Lays out the rest, which towers may share and which is valid only during a call. */
void tower_layout_scratch(Tower *t, Arena *a);

/* Forward from layer[0].x of the pass to the features in its `unit`. */
void tower_fwd(Tower *t, const Sequences *seq, bool keep);
/* Backward from the gradients of the features in kept.raw: adds the gradients of the blocks, final
 * LayerNorm and projection. embed_trains: a tensor before the blocks is trainable; kept.scratch.d
 * then holds the gradient of layer[0].x afterwards. */
void tower_bwd(Tower *t, const Sequences *seq, bool embed_trains);
/* Reports the gradients of the trainable ones to the listener; they are adjacent in the flat
 * block. */
void gradients_ready(const Kernels *k, const GradientsReady *listener, const Param *const *matrices,
                     size_t n);
void tower_ready(const Tower *t, const Param *const *matrices, size_t n);
/* Returns true if a block, the pooling, the final LayerNorm or the projection is trainable. */
bool tower_trains(const Tower *t);
/* Multiply-adds of the blocks and the projection to E features over a sequence of T tokens with
 * `scores` pairs of query and key; pooled: the last block for one token only. */
double tower_macs(const TowerConfig *t, size_t E, double T, double scores, bool pooled);
