/* log: reports a run: metrics.jsonl and TensorBoard events in the run folder, a progress line on
 * stderr. */
#pragma once
#include "train/validate.h"

typedef struct StepMetrics {
    uint64_t step;  /* optimiser steps done, this one included: from 1 */
    uint64_t epoch; /* from 0 */
    double loss, logit_scale, grad_norm,
        lr;                           /* logit_scale exponentiated; grad_norm before clipping */
    double views_loss;                /* NT-Xent alone; 0 without views */
    double image_cosine, text_cosine; /* mean over different samples of the batch */
    double samples_per_s,
        data_wait;         /* data_wait: share of the time spent waiting for batches, 0…1 */
    uint64_t samples, bad; /* samples seen in the whole run; bad ones replaced */
    bool skipped;
} StepMetrics;

typedef struct TrainLog TrainLog;
/* Opens <dir>/metrics.jsonl and a TensorBoard event file under <dir>/tensorboard. Lines of steps
 * after `keep_step` are removed from metrics.jsonl (resume; 0: all). total_steps is for the
 * progress line, which is printed at least every `every` steps. */
TrainLog *train_log_open(const char *dir, uint64_t keep_step, uint64_t total_steps, uint64_t every);
/* One line of JSON with 9 significant digits (a NaN or infinity as null), flushed. Exits with an
 * error if it cannot be written. */
void train_log_step(TrainLog *l, const StepMetrics *m);
/* Writes a separate line for measurements after that step. */
void train_log_metrics(TrainLog *l, uint64_t step, const Metrics *m);
void train_log_close(TrainLog *l);
