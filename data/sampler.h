/* sampler: which sample stands at which position of an epoch. A pure function of (seed, epoch):
 * independent of ranks, workers and accumulation. Shuffling permutes shards, then samples within a
 * window of shards, so that reads stay nearly sequential. */
#ifndef DATA_SAMPLER_H
#define DATA_SAMPLER_H
#include "data/shards.h"

typedef struct Sampler Sampler;
/* window: shards shuffled together (≥ 1). shuffle false: stored order in every epoch. */
Sampler *sampler_new(const Dataset *d, bool shuffle, size_t window, uint64_t seed);
/* Sample number at `position` (0 … count-1) of `epoch`. Thread-safe. */
size_t sampler_at(Sampler *s, uint64_t epoch, size_t position);
void sampler_free(Sampler *s);
#endif
