/* guards: what a run is watched for: a loss that leaps out of what was usual, a temperature at its
 * bound, features that have become all alike. Called by train.c. */
#ifndef TRAIN_GUARDS_H
#define TRAIN_GUARDS_H
#include "train/checkpoint.h"

/* The loss past which a step is left out: factor times the median of the last RECENT_LOSSES;
 * infinite with factor 0 and before RECENT_LEAST are known. */
double guard_limit(const RecentLosses *r, double factor);
/* Takes a loss of a step that was made. */
void guard_remember(RecentLosses *r, double loss);

typedef struct Watch {
    uint64_t low, alike;           /* steps in a row */
    uint64_t told_low, told_alike; /* step of the last warning; 0: none yet */
} Watch;
/* After each step past the warm-up; logit_scale exponentiated, the mean cosines between different
 * samples of the batch. Warns (at most once in WATCH_QUIET steps) where for WATCH_STEPS in a row
 * the scale stood at its lower bound 1, or all features of a tower lay within one direction. */
void watch_step(Watch *w, uint64_t step, double logit_scale, double image_cosine,
                double text_cosine);
enum { WATCH_STEPS = 20, WATCH_QUIET = 1000 };
#define WATCH_COSINE 0.99
#endif
