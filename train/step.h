/* step: one optimisation step over `accum` micro-batches: true large-batch losses through cached
 * features (Gao et al. 2021, GradCache): CLIP's of pairs, NT-Xent of views, or their sum. */
#pragma once
#include "data/loader.h"
#include "train/model/uploads.h"
#include "train/feature_cache.h"
#include "train/loss.h"
#include "train/optim.h"
#include "train/teacher.h"

typedef struct StepResult {
    double loss, grad_norm, logit_scale; /* logit_scale: exponentiated, as used in this step */
    double views_loss;                   /* NT-Xent alone; 0 without views */
    double image_cosine, text_cosine;    /* mean over different samples of this rank's batch; images
                                            are views if there are no pairs */
    bool skipped; /* no update: the loss is above the limit, or the gradient norm is not finite (as
                     it is if the loss is not) */
} StepResult;

/* NT-Xent of two views of each picture, by the projection head. */
typedef struct ViewsLoss {
    size_t dim;         /* of the head's features; 0: no views */
    double share;       /* factor of this loss in the sum */
    double temperature; /* a constant */
    bool alone;         /* no loss of pairs */
} ViewsLoss;

typedef struct Step Step;
/* views: NULL: only pairs; with views all micro-batches have batch_size samples. */
Step *step_new(const Kernels *k, const Comm *comm, Clip *m, OptimState *state, Optim *o,
               LossKind kind, size_t batch_size, size_t accum, size_t embed_dim,
               size_t logit_memory, const ViewsLoss *views);
void step_free(Step *s);

/* Additions of fine-tuning; each may be NULL or false. */
typedef struct StepExtras {
    Teacher *teacher;
    bool multi_positive; /* pairs of one class (or caption) are each other's positives */
    const FeatureCache *images, *texts; /* of a frozen tower */
} StepExtras;
void step_extend(Step *s, const StepExtras *x);
/* A later step whose loss is above this is skipped; initially INFINITY. */
void step_limit_loss(Step *s, double most);
/* loss_gather_bf16. */
void step_gather_bf16(Step *s);
/* The way of batches to the device; it can take other batches while no step is in flight. */
Uploads *step_uploads(Step *s);
/* Between plan_begin and plan_end: runs a step of the largest batches (all captions full). */
void step_plan(Step *s);
/* Enqueues one step: batches[accum], lr and t (from 1) of this step. The host does not wait, so the
 * batches must be kept until its result is taken. At most two steps may be in flight. */
void step_start(Step *s, Batch *const *batches, double lr, uint64_t t);
/* Waits for the oldest step whose result is not taken, and returns it. */
StepResult step_result(Step *s);
/* Enqueues a step and waits for it. */
StepResult step_run(Step *s, Batch *const *batches, double lr, uint64_t t);
/* The same without the optimiser: gradients remain in params->grad (with sharded moments: this
 * rank's slice of each bucket). For tests. */
double step_gradients(Step *s, Batch *const *batches);
