/* tarstream: the samples of a tar that is read once from start to end: a command's output, a file,
 * standard input. */
#pragma once
#include "data/captions.h"
#include "data/sources.h"

#include <stdatomic.h>

typedef struct TarStreamOptions {
    const char *image_keys; /* "jpg;png": first one present */
    const CaptionKeys *captions;
    CaptionPick pick;
    double seconds;          /* time limit of one read */
    const atomic_bool *stop; /* once true, reads end; may be NULL */
} TarStreamOptions;

/* A reference-counted sample; the last release frees it. */
typedef struct StreamSample {
    Sample s;        /* its text is already a single caption */
    uint64_t number; /* its source's number << 32 | its number there */
    bool bad;        /* it has no usable caption or label; `why` has the reason */
    Error why;
    atomic_uint refs;
} StreamSample;
void stream_sample_release(StreamSample *s);

typedef struct TarStream TarStream;
typedef enum { TARSTREAM_SAMPLE, TARSTREAM_END, TARSTREAM_FAILED } TarStreamStatus;

/* item: a tar; number: its index among all. NULL: err names it. */
TarStream *tarstream_open(const SourceItem *item, size_t number, const TarStreamOptions *o,
                          Error *err);
/* The next sample, refs 1. A caption is drawn by rng_mix(seed, number); seed NULL: the first one.
 * Samples without image or caption are skipped. FAILED: the command failed, or the tar is truncated
 * or damaged; err names the source. After END and FAILED nothing more can be read. */
TarStreamStatus tarstream_next(TarStream *t, const uint64_t *seed, StreamSample **out, Error *err);
void tarstream_close(TarStream *t);
