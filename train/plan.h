/* plan: the cost of a training run before it starts: parameters, FLOPs per sample, memory. */
#ifndef TRAIN_PLAN_H
#define TRAIN_PLAN_H
#include "train/model/clip.h"
#include "train/model/params.h"

typedef struct PlanOptions {
    size_t accum, logit_memory;
    int ranks;
    bool shard_optimizer, ema, gather_bf16;
    Moments moments;
    Params *params;              /* laid out, without memory */
    bool soft;                   /* loss_allow_soft */
    size_t teacher, teacher_dim; /* teacher_bytes, or 0 */
    size_t device;               /* bytes of a GPU's memory, or 0 */
} PlanOptions;

/* Prints the plan of `clipc train --dry-run` on stdout. */
void plan_print(const Kernels *k, const ClipConfig *c, const ClipOptions *o, const PlanOptions *p);
#endif
