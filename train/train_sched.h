/* train_sched: the schedule that the options of `clipc train` ask for. */
#ifndef TRAIN_TRAIN_SCHED_H
#define TRAIN_TRAIN_SCHED_H
#include "train/checkpoint.h"
#include "train/sched.h"

/* Epochs decide how far a run is, as in open_clip: steps of other batches or data than now count as
 * much as their epochs. --max-steps counts steps. s: where the run is. */
Sched train_sched(const TrainState *s, uint64_t steps_per_epoch, size_t global_batch);
#endif
