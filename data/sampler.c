#include "data/sampler.h"
#include "data/sources.h"
#include "kernels/rng.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum {
    EPOCHS = 2, /* cached: readers are in one or two epochs, replacements may be in others */
    WINDOWS = 4,
    PIECE = 1024, /* rows of a table that are drawn together */
};

/* The unit of shuffling: a shard, or some rows of a table. */
typedef struct Piece {
    size_t first, count;
    double below; /* resampled: sum of the weights of the pieces before it */
} Piece;

/* The order of the pieces in one epoch, and the start of each window of pieces. */
typedef struct Epoch {
    uint64_t number, used;
    uint64_t *order; /* numbers of pieces; NULL: empty */
    size_t count, capacity, windows;
    size_t *window_start; /* positions; [windows + 1] */
} Epoch;

/* The permuted samples of one window. */
typedef struct Window {
    uint64_t epoch, used;
    size_t number;
    uint64_t *samples; /* NULL: empty */
} Window;

struct Sampler {
    bool shuffle, resampled;
    size_t width, samples; /* positions of an epoch */
    uint64_t seed, clock;
    Piece *pieces;
    size_t piece_count;
    double weight; /* of all pieces */
    pthread_mutex_t lock;
    Epoch epochs[EPOCHS];
    Window cache[WINDOWS];
};

static Sampler *new_sampler(Sampler from) {
    assert(from.width >= 1);
    Sampler *s = xcalloc(1, sizeof *s);
    *s = from;
    pthread_mutex_init(&s->lock, NULL);
    return s;
}

Sampler *sampler_new(const Dataset *d, bool shuffle, size_t window, uint64_t seed) {
    size_t shards = dataset_shards(d);
    Piece *pieces = xcalloc(shards, sizeof *pieces);
    for (size_t i = 0; i < shards; i++) {
        size_t first = dataset_shard_start(d, i);
        pieces[i] = (Piece){first, dataset_shard_start(d, i + 1) - first, 0};
    }
    return new_sampler((Sampler){.shuffle = shuffle,
                                 .width = window,
                                 .samples = dataset_count(d),
                                 .seed = seed,
                                 .pieces = pieces,
                                 .piece_count = shards});
}

Sampler *sampler_new_resampled(const Dataset *d, size_t window, uint64_t seed, size_t samples,
                               const char *factors, Error *err) {
    size_t parts = dataset_parts(d), shards = dataset_shards(d), count = 0;
    double *factor = xcalloc(parts, sizeof *factor), weight = 0;
    if (!parse_factors(factor, parts, factors, err)) {
        free(factor);
        return NULL;
    }
    Piece *pieces = xcalloc(div_up(dataset_count(d), PIECE) + shards, sizeof *pieces);
    for (size_t i = 0; i < shards; i++) {
        size_t end = dataset_shard_start(d, i + 1), most = dataset_is_files(d, i) ? PIECE : end;
        for (size_t at = dataset_shard_start(d, i), n; at < end; at += n) {
            n = size_min(most, end - at);
            pieces[count++] = (Piece){at, n, weight};
            weight += factor[dataset_shard_part(d, i)]; /* all its samples are drawn together */
        }
    }
    free(factor);
    if (weight > 0)
        return new_sampler((Sampler){.shuffle = true,
                                     .resampled = true,
                                     .width = window,
                                     .samples = samples,
                                     .seed = seed,
                                     .pieces = pieces,
                                     .piece_count = count,
                                     .weight = weight});
    free(pieces);
    error_set(err, "the sources with a factor above 0 hold no samples");
    return NULL;
}

void sampler_free(Sampler *s) {
    if (!s) return;
    for (size_t i = 0; i < EPOCHS; i++) {
        FREE_ALL(s->epochs[i].order, s->epochs[i].window_start);
    }
    for (size_t i = 0; i < WINDOWS; i++) free(s->cache[i].samples);
    pthread_mutex_destroy(&s->lock);
    FREE_ALL(s->pieces, s);
}

/* The piece whose range of cumulative weight holds `at` (0 … weight). */
static size_t find_piece(const Sampler *s, double at) {
    return LAST_WHERE(i, s->piece_count, s->pieces[i].below <= at);
}

/* Draws pieces until they hold an epoch's samples. */
static void draw_pieces(const Sampler *s, Epoch *e, uint64_t seed) {
    size_t samples = 0;
    for (e->count = 0; samples < s->samples; e->count++) {
        if (e->count == e->capacity) {
            e->capacity = size_max(64, e->capacity * 2);
            e->order = xrealloc(e->order, size_mul(e->capacity, sizeof *e->order));
        }
        double at = rng_uniform(seed, RNG_SHUFFLE_SHARDS, e->count) * s->weight;
        e->order[e->count] = find_piece(s, at);
        samples += s->pieces[e->order[e->count]].count;
    }
}

static Epoch *find_epoch(Sampler *s, uint64_t number) {
    Epoch *e = &s->epochs[0];
    for (size_t i = 0; i < EPOCHS; i++) {
        if (s->epochs[i].order && s->epochs[i].number == number) return &s->epochs[i];
        if (s->epochs[i].used < e->used) e = &s->epochs[i];
    }
    uint64_t seed = rng_mix(s->seed, number);
    e->number = number;
    if (s->resampled) {
        draw_pieces(s, e, seed);
    } else {
        if (!e->order) e->order = xmalloc(size_mul(s->piece_count, sizeof *e->order));
        e->count = s->piece_count;
        rng_permutation(seed, RNG_SHUFFLE_SHARDS, e->order, e->count);
    }
    e->windows = div_up(e->count, s->width);
    e->window_start = xrealloc(e->window_start, size_mul(e->windows + 1, sizeof *e->window_start));
    size_t position = 0;
    for (size_t i = 0; i < e->count; i++) {
        if (i % s->width == 0) e->window_start[i / s->width] = position;
        position += s->pieces[e->order[i]].count;
    }
    e->window_start[e->windows] = position;
    return e;
}

/* The window whose range of positions holds `position`; never an empty one. */
static size_t find_window(const Epoch *e, size_t position) {
    return LAST_WHERE(i, e->windows, e->window_start[i] <= position);
}

static Window *fill_window(Sampler *s, const Epoch *e, size_t number) {
    Window *w = &s->cache[0];
    for (size_t i = 0; i < WINDOWS; i++) {
        Window *c = &s->cache[i];
        if (c->samples && c->epoch == e->number && c->number == number) return c;
        if (c->used < w->used) w = c;
    }
    size_t n = e->window_start[number + 1] - e->window_start[number], at = 0;
    uint64_t *order = xmalloc(size_mul(n, sizeof *order));
    free(w->samples);
    w->samples = xmalloc(size_mul(n, sizeof *w->samples));
    w->epoch = e->number;
    w->number = number;
    rng_permutation(rng_mix(rng_mix(s->seed, e->number), number), RNG_SHUFFLE_SAMPLES, order, n);
    size_t end = size_min((number + 1) * s->width, e->count);
    for (size_t i = number * s->width; i < end; i++) {
        const Piece *p = &s->pieces[e->order[i]];
        for (size_t k = 0; k < p->count; k++) w->samples[order[at++]] = p->first + k;
    }
    free(order);
    return w;
}

size_t sampler_at(Sampler *s, uint64_t epoch, size_t position) {
    assert(position < s->samples);
    if (!s->shuffle) return position;
    pthread_mutex_lock(&s->lock);
    Epoch *e = find_epoch(s, epoch);
    size_t number = find_window(e, position);
    Window *w = fill_window(s, e, number);
    e->used = w->used = ++s->clock;
    size_t sample = (size_t)w->samples[position - e->window_start[number]];
    pthread_mutex_unlock(&s->lock);
    return sample;
}
