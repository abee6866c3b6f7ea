#include "data/tarstream.h"
#include "data/index.h"
#include "data/io/pipe.h"
#include "data/tar.h"
#include "kernels/rng.h"
#include "data/io/utf8.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum {
    MEMBERS_MAX = 1024,    /* of one sample */
    DRAIN_MAX = 256 << 20, /* bytes that may follow the archive's end */
};

/* A member that is kept. */
typedef struct Member {
    char *extension, *bytes;
    size_t size;
    bool kept;
} Member;

struct TarStream {
    char *name, *short_name; /* of the source */
    uint64_t number;
    TarStreamOptions o;
    Pipe *pipe; /* NULL: a file */
    Stream *stream;
    TarReader *tar;
    bool pending;      /* tar is at a member of the next sample */
    bool over, closed; /* nothing is left; the end was reported */
    bool damaged;
    Error damage;
    uint64_t samples;
    Member members[MEMBERS_MAX]; /* of the sample being assembled */
    size_t count;
    char *key;
    size_t image_rank; /* index of its image's extension in image_keys */
    uint8_t *image;
    size_t image_size;
};

void stream_sample_release(StreamSample *s) {
    if (!s || atomic_fetch_sub(&s->refs, 1) > 1) return;
    sample_free(&s->s);
    free(s);
}

TarStream *tarstream_open(const SourceItem *item, size_t number, const TarStreamOptions *o,
                          Error *err) {
    TarStream *t = xcalloc(1, sizeof *t);
    t->name = xstrdup(item->source == &source_stdin ? "standard input" : item->path);
    t->short_name = source_short_name(t->name);
    t->number = number;
    t->o = *o;
    t->stream = item->source->stream(item->path, o->seconds, o->stop, &t->pipe, err);
    if (t->stream) {
        t->tar = xmalloc(sizeof *t->tar);
        tar_reader_init(t->tar, t->stream);
        return t;
    }
    tarstream_close(t);
    return NULL;
}

static void forget_members(TarStream *t) {
    for (size_t i = 0; i < t->count; i++) {
        FREE_ALL(t->members[i].extension, t->members[i].bytes);
    }
    t->count = 0;
    FREE_ALL(t->key, t->image);
    t->key = NULL;
    t->image = NULL;
    t->image_size = 0;
}

void tarstream_close(TarStream *t) {
    if (!t) return;
    forget_members(t);
    stream_close(t->stream);
    pipe_close(t->pipe);
    FREE_ALL(t->tar, t->name, t->short_name, t);
}

/* ---- members → a sample ---- */

/* Index of an extension in a list of image keys; SIZE_MAX: absent. */
static size_t rank_of(const char *keys, const char *extension) {
    size_t length = strlen(extension), rank = 0;
    for (; *keys; rank++) {
        size_t n = strcspn(keys, ";");
        if (n == length && strncasecmp(keys, extension, n) == 0) return rank;
        keys += n + (keys[n] == ';');
    }
    return SIZE_MAX;
}

static bool is_text(const TarStream *t, const char *extension) {
    if (strcasecmp(extension, "cls") == 0) return true;
    for (size_t i = 0; i < t->o.captions->count; i++)
        if (strcasecmp(t->o.captions->keys[i].extension, extension) == 0) return true;
    return false;
}

/* Returns true if the tar's current member belongs to the sample being assembled. */
static bool belongs(const TarStream *t, size_t key_size) {
    const char *name = t->tar->name;
    if (!t->key) return true;
    if (strlen(t->key) != key_size || memcmp(t->key, name, key_size) != 0) return false;
    for (size_t i = 0; i < t->count; i++)
        if (strcasecmp(t->members[i].extension, name + key_size + 1) == 0) return false;
    return true;
}

/* Reads the whole current member and appends a NUL; memory grows with the bytes that arrive. */
static bool read_all(TarStream *t, char **bytes, Error *err) {
    size_t size = (size_t)t->tar->size, have = 0, room = 0, got;
    *bytes = NULL;
    do {
        if (have == room) {
            room = size_min(size, size_max(1 << 20, room * 2));
            *bytes = xrealloc(*bytes, room + 1);
        }
        if (!tar_read(t->tar, *bytes + have, room - have, &got, err)) return false;
        have += got;
    } while (have < size);
    (*bytes)[have] = 0;
    return true;
}

static bool take_member(TarStream *t, size_t key_size, Error *err) {
    const char *name = t->tar->name, *extension = name + key_size + 1;
    if (!t->key) t->key = xasprintf("%.*s", (int)key_size, name);
    if (t->count == MEMBERS_MAX)
        return error_set(err, "more than %d members of %s", MEMBERS_MAX, t->key);
    Member *m = &t->members[t->count++];
    *m = (Member){.extension = xstrdup(extension)};
    size_t rank = rank_of(t->o.image_keys, extension);
    bool image = rank != SIZE_MAX && (!t->image_size || rank < t->image_rank);
    uint64_t limit = image ? SAMPLE_IMAGE_MAX : SAMPLE_TEXT_MAX;
    if ((!image && !is_text(t, extension)) || t->tar->size == 0 || t->tar->size > limit)
        return true;
    if (!read_all(t, &m->bytes, err)) return false;
    if (image) {
        free(t->image);
        t->image = (uint8_t *)m->bytes;
        t->image_size = (size_t)t->tar->size;
        t->image_rank = rank;
        m->bytes = NULL;
    } else {
        m->size = (size_t)t->tar->size;
        m->kept = true;
    }
    return true;
}

static int read_text(void *context, const char *extension, const char **bytes, size_t *n,
                     Error *err) {
    (void)err;
    const TarStream *t = context;
    for (size_t i = 0; i < t->count; i++) {
        const Member *m = &t->members[i];
        if (!m->kept || strcasecmp(m->extension, extension) != 0) continue;
        *bytes = m->bytes;
        *n = m->size;
        return 1;
    }
    return 0;
}

/* Returns true if any member could hold a caption; an index gives the same answer. */
static bool has_caption(TarStream *t) {
    const CaptionKeys *k = t->o.captions;
    const char *bytes;
    size_t n;
    for (size_t i = 0; i < k->count; i++)
        if (read_text(t, k->keys[i].extension, &bytes, &n, NULL) && !text_is_blank(bytes, n))
            return true;
    return k->count == 0;
}

/* The assembled sample, or NULL if it is not usable. */
static StreamSample *finish_sample(TarStream *t, const uint64_t *seed) {
    StreamSample *out = NULL;
    const char *digits;
    size_t n;
    if (t->image_size && has_caption(t)) {
        out = xcalloc(1, sizeof *out);
        out->refs = 1;
        out->number = t->number << 32 | t->samples++;
        out->s = (Sample){.image = t->image,
                          .image_size = t->image_size,
                          .image_capacity = t->image_size,
                          .label = -1};
        t->image = NULL;
        out->s.key = xasprintf("%s:%s", t->short_name, t->key);
        uint64_t draw = seed ? rng_u64(rng_mix(*seed, out->number), RNG_CAPTION, 0) : 0;
        Error why;
        sample_set_text(&out->s, "", 0);
        if (t->o.captions->count)
            out->bad = !captions_take(&out->s, t->o.captions, t->o.pick, seed ? &draw : NULL,
                                      read_text, t, &why);
        if (!out->bad && read_text(t, "cls", &digits, &n, NULL))
            out->bad = !sample_set_label(&out->s, digits, n, &why);
        if (out->bad) error_set(&out->why, "%s: %s", out->s.key, why.text);
    }
    forget_members(t);
    return out;
}

/* ---- the end ---- */

/* Reads the bytes after the archive's end, so that a command is not stopped while it writes. */
static bool drain(TarStream *t, Error *err) {
    uint8_t scratch[16384];
    size_t got = 1;
    for (size_t all = 0; got > 0 && all < DRAIN_MAX; all += got)
        if (!pipe_read(t->pipe, scratch, sizeof scratch, &got, err)) return false;
    return got == 0 || error_set(err, "more than %d MiB behind the archive's end", DRAIN_MAX >> 20);
}

/* damage: the tar's error, or NULL. A failure of the command takes precedence, as it explains
 * more. */
static TarStreamStatus finish_stream(TarStream *t, const Error *damage, Error *err) {
    Error why = {""};
    bool ok = !t->pipe || (damage ? true : drain(t, &why));
    bool stopped = t->o.stop && atomic_load(t->o.stop);
    if (ok && t->pipe && !stopped) {
        bool eof = true;
        if (damage) { /* if its output has ended too, its exit status is the cause */
            Error ignored;
            size_t got;
            uint8_t byte;
            eof = pipe_read(t->pipe, &byte, 1, &got, &ignored) && got == 0;
        }
        ok = !eof || pipe_finish(t->pipe, &why);
    }
    if (ok && damage) why = *damage;
    if (ok && !damage) return TARSTREAM_END;
    error_set(err, "%s: %s%s%s%s, after %llu samples", t->name, why.text, !ok && damage ? " (" : "",
              !ok && damage ? damage->text : "", !ok && damage ? ")" : "",
              (unsigned long long)t->samples);
    return TARSTREAM_FAILED;
}

/* Advances to the first member of another sample; false at the archive's end or damage. */
static bool gather(TarStream *t) {
    for (;;) {
        size_t key_size;
        if (!t->pending) {
            TarStatus status = tar_next(t->tar, &t->damage);
            t->damaged = status == TAR_BAD;
            if (status != TAR_FILE) return false;
        }
        t->pending = false;
        if (!member_split(t->tar->name, &key_size)) continue;
        t->pending = !belongs(t, key_size);
        if (t->pending) return true;
        if (!take_member(t, key_size, &t->damage)) {
            t->damaged = true;
            return false;
        }
    }
}

TarStreamStatus tarstream_next(TarStream *t, const uint64_t *seed, StreamSample **out, Error *err) {
    while (!t->over) {
        t->over = !gather(t);
        *out = finish_sample(t, seed); /* complete members before a cut are used */
        if (*out) return TARSTREAM_SAMPLE;
    }
    *out = NULL;
    if (t->closed) return TARSTREAM_END;
    t->closed = true;
    return finish_stream(t, t->damaged ? &t->damage : NULL, err);
}
