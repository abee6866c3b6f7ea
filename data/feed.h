/* feed: samples of streams for training: commands, standard input, shards read from end to end.
 *
 * Every epoch restarts at the first byte (standard input continues instead). Its sources are
 * permuted and split over ranks, then read one after the other into a buffer from which samples are
 * drawn at random. After the last source they are permuted again, until the epoch has its samples.
 * The order is a pure function of (seed, epoch, rank, ranks) and of the sources' content. */
#pragma once
#include "data/tarstream.h"

typedef struct FeedOptions {
    size_t samples; /* of an epoch, all ranks together: > 0 */
    int rank, ranks;
    uint64_t seed;
    bool shuffle;
    size_t buffer;       /* samples to mix: ≥ 1 */
    double seconds;      /* how long one read may wait */
    bool resampled;      /* each rank draws sources with replacement */
    const char *factors; /* if resampled: the relative rate of each part, "2::1"; NULL: equal */
} FeedOptions;

/* Candidates for a row: its sample, then spares in case that one is bad. */
enum { FEED_SPARES = 16, FEED_CANDIDATES = 1 + 2 * FEED_SPARES };
typedef struct FeedRow {
    StreamSample *candidates[FEED_CANDIDATES];
    size_t count;
} FeedRow;

typedef struct Feed Feed;
/* Takes ownership of the sources. NULL: these sources cannot be a feed; err has the reason. */
Feed *feed_new(Sources *sources, const TarStreamOptions *how, const FeedOptions *o, Error *err);
void feed_free(Feed *f);
/* Starts at row `row` of this rank's `rows` of `epoch`; earlier rows are read and skipped. max_bad:
 * the fraction of failed sources past which feed_take fails. */
void feed_start(Feed *f, uint64_t epoch, uint64_t row, uint64_t rows, double max_bad);
/* Fills the row once all earlier rows are filled; each row of each epoch must be taken exactly
 * once. Thread-safe. False: the streams are exhausted, or feed_stop was called. */
bool feed_take(Feed *f, uint64_t epoch, uint64_t row, FeedRow *out, Error *err);
void feed_release(FeedRow *row);
/* Wakes all threads that wait in feed_take; until feed_start no call waits. */
void feed_stop(Feed *f);
/* Sources that failed since feed_start. */
uint64_t feed_failures(Feed *f);
