/* train: the training loop: options → data, model, optimiser → steps, logs, checkpoints. */
#ifndef TRAIN_TRAIN_H
#define TRAIN_TRAIN_H

/* Runs according to train_options; returns the exit code. */
int train_main(void);
#endif
