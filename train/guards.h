/* guards: watches a run for a loss far above the recent ones, a temperature at its bound, and
 * collapsed features. */
#pragma once
#include "train/checkpoint.h"

/* The loss above which a step is skipped: factor times the median of the last RECENT_LOSSES;
 * infinite with factor 0 and before RECENT_LEAST are known. */
double guard_limit(const RecentLosses *r, double factor);
/* Records the loss of a step that was not skipped. */
void guard_remember(RecentLosses *r, double loss);

typedef struct Watch {
    uint64_t low, alike;           /* consecutive steps */
    uint64_t told_low, told_alike; /* step of the last warning; 0: none yet */
} Watch;
/* After each step past the warm-up; logit_scale exponentiated, the mean cosines between different
 * samples of the batch. Warns (at most once in WATCH_QUIET steps) if for WATCH_STEPS consecutive
 * steps the scale was at its lower bound 1, or all features of a tower had nearly one direction. */
void watch_step(Watch *w, uint64_t step, double logit_scale, double image_cosine,
                double text_cosine);
enum { WATCH_STEPS = 20, WATCH_QUIET = 1000 };
#define WATCH_COSINE 0.99
