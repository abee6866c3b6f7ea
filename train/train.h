/* train: the training loop: options → data, model, optimiser → steps, logs, checkpoints. */
#ifndef TRAIN_TRAIN_H
#define TRAIN_TRAIN_H

/* Runs what train_options say; returns the exit code. */
int train_main(void);
#endif
