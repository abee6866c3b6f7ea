#include "data/spool.h"
#include "data/dataset.h"
#include "data/io/file.h"
#include "data/tar.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { CHUNK = 1 << 16, SHOWN = 24 };

/* The start of a stream that is no tar. If its command failed, that explains more. */
static bool refuse(const uint8_t *start, size_t n, Pipe *pipe, Error *err) {
    if (n < CHUNK && !pipe_finish(pipe, err)) return false;
    return error_set(err, "no tar and no tar.zst: it begins with \"%.*s\"", (int)size_min(n, SHOWN),
                     (const char *)start);
}

static bool within_limit(const SourceContext *c, size_t n, Error *err) {
    double limit = c->options->spool_gib;
    return (double)(atomic_fetch_add(c->spooled, n) + n) <= limit * (1 << 30) ||
           error_set(err, "more than the %g GiB of --spool-limit, the streams before it included",
                     limit);
}

static bool copy_stream(Stream *s, Pipe *pipe, const SourceContext *c, int fd, Error *err) {
    uint8_t *bytes = xmalloc(CHUNK);
    size_t got;
    bool ok = stream_read(s, bytes, CHUNK, &got, err) &&
              (tar_begins(bytes, got) || refuse(bytes, got, pipe, err));
    while (ok && got > 0)
        ok = within_limit(c, got, err) &&
             (file_write_fd(fd, bytes, got) || error_set(err, "cannot write into %.200s: %s",
                                                         c->options->cache_dir, strerror(errno))) &&
             stream_read(s, bytes, CHUNK, &got, err);
    free(bytes);
    return ok;
}

int spool_stream(const Source *source, const char *path, const SourceContext *c, Error *err) {
    Pipe *pipe;
    Error why;
    int fd = file_unnamed(c->options->cache_dir, err);
    if (fd < 0) return -1;
    Stream *stream = source->stream(path, c->options->pipe_seconds, NULL, &pipe, err);
    if (!stream) {
        close(fd);
        return -1;
    }
    bool ok = copy_stream(stream, pipe, c, fd, &why) && pipe_finish(pipe, &why);
    stream_close(stream);
    pipe_close(pipe);
    if (ok) return fd;
    close(fd);
    error_set(err, "%s: %s", path, why.text);
    return -1;
}
