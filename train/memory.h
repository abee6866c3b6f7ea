/* memory: plans a run's device memory before any is allocated. */
#ifndef TRAIN_MEMORY_H
#define TRAIN_MEMORY_H
#include "train/learner.h"

typedef struct MemoryPlan {
    const Kernels *k;
    const ClipConfig *config;
    int ranks;
    /* Called in the dry run: takes the run's memory outside the learner, and releases it. */
    void (*open)(void *context, const Learner *l);
    void (*close)(void *context);
    void *context;
} MemoryPlan;

/* Bytes of one of `ranks` ranks, including the transport's buffers (except NCCL's internal memory);
 * 0 if the device's memory is the host's. */
size_t memory_needed(const MemoryPlan *p);
/* Allocates them for the run. If that exceeds the device's free memory, exits with an error that
 * names options with which it would fit. All ranks call it. */
void memory_take(const MemoryPlan *p, const Comm *comm);
/* Call at the end of a run: logs the memory taken. */
void memory_report(const Kernels *k);
#endif
