/* plan: the cost of a training run before it starts: parameters, FLOPs per sample, memory,
 * communication. */
#pragma once
#include "train/model/config.h"
#include "train/train_options.h"

/* Bytes that a dry run of the run's own code counted (train/memory.h), by use. */
typedef struct RunPlan {
    struct {
        const char *what;
        size_t bytes;
    } line[16];
    size_t count, sum, total; /* total: the peak, including scratch memory */
    size_t host;              /* in the host's memory, if that is another */
    size_t parameters;
    size_t samples;            /* of an epoch; 0: not known */
    size_t gradients, weights; /* blocks that are sent between ranks */
} RunPlan;

/* Adds to the line of that name; 0 bytes make no line. */
void plan_add(RunPlan *p, const char *what, size_t bytes);
/* Adds the memory allocated since the last line. */
void plan_rest(RunPlan *p, const Kernels *k, const char *what);
/* Prints the plan of `clipc train --dry-run`, as one of `ranks` ranks, on stdout. */
void plan_print(const RunPlan *p, const Kernels *k, const ClipConfig *c, const TrainOptions *opt,
                int ranks);
