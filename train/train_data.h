/* train_data: the training data as the options name them, their order, and how pictures are changed
 * on the way. Called by train/train.c. */
#ifndef TRAIN_TRAIN_DATA_H
#define TRAIN_TRAIN_DATA_H
#include "data/image/augment.h"
#include "data/sampler.h"
#include "train/ranks/comm.h"
#include "train/model/config.h"

/* Opens --train-data for this rank; *used: how, for other data of the run. Streams feed the loader.
 * NULL: err says why. */
Dataset *train_data_open(const Comm *comm, const char *cache_dir, uint64_t seed,
                         DatasetOptions *used, Error *err);
/* The order of epochs of `samples`. */
Sampler *train_data_order(const Dataset *d, uint64_t seed, size_t samples, Error *err);
/* The checkpoint's own transform of evaluation, with the options' augmentation. */
Transform train_data_transform(const ClipConfig *c);
/* Dies where a run that goes on from `resume` (or NULL) reads streams by another number of ranks
 * than before (0: not known). */
void train_data_check_ranks(const Dataset *d, const Comm *comm, const char *resume, uint64_t ranks);
#endif
