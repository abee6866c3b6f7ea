/* learner: what a run trains, built from the options: parameters (locked, adapted by LoRA,
 * averaged), model, optimiser, step, and what fine-tuning adds to a step. */
#pragma once
#include "train/checkpoint.h"
#include "train/plan.h"
#include "train/step.h"
#include "train/train_options.h"

typedef struct Learner {
    const Kernels *k;
    const Comm *comm;
    const ClipConfig *config;
    const TrainOptions *opt;
    uint64_t seed;
    Params *params;
    OptimState *state;
    Clip *clip;
    Optim *optim;
    Step *step;
    Teacher *teacher;             /* NULL: none */
    FeatureCache *images, *texts; /* NULL: none */
} Learner;

/* Refuses incompatible options; sets defaults that depend on the model. */
void learner_check_options(const ClipConfig *c);
/* resume: a checkpoint to resume from (state is then read again with the moments), or NULL. */
void learner_open(Learner *l, const Kernels *k, const Comm *comm, const ClipConfig *c,
                  const TrainOptions *opt, const char *resume, TrainState *state);
/* Between plan_begin and plan_end (kernels/device.h): takes the memory of learner_open and
 * learner_cache and adds its lines; reads only the teacher's configuration. comm may be any
 * transport with that number of ranks. */
void learner_plan(Learner *l, const Kernels *k, const Comm *comm, const ClipConfig *c,
                  const TrainOptions *opt, RunPlan *plan);
/* Computes features of frozen towers if they are the same in every epoch and needed more than
 * once. */
void learner_cache(Learner *l, Dataset *d, const Transform *t, const Tokenizer *tokenizer,
                   uint64_t samples);
void learner_close(Learner *l);
