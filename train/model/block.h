/* block: one transformer block, forward and backward, in two forms: for every token, or (the last
 * block) for only the pooled token of each sequence. x2 = x + Attn(ln_1(x)); out = x2 +
 * MLP(ln_2(x2)). The residual is added by the branch's last product, or (unless
 * Kernels.residual_in_product) by the LayerNorm that follows. LayerNorm and activation
 * outputs are not kept: backward recomputes them in a pass that it needs anyway.
 *
 * With post_norm: x2 = x + ln_1(Attn(x)); out = x2 + ln_2(MLP(x2)).
 *
 * Attention pooling is a block in the pooled form whose query is the probe and whose attention has
 * no residual: x2 = Attn(probe, ln_1(x)), and ln_1 is the tower's final LayerNorm. */
#pragma once
#include "train/model/params.h"

/* Weight and bias of one layer; b may be NULL, and both if there is no such layer. */
typedef struct Layer {
    const Param *w, *b;
} Layer;

/* Packed sequences on the device: sequence i owns rows start[i] … start[i+1]-1, its pooled row is
 * pool[i] (0, the probe's only row, in a tower with attention pooling); max_T: the longest. turns,
 * keep, first: rotary positions, as in rotate_heads. */
typedef struct Sequences {
    const int32_t *start, *pool;
    size_t B, rows, max_T;
    const acc *turns;
    const int32_t *keep;
    size_t first;
} Sequences;

typedef struct Block {
    const Kernels *k;
    const Params *p;
    size_t C, H, mlp;
    double eps;
    Activation f;
    bool causal, rotary, gated, post_norm;
    Layer ln_1, in_proj, out_proj, ln_2, c_fc, c_proj;
    const Param *probe;     /* of attention pooling; NULL: a block */
    Layer ln_inner, ln_mlp; /* empty if the configuration has none */
} Block;

/* Values of a forward for its backward. n = rows, or B in the pooled form. */
typedef struct BlockStore {
    act *x;               /* [rows,C] the block's input */
    acc *mean1, *rstd1;   /* [rows] */
    act *x2;              /* [n,C] after the attention branch */
    acc *mean2, *rstd2;   /* [n] */
    act *qkv;             /* [rows,3C]; pooled: [rows,2C], K and V */
    act *q;               /* pooled: [B,C] */
    act *o;               /* [n,C] attention's output */
    acc *lse;             /* [H,n] */
    acc *mean_o, *rstd_o; /* [n] of ln_inner */
    acc *mean_h, *rstd_h; /* [n] of ln_mlp */
    act *a, *m;           /* [n,C] the branches before the LayerNorms of post_norm */
    act *pre; /* [n,mlp] before the activation; gated: [n,2mlp], after backward its gradient */
} BlockStore;

/* Buffers that are valid only during a call, except `branch` (forward) and `d` (backward), which
 * the next block reads. */
typedef struct BlockScratch {
    act *y;        /* [rows,C] LayerNorm's output */
    act *branch;   /* [rows,C] a branch's output, or the gradient of a LayerNorm's output */
    act *h;        /* [rows,mlp] */
    act *h_norm;   /* [rows,mlp] ln_mlp's output, or NULL */
    act *gathered; /* [B,C] */
    act *d;        /* [rows,C] gradient of the residual stream */
    act *dh;       /* [rows,max(mlp,3C)] */
    act *dpooled;  /* [B,C] gradient of the pooled rows of the residual stream */
} BlockScratch;

/* Lays out all of a store except x. forward_only: attention's outputs share memory with the
 * MLP's. */
void block_store_layout(BlockStore *s, Arena *a, const Block *b, size_t rows, size_t B, bool pooled,
                        bool forward_only);
/* Lays out all of the scratch except y and branch. */
void block_scratch_layout(BlockScratch *s, Arena *a, const Block *b, size_t rows, size_t B,
                          bool backward);
bool block_trains(const Block *b);

/* x_in[rows,C]: s->x = x_in + t->branch is the input; NULL: s->x already holds it. Writes s->x2 and
 * to out[rows,C] the output; out NULL: the output is s->x2 + t->branch. recompute: computes only
 * the values that backward needs, with the same bits. */
void block_fwd(const Block *b, const BlockStore *s, const BlockScratch *t, const Sequences *seq,
               const act *x_in, act *out, bool recompute);
/* The same for the pooled rows, or attention pooling: s->x2, t->branch, out [B,C]. All keys are
 * used, so a causal sequence must end at its pooled token. */
void block_pool_fwd(const Block *b, const BlockStore *s, const BlockScratch *t,
                    const Sequences *seq, const act *x_in, act *out, bool recompute);
/* t->d: gradient of the output; replaced by that of the input. */
void block_bwd(const Block *b, const BlockStore *s, const BlockScratch *t, const Sequences *seq);
/* t->dpooled [B,C] → t->d [rows,C]. */
void block_pool_bwd(const Block *b, const BlockStore *s, const BlockScratch *t,
                    const Sequences *seq);

/* ---- one layer's parameters; shared with tower.c and the towers ---- */
/* The weight must exist. */
Layer layer_at(const Params *p, ParamTower tower, size_t layer, ParamRole role);
bool layer_trains(Layer l);
/* The output of the tensor's gradient; NULL if it is absent or frozen. */
acc *trainable_grad(const Params *p, const Param *q);
/* Computes the gradients of a linear layer's trainable parameters; a trainable bias implies a
 * trainable matrix. */
void linear_grad(const Params *p, Layer l, const act *dy, const act *x, size_t M, size_t N,
                 size_t K);
void norm_fwd(const Params *p, Layer l, double eps, act *y, acc *mean, acc *rstd, act *sum,
              const act *x, const act *r, size_t rows, size_t C);
void norm_bwd(const Params *p, Layer l, act *dx, act *y, const act *dy, const act *dres,
              const act *x, const acc *mean, const acc *rstd, size_t rows, size_t C);
