#include "train/model/conv_stem.h"

#include "train/model/block.h"

#include <stdlib.h>

static const double eps = 1e-5; /* PyTorch's BatchNorm2d */

ConvStem conv_stem_at(const Kernels *k, const Params *p, const TowerConfig *t, size_t side,
                      const Comm *sync) {
    ConvStem s = {k, p, sync && sync->size > 1 ? sync : NULL, t->activation, .bias = NULL};
    for (size_t i = 0; i < STEM_CONVS; i++) {
        ConvShape shape = stem_conv(t, i);
        s.conv[i] = conv_layer_at(p, 0, i, &shape, side, i + 1 < STEM_CONVS);
        side = conv_side_after(&s.conv[i].g);
    }
    if (p) s.bias = params_at(p, TOWER_IMAGE, 0, ROLE_CONV_1 + STEM_CONVS - 1, true);
    return s;
}

static act *take(const ConvStem *s, Arena *a, size_t B, const ConvLayer *c) {
    return arena_take(a, size_mul(B, conv_elements(c)), s->k->act_size);
}

void conv_stem_layout(ConvStem *s, Arena *a, size_t B, bool training) {
    size_t C = s->conv[STEM_CONVS - 1].s.out;
    s->ones = arena_take(a, C, s->k->acc_size);
    s->zeros = arena_take(a, C, s->k->acc_size);
    if (!training) return;
    s->d1 = take(s, a, B, &s->conv[0]);
    s->pre = take(s, a, B, &s->conv[0]);
    s->d2 = take(s, a, B, &s->conv[1]);
}

void conv_stem_store_layout(const ConvStem *s, ConvStemStore *t, Arena *a, size_t B, bool kept) {
    const ConvLayer *first = &s->conv[0];
    size_t windows = window_count(&first->g), pixels = first->s.in * first->s.side * first->s.side;
    t->patches = arena_take(a, size_mul(B, windows * pixels), s->k->act_size);
    for (size_t i = 0; i < COUNT(t->conv); i++) {
        t->conv[i].z = take(s, a, B, &s->conv[i]);
        t->conv[i].y = kept ? take(s, a, B, &s->conv[i]) : t->conv[i].z;
        t->conv[i].mean = arena_take(a, s->conv[i].s.out, s->k->acc_size);
        t->conv[i].rstd = arena_take(a, s->conv[i].s.out, s->k->acc_size);
    }
    t->sums = arena_take(a, 2 * first->s.out, s->k->acc_size);
}

void conv_stem_start(const ConvStem *s) {
    size_t C = s->conv[STEM_CONVS - 1].s.out;
    double *one = xmalloc(C * sizeof *one);
    for (size_t i = 0; i < C; i++) one[i] = 1;
    s->k->acc_set(s->ones, one, C);
    s->k->device->zero(s->zeros, C * s->k->acc_size);
    free(one);
}

static ConvPass pass_of(const ConvStem *s, const ConvStemStore *t, size_t B, bool batch,
                        bool moves) {
    return (ConvPass){s->k, s->p, s->sync, eps, batch, moves, B, t->sums};
}

/* The first convolution is a product: its windows are patches. */
static Layer first_layer(const ConvStem *s) { return (Layer){s->conv[0].w, NULL}; }
static size_t rows_of(const ConvLayer *c, size_t B) { return B * window_count(&c->g); }

void conv_stem_fwd(const ConvStem *s, const ConvStemStore *t, act *tokens, size_t B, bool batch,
                   bool kept) {
    const Kernels *k = s->k;
    ConvPass w = pass_of(s, t, B, batch, kept);
    const ConvLayer *first = &s->conv[0], *last = &s->conv[STEM_CONVS - 1];
    for (size_t i = 0; i + 1 < STEM_CONVS; i++) {
        const ConvStore *c = &t->conv[i];
        if (i)
            conv_layer_fwd(&w, &s->conv[i], c, t->conv[i - 1].y);
        else
            k->linear_fwd(c->z, t->patches, param_act(s->p, first->w), NULL, rows_of(first, B),
                          first->s.out, first->s.in * first->s.side * first->s.side);
        conv_norm_fwd(&w, &s->conv[i], c, NULL, false, false);
        k->activation_fwd(c->y, c->y, B * conv_elements(&s->conv[i]), s->f);
    }
    conv_layer_fwd(&w, last, &(ConvStore){.z = tokens}, t->conv[STEM_CONVS - 2].y);
    /* adds the bias */
    k->batchnorm_fwd(tokens, tokens, NULL, s->zeros, s->ones, s->ones, param_acc(s->p, s->bias),
                     rows_of(last, B), last->s.out, false);
}

void conv_stem_bwd(const ConvStem *s, const ConvStemStore *t, const act *dtokens, size_t B,
                   bool batch) {
    const Kernels *k = s->k;
    ConvPass w = pass_of(s, t, B, batch, false);
    const ConvLayer *first = &s->conv[0], *last = &s->conv[STEM_CONVS - 1];
    act *const d[STEM_CONVS - 1] = {s->d1, s->d2};
    if (s->bias->trainable)
        k->bias_bwd(param_grad(s->p, s->bias), dtokens, rows_of(last, B), last->s.out);
    conv_layer_bwd(&w, last, d[STEM_CONVS - 2], dtokens, t->conv[STEM_CONVS - 2].y);
    for (size_t i = STEM_CONVS - 1; i-- > 0;) {
        const ConvLayer *c = &s->conv[i];
        ConvStore before = t->conv[i]; /* the activation */
        before.y = s->pre;
        conv_norm_fwd(&w, c, &before, NULL, false, true);
        k->activation_bwd(d[i], t->conv[i].y, NULL, d[i], s->pre, rows_of(c, B), c->s.out, s->f);
        conv_norm_bwd(&w, c, &t->conv[i], d[i], d[i], false);
        if (i)
            conv_layer_bwd(&w, c, d[i - 1], d[i], t->conv[i - 1].y);
        else
            linear_grad(s->p, first_layer(s), d[0], t->patches, rows_of(first, B), first->s.out,
                        first->s.in * first->s.side * first->s.side);
    }
}

bool conv_stem_trains(const ConvStem *s) {
    bool trains = s->bias->trainable;
    for (size_t i = 0; i < STEM_CONVS; i++) trains = trains || conv_layer_trains(&s->conv[i]);
    return trains;
}

double conv_stem_macs(const TowerConfig *t, size_t side) {
    ConvStem s = conv_stem_at(NULL, NULL, t, side, NULL);
    double sum = 0;
    for (size_t i = 0; i < STEM_CONVS; i++) {
        const ConvShape *c = &s.conv[i].s;
        sum += (double)conv_elements(&s.conv[i]) * (double)(c->in * c->side * c->side);
    }
    return sum;
}
