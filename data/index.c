#include "data/index.h"
#include "data/io/utf8.h"
#include "data/io/writer.h"
#include "data/tar.h"
#include "kernels/hash.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* The file, little-endian: a header of 104 bytes
 *   0 "clipcidx"   8 u32 version 1   12 u32 flags   16 u64 shard size   24 i64 mtime seconds
 *  32 u32 mtime nanoseconds   36 u32 0   40 u64 samples   48 u64 members   56 u64 frames
 *  64 u64 string bytes   72 u64 usable   80 u64 keys   88 u64 FNV-1a of the body   96 u64 FNV-1a of
 *     bytes 0 … 95
 * then the body: frames (+1 when there are any) of u64 at, u64 raw; samples + 1 of u32 key, u32
 * first member; members of u64 offset, u64 size, u32 extension, u32 flags; NUL-ended strings. */
enum { HEADER = 104, VERSION = 1, FRAME = 16, SAMPLE = 8, MEMBER = 24 };
static const char MAGIC[8] = "clipcidx";
/* Limits of one shard; they bound the memory that a hostile shard can use. */
enum { MEMBERS_MAX = 1 << 24, STRINGS_MAX = 1 << 29 };

static void put32(uint8_t *b, uint32_t v) {
    for (int i = 0; i < 4; i++) b[i] = (uint8_t)(v >> 8 * i);
}
static void put64(uint8_t *b, uint64_t v) {
    put32(b, (uint32_t)v);
    put32(b + 4, (uint32_t)(v >> 32));
}
static uint32_t get32(const uint8_t *b) {
    return (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
}
static uint64_t get64(const uint8_t *b) { return get32(b) | (uint64_t)get32(b + 4) << 32; }

/* ---- which members ---- */

IndexKeys index_keys_new(const char *images, const char *texts, bool json) {
    if (texts && !*texts) texts = NULL;
    IndexKeys k = {.images = xstrdup(images), .texts = texts ? xstrdup(texts) : NULL, .json = json};
    k.hash = fnv_hash(FNV_START, images, strlen(images) + 1);
    if (json)
        k.hash = fnv_hash(k.hash, "\1json", 6);
    else if (texts)
        k.hash = fnv_hash(k.hash, texts, strlen(texts) + 1);
    return k;
}

void index_keys_free(IndexKeys *k) {
    FREE_ALL(k->images, k->texts);
    *k = (IndexKeys){.images = NULL};
}

static const IndexMember *find_member(const Index *ix, size_t i, const char *extension, size_t n) {
    for (size_t m = ix->samples[i].first; m < ix->samples[i + 1].first; m++) {
        const char *e = ix->strings + ix->members[m].extension;
        if (strlen(e) == n && memcmp(e, extension, n) == 0) return &ix->members[m];
    }
    return NULL;
}

const IndexMember *index_member(const Index *ix, size_t i, const char *extension) {
    return find_member(ix, i, extension, strlen(extension));
}

/* The member of the first extension in the list that sample i has; the list ends at a comma. */
static const IndexMember *find_first(const Index *ix, size_t i, const char *list) {
    while (*list && *list != ',') {
        size_t n = strcspn(list, ";,");
        const IndexMember *m = n ? find_member(ix, i, list, n) : NULL;
        if (m) return m;
        list += n + (list[n] == ';');
    }
    return NULL;
}

/* The member of the first key that is not blank. */
static const IndexMember *find_text(const Index *ix, size_t i, const char *keys) {
    for (;; keys++) {
        const IndexMember *m = find_first(ix, i, keys);
        if (m && !(m->flags & INDEX_BLANK)) return m;
        keys += strcspn(keys, ",");
        if (!*keys) return NULL;
    }
}

bool index_pick(const Index *ix, const IndexKeys *k, size_t i, IndexPick *p) {
    *p = (IndexPick){.key = ix->strings + ix->samples[i].key};
    p->image = find_first(ix, i, k->images);
    if (!p->image || p->image->size == 0) return false;
    p->label = find_member(ix, i, "cls", 3);
    if (!k->json && !k->texts) return true;
    p->text = find_text(ix, i, k->json ? "json" : k->texts);
    return p->text != NULL;
}

void index_count(Index *ix, const IndexKeys *k) {
    IndexPick p;
    ix->h.usable = 0;
    ix->h.keys = k->hash;
    for (size_t i = 0; i < ix->h.samples; i++) ix->h.usable += index_pick(ix, k, i, &p);
}

/* ---- building ---- */

static void *grow(void *p, size_t *capacity, size_t need, size_t size) {
    if (need <= *capacity) return p;
    *capacity = size_max(need, size_max(256, *capacity * 2));
    return xrealloc(p, size_mul(*capacity, size));
}

static uint32_t add_string(Index *ix, const char *s, size_t n) {
    size_t at = ix->h.strings;
    ix->strings = grow(ix->strings, &ix->string_capacity, at + n + 1, 1);
    memcpy(ix->strings + at, s, n);
    ix->strings[at + n] = 0;
    ix->h.strings = at + n + 1;
    return (uint32_t)at;
}

/* Members of one kind share their extension's string: that of the sample before is tried first. */
static uint32_t add_extension(Index *ix, const char *s, size_t n) {
    size_t back = size_min(ix->h.members, 32);
    for (size_t i = 1; i <= back; i++) {
        uint32_t at = ix->members[ix->h.members - i].extension;
        if (strlen(ix->strings + at) == n && strncasecmp(ix->strings + at, s, n) == 0) return at;
    }
    uint32_t at = add_string(ix, s, n);
    for (size_t i = 0; i < n; i++)
        ix->strings[at + i] = (char)tolower((unsigned char)ix->strings[at + i]);
    return at;
}

bool member_split(const char *name, size_t *key_size) {
    const char *slash = strrchr(name, '/'), *base = slash ? slash + 1 : name;
    const char *dot = strchr(base, '.');
    size_t n = strlen(base);
    if (!dot || dot == base) return false; /* no extension, or a hidden file */
    *key_size = (size_t)(dot - name);
    return !(n >= 4 && memcmp(base, "__", 2) == 0 && strcmp(base + n - 2, "__") == 0);
}

bool index_add(Index *ix, const char *name, uint64_t offset, uint64_t size, uint32_t flags,
               Error *err) {
    size_t key_size, n = ix->h.samples;
    if (!member_split(name, &key_size)) return true;
    if (ix->h.members >= MEMBERS_MAX || ix->h.strings > STRINGS_MAX - 2 * strlen(name) - 2)
        return error_set(err, "more members than a shard may have: split it");

    bool same = false;
    if (n > 0) {
        const char *key = ix->strings + ix->samples[n - 1].key;
        same = strlen(key) == key_size && memcmp(key, name, key_size) == 0;
    }
    uint32_t extension = add_extension(ix, name + key_size + 1, strlen(name + key_size + 1));
    for (size_t m = same ? ix->samples[n - 1].first : 0; same && m < ix->h.members; m++)
        if (strcmp(ix->strings + ix->members[m].extension, ix->strings + extension) == 0)
            same = false;
    if (!same) {
        ix->samples = grow(ix->samples, &ix->sample_capacity, n + 2, sizeof *ix->samples);
        ix->samples[n] = (IndexSample){add_string(ix, name, key_size), (uint32_t)ix->h.members};
        ix->h.samples = n + 1;
    }
    ix->members = grow(ix->members, &ix->member_capacity, ix->h.members + 1, sizeof *ix->members);
    ix->members[ix->h.members++] = (IndexMember){offset, size, extension, flags};
    return true;
}

void index_add_frame(Index *ix, StreamFrame f) {
    /* h.frames counts entries until index_finish: the last entry only marks the end of the
     * frames */
    if (ix->h.frames % 1024 == 0)
        ix->frames = xrealloc(ix->frames, size_mul(ix->h.frames + 1024, sizeof *ix->frames));
    ix->frames[ix->h.frames++] = f;
}

void index_finish(Index *ix) {
    ix->samples = grow(ix->samples, &ix->sample_capacity, ix->h.samples + 1, sizeof *ix->samples);
    ix->samples[ix->h.samples] = (IndexSample){0, (uint32_t)ix->h.members};
    ix->strings = grow(ix->strings, &ix->string_capacity, ix->h.strings + 1, 1);
    if (ix->h.strings == 0) add_string(ix, "", 0);
    if (ix->h.frames) {
        ix->h.frames--;
        ix->h.flags |= INDEX_ZSTD;
    }
}

/* Returns true if the current member is blank; reads no further than needed. */
static bool member_is_blank(TarReader *t, bool *blank, Error *err) {
    char some[256];
    size_t got;
    do {
        if (!tar_read(t, some, sizeof some, &got, err)) return false;
        *blank = text_is_blank(some, got);
    } while (*blank && got == sizeof some);
    return true;
}

/* Members that end after the last whole frame cannot be read. They are dropped, and so are samples
 * left without members. */
static void drop_unframed(Index *ix) {
    uint64_t end = ix->frames[ix->h.frames - 1].raw;
    while (ix->h.members) {
        const IndexMember *m = &ix->members[ix->h.members - 1];
        if (m->offset + m->size <= end) break;
        ix->h.members--;
    }
    while (ix->h.samples && ix->samples[ix->h.samples - 1].first >= ix->h.members) ix->h.samples--;
}

bool index_scan(Index *ix, Stream *s, Error *err) {
    memset(ix, 0, sizeof *ix);
    err->text[0] = 0;
    TarReader *t = xmalloc(sizeof *t);
    tar_reader_init(t, s);
    TarStatus status;
    bool limit_ok = true;
    while ((status = tar_next(t, err)) == TAR_FILE) {
        bool blank = false;
        if (!member_is_blank(t, &blank, err) || !tar_finish(t, err)) {
            status = TAR_BAD;
            break;
        }
        if (!(limit_ok = index_add(ix, t->name, t->offset, t->size, blank ? INDEX_BLANK : 0, err)))
            break;
    }
    free(t);
    if (!limit_ok) return false;
    if (status == TAR_BAD) ix->h.flags |= INDEX_DAMAGED;

    /* the frame table needs the rest too */
    uint8_t *rest = xmalloc(1 << 16);
    const StreamFrame *frames;
    Error why;
    size_t got = 1;
    stream_frames(s, &frames);
    while (frames && got > 0) {
        if (!stream_read(s, rest, 1 << 16, &got, &why)) {
            if (!(ix->h.flags & INDEX_DAMAGED)) *err = why;
            ix->h.flags |= INDEX_DAMAGED;
            break;
        }
        stream_frames(s, &frames);
    }
    free(rest);
    if (frames) {
        size_t n = stream_frames(s, &frames);
        for (size_t i = 0; i <= n; i++) index_add_frame(ix, frames[i]);
        drop_unframed(ix);
    }
    index_finish(ix);
    return true;
}

bool index_fresh(const IndexHeader *h, const FileStamp *now) {
    const FileStamp *made = &h->shard;
    /* copying tools and file systems may truncate the time to whole seconds */
    bool same_fraction =
        made->mtime_nsec == now->mtime_nsec || !made->mtime_nsec || !now->mtime_nsec;
    return made->size == now->size && made->mtime_sec == now->mtime_sec && same_fraction;
}

bool index_build(Index *ix, const char *shard, const IndexKeys *k, Error *err) {
    memset(ix, 0, sizeof *ix);
    Error why;
    FileStamp stamp;
    if (!file_stamp(shard, &stamp, err)) return false;
    Stream *s = stream_open(shard, err);
    if (!s) return false;
    bool ok = index_scan(ix, s, &why);
    stream_close(s);
    ix->h.shard = stamp;
    if (!ok || ix->h.flags & INDEX_DAMAGED) error_set(err, "%s: %s", shard, why.text);
    if (ok) index_count(ix, k);
    return ok;
}

/* ---- the file ---- */

static size_t body_size(const IndexHeader *h) {
    return (size_t)((h->frames ? h->frames + 1 : 0) * FRAME + (h->samples + 1) * SAMPLE +
                    h->members * MEMBER + h->strings);
}

static void put_header(uint8_t *b, const IndexHeader *h) {
    memcpy(b, MAGIC, 8);
    put32(b + 8, VERSION);
    put32(b + 12, h->flags);
    put64(b + 16, h->shard.size);
    put64(b + 24, (uint64_t)h->shard.mtime_sec);
    put32(b + 32, h->shard.mtime_nsec);
    put32(b + 36, 0);
    const uint64_t counts[] = {h->samples, h->members, h->frames,  h->strings,
                               h->usable,  h->keys,    h->body_sum};
    for (size_t i = 0; i < COUNT(counts); i++) put64(b + 40 + 8 * i, counts[i]);
    put64(b + 96, fnv_hash(FNV_START, b, 96));
}

static bool get_header(IndexHeader *h, const uint8_t *b, size_t size, Error *err) {
    if (size < HEADER || memcmp(b, MAGIC, 8) != 0) return error_set(err, "not an index");
    if (get32(b + 8) != VERSION)
        return error_set(err, "an index of version %u, not %d", get32(b + 8), VERSION);
    if (get64(b + 96) != fnv_hash(FNV_START, b, 96))
        return error_set(err, "a damaged index header");
    h->flags = get32(b + 12);
    h->shard.size = get64(b + 16);
    h->shard.mtime_sec = (int64_t)get64(b + 24);
    h->shard.mtime_nsec = get32(b + 32);
    uint64_t *counts[] = {&h->samples, &h->members, &h->frames,  &h->strings,
                          &h->usable,  &h->keys,    &h->body_sum};
    for (size_t i = 0; i < COUNT(counts); i++) *counts[i] = get64(b + 40 + 8 * i);
    if (h->members > MEMBERS_MAX || h->samples > h->members || h->usable > h->samples ||
        h->frames > UINT32_MAX || h->strings > STRINGS_MAX || h->strings == 0)
        return error_set(err, "an index header with impossible counts");
    return true;
}

/* The file's bytes, malloc'd. */
static uint8_t *to_bytes(Index *ix, size_t *size) {
    size_t body = body_size(&ix->h), frames = ix->h.frames ? ix->h.frames + 1 : 0;
    uint8_t *file = xmalloc(*size = size_add(HEADER, body)), *b = file + HEADER;
    for (size_t i = 0; i < frames; i++, b += FRAME) {
        put64(b, ix->frames[i].at);
        put64(b + 8, ix->frames[i].raw);
    }
    for (size_t i = 0; i <= ix->h.samples; i++, b += SAMPLE) {
        put32(b, ix->samples[i].key);
        put32(b + 4, ix->samples[i].first);
    }
    for (size_t i = 0; i < ix->h.members; i++, b += MEMBER) {
        put64(b, ix->members[i].offset);
        put64(b + 8, ix->members[i].size);
        put32(b + 16, ix->members[i].extension);
        put32(b + 20, ix->members[i].flags);
    }
    memcpy(b, ix->strings, ix->h.strings);
    ix->h.body_sum = fnv_hash(FNV_START, file + HEADER, body);
    put_header(file, &ix->h);
    return file;
}

bool index_write(Index *ix, const char *path, Error *err) {
    size_t size;
    uint8_t *file = to_bytes(ix, &size);
    bool ok = file_write_atomic(path, file, size, err);
    free(file);
    return ok;
}

bool index_write_fd(Index *ix, int fd) {
    size_t size;
    uint8_t *file = to_bytes(ix, &size);
    bool ok = file_write_fd(fd, file, size);
    int why = errno;
    free(file);
    errno = why;
    return ok;
}

/* Every number that is later used as an offset is checked here, once. */
static bool check(const Index *ix, Error *err) {
    const IndexHeader *h = &ix->h;
    uint64_t end = h->shard.size;
    if (h->frames) {
        for (size_t i = 0; i < h->frames; i++)
            if (ix->frames[i + 1].at <= ix->frames[i].at ||
                ix->frames[i + 1].raw <= ix->frames[i].raw ||
                ix->frames[i + 1].raw - ix->frames[i].raw > INDEX_FRAME_MAX)
                return error_set(err, "an index with impossible frames");
        end = ix->frames[h->frames].raw;
        if (ix->frames[0].raw != 0 ||
            (!(h->flags & INDEX_COPY) && ix->frames[h->frames].at > h->shard.size))
            return error_set(err, "an index with impossible frames");
    }
    for (size_t i = 0; i <= h->samples; i++) {
        uint64_t next = i < h->samples ? ix->samples[i + 1].first : h->members;
        if (ix->samples[i].key >= h->strings || ix->samples[i].first > next ||
            (i == h->samples && ix->samples[i].first != h->members))
            return error_set(err, "an index with impossible samples");
    }
    for (size_t i = 0; i < h->members; i++) {
        const IndexMember *m = &ix->members[i];
        if (m->offset > end || m->size > end - m->offset || m->extension >= h->strings)
            return error_set(err, "an index with members outside its shard");
    }
    return ix->strings[h->strings - 1] == 0 || error_set(err, "an index with open strings");
}

bool index_parse(Index *ix, const uint8_t *bytes, size_t size, Error *err) {
    memset(ix, 0, sizeof *ix);
    IndexHeader h;
    if (!get_header(&h, bytes, size, err)) return false;
    if (size != HEADER + body_size(&h)) return error_set(err, "an index of the wrong length");
    const uint8_t *b = bytes + HEADER;
    if (fnv_hash(FNV_START, b, size - HEADER) != h.body_sum)
        return error_set(err, "a damaged index");
    size_t frames = h.frames ? (size_t)h.frames + 1 : 0;
    ix->h = h;
    ix->frames = frames ? xmalloc(size_mul(frames, sizeof *ix->frames)) : NULL;
    ix->samples = xmalloc(size_mul(h.samples + 1, sizeof *ix->samples));
    ix->members = xmalloc(size_mul(h.members, sizeof *ix->members));
    ix->strings = xmalloc(h.strings);
    for (size_t i = 0; i < frames; i++, b += FRAME)
        ix->frames[i] = (StreamFrame){get64(b), get64(b + 8)};
    for (size_t i = 0; i <= h.samples; i++, b += SAMPLE)
        ix->samples[i] = (IndexSample){get32(b), get32(b + 4)};
    for (size_t i = 0; i < h.members; i++, b += MEMBER)
        ix->members[i] = (IndexMember){get64(b), get64(b + 8), get32(b + 16), get32(b + 20)};
    memcpy(ix->strings, b, h.strings);
    if (check(ix, err)) return true;
    index_free(ix);
    return false;
}

bool index_read_header(IndexHeader *h, const char *path, Error *err) {
    uint8_t b[HEADER];
    Error why;
    File *f = file_open(path, err);
    if (!f) return false;
    size_t n = file_size(f) < HEADER ? (size_t)file_size(f) : HEADER;
    bool ok = file_read(f, b, n, 0, &why) && get_header(h, b, n, &why);
    file_close(f);
    return ok || error_set(err, "%s: %s", path, why.text);
}

bool index_read(Index *ix, const char *path, Error *err) {
    uint8_t *bytes;
    size_t size;
    Error why;
    memset(ix, 0, sizeof *ix);
    if (!file_read_all(path, &bytes, &size, (size_t)2 << 30, err)) return false;
    bool ok = index_parse(ix, bytes, size, &why) || error_set(err, "%s: %s", path, why.text);
    free(bytes);
    return ok;
}

size_t index_memory(const Index *ix) {
    return (ix->h.frames + 1) * sizeof *ix->frames + (ix->h.samples + 1) * sizeof *ix->samples +
           ix->h.members * sizeof *ix->members + ix->h.strings;
}

void index_free(Index *ix) {
    FREE_ALL(ix->samples, ix->members, ix->frames, ix->strings);
    memset(ix, 0, sizeof *ix);
}
