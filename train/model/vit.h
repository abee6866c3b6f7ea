/* vit: the image tower that is a ViT (docs/NUMERICS.md, 'Architecture'): pixels → patches →
 * embedding → ln_pre → tower, with patch dropout in training. */
#pragma once
#include "train/model/conv_stem.h"
#include "train/model/image_tower.h"

/* Buffers before the blocks, for one kind of forward. */
typedef struct VitPass {
    act *patches;       /* [rows without class tokens, 3·P·P] */
    ConvStemStore stem; /* in place of patches, if the configuration has a stem */
    act *x0;            /* [rows,C] before ln_pre */
    acc *mean, *rstd;   /* [rows]; without ln_pre all three NULL */
} VitPass;

typedef struct Vit {
    ImageTower image;
    Tower tower;
    float mean[3], std[3];
    Layer conv1, ln_pre;
    const Param *class_embedding, *positional_embedding; /* the first NULL without class token */
    VitPass kept, transient;
    ConvStem stem;
    acc *positions, *dpositions; /* [1+grid,C] with a class token's position of 0, its gradient
                                    too; NULL unless the configuration has none */
    /* device: row offsets [B+1] and pooled rows [B] (Sequences) of whole pictures and of dropped
     * ones; kept positions [B,kept] */
    int32_t *start[2], *pool[2], *keep;
    /* of pictures of their own sizes: [B,2] patches of each by height and width; scratch for some
     * rows' weights [n,grid] of positions, and positions [n,C] */
    int32_t *shape;
    acc *weights, *row_positions;
    acc *turns;      /* device: [grid,2,D] of rotate_heads; NULL without rotary positions */
    size_t n;        /* patches of each picture of the last forward, or 0: they differ */
    size_t pictures; /* of it; padding follows them */
} Vit;

/* keep[n]: a random subset of n of `grid` positions in rising order, a function of the numbers. */
void patch_dropout_draw(int32_t *keep, size_t n, size_t grid, uint64_t seed, uint64_t sample,
                        uint64_t draw);
