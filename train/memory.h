/* memory: plans a run's device memory before any is allocated, by a dry run of the run's own code
 * (kernels/device.h, plan_begin). */
#pragma once
#include "train/learner.h"

/* The run that is planned. */
typedef struct DryRun {
    const Kernels *k;
    const ClipConfig *config;
    const TrainOptions *opt;
    int ranks;
    /* Called in the dry run: takes the run's memory outside the learner and adds its lines;
     * releases it. */
    void (*open)(void *context, const Learner *l, RunPlan *plan);
    void (*close)(void *context);
    void *context;
} DryRun;

/* Of one of `ranks` ranks, including the transport's buffers (except NCCL's internal memory). */
void memory_plan(const DryRun *r, RunPlan *plan);
/* With --grad-checkpointing, the largest kept_blocks (clip.h) with which the run fits into the
 * GPU's free memory; 0 on a CPU. */
size_t memory_kept_blocks(const DryRun *r);
/* Allocates a GPU's memory for the run. If that exceeds the free memory, exits with an error that
 * names options with which it would fit. All ranks call it. */
void memory_reserve(const DryRun *r, const Comm *comm);
/* Call at the end of a run: logs the memory taken. */
void memory_report(const Kernels *k);
