/* params: the tensors of a model. A flat block holds their masters and compute weights; a Param
 * names a piece of it. The trainable part comes first, and only it has gradients. The order of
 * `list` is open_clip's state-dict order; the offsets are grouped so that one AdamW call covers
 * many tensors. */
#pragma once
#include "kernels/kernels.h"
#include "train/model/config.h"

/* The role of a tensor. Norms, and the matrices of blocks, have adjacent values: param_is_norm,
 * param_is_block_matrix. */
typedef enum ParamRole {
    ROLE_PATCHES, /* conv1 */
    ROLE_CLASS,
    ROLE_TOKENS,
    ROLE_POSITIONS,
    ROLE_LN_PRE,
    ROLE_LN_1,
    ROLE_LN_2,
    ROLE_LN_INNER, /* between attention and out_proj */
    ROLE_LN_MLP,   /* between activation and c_proj */
    ROLE_BN_1,     /* batch normalisation of convolutions 1, 2, 3 of the stem or a block … */
    ROLE_BN_2,
    ROLE_BN_3,
    ROLE_BN_DOWN,  /* … and of the convolution beside a block */
    ROLE_LN_FINAL, /* ln_post, ln_final */
    ROLE_IN_PROJ,
    ROLE_OUT_PROJ,
    ROLE_C_FC,
    ROLE_C_PROJ,
    ROLE_PROBE, /* the query of attention pooling */
    ROLE_CONV_1,
    ROLE_CONV_2,
    ROLE_CONV_3,
    ROLE_CONV_DOWN,
    ROLE_STATS_1, /* their running means; bias: the variances */
    ROLE_STATS_2,
    ROLE_STATS_3,
    ROLE_STATS_DOWN,
    ROLE_POOL_Q, /* attention over the last grid */
    ROLE_POOL_K,
    ROLE_POOL_V,
    ROLE_PROJECTION, /* proj, text_projection, c_proj of the attention over the last grid */
    ROLE_LOGIT_SCALE,
    ROLE_LOGIT_BIAS,
    ROLE_LORA_A,
    ROLE_LORA_B,
    ROLE_HEAD /* layers of the projection head (projection_head.h) */
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
    bool bias;        /* true: the bias of the role's layer; false: its weight */
    ParamTower tower; /* tower; of a LoRA factor, its matrix's; NONE: logit scale and bias */
    size_t layer;     /* in the tower, from the input: 0 the embeddings, 1 … L the blocks, L also
                         the final LayerNorm, L + 1 attention pooling and the projection */
    size_t stacked; /* matrices that files may hold apart: 3 queries, keys, values; 2 gate, value */
    ParamInit init;
    size_t kept;     /* of positions: the first rows, which no resize changes */
    bool trainable;  /* set before params_layout */
    double lr_scale; /* factor of the run's learning rate; default 1 */
    bool no_key;     /* in_proj's bias: the key's third is 0, untrained and in no file */
    bool adapted;    /* frozen, but LoRA's factors are trained from its gradient */
} Param;

static inline bool param_is_norm(const Param *q) {
    return q->role >= ROLE_LN_PRE && q->role <= ROLE_LN_FINAL;
}
/* Returns true for running statistics, which are part of the model and never trained. */
static inline bool param_is_statistic(const Param *q) {
    return q->role >= ROLE_STATS_1 && q->role <= ROLE_STATS_DOWN;
}
static inline bool param_is_batch_norm(const Param *q) {
    return q->role >= ROLE_BN_1 && q->role <= ROLE_BN_DOWN;
}
/* Returns true for the four matrices of a block or of attention pooling. */
static inline bool param_is_block_matrix(const Param *q) {
    return q->role >= ROLE_IN_PROJ && q->role <= ROLE_C_PROJ && !q->bias;
}
/* Returns true for LoRA's factors and the projection head, which are not tensors of the model. */
static inline bool param_is_apart(const Param *q) { return q->role >= ROLE_LORA_A; }

typedef struct Params {
    const Kernels *k;
    Param *list;
    size_t count, tensors; /* the model's `tensors` come first, then those apart */
    ParamTower only;       /* the tower that has memory, beside tensors of none; NONE: both */
    size_t size;           /* elements of the flat block, padding included */
    size_t learning;       /* the first elements, of trainable tensors */
    size_t matrices;       /* the first elements, used only as compute weights */
    acc *master;           /* [learning - master_first] */
    size_t master_first;   /* first element of `master`, or 0 (train/shard.h) */
    acc *frozen;           /* [size - learning] masters of the rest, or NULL */
    size_t rounded; /* from this element on compute weights are a separate block; before it masters
                       serve as compute weights. 0 if the two types differ */
    act *compute;   /* [size - rounded], or NULL */
    /* NULL in inference; owned by training (train/optim_state.h) */
    acc *grad;        /* [learning] */
    acc *unused_grad; /* [2,longest] scratch for unused gradients of frozen vectors; or NULL */
    size_t longest;   /* frozen vector */
    size_t statistics, statistics_size; /* first element of the running statistics; elements */
    struct Lora *lora;                  /* lora.h */
    acc *fp8;                           /* fp8.h: scaling of fp8_factors factors */
    size_t fp8_factors;
} Params;

/* Tensors start at multiples of this many elements: 64 bytes in bf16, 128 in f32, 256 in f64. */
enum { PARAM_ALIGN = 32 };

/* Called during backward, block by block from the last one: the gradients of elements offset …
 * offset+size-1 of the flat block are final in this backward. */
typedef struct GradientsReady {
    void (*call)(void *context, size_t offset, size_t size); /* NULL: not called */
    void *context;
} GradientsReady;

/* A model for inference: its tensors (docs/NUMERICS.md, 'Tensor names'), laid out, with memory. */
Params *params_new(const Kernels *k, const ClipConfig *c);
/* The same of one tower (NONE: both): the tensors of the other one are listed and have no memory.
 */
Params *params_new_of(const Kernels *k, const ClipConfig *c, ParamTower only);
/* The same in steps. Creates the tensors, all trainable; after this, lora_declare, layers_apply and
 * similar functions may add factors and freeze. */
Params *params_declare(const Kernels *k, const ClipConfig *c);
/* Lays out the flat block so that the trainable part can be cut into `shards` equal shards. */
void params_layout(Params *p, size_t shards);
/* Allocates compute weights and frozen masters. */
void params_alloc(Params *p);
/* Allocates the other masters; in training after everything else, because shard_masters releases a
 * part that the next allocation can use. */
void params_alloc_masters(Params *p);
/* A zeroed block of device memory; NULL if it is empty. */
void *params_block(const Params *p, size_t count, size_t elem_size);
void params_free(Params *p);
/* Appends a tensor whose name, shape, role, tower, layer and initial value are set; returns its
 * index in the list. */
size_t params_add(Params *p, const Param *q);
/* The tensors of a model alone, in order; free with free(). */
Param *params_describe(const ClipConfig *c, size_t *count);
/* The tensor of the model with these fields; NULL if absent. */
const Param *params_at(const Params *p, ParamTower tower, size_t layer, ParamRole role, bool bias);
/* Initial values, a function of the seed alone. */
void params_init(Params *p, uint64_t seed);
/* Updates the compute weights from the masters; lora_merge does so for adapted matrices. */
void params_round(Params *p);
size_t params_elements(const Params *p); /* of all tensors of the model, without padding */
/* Returns true if there are tensors that are not the model's. */
static inline bool params_apart(const Params *p) { return p->count > p->tensors; }
static inline bool params_are_rounded(const Params *p) { return p->rounded == 0; }

/* Returns true if the tensor has no memory: it is of the tower that is not open. */
static inline bool param_is_absent(const Params *p, const Param *q) {
    return p->only && q->tower && q->tower != p->only;
}

/* The tensor's data in a whole trainable block (masters, moments, average); for a frozen tensor,
 * its master. */
static inline acc *param_in(const Params *p, const acc *block, const Param *q) {
    return q->offset < p->learning ? acc_at(p->k, block, q->offset)
                                   : acc_at(p->k, p->frozen, q->offset - p->learning);
}
static inline acc *param_acc(const Params *p, const Param *q) {
    assert(q->offset >= p->master_first);
    return q->offset < p->learning ? acc_at(p->k, p->master, q->offset - p->master_first)
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
/* Returns true if backward computes the tensor's gradient. */
static inline bool param_has_grad(const Param *q) { return q->trainable || q->adapted; }
