/* step: one optimisation step over `accum` micro-batches: one true large-batch loss through cached
 * features (Gao et al. 2021, GradCache). */
#ifndef TRAIN_STEP_H
#define TRAIN_STEP_H
#include "data/loader.h"
#include "train/model/clip.h"
#include "train/feature_cache.h"
#include "train/loss.h"
#include "train/optim.h"
#include "train/teacher.h"

typedef struct StepResult {
    double loss, grad_norm, logit_scale; /* logit_scale: exponentiated, as used in this step */
    double image_cosine, text_cosine;    /* mean between different samples of this rank's batch */
    bool skipped; /* the loss past the limit, or the gradient norm not finite (as it is where the
                     loss is not): no update was made */
} StepResult;

typedef struct Step Step;
Step *step_new(const Kernels *k, const Comm *comm, Clip *m, OptimState *state, Optim *o,
               LossKind kind, size_t batch_size, size_t accum, size_t embed_dim,
               size_t logit_memory);
void step_free(Step *s);

/* What fine-tuning adds; each may be NULL or false. */
typedef struct StepExtras {
    Teacher *teacher;
    bool multi_positive; /* pairs of one class (or caption) are each other's positives */
    const FeatureCache *images, *texts; /* of a frozen tower */
} StepExtras;
void step_extend(Step *s, const StepExtras *x);
/* A later step whose loss is above this is left out; INFINITY at first. */
void step_limit_loss(Step *s, double most);
/* loss_gather_bf16. */
void step_gather_bf16(Step *s);
/* Between plan_begin and plan_end: goes through a step of the largest batches (captions all full).
 */
void step_plan(Step *s);
/* Asks for one step: batches[accum], lr and t (from 1) of this step. Nothing is waited for, so the
 * batches have to stay until its result is taken, and at most two steps may be under way. */
void step_start(Step *s, Batch *const *batches, double lr, uint64_t t);
/* Waits for the oldest step whose result was not taken. */
StepResult step_result(Step *s);
/* Both. */
StepResult step_run(Step *s, Batch *const *batches, double lr, uint64_t t);
/* The same without the optimiser: gradients are left in params->grad (with sharded moments: this
 * rank's slice of each bucket). For tests. */
double step_gradients(Step *s, Batch *const *batches);
#endif
