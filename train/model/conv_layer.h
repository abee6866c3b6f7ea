/* conv_layer: a convolution with its batch normalisation, of a ResNet or of a ViT's convolutional
 * stem.
 *
 * A batch normalisation whose weights are frozen, and every one outside of training, uses its
 * running statistics. Those that learn use the statistics of the forward's batch, on this rank or
 * (ClipOptions.sync_norm) on all. */
#pragma once
#include "train/model/params_resnet.h"
#include "train/ranks/comm.h"

/* g: windows over one picture. scale, shift, mean, var: NULL without batch normalisation. */
typedef struct ConvLayer {
    ConvShape s;
    Windows g;
    const Param *w, *scale, *shift, *mean, *var;
} ConvLayer;
typedef struct ConvStore {
    act *z, *y;       /* the convolution's output; after normalisation and activation */
    acc *mean, *rstd; /* [channels] */
} ConvStore;

/* What the layers of a tower share in one pass. */
typedef struct ConvPass {
    const Kernels *k;
    const Params *p;
    const Comm *sync; /* NULL: statistics of this rank */
    double eps;
    bool batch; /* normalisations that learn use the batch's statistics */
    bool moves; /* and move the running ones */
    size_t B;
    acc *sums; /* [2, channels] */
} ConvPass;

/* The layer's convolution number `place` (from 0) over pictures of side × side; normed: it has a
 * batch normalisation. p may be NULL if only sizes are wanted. */
ConvLayer conv_layer_at(const Params *p, size_t layer, size_t place, const ConvShape *s,
                        size_t side, bool normed);
size_t conv_side_after(const Windows *g);
/* Of one picture's output. */
size_t conv_elements(const ConvLayer *c);
Windows windows_of_batch(Windows g, size_t B);
bool conv_layer_trains(const ConvLayer *c);

/* s->z from x. */
void conv_layer_fwd(const ConvPass *w, const ConvLayer *c, const ConvStore *s, const act *x);
/* dz: gradient of s->z; dx NULL: unused. */
void conv_layer_bwd(const ConvPass *w, const ConvLayer *c, act *dx, const act *dz, const act *x);
/* s->y = f(batch normalisation of s->z + residual), f = max(0, ·) if relu; residual may be NULL.
 * again: the statistics are known. */
void conv_norm_fwd(const ConvPass *w, const ConvLayer *c, const ConvStore *s, const act *residual,
                   bool relu, bool again);
/* d: gradient of s->y, becomes that before the ReLU. dz: that of s->z; may be d. */
void conv_norm_bwd(const ConvPass *w, const ConvLayer *c, const ConvStore *s, act *dz, act *d,
                   bool relu);
