#include "data/sampler.h"
#include "kernels/rng.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { EPOCHS = 2, WINDOWS = 4 }; /* kept: readers stand in one or two, replacements stray */

/* The order of the shards in one epoch, and where each window of them starts. */
typedef struct Epoch {
    uint64_t number, used;
    uint64_t *shards;     /* permuted shard numbers; NULL: empty */
    size_t *window_start; /* positions; [windows + 1] */
} Epoch;

/* The permuted samples of one window. */
typedef struct Window {
    uint64_t epoch, used;
    size_t number;
    uint64_t *samples; /* NULL: empty */
} Window;

struct Sampler {
    const Dataset *data;
    bool shuffle;
    size_t width, windows;
    uint64_t seed, clock;
    pthread_mutex_t lock;
    Epoch epochs[EPOCHS];
    Window cache[WINDOWS];
};

Sampler *sampler_new(const Dataset *d, bool shuffle, size_t window, uint64_t seed) {
    assert(window >= 1);
    Sampler *s = xcalloc(1, sizeof *s);
    s->data = d;
    s->shuffle = shuffle;
    s->width = window;
    s->windows = div_up(dataset_shards(d), window);
    s->seed = seed;
    pthread_mutex_init(&s->lock, NULL);
    return s;
}

void sampler_free(Sampler *s) {
    if (!s) return;
    for (size_t i = 0; i < EPOCHS; i++) {
        free(s->epochs[i].shards);
        free(s->epochs[i].window_start);
    }
    for (size_t i = 0; i < WINDOWS; i++) free(s->cache[i].samples);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

static size_t shard_size(const Dataset *d, size_t shard) {
    return dataset_shard_start(d, shard + 1) - dataset_shard_start(d, shard);
}

static Epoch *find_epoch(Sampler *s, uint64_t number) {
    Epoch *e = &s->epochs[0];
    for (size_t i = 0; i < EPOCHS; i++) {
        if (s->epochs[i].shards && s->epochs[i].number == number) return &s->epochs[i];
        if (s->epochs[i].used < e->used) e = &s->epochs[i];
    }
    size_t shards = dataset_shards(s->data);
    e->number = number;
    if (!e->shards) {
        e->shards = xmalloc(size_mul(shards, sizeof *e->shards));
        e->window_start = xmalloc(size_mul(s->windows + 1, sizeof *e->window_start));
    }
    rng_permutation(rng_mix(s->seed, number), RNG_SHUFFLE_SHARDS, e->shards, shards);
    size_t position = 0;
    for (size_t i = 0; i < shards; i++) {
        if (i % s->width == 0) e->window_start[i / s->width] = position;
        position += shard_size(s->data, (size_t)e->shards[i]);
    }
    e->window_start[s->windows] = position;
    return e;
}

/* The window whose range of positions holds `position`; empty ones never do. */
static size_t find_window(const Epoch *e, size_t windows, size_t position) {
    size_t lo = 0, hi = windows;
    while (hi - lo > 1) {
        size_t mid = lo + (hi - lo) / 2;
        if (e->window_start[mid] <= position)
            lo = mid;
        else
            hi = mid;
    }
    return lo;
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
    size_t end = size_min((number + 1) * s->width, dataset_shards(s->data));
    for (size_t i = number * s->width; i < end; i++) {
        size_t first = dataset_shard_start(s->data, (size_t)e->shards[i]);
        size_t count = shard_size(s->data, (size_t)e->shards[i]);
        for (size_t k = 0; k < count; k++) w->samples[order[at++]] = first + k;
    }
    free(order);
    return w;
}

size_t sampler_at(Sampler *s, uint64_t epoch, size_t position) {
    assert(position < dataset_count(s->data));
    if (!s->shuffle) return position;
    pthread_mutex_lock(&s->lock);
    Epoch *e = find_epoch(s, epoch);
    size_t number = find_window(e, s->windows, position);
    Window *w = fill_window(s, e, number);
    e->used = w->used = ++s->clock;
    size_t sample = (size_t)w->samples[position - e->window_start[number]];
    pthread_mutex_unlock(&s->lock);
    return sample;
}
