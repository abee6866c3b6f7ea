/* params: what is learned. One flat block each of masters, gradients, moments and compute weights;
 * a Param names a piece of them. The order of `list` is open_clip's state-dict order; the offsets
 * are grouped so that one AdamW call covers many tensors. */
#ifndef TRAIN_PARAMS_H
#define TRAIN_PARAMS_H
#include "kernels/kernels.h"
#include "train/config.h"

typedef struct Param {
    char name[96];
    int ndim;
    size_t shape[4], size, offset;
    bool trainable;
} Param;

typedef struct Params {
    const Kernels *k;
    Param *list;
    size_t count;
    size_t size;       /* elements of the flat block, padding included */
    acc *master;       /* [size] */
    act *compute;      /* [size] the same, rounded to act; == master where both types are one */
    acc *grad, *m, *v; /* [size], NULL without training */
} Params;

/* Registers every tensor of the model (names, shapes: spec 1.5) and allocates. */
Params *params_new(const Kernels *k, const ClipConfig *c, bool training);
void params_free(Params *p);
/* Elements of the flat block, padding included, and of parameters, without allocating anything. */
size_t params_layout(const ClipConfig *c, size_t *learned);
Param *params_find(const Params *p, const char *name); /* NULL when absent */
/* Initial values of spec 1.6, a function of the seed alone. */
void params_init(Params *p, const ClipConfig *c, uint64_t seed);
/* Refreshes the compute weights from the masters. */
void params_round(Params *p);
size_t params_learned(const Params *p); /* number of parameters, padding left out */

static inline acc *param_acc(const Params *p, const Param *q) {
    return acc_at(p->k, p->master, q->offset);
}
static inline act *param_act(const Params *p, const Param *q) {
    return act_at(p->k, p->compute, q->offset);
}
static inline acc *param_grad(const Params *p, const Param *q) {
    return acc_at(p->k, p->grad, q->offset);
}
#endif
