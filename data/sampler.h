/* sampler: the sample at each position of an epoch. A pure function of (seed, epoch): independent
 * of ranks, workers and accumulation. Shuffling permutes shards, then samples within a window of
 * shards, so that reads stay nearly sequential. Resampling draws shards with replacement instead,
 * and pieces of tables and folders in the same way. */
#pragma once
#include "data/dataset.h"

typedef struct Sampler Sampler;
/* window: shards shuffled together (≥ 1). shuffle false: stored order in every epoch. */
Sampler *sampler_new(const Dataset *d, bool shuffle, size_t window, uint64_t seed);
/* Epochs of `samples` positions. factors ("2::1", one for each part of the specification; NULL: all
 * 1): the relative rate at which samples of a part are drawn. NULL: err has the reason. */
Sampler *sampler_new_resampled(const Dataset *d, size_t window, uint64_t seed, size_t samples,
                               const char *factors, Error *err);
/* Sample number at `position` (below the dataset's count, or `samples`) of `epoch`. Thread-safe. */
size_t sampler_at(Sampler *s, uint64_t epoch, size_t position);
void sampler_free(Sampler *s);
