#include "train/model/block.h"

#include "train/model/lora.h"

/* Parameters in the form of the products. */
static const act *weight(const Block *b, Layer l) { return param_act(b->p, l.w); }
static const act *bias(const Block *b, Layer l) { return param_act(b->p, l.b); }

Layer layer_at(const Params *p, ParamTower tower, size_t layer, ParamRole role) {
    Layer l = {params_at(p, tower, layer, role, false), params_at(p, tower, layer, role, true)};
    assert(l.w);
    return l;
}

bool layer_trains(Layer l) { return l.w && (param_has_grad(l.w) || (l.b && l.b->trainable)); }

/* The output of a matrix's gradient until grad_done, which does the work that follows from it. */
static acc *matrix_grad(const Params *p, const Param *w) {
    return w->adapted ? lora_grad_begin(p, w) : param_grad(p, w);
}
static void grad_done(const Params *p, const Param *w) {
    if (w->adapted) lora_grad_end(p, w);
}

acc *trainable_grad(const Params *p, const Param *q) {
    return q && q->trainable ? param_grad(p, q) : NULL;
}

void linear_grad(const Params *p, Layer l, const act *dy, const act *x, size_t M, size_t N,
                 size_t K) {
    if (!layer_trains(l)) return;
    p->k->linear_bwd_weight(matrix_grad(p, l.w), trainable_grad(p, l.b), dy, x, M, N, K);
    grad_done(p, l.w);
}

void norm_fwd(const Params *p, Layer l, double eps, act *y, acc *mean, acc *rstd, act *sum,
              const act *x, const act *r, size_t rows, size_t C) {
    p->k->layernorm_fwd(y, mean, rstd, sum, x, r, param_acc(p, l.w), param_acc(p, l.b), rows, C,
                        eps);
}

void norm_bwd(const Params *p, Layer l, act *dx, act *y, const act *dy, const act *dres,
              const act *x, const acc *mean, const acc *rstd, size_t rows, size_t C) {
    acc *dw = trainable_grad(p, l.w), *db = trainable_grad(p, l.b);
    if (!dw) dw = p->unused_grad;
    if (!db) db = acc_at(p->k, p->unused_grad, p->longest);
    p->k->layernorm_bwd(dx, dw, db, y, dy, dres, x, mean, rstd, param_acc(p, l.w),
                        param_acc(p, l.b), rows, C);
}

bool block_trains(const Block *b) {
    return layer_trains(b->ln_inner) || layer_trains(b->ln_mlp) || layer_trains(b->ln_1) ||
           layer_trains(b->in_proj) || layer_trains(b->out_proj) || layer_trains(b->ln_2) ||
           layer_trains(b->c_fc) || layer_trains(b->c_proj) || (b->probe && b->probe->trainable);
}

void block_store_layout(BlockStore *s, Arena *a, const Block *b, size_t rows, size_t B, bool pooled,
                        bool forward_only) {
    size_t n = pooled ? B : rows, ac = b->k->act_size, sc = b->k->acc_size;
    /* mean1 and rstd1 come first: stores of both forms may share memory, and the pooled block's
     * ln_1 writes them while it reads the x2 of the previous block. */
    s->mean1 = arena_take(a, rows, sc);
    s->rstd1 = arena_take(a, rows, sc);
    s->x2 = arena_take(a, size_mul(n, b->C), ac);
    s->mean2 = arena_take(a, n, sc);
    s->rstd2 = arena_take(a, n, sc);
    s->mean_o = arena_take(a, b->ln_inner.w ? n : 0, sc);
    s->rstd_o = arena_take(a, b->ln_inner.w ? n : 0, sc);
    s->mean_h = arena_take(a, b->ln_mlp.w ? n : 0, sc);
    s->rstd_h = arena_take(a, b->ln_mlp.w ? n : 0, sc);
    size_t branch = b->post_norm ? size_mul(n, b->C) : 0;
    s->a = arena_take(a, branch, ac);
    s->m = arena_take(a, branch, ac);
    size_t mark = a->used;
    s->qkv = arena_take(a, size_mul(rows, (pooled ? 2 : 3) * b->C), ac);
    s->q = pooled ? arena_take(a, size_mul(B, b->C), ac) : NULL;
    s->o = arena_take(a, size_mul(n, b->C), ac);
    s->lse = arena_take(a, size_mul(n, b->H), sc);
    size_t end = a->used;
    if (forward_only) a->used = mark;
    s->pre = arena_take(a, size_mul(n, (b->gated ? 2 : 1) * b->mlp), ac);
    a->used = size_max(end, a->used);
}

void block_scratch_layout(BlockScratch *s, Arena *a, const Block *b, size_t rows, size_t B,
                          bool backward) {
    size_t ac = b->k->act_size;
    s->h = arena_take(a, size_mul(rows, b->mlp), ac);
    s->h_norm = b->ln_mlp.w ? arena_take(a, size_mul(rows, b->mlp), ac) : NULL;
    s->gathered = arena_take(a, size_mul(B, b->C), ac);
    s->d = s->dh = s->dpooled = NULL;
    if (!backward) return;
    s->d = arena_take(a, size_mul(rows, b->C), ac);
    s->dh = arena_take(a, size_mul(rows, size_max(b->mlp, 3 * b->C)), ac);
    s->dpooled = arena_take(a, size_mul(B, b->C), ac);
}

static const act *c_proj_input(const Block *b, const BlockScratch *t) {
    return b->ln_mlp.w ? t->h_norm : t->h;
}

/* y[n,C] = layer(x[n,K]) + r; r may be NULL. */
static void branch_end(const Block *b, Layer l, act *y, const act *r, const act *x, size_t n,
                       size_t K) {
    if (r)
        b->k->linear_add_fwd(y, r, x, weight(b, l), bias(b, l), n, b->C, K);
    else
        b->k->linear_fwd(y, x, weight(b, l), bias(b, l), n, b->C, K);
}

/* From the residual x[n,C] and the attention branch to x2 (x NULL: x2 is there) and the output, or
 * (out NULL) the MLP branch. */
static void mlp_fwd(const Block *b, const BlockStore *s, const BlockScratch *t, const act *x,
                    act *out, size_t n, bool recompute) {
    norm_fwd(b->p, b->ln_2, b->eps, t->y, s->mean2, s->rstd2, x ? s->x2 : NULL, x ? x : s->x2,
             x ? t->branch : NULL, n, b->C);
    if (b->gated) {
        b->k->linear_fwd(s->pre, t->y, weight(b, b->c_fc), bias(b, b->c_fc), n, 2 * b->mlp, b->C);
        if (recompute && !b->ln_mlp.w) return;
        b->k->swiglu_fwd(t->h, s->pre, n, b->mlp);
    } else {
        b->k->linear_activation_fwd(t->h, s->pre, t->y, weight(b, b->c_fc), bias(b, b->c_fc), n,
                                    b->mlp, b->C, b->f);
    }
    if (b->ln_mlp.w)
        norm_fwd(b->p, b->ln_mlp, b->eps, t->h_norm, s->mean_h, s->rstd_h, NULL, t->h, NULL, n,
                 b->mlp);
    if (recompute) return;
    branch_end(b, b->c_proj, out ? out : t->branch, out ? s->x2 : NULL, c_proj_input(b, t), n,
               b->mlp);
}

/* From t->dh [n,mlp], the gradient of c_proj's input, to that of s->pre, which it replaces, and
 * c_proj's input again. */
static void gated_bwd(const Block *b, const BlockStore *s, const BlockScratch *t, size_t n) {
    b->k->swiglu_fwd(t->h, s->pre, n, b->mlp);
    if (b->ln_mlp.w)
        norm_bwd(b->p, b->ln_mlp, t->dh, t->h_norm, t->dh, NULL, t->h, s->mean_h, s->rstd_h, n,
                 b->mlp);
    b->k->swiglu_bwd(s->pre, t->dh, s->pre, n, b->mlp);
}

/* d[n,C]: gradient of the output → gradient of x2. */
static void mlp_bwd(const Block *b, const BlockStore *s, const BlockScratch *t, act *d, size_t n) {
    const Kernels *k = b->k;
    k->linear_bwd_input(t->dh, d, weight(b, b->c_proj), n, b->C, b->mlp);
    Layer c_fc = b->c_fc;
    acc *db = NULL;
    if (k->bias_in_activation && !b->gated) {
        db = trainable_grad(b->p, c_fc.b);
        c_fc.b = NULL;
    }
    size_t wide = (b->gated ? 2 : 1) * b->mlp;
    const act *dpre = b->gated ? s->pre : t->dh;
    if (b->gated)
        gated_bwd(b, s, t, n);
    else
        k->activation_bwd(t->dh, t->h, db, t->dh, s->pre, n, b->mlp, b->f);
    linear_grad(b->p, b->c_proj, d, c_proj_input(b, t), n, b->C, b->mlp);
    k->linear_bwd_input(t->branch, dpre, weight(b, b->c_fc), n, wide, b->C);
    norm_bwd(b->p, b->ln_2, d, t->y, t->branch, d, s->x2, s->mean2, s->rstd2, n, b->C);
    linear_grad(b->p, c_fc, dpre, t->y, n, wide, b->C);
}

/* The first `heads` heads of x's rows of ld elements. */
static void turn(const Block *b, act *x, const Sequences *seq, size_t ld, size_t heads, bool back) {
    if (b->rotary)
        b->k->rotate_heads(x, seq->turns, seq->keep, seq->B, seq->first, seq->max_T - seq->first,
                           ld, heads, b->C / b->H, back);
}

/* s->o [n,C] → y [n,C], plus r unless NULL. */
static void out_proj_fwd(const Block *b, const BlockStore *s, const BlockScratch *t, act *y,
                         const act *r, size_t n) {
    const act *x = s->o;
    if (b->ln_inner.w) {
        norm_fwd(b->p, b->ln_inner, b->eps, t->y, s->mean_o, s->rstd_o, NULL, s->o, NULL, n, b->C);
        x = t->y;
    }
    branch_end(b, b->out_proj, y, r, x, n, b->C);
}

/* d [n,C]: gradient of out_proj's output → that of s->o in t->branch. */
static void out_proj_bwd(const Block *b, const BlockStore *s, const BlockScratch *t, const act *d,
                         size_t n) {
    const act *x = s->o;
    b->k->linear_bwd_input(t->branch, d, weight(b, b->out_proj), n, b->C, b->C);
    if (b->ln_inner.w) {
        norm_bwd(b->p, b->ln_inner, t->branch, t->y, t->branch, NULL, s->o, s->mean_o, s->rstd_o, n,
                 b->C);
        x = t->y;
    }
    linear_grad(b->p, b->out_proj, d, x, n, b->C, b->C);
}

/* A key's bias that does not exist has no gradient. */
static void clear_key_bias(const Block *b) {
    acc *db = trainable_grad(b->p, b->in_proj.b);
    if (db && b->in_proj.b->no_key)
        b->k->device->zero(acc_at(b->k, db, b->C), b->C * b->k->acc_size);
}

/* → in_proj's input. */
static const act *input_fwd(const Block *b, const BlockStore *s, const BlockScratch *t, size_t rows,
                            const act *x_in) {
    if (b->post_norm) {
        if (x_in) b->k->add(s->x, x_in, t->branch, rows * b->C);
        return s->x;
    }
    if (x_in)
        norm_fwd(b->p, b->ln_1, b->eps, t->y, s->mean1, s->rstd1, s->x, x_in, t->branch, rows,
                 b->C);
    else
        norm_fwd(b->p, b->ln_1, b->eps, t->y, s->mean1, s->rstd1, NULL, s->x, NULL, rows, b->C);
    return t->y;
}

/* ---- post_norm ---- */

/* From attention's output and the residual x[n,C] to x2 and the MLP's branch; out: unless NULL,
 * their sum. */
static void post_fwd(const Block *b, const BlockStore *s, const BlockScratch *t, const act *x,
                     act *out, size_t n) {
    const Kernels *k = b->k;
    out_proj_fwd(b, s, t, s->a, NULL, n);
    norm_fwd(b->p, b->ln_1, b->eps, t->y, s->mean1, s->rstd1, NULL, s->a, NULL, n, b->C);
    k->add(s->x2, x, t->y, n * b->C);
    k->linear_activation_fwd(t->h, s->pre, s->x2, weight(b, b->c_fc), bias(b, b->c_fc), n, b->mlp,
                             b->C, b->f);
    k->linear_fwd(s->m, t->h, weight(b, b->c_proj), bias(b, b->c_proj), n, b->C, b->mlp);
    norm_fwd(b->p, b->ln_2, b->eps, t->branch, s->mean2, s->rstd2, NULL, s->m, NULL, n, b->C);
    if (out) k->add(out, s->x2, t->branch, n * b->C);
}

/* d[n,C]: gradient of the output → gradient of x2, and that of attention's output in t->branch. */
static void post_bwd(const Block *b, const BlockStore *s, const BlockScratch *t, act *d, size_t n) {
    const Kernels *k = b->k;
    Layer c_fc = b->c_fc;
    acc *db = NULL;
    if (k->bias_in_activation) {
        db = trainable_grad(b->p, c_fc.b);
        c_fc.b = NULL;
    }
    norm_bwd(b->p, b->ln_2, t->branch, NULL, d, NULL, s->m, s->mean2, s->rstd2, n, b->C);
    k->linear_bwd_input(t->dh, t->branch, weight(b, b->c_proj), n, b->C, b->mlp);
    k->activation_bwd(t->dh, t->h, db, t->dh, s->pre, n, b->mlp, b->f);
    linear_grad(b->p, b->c_proj, t->branch, t->h, n, b->C, b->mlp);
    k->linear_bwd_input(t->y, t->dh, weight(b, b->c_fc), n, b->mlp, b->C);
    linear_grad(b->p, c_fc, t->dh, s->x2, n, b->mlp, b->C);
    k->add(d, d, t->y, n * b->C);
    norm_bwd(b->p, b->ln_1, t->y, NULL, d, NULL, s->a, s->mean1, s->rstd1, n, b->C);
    out_proj_bwd(b, s, t, t->y, n);
}

/* ---- the two forms ---- */

void block_fwd(const Block *b, const BlockStore *s, const BlockScratch *t, const Sequences *seq,
               const act *x_in, act *out, bool recompute) {
    const Kernels *k = b->k;
    size_t rows = seq->rows, C = b->C;
    bool early = k->residual_in_product;
    const act *in = input_fwd(b, s, t, rows, x_in);
    k->linear_fwd(s->qkv, in, weight(b, b->in_proj), bias(b, b->in_proj), rows, 3 * C, C);
    turn(b, s->qkv, seq, 3 * C, 2 * b->H, false);
    k->attention_fwd(s->o, s->lse, s->qkv, seq->start, seq->B, rows, seq->max_T, b->H, C / b->H,
                     b->causal);
    if (b->post_norm) {
        post_fwd(b, s, t, s->x, out, rows);
        return;
    }
    out_proj_fwd(b, s, t, early ? s->x2 : t->branch, early ? s->x : NULL, rows);
    mlp_fwd(b, s, t, early ? NULL : s->x, out, rows, recompute);
}

void block_bwd(const Block *b, const BlockStore *s, const BlockScratch *t, const Sequences *seq) {
    const Kernels *k = b->k;
    size_t rows = seq->rows, C = b->C;
    if (b->post_norm) {
        post_bwd(b, s, t, t->d, rows);
    } else {
        mlp_bwd(b, s, t, t->d, rows);
        out_proj_bwd(b, s, t, t->d, rows);
    }
    act *dqkv = t->dh;
    k->attention_bwd(dqkv, t->branch, s->o, s->lse, s->qkv, seq->start, seq->B, rows, seq->max_T,
                     b->H, C / b->H, b->causal);
    turn(b, dqkv, seq, 3 * C, 2 * b->H, true);
    k->linear_bwd_input(t->branch, dqkv, weight(b, b->in_proj), rows, 3 * C, C);
    if (b->post_norm)
        k->add(t->d, t->d, t->branch, rows * C);
    else
        norm_bwd(b->p, b->ln_1, t->d, t->y, t->branch, t->d, s->x, s->mean1, s->rstd1, rows, C);
    linear_grad(b->p, b->in_proj, dqkv, b->post_norm ? s->x : t->y, rows, 3 * C, C);
    clear_key_bias(b);
}

/* The rows of which seq->pool selects the queries' inputs; in: in_proj's input. */
static const act *query_rows(const Block *b, const act *in) {
    return b->probe ? param_act(b->p, b->probe) : in;
}

void block_pool_fwd(const Block *b, const BlockStore *s, const BlockScratch *t,
                    const Sequences *seq, const act *x_in, act *out, bool recompute) {
    const Kernels *k = b->k;
    size_t rows = seq->rows, B = seq->B, C = b->C;
    bool early = k->residual_in_product;
    const act *w = weight(b, b->in_proj);
    const act *wb = bias(b, b->in_proj);
    const act *in = input_fwd(b, s, t, rows, x_in);
    k->linear_fwd(s->qkv, in, act_at(k, w, C * C), act_at(k, wb, C), rows, 2 * C, C);
    turn(b, s->qkv, seq, 2 * C, b->H, false); /* the query is a class token's, or the probe */
    k->gather_rows(t->gathered, query_rows(b, in), seq->pool, B, C);
    k->linear_fwd(s->q, t->gathered, w, wb, B, C, C);
    k->attention_pool_fwd(s->o, s->lse, s->q, s->qkv, seq->start, B, rows, b->H, C / b->H);
    const act *x = b->probe ? NULL : t->gathered;
    if (b->post_norm) {
        post_fwd(b, s, t, x, out, B);
        return;
    }
    if (x) k->gather_rows(t->gathered, s->x, seq->pool, B, C);
    out_proj_fwd(b, s, t, x && !early ? t->branch : s->x2, early ? x : NULL, B);
    mlp_fwd(b, s, t, early ? NULL : x, out, B, recompute);
}

void block_pool_bwd(const Block *b, const BlockStore *s, const BlockScratch *t,
                    const Sequences *seq) {
    const Kernels *k = b->k;
    size_t rows = seq->rows, B = seq->B, C = b->C;
    const act *w = weight(b, b->in_proj);
    act *dkv = t->dh, *dq = act_at(k, t->dh, rows * 2 * C);
    if (b->post_norm) {
        post_bwd(b, s, t, t->dpooled, B);
    } else {
        mlp_bwd(b, s, t, t->dpooled, B);
        out_proj_bwd(b, s, t, t->dpooled, B);
    }
    k->attention_pool_bwd(dq, dkv, t->branch, s->o, s->lse, s->q, s->qkv, seq->start, B, rows, b->H,
                          C / b->H);
    turn(b, dkv, seq, 2 * C, b->H, true);
    act *din = b->post_norm ? t->d : t->branch;
    const act *in = b->post_norm ? s->x : t->y;
    k->linear_bwd_input(din, dkv, act_at(k, w, C * C), rows, 2 * C, C);
    k->linear_bwd_input(t->gathered, dq, w, B, C, C);
    if (!b->probe)
        k->scatter_add_rows(din, t->gathered, seq->pool, B, C);
    else if (b->probe->trainable)
        k->bias_bwd(param_grad(b->p, b->probe), t->gathered, B, C);
    if (!b->post_norm)
        norm_bwd(b->p, b->ln_1, t->d, t->y, t->branch, NULL, s->x, s->mean1, s->rstd1, rows, C);
    if (!b->probe) k->scatter_add_rows(t->d, t->dpooled, seq->pool, B, C);
    if (!layer_trains(b->in_proj)) return;
    acc *dw = matrix_grad(b->p, b->in_proj.w), *db = trainable_grad(b->p, b->in_proj.b);
    k->linear_bwd_weight(acc_at(k, dw, C * C), db ? acc_at(k, db, C) : NULL, dkv, in, rows, 2 * C,
                         C);
    k->gather_rows(t->gathered, query_rows(b, in), seq->pool, B, C);
    k->linear_bwd_weight(dw, db, dq, t->gathered, B, C, C);
    grad_done(b->p, b->in_proj.w);
    clear_key_bias(b);
}
