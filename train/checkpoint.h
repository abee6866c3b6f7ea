/* checkpoint: a folder open_clip itself opens (open_clip_model.safetensors, open_clip_config.json)
 * plus train_state.safetensors (moments, step, data position). Written beside, fsynced, renamed:
 * the last good one always stands. */
#ifndef TRAIN_CHECKPOINT_H
#define TRAIN_CHECKPOINT_H
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

/* The losses of the last steps that were made (train/guards.h): the n-th at n % RECENT_LOSSES. */
typedef struct RecentLosses {
    double loss[RECENT_LOSSES];
    uint64_t seen;
} RecentLosses;

typedef struct TrainState {
    uint64_t step;            /* optimiser steps done */
    uint64_t epoch, position; /* next global batch: epoch, samples consumed in it */
    uint64_t seed;
    uint64_t ranks; /* that shared the data; 0: not known */
    Best best;
    RecentLosses recent;
    const char *record; /* of the run that is saved (train/record.h), or NULL; not loaded */
} TrainState;

/* Writes `<dir>/<name>` and points `<dir>/latest` at it. The moments go into the train state; the
 * vocabulary file is copied in, so that a checkpoint is all that evaluation needs; the moving
 * average becomes a checkpoint of weights alone, `<dir>/<name>/ema`; what LoRA adapted is merged.
 * Dies (naming the path) when the disk is full or the folder read-only; what stood there before
 * stands. Over ranks, rank 0 calls it and the others checkpoint_help_save at the same time: they
 * give their share of the moments. */
void checkpoint_save(const char *dir, const char *name, const OptimState *o, const ClipConfig *c,
                     const TrainState *s, const char *vocab_path);
void checkpoint_help_save(const OptimState *o);
/* The ways of doing products that the checkpoint's run had chosen; warns where they do not hold
 * here. */
void checkpoint_load_choices(const char *path);
/* Everything needed to resume: moments, moving average, LoRA's factors (o NULL: the TrainState
 * alone); compute weights are not refreshed. False: there is no train state. Dies on a damaged
 * file. With o, all ranks call it; rank 0 reads the file, the others leave s. */
bool checkpoint_load_state(const char *path, OptimState *o, TrainState *s);
/* The record in it, malloc'd; NULL: none, as of older programs. */
char *checkpoint_load_record(const char *path);
/* The newest whole checkpoint in `dir`; malloc'd path, NULL without one. Damaged ones are named and
 * passed over. */
char *checkpoint_latest(const char *dir);
/* Deletes all but the last `keep` step checkpoints. */
void checkpoint_prune(const char *dir, size_t keep);
#endif
