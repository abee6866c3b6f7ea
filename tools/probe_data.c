#include "tools/probe_data.h"

#include "data/io/file.h"
#include "data/io/folder.h"
#include "data/io/writer.h"
#include "eval/classes.h"
#include "eval/features.h"
#include "tools/common.h"
#include "train/ranks/agree.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char *trimmed(const char *s) {
    s += strspn(s, " \t\r\n");
    size_t n = strlen(s);
    while (n && strchr(" \t\r\n", s[n - 1])) n--;
    return xasprintf("%.*s", (int)n, s);
}

void labelled_open(Labelled *l, const char *features, const char *labels) {
    Rows r = rows_open(features);
    *l = (Labelled){.count = r.count, .dim = r.dim};
    l->x = xmalloc(size_mul(r.count, r.dim * sizeof *l->x));
    rows_load(&r, 0, r.count, l->x, r.dim);
    rows_close(&r);
    size_t n;
    l->labels = read_lines(labels, &n);
    if (n != l->count) die("%s has %zu lines, %s %zu rows", labels, n, features, l->count);
    for (size_t i = 0; i < n; i++) {
        char *line = l->labels[i];
        if (!*(l->labels[i] = trimmed(line))) die("%s line %zu is empty", labels, i + 1);
        free(line);
    }
}

/* ---- cache ---- */

static char *cache_path(const char *cache, const char *name, const char *suffix) {
    return xasprintf("%s/%s.%s", cache, name, suffix);
}

/* The required content of NAME.json. */
static char *cache_stamp(Encoder *e, const char *spec) {
    json_t *o = json_pack("{s:s, s:o}", "identity", encoder_identity(e), "data", json_text(spec));
    char *text = json_dumps(o, JSON_COMPACT | JSON_SORT_KEYS);
    json_decref(o);
    return text;
}

static bool cache_is_of(const char *cache, const char *name, const char *stamp) {
    char *path = cache_path(cache, name, "json");
    uint8_t *bytes;
    size_t n;
    Error err;
    bool same = file_read_all(path, &bytes, &n, 1 << 20, &err) && !strcmp((char *)bytes, stamp);
    FREE_ALL(bytes, path);
    return same;
}

static void cache_read(Labelled *l, const char *cache, const char *name) {
    char *x = cache_path(cache, name, "npy"), *labels = cache_path(cache, name, "labels");
    labelled_open(l, x, labels);
    log_info("%s: %zu rows from the cache", x, l->count);
    FREE_ALL(x, labels);
}

/* The stamp is removed first and written last, so that a stamped cache is complete. */
static void cache_write(const Labelled *l, const char *cache, const char *name, const char *stamp) {
    char *x = cache_path(cache, name, "npy"), *labels = cache_path(cache, name, "labels"),
         *json = cache_path(cache, name, "json");
    Error err;
    remove(json);
    size_t bytes = 0;
    for (size_t i = 0; i < l->count; i++) bytes += strlen(l->labels[i]) + 1;
    char *text = xmalloc(bytes + 1), *at = text;
    for (size_t i = 0; i < l->count; i++) at += sprintf(at, "%s\n", l->labels[i]);
    if (!npy_write_f32(x, l->x, (size_t[]){l->count, l->dim}, 2, &err) ||
        !file_write_atomic(labels, text, bytes, &err) ||
        !file_write_atomic(json, stamp, strlen(stamp), &err))
        die("%s", err.text);
    FREE_ALL(text, x, labels, json);
}

/* ---- data sets ---- */

/* Labels are folders' names, or the captions that the options select. */
static void take_features(Labelled *l, Features *f, const Dataset *d) {
    const char *const *folders;
    size_t n = dataset_classes(d, &folders);
    *l = (Labelled){.count = f->count, .dim = f->dim, .x = f->images};
    l->labels = xcalloc(f->count, sizeof *l->labels);
    for (size_t i = 0; i < f->count; i++) {
        l->labels[i] =
            n && f->labels[i] >= 0 ? xstrdup(folders[f->labels[i]]) : trimmed(f->captions[i]);
        if (!*l->labels[i] || strchr(l->labels[i], '\n'))
            die("%s has no label of one line", f->keys[i]);
    }
    f->images = NULL;
    features_free(f);
}

void labelled_embed(Labelled *l, Encoder *e, const Comm *c, const char *name, const char *spec,
                    const DatasetOptions *o, const char *cache) {
    char *stamp = cache_stamp(e, spec);
    Error why;
    *l = (Labelled){0};
    if (c->rank == 0 && cache && !folder_private(cache, &why)) {
        log_warn("--features-cache: %s: it is not used", why.text);
        cache = NULL;
    }
    bool there = c->rank == 0 && cache && cache_is_of(cache, name, stamp);
    c->broadcast_bytes(&there, sizeof there, 0);
    if (!there) {
        Features f;
        comm_rank0_begin(c);
        Dataset *d = open_dataset(name, spec, o);
        comm_rank0_end(c);
        agree_on(c, "data set (samples)", dataset_count(d));
        features_of_dataset(&f, e, c, d, true, false);
        if (!f.count) comm_die(c, "--%s %s: no readable image", name, spec);
        if (c->rank == 0) {
            if (f.bad) log_warn("--%s: %zu images cannot be read", name, f.bad);
            Error err;
            Rows r = rows_of_floats(f.images, f.count, f.dim);
            if (!rows_normalise(&r, &err)) die("--%s: features: %s", name, err.text);
            free(r.scale);
            take_features(l, &f, d);
            if (cache) cache_write(l, cache, name, stamp);
        } else {
            features_free(&f);
        }
        dataset_close(d);
    } else if (c->rank == 0) {
        cache_read(l, cache, name);
    }
    free(stamp);
}

void labelled_free(Labelled *l) {
    for (size_t i = 0; l->labels && i < l->count; i++) free(l->labels[i]);
    FREE_ALL(l->labels, l->x);
    *l = (Labelled){0};
}

static int compare_names(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

const char **labelled_classes(const Labelled *train, size_t *count) {
    const char **names = xcalloc(train->count + 1, sizeof *names);
    size_t n = 0;
    memcpy(names, train->labels, train->count * sizeof *names);
    qsort(names, train->count, sizeof *names, compare_names);
    for (size_t i = 0; i < train->count; i++)
        if (!n || strcmp(names[n - 1], names[i]) != 0) names[n++] = names[i];
    *count = n;
    return names;
}

ProbeSet labelled_set(Labelled *l, const char *name, const char *const *names, size_t count) {
    ProbeSet s = {l->count, l->dim, l->x, xcalloc(l->count + 1, sizeof(int))};
    for (size_t i = 0; i < l->count; i++) {
        const char *const *at = bsearch(&l->labels[i], names, count, sizeof *names, compare_names);
        if (!at)
            die("--%s row %zu: class '%.80s' does not occur in the training set", name, i,
                l->labels[i]);
        s.labels[i] = (int)(at - names);
    }
    l->x = NULL;
    return s;
}
