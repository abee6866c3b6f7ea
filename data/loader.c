#include "data/loader.h"
#include "data/io/parallel.h"
#include "kernels/rng.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    SHOWN_AT_ONCE = 10, /* bad samples that are logged individually */
    SHOWN_EVERY = 10,   /* seconds between later lines */
    JUDGED_AFTER = 100, /* samples read before max_bad can end a run */
    STOP_SECONDS = 5,   /* that a thread may take to end */
};

/* One micro-batch of the ring. Rows are assigned in order; a row is written by one thread. */
typedef struct Slot {
    Batch batch;
    uint64_t number;  /* micro-batches since position 0 of epoch 0 */
    size_t rows_left; /* not filled yet */
    bool free, ready;
    int32_t *row_ids, *row_count; /* [B, context], [B]: before they are packed */
} Slot;

struct Loader {
    Dataset *data;
    Sampler *sampler;
    Feed *feed; /* replaces the sampler; or NULL */
    LoaderOptions o;
    size_t global, steps, ring; /* N; global batches an epoch */
    pthread_mutex_t lock;
    pthread_cond_t freed, filled;
    Slot *slots;
    uint8_t *pixels;       /* of all slots */
    uint64_t claim_number; /* the next row to assign */
    size_t claim_row;
    uint64_t next_number; /* the next batch to serve */
    bool stop;
    uint64_t broken_number; /* the batch that a feed could not fill, and the reason */
    bool broken;
    Error broken_by;
    LoaderStats stats;
    uint64_t shown, hidden; /* bad samples logged, and not logged since the last line */
    double shown_at;
    Error last_bad;
    pthread_t *threads;
    size_t thread_count, working; /* started; those whose work has not ended */
};

/* State of one thread. */
typedef struct Worker {
    Loader *l;
    Sample sample;
    Image image;
    TransformScratch *scratch;
    TokenizerCache *cache;
} Worker;

static size_t global_batch(const LoaderOptions *o) {
    return size_mul(size_mul(o->batch_size, (size_t)o->ranks), o->accum);
}

size_t loader_steps_per_epoch(const Dataset *d, const LoaderOptions *o) {
    size_t n = dataset_count(d);
    if (o->samples_per_epoch)
        n = o->resampled ? o->samples_per_epoch : size_min(n, o->samples_per_epoch);
    return n / global_batch(o);
}

/* Logs a bad sample; the lock is held. */
static void log_bad(Loader *l) {
    double now = clock_now();
    if (l->shown >= SHOWN_AT_ONCE && now - l->shown_at < SHOWN_EVERY) {
        l->hidden++;
        return;
    }
    if (l->hidden)
        log_warn("bad sample %s (and %llu more since the last line)", l->last_bad.text,
                 (unsigned long long)l->hidden);
    else
        log_warn("bad sample %s", l->last_bad.text);
    l->shown++;
    l->shown_at = now;
    l->hidden = 0;
}

/* Counts a sample that was read; ends the run if too many are bad. */
static void count_sample(Loader *l, const Error *bad) {
    pthread_mutex_lock(&l->lock);
    l->stats.read++;
    if (bad) {
        l->stats.bad++;
        l->last_bad = *bad;
        log_bad(l);
    }
    size_t epoch = l->steps * l->o.accum * l->o.batch_size;
    if (l->stats.read >= size_min(JUDGED_AFTER, epoch) &&
        (double)l->stats.bad > l->o.max_bad * (double)l->stats.read)
        die("%llu of %llu samples are bad, more than --max-bad %g allows; the last one: %s (see "
            "clipc data check)",
            (unsigned long long)l->stats.bad, (unsigned long long)l->stats.read, l->o.max_bad,
            l->last_bad.text);
    pthread_mutex_unlock(&l->lock);
}

static size_t picture_bytes(const LoaderOptions *o) {
    const Transform *t = &o->transform;
    if (!t->max_patches) return (size_t)t->size * (size_t)t->size * 3;
    return size_mul((size_t)t->max_patches, 3 * (size_t)t->patch_size * (size_t)t->patch_size);
}
static size_t views_of(const LoaderOptions *o) { return o->views ? 2 : 0; }
static size_t plain_bytes(const LoaderOptions *o) {
    return o->views_only ? 0 : size_mul(o->batch_size, picture_bytes(o));
}

/* Fills one row with a sample; false if it is bad. seed: of its augmentation. */
static bool use_sample(Worker *w, Slot *s, size_t row, const Sample *sample, uint64_t index,
                       uint64_t seed, Error *err) {
    const LoaderOptions *o = &w->l->o;
    Error why;
    if (!o->picture_ok) {
        if (!transform_decode(&w->image, sample->image, sample->image_size, o->max_pixels,
                              &o->transform, seed, &why))
            return error_set(err, "%s: %s", sample->key, why.text);
        size_t pixels = picture_bytes(o);
        if (s->batch.shape)
            transform_patches(s->batch.pixels + row * pixels, s->batch.shape + 2 * row, &w->image,
                              &o->transform, seed, &w->scratch);
        else if (s->batch.pixels)
            transform_apply(s->batch.pixels + row * pixels, &w->image, &o->transform, seed,
                            &w->scratch);
        for (uint64_t v = 0; v < views_of(o); v++)
            transform_apply(s->batch.views + (v * o->batch_size + row) * pixels, &w->image,
                            o->views, rng_mix(seed, v), &w->scratch);
    } else if (!o->picture_ok[index]) {
        return error_set(err, "%s: no picture", sample->key);
    } else if (s->batch.shape) {
        s->batch.shape[2 * row] = s->batch.shape[2 * row + 1] = 1; /* unused */
    }
    if (s->batch.ids)
        s->row_count[row] = (int32_t)tokenizer_encode(w->cache, sample->text, sample->text_size,
                                                      o->context, s->row_ids + row * o->context);
    s->batch.sample[row] = index;
    s->batch.label[row] = sample->label;
    return true;
}

static bool try_sample(Worker *w, Slot *s, size_t row, size_t index, Error *err) {
    const LoaderOptions *o = &w->l->o;
    uint64_t seed = rng_mix(rng_mix(o->seed, s->batch.epoch), index);
    uint64_t draw = rng_u64(seed, RNG_CAPTION, 0);
    if (!dataset_read_drawn(w->l->data, index, &draw, &w->sample, err)) return false;
    return use_sample(w, s, row, &w->sample, index, seed, err);
}

/* The run ends when it reaches this batch, not before: a feed is read ahead. */
static void break_at(Loader *l, uint64_t number, const Error *why) {
    pthread_mutex_lock(&l->lock);
    if (!l->broken || number < l->broken_number) {
        l->broken = true;
        l->broken_number = number;
        l->broken_by = *why;
    }
    pthread_cond_broadcast(&l->filled);
    pthread_mutex_unlock(&l->lock);
}

/* The same from a feed, whose rows have spares. False: the feed is exhausted. */
static bool fill_from_feed(Worker *w, Slot *s, size_t row) {
    Loader *l = w->l;
    size_t in_step = s->batch.micro * l->o.batch_size + row;
    FeedRow fed;
    Error err;
    if (!feed_take(l->feed, s->batch.epoch, s->batch.step * l->o.accum * l->o.batch_size + in_step,
                   &fed, &err)) {
        break_at(l, s->number, &err);
        return false;
    }
    bool ok = false;
    for (size_t i = 0; i < fed.count && !ok; i++) {
        const StreamSample *one = fed.candidates[i];
        uint64_t seed = rng_mix(rng_mix(l->o.seed, s->batch.epoch), one->number);
        if (one->bad)
            err = one->why;
        else
            ok = use_sample(w, s, row, &one->s, one->number, seed, &err);
        count_sample(l, ok ? NULL : &err);
    }
    if (!ok)
        die("%zu samples in a row are bad (see clipc data check); the last one: %s", fed.count,
            err.text);
    feed_release(&fed);
    return true;
}

/* The position that replaces p at the j-th try: first in other global batches, then (an epoch of
 * one batch, or all of those bad) the neighbours. */
static size_t replacement(const Loader *l, size_t p, size_t j) {
    size_t whole = l->steps * l->global;
    if (j < l->steps) return (p + j * l->global) % whole;
    return (p + j - l->steps + 1) % whole;
}

static bool fill_row(Worker *w, Slot *s, size_t row) {
    Loader *l = w->l;
    size_t micro_row = s->batch.micro * (size_t)l->o.ranks + (size_t)l->o.rank;
    size_t p = (size_t)s->batch.step * l->global + micro_row * l->o.batch_size + row;
    size_t tries = l->steps + l->steps * l->global - 1;
    for (size_t j = 0; j < tries; j++) {
        size_t index = sampler_at(l->sampler, s->batch.epoch, replacement(l, p, j));
        Error err;
        bool ok = try_sample(w, s, row, index, &err);
        count_sample(l, ok ? NULL : &err);
        if (ok) return true;
    }
    die("no sample can be read (see clipc data check)");
}

/* Packs the rows' captions end to end. */
static void pack_text(const LoaderOptions *o, Slot *s) {
    Batch *b = &s->batch;
    if (!b->ids) return;
    b->start[0] = 0;
    for (size_t i = 0; i < b->size; i++) {
        memcpy(b->ids + b->start[i], s->row_ids + i * o->context,
               (size_t)s->row_count[i] * sizeof *b->ids);
        b->start[i + 1] = b->start[i] + s->row_count[i];
    }
}

static void place_batch(const Loader *l, Slot *s, uint64_t number) {
    s->number = number;
    s->batch.micro = (size_t)(number % l->o.accum);
    s->batch.step = number / l->o.accum % l->steps;
    s->batch.epoch = number / l->o.accum / l->steps;
    s->rows_left = s->batch.size;
    s->free = s->ready = false;
}

/* Assigns the next row to a thread; waits for its slot. False: the loader stops. */
static bool claim(Loader *l, Slot **slot, size_t *row) {
    pthread_mutex_lock(&l->lock);
    while (!l->stop) {
        Slot *s = &l->slots[l->claim_number % l->ring];
        if (l->claim_row == 0 && s->free) place_batch(l, s, l->claim_number);
        if (s->number == l->claim_number && !s->free) {
            *slot = s;
            *row = l->claim_row++;
            if (l->claim_row == l->o.batch_size) {
                l->claim_row = 0;
                l->claim_number++;
            }
            break;
        }
        pthread_cond_wait(&l->freed, &l->lock);
    }
    bool go_on = !l->stop;
    pthread_mutex_unlock(&l->lock);
    return go_on;
}

static void *worker_main(void *arg) {
    Worker w = {.l = arg};
    Loader *l = w.l;
    Slot *s;
    size_t row;
    if (l->o.tokenizer) w.cache = tokenizer_cache_new(l->o.tokenizer);
    while (claim(l, &s, &row)) {
        if (!(l->feed ? fill_from_feed : fill_row)(&w, s, row)) break;
        pthread_mutex_lock(&l->lock);
        bool last = --s->rows_left == 0;
        pthread_mutex_unlock(&l->lock);
        if (!last) continue;
        pack_text(&l->o, s);
        pthread_mutex_lock(&l->lock);
        s->ready = true;
        pthread_cond_broadcast(&l->filled);
        pthread_mutex_unlock(&l->lock);
    }
    tokenizer_cache_free(w.cache);
    transform_scratch_free(&w.scratch);
    image_free(&w.image);
    sample_free(&w.sample);
    pthread_mutex_lock(&l->lock);
    l->working--;
    pthread_cond_broadcast(&l->filled);
    pthread_mutex_unlock(&l->lock);
    return NULL;
}

static size_t batch_pixels(const LoaderOptions *o) {
    size_t views = size_mul(o->batch_size, views_of(o) * picture_bytes(o));
    return round_up(size_add(plain_bytes(o), views), 64);
}

/* All micro-batches of a step may be held at once while the next is prepared. */
static size_t ring_of(const LoaderOptions *o) {
    return size_max(o->ring ? o->ring : o->accum + 3, o->accum + 1);
}

size_t loader_ring_bytes(const LoaderOptions *o) { return size_mul(ring_of(o), batch_pixels(o)); }

static void slot_init(Slot *s, const LoaderOptions *o, uint8_t *pixels) {
    size_t n = o->batch_size;
    s->batch = (Batch){
        .size = n,
        .pixels = o->views_only ? NULL : pixels,
        .shape = o->transform.max_patches ? xmalloc(size_mul(2 * n, sizeof(int32_t))) : NULL,
        .views = o->views ? pixels + plain_bytes(o) : NULL,
        .ids = o->views_only ? NULL : xmalloc(size_mul(size_mul(n, o->context), sizeof(int32_t))),
        .start = xmalloc(size_mul(n + 1, sizeof(int32_t))),
        .pad = o->tokenizer ? o->tokenizer->pad : 0,
        .sample = xmalloc(size_mul(n, sizeof(uint64_t))),
        .label = xmalloc(size_mul(n, sizeof(int32_t))),
    };
    s->row_ids = xmalloc(size_mul(size_mul(n, o->context), sizeof(int32_t)));
    s->row_count = xmalloc(size_mul(n, sizeof(int32_t)));
    s->free = true;
}

Loader *loader_start(Dataset *d, Sampler *s, const LoaderOptions *o, uint64_t epoch,
                     uint64_t step) {
    assert(!o->views_only || o->views);
    assert(!o->views || !o->transform.max_patches);
    assert(!o->views || (o->views->size == o->transform.size && !o->transform.jpeg_scale));
    assert(o->batch_size && o->accum && o->workers && o->rank >= 0 && o->rank < o->ranks);
    Loader *l = xcalloc(1, sizeof *l);
    *l = (Loader){
        .data = d, .sampler = s, .feed = dataset_feed(d), .o = *o, .global = global_batch(o)};
    l->steps = loader_steps_per_epoch(d, o);
    if (l->steps == 0)
        die("the data holds %zu samples, fewer than one global batch of %zu: lower --batch-size",
            dataset_count(d), l->global);
    l->ring = ring_of(o);
    l->slots = xcalloc(l->ring, sizeof *l->slots);
    /* one block, because separate ones may each be rounded up to large pages */
    l->pixels = (o->alloc ? o->alloc : xmalloc)(loader_ring_bytes(o));
    for (size_t i = 0; i < l->ring; i++)
        slot_init(&l->slots[i], o, l->pixels + i * batch_pixels(o));
    l->claim_number = l->next_number = (epoch * l->steps + step) * o->accum;
    size_t rows = o->accum * o->batch_size; /* of a step */
    if (l->feed) feed_start(l->feed, epoch, step * rows, l->steps * rows, o->max_bad);
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->freed, NULL);
    pthread_cond_init(&l->filled, NULL);
    l->threads = xcalloc(o->workers, sizeof *l->threads);
    pthread_mutex_lock(&l->lock);
    while (l->thread_count < o->workers &&
           pthread_create(&l->threads[l->thread_count], NULL, worker_main, l) == 0)
        l->thread_count++;
    l->working = l->thread_count;
    pthread_mutex_unlock(&l->lock);
    if (l->thread_count == 0) die("cannot start a loader thread: lower --workers");
    return l;
}

/* Waits until the next batch is ready; the lock is held. False: o.interrupted. */
static bool wait_for(Loader *l, const Slot *s) {
    const volatile sig_atomic_t *signal = l->o.interrupted;
    double since = 0; /* when the signal was seen; 0: not yet */
    while (!(s->ready && s->number == l->next_number)) {
        if (l->broken && l->broken_number <= l->next_number) die("%s", l->broken_by.text);
        if (signal && *signal && !since) since = clock_now();
        if (since && clock_now() - since >= l->o.grace) return false;
        condition_wait(&l->filled, &l->lock, 1); /* a signal does not wake us */
    }
    return true;
}

Batch *loader_next(Loader *l) {
    double from = clock_now();
    pthread_mutex_lock(&l->lock);
    Slot *s = &l->slots[l->next_number % l->ring];
    bool ok = wait_for(l, s);
    l->next_number += ok;
    l->stats.wait_seconds += clock_now() - from;
    pthread_mutex_unlock(&l->lock);
    return ok ? &s->batch : NULL;
}

void loader_release(Loader *l, Batch *b) {
    Slot *s = (Slot *)b; /* its first field */
    pthread_mutex_lock(&l->lock);
    assert(s->ready && !s->free);
    s->ready = false;
    s->free = true;
    pthread_cond_broadcast(&l->freed);
    pthread_mutex_unlock(&l->lock);
}

LoaderStats loader_stats(Loader *l) {
    pthread_mutex_lock(&l->lock);
    LoaderStats stats = l->stats;
    pthread_mutex_unlock(&l->lock);
    if (l->feed) stats.bad += feed_failures(l->feed);
    return stats;
}

bool loader_stop(Loader *l) {
    if (!l) return true;
    pthread_mutex_lock(&l->lock);
    l->stop = true;
    pthread_cond_broadcast(&l->freed);
    pthread_mutex_unlock(&l->lock);
    if (l->feed) feed_stop(l->feed);
    const double until = clock_now() + STOP_SECONDS;
    double left = STOP_SECONDS;
    pthread_mutex_lock(&l->lock);
    for (; l->working && left > 0; left = until - clock_now())
        condition_wait(&l->filled, &l->lock, left);
    const bool over = !l->working;
    pthread_mutex_unlock(&l->lock);
    if (!over) return false;
    for (size_t i = 0; i < l->thread_count; i++) pthread_join(l->threads[i], NULL);
    for (size_t i = 0; i < l->ring; i++) {
        Slot *s = &l->slots[i];
        FREE_ALL(s->batch.ids, s->batch.start, s->batch.sample, s->batch.label, s->batch.shape,
                 s->row_ids, s->row_count);
    }
    pthread_mutex_destroy(&l->lock);
    pthread_cond_destroy(&l->freed);
    pthread_cond_destroy(&l->filled);
    (l->o.release ? l->o.release : free)(l->pixels);
    FREE_ALL(l->slots, l->threads, l);
    return true;
}
