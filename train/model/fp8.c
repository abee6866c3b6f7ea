#include "train/model/fp8.h"

#include <stdlib.h>

/* Gradients are far below 1; until their magnitudes are known, this scale moves them into e5m2's
 * range. */
#define FIRST_GRADIENT_SCALE 1024.0

static void set_scales(Params *p) {
    size_t n = p->fp8_factors;
    double *x = xcalloc(n * FP8_SCALING, sizeof *x);
    for (size_t i = 0; i < n; i++) {
        double scale = i % 3 == 2 ? FIRST_GRADIENT_SCALE : 1;
        x[n + i] = scale;
        x[2 * n + i] = 1 / scale;
    }
    p->k->acc_set(p->fp8, x, n * FP8_SCALING);
    free(x);
}

void fp8_start(Params *p) {
    if (!p->k->fp8) return;
    for (size_t i = 0; i < p->count; i++)
        p->fp8_factors += param_is_block_matrix(&p->list[i]) ? 3 : 0;
    p->fp8 = p->k->device->alloc(size_mul(p->fp8_factors, FP8_SCALING * p->k->acc_size));
    set_scales(p);
    for (size_t i = 0; i < p->count; i++) {
        const Param *q = &p->list[i];
        fp8_bind(p, q, q->trainable ? param_grad(p, q) : NULL);
    }
}

void fp8_bind(const Params *p, const Param *q, const acc *dw) {
    if (!p->fp8 || !param_is_block_matrix(q)) return;
    size_t at = 0;
    for (const Param *before = p->list; before < q; before++)
        at += param_is_block_matrix(before) ? 3 : 0;
    p->k->fp8_weight(param_act(p, q), dw, p->fp8, p->fp8_factors, at, q->shape[0], q->shape[1]);
}

void fp8_stop(Params *p) {
    if (!p->fp8) return;
    for (size_t i = 0; i < p->count; i++)
        if (param_is_block_matrix(&p->list[i]))
            p->k->fp8_weight(param_act(p, &p->list[i]), NULL, NULL, 0, 0, 0, 0);
    p->k->device->release(p->fp8);
    p->fp8 = NULL;
}

Param fp8_param(const Params *p) {
    return (Param){.name = "fp8_scaling",
                   .ndim = 2,
                   .shape = {FP8_SCALING, p->fp8_factors},
                   .size = FP8_SCALING * p->fp8_factors};
}

void fp8_begin(const Params *p) {
    if (p->fp8) p->k->device->zero(p->fp8, p->fp8_factors * p->k->acc_size);
}

void fp8_step(Params *p) {
    if (p->fp8) p->k->fp8_update(p->fp8, p->fp8_factors);
}
