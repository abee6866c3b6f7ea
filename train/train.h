/* train: the training loop: options → data, model, optimiser → steps, logs, checkpoints. */
#pragma once

/* Runs according to train_options; returns the exit code. */
int train_main(void);
