/* projection_head: the projection head of image-image objectives (Chen et al. 2020, section 2):
 * linear layers with biases, GELU between them, from the image tower's pooled rows to L2-normalised
 * features. It is no part of the model: training states have it, models' files and evaluation do
 * not. */
#pragma once
#include "train/model/block.h"

enum { HEAD_LAYERS_MOST = 3 };

typedef struct HeadOptions {
    size_t layers; /* 2 or 3; 0: no head */
    size_t hidden, out;
} HeadOptions;

typedef struct ProjectionHead {
    const Kernels *k;
    const Params *p;
    HeadOptions o;
    size_t C, max_rows;
    Layer layer[HEAD_LAYERS_MOST];
    act *pre[HEAD_LAYERS_MOST], *h[HEAD_LAYERS_MOST]; /* [rows,hidden] of all but the last */
    act *d[2];                                        /* their gradients */
    acc *unit, *raw, *norm; /* [rows,out] features, before the norm or gradients; [rows] */
} ProjectionHead;

/* Adds the head's tensors, for pooled rows of C elements; call it before params_layout. */
void projection_head_declare(Params *p, const HeadOptions *o, size_t C);
/* o->layers 0: all other functions do nothing. rows: the most of a forward. */
void projection_head_init(ProjectionHead *h, const Kernels *k, const Params *p,
                          const HeadOptions *o, size_t C, size_t rows);
void projection_head_layout(ProjectionHead *h, Arena *a);
/* x[rows,C] → h->unit. */
void projection_head_fwd(const ProjectionHead *h, const act *x, size_t rows);
/* From the gradients of unit in h->raw: adds the layers' gradients, and writes dx[rows,C]. x: of
 * the last forward. */
void projection_head_bwd(const ProjectionHead *h, act *dx, const act *x, size_t rows);
