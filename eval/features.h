/* features: a whole data set through an encoder, by all ranks. Called by commands that evaluate or
 * embed data sets. */
#ifndef EVAL_FEATURES_H
#define EVAL_FEATURES_H
#include "eval/encoder.h"
#include "train/ranks/comm.h"

/* NULL arrays are not computed; the others are malloc'd. Rows are the samples that could be read,
 * in stored order. */
typedef struct Features {
    size_t count, dim, bad;
    float *images, *texts; /* [count,dim] */
    char **keys;           /* [count] */
    char **captions;       /* [count] */
    int *labels;           /* [count] */
    double seconds;
} Features;
/* Each rank computes its share, whole batches of the data set's order (so that batches are those of
 * one rank); then every rank has all rows. Readable samples are counted once. */
void features_of_dataset(Features *f, Encoder *e, const Comm *c, Dataset *d, bool images,
                         bool texts);
void features_free(Features *f);
#endif
