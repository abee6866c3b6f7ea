/* feature_cache: the features of a frozen tower whose input is the same in every epoch. They are
 * computed once, before the first step, and looked up from then on. */
#pragma once
#include "eval/encoder.h"
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
FeatureCache *feature_cache_images(Encoder *e, const Comm *comm, Dataset *d, size_t max_pixels);
/* An unreadable sample has the empty caption and is not ok. */
FeatureCache *feature_cache_texts(Encoder *e, const Comm *comm, Dataset *d);
void feature_cache_free(FeatureCache *c);
/* out[n,dim] (device) = the rows of these samples, which must all be ok; n is at most the batch. */
void feature_cache_get(const FeatureCache *c, const Kernels *k, acc *out, const uint64_t *sample,
                       size_t n);
