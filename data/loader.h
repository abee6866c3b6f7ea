/* loader: worker threads that turn positions of the sample order into batches, in order, through a
 * bounded ring. Global batch s of an epoch is positions s·N … s·N+N-1, N = batch_size × ranks ×
 * accum; an epoch has floor(count/N) of them. In it, rank r's micro-batch j holds the batch_size
 * positions from s·N + (j·ranks + r)·batch_size on. */
#pragma once
#include "data/image/augment.h"
#include "data/text/tokenizer.h"
#include "data/sampler.h"

#include <signal.h>

typedef struct Batch {
    size_t size;     /* B */
    uint8_t *pixels; /* [B,S,S,3]; NULL: only views */
    /* [B,2] patches by height and width of pictures of their own sizes, whose pixels are [B,most
     * patches,P,P,3], each picture's patches in row-major order; NULL: pixels are as above */
    int32_t *shape;
    uint8_t *views;       /* [2,B,S,S,3]: two random transforms of each picture; NULL: none */
    int32_t *ids, *start; /* [start[B]], [B+1]: the captions' ids, one caption after another */
    int32_t pad;          /* fills a context after them (Tokenizer.pad) */
    uint64_t *sample;     /* [B] sample numbers, for the RNG of patch dropout and for messages */
    int32_t *label;       /* [B] */
    uint64_t epoch, step; /* step: global batch within the epoch */
    size_t micro;         /* accumulation index */
} Batch;

typedef struct LoaderOptions {
    Transform transform;
    const Transform *views;     /* of Batch.views, of the same size; NULL: none */
    bool views_only;            /* no plain pictures and no captions */
    const Tokenizer *tokenizer; /* views_only: may be NULL */
    size_t context;
    size_t batch_size, accum;
    size_t samples_per_epoch; /* length of an epoch in positions; 0: all samples */
    bool resampled;           /* samples_per_epoch may exceed the number of samples */
    int rank, ranks;
    size_t workers; /* threads ≥ 1 */
    size_t ring;    /* batches in flight; 0: a default */
    uint64_t seed;
    double max_bad; /* fraction of bad samples past which the run exits with an error */
    size_t max_pixels;
    void *(*alloc)(size_t bytes); /* of the pixels' memory; NULL: malloc's */
    void (*release)(void *p);
    /* [count] true for pictures that are known to be readable and whose pixels are unused: they are
     * not decoded and their pixels are not written. NULL: all are decoded. */
    const bool *picture_ok;
    const volatile sig_atomic_t
        *interrupted; /* once not 0, loader_next stops waiting; NULL: none */
    double grace;     /* seconds that it waits all the same */
} LoaderOptions;

typedef struct LoaderStats {
    uint64_t read, bad;  /* samples; bad ones were logged with shard and key and replaced. A failed
                            stream counts as one */
    double wait_seconds; /* time that loader_next blocked */
} LoaderStats;

typedef struct Loader Loader;
/* Starts the threads at global batch `step` of `epoch` (resume: any position; a step past the last
 * one is in the next epoch). Exits with an error if the data hold fewer samples than one global
 * batch. */
Loader *loader_start(Dataset *d, Sampler *s, const LoaderOptions *o, uint64_t epoch, uint64_t step);
/* What it allocates by o->alloc. */
size_t loader_ring_bytes(const LoaderOptions *o);
size_t loader_steps_per_epoch(const Dataset *d, const LoaderOptions *o);
/* The next micro-batch in order, over epochs without end. Valid until loader_release. A bad
 * sample's row is filled by the sample at position (p + j·N) mod (steps·N), j = 1, 2, …: one of
 * another global batch, the same for every number of ranks; if these are bad too (or steps = 1), by
 * the next good one after p. A feed's rows have spares; if the feed runs out before this batch,
 * exits with an error. NULL: interrupted. */
Batch *loader_next(Loader *l);
void loader_release(Loader *l, Batch *b);
LoaderStats loader_stats(Loader *l);
/* False: a thread still waits for its data after some seconds; the loader, and what it uses, must
 * stay. */
bool loader_stop(Loader *l);
