/* train_data: the training data of the options, their order, and the transform of pictures. */
#pragma once
#include "data/image/augment.h"
#include "data/sampler.h"
#include "train/ranks/comm.h"
#include "train/model/config.h"

/* Opens --train-data for this rank; *used: its options, for other data of the run. Streams feed the
 * loader. NULL: err has the reason. */
Dataset *train_data_open(const Comm *comm, const char *cache_dir, uint64_t seed,
                         DatasetOptions *used, Error *err);
/* The order of epochs of `samples`. */
Sampler *train_data_order(const Dataset *d, uint64_t seed, size_t samples, Error *err);
/* The checkpoint's evaluation transform, with the options' augmentation. */
Transform train_data_transform(const ClipConfig *c);
/* The transform of the views of --objective simclr and slip. */
Transform train_data_views(const ClipConfig *c);
/* Exits with an error if a run that resumes from `resume` (or NULL) reads streams with another
 * number of ranks than before (0: not known). */
void train_data_check_ranks(const Dataset *d, const Comm *comm, const char *resume, uint64_t ranks);
