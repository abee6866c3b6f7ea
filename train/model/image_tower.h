/* image_tower: the image tower of a model: a ViT or a ResNet. The seam that clip.c uses; the
 * functions are those of vit.h and resnet.h. */
#pragma once
#include "train/model/resnet.h"
#include "train/model/vit.h"

typedef struct ImageTower {
    bool convolutional; /* which of the two */
    Vit vit;
    Resnet resnet;
} ImageTower;

/* What callers use of a tower and one of its passes. */
typedef struct TowerView {
    const Sequences *seq; /* of the last forward */
    acc *unit, *raw;      /* [B,E] features; their gradients, before a backward */
    act *pooled;          /* [B,C] what the projection reads */
    size_t E;
    GradientsReady *ready;
} TowerView;

void image_tower_init(ImageTower *t, const Kernels *k, const ClipConfig *c, const Params *p,
                      const ClipOptions *o);
void image_tower_free(ImageTower *t);
void image_tower_layout_kept(ImageTower *t, Arena *a);
void image_tower_layout_scratch(ImageTower *t, Arena *a);
void image_tower_start(ImageTower *t);
void image_tower_load(ImageTower *t, const ClipBatch *b, bool keep);
void image_tower_fwd(ImageTower *t, bool keep);
void image_tower_bwd(ImageTower *t);
bool image_tower_trains(const ImageTower *t);
/* Returns true if it has the memory for a backward. */
bool image_tower_training(const ImageTower *t);
void image_tower_learning(ImageTower *t, bool learning);
TowerView image_tower_view(ImageTower *t, bool keep);
/* Called in every later backward between the projection and the rest. */
void image_tower_on_pooled(ImageTower *t, PooledGradient call);
/* The most pictures of a forward. */
size_t image_tower_most(const ImageTower *t);
/* Bytes of a picture; patches of it that dropout keeps, or 0: no dropout. */
size_t image_tower_pixels(const ImageTower *t);
size_t image_tower_kept(const ImageTower *t);
void image_tower_draw(const ImageTower *t, int32_t *keep, const uint64_t *sample, uint64_t draw,
                      size_t B);
