#include "data/io/stream.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zstd.h>

enum { BUFFER = 32 * 1024 };

struct Stream {
    int fd;                /* -1: memory */
    const uint8_t *memory; /* the whole, or NULL */
    StreamSource source;   /* or what is read on */
    void *context;
    uint64_t size;    /* of the file or memory; of a source UINT64_MAX until it has ended */
    uint64_t file_at; /* file offset of the end of `buffer` */
    uint64_t tell;
    uint8_t *buffer;
    size_t begin, end; /* bytes of buffer not used yet */
    ZSTD_DCtx *zstd;   /* NULL: plain */
    bool in_frame, ended;
    StreamFrame *frames;
    size_t frame_count, frame_capacity;
};

static bool is_zstd(const uint8_t *b, size_t n) {
    if (n < 4) return false;
    uint32_t magic =
        (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
    return magic == ZSTD_MAGICNUMBER ||
           (magic & ZSTD_MAGIC_SKIPPABLE_MASK) == ZSTD_MAGIC_SKIPPABLE_START;
}

static bool refill_source(Stream *s, Error *err) {
    s->begin = s->end = 0;
    while (s->end < BUFFER && s->file_at < s->size) {
        size_t got;
        if (!s->source(s->context, s->buffer + s->end, BUFFER - s->end, &got, err)) return false;
        s->end += got;
        s->file_at += got;
        if (got == 0) s->size = s->file_at;
    }
    return true;
}

/* Refills an empty buffer; end == begin afterwards means the end of the file. */
static bool refill(Stream *s, Error *err) {
    if (s->source) return refill_source(s, err);
    size_t n = (size_t)(s->size - s->file_at < BUFFER ? s->size - s->file_at : BUFFER);
    if (s->memory)
        memcpy(s->buffer, s->memory + s->file_at, n);
    else if (!file_pread(s->fd, s->buffer, n, s->file_at, err))
        return false;
    s->file_at += n;
    s->begin = 0;
    s->end = n;
    return true;
}

static Stream *stream_new(Stream from, Error *err) {
    Stream *s = xcalloc(1, sizeof *s);
    *s = from;
    s->buffer = xmalloc(BUFFER);
    if (!refill(s, err)) {
        stream_close(s);
        return NULL;
    }
    if (is_zstd(s->buffer, s->end)) {
        s->zstd = ZSTD_createDCtx();
        if (!s->zstd) die("out of memory: no room for a zstd decoder");
    }
    return s;
}

Stream *stream_open(const char *path, Error *err) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat st;
    if (fd < 0) {
        error_set(err, "%s: %s", path, strerror(errno));
        return NULL;
    }
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
        error_set(err, "%s: not a regular file", path);
        close(fd);
        return NULL;
    }
    return stream_new((Stream){.fd = fd, .size = (uint64_t)st.st_size}, err);
}

Stream *stream_open_source(StreamSource read, void *context, Error *err) {
    return stream_new((Stream){.fd = -1, .source = read, .context = context, .size = UINT64_MAX},
                      err);
}

Stream *stream_open_memory(const uint8_t *bytes, size_t size) {
    static const uint8_t nothing[1];
    Error err;
    return stream_new((Stream){.fd = -1, .memory = bytes ? bytes : nothing, .size = size}, &err);
}

static void add_frame(Stream *s) {
    if (s->frame_count == s->frame_capacity) {
        s->frame_capacity = size_max(64, s->frame_capacity * 2);
        s->frames = xrealloc(s->frames, size_mul(s->frame_capacity, sizeof *s->frames));
    }
    uint64_t at = s->file_at - (s->end - s->begin);
    /* a skippable frame holds nothing: the next one begins where it does */
    if (s->frame_count && s->frames[s->frame_count - 1].raw == s->tell) return;
    s->frames[s->frame_count++] = (StreamFrame){at, s->tell};
}

/* Decompresses up to n bytes into out; *got = 0 only at the end. */
static bool zstd_some(Stream *s, void *out, size_t n, size_t *got, Error *err) {
    *got = 0;
    while (*got == 0 && n > 0 && !s->ended) {
        if (s->begin == s->end && s->file_at < s->size && !refill(s, err)) return false;
        if (!s->in_frame) {
            add_frame(s);
            if (s->begin == s->end) { /* the entry just added is the one past the last */
                s->ended = true;
                return true;
            }
            s->in_frame = true;
        }
        ZSTD_inBuffer in = {s->buffer, s->end, s->begin};
        ZSTD_outBuffer to = {out, n, 0};
        size_t left = ZSTD_decompressStream(s->zstd, &to, &in);
        if (ZSTD_isError(left))
            return error_set(err, "damaged zstd data near byte %llu: %s",
                             (unsigned long long)s->file_at, ZSTD_getErrorName(left));
        bool stuck = in.pos == s->begin && to.pos == 0;
        s->begin = in.pos;
        *got = to.pos;
        s->tell += to.pos;
        if (left == 0) s->in_frame = false;
        if (left != 0 && stuck && s->file_at == s->size)
            return error_set(err, "zstd data cut at byte %llu", (unsigned long long)s->size);
    }
    return true;
}

static bool plain_some(Stream *s, void *out, size_t n, size_t *got, Error *err) {
    if (s->begin == s->end && !refill(s, err)) return false;
    *got = size_min(n, s->end - s->begin);
    memcpy(out, s->buffer + s->begin, *got);
    s->begin += *got;
    s->tell += *got;
    return true;
}

bool stream_read(Stream *s, void *out, size_t n, size_t *got, Error *err) {
    *got = 0;
    while (*got < n) {
        size_t some = 0;
        uint8_t *to = (uint8_t *)out + *got;
        if (!(s->zstd ? zstd_some(s, to, n - *got, &some, err)
                      : plain_some(s, to, n - *got, &some, err)))
            return false;
        if (some == 0) return true;
        *got += some;
    }
    return true;
}

bool stream_skip(Stream *s, uint64_t n, Error *err) {
    if (!s->zstd && !s->source) {
        if (n > s->size - s->tell)
            return error_set(err, "cut at byte %llu", (unsigned long long)s->size);
        s->tell += n;
        size_t held = s->end - s->begin;
        if (n <= held)
            s->begin += (size_t)n;
        else {
            s->file_at += n - held;
            s->begin = s->end = 0;
        }
        return true;
    }
    uint8_t scratch[8192];
    while (n > 0) {
        size_t got, want = n < sizeof scratch ? (size_t)n : sizeof scratch;
        if (!stream_read(s, scratch, want, &got, err)) return false;
        if (got < want)
            return error_set(err, "cut at byte %llu%s", (unsigned long long)s->tell,
                             s->zstd ? " of the decompressed data" : "");
        n -= got;
    }
    return true;
}

uint64_t stream_tell(const Stream *s) { return s->tell; }

size_t stream_frames(const Stream *s, const StreamFrame **frames) {
    *frames = s->frames;
    return s->frame_count ? s->frame_count - 1 : 0;
}

void stream_close(Stream *s) {
    if (!s) return;
    if (s->fd >= 0) close(s->fd);
    ZSTD_freeDCtx(s->zstd);
    free(s->buffer);
    free(s->frames);
    free(s);
}

bool file_pread(int fd, void *out, size_t n, uint64_t offset, Error *err) {
    uint8_t *to = out;
    while (n > 0) {
        ssize_t got = pread(fd, to, n, (off_t)offset);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return error_set(err, "cannot read: %s", strerror(errno));
        if (got == 0) return error_set(err, "cut at byte %llu", (unsigned long long)offset);
        to += got;
        n -= (size_t)got;
        offset += (uint64_t)got;
    }
    return true;
}

bool frame_read(int fd, StreamFrame from, StreamFrame to, uint8_t *out, Error *err) {
    size_t packed = (size_t)(to.at - from.at), raw = (size_t)(to.raw - from.raw);
    uint8_t *bytes = xmalloc(packed);
    bool ok = file_pread(fd, bytes, packed, from.at, err);
    if (ok) {
        size_t got = ZSTD_decompress(out, raw, bytes, packed);
        if (ZSTD_isError(got) || got != raw)
            ok = error_set(err, "damaged zstd frame at byte %llu: %s", (unsigned long long)from.at,
                           ZSTD_isError(got) ? ZSTD_getErrorName(got) : "another size");
    }
    free(bytes);
    return ok;
}

bool file_read_all(const char *path, uint8_t **bytes, size_t *size, size_t limit, Error *err) {
    *bytes = NULL;
    *size = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return error_set(err, "%s: %s", path, strerror(errno));
    struct stat st;
    bool ok = true;
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode))
        ok = error_set(err, "%s: not a regular file", path);
    else if ((uint64_t)st.st_size > limit)
        ok = error_set(err, "%s: %llu bytes, more than the %zu allowed", path,
                       (unsigned long long)st.st_size, limit);
    if (ok) {
        Error why;
        *size = (size_t)st.st_size;
        *bytes = xmalloc(*size + 1);
        ok = file_pread(fd, *bytes, *size, 0, &why) || error_set(err, "%s: %s", path, why.text);
        (*bytes)[*size] = 0;
        if (!ok) {
            free(*bytes);
            *bytes = NULL;
        }
    }
    close(fd);
    return ok;
}
