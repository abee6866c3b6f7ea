#include "train/model/lora.h"

#include <math.h>
#include <stdio.h>

/* One product: `out` rows of a matrix, from `row` on. Numbers in the list of parameters. */
typedef struct Adapter {
    size_t target, a, b, row, out, in;
} Adapter;

typedef struct Lora {
    LoraOptions o;
    size_t count, largest, widest; /* elements of the largest matrix; longest row */
    acc *whole;                    /* [largest] W_eff or dW */
    acc *scaled, *small;           /* [rank,widest] (alpha/rank)·A; a product */
    Adapter list[];
} Lora;

/* A starts like PyTorch's linear layer, and B at 0, so that B·A starts at 0. */
static size_t add_factor(Params *p, size_t target, ParamRole role, const char *part, size_t rows,
                         size_t cols) {
    const Param *w = &p->list[target];
    bool a = role == ROLE_LORA_A;
    Param q = {.ndim = 2,
               .shape = {rows, cols},
               .role = role,
               .tower = w->tower,
               .layer = w->layer,
               .init = {a ? INIT_UNIFORM : INIT_CONSTANT, a ? sqrt(1 / (double)cols) : 0}};
    snprintf(q.name, sizeof q.name, "lora_%c.%.70s%s", a ? 'a' : 'b', w->name, part);
    return params_add(p, &q);
}

static void adapt(Lora *l, Params *p, size_t target, const char *part, size_t row, size_t out) {
    size_t in = p->list[target].shape[1], rank = l->o.rank;
    Adapter *a = &l->list[l->count++];
    *a = (Adapter){.target = target, .row = row, .out = out, .in = in};
    a->a = add_factor(p, target, ROLE_LORA_A, part, rank, in);
    a->b = add_factor(p, target, ROLE_LORA_B, part, out, rank);
    l->largest = l->largest > p->list[target].size ? l->largest : p->list[target].size;
    l->widest = l->widest > in ? l->widest : in;
}

void lora_declare(Params *p, const LoraOptions *o) {
    static const char *const in_proj[] = {".q", ".k", ".v"}, *const gated[] = {".gate", ".value"};
    if (!o->rank) return;
    Lora *l = xcalloc(1, sizeof *l + 3 * p->tensors * sizeof *l->list);
    l->o = *o;
    p->lora = l;
    for (size_t i = 0; i < p->tensors; i++) {
        Param *q = &p->list[i];
        if (q->tower) q->trainable = false;
        if (!param_is_block_matrix(q) || !(q->tower == TOWER_IMAGE ? o->image : o->text)) continue;
        q->adapted = true;
        size_t split = q->stacked, out = q->shape[0] / split;
        for (size_t j = 0; j < split; j++)
            adapt(l, p, i, split == 1 ? "" : split == 2 ? gated[j] : in_proj[j], j * out, out);
    }
}

void lora_alloc(Params *p) {
    Lora *l = p->lora;
    const Kernels *k = p->k;
    if (!l) return;
    l->whole = k->device->alloc(size_mul(l->largest, k->acc_size));
    l->scaled = k->device->alloc(size_mul(l->o.rank * l->widest, k->acc_size));
    l->small = k->device->alloc(size_mul(l->o.rank * l->widest, k->acc_size));
}

void lora_release(Params *p) {
    if (!p->lora) return;
    p->k->device->release(p->lora->whole);
    p->k->device->release(p->lora->scaled);
    p->k->device->release(p->lora->small);
}

static void scale_a(const Params *p, const acc *block, const Adapter *a) {
    const Lora *l = p->lora;
    const Kernels *k = p->k;
    size_t n = l->o.rank * a->in;
    k->device->zero(l->scaled, n * k->acc_size);
    k->axpy(l->scaled, l->o.alpha / (double)l->o.rank, param_in(p, block, &p->list[a->a]), n);
}

/* whole += B·(scaled A) for one adapter. */
static void add_product(const Params *p, const acc *block, const Adapter *a) {
    const Lora *l = p->lora;
    const Kernels *k = p->k;
    scale_a(p, block, a);
    k->gemm(acc_at(k, l->whole, a->row * a->in), a->in, param_in(p, block, &p->list[a->b]),
            l->o.rank, false, l->scaled, a->in, false, a->out, a->in, l->o.rank, true);
}

const acc *lora_merged(const Params *p, const acc *block, const Param *q) {
    const Lora *l = p->lora;
    p->k->device->copy(l->whole, param_acc(p, q), q->size * p->k->acc_size);
    for (size_t i = 0; i < l->count; i++)
        if (&p->list[l->list[i].target] == q) add_product(p, block, &l->list[i]);
    return l->whole;
}

void lora_merge(const Params *p) {
    for (size_t i = 0; i < p->count; i++) {
        const Param *q = &p->list[i];
        if (q->adapted) p->k->act_from_acc(param_act(p, q), lora_merged(p, p->master, q), q->size);
    }
}

acc *lora_grad_begin(const Params *p, const Param *q) {
    acc *dw = p->lora->whole;
    p->k->device->zero(dw, q->size * p->k->acc_size);
    fp8_bind(p, q, dw);
    return dw;
}

/* The products of one adapter. */
static void add_gradients(const Params *p, const Adapter *a) {
    const Lora *l = p->lora;
    const Kernels *k = p->k;
    const Param *A = &p->list[a->a], *B = &p->list[a->b];
    const acc *dw = acc_at(k, l->whole, a->row * a->in);
    k->gemm(l->small, a->in, param_acc(p, B), l->o.rank, true, dw, a->in, false, l->o.rank, a->in,
            a->out, false);
    k->axpy(param_grad(p, A), l->o.alpha / (double)l->o.rank, l->small, l->o.rank * a->in);
    scale_a(p, p->master, a);
    k->gemm(param_grad(p, B), l->o.rank, dw, a->in, false, l->scaled, a->in, true, a->out,
            l->o.rank, a->in, true);
}

void lora_grad_end(const Params *p, const Param *q) {
    const Lora *l = p->lora;
    for (size_t i = 0; i < l->count; i++)
        if (&p->list[l->list[i].target] == q) add_gradients(p, &l->list[i]);
    fp8_bind(p, q, NULL); /* the buffer is reused by the next matrix */
}
