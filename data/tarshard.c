#include "data/tarshard.h"
#include "data/io/folder.h"
#include "data/io/pipe.h"
#include "data/io/writer.h"
#include "kernels/hash.h"
#include "data/dataset.h"
#include "data/spool.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

enum {
    FRAMES = 64,           /* decompressed frames in the cache */
    OPEN_MAX_SHARDS = 512, /* limits on shards that stay open, and on the memory of their indexes */
    OPEN_MAX_BYTES = 512 * 1024 * 1024,
    COPY_FRAME = 256 << 10,
};

typedef struct Frame {
    const TarShard *shard; /* NULL: empty */
    uint64_t at;
    uint8_t *bytes;
    bool loading, failed;
    unsigned refs;
    uint64_t used;
} Frame;

struct ShardCache {
    pthread_mutex_t lock;
    pthread_cond_t loaded;
    const IndexKeys *keys;
    const char *cache_dir;
    uint64_t clock;
    TarShard **open;
    size_t open_count, open_max, bytes;
    Frame frames[FRAMES];
};

/* ---- finding an index ---- */

static char *cached_path(const char *path, const char *cache_dir, const char *suffix) {
    char *real = realpath(path, NULL);
    const char *name = real ? real : path;
    uint64_t hash = fnv_hash(FNV_START, name, strlen(name));
    char *cached =
        xasprintf("%s/%016llx-%s%s", cache_dir, (unsigned long long)hash, path_base(path), suffix);
    free(real);
    return cached;
}

/* A shard whose frames are too large for random reads is copied once into smaller frames. */
static bool copy_frames(Index *ix, const char *shard, const char *copy, Error *err) {
    log_info("%s has zstd frames too large for random access: copying it to %s", shard, copy);
    Stream *s = stream_open(shard, err);
    Writer *w = s ? writer_open(copy, COPY_FRAME, err) : NULL;
    uint64_t left = ix->frames[ix->h.frames].raw;
    uint8_t *bytes = xmalloc(1 << 16);
    bool ok = w != NULL;
    while (ok && left > 0) {
        size_t got, want = left < 1 << 16 ? (size_t)left : 1 << 16;
        ok = stream_read(s, bytes, want, &got, err) && writer_put(w, bytes, got, err) &&
             writer_border(w, err);
        if (ok && got < want) ok = error_set(err, "%s: changed while it was read", shard);
        left -= want;
    }
    free(bytes);
    stream_close(s);
    if (!ok) {
        if (w) writer_abort(w);
        return false;
    }
    StreamFrame *frames;
    size_t count;
    if (!writer_commit(w, &frames, &count, err)) return false;
    free(ix->frames);
    ix->frames = frames;
    ix->h.frames = count;
    ix->h.flags |= INDEX_COPY;
    return true;
}

static bool frames_too_large(const Index *ix) {
    for (size_t i = 0; i < ix->h.frames; i++)
        if (ix->frames[i + 1].raw - ix->frames[i].raw > INDEX_FRAME_MAX) return true;
    return false;
}

/* cache NULL: the index is kept nowhere. */
static bool build(TarShard *s, const char *cache, const IndexKeys *keys, Error *err) {
    static atomic_flag announced = ATOMIC_FLAG_INIT;
    if (cache && !atomic_flag_test_and_set(&announced))
        log_info("building the indexes that are missing in %s, once", cache);
    Index ix;
    if (!index_build(&ix, s->path, keys, err)) {
        index_free(&ix);
        return false;
    }
    if (ix.h.flags & INDEX_DAMAGED) log_warn("%s", err->text);
    bool ok = true;
    if (frames_too_large(&ix) && !cache) {
        ok = error_set(err,
                       "%s: its zstd frames are too large to be read at random without a copy "
                       "in a cache",
                       s->path);
    } else if (frames_too_large(&ix)) {
        char *copy = cached_path(s->path, cache, "");
        ok = copy_frames(&ix, s->path, copy, err);
        free(copy);
    }
    if (cache) ok = ok && index_write(&ix, s->index_path, err);
    s->h = ix.h;
    index_free(&ix);
    return ok;
}

static void set_data_path(TarShard *s, const char *cache_dir) {
    free(s->data_path);
    s->data_path = s->h.flags & INDEX_COPY ? cached_path(s->path, cache_dir, "") : xstrdup(s->path);
}

/* Counts again if the index was made for other keys. */
static bool recount(TarShard *s, const IndexKeys *keys, Error *err) {
    if (s->h.keys == keys->hash) return true;
    Index ix;
    if (!index_read(&ix, s->index_path, err)) return false;
    index_count(&ix, keys);
    s->h.usable = ix.h.usable;
    s->h.keys = keys->hash;
    index_free(&ix);
    return true;
}

/* Logs why an index is not used. If there are many, as after a copy that lost the times, only the
 * first ones are logged. */
static void log_unused(const char *what, const char *why) {
    static atomic_int said;
    int n = atomic_fetch_add(&said, 1);
    if (n < 10) log_warn("%s%s: not used, the shard is indexed again", what, why);
    if (n == 10) log_warn("further indexes that are not used are not listed");
}

/* Returns true if the index at s->index_path exists, is fresh and complete. */
static bool usable_index(TarShard *s, const char *cache_dir, const FileStamp *now,
                         const IndexKeys *keys) {
    FileStamp made;
    Error why;
    if (!file_stamp(s->index_path, &made, &why)) return false;
    if (!index_read_header(&s->h, s->index_path, &why)) {
        log_unused(why.text, "");
        return false;
    }
    if (!index_fresh(&s->h, now)) {
        log_unused(s->index_path, " was made of another state of its shard");
        return false;
    }
    set_data_path(s, cache_dir);
    if (!file_readable(s->data_path)) return false;
    if (recount(s, keys, &why)) return true;
    log_unused(why.text, "");
    return false;
}

/* cache_dir, or NULL if it cannot be trusted, which is said once. */
static const char *trusted(const char *cache_dir) {
    static atomic_flag said = ATOMIC_FLAG_INIT;
    Error why;
    if (folder_private(cache_dir, &why)) return cache_dir;
    if (!atomic_flag_test_and_set(&said))
        log_warn("%s: it is not used as a cache; indexes are made again whenever they are needed "
                 "(another one: --cache-dir)",
                 why.text);
    return NULL;
}

static bool find_cached(TarShard *s, const char *cache_dir, const FileStamp *now,
                        const IndexKeys *keys, Error *err) {
    const char *cache = trusted(cache_dir);
    free(s->index_path);
    s->index_path = cache ? cached_path(s->path, cache, ".idx") : NULL;
    return (cache && usable_index(s, cache, now, keys)) || build(s, cache, keys, err);
}

bool tarshard_find(TarShard *s, const char *path, const char *cache_dir, const IndexKeys *keys,
                   Error *err) {
    *s = (TarShard){.path = xstrdup(path)};
    FileStamp now;
    if (!file_stamp(path, &now, err)) return false;
    s->index_path = xasprintf("%s.idx", path);
    bool beside = usable_index(s, cache_dir, &now, keys);
    if (beside && s->h.flags & INDEX_COPY) beside = trusted(cache_dir) != NULL;
    if (!beside && !find_cached(s, cache_dir, &now, keys, err)) return false;
    set_data_path(s, cache_dir);
    if (s->h.flags & INDEX_DAMAGED)
        log_warn("%s is cut or damaged: the first %llu samples are used", path,
                 (unsigned long long)s->h.usable);
    return true;
}

/* ---- streams ---- */

bool tarshard_spool(TarShard *s, const Source *source, const char *path, const SourceContext *c,
                    Error *err) {
    const char *folder = c->options->cache_dir;
    *s = (TarShard){.name = source_short_name(path)};
    /* new: as a cache's; a copy has no name, so others may write to an old one */
    if (!folder_private(folder, err) && !folder_make(folder, err)) return false;
    log_info("%s: copying the stream to %s while it is used", path, folder);
    int data = spool_stream(source, path, c, err),
        index = data < 0 ? -1 : file_unnamed(folder, err);
    s->spooled[0] = data;
    s->spooled[1] = index;
    if (index < 0) return false;
    s->path = file_of_fd(data);
    s->index_path = file_of_fd(index);
    Index ix = {.samples = NULL};
    bool ok = index_build(&ix, s->path, c->keys, err);
    if (ok && ix.h.flags & INDEX_DAMAGED) log_warn("%s: %s", path, err->text);
    ok = ok && (index_write_fd(&ix, index) ||
                error_set(err, "cannot write into %s: %s", folder, strerror(errno)));
    s->h = ix.h;
    if (ok) set_data_path(s, folder);
    index_free(&ix);
    return ok;
}

void tarshard_free(TarShard *s) {
    file_close(s->file);
    for (size_t i = 0; i < COUNT(s->spooled); i++)
        if (s->spooled[i] > 0) close(s->spooled[i]);
    free(s->name);
    index_free(&s->index);
    FREE_ALL(s->usable, s->path, s->index_path, s->data_path);
    *s = (TarShard){.path = NULL};
}

/* ---- open shards ---- */

ShardCache *shard_cache_new(const IndexKeys *keys, const char *cache_dir) {
    ShardCache *c = xcalloc(1, sizeof *c);
    struct rlimit files;
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->loaded, NULL);
    c->keys = keys;
    c->cache_dir = cache_dir;
    c->open_max = OPEN_MAX_SHARDS;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur / 2 < c->open_max)
        c->open_max = size_max(1, files.rlim_cur / 2);
    c->open = xcalloc(c->open_max + 1, sizeof *c->open);
    return c;
}

void shard_cache_free(ShardCache *c) {
    if (!c) return;
    for (size_t i = 0; i < FRAMES; i++) free(c->frames[i].bytes);
    pthread_mutex_destroy(&c->lock);
    pthread_cond_destroy(&c->loaded);
    FREE_ALL(c->open, c);
}

static size_t shard_bytes(const TarShard *s) {
    return index_memory(&s->index) + s->h.usable * sizeof *s->usable;
}

/* Closes unused shards, least recently used first, until there is room for one more. If all are in
 * use, `open` grows past its bound instead. */
static void make_room(ShardCache *c, size_t bytes) {
    while (c->open_count >= c->open_max || (c->open_count && c->bytes + bytes > OPEN_MAX_BYTES)) {
        size_t oldest = c->open_count;
        for (size_t i = 0; i < c->open_count; i++)
            if (c->open[i]->refs == 0 &&
                (oldest == c->open_count || c->open[i]->used < c->open[oldest]->used))
                oldest = i;
        if (oldest == c->open_count) break;
        TarShard *s = c->open[oldest];
        c->bytes -= shard_bytes(s);
        c->open[oldest] = c->open[--c->open_count];
        file_close(s->file);
        s->file = NULL;
        index_free(&s->index);
        free(s->usable);
        s->usable = NULL;
    }
    if (c->open_count >= c->open_max) {
        c->open_max *= 2;
        c->open = xrealloc(c->open, size_mul(c->open_max + 1, sizeof *c->open));
    }
}

/* Rebuilds the index from the shard if its file has become unreadable; the samples must be the
 * same. */
static bool load_index(ShardCache *c, const TarShard *s, Index *ix, Error *err) {
    FileStamp now;
    Error why;
    if (!file_stamp(s->path, &now, err)) return false;
    if (!index_fresh(&s->h, &now))
        return error_set(err, "%s has changed since it was opened", s->path);
    if (!s->index_path || !index_read(ix, s->index_path, &why)) {
        if (s->h.flags & INDEX_COPY) return error_set(err, "%s", why.text);
        if (s->index_path) log_warn("%s: the shard is indexed again", why.text);
        if (!index_build(ix, s->path, c->keys, err)) {
            index_free(ix);
            return false;
        }
    }
    index_count(ix, c->keys);
    if (ix->h.usable == s->h.usable) return true;
    index_free(ix);
    return error_set(err, "%s: its index has changed since it was opened", s->path);
}

static uint32_t *list_usable(const Index *ix, const IndexKeys *k) {
    uint32_t *list = xmalloc(size_mul(ix->h.usable, sizeof *list));
    size_t n = 0;
    IndexPick p;
    for (size_t i = 0; i < ix->h.samples; i++)
        if (index_pick(ix, k, i, &p)) list[n++] = (uint32_t)i;
    return list;
}

bool shard_cache_acquire(ShardCache *c, TarShard *s, Error *err) {
    pthread_mutex_lock(&c->lock);
    if (!s->file) {
        pthread_mutex_unlock(&c->lock);
        Index ix;
        if (!load_index(c, s, &ix, err)) return false;
        uint32_t *usable = list_usable(&ix, c->keys);
        File *file = file_open(s->data_path, err);
        if (!file) {
            index_free(&ix);
            free(usable);
            return false;
        }
        pthread_mutex_lock(&c->lock);
        if (!s->file) {
            make_room(c, index_memory(&ix));
            s->file = file;
            s->index = ix;
            s->usable = usable;
            c->open[c->open_count++] = s;
            c->bytes += shard_bytes(s);
        } else { /* another thread was faster */
            file_close(file);
            index_free(&ix);
            free(usable);
        }
    }
    s->refs++;
    s->used = ++c->clock;
    pthread_mutex_unlock(&c->lock);
    return true;
}

void shard_cache_release(ShardCache *c, TarShard *s) {
    pthread_mutex_lock(&c->lock);
    s->refs--;
    pthread_mutex_unlock(&c->lock);
}

/* ---- frames ---- */

/* The entry of the frame at `at`, else the least recently used one (emptied); NULL: all in use.
 * *hit: true if it is that frame. */
static Frame *find_frame(ShardCache *c, const TarShard *s, uint64_t at, bool *hit) {
    Frame *oldest = NULL;
    *hit = false;
    for (size_t i = 0; i < FRAMES; i++) {
        Frame *f = &c->frames[i];
        if (f->shard == s && f->at == at) {
            *hit = true;
            return f;
        }
        if (f->refs == 0 && (!oldest || f->used < oldest->used)) oldest = f;
    }
    if (oldest) {
        free(oldest->bytes);
        *oldest = (Frame){.shard = NULL};
    }
    return oldest;
}

/* Frame i of s, decompressed, held until frame_release. */
static Frame *frame_acquire(ShardCache *c, TarShard *s, size_t i, Error *err) {
    StreamFrame from = s->index.frames[i], to = s->index.frames[i + 1];
    bool hit;
    Frame *f;
    pthread_mutex_lock(&c->lock);
    while (!(f = find_frame(c, s, from.at, &hit))) pthread_cond_wait(&c->loaded, &c->lock);
    f->refs++;
    f->used = ++c->clock;
    if (hit) {
        while (f->loading) pthread_cond_wait(&c->loaded, &c->lock);
    } else {
        *f = (Frame){.shard = s, .at = from.at, .refs = 1, .used = f->used, .loading = true};
        pthread_mutex_unlock(&c->lock);
        f->bytes = xmalloc((size_t)(to.raw - from.raw));
        bool ok = frame_read(s->file, from, to, f->bytes, err);
        pthread_mutex_lock(&c->lock);
        f->loading = false;
        f->failed = !ok;
        pthread_cond_broadcast(&c->loaded);
    }
    bool failed = f->failed;
    if (failed) {
        if (hit) error_set(err, "damaged zstd frame at byte %llu", (unsigned long long)from.at);
        f->refs--;
    }
    pthread_mutex_unlock(&c->lock);
    return failed ? NULL : f;
}

static void frame_release(ShardCache *c, Frame *f) {
    pthread_mutex_lock(&c->lock);
    f->refs--;
    pthread_cond_broadcast(&c->loaded);
    pthread_mutex_unlock(&c->lock);
}

/* The frame that holds `offset`: the last one that begins at or before it. */
static size_t frame_of(const Index *ix, uint64_t offset) {
    return LAST_WHERE(i, ix->h.frames, ix->frames[i].raw <= offset);
}

bool shard_cache_read(ShardCache *c, TarShard *s, uint64_t offset, uint8_t *out, size_t n,
                      Error *err) {
    const Index *ix = &s->index;
    if (!ix->h.frames) return file_read(s->file, out, n, offset, err);
    for (size_t i = frame_of(ix, offset); n > 0; i++) {
        assert(i < ix->h.frames);
        Frame *f = frame_acquire(c, s, i, err);
        if (!f) return false;
        size_t begin = (size_t)(offset - ix->frames[i].raw);
        size_t some = size_min(n, (size_t)(ix->frames[i + 1].raw - offset));
        memcpy(out, f->bytes + begin, some);
        frame_release(c, f);
        offset += some;
        out += some;
        n -= some;
    }
    return true;
}
