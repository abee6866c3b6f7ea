/* support_model: small models for tests: the golden model of docs/NUMERICS.md, models of odd sizes,
 * and a harness that gives features, loss and gradients on the host. */
#pragma once
#include "train/model/uploads.h"
#include "train/loss.h"
#include "train/model/lora.h"
#include "train/optim.h"

/* Embedding 32; image 32, patch 8, width 64, 2 layers, 2 heads; context 16, vocabulary 64, width
 * 64, 2 heads, 2 layers. */
ClipConfig golden_config(void);
/* Small enough for hundreds of forwards in `ref`. */
ClipConfig tiny_config(void);
/* Odd sizes: heads of 80 (image) and 24 (text), mlp not 4·width, embedding 29. */
ClipConfig odd_config(void);

/* Value i (from 1) of tensor k: uniform in [-1, 1), a hash of the two numbers. */
double golden_value(uint32_t k, uint32_t i);

/* A batch on the host: both kinds of pixels of the same pictures, and captions. */
typedef struct TestBatch {
    size_t B;
    float *f32;
    uint8_t *u8;
    int32_t *ids, *start;
    int32_t pad; /* 0: CLIP's */
    uint64_t *sample;
    int32_t *shape; /* of pictures of their own sizes, or NULL (Batch) */
} TestBatch;
/* The golden model's batch, and for i > 0 others with its captions. */
TestBatch golden_batch(uint32_t i);
/* Each caption ends in its largest id. */
TestBatch random_batch(const ClipConfig *c, size_t B, uint64_t seed);
void batch_free(TestBatch *b);

/* A model of width 4 with an image grid of g×g and a text of n positions, read from JSON; biases:
 * of the logits and of the text projection. */
OptimState *small_state(const Kernels *k, ClipConfig *c, size_t g, size_t n, bool biases);
void small_end(OptimState *o, ClipConfig *c);
/* The tensor's values in a whole block, malloc'd. */
float *param_floats(const Params *p, const acc *block, const char *name);

/* The tensor of that name; NULL if absent. */
Param *param_named(const Params *p, const char *name);

typedef struct TestModel {
    const Kernels *k;
    Kernels *table; /* private copy that k points to */
    ClipConfig config;
    Params *p;
    OptimState *state;
    Clip *clip;
    LossKind kind;
    Loss *loss;
    size_t B;
    acc *images, *texts, *dimages, *dtexts, *value;
} TestModel;

/* Weights of the golden formula (a function of the tensor's number, so of any config). */
TestModel model_new(const Kernels *k, const ClipConfig *c, const ClipOptions *o, LossKind kind);
/* The same with these tensors frozen (never logit_…). */
TestModel model_new_frozen(const Kernels *k, const ClipConfig *c, const ClipOptions *o,
                           LossKind kind, bool (*frozen)(const char *name));
/* Tensors with their training state, all trainable; lora: with its factors, or NULL. */
OptimState *state_new(const Kernels *k, const ClipConfig *c, const LoraOptions *lora);
void state_free(OptimState *s);
void model_free(TestModel *m);

/* Another batch in place of the one on the device. */
typedef const ClipBatch *ChangeBatch(const TestModel *m, const ClipBatch *sent);
/* Features; change: NULL: of the batch itself. */
void model_forward(TestModel *m, const Batch *b, bool keep, ChangeBatch *change);
typedef struct RunHow {
    bool u8, dropout; /* pixels as bytes; samples named */
    uint64_t draw;
} RunHow;
/* Forward with activations kept, loss, backward; gradients start from zero. Returns the loss. */
double model_gradients(TestModel *m, const TestBatch *b, RunHow how);
/* Forward without keeping activations, and the loss. */
double model_loss(TestModel *m, const TestBatch *b, RunHow how);
/* Host copies, malloc'd: n elements of a device array; the gradient of a trainable tensor. */
double *host_copy(const Kernels *k, const acc *x, size_t n);
double *model_grad(const TestModel *m, const char *name);

double l2(const double *a, size_t n);
/* Largest relative L2 difference of a tensor's gradient between two models of one config with the
 * same trainable tensors; *where: its name. */
double worst_gradient(const TestModel *a, const TestModel *b, const char **where);
/* One step of the optimiser, done on return: the gradients' norm before clipping. */
double step_optim(const Kernels *k, Optim *o, double lr, uint64_t t);
/* Fails unless loss and gradients of two models agree within the tolerance (0: to the bit). */
void assert_models_agree(TestModel *a, TestModel *b, const TestBatch *batch, RunHow how_a,
                         RunHow how_b, double tolerance);
/* ref, then the tested device in fp32 and in amp_bf16; NULL: no more. */
const Kernels *model_backend(size_t i);
