/* uploads: sends batches to the device. Pixels are copied from the caller's memory, caption data
 * from staging memory, both in the copy queue into one of two buffers on the device, while the
 * compute queue uses the batch in the other. */
#pragma once
#include "data/loader.h"
#include "train/model/clip.h"

typedef struct Uploads Uploads;
/* accum: micro-batches of a step. At most two steps may be in flight. */
Uploads *uploads_new(const Kernels *k, Clip *m, size_t accum);
void uploads_free(Uploads *f);
/* Stages micro-batch j of a step: packed captions with their padding, patches that dropout keeps.
 * Without pixels (ids) only its text (image) can be sent; without sample no patch is dropped. The
 * batch must be kept until the step is done. */
void uploads_stage(Uploads *f, uint64_t step, size_t j, const Batch *b);
/* Sends a staged micro-batch (unrequested parts are NULL). Work enqueued in the compute queue from
 * now until uploads_done can use it. The result is valid until the next call. */
const ClipBatch *uploads_send(Uploads *f, uint64_t step, size_t j, bool image, bool text);
/* The parts of a staged micro-batch's captions. */
size_t uploads_parts(const Uploads *f, uint64_t step, size_t j);
/* Call after enqueuing all work that reads the last sent batch. */
void uploads_done(Uploads *f);
/* Enqueues the features of a batch while no step is in flight; images or texts NULL: not computed.
 * The batch must be kept until they are read. */
void uploads_features(Uploads *f, const Batch *b, acc *images, acc *texts);
