/* lists: features of individually named files and of texts, computed by all ranks; for data sets
 * see features. */
#pragma once
#include "eval/encoder.h"
#include "train/ranks/comm.h"

/* [n,E], malloc'd, the same on every rank; each computes its share of whole batches. A path
 * "FILE.pdf#7" is a page. ok[n]: files that could not be read or decoded get ok = false and a row
 * of zeros; the first `named` of them are logged. */
float *features_of_files(Encoder *e, const Comm *c, char *const *paths, size_t n, bool *ok,
                         size_t named);
float *features_of_texts(Encoder *e, const Comm *c, char *const *texts, size_t n);
