/* checkpoint: a folder that open_clip can open (open_clip_model.safetensors, open_clip_config.json)
 * plus train_state.safetensors (moments, step, data position). It is written under a temporary
 * name, fsynced and renamed, so the last good one always remains. */
#pragma once
#include "train/model/pretrained.h"
#include "train/optim_state.h"

enum { METRIC_NAME = 64 };

/* The best validation so far (train/validate.h). */
typedef struct Best {
    char metric[METRIC_NAME]; /* "": none yet */
    double value;
    uint64_t step;  /* 0: no finite value yet */
    uint64_t stale; /* validations since then */
} Best;

enum { RECENT_LOSSES = 64, RECENT_LEAST = 16 };

/* The losses of the last steps that were not skipped (train/guards.h): the n-th at n %
 * RECENT_LOSSES. */
typedef struct RecentLosses {
    double loss[RECENT_LOSSES];
    uint64_t seen;
} RecentLosses;

typedef struct TrainState {
    uint64_t step;            /* optimiser steps done */
    uint64_t epoch, position; /* next global batch: epoch, samples consumed in it */
    uint64_t seed;
    uint64_t ranks; /* ranks that shared the data; 0: not known */
    Best best;
    RecentLosses recent;
    const char *record; /* of the run that is saved (train/record.h), or NULL; not loaded */
} TrainState;

/* Writes `<dir>/<name>` and points `<dir>/latest` at it. The moments go into the train state; the
 * vocabulary file is copied, so that evaluation needs nothing else; the moving average becomes a
 * checkpoint of weights only, `<dir>/<name>/ema`; LoRA's products are merged. If the disk is full
 * or the folder read-only, exits with an error that names the path; existing checkpoints are kept.
 * Over ranks, rank 0 calls it while the others call checkpoint_help_save to send their shares of
 * the moments. */
void checkpoint_save(const char *dir, const char *name, const OptimState *o, const ClipConfig *c,
                     const TrainState *s, const char *vocab_path);
void checkpoint_help_save(const OptimState *o);
/* Reads the algorithms of products that the checkpoint's run had chosen; warns if they are not
 * valid here. */
void checkpoint_load_algorithms(const char *path);
/* Everything needed to resume: moments, moving average, LoRA's factors (o NULL: the TrainState
 * alone); compute weights are not updated. False: there is no train state. Exits with an error on a
 * damaged file. With o, all ranks call it; rank 0 reads the file, the others do not set s. */
bool checkpoint_load_state(const char *path, OptimState *o, TrainState *s);
/* The record in it, malloc'd; NULL: none, as of older programs. */
char *checkpoint_load_record(const char *path);
/* The newest complete checkpoint in `dir`; malloc'd path, NULL if there is none. Damaged ones are
 * logged and skipped. */
char *checkpoint_latest(const char *dir);
/* After a run that was killed while it saved: removes what is unfinished in `dir`, and points
 * `latest` at the checkpoint `path` of that folder, unless it points to one of the same step. */
void checkpoint_settle(const char *dir, const char *path, uint64_t step);
/* Deletes all step checkpoints except the last `keep`. */
void checkpoint_prune(const char *dir, size_t keep);
