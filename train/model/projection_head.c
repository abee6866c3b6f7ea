#include "train/model/projection_head.h"

#include <math.h>
#include <stdio.h>

static size_t width_before(const HeadOptions *o, size_t layer, size_t C) {
    return layer ? o->hidden : C;
}
static size_t width_after(const HeadOptions *o, size_t layer) {
    return layer + 1 == o->layers ? o->out : o->hidden;
}

/* Initial values are those of PyTorch's linear layer. */
void projection_head_declare(Params *p, const HeadOptions *o, size_t C) {
    for (size_t i = 0; i < o->layers; i++) {
        size_t in = width_before(o, i, C), out = width_after(o, i);
        for (int bias = 0; bias < 2; bias++) {
            Param q = {.role = ROLE_HEAD,
                       .bias = bias,
                       .layer = i,
                       .init = {INIT_UNIFORM, sqrt(1 / (double)in)},
                       .ndim = bias ? 1 : 2,
                       .shape = {out, in}};
            snprintf(q.name, sizeof q.name, "head.%zu.%s", i, bias ? "bias" : "weight");
            params_add(p, &q);
        }
    }
}

void projection_head_init(ProjectionHead *h, const Kernels *k, const Params *p,
                          const HeadOptions *o, size_t C, size_t rows) {
    *h = (ProjectionHead){.k = k, .p = p, .o = *o, .C = C, .max_rows = rows};
    assert(o->layers <= HEAD_LAYERS_MOST);
    for (size_t i = p->tensors; o->layers && i < p->count; i++) {
        const Param *q = &p->list[i];
        if (q->role != ROLE_HEAD) continue;
        if (q->bias)
            h->layer[q->layer].b = q;
        else
            h->layer[q->layer].w = q;
    }
}

void projection_head_layout(ProjectionHead *h, Arena *a) {
    if (!h->o.layers) return;
    size_t hidden = size_mul(h->max_rows, h->o.hidden), out = size_mul(h->max_rows, h->o.out);
    for (size_t i = 0; i + 1 < h->o.layers; i++) {
        h->pre[i] = arena_take(a, hidden, h->k->act_size);
        h->h[i] = arena_take(a, hidden, h->k->act_size);
    }
    for (size_t i = 0; i < COUNT(h->d); i++) h->d[i] = arena_take(a, hidden, h->k->act_size);
    h->unit = arena_take(a, out, h->k->acc_size);
    h->raw = arena_take(a, out, h->k->acc_size);
    h->norm = arena_take(a, h->max_rows, h->k->acc_size);
}

void projection_head_fwd(const ProjectionHead *h, const act *x, size_t rows) {
    if (!h->o.layers || !rows) return;
    const Kernels *k = h->k;
    size_t last = h->o.layers - 1;
    for (size_t i = 0; i < last; i++) {
        const Layer *l = &h->layer[i];
        k->linear_activation_fwd(h->h[i], h->pre[i], x, param_act(h->p, l->w),
                                 param_act(h->p, l->b), rows, h->o.hidden,
                                 width_before(&h->o, i, h->C), ACTIVATION_GELU);
        x = h->h[i];
    }
    const Layer *l = &h->layer[last];
    k->project_fwd(h->raw, x, param_act(h->p, l->w), true, param_acc(h->p, l->b), rows, h->o.hidden,
                   h->o.out);
    k->l2norm_fwd(h->unit, h->norm, h->raw, rows, h->o.out);
}

void projection_head_bwd(const ProjectionHead *h, act *dx, const act *x, size_t rows) {
    if (!h->o.layers || !rows) return;
    const Kernels *k = h->k;
    size_t hidden = h->o.hidden;
    size_t i = h->o.layers - 1;
    const Layer *l = &h->layer[i];
    act *d = h->d[i % 2];
    k->l2norm_bwd(h->raw, h->raw, h->unit, h->norm, rows, h->o.out);
    k->project_bwd(d, param_grad(h->p, l->w), param_grad(h->p, l->b), h->raw, h->h[i - 1],
                   param_act(h->p, l->w), true, rows, hidden, h->o.out);
    while (i-- > 0) {
        const act *in = i ? h->h[i - 1] : x;
        act *din = i ? h->d[i % 2] : dx;
        l = &h->layer[i];
        k->activation_bwd(d, h->h[i], param_grad(h->p, l->b), d, h->pre[i], rows, hidden,
                          ACTIVATION_GELU);
        linear_grad(h->p, (Layer){.w = l->w}, d, in, rows, hidden, width_before(&h->o, i, h->C));
        k->linear_bwd_input(din, d, param_act(h->p, l->w), rows, hidden,
                            width_before(&h->o, i, h->C));
        d = din;
    }
}
