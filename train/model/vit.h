/* vit: the image tower (docs/NUMERICS.md, 'Architecture'): pixels → patches → embedding → ln_pre →
 * tower, with patch dropout in training. The memory is clip.c's. */
#pragma once
#include "train/model/clip.h"
#include "train/model/tower.h"

/* Buffers before the blocks, for one kind of forward. */
typedef struct VitPass {
    act *patches;     /* [B·n, 3·P·P] */
    act *x0;          /* [rows,C] before ln_pre */
    acc *mean, *rstd; /* [rows]; without ln_pre all three NULL */
} VitPass;

typedef struct Vit {
    Tower tower;
    size_t image_size, patch_size;
    size_t grid, kept_grid; /* patches of a picture; those that patch dropout keeps */
    float mean[3], std[3];
    uint64_t seed;
    Layer conv1, ln_pre;
    const Param *class_embedding, *positional_embedding; /* the first NULL without class token */
    VitPass kept, transient;
    /* device: row offsets [B+1] and pooled rows [B] (Sequences) of whole pictures and of dropped
     * ones; kept positions [B,kept_grid] */
    int32_t *start[2], *pool[2], *keep;
    acc *turns; /* device: [grid,2,D] of rotate_heads; NULL without rotary positions */
    /* values of the last forward */
    Sequences seq;
    size_t n; /* patches of each picture */
} Vit;

void vit_init(Vit *v, const Kernels *k, const ClipConfig *c, const Params *p, const ClipOptions *o);
void vit_free(Vit *v);
void vit_layout_kept(Vit *v, Arena *a);
void vit_layout_scratch(Vit *v, Arena *a);
/* Uploads constants to device memory; call it after the layout. */
void vit_start(Vit *v);
/* Computes the patches of the next forward. */
void vit_load(Vit *v, const ClipBatch *b, bool keep);
/* Forward from the patches to the features in `unit` of the pass. */
void vit_fwd(Vit *v, bool keep);
/* Backward from the features' gradients in tower.kept.raw. */
void vit_bwd(Vit *v);
bool vit_trains(const Vit *v);
/* keep[n]: a random subset of n of `grid` positions in rising order, a function of the numbers. */
void patch_dropout_draw(int32_t *keep, size_t n, size_t grid, uint64_t seed, uint64_t sample,
                        uint64_t draw);
