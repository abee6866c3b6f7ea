/* plan: what a training run will take, before it starts: parameters, FLOPs a sample, memory. */
#ifndef TRAIN_PLAN_H
#define TRAIN_PLAN_H
#include "train/clip.h"

/* Prints the plan of `clipc train --dry-run` on stdout. */
void plan_print(const Kernels *k, const ClipConfig *c, const ClipOptions *o, size_t accum,
                int ranks, size_t logit_memory, bool shard_optimizer);
#endif
