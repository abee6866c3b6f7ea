#include "data/io/writer.h"
#include "data/io/folder.h"

#include <errno.h>
#include <libgen.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zstd.h>

enum { LEVEL = 3 }; /* images do not compress; captions do at any level */

struct Writer {
    Writer *next; /* of `unfinished` */
    char *path, *beside;
    int fd, level;
    uint64_t tell, written;
    size_t frame_bytes;
    uint8_t *buffer, *packed; /* the current frame; its compressed form */
    size_t held, capacity, packed_capacity;
    StreamFrame *frames;
    size_t count;
};

/* Their files are removed if the program exits with an error. */
static struct {
    pthread_mutex_t lock;
    Writer *first;
    bool watched;
} unfinished = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void remove_unfinished(void) {
    pthread_mutex_lock(&unfinished.lock);
    for (const Writer *w = unfinished.first; w; w = w->next) unlink(w->beside);
    pthread_mutex_unlock(&unfinished.lock);
}

static void watch(Writer *w) {
    pthread_mutex_lock(&unfinished.lock);
    if (!unfinished.watched) unfinished.watched = at_every_exit(remove_unfinished);
    w->next = unfinished.first;
    unfinished.first = w;
    pthread_mutex_unlock(&unfinished.lock);
}

static void forget(const Writer *w) {
    pthread_mutex_lock(&unfinished.lock);
    Writer **at = &unfinished.first;
    while (*at && *at != w) at = &(*at)->next;
    if (*at) *at = w->next;
    pthread_mutex_unlock(&unfinished.lock);
}

static void writer_free(Writer *w) {
    if (w->fd >= 0) close(w->fd);
    FREE_ALL(w->path, w->beside, w->buffer, w->packed, w->frames, w);
}

Writer *writer_open(const char *path, size_t frame_bytes, Error *err) {
    Writer *w = xcalloc(1, sizeof *w);
    w->level = LEVEL;
    w->path = xstrdup(path);
    w->beside = file_temporary(path);
    w->frame_bytes = frame_bytes;
    w->fd = file_create(w->beside);
    if (w->fd < 0) {
        error_set(err, "cannot write %s: %s", w->beside, strerror(errno));
        writer_free(w);
        return NULL;
    }
    watch(w);
    return w;
}

void writer_level(Writer *w, int level) { w->level = level; }

static bool write_all(Writer *w, const void *bytes, size_t size, Error *err) {
    w->written += size;
    return file_write_fd(w->fd, bytes, size) ||
           error_set(err, "cannot write %s: %s", w->beside, strerror(errno));
}

static void add_frame(Writer *w) {
    if (w->count % 256 == 0)
        w->frames = xrealloc(w->frames, size_mul(w->count + 256, sizeof *w->frames));
    w->frames[w->count++] = (StreamFrame){w->written, w->tell - w->held};
}

static bool end_frame(Writer *w, Error *err) {
    if (w->held == 0) return true;
    add_frame(w);
    size_t bound = ZSTD_compressBound(w->held);
    if (bound > w->packed_capacity) {
        free(w->packed);
        w->packed = xmalloc(bound);
        w->packed_capacity = bound;
    }
    size_t n = ZSTD_compress(w->packed, w->packed_capacity, w->buffer, w->held, w->level);
    if (ZSTD_isError(n)) die("zstd cannot compress: %s", ZSTD_getErrorName(n));
    w->held = 0;
    return write_all(w, w->packed, n, err);
}

bool writer_put(Writer *w, const void *bytes, size_t n, Error *err) {
    w->tell += n;
    if (!w->frame_bytes) return write_all(w, bytes, n, err);
    if (w->held + n > w->capacity) {
        w->capacity = size_max(size_add(w->held, n), w->capacity * 2);
        w->buffer = xrealloc(w->buffer, w->capacity);
    }
    memcpy(w->buffer + w->held, bytes, n);
    w->held += n;
    return true;
}

bool writer_border(Writer *w, Error *err) {
    return w->held < w->frame_bytes || !w->frame_bytes || end_frame(w, err);
}

uint64_t writer_tell(const Writer *w) { return w->tell; }

bool writer_commit(Writer *w, StreamFrame **frames, size_t *count, Error *err) {
    bool ok = end_frame(w, err);
    if (ok && w->frame_bytes) add_frame(w);
    if (ok && fsync(w->fd) != 0)
        ok = error_set(err, "cannot write %s: %s", w->beside, strerror(errno));
    if (ok && rename(w->beside, w->path) != 0)
        ok = error_set(err, "cannot rename %s to %s: %s", w->beside, w->path, strerror(errno));
    if (!ok) {
        writer_abort(w);
        return false;
    }
    forget(w);
    char *folder = xstrdup(w->path);
    folder_sync(dirname(folder)); /* makes the rename durable; not all file systems support it */
    free(folder);
    if (frames) {
        *count = w->count ? w->count - 1 : 0;
        *frames = w->frames;
        w->frames = NULL;
    }
    writer_free(w);
    return true;
}

void writer_abort(Writer *w) {
    forget(w);
    unlink(w->beside);
    writer_free(w);
}

bool file_write_atomic(const char *path, const void *bytes, size_t size, Error *err) {
    Writer *w = writer_open(path, 0, err);
    if (!w) return false;
    if (!writer_put(w, bytes, size, err)) {
        writer_abort(w);
        return false;
    }
    return writer_commit(w, NULL, NULL, err);
}
