/* features: a whole data set through an encoder, by all ranks. */
#pragma once
#include "eval/encoder.h"
#include "train/ranks/comm.h"

/* Rows are the readable samples in stored order. Arrays are malloc'd; NULL: not computed. */
typedef struct Features {
    size_t count, dim, bad;
    float *images, *texts; /* [count,dim] */
    char **keys;           /* [count] */
    char **captions;       /* [count] */
    int *labels;           /* [count] */
    double seconds;
} Features;
/* Each rank computes a share of whole batches in the data set's order, so that batches are the same
 * as on one rank; then every rank receives all rows. */
void features_of_dataset(Features *f, Encoder *e, const Comm *c, Dataset *d, bool images,
                         bool texts);
void features_free(Features *f);
