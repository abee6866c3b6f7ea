/* feature_cache: the features of a frozen tower whose input is the same in every epoch. They are
 * computed once, before the first step, and looked up from then on. */
#ifndef TRAIN_FEATURE_CACHE_H
#define TRAIN_FEATURE_CACHE_H
#include "data/image/augment.h"
#include "data/text/tokenizer.h"
#include "data/dataset.h"
#include "train/model/clip.h"
#include "train/ranks/comm.h"

typedef struct FeatureCache {
    size_t count, dim, missing; /* samples; unreadable ones */
    float *rows;                /* [count,dim] host */
    bool *ok;                   /* [count] */
    float *staged;              /* [batch,dim] */
    double seconds;
} FeatureCache;

/* Computes all samples, divided over ranks, in batches of stored order (so the bits depend only on
 * the data, the weights and the ranks). max_pixels: as for the loader. */
FeatureCache *feature_cache_images(const Kernels *k, const Comm *comm, Clip *m, size_t dim,
                                   Dataset *d, const Transform *t, size_t max_pixels, size_t batch);
FeatureCache *feature_cache_texts(const Kernels *k, const Comm *comm, Clip *m, size_t dim,
                                  Dataset *d, const Tokenizer *tokenizer, size_t context,
                                  size_t batch);
/* Between plan_begin and plan_end (kernels/device.h): takes the device memory of these two
 * functions. */
void feature_cache_plan(const Kernels *k, size_t dim, size_t batch);
void feature_cache_free(FeatureCache *c);
/* out[n,dim] (device) = the rows of these samples, which must all be ok; n is at most the batch. */
void feature_cache_take(const FeatureCache *c, const Kernels *k, acc *out, const uint64_t *sample,
                        size_t n);
#endif
