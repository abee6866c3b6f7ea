/* support_data: archives, data sets, captions, tokenizers and matrices for tests. */
#pragma once
#include "data/dataset.h"
#include "data/tensors/safetensors.h"
#include "data/text/tokenizer.h"
#include "tests/support.h"

/* A tar that grows in memory; zeroed before use, bytes are malloc'd. */
typedef struct TarBytes {
    uint8_t *bytes;
    size_t size;
} TarBytes;

void tar_bytes_add(TarBytes *t, const char *name, const void *data, size_t n);
void tar_bytes_text(TarBytes *t, const char *name, const char *text);
void tar_bytes_end(TarBytes *t);
/* Ends the archive, writes it to test_path(name), frees it; returns the path. */
const char *tar_bytes_write(TarBytes *t, const char *name);
/* Opens a data set; one that cannot be opened fails the test. */
Dataset *open_data_set(const char *spec, const DatasetOptions *o);
/* Opening must fail with a line that contains `needle`. */
void refuse_data_set(const char *spec, const DatasetOptions *o, const char *needle);

typedef enum { CAPTIONS_REAL, CAPTIONS_ODD } GoldenCaptions;
/* Calls check for every caption of tests/golden/tok/ (make_tok.py) with golden_hash of what
 * open_clip cleans it to and of its ids. Returns how many there are. */
typedef void GoldenCheck(void *context, const char *caption, size_t n, uint32_t clean,
                         uint32_t ids);
size_t golden_captions(GoldenCaptions which, GoldenCheck *check, void *context);
uint32_t golden_hash(const void *bytes, size_t n); /* FNV-1a */

/* bytes as zstd frames of `frame` bytes each, malloc'd. */
uint8_t *zstd_frames(const uint8_t *bytes, size_t n, size_t frame, size_t *size);

/* tokenizer_open; a file that cannot be opened fails the test. */
Tokenizer *test_tokenizer(const char *path);

/* A float32 matrix, malloc'd; one that cannot be read fails the test. */
float *read_npy(const char *path, size_t *rows, size_t *cols);
/* Two files have the same shape, and values that differ by at most `tolerance`; prints by how much.
 */
void same_npy(const char *got, const char *want, double tolerance);
/* metrics.jsonl of the run test_path("logs")/NAME, malloc'd; its last loss. */
char *run_metrics(const char *name);
double run_last_loss(const char *name);
/* The run's steps are the ten of tests/golden/train_steps.py that the JSON file `want` has: loss,
 * logit scale and gradient norm within 1e-5 in the first and 2e-4 in the others, the rate within
 * 1e-9. */
void same_steps(const char *name, const char *want);
/* A .safetensors file from the tensors' data; one that cannot be written fails the test. */
void write_tensors(const char *path, const Tensor *tensors, size_t count);
bool write_tensors_with(const char *path, const Tensor *tensors, size_t count,
                        const char *const *meta, size_t meta_count, Error *err);
