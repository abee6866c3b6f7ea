/* params: what is learned. One flat block of masters and compute weights, whose first part learns
 * and alone has gradients, moments and a moving average; a Param names a piece of them. The order
 * of `list` is open_clip's state-dict order; the offsets are grouped so that one AdamW call covers
 * many tensors. */
#ifndef TRAIN_MODEL_PARAMS_H
#define TRAIN_MODEL_PARAMS_H
#include "kernels/kernels.h"
#include "train/ranks/comm.h"
#include "train/model/config.h"
#include "train/model/lora.h"

/* What a tensor is for. Norms and the matrices of blocks are neighbours: param_is_norm,
 * param_is_block_matrix. */
typedef enum ParamRole {
    ROLE_PATCHES, /* conv1 */
    ROLE_CLASS,
    ROLE_TOKENS,
    ROLE_POSITIONS,
    ROLE_LN_PRE,
    ROLE_LN_1,
    ROLE_LN_2,
    ROLE_LN_FINAL, /* ln_post, ln_final */
    ROLE_IN_PROJ,
    ROLE_OUT_PROJ,
    ROLE_C_FC,
    ROLE_C_PROJ,
    ROLE_PROJECTION, /* proj, text_projection */
    ROLE_LOGIT_SCALE,
    ROLE_LOGIT_BIAS,
    ROLE_LORA_A,
    ROLE_LORA_B
} ParamRole;

typedef enum ParamTower { TOWER_NONE, TOWER_IMAGE, TOWER_TEXT } ParamTower;

/* Initial values: docs/NUMERICS.md, 'Initial values'. */
typedef struct ParamInit {
    enum { INIT_CONSTANT, INIT_UNIFORM, INIT_NORMAL } kind;
    double value; /* the constant, the bound a of U(-a, a), the standard deviation */
} ParamInit;

typedef struct Param {
    char name[96];
    int ndim;
    size_t shape[4], size, offset;
    ParamRole role;
    bool bias;        /* of the layer that the role names; otherwise its weight */
    ParamTower tower; /* of a LoRA factor: its matrix's; NONE: logit scale and bias */
    size_t layer;     /* in the tower, from the input: 0 the embeddings, 1 … L the blocks, L also
                         the final LayerNorm, L + 1 the projection */
    ParamInit init;
    bool trainable;  /* settled before params_place */
    double lr_scale; /* times the run's learning rate; 1 */
    bool adapted;    /* frozen, but LoRA's factors learn from its gradient */
} Param;

static inline bool param_is_norm(const Param *q) {
    return q->role >= ROLE_LN_PRE && q->role <= ROLE_LN_FINAL;
}
/* One of the four matrices of a block. */
static inline bool param_is_block_matrix(const Param *q) {
    return q->role >= ROLE_IN_PROJ && q->role <= ROLE_C_PROJ && !q->bias;
}
/* One of LoRA's: no tensor of the model. */
static inline bool param_is_factor(const Param *q) { return q->role >= ROLE_LORA_A; }

typedef struct Params {
    const Kernels *k;
    Param *list;
    size_t count, tensors; /* of which the model's own come first; behind them LoRA's factors */
    size_t size;           /* elements of the flat block, padding included */
    size_t learning;       /* of which the first so many are of trainable tensors */
    size_t matrices;       /* the first so many elements are only used as compute weights */
    acc *master;           /* [learning], or less: train/shard.h */
    acc *frozen;           /* [size - learning] masters of the rest, or NULL */
    size_t rounded;        /* from this element on compute weights have a block of their own; before
                              it masters serve as such. 0 where the two types differ */
    act *compute;          /* [size - rounded], or NULL */
    acc *grad;             /* [learning], NULL without training */
    acc *unread;           /* [2,longest] where kernels add gradients of frozen vectors; or NULL */
    size_t longest;        /* frozen vector */
    void *m, *v;           /* [learning / shards], NULL without training: acc or bf16 */
    Moments moments;
    acc *ema; /* [learning] moving average of the masters, or NULL: params_track */
    double ema_decay;
    Lora *lora; /* NULL: none */
    /* over ranks (train/shard.h) */
    const Comm *comm; /* NULL: one rank */
    size_t split;     /* the masters of the first so many elements are sharded, too; 0: none */
    size_t gap;       /* elements that `master` is shorter by therefore */
    size_t bucket;    /* elements whose gradients are reduced at once, a multiple of shards */
    /* under amp_fp8 (train/model/fp8.h) */
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

/* Registers every tensor of the model (docs/NUMERICS.md, 'Tensor names') and allocates. */
Params *params_new(const Kernels *k, const ClipConfig *c, bool training);
/* The same in steps. Names and shapes, LoRA's factors (lora may be NULL) included; all learns, or,
 * with factors, these and the logit scale and bias. layers_plan and the like may now freeze more.
 */
Params *params_declare(const Kernels *k, const ClipConfig *c, const LoraOptions *lora);
/* Lays out the flat block; shards: ranks that keep their share of the moments only, or 1. */
void params_place(Params *p, size_t shards);
/* Takes the memory for training; comm may be NULL. */
void params_take(Params *p, const Comm *comm, Moments moments);
/* Bytes of one element of a moment. */
static inline size_t moment_size(const Kernels *k, Moments moments) {
    return moments == MOMENTS_BF16 ? 2 : k->acc_size;
}
/* Appends a tensor whose name, shape, role, tower, layer and initial value are set; returns its
 * number in the list. */
size_t params_add(Params *p, const Param *q);
/* Starts the moving average of the masters as they are. */
void params_track(Params *p, double decay);
void params_free(Params *p);
/* Names and shapes alone, in order; free with free(). */
Param *params_describe(const ClipConfig *c, size_t *count);
Param *params_find(const Params *p, const char *name); /* NULL when absent */
/* The tensor of the model with these fields; NULL when absent. */
const Param *params_at(const Params *p, ParamTower tower, size_t layer, ParamRole role, bool bias);
/* Initial values, a function of the seed alone. */
void params_init(Params *p, uint64_t seed);
/* Over ranks: rank 0's masters for all. */
void params_broadcast(Params *p);
/* Refreshes the compute weights from the masters (and LoRA's factors). */
void params_round(Params *p);
size_t params_learned(const Params *p); /* number of the model's parameters, padding left out */
static inline bool params_are_rounded(const Params *p) { return p->rounded == 0; }

/* The tensor in a whole block of what learns (masters, moments, average); of a frozen one its
 * master. */
static inline acc *param_in(const Params *p, const acc *block, const Param *q) {
    return q->offset < p->learning ? acc_at(p->k, block, q->offset)
                                   : acc_at(p->k, p->frozen, q->offset - p->learning);
}
static inline acc *param_acc(const Params *p, const Param *q) {
    assert(q->offset >= p->split);
    return q->offset < p->learning ? acc_at(p->k, p->master, q->offset - p->gap)
                                   : acc_at(p->k, p->frozen, q->offset - p->learning);
}
static inline act *param_act(const Params *p, const Param *q) {
    return q->offset < p->rounded ? (act *)param_acc(p, q)
                                  : act_at(p->k, p->compute, q->offset - p->rounded);
}
static inline acc *param_grad(const Params *p, const Param *q) {
    assert(q->trainable && q->offset < p->learning);
    return acc_at(p->k, p->grad, q->offset);
}
/* Whether backward computes the tensor's gradient. */
static inline bool param_has_grad(const Param *q) { return q->trainable || q->adapted; }
#endif
