#include "data/dataset.h"
#include "data/idx.h"
#include "data/io/folder.h"
#include "data/io/parallel.h"
#include "data/io/utf8.h"
#include "data/jsonl.h"
#include "data/sources.h"
#include "data/table.h"
#include "data/tarshard.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OPEN_THREADS = 8 }; /* opening waits for disks and networks more than for processors */

typedef struct Shard {
    SourceKind kind;
    size_t start, part; /* its first sample; its part of the specification */
    TarShard tar;
    Table table;
    IdxSet idx;
} Shard;

struct Dataset {
    DatasetOptions options;
    CaptionKeys captions;
    IndexKeys keys;
    char *cache_dir, *strings[7]; /* options' own copies */
    Shard *shards;
    size_t shard_count, parts, count, dropped;
    ShardCache *cache;
    size_t feed_sources;
    Feed *feed; /* then there are no shards, and count is an epoch's */
};

DatasetOptions dataset_options_default(void) {
    return (DatasetOptions){.image_keys = "jpg;png;jpeg;webp",
                            .text_keys = "txt;caption",
                            .csv_image_key = "filepath",
                            .csv_caption_key = "title",
                            .pipe_seconds = 300};
}

static char *default_cache_dir(void) {
    const char *xdg = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    if (xdg && *xdg) return xasprintf("%s/clipc", xdg);
    if (home && *home) return xasprintf("%s/.cache/clipc", home);
    return xstrdup("/tmp/clipc-cache");
}

static bool parse_keys(Dataset *d, Error *err) {
    const DatasetOptions *o = &d->options;
    char *json = o->json_text_key ? xasprintf("json.%s", o->json_text_key) : NULL;
    bool ok = caption_keys_parse(&d->captions, json ? json : o->text_keys, err);
    free(json);
    const char *members = d->captions.members;
    bool only_json = members && strcmp(members, "json") == 0;
    d->keys = index_keys_new(o->image_keys, members, only_json);
    return ok;
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
    s->part = job->sources->items[i].part;
    switch (s->kind) {
    case SOURCE_SHARD:
        ok = tarshard_find(&s->tar, path, d->cache_dir, &d->keys, &err);
        break;
    case SOURCE_TABLE:
        ok = table_open_csv(&s->table, path, &d->options, &err);
        break;
    case SOURCE_JSONL:
        ok = table_open_jsonl(&s->table, path, &d->options, &err);
        break;
    case SOURCE_FOLDER:
        ok = table_open_folder(&s->table, path, &d->options, &err);
        break;
    case SOURCE_PIPE:
    case SOURCE_STDIN:
        ok = tarshard_spool(&s->tar, &job->sources->items[i], d->cache_dir, &d->keys,
                            d->options.pipe_seconds, &err);
        s->kind = SOURCE_SHARD;
        break;
    case SOURCE_IDX:
        ok = idx_set_open(&s->idx, path, &err);
        break;
    }
    if (!ok) job->errors[i] = err;
}

static size_t shard_samples(const Shard *s) {
    if (s->kind == SOURCE_IDX) return s->idx.images.shape[0];
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

static bool open_feed(Dataset *d, Sources *sources, Error *err) {
    TarStreamOptions how = {
        .image_keys = d->options.image_keys, .captions = &d->captions, .pick = d->options.captions};
    d->feed = feed_new(sources, &how, d->options.feed, err);
    if (d->feed) d->count = d->options.feed->samples;
    d->options.feed = NULL; /* the caller's */
    return d->feed != NULL;
}

static bool any_stream(const Sources *s) {
    for (size_t i = 0; i < s->count; i++)
        if (source_is_stream(&s->items[i])) return true;
    return false;
}

Dataset *dataset_open(const char *spec, const DatasetOptions *options, Error *err) {
    Dataset *d = xcalloc(1, sizeof *d);
    Sources sources = {.items = NULL};
    copy_options(d, options);
    bool ok = parse_keys(d, err) && sources_expand(&sources, spec, err);
    d->parts = sources.parts;
    bool feed = ok && d->options.feed && any_stream(&sources);
    if (feed) {
        d->feed_sources = sources.count;
        ok = open_feed(d, &sources, err);
    } else if (ok) {
        d->shard_count = sources.count;
        d->shards = xcalloc(sources.count, sizeof *d->shards);
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
    feed_free(d->feed);
    shard_cache_free(d->cache);
    for (size_t i = 0; i < d->shard_count; i++) {
        tarshard_free(&d->shards[i].tar);
        table_free(&d->shards[i].table);
        idx_set_free(&d->shards[i].idx);
    }
    for (size_t i = 0; i < COUNT(d->strings); i++) free(d->strings[i]);
    caption_keys_free(&d->captions);
    index_keys_free(&d->keys);
    free(d->cache_dir);
    free(d->shards);
    free(d);
}

size_t dataset_count(const Dataset *d) { return d->count; }
size_t dataset_dropped(const Dataset *d) { return d->dropped; }
size_t dataset_damaged(const Dataset *d) {
    size_t n = 0;
    for (size_t i = 0; i < d->shard_count; i++)
        n += d->shards[i].kind == SOURCE_SHARD && d->shards[i].tar.h.flags & INDEX_DAMAGED;
    return n;
}
size_t dataset_shards(const Dataset *d) { return d->feed ? d->feed_sources : d->shard_count; }
Feed *dataset_feed(const Dataset *d) { return d->feed; }
size_t dataset_parts(const Dataset *d) { return d->parts; }
size_t dataset_shard_part(const Dataset *d, size_t shard) { return d->shards[shard].part; }
bool dataset_is_files(const Dataset *d, size_t shard) {
    return d->shards[shard].kind != SOURCE_SHARD;
}

size_t dataset_shard_start(const Dataset *d, size_t shard) {
    assert(shard <= dataset_shards(d));
    if (d->feed) return d->count * shard / d->feed_sources;
    return shard < d->shard_count ? d->shards[shard].start : d->count;
}

size_t dataset_classes(const Dataset *d, const char *const **names) {
    const Table *t = d->shard_count == 1 ? &d->shards[0].table : NULL;
    *names = t ? (const char *const *)t->classes : NULL;
    return t ? t->class_count : 0;
}

/* ---- reading ---- */

typedef struct TarMembers {
    Dataset *d;
    TarShard *t;
    size_t sample;
    char *text; /* of the last member read, malloc'd */
} TarMembers;

static bool read_member(TarMembers *from, const IndexMember *m, size_t limit, uint8_t *out,
                        Error *err) {
    if (m->size > limit)
        return error_set(err, "a member of %llu bytes", (unsigned long long)m->size);
    return shard_cache_read(from->d->cache, from->t, m->offset, out, (size_t)m->size, err);
}

static int read_text(void *context, const char *extension, const char **bytes, size_t *n,
                     Error *err) {
    TarMembers *from = context;
    const IndexMember *m = index_member(&from->t->index, from->sample, extension);
    if (!m) return 0;
    if (m->size > SAMPLE_TEXT_MAX) {
        error_set(err, "a .%s of %llu bytes", extension, (unsigned long long)m->size);
        return -1;
    }
    free(from->text);
    from->text = xmalloc((size_t)m->size + 1);
    *bytes = from->text;
    *n = (size_t)m->size;
    return read_member(from, m, SAMPLE_TEXT_MAX, (uint8_t *)from->text, err) ? 1 : -1;
}

static bool read_label(TarMembers *from, const IndexMember *m, Sample *s, Error *err) {
    char digits[16];
    if (m->size > sizeof digits) return true; /* a name */
    return read_member(from, m, sizeof digits, (uint8_t *)digits, err) &&
           sample_set_label(s, digits, (size_t)m->size, err);
}

static bool read_tar(Dataset *d, TarShard *t, size_t i, const uint64_t *draw, Sample *s,
                     Error *err) {
    IndexPick p;
    if (!shard_cache_acquire(d->cache, t, err)) {
        s->key = xstrdup(t->path);
        return false;
    }
    TarMembers from = {.d = d, .t = t, .sample = t->usable[i]};
    index_pick(&t->index, &d->keys, from.sample, &p);
    s->key = xasprintf("%s:%s", t->name ? t->name : path_base(t->path), p.key);
    size_t image = (size_t)p.image->size;
    bool ok = image <= SAMPLE_IMAGE_MAX || error_set(err, "an image of %zu bytes", image);
    ok = ok && read_member(&from, p.image, SAMPLE_IMAGE_MAX, sample_reserve_image(s, image), err);
    if (ok) s->image_size = image;
    if (ok && d->captions.choices)
        ok = captions_take(s, &d->captions, d->options.captions, draw, read_text, &from, err);
    if (ok && p.label) ok = read_label(&from, p.label, s, err);
    const char *json;
    if (ok && d->options.want_json && read_text(&from, "json", &json, &s->json_size, err) == 1) {
        s->json = from.text;
        s->json[s->json_size] = 0;
        from.text = NULL;
    }
    free(from.text);
    shard_cache_release(d->cache, t);
    return ok;
}

/* A row's line, or the .json beside its picture; none is no error. */
static void read_table_json(const TableRow *r, Sample *s) {
    Error none;
    if (r->json) {
        s->json = xstrdup(r->json);
        s->json_size = strlen(r->json);
        return;
    }
    char *path = table_beside(r, ".json");
    uint8_t *bytes;
    if (file_read_all(path, &bytes, &s->json_size, SAMPLE_TEXT_MAX, &none)) s->json = (char *)bytes;
    free(path);
}

static bool read_table(const Table *t, size_t i, CaptionPick pick, const uint64_t *draw, Sample *s,
                       Error *err) {
    const TableRow *r = &t->rows[i];
    s->key = table_path(r);
    s->label = r->label;
    free(s->image);
    bool ok = file_read_all(s->key, &s->image, &s->image_size, SAMPLE_IMAGE_MAX, err);
    s->image_capacity = s->image_size;
    if (ok && r->text) table_caption(t, r, pick, draw, s);
    if (ok && !r->text && t->need_text) {
        char *path = table_beside(r, ".txt");
        uint8_t *bytes;
        size_t n;
        ok = file_read_all(path, &bytes, &n, SAMPLE_TEXT_MAX, err);
        if (ok) captions_pick_line(s, pick, draw, (const char *)bytes, n);
        free(bytes);
        free(path);
    }
    return ok;
}

static char *idx_key(const IdxSet *x, size_t i) { return xasprintf("%s:%zu", x->name, i); }

/* Its caption, where one is needed, is the label's number. */
static bool read_idx(const IdxSet *x, size_t i, bool need_text, Sample *s, Error *err) {
    s->key = idx_key(x, i);
    free(s->image);
    s->image = NULL;
    s->image_capacity = 0;
    if (!idx_picture(x, i, &s->image, &s->image_size, err)) return false;
    s->image_capacity = s->image_size;
    if (x->labels.size) s->label = x->labels.bytes[i];
    char digits[8];
    int n = snprintf(digits, sizeof digits, "%d", s->label);
    if (need_text && s->label >= 0) sample_set_text(s, digits, (size_t)n);
    return true;
}

static const Shard *find_shard(const Dataset *d, size_t index, size_t *number) {
    *number = LAST_WHERE(i, d->shard_count, d->shards[i].start <= index);
    return &d->shards[*number];
}

bool dataset_read_drawn(Dataset *d, size_t index, const uint64_t *draw, Sample *s, Error *err) {
    assert(index < d->count && !d->feed);
    size_t number;
    const Shard *shard = find_shard(d, index, &number);
    Error why;
    sample_reset(s);
    bool ok;
    if (shard->kind == SOURCE_SHARD)
        ok = read_tar(d, &d->shards[number].tar, index - shard->start, draw, s, &why);
    else if (shard->kind == SOURCE_IDX)
        ok = read_idx(&shard->idx, index - shard->start, d->captions.choices > 0, s, &why);
    else
        ok = read_table(&shard->table, index - shard->start, d->options.captions, draw, s, &why);
    bool files = shard->kind != SOURCE_SHARD && shard->kind != SOURCE_IDX;
    if (ok && files && d->options.want_json)
        read_table_json(&shard->table.rows[index - shard->start], s);
    if (!ok && strncmp(why.text, s->key, strlen(s->key)) == 0)
        return error_set(err, "%s", why.text); /* a file's error names it already */
    if (ok && d->captions.choices && text_is_blank(s->text, s->text_size))
        ok = error_set(&why, "an empty caption");
    return ok || error_set(err, "%s: %s", s->key, why.text);
}

bool dataset_read(Dataset *d, size_t index, Sample *s, Error *err) {
    return dataset_read_drawn(d, index, NULL, s, err);
}

char *dataset_key(Dataset *d, size_t index, Error *err) {
    assert(index < d->count);
    size_t number;
    const Shard *shard = find_shard(d, index, &number);
    if (shard->kind == SOURCE_IDX) return idx_key(&shard->idx, index - shard->start);
    if (shard->kind != SOURCE_SHARD) return table_path(&shard->table.rows[index - shard->start]);
    TarShard *t = &d->shards[number].tar;
    IndexPick p;
    if (!shard_cache_acquire(d->cache, t, err)) return NULL;
    index_pick(&t->index, &d->keys, t->usable[index - shard->start], &p);
    char *key = xasprintf("%s:%s", t->path, p.key);
    shard_cache_release(d->cache, t);
    return key;
}
