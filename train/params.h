/* params: what is learned. One flat block each of masters, gradients, moments and compute weights;
 * a Param names a piece of them. The order of `list` is open_clip's state-dict order; the offsets
 * are grouped so that one AdamW call covers many tensors. */
#ifndef TRAIN_PARAMS_H
#define TRAIN_PARAMS_H
#include "kernels/kernels.h"
#include "train/comm.h"
#include "train/config.h"
#include "train/lora.h"

typedef struct Param {
    char name[96];
    int ndim;
    size_t shape[4], size, offset;
    bool trainable;
    double lr_scale; /* times the run's learning rate; 1 */
    bool adapted;    /* its gradient is wanted, but LoRA's factors learn in its place */
    bool factor;     /* one of LoRA's: no tensor of the model */
} Param;

typedef struct Params {
    const Kernels *k;
    Param *list;
    size_t count, tensors; /* of which the model's own come first; behind them LoRA's factors */
    size_t size;           /* elements of the flat block, padding included */
    size_t matrices;       /* the first so many elements are only used as compute weights */
    acc *master;           /* [size], or less: train/shard.h */
    act *compute;          /* [size] the same, rounded to act; == master where both types are one */
    acc *grad;             /* [size], NULL without training */
    void *m, *v;           /* [size / shards], likewise: acc or bf16 */
    Moments moments;
    acc *ema; /* [size] moving average of the masters, or NULL: params_track */
    double ema_decay;
    Lora *lora; /* NULL: none */
    /* over ranks (train/shard.h) */
    const Comm *comm; /* NULL: one rank */
    size_t split;     /* the masters of the first so many elements are sharded, too; 0: none */
    size_t gap;       /* elements that `master` is shorter by therefore */
    size_t bucket;    /* elements whose gradients are reduced at once, a multiple of shards */
    /* under amp_fp8 (train/fp8.h) */
    acc *fp8; /* scaling of fp8_factors factors, or NULL */
    size_t fp8_factors;
    size_t shards; /* ranks that share the moments; 1: each has all */
} Params;

/* Told during backward, block by block from the last one: the gradients of offset … offset+size-1
 * of the flat block will not change any more in this backward. */
typedef struct GradientsReady {
    void (*call)(void *context, size_t offset, size_t size); /* NULL: nobody asks */
    void *context;
} GradientsReady;

/* Registers every tensor of the model (names, shapes: spec 1.5) and allocates. */
Params *params_new(const Kernels *k, const ClipConfig *c, bool training);
/* The same for training over ranks; shard: a rank keeps its share of the moments only. lora may be
 * NULL. */
Params *params_new_ranks(const Kernels *k, const ClipConfig *c, const Comm *comm, bool shard,
                         Moments moments, const LoraOptions *lora);
/* Bytes of one element of a moment. */
static inline size_t moment_size(const Kernels *k, Moments moments) {
    return moments == MOMENTS_BF16 ? 2 : k->acc_size;
}
/* Adds a matrix that is no tensor of the model; returns its number in the list. For lora.c. */
size_t params_register(Params *p, const char *name, size_t rows, size_t cols);
/* Starts the moving average of the masters as they are. */
void params_track(Params *p, double decay);
void params_free(Params *p);
/* Elements of the flat block, padding included, of parameters, and Params.matrices, without
 * allocating anything. */
size_t params_layout(const ClipConfig *c, size_t *learned, size_t *matrices);
/* Names and shapes alone, in order; free with free(). */
Param *params_describe(const ClipConfig *c, size_t *count);
Param *params_find(const Params *p, const char *name); /* NULL when absent */
/* Initial values of spec 1.6, a function of the seed alone. */
void params_init(Params *p, const ClipConfig *c, uint64_t seed);
/* Refreshes the compute weights from the masters (and LoRA's factors). */
void params_round(Params *p);
size_t params_learned(const Params *p); /* number of the model's parameters, padding left out */

static inline acc *param_acc(const Params *p, const Param *q) {
    assert(q->offset >= p->split);
    return acc_at(p->k, p->master, q->offset - p->gap);
}
static inline act *param_act(const Params *p, const Param *q) {
    return act_at(p->k, p->compute, q->offset);
}
static inline acc *param_grad(const Params *p, const Param *q) {
    return acc_at(p->k, p->grad, q->offset);
}
#endif
