/* train: the training loop: options → data, model, optimiser → steps, logs, checkpoints. Called by
 * `clipc train`. */
#ifndef TRAIN_TRAIN_H
#define TRAIN_TRAIN_H
#include "train/validate.h"

/* Runs what train_options say; validators: what may be measured in between, where the options want
 * it. Returns the exit code. */
int train_main(const Validator *const *validators, size_t count);
#endif
