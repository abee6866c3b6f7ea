/* resnet: the image tower that is a ResNet (docs/NUMERICS.md, 'Architecture'): pixels → stem →
 * blocks → attention over the last grid, or its mean → projection → L2 norm. */
#pragma once
#include "train/model/conv_layer.h"
#include "train/model/image_tower.h"

typedef struct ConvBlock {
    size_t count;
    ConvLayer conv[CONV_PLACES]; /* beside the block: its w is NULL if absent */
    Windows pool, pool_in;       /* before the last convolution and the one beside */
    size_t in, out;              /* elements of a picture's input and output */
} ConvBlock;
typedef struct ConvBlockStore {
    ConvStore conv[CONV_PLACES];
    act *pooled, *pooled_in; /* NULL: no pools */
} ConvBlockStore;

/* Buffers of one kind of forward pass. */
typedef struct ResnetPass {
    act *pixels;           /* [B,S,S,3] */
    ConvBlockStore *block; /* [1 + blocks], the stem first */
    act *stem;             /* its output after the pool */
    uint8_t *from;         /* of the largest pixels */
    act *beside;           /* output of the convolution beside a block */
    acc *sums;             /* [2, channels] */
    /* attention over the last grid; otherwise only o, the grid's mean */
    act *x, *mean, *q_in, *q, *kv, *o; /* [rows,C], [B,C] …, [rows,2C] */
    acc *lse;
    acc *raw, *unit, *norm; /* [B,E] features before the norm or their gradients, after; [B] */
} ResnetPass;

typedef struct Resnet {
    ImageTower image;
    const Kernels *k;
    const Params *p;
    const Comm *sync; /* NULL: statistics of this rank */
    TowerConfig config;
    size_t E, blocks; /* blocks: with the stem */
    float channel_mean[3], channel_std[3];
    bool checkpoint;
    ConvBlock *block;
    Windows stem_pool;
    Layer pool[3], proj; /* query, key, value */
    const Param *positions;
    ResnetPass kept, transient;
    act *d, *d1, *d2;          /* gradients of a block */
    act *dkv, *dq, *dx, *down; /* of the head; gradients of [B,C] */
    acc *zeros, *unused;       /* [C]; gradient of a row of zeros, and of frozen positions */
    int32_t *start[2];         /* [B+1] rows of the last grid, without and with its mean */
    GradientsReady ready;
    PooledGradient on_pooled;
    bool batch; /* the last forward's normalisations that learn used its batch */
} Resnet;
