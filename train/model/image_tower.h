/* image_tower: the image tower of a model as clip.c sees it: a ViT (vit.c) or a ResNet (resnet.c),
 * each with its row of functions. The memory is clip.c's. */
#pragma once
#include "train/model/clip.h"
#include "train/model/tower.h"

/* The first member of every image tower. */
typedef struct ImageTower {
    const struct ImageTowerKind *kind;
    size_t max_B;           /* the most pictures of a forward */
    size_t side;            /* pixels */
    size_t patch_size;      /* of a ViT */
    size_t grid;            /* patches of a picture, or pixels of the last grid */
    size_t kept;            /* patches that patch dropout keeps; grid: no dropout */
    size_t max_patches;     /* of a picture of its own size; 0: pictures are side × side */
    size_t padding, bucket; /* of the rows of such pictures, as the text tower's */
    uint64_t seed;
    bool training; /* has the memory for a backward */
    bool learning; /* the next forward is part of a step */
    Sequences seq; /* of the last forward */
} ImageTower;

/* What callers use of a tower and one of its passes. */
typedef struct TowerView {
    const Sequences *seq; /* of the last forward */
    acc *unit, *raw;      /* [B,E] features; their gradients, before a backward */
    act *pooled;          /* [B,C] what the projection reads */
    size_t E;
    GradientsReady *ready;
    PooledGradient *on_pooled;
} TowerView;

typedef struct ImageTowerKind {
    ImageTower *(*create)(const Kernels *k, const ClipConfig *c, const Params *p,
                          const ClipOptions *o);
    void (*destroy)(ImageTower *t);
    void (*layout_kept)(ImageTower *t, Arena *a);
    void (*layout_scratch)(ImageTower *t, Arena *a);
    /* Uploads constants to device memory; after the layout. */
    void (*start)(ImageTower *t);
    /* Computes what the next forward reads of the pixels. */
    void (*load)(ImageTower *t, const ClipBatch *b, bool keep);
    /* Forward to the features in `unit` of the pass. */
    void (*fwd)(ImageTower *t, bool keep);
    /* Backward from the features' gradients in `raw` of the kept pass. */
    void (*bwd)(ImageTower *t);
    bool (*trains)(const ImageTower *t);
    TowerView (*view)(ImageTower *t, bool keep);
    /* Of clip_tap_image; NULL: the tower has no rows to tap. */
    void (*tap)(ImageTower *t, acc *to, size_t layer);
    /* Multiply-adds of one picture's forward; full: without exact skips. */
    double (*macs)(const ClipConfig *c, bool full);
} ImageTowerKind;

extern const ImageTowerKind vit_tower, resnet_tower;

static inline const ImageTowerKind *image_tower_kind(const ClipConfig *c) {
    return c->image.conv.kind == CONV_NONE ? &vit_tower : &resnet_tower;
}
