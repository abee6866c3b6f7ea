/* clipc data index: writes NAME.tar.idx next to shards, so that training need not build it. */
#include "data/dataset.h"
#include "data/index.h"
#include "data/io/parallel.h"
#include "data/io/progress.h"
#include "data/sources.h"
#include "tools/commands.h"
#include "tools/common.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

static DatasetOptions dataset;
static int64_t workers;
static bool force;

static Option options[] = {
    FLAG("force", &force, "write those again that are up to date"),
    INT("workers", &workers, 1, 1024, "threads"),
    STRING("image-key", &dataset.image_keys, "KEYS", "extensions of the image"),
    STRING("text-key", &dataset.text_keys, "KEYS", "extensions of the caption"),
};

static const Command command = {
    "data index",
    "Writes the index of every shard beside it.",
    "clipc data index SHARDS...",
    "  clipc data index 'shards/train-{000000..000099}.tar'\n"
    "The keys only say for which members usable samples are counted beforehand: an index serves\n"
    "all others as well.\n",
    options,
    COUNT(options),
};

typedef struct Result {
    bool ok, written;
    IndexHeader h;
    Error err; /* also set for a damaged shard */
} Result;

typedef struct Job {
    const Sources *sources;
    IndexKeys keys;
    Result *results;
    pthread_mutex_t lock; /* of the rest */
    Progress progress;
    size_t done;
} Job;

static bool up_to_date(const char *shard, const char *index, const IndexKeys *keys,
                       IndexHeader *h) {
    FileStamp now;
    Index ix;
    Error err;
    if (!file_stamp(shard, &now, &err) || !index_read(&ix, index, &err)) return false;
    *h = ix.h;
    index_free(&ix);
    return index_fresh(h, &now) && h->keys == keys->hash;
}

static void index_one(void *context, size_t i, size_t thread) {
    (void)thread;
    Job *job = context;
    Result *r = &job->results[i];
    const SourceItem *item = &job->sources->items[i];
    if (item->source != &source_tar) {
        error_set(&r->err, "%s: not a .tar or .tar.zst", item->path);
        return;
    }
    char *path = xasprintf("%s.idx", item->path);
    r->ok = !force && up_to_date(item->path, path, &job->keys, &r->h);
    if (!r->ok) {
        Index ix;
        r->written = r->ok = index_build(&ix, item->path, &job->keys, &r->err);
        for (size_t f = 0; r->ok && f < ix.h.frames; f++)
            if (ix.frames[f + 1].raw - ix.frames[f].raw > INDEX_FRAME_MAX)
                r->ok = error_set(&r->err,
                                  "%s: its zstd frames are too large for random access: pack it "
                                  "again with clipc data pack --zstd",
                                  item->path);
        r->ok = r->ok && index_write(&ix, path, &r->err);
        r->h = ix.h;
        index_free(&ix);
    }
    free(path);
    pthread_mutex_lock(&job->lock);
    progress_show(&job->progress, ++job->done, job->sources->count, "");
    pthread_mutex_unlock(&job->lock);
}

int cmd_data_index(int argc, char **argv) {
    static StringList operands;
    dataset = dataset_options_default();
    workers = (int64_t)cpu_count();
    options_parse(&command, argc, argv, &operands);
    char *spec = join_operands(&command, &operands);
    Sources sources;
    Error err;
    CaptionKeys captions;
    if (!caption_keys_parse(&captions, dataset.text_keys, &err)) die_usage("%s", err.text);
    if (!sources_expand(&sources, spec, PIPES_OF_SPEC, &err)) die("%s", err.text);
    Job job = {.sources = &sources,
               .keys = index_keys_new(dataset.image_keys, captions.members, false),
               .results = xcalloc(sources.count, sizeof(Result))};
    job.progress = progress_start("indexing");
    pthread_mutex_init(&job.lock, NULL);
    parallel_for(sources.count, (size_t)workers, index_one, &job);
    progress_end(&job.progress);
    size_t failed = 0, written = 0;
    uint64_t samples = 0, usable = 0;
    for (size_t i = 0; i < sources.count; i++) {
        const Result *r = &job.results[i];
        failed += !r->ok;
        written += r->ok && r->written;
        samples += r->ok ? r->h.samples : 0;
        usable += r->ok ? r->h.usable : 0;
        if (!r->ok)
            log_warn("%s", r->err.text);
        else if (r->h.flags & INDEX_DAMAGED)
            log_warn("%s: damaged (%s): the first %" PRIu64 " samples are indexed",
                     sources.items[i].path, r->written ? r->err.text : "see --force", r->h.samples);
    }
    log_info("%zu shards: %zu indexes written, %zu were up to date, %zu failed; %" PRIu64
             " samples, %" PRIu64 " usable",
             sources.count, written, sources.count - written - failed, failed, samples, usable);
    index_keys_free(&job.keys);
    caption_keys_free(&captions);
    free(job.results);
    sources_free(&sources);
    free(spec);
    return failed ? EXIT_ERROR : EXIT_OK;
}
