/* probe_data: features with the names of their classes, from files or from a data set through an
 * encoder, with a cache. */
#pragma once
#include "eval/encoder.h"
#include "eval/probe.h"
#include "train/ranks/comm.h"

typedef struct Labelled {
    size_t count, dim;
    float *x; /* [count,dim], rows of length 1 */
    char **labels;
} Labelled;

/* Reads X.npy and a file with one label a line. Exits with an error that names a mismatch. */
void labelled_open(Labelled *l, const char *features, const char *labels);
/* Computed by all ranks; options of labels_dataset_options. cache: folder with NAME.npy,
 * NAME.labels and NAME.json, which are read if they are of this model and specification, else
 * written; NULL: none. Rank 0 has the result. */
void labelled_embed(Labelled *l, Encoder *e, const Comm *c, const char *name, const char *spec,
                    const DatasetOptions *d, const char *cache);
void labelled_free(Labelled *l);

/* The classes that occur in `train`, sorted by name; malloc'd list of borrowed strings. */
const char **labelled_classes(const Labelled *train, size_t *count);
/* l's rows with labels as indices into `names`; takes ownership of l->x. Exits with an error on any
 * other label. */
ProbeSet labelled_set(Labelled *l, const char *name, const char *const *names, size_t count);
