#include "data/shards.h"
#include "data/parallel.h"
#include "data/sources.h"
#include "data/table.h"
#include "data/tarshard.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

enum {
    IMAGE_BYTES_MAX = 256 << 20,
    TEXT_BYTES_MAX = 4 << 20,
    OPEN_THREADS = 8, /* opening waits for disks and networks more than for processors */
};

typedef struct Shard {
    SourceKind kind;
    size_t start; /* its first sample */
    TarShard tar;
    Table table;
} Shard;

struct Dataset {
    DatasetOptions options;
    IndexKeys keys;
    char *cache_dir, *strings[7]; /* options' own copies */
    Shard *shards;
    size_t shard_count, count, dropped;
    ShardCache *cache;
};

DatasetOptions dataset_options_default(void) {
    return (DatasetOptions){.image_keys = "jpg;png;jpeg;webp",
                            .text_keys = "txt;caption",
                            .csv_image_key = "filepath",
                            .csv_caption_key = "title"};
}

static char *default_cache_dir(void) {
    const char *xdg = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    if (xdg && *xdg) return xasprintf("%s/clipc", xdg);
    if (home && *home) return xasprintf("%s/.cache/clipc", home);
    return xstrdup("/tmp/clipc-cache");
}

static void copy_options(Dataset *d, const DatasetOptions *o) {
    d->options = *o;
    const char **fields[] = {&d->options.image_keys,      &d->options.text_keys,
                             &d->options.json_text_key,   &d->options.csv_separator,
                             &d->options.csv_image_key,   &d->options.csv_caption_key,
                             &d->options.caption_template};
    static_assert(COUNT(fields) == COUNT(((Dataset *)0)->strings), "every copy has a place");
    for (size_t i = 0; i < COUNT(fields); i++)
        if (*fields[i]) *fields[i] = d->strings[i] = xstrdup(*fields[i]);
    d->cache_dir = o->cache_dir ? xstrdup(o->cache_dir) : default_cache_dir();
    d->options.cache_dir = d->cache_dir;
    d->keys = index_keys_new(o->image_keys, o->text_keys, o->json_text_key != NULL);
}

/* ---- opening ---- */

typedef struct OpenJob {
    Dataset *d;
    const Sources *sources;
    Error *errors; /* one a shard; empty text: opened */
} OpenJob;

static void open_one(void *context, size_t i, size_t thread) {
    (void)thread;
    OpenJob *job = context;
    Dataset *d = job->d;
    Shard *s = &d->shards[i];
    const char *path = job->sources->items[i].path;
    Error err;
    bool ok = false;
    s->kind = job->sources->items[i].kind;
    switch (s->kind) {
    case SOURCE_SHARD:
        ok = tarshard_find(&s->tar, path, d->cache_dir, &d->keys, &err);
        break;
    case SOURCE_TABLE:
        ok = table_open_csv(&s->table, path, &d->options, &err);
        break;
    case SOURCE_FOLDER:
        ok = table_open_folder(&s->table, path, &d->options, &err);
        break;
    }
    if (!ok) job->errors[i] = err;
}

static size_t shard_samples(const Shard *s) {
    return s->kind == SOURCE_SHARD ? s->tar.h.usable : s->table.count;
}

static size_t shard_dropped(const Shard *s) {
    return s->kind == SOURCE_SHARD ? s->tar.h.samples - s->tar.h.usable : s->table.dropped;
}

static bool open_all(Dataset *d, const Sources *sources, Error *err) {
    OpenJob job = {d, sources, xcalloc(sources->count, sizeof(Error))};
    parallel_for(sources->count, OPEN_THREADS, open_one, &job);
    bool ok = true;
    for (size_t i = 0; i < sources->count; i++) {
        if (ok && job.errors[i].text[0]) {
            *err = job.errors[i];
            ok = false;
        }
        d->shards[i].start = d->count;
        d->count += shard_samples(&d->shards[i]);
        d->dropped += shard_dropped(&d->shards[i]);
    }
    free(job.errors);
    return ok;
}

Dataset *dataset_open(const char *spec, const DatasetOptions *options, Error *err) {
    Dataset *d = xcalloc(1, sizeof *d);
    Sources sources;
    copy_options(d, options);
    bool ok = sources_expand(&sources, spec, err);
    if (ok) {
        d->shard_count = sources.count;
        d->shards = xcalloc(sources.count, sizeof *d->shards);
        for (size_t i = 0; i < sources.count; i++) d->shards[i].tar.fd = -1;
        ok = open_all(d, &sources, err);
    }
    sources_free(&sources);
    if (ok && d->count == 0)
        ok = error_set(err, "%s: no usable sample: %zu without an image (%s) or a caption (%s)",
                       spec, d->dropped, d->options.image_keys,
                       d->options.json_text_key ? d->options.json_text_key
                       : d->options.text_keys   ? d->options.text_keys
                                                : "none needed");
    if (ok) {
        d->cache = shard_cache_new(&d->keys, d->cache_dir);
        return d;
    }
    dataset_close(d);
    return NULL;
}

void dataset_close(Dataset *d) {
    if (!d) return;
    shard_cache_free(d->cache);
    for (size_t i = 0; i < d->shard_count; i++) {
        tarshard_free(&d->shards[i].tar);
        table_free(&d->shards[i].table);
    }
    for (size_t i = 0; i < COUNT(d->strings); i++) free(d->strings[i]);
    index_keys_free(&d->keys);
    free(d->cache_dir);
    free(d->shards);
    free(d);
}

size_t dataset_count(const Dataset *d) { return d->count; }
size_t dataset_dropped(const Dataset *d) { return d->dropped; }
size_t dataset_shards(const Dataset *d) { return d->shard_count; }

size_t dataset_shard_start(const Dataset *d, size_t shard) {
    assert(shard <= d->shard_count);
    return shard < d->shard_count ? d->shards[shard].start : d->count;
}

size_t dataset_classes(const Dataset *d, const char *const **names) {
    const Table *t = d->shard_count == 1 ? &d->shards[0].table : NULL;
    *names = t ? (const char *const *)t->classes : NULL;
    return t ? t->class_count : 0;
}

/* ---- reading ---- */

static void *reserve(void *p, size_t *capacity, size_t need) {
    if (need <= *capacity) return p;
    free(p);
    *capacity = need + need / 4;
    return xmalloc(*capacity);
}

static void set_text(Sample *s, const char *text, size_t n) {
    s->text = reserve(s->text, &s->text_capacity, n + 1);
    memcpy(s->text, text, n);
    s->text[n] = 0;
    s->text_size = n;
}

/* The caption is the string `field` of the JSON object that s->text holds. */
static bool take_json_field(Sample *s, const char *field, Error *err) {
    json_error_t why;
    json_t *root = json_loadb(s->text, s->text_size, 0, &why);
    if (!root) return error_set(err, "bad JSON: %s", why.text);
    json_t *value = json_object_get(root, field);
    bool ok = json_is_string(value);
    if (ok)
        set_text(s, json_string_value(value), json_string_length(value));
    else
        error_set(err, "its .json has no text \"%s\"", field);
    json_decref(root);
    return ok;
}

static bool read_member(Dataset *d, TarShard *t, const IndexMember *m, size_t limit, uint8_t *out,
                        Error *err) {
    if (m->size > limit)
        return error_set(err, "a member of %llu bytes", (unsigned long long)m->size);
    return shard_cache_read(d->cache, t, m->offset, out, (size_t)m->size, err);
}

static bool read_label(Dataset *d, TarShard *t, const IndexMember *m, int *label, Error *err) {
    char digits[16] = "", *end;
    if (!read_member(d, t, m, sizeof digits - 1, (uint8_t *)digits, err)) return false;
    long v = strtol(digits, &end, 10);
    if (end == digits || end[strspn(end, " \r\n")] || v < 0 || v > INT32_MAX)
        return error_set(err, "its .cls is no class number");
    *label = (int)v;
    return true;
}

static bool read_tar(Dataset *d, TarShard *t, size_t i, Sample *s, Error *err) {
    IndexPick p;
    if (!shard_cache_acquire(d->cache, t, err)) {
        s->key = xstrdup(t->path);
        return false;
    }
    index_pick(&t->index, &d->keys, t->usable[i], &p);
    const char *slash = strrchr(t->path, '/');
    s->key = xasprintf("%s:%s", slash ? slash + 1 : t->path, p.key);
    size_t image = (size_t)p.image->size, text = p.text ? (size_t)p.text->size : 0;
    bool ok = true;
    if (image > IMAGE_BYTES_MAX || text > TEXT_BYTES_MAX)
        ok = error_set(err, "an image of %zu or a text of %zu bytes", image, text);
    if (ok) {
        s->image = reserve(s->image, &s->image_capacity, image);
        ok = read_member(d, t, p.image, IMAGE_BYTES_MAX, s->image, err);
        if (ok) s->image_size = image;
    }
    if (ok && p.text) {
        s->text = reserve(s->text, &s->text_capacity, text + 1);
        s->text_size = text;
        s->text[text] = 0;
        ok = read_member(d, t, p.text, TEXT_BYTES_MAX, (uint8_t *)s->text, err);
        if (ok && p.text_is_json) ok = take_json_field(s, d->options.json_text_key, err);
    }
    if (ok && p.label) ok = read_label(d, t, p.label, &s->label, err);
    shard_cache_release(d->cache, t);
    return ok;
}

static bool read_table(const Table *t, size_t i, Sample *s, Error *err) {
    const TableRow *r = &t->rows[i];
    s->key = table_path(r);
    s->label = r->label;
    free(s->image);
    bool ok = file_read_all(s->key, &s->image, &s->image_size, IMAGE_BYTES_MAX, err);
    s->image_capacity = s->image_size;
    if (ok && r->text) set_text(s, r->text, strlen(r->text));
    if (ok && !r->text && t->need_text) {
        char *path = table_text_path(r);
        uint8_t *bytes;
        size_t n;
        ok = file_read_all(path, &bytes, &n, TEXT_BYTES_MAX, err);
        if (ok) set_text(s, (const char *)bytes, n);
        free(bytes);
        free(path);
    }
    return ok;
}

static const Shard *find_shard(const Dataset *d, size_t index, size_t *number) {
    size_t lo = 0, hi = d->shard_count;
    while (hi - lo > 1) {
        size_t mid = lo + (hi - lo) / 2;
        if (d->shards[mid].start <= index)
            lo = mid;
        else
            hi = mid;
    }
    *number = lo;
    return &d->shards[lo];
}

static bool is_blank(const char *text, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (!strchr(" \t\n\v\f\r", text[i])) return false;
    return true;
}

bool dataset_read(Dataset *d, size_t index, Sample *s, Error *err) {
    assert(index < d->count);
    size_t number;
    const Shard *shard = find_shard(d, index, &number);
    Error why;
    free(s->key);
    s->key = NULL;
    s->label = -1;
    s->image_size = 0;
    set_text(s, "", 0);
    bool ok = shard->kind == SOURCE_SHARD
                  ? read_tar(d, &d->shards[number].tar, index - shard->start, s, &why)
                  : read_table(&shard->table, index - shard->start, s, &why);
    if (!ok && strncmp(why.text, s->key, strlen(s->key)) == 0)
        return error_set(err, "%s", why.text); /* a file's error names it already */
    if (ok && (d->keys.texts || d->keys.json) && is_blank(s->text, s->text_size))
        ok = error_set(&why, "an empty caption");
    return ok || error_set(err, "%s: %s", s->key, why.text);
}

void sample_free(Sample *s) {
    free(s->key);
    free(s->image);
    free(s->text);
    *s = (Sample){.label = -1};
}
