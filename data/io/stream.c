#include "data/io/stream.h"

#include <stdlib.h>
#include <string.h>
#include <zstd.h>

enum { BUFFER = 32 * 1024 };

struct Stream {
    File *file;
    StreamSource source; /* instead of a file */
    void *context;
    uint64_t size;    /* of the file; of a source UINT64_MAX until it has ended */
    uint64_t file_at; /* file offset of the end of `buffer` */
    uint64_t tell;
    uint8_t *buffer;
    size_t begin, end; /* unread bytes of buffer */
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

/* Refills an empty buffer; end == begin afterwards: end of the file. */
static bool refill(Stream *s, Error *err) {
    if (s->source) return refill_source(s, err);
    size_t n = (size_t)(s->size - s->file_at < BUFFER ? s->size - s->file_at : BUFFER);
    if (!file_read(s->file, s->buffer, n, s->file_at, err)) return false;
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

static Stream *stream_of_file(File *f, Error *err) {
    return stream_new((Stream){.file = f, .size = file_size(f)}, err);
}

Stream *stream_open(const char *path, Error *err) {
    File *f = file_open(path, err);
    return f ? stream_of_file(f, err) : NULL;
}

Stream *stream_open_memory(const uint8_t *bytes, size_t size) {
    Error none;
    return stream_of_file(file_open_memory(bytes, size), &none);
}

Stream *stream_open_source(StreamSource read, void *context, Error *err) {
    return stream_new((Stream){.source = read, .context = context, .size = UINT64_MAX}, err);
}

static void add_frame(Stream *s) {
    if (s->frame_count == s->frame_capacity) {
        s->frame_capacity = size_max(64, s->frame_capacity * 2);
        s->frames = xrealloc(s->frames, size_mul(s->frame_capacity, sizeof *s->frames));
    }
    uint64_t at = s->file_at - (s->end - s->begin);
    /* a skippable frame holds no data: the next frame has the same decompressed offset */
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
    file_close(s->file);
    ZSTD_freeDCtx(s->zstd);
    FREE_ALL(s->buffer, s->frames, s);
}

bool frame_read(const File *f, StreamFrame from, StreamFrame to, uint8_t *out, Error *err) {
    size_t packed = (size_t)(to.at - from.at), raw = (size_t)(to.raw - from.raw);
    uint8_t *bytes = xmalloc(packed);
    bool ok = file_read(f, bytes, packed, from.at, err);
    if (ok) {
        size_t got = ZSTD_decompress(out, raw, bytes, packed);
        if (ZSTD_isError(got) || got != raw)
            ok = error_set(err, "damaged zstd frame at byte %llu: %s", (unsigned long long)from.at,
                           ZSTD_isError(got) ? ZSTD_getErrorName(got) : "another size");
    }
    free(bytes);
    return ok;
}
