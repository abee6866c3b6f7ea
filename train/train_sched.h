/* train_sched: the schedule that the options of `clipc train` select. */
#pragma once
#include "train/checkpoint.h"
#include "train/sched.h"

/* A run's progress is counted in epochs, as in open_clip: steps with other batches or data count as
 * their share of an epoch. --max-steps counts steps. Settles the
 * options that are shares of the run's steps. s: the position of the run. */
Sched train_sched(const TrainState *s, uint64_t steps_per_epoch, size_t global_batch);
