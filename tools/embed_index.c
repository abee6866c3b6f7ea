#include "tools/embed_index.h"

#include "data/string_map.h"
#include "data/thumbnail.h"
#include "eval/collection.h"

#include <omp.h>
#include <stdlib.h>
#include <string.h>

/* Pictures on their way into one segment. */
typedef struct Batch {
    Dataset *data;
    const size_t *samples; /* of the data set */
    size_t thumb_side;
    Thumb *thumbs;  /* [n] */
    Sample *sample; /* [threads] */
    ResizeScratch **scratch;
} Batch;

static bool fetch(void *context, size_t i, Image *img, Error *err) {
    Batch *b = context;
    int t = omp_get_thread_num();
    Sample *s = &b->sample[t];
    Error why;
    if (!dataset_read(b->data, b->samples[i], s, err)) return false;
    if (!image_decode(img, s->image, s->image_size, IMAGE_MAX_PIXELS, &why))
        return error_set(err, "%.200s: %.250s", s->key, why.text);
    if (!b->thumb_side) return true;
    Thumb *thumb = &b->thumbs[i];
    return thumbnail_jpeg(&thumb->bytes, &thumb->size, img, (int)b->thumb_side, &b->scratch[t],
                          &why) ||
           error_set(err, "%.200s: %.250s", s->key, why.text);
}

/* Embeds n samples; those that can be read become a segment. Returns how many. */
static size_t add_segment(Collection *c, Encoder *e, Batch *b, char **keys, size_t n) {
    size_t good = 0, E = c->dim;
    float *rows = xmalloc(size_mul(n, E * sizeof *rows));
    bool *ok = xcalloc(n, sizeof *ok);
    b->thumbs = xcalloc(n, sizeof *b->thumbs);
    encoder_images(e, fetch, b, n, rows, ok);
    char **good_keys = xcalloc(n, sizeof *good_keys);
    Thumb *good_thumbs = xcalloc(n, sizeof *good_thumbs);
    for (size_t i = 0; i < n; i++) {
        if (!ok[i]) continue;
        memmove(rows + good * E, rows + i * E, E * sizeof *rows);
        good_keys[good] = keys[i];
        good_thumbs[good++] = b->thumbs[i];
    }
    collection_add(c, rows, good_keys, good_thumbs, good);
    for (size_t i = 0; i < n; i++) free(b->thumbs[i].bytes);
    free(b->thumbs);
    free(good_thumbs);
    free(good_keys);
    free(rows);
    free(ok);
    return good;
}

static void open_index(Collection *c, const Encoder *e, const EmbedIndex *o) {
    char identity[17];
    encoder_identity(e, identity);
    if (!collection_exists(o->folder)) {
        collection_create(c, o->folder, identity, o->checkpoint, encoder_dim(e), o->type,
                          o->thumb_side);
        return;
    }
    collection_open_locked(c, o->folder);
    if (strcmp(c->identity, identity) != 0)
        die("%s was embedded by another model (%s of %s, now %s): make a new index", o->folder,
            c->identity, c->checkpoint, identity);
    if (o->type_given && o->type != c->type)
        die("%s holds %s: --dtype is for a new index", o->folder,
            c->type == NPY_F16 ? "f16" : "f32");
    if (o->side_given && o->thumb_side != c->thumb_side)
        die("%s has thumbnails of %zu pixels: --thumbnails is for a new index", o->folder,
            c->thumb_side);
}

/* samples[*count]: those whose key is new; keys[…] theirs. Returns how many are there already. */
static size_t find_new(const Collection *c, Dataset *d, size_t *samples, char **keys,
                       size_t *count) {
    StringMap known = {0};
    Error err;
    size_t there = 0, n = 0;
    for (size_t i = 0; i < c->rows; i++)
        if (!collection_removed(c, i)) string_map_put(&known, collection_key(c, i), NULL);
    for (size_t i = 0; i < dataset_count(d); i++) {
        bool added = false;
        char *key = dataset_key(d, i, &err);
        if (!key) die("%s", err.text);
        if (strchr(key, '\n'))
            log_warn("a name with a line break is left out: %.200s", key);
        else
            string_map_put(&known, key, &added);
        if (added) {
            samples[n] = i;
            keys[n++] = key;
        } else {
            there++;
            free(key);
        }
    }
    string_map_free(&known);
    *count = n;
    return there;
}

void embed_into_index(Encoder *e, Dataset *d, const EmbedIndex *o) {
    Collection c;
    open_index(&c, e, o);
    size_t *samples = xcalloc(dataset_count(d), sizeof *samples), n, added = 0, threads;
    char **keys = xcalloc(dataset_count(d), sizeof *keys);
    size_t there = find_new(&c, d, samples, keys, &n);
    threads = (size_t)omp_get_max_threads();
    Batch b = {.data = d, .thumb_side = c.thumb_side};
    b.sample = xcalloc(threads, sizeof *b.sample);
    b.scratch = xcalloc(threads, sizeof *b.scratch);
    double t0 = clock_now();
    for (size_t at = 0; at < n; at += COLLECTION_SEGMENT_ROWS) {
        size_t part = size_min(COLLECTION_SEGMENT_ROWS, n - at);
        b.samples = samples + at;
        added += add_segment(&c, e, &b, keys + at, part);
        if (at + part < n)
            log_info("%s: %zu of %zu new pictures, %.0f a second", o->folder, at + part, n,
                     (double)(at + part) / (clock_now() - t0));
    }
    log_info("%s: %zu added, %zu were there, %zu in all", o->folder, added, there,
             c.rows - c.removed);
    if (added < n) log_warn("%zu pictures could not be read and are left out", n - added);
    if (!(c.rows - c.removed)) die("%s holds no picture", o->folder);
    for (size_t t = 0; t < threads; t++) {
        sample_free(&b.sample[t]);
        resize_scratch_free(&b.scratch[t]);
    }
    for (size_t i = 0; i < n; i++) free(keys[i]);
    free(b.sample);
    free(b.scratch);
    free(keys);
    free(samples);
    collection_close(&c);
}
