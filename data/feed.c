#include "data/feed.h"
#include "kernels/rng.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum {
    JUDGED_AFTER = 10, /* sources read before max_bad can end a run */
    FIRST_SHARE = 5,   /* rows are served once a fifth of the buffer is full */
};
/* The buffer's memory stays below this even if pictures are larger than expected. */
#define BUFFER_BYTES_MAX ((size_t)2 << 30)

struct Feed {
    Sources sources;
    TarStreamOptions how;
    FeedOptions o;
    bool standard_input;
    double max_bad;
    atomic_bool stop;
    pthread_mutex_t lock;
    pthread_cond_t turn;
    uint64_t rows, next; /* rows of an epoch; the next row to serve, counted over epochs */
    uint64_t skip;       /* rows to skip before the first one */
    bool begun;
    uint64_t seed, taken; /* of this epoch and rank; rows drawn in this epoch */
    uint64_t caption_seed;
    /* the sources of this pass, and the current one */
    uint64_t pass, in_pass;
    size_t *order, order_count, order_at;
    double *factor; /* resampled: of each part */
    uint64_t drawn; /* resampled: sources of this epoch */
    size_t barren;  /* consecutive sources without a sample */
    TarStream *open;
    bool drained; /* all sources of the pass are read; the buffer drains */
    /* a ring of samples to draw from; the epoch's first samples, reused at its end */
    StreamSample **buffer, *reserve[FEED_SPARES];
    size_t head, count, bytes, reserved;
    uint64_t opened;
    atomic_uint_fast64_t failed; /* read without holding the lock */
    Error last_failure;
};

Feed *feed_new(Sources *sources, const TarStreamOptions *how, const FeedOptions *o, Error *err) {
    bool standard_input = false;
    for (size_t i = 0; i < sources->count; i++) {
        const SourceItem *s = &sources->items[i];
        standard_input |= s->source == &source_stdin;
        if (s->source == &source_stdin && (sources->count > 1 || o->ranks > 1)) {
            error_set(err, "-: standard input must be the only source, of a single rank");
            return NULL;
        }
        if (!s->source->stream) {
            error_set(err, "%s: a table or folder does not mix with streams: clipc data pack it",
                      s->path);
            return NULL;
        }
    }
    if (standard_input && o->resampled) {
        error_set(err, "-: standard input cannot be drawn again and again");
        return NULL;
    }
    if (sources->count < (size_t)o->ranks && !o->resampled) {
        error_set(err, "%zu streams for %d ranks: each rank needs one of its own", sources->count,
                  o->ranks);
        return NULL;
    }
    if (!o->samples) {
        error_set(err, "streams do not tell how many samples they hold: give --train-num-samples, "
                       "the samples of an epoch");
        return NULL;
    }
    double *factor = xcalloc(sources->parts, sizeof *factor);
    if (!parse_factors(factor, sources->parts, o->factors, err)) {
        free(factor);
        return NULL;
    }
    Feed *f = xcalloc(1, sizeof *f);
    f->factor = factor;
    f->sources = *sources;
    *sources = (Sources){.items = NULL};
    f->how = *how;
    f->how.stop = &f->stop;
    f->how.seconds = o->seconds;
    f->o = *o;
    f->standard_input = standard_input;
    f->order = xcalloc(f->sources.count, sizeof *f->order);
    f->buffer = xcalloc(o->buffer, sizeof *f->buffer);
    pthread_mutex_init(&f->lock, NULL);
    pthread_cond_init(&f->turn, NULL);
    return f;
}

static StreamSample **slot(Feed *f, size_t i) { return &f->buffer[(f->head + i) % f->o.buffer]; }

static void empty(Feed *f) {
    for (size_t i = 0; i < f->count; i++) stream_sample_release(*slot(f, i));
    for (size_t i = 0; i < f->reserved; i++) stream_sample_release(f->reserve[i]);
    f->head = f->count = f->bytes = f->reserved = 0;
    tarstream_close(f->open);
    f->open = NULL;
}

void feed_free(Feed *f) {
    if (!f) return;
    empty(f);
    sources_free(&f->sources);
    FREE_ALL(f->order, f->factor, f->buffer);
    pthread_mutex_destroy(&f->lock);
    pthread_cond_destroy(&f->turn);
    free(f);
}

/* ---- reading ---- */

static void begin_pass(Feed *f, uint64_t epoch, uint64_t pass) {
    size_t n = f->sources.count;
    uint64_t *all = xmalloc(size_mul(n, sizeof *all));
    for (size_t i = 0; i < n; i++) all[i] = i;
    if (f->o.shuffle) /* the same on every rank */
        rng_permutation(rng_mix(rng_mix(f->o.seed, epoch), pass), RNG_SHUFFLE_SHARDS, all, n);
    f->order_count = f->order_at = 0;
    for (size_t i = (size_t)f->o.rank; i < n; i += (size_t)f->o.ranks)
        f->order[f->order_count++] = (size_t)all[i];
    f->pass = pass;
    f->in_pass = 0;
    f->drained = false;
    free(all);
}

static void begin_epoch(Feed *f, uint64_t epoch) {
    if (f->standard_input && f->begun) return; /* it cannot be read again */
    empty(f);
    f->begun = true;
    f->caption_seed = rng_mix(f->o.seed, epoch);
    f->seed = rng_mix(f->caption_seed, (uint64_t)f->o.rank);
    f->taken = f->drawn = 0;
    f->barren = 0;
    begin_pass(f, epoch, 0);
}

/* Records that the current source failed. False: too many have failed. */
static bool count_failure(Feed *f, const Error *why, Error *err) {
    f->failed++;
    f->last_failure = *why;
    log_warn("stream %s", why->text);
    if (f->standard_input) return error_set(err, "%s", why->text);
    size_t judged = f->o.resampled ? JUDGED_AFTER : size_min(JUDGED_AFTER, f->order_count);
    if (f->opened < judged || (double)f->failed <= f->max_bad * (double)f->opened) return true;
    return error_set(
        err, "%llu of %llu streams failed, more than --max-bad %g allows; the last one: %s",
        (unsigned long long)f->failed, (unsigned long long)f->opened, f->max_bad, why->text);
}

/* Draws a source by its part's factor. */
static size_t draw_source(Feed *f) {
    double sum = 0;
    for (size_t i = 0; i < f->sources.count; i++) sum += f->factor[f->sources.items[i].part];
    double at = rng_uniform(f->seed, RNG_SHUFFLE_SHARDS, f->drawn++) * sum;
    size_t last = 0;
    for (size_t i = 0; i < f->sources.count; i++) {
        double factor = f->factor[f->sources.items[i].part];
        if (factor <= 0) continue;
        last = i;
        if (at < factor) break;
        at -= factor;
    }
    return last;
}

/* Opens the next source. False: it failed; *end: the pass has no more. */
static bool open_next(Feed *f, bool *end, Error *why) {
    size_t i;
    *end = f->o.resampled ? f->barren > 2 * f->sources.count : f->order_at == f->order_count;
    if (*end) return true;
    i = f->o.resampled ? draw_source(f) : f->order[f->order_at++];
    f->opened++;
    f->barren++;
    f->open = tarstream_open(&f->sources.items[i], i, &f->how, why);
    return f->open != NULL;
}

/* The next sample of this pass; *out NULL at its end. */
static bool read_on(Feed *f, StreamSample **out, Error *err) {
    Error why;
    for (*out = NULL; !atomic_load(&f->stop);) {
        bool end = false;
        if (!f->open && !open_next(f, &end, &why)) {
            if (atomic_load(&f->stop)) break;
            if (!count_failure(f, &why, err)) return false;
            continue;
        }
        if (end) return true;
        TarStreamStatus status = tarstream_next(f->open, &f->caption_seed, out, &why);
        if (status == TARSTREAM_SAMPLE) {
            f->in_pass++;
            f->barren = 0;
            return true;
        }
        tarstream_close(f->open);
        f->open = NULL;
        if (atomic_load(&f->stop)) break;
        if (status == TARSTREAM_FAILED && !count_failure(f, &why, err)) return false;
    }
    return error_set(err, "stopped");
}

/* Reads until the buffer holds the samples needed at this row. */
static bool fill(Feed *f, Error *err) {
    size_t wanted = f->o.buffer;
    if (f->o.buffer / FIRST_SHARE + f->taken < wanted)
        wanted = size_max(1, f->o.buffer / FIRST_SHARE + (size_t)f->taken);
    while (!f->drained && f->count < wanted && (f->count == 0 || f->bytes < BUFFER_BYTES_MAX)) {
        StreamSample *s;
        if (!read_on(f, &s, err)) return false;
        if (!s) {
            f->drained = true;
            break;
        }
        *slot(f, f->count++) = s;
        f->bytes += s->s.image_size;
        if (f->reserved < FEED_SPARES) {
            s->refs++;
            f->reserve[f->reserved++] = s;
        }
    }
    return true;
}

/* Makes sure that the buffer holds a sample. */
static bool provide(Feed *f, uint64_t epoch, Error *err) {
    while (fill(f, err)) {
        if (f->count) return true;
        if (f->standard_input)
            return error_set(err,
                             "standard input ended after %llu samples, before the run did: "
                             "--epochs times --train-num-samples must not be more",
                             (unsigned long long)f->taken);
        if (f->in_pass == 0 || f->o.resampled)
            return error_set(err, "no stream has a usable sample (%llu failed%s%s)",
                             (unsigned long long)f->failed, f->failed ? "; the last one: " : "",
                             f->failed ? f->last_failure.text : "");
        begin_pass(f, epoch, f->pass + 1);
    }
    return false;
}

/* Draws the next row's sample and removes it from the buffer; draws spares, which stay in it. */
static bool draw(Feed *f, uint64_t epoch, FeedRow *out, Error *err) {
    *out = (FeedRow){.count = 0};
    if (!provide(f, epoch, err)) return false;
    size_t at = 0;
    if (f->o.shuffle) at = (size_t)rng_below(f->seed, RNG_SHUFFLE_SAMPLES, f->taken, f->count);
    StreamSample *s = *slot(f, at);
    *slot(f, at) = *slot(f, 0);
    f->head = (f->head + 1) % f->o.buffer;
    f->count--;
    f->bytes -= s->s.image_size;
    out->candidates[out->count++] = s;
    uint64_t spare_seed = rng_mix(f->seed, 1);
    for (size_t i = 0; f->count && i < FEED_SPARES; i++) {
        uint64_t index = f->taken * FEED_SPARES + i;
        at = (size_t)rng_below(spare_seed, RNG_SHUFFLE_SAMPLES, index, f->count);
        out->candidates[out->count++] = *slot(f, at);
    }
    for (size_t i = 0; i < f->reserved; i++) out->candidates[out->count++] = f->reserve[i];
    for (size_t i = 1; i < out->count; i++) out->candidates[i]->refs++;
    f->taken++;
    return true;
}

/* ---- rows ---- */

void feed_release(FeedRow *row) {
    for (size_t i = 0; i < row->count; i++) stream_sample_release(row->candidates[i]);
    row->count = 0;
}

void feed_start(Feed *f, uint64_t epoch, uint64_t row, uint64_t rows, double max_bad) {
    epoch += row / rows;
    row %= rows;
    pthread_mutex_lock(&f->lock);
    empty(f);
    atomic_store(&f->stop, false);
    f->begun = false;
    f->rows = rows;
    f->max_bad = max_bad;
    f->next = epoch * rows + row;
    f->skip = f->standard_input ? f->next : row;
    f->opened = 0;
    atomic_store(&f->failed, 0);
    begin_epoch(f, f->standard_input ? 0 : epoch);
    pthread_mutex_unlock(&f->lock);
    if (f->skip)
        log_info("reading over the first %llu samples of the streams", (unsigned long long)f->skip);
}

static bool pass_over(Feed *f, uint64_t epoch, Error *err) {
    for (; f->skip; f->skip--) {
        FeedRow row;
        if (!draw(f, epoch, &row, err)) return false;
        feed_release(&row);
    }
    return true;
}

bool feed_take(Feed *f, uint64_t epoch, uint64_t row, FeedRow *out, Error *err) {
    uint64_t number = epoch * f->rows + row;
    out->count = 0;
    pthread_mutex_lock(&f->lock);
    while (f->next != number && !atomic_load(&f->stop)) pthread_cond_wait(&f->turn, &f->lock);
    bool ok = !atomic_load(&f->stop) || error_set(err, "stopped");
    if (ok && row == 0) begin_epoch(f, epoch);
    ok = ok && pass_over(f, epoch, err) && draw(f, epoch, out, err);
    f->next++;
    pthread_cond_broadcast(&f->turn);
    pthread_mutex_unlock(&f->lock);
    return ok;
}

void feed_stop(Feed *f) {
    atomic_store(&f->stop, true); /* before locking: a reading thread may hold the lock */
    pthread_mutex_lock(&f->lock);
    pthread_cond_broadcast(&f->turn);
    pthread_mutex_unlock(&f->lock);
}

uint64_t feed_failures(Feed *f) { return atomic_load(&f->failed); }
