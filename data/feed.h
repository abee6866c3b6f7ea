/* feed: samples of streams for training: commands, standard input, shards read from end to end.
 *
 * An epoch starts again at the first byte (standard input continues instead). Its sources are
 * permuted and split over ranks, read one after the other, and mixed in a buffer from which samples
 * are drawn. After the last one they are permuted again, until the epoch has its samples. So the
 * order is a pure function of (seed, epoch, rank, ranks) and of the sources' content. */
#ifndef DATA_FEED_H
#define DATA_FEED_H
#include "data/tarstream.h"

typedef struct FeedOptions {
    size_t samples; /* of an epoch, all ranks together: > 0 */
    int rank, ranks;
    uint64_t seed;
    bool shuffle;
    size_t buffer;       /* samples to mix: ≥ 1 */
    double seconds;      /* how long one read may wait */
    bool resampled;      /* each rank draws sources with replacement */
    const char *factors; /* then: how often those of each part, "2::1"; NULL: all alike */
} FeedOptions;

/* What a row may be filled with: its sample, then others in case that one is bad. */
enum { FEED_SPARES = 16, FEED_CHOICES = 1 + 2 * FEED_SPARES };
typedef struct FeedRow {
    StreamSample *choices[FEED_CHOICES];
    size_t count;
} FeedRow;

typedef struct Feed Feed;
/* Takes the sources over. NULL: these sources cannot be a feed; err says why. */
Feed *feed_new(Sources *sources, const TarStreamOptions *how, const FeedOptions *o, Error *err);
void feed_free(Feed *f);
/* Starts at row `row` of this rank's `rows` of `epoch`; what is before it is read and skipped.
 * max_bad: the fraction of failed sources past which feed_take fails. */
void feed_start(Feed *f, uint64_t epoch, uint64_t row, uint64_t rows, double max_bad);
/* Fills the row, once all before it are filled; each row of each epoch must be taken once.
 * Thread-safe. False: the streams have no more, or feed_stop. */
bool feed_take(Feed *f, uint64_t epoch, uint64_t row, FeedRow *out, Error *err);
void feed_release(FeedRow *row);
/* Wakes all who wait in feed_take, now and later, until feed_start. */
void feed_stop(Feed *f);
/* Sources that failed since feed_start. */
uint64_t feed_failures(Feed *f);
#endif
