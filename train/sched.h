/* sched: the learning rate of a step, steps from 0. Source: open_clip 3.3.0,
 * open_clip_train/scheduler.py; docs/NUMERICS.md, Schedule. */
#pragma once
#include "kernels/base.h"

#define SCHED_KINDS(X)                                                                             \
    X(SCHED_COSINE, "cosine") X(SCHED_CONST, "const") X(SCHED_CONST_COOLDOWN, "const-cooldown")
typedef enum { SCHED_KINDS(CHOICE_NAME) } SchedKind;
typedef struct Sched {
    SchedKind kind;
    double base;
    uint64_t warmup, total, cooldown; /* steps */
    double cooldown_power, cooldown_end;
    int64_t shift; /* a run's step minus the schedule's */
} Sched;
double sched_lr(const Sched *s, uint64_t step);
