/* tensorboard: writes scalars in TensorBoard's format, with an event file for each start of a run
 * (TFRecord framing; tensorflow's Event and Summary messages). */
#pragma once
#include "kernels/base.h"

typedef struct Scalar {
    const char *tag; /* "train/loss" */
    double value;
} Scalar;

/* The time that events carry: seconds since 1970-01-01 UTC. */
double wall_time(void);

typedef struct Tensorboard Tensorboard;
/* Creates a file in an existing folder. Scalars of first_step and later in older files of the
 * folder are void. Exits with an error if the file cannot be written, as the calls below do. */
Tensorboard *tensorboard_open(const char *folder, uint64_t first_step);
/* One event, flushed. All tags together are at most 1 KiB. */
void tensorboard_write(Tensorboard *t, uint64_t step, const Scalar *list, size_t count);
void tensorboard_close(Tensorboard *t);
