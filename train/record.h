/* record: what a run's state says of how the run learns, for the run that resumes it: lines
 * `name=value` of options and facts. */
#ifndef TRAIN_RECORD_H
#define TRAIN_RECORD_H
#include "data/dataset.h"
#include "train/checkpoint.h"
#include "train/ranks/comm.h"
#include "train/sched.h"

typedef struct RecordFacts {
    size_t global_batch;
    const Dataset *data;
    uint64_t data_hash;
    const ClipConfig *config;
    const TrainState *state; /* where the run begins */
    const Sched *sched;
} RecordFacts;

/* Collective. The record of a run that begins, malloc'd; NULL on other ranks than 0. What changed
 * since the record of the checkpoint `resume` (NULL: none) is logged; exits with an error if the
 * run would be another one. */
char *record_begin(const Comm *comm, const char *resume, const RecordFacts *f);
#endif
