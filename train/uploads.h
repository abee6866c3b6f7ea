/* uploads: batches on their way to the device. Pixels go straight from the loader's memory, what is
 * made of the captions from staging memory here, both by the copy queue into one of two places on
 * the device, while the compute queue works on the batch in the other. Called by step.c. */
#ifndef TRAIN_UPLOADS_H
#define TRAIN_UPLOADS_H
#include "data/loader.h"
#include "train/model/clip.h"

typedef struct Uploads Uploads;
/* accum: micro-batches of a step. At most two steps may be under way. */
Uploads *uploads_new(const Kernels *k, const Clip *m, size_t accum);
void uploads_free(Uploads *f);
/* Micro-batch j of a step: packed captions with their padding, patches that dropout leaves. The
 * batch has to stay until the step is done. */
void uploads_stage(Uploads *f, uint64_t step, size_t j, const Batch *b);
/* Sends a staged one (what is not asked for is NULL); what the compute queue is asked for from now
 * on finds it there, up to uploads_done. The result is valid until the next call. */
const ClipBatch *uploads_send(Uploads *f, uint64_t step, size_t j, bool image, bool text);
/* The compute queue was asked for all that reads the batch sent last. */
void uploads_done(Uploads *f);
#endif
