/* record: the settings of a run in its state, for the run that resumes it: lines `name=value` of
 * options and facts. */
#pragma once
#include "data/dataset.h"
#include "train/checkpoint.h"
#include "train/ranks/comm.h"
#include "train/sched.h"

typedef struct RecordFacts {
    size_t global_batch;
    const Dataset *data;
    uint64_t data_hash;
    const ClipConfig *config;
    const TrainState *state; /* start of the run */
    const Sched *sched;
} RecordFacts;

/* Collective. The record of a starting run, malloc'd; NULL on ranks other than 0. Logs changes
 * since the record of the checkpoint `resume` (NULL: none); exits with an error if the run would be
 * another one. */
char *record_begin(const Comm *comm, const char *resume, const RecordFacts *f);
/* An option's value in the record of a checkpoint, malloc'd; NULL: not known. */
char *record_option(const char *checkpoint, const char *name);
