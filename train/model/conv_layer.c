#include "train/model/conv_layer.h"

static const double momentum = 0.1; /* PyTorch's default */

/* ---- shapes ---- */

size_t conv_side_after(const Windows *g) { return windows_along(g->H, g); }
size_t conv_elements(const ConvLayer *c) { return window_count(&c->g) * c->s.out; }
Windows windows_of_batch(Windows g, size_t B) {
    g.B = B;
    return g;
}

ConvLayer conv_layer_at(const Params *p, size_t layer, size_t place, const ConvShape *s,
                        size_t side, bool normed) {
    ConvLayer c = {*s, {1, side, side, s->side, s->stride, s->pad}, .w = NULL};
    ParamRole at = (ParamRole)place;
    if (!p) return c;
    c.w = params_at(p, TOWER_IMAGE, layer, ROLE_CONV_1 + at, false);
    assert(c.w);
    if (!normed) return c;
    c.scale = params_at(p, TOWER_IMAGE, layer, ROLE_BN_1 + at, false);
    c.shift = params_at(p, TOWER_IMAGE, layer, ROLE_BN_1 + at, true);
    c.mean = params_at(p, TOWER_IMAGE, layer, ROLE_STATS_1 + at, false);
    c.var = params_at(p, TOWER_IMAGE, layer, ROLE_STATS_1 + at, true);
    assert(c.scale && c.shift && c.mean && c.var);
    return c;
}

bool conv_layer_trains(const ConvLayer *c) {
    return c->w->trainable || (c->scale && (c->scale->trainable || c->shift->trainable));
}

/* ---- statistics over ranks ---- */

typedef struct Sums {
    const Comm *comm;
    acc *x;
    size_t n;
} Sums;
static void add_over_ranks(const void *context) {
    const Sums *s = context;
    s->comm->all_reduce_sum(s->x, s->n);
}

static void over_ranks(const ConvPass *w, size_t C) {
    Sums s = {w->sync, w->sums, 2 * C};
    if (w->sync) w->k->device->graph_call(add_over_ranks, &s, sizeof s);
}
static double rows_over_ranks(const ConvPass *w, size_t rows) {
    return (double)rows * (w->sync ? w->sync->size : 1);
}

/* Its statistics are those of the batch. */
static bool uses_batch(const ConvPass *w, const ConvLayer *c) {
    return w->batch && c->scale->trainable;
}

/* ---- convolutions ---- */

void conv_layer_fwd(const ConvPass *w, const ConvLayer *c, const ConvStore *s, const act *x) {
    w->k->conv2d_fwd(s->z, x, param_act(w->p, c->w), windows_of_batch(c->g, w->B), c->s.in,
                     c->s.out);
}

void conv_layer_bwd(const ConvPass *w, const ConvLayer *c, act *dx, const act *dz, const act *x) {
    Windows g = windows_of_batch(c->g, w->B);
    if (c->w->trainable)
        w->k->conv2d_bwd_weight(param_grad(w->p, c->w), dz, x, g, c->s.in, c->s.out);
    if (dx) w->k->conv2d_bwd_input(dx, dz, param_act(w->p, c->w), g, c->s.in, c->s.out);
}

/* ---- normalisations ---- */

void conv_norm_fwd(const ConvPass *w, const ConvLayer *c, const ConvStore *s, const act *residual,
                   bool relu, bool again) {
    const Kernels *k = w->k;
    Windows g = windows_of_batch(c->g, w->B);
    size_t rows = window_count(&g), C = c->s.out;
    acc *mean = param_acc(w->p, c->mean), *var = param_acc(w->p, c->var);
    bool batch = uses_batch(w, c);
    if (batch && !again) {
        k->batchnorm_sums(w->sums, s->z, mean, rows, C);
        over_ranks(w, C);
    }
    if (!again)
        k->batchnorm_stats(s->mean, s->rstd, mean, var, batch ? w->sums : NULL,
                           rows_over_ranks(w, rows), C, w->eps, w->moves ? momentum : 0);
    k->batchnorm_fwd(s->y, s->z, residual, s->mean, s->rstd, param_acc(w->p, c->scale),
                     param_acc(w->p, c->shift), rows, C, relu);
}

void conv_norm_bwd(const ConvPass *w, const ConvLayer *c, const ConvStore *s, act *dz, act *d,
                   bool relu) {
    const Kernels *k = w->k;
    Windows g = windows_of_batch(c->g, w->B);
    size_t rows = window_count(&g), C = c->s.out;
    k->batchnorm_bwd_sums(w->sums, relu ? d : NULL, d, relu ? s->y : NULL, s->z, s->mean, s->rstd,
                          rows, C);
    if (c->shift->trainable) k->axpy(param_grad(w->p, c->shift), 1, w->sums, C);
    if (c->scale->trainable) k->axpy(param_grad(w->p, c->scale), 1, acc_at(k, w->sums, C), C);
    bool batch = uses_batch(w, c);
    if (batch) over_ranks(w, C);
    k->batchnorm_bwd(dz, d, s->z, s->mean, s->rstd, param_acc(w->p, c->scale),
                     batch ? w->sums : NULL, rows_over_ranks(w, rows), rows, C);
}
