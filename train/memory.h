/* memory: what a run takes of a device's memory, known before any is taken. Called by train.c. */
#ifndef TRAIN_MEMORY_H
#define TRAIN_MEMORY_H
#include "train/learner.h"

typedef struct MemoryPlan {
    const Kernels *k;
    const ClipConfig *config;
    int ranks;
    /* Called while planning: takes what the run takes beside this learner; gives it back. */
    void (*open)(void *context, const Learner *l);
    void (*close)(void *context);
    void *context;
} MemoryPlan;

/* Bytes, as one of so many ranks, with what the ranks' transport takes before (but for NCCL's own);
 * 0 where the device's memory is the host's. */
size_t memory_needed(const MemoryPlan *p);
/* Takes them for what follows, or dies where that is more than the device has left, naming options
 * with which it would fit. All ranks call it. */
void memory_take(const MemoryPlan *p, const Comm *comm);
/* At the end of a run: a line that says what was taken. */
void memory_report(const Kernels *k);
#endif
