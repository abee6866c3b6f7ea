/* sched: the learning rate of a step, steps from 0. Source: open_clip 3.3.0,
 * open_clip_train/scheduler.py; docs/NUMERICS.md, Schedule. */
#ifndef TRAIN_SCHED_H
#define TRAIN_SCHED_H
#include <stdint.h>

typedef enum { SCHED_COSINE, SCHED_CONST, SCHED_CONST_COOLDOWN } SchedKind;
typedef struct Sched {
    SchedKind kind;
    double base;
    uint64_t warmup, total, cooldown; /* steps */
    double cooldown_power, cooldown_end;
} Sched;
double sched_lr(const Sched *s, uint64_t step);
#endif
