#include "tools/embed_index.h"

#include "data/io/folder.h"
#include "data/io/progress.h"
#include "data/io/string_map.h"
#include "data/image/thumbnail.h"
#include "eval/index_folder.h"
#include "tools/common.h"

#include <omp.h>
#include <stdlib.h>
#include <string.h>

/* The samples to embed. */
typedef struct Work {
    size_t *samples; /* [count] of the data set */
    char **keys;     /* [count] */
    size_t *old;     /* [count] the stale row that it replaces, or NONE */
    size_t count, there, changed;
    size_t merged; /* rows of the index that are of the same picture as an earlier one */
} Work;
static const size_t NONE = SIZE_MAX;

/* Pictures of one new segment. */
typedef struct ImageBatch {
    Dataset *data;
    const size_t *samples; /* of the data set */
    const IndexFolder *index;
    char *const *keys;
    Thumb *thumbs;    /* [n] */
    uint64_t *stamps; /* [n] */
    Sample *sample;   /* [threads] */
    ResizeScratch **scratch;
} ImageBatch;

static bool fetch(void *context, size_t i, Image *img, Error *err) {
    ImageBatch *b = context;
    int t = omp_get_thread_num();
    Sample *s = &b->sample[t];
    Error why;
    b->stamps[i] = index_folder_stamp(b->index, b->keys[i]);
    if (!dataset_read(b->data, b->samples[i], s, err)) return false;
    if (!image_decode(img, s->image, s->image_size, (size_t)image_max_pixels, &why))
        return error_set(err, "%.200s: %.250s", s->key, why.text);
    if (!b->index->thumb_side) return true;
    Thumb *thumb = &b->thumbs[i];
    return thumbnail_jpeg(&thumb->bytes, &thumb->size, img, (int)b->index->thumb_side,
                          &b->scratch[t], &why) ||
           error_set(err, "%.200s: %.250s", s->key, why.text);
}

/* Embeds n samples from `at` on; readable ones become a segment and replace their stale rows.
 * Returns their number. */
static size_t add_segment(IndexFolder *x, Encoder *e, ImageBatch *b, const Work *w, size_t at,
                          size_t n) {
    size_t good = 0, E = x->dim;
    uint64_t time = index_folder_now();
    float *rows = xmalloc(size_mul(n, E * sizeof *rows));
    bool *ok = xcalloc(n, sizeof *ok);
    b->thumbs = xcalloc(n, sizeof *b->thumbs);
    b->stamps = xcalloc(n, sizeof *b->stamps);
    encoder_images(e, fetch, b, n, rows, ok);
    char **good_keys = xcalloc(n, sizeof *good_keys);
    Thumb *good_thumbs = xcalloc(n, sizeof *good_thumbs);
    for (size_t i = 0; i < n; i++) {
        if (!ok[i]) continue;
        memmove(rows + good * E, rows + i * E, E * sizeof *rows);
        good_keys[good] = w->keys[at + i];
        b->stamps[good] = b->stamps[i];
        if (w->old[at + i] != NONE) index_folder_remove(x, w->old[at + i]);
        good_thumbs[good++] = b->thumbs[i];
    }
    index_folder_add(x, rows, good_keys, good_thumbs, b->stamps, good, time);
    for (size_t i = 0; i < n; i++) free(b->thumbs[i].bytes);
    FREE_ALL(b->thumbs, b->stamps, good_thumbs, good_keys, rows, ok);
    return good;
}

static void open_index(IndexFolder *x, Encoder *e, const EmbedIndex *o) {
    if (!index_folder_exists(o->folder)) {
        char *checkpoint = path_absolute(o->checkpoint);
        index_folder_create(x, o->folder, encoder_identity(e), checkpoint, encoder_dim(e), o->type,
                            o->thumb_side);
        free(checkpoint);
        return;
    }
    index_folder_open_locked(x, o->folder);
    if (!encoder_is(e, x->identity, x->checksum))
        die("%s was embedded by another model (%s of %s, now %s): make a new index", o->folder,
            x->identity, x->checkpoint, encoder_identity(e));
    if (o->type_given && o->type != x->type)
        die("%s holds %s: --dtype is for a new index", o->folder, npy_type_names[x->type]);
    if (o->side_given && o->thumb_side != x->thumb_side)
        die("%s has thumbnails of %zu pixels: --thumbnails is for a new index", o->folder,
            x->thumb_side);
    read_pictures_as(o->command, x);
}

/* Strings that a map refers to. */
typedef struct Kept {
    char **items;
    size_t count, capacity;
} Kept;

/* A string that is new to the map is kept, another one freed. */
static void keep_new(Kept *k, char *s, bool new) {
    if (!new) {
        free(s);
        return;
    }
    if (k->count == k->capacity) {
        k->capacity = size_max(1024, 2 * k->capacity);
        k->items = xrealloc(k->items, size_mul(k->capacity, sizeof *k->items));
    }
    k->items[k->count++] = s;
}

/* Pictures that are missing from the index, or have changed since. */
static Work find_work(IndexFolder *x, Dataset *d) {
    StringMap known = {0};
    Error err;
    size_t n = dataset_count(d), *row = xcalloc(x->rows + n + 1, sizeof *row);
    Kept meanings = {0}; /* that the map refers to */
    Work w = {.samples = xcalloc(n, sizeof *w.samples),
              .keys = xcalloc(n, sizeof *w.keys),
              .old = xcalloc(n, sizeof *w.old)};
    for (size_t i = 0; i < x->rows; i++) {
        if (index_folder_removed(x, i)) continue;
        bool first = false;
        char *meaning = index_folder_meaning(x, index_folder_key(x, i));
        uint32_t at = string_map_put(&known, meaning, &first);
        keep_new(&meanings, meaning, first);
        if (first)
            row[at] = i;
        else
            index_folder_remove(x, i), w.merged++;
    }
    for (size_t i = 0; i < n; i++) {
        bool added = false;
        char *name = dataset_key(d, i, &err);
        if (!name) die("%s", err.text);
        char *key = index_folder_make_key(x, name), *meaning = index_folder_meaning(x, key);
        free(name);
        if (strchr(key, '\n')) {
            log_warn("a name with a line break is left out: %.200s", key);
            FREE_ALL(key, meaning);
            continue;
        }
        size_t *known_row = &row[string_map_put(&known, meaning, &added)];
        bool stale = !added && *known_row != NONE && index_folder_stale(x, *known_row);
        w.old[w.count] = stale ? *known_row : NONE;
        if (added || stale) *known_row = NONE;
        if (added || stale) {
            w.samples[w.count] = i;
            w.keys[w.count++] = key;
            w.changed += stale;
        } else {
            w.there++;
            free(key);
        }
        keep_new(&meanings, meaning, added);
    }
    string_map_free(&known);
    for (size_t i = 0; i < meanings.count; i++) free(meanings.items[i]);
    FREE_ALL(meanings.items, row);
    return w;
}

void embed_into_index(Encoder *e, Dataset *d, const EmbedIndex *o) {
    IndexFolder x;
    open_index(&x, e, o);
    if (!*x.checksum) memcpy(x.checksum, encoder_checksum(e), sizeof x.checksum);
    index_folder_anchor(&x);
    Work w = find_work(&x, d);
    if (w.merged) {
        index_folder_commit(&x);
        log_info("%s: %zu rows of pictures that it has more than once are removed", o->folder,
                 w.merged);
    }
    size_t n = w.count, added = 0, threads = (size_t)omp_get_max_threads();
    if (w.changed)
        log_info("%s: %zu pictures have changed since they were embedded", o->folder, w.changed);
    ImageBatch b = {.data = d, .index = &x};
    b.sample = xcalloc(threads, sizeof *b.sample);
    b.scratch = xcalloc(threads, sizeof *b.scratch);
    Progress progress = progress_start(o->folder);
    for (size_t at = 0; at < n; at += INDEX_SEGMENT_ROWS) {
        size_t part = size_min(INDEX_SEGMENT_ROWS, n - at);
        b.samples = w.samples + at;
        b.keys = w.keys + at;
        added += add_segment(&x, e, &b, &w, at, part);
        progress_show(&progress, at + part, n, "");
    }
    progress_end(&progress);
    log_info("%s: %zu added, %zu were there, %zu in all", o->folder, added, w.there,
             x.rows - x.removed);
    if (added < n) log_warn("%zu pictures could not be read and are left out", n - added);
    if (!(x.rows - x.removed)) die("%s holds no picture", o->folder);
    for (size_t t = 0; t < threads; t++) {
        sample_free(&b.sample[t]);
        resize_scratch_free(&b.scratch[t]);
    }
    for (size_t i = 0; i < n; i++) free(w.keys[i]);
    FREE_ALL(b.sample, b.scratch, w.keys, w.samples, w.old);
    index_folder_close(&x);
}
