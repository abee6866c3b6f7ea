/* ckpt_sweep: the WiSE-FT curve of two checkpoints: retrieval with mixed weights on sets of pairs.
 */
#pragma once
#include "tools/common.h"

typedef struct SweepOptions {
    const char *range; /* FROM:TO:STEP of alpha; NULL: no sweep */
    StringList data;   /* sets of pairs: those to be kept, and last the one to gain on */
    DatasetOptions dataset;
    EncoderOptions encoder; /* of checkpoint A */
    double most_lost;       /* points of recall@10 that the chosen alpha may lose on a kept set */
    const char *plot;       /* an SVG; NULL: none */
    bool json;
} SweepOptions;

/* Refuses a wrong range, and a sweep without data. */
void sweep_check(const SweepOptions *o);
/* Measures (1 - alpha) A + alpha B for each alpha; prints the curve, or with json one object.
 * Returns the alpha that gains most on the last set while it loses at most most_lost points on each
 * of the others: of equal ones the smallest. */
double sweep_run(const SweepOptions *o, const char *a, const char *b);
