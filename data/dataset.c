#include "data/dataset.h"
#include "data/io/folder.h"
#include "data/io/parallel.h"
#include "data/io/utf8.h"
#include "data/tarshard.h"

#include <stdlib.h>
#include <string.h>

enum { OPEN_THREADS = 8 }; /* opening waits for disks and networks more than for processors */

struct Dataset {
    DatasetOptions options;
    CaptionKeys captions;
    IndexKeys keys;
    char *cache_dir, *strings[7]; /* options' own copies */
    SourceContext context;        /* points to the fields above, and to `spooled` */
    atomic_size_t spooled;
    Shard *shards;
    size_t shard_count, parts, count, dropped;
    Feed *feed; /* if set, no shard is open and count is an epoch's */
};

DatasetOptions dataset_options_default(void) {
    return (DatasetOptions){.image_keys = "jpg;png;jpeg;webp",
                            .text_keys = "txt;caption",
                            .csv_image_key = "filepath",
                            .csv_caption_key = "title",
                            .pipe_seconds = 300,
                            .spool_gib = 64};
}

static char *default_cache_dir(void) {
    char *folder = folder_cache();
    return folder ? folder : xstrdup("/tmp/clipc-cache");
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
    Error *errors; /* one for each shard; empty text: opened */
} OpenJob;

static void open_one(void *context, size_t i, size_t thread) {
    (void)thread;
    OpenJob *job = context;
    Shard *s = &job->d->shards[i];
    Error err;
    if (!s->source->open(s, job->sources->items[i].path, &job->d->context, &err))
        job->errors[i] = err;
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
        d->count += d->shards[i].count;
        d->dropped += d->shards[i].dropped;
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
    for (size_t i = 0; i < d->shard_count; i++) d->shards[i].start = d->count * i / d->shard_count;
    return d->feed != NULL;
}

static bool open_sources(Dataset *d, Sources *sources, Error *err) {
    bool stream = false;
    d->context = (SourceContext){&d->options, &d->captions, &d->keys,
                                 shard_cache_new(&d->keys, d->cache_dir), &d->spooled};
    d->parts = sources->parts;
    d->shard_count = sources->count;
    d->shards = xcalloc(sources->count, sizeof *d->shards);
    for (size_t i = 0; i < sources->count; i++) {
        const SourceItem *item = &sources->items[i];
        d->shards[i] = (Shard){.source = item->source, .part = item->part};
        stream |= item->source->is_stream;
    }
    return d->options.feed && stream ? open_feed(d, sources, err) : open_all(d, sources, err);
}

Dataset *dataset_open(const char *spec, const DatasetOptions *options, Error *err) {
    Dataset *d = xcalloc(1, sizeof *d);
    Sources sources = {.items = NULL};
    copy_options(d, options);
    Pipes pipes = options->allow_pipe ? PIPES_ALL : options->of_recipe ? PIPES_NONE : PIPES_OF_SPEC;
    bool ok = parse_keys(d, err) && sources_expand(&sources, spec, pipes, err) &&
              open_sources(d, &sources, err);
    sources_free(&sources);
    if (ok && d->count == 0)
        ok = error_set(err, "%s: no usable sample: %zu without an image (%s) or a caption (%s)",
                       spec, d->dropped, d->options.image_keys,
                       d->options.json_text_key ? d->options.json_text_key
                       : d->options.text_keys   ? d->options.text_keys
                                                : "none needed");
    if (ok) return d;
    dataset_close(d);
    return NULL;
}

void dataset_close(Dataset *d) {
    if (!d) return;
    feed_free(d->feed);
    shard_cache_free(d->context.cache);
    for (size_t i = 0; i < d->shard_count; i++) {
        Shard *s = &d->shards[i];
        if (s->state) s->source->close(s);
        free(s->state);
    }
    for (size_t i = 0; i < COUNT(d->strings); i++) free(d->strings[i]);
    caption_keys_free(&d->captions);
    index_keys_free(&d->keys);
    FREE_ALL(d->cache_dir, d->shards, d);
}

size_t dataset_count(const Dataset *d) { return d->count; }
size_t dataset_dropped(const Dataset *d) { return d->dropped; }
size_t dataset_damaged(const Dataset *d) {
    size_t n = 0;
    for (size_t i = 0; i < d->shard_count; i++) n += d->shards[i].damaged;
    return n;
}
size_t dataset_shards(const Dataset *d) { return d->shard_count; }
Feed *dataset_feed(const Dataset *d) { return d->feed; }
size_t dataset_parts(const Dataset *d) { return d->parts; }
size_t dataset_shard_part(const Dataset *d, size_t shard) { return d->shards[shard].part; }
bool dataset_is_files(const Dataset *d, size_t shard) { return d->shards[shard].source->files; }

size_t dataset_shard_start(const Dataset *d, size_t shard) {
    assert(shard <= d->shard_count);
    return shard < d->shard_count ? d->shards[shard].start : d->count;
}

size_t dataset_classes(const Dataset *d, const char *const **names) {
    bool one = d->shard_count == 1;
    *names = one ? d->shards[0].classes : NULL;
    return one ? d->shards[0].class_count : 0;
}

/* ---- reading ---- */

/* Returns the shard of a sample; *index becomes the sample's number within the shard. */
static Shard *find_shard(const Dataset *d, size_t *index) {
    assert(*index < d->count && !d->feed);
    Shard *s = &d->shards[LAST_WHERE(i, d->shard_count, d->shards[i].start <= *index)];
    *index -= s->start;
    return s;
}

bool dataset_read_drawn(Dataset *d, size_t index, const uint64_t *draw, Sample *s, Error *err) {
    Shard *shard = find_shard(d, &index);
    Error why;
    sample_reset(s);
    bool ok = shard->source->read(shard, &d->context, index, draw, s, &why);
    if (!ok && strncmp(why.text, s->key, strlen(s->key)) == 0)
        return error_set(err, "%s", why.text); /* a file's error already names the file */
    if (ok && d->captions.alternatives && text_is_blank(s->text, s->text_size))
        ok = error_set(&why, "an empty caption");
    return ok || error_set(err, "%s: %s", s->key, why.text);
}

bool dataset_read(Dataset *d, size_t index, Sample *s, Error *err) {
    return dataset_read_drawn(d, index, NULL, s, err);
}

char *dataset_key(Dataset *d, size_t index, Error *err) {
    Shard *shard = find_shard(d, &index);
    return shard->source->key(shard, &d->context, index, err);
}
