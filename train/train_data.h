/* train_data: the training data of the options, their order, and the transform of pictures. */
#pragma once
#include "data/image/augment.h"
#include "data/sampler.h"
#include "data/text/tokenizer.h"
#include "train/ranks/comm.h"
#include "train/model/config.h"

/* Opens --train-data for this rank; *used: its options, for other data of the run. Streams feed the
 * loader. NULL: err has the reason. */
Dataset *train_data_open(const Comm *comm, const char *cache_dir, uint64_t seed,
                         DatasetOptions *used, Error *err);
/* The order of epochs of `samples`. */
Sampler *train_data_order(const Dataset *d, uint64_t seed, size_t samples, Error *err);
/* What --text-rows auto is: the mean tokens of a caption, of up to 512 samples, plus four standard
 * errors of it and of a batch's mean. */
size_t train_data_caption_rows(Dataset *d, const Tokenizer *t, size_t context, size_t batch);
/* The checkpoint's evaluation transform, with the options' augmentation. */
Transform train_data_transform(const ClipConfig *c);
/* The transform of the views of --objective simclr and slip. */
Transform train_data_views(const ClipConfig *c);
/* Exits with an error if a run that resumes from `resume` (or NULL) reads streams with another
 * number of ranks than before (0: not known). */
void train_data_check_ranks(const Dataset *d, const Comm *comm, const char *resume, uint64_t ranks);
