#include "data/tensors/zip.h"

#include <stdlib.h>
#include <string.h>
#include <zlib.h>

/* Sizes of the fixed parts of records, and the greatest distance of the end record from the end. */
enum {
    END_SIZE = 22,
    END64_SIZE = 56,
    LOCATOR_SIZE = 20,
    ENTRY_SIZE = 46,
    LOCAL_SIZE = 30,
    MAX_COMMENT = 65535,
    MAX_MEMBERS = 1 << 16
};

static uint16_t u16(const unsigned char *p) { return (uint16_t)(p[0] | p[1] << 8); }
static uint32_t u32(const unsigned char *p) { return u16(p) | (uint32_t)u16(p + 2) << 16; }
static uint64_t u64(const unsigned char *p) { return u32(p) | (uint64_t)u32(p + 4) << 32; }

typedef struct Directory {
    uint64_t start, size, count;
} Directory;

/* The end record is the last record; only a comment may follow it. */
static bool find_end(const unsigned char *b, size_t n, size_t *at) {
    for (size_t back = END_SIZE; back <= n && back <= END_SIZE + MAX_COMMENT; back++) {
        const unsigned char *p = b + n - back;
        if (u32(p) == 0x06054b50 && u16(p + 20) == back - END_SIZE) {
            *at = n - back;
            return true;
        }
    }
    return false;
}

/* The 64-bit record, used if fields of the short one overflow. */
static bool read_end64(const unsigned char *b, size_t end, Directory *d, Error *err) {
    if (end < LOCATOR_SIZE || u32(b + end - LOCATOR_SIZE) != 0x07064b50)
        return error_set(err, "zip: the 64-bit directory is not to be found");
    uint64_t at = u64(b + end - LOCATOR_SIZE + 8);
    if (at > end || end - at < END64_SIZE || u32(b + at) != 0x06064b50)
        return error_set(err, "zip: the 64-bit directory is not to be found");
    *d = (Directory){u64(b + at + 48), u64(b + at + 40), u64(b + at + 32)};
    return true;
}

static bool find_directory(const unsigned char *b, size_t n, Directory *d, Error *err) {
    size_t end;
    if (!find_end(b, n, &end)) return error_set(err, "zip: truncated, its directory is missing");
    const unsigned char *p = b + end;
    *d = (Directory){u32(p + 16), u32(p + 12), u16(p + 10)};
    bool overflown = d->count == 0xffff || d->size == 0xffffffff || d->start == 0xffffffff;
    if (overflown && !read_end64(b, end, d, err)) return false;
    if (d->start > end || d->size > end - d->start)
        return error_set(err, "zip: the directory lies outside the file");
    if (d->count > MAX_MEMBERS || d->count > d->size / ENTRY_SIZE)
        return error_set(err, "zip: %llu members cannot be right", (unsigned long long)d->count);
    return true;
}

/* This extra field holds those of size, compressed size and offset that overflowed, in this
 * order. */
static bool read_extra64(const unsigned char *p, size_t n, uint64_t *const fields[3]) {
    while (n >= 4) {
        size_t length = u16(p + 2);
        if (length > n - 4) return false;
        if (u16(p) == 1) {
            const unsigned char *q = p + 4;
            for (int i = 0; i < 3; i++) {
                if (*fields[i] != 0xffffffff) continue;
                if (length < 8) return false;
                *fields[i] = u64(q);
                q += 8;
                length -= 8;
            }
            return true;
        }
        p += 4 + length;
        n -= 4 + length;
    }
    return *fields[0] != 0xffffffff && *fields[1] != 0xffffffff && *fields[2] != 0xffffffff;
}

/* One entry of the directory at p, of at most n bytes; *used: its length. */
static bool read_entry(ZipMember *m, const unsigned char *bytes, size_t total,
                       const unsigned char *p, size_t n, size_t *used, Error *err) {
    if (n < ENTRY_SIZE || u32(p) != 0x02014b50) return error_set(err, "zip: a damaged directory");
    size_t name = u16(p + 28), extra = u16(p + 30), comment = u16(p + 32);
    *used = ENTRY_SIZE + name + extra + comment;
    if (*used > n || !name || memchr(p + ENTRY_SIZE, 0, name))
        return error_set(err, "zip: a damaged directory");
    m->name = xmalloc(name + 1);
    memcpy(m->name, p + ENTRY_SIZE, name);
    m->name[name] = 0;
    uint64_t packed = u32(p + 20), size = u32(p + 24), at = u32(p + 42);
    if (!read_extra64(p + ENTRY_SIZE + name, extra, (uint64_t *const[]){&size, &packed, &at}))
        return error_set(err, "zip: %.100s: a damaged entry", m->name);
    m->stored = !u16(p + 10) && !(u16(p + 8) & 1);
    m->crc = u32(p + 16);
    m->size = size;
    if (!m->stored) return true;
    if (at > total || total - at < LOCAL_SIZE || u32(bytes + at) != 0x04034b50)
        return error_set(err, "zip: %.100s is not where the directory says", m->name);
    uint64_t data = at + LOCAL_SIZE + u16(bytes + at + 26) + u16(bytes + at + 28);
    if (packed != size || data > total || size > total - data)
        return error_set(err, "zip: %.100s ends outside the file", m->name);
    m->data = bytes + data;
    return true;
}

bool zip_open(Zip *z, const unsigned char *bytes, size_t n, Error *err) {
    *z = (Zip){0};
    Directory d = {0};
    if (!find_directory(bytes, n, &d, err)) return false;
    z->members = xcalloc(d.count + 1, sizeof *z->members);
    const unsigned char *p = bytes + d.start;
    size_t left = d.size;
    for (size_t used = 0; z->count < d.count; p += used, left -= used)
        if (!read_entry(&z->members[z->count++], bytes, n, p, left, &used, err)) {
            zip_close(z);
            return false;
        }
    return true;
}

const ZipMember *zip_find(const Zip *z, const char *name) {
    for (size_t i = 0; i < z->count; i++)
        if (!strcmp(z->members[i].name, name)) return &z->members[i];
    return NULL;
}

bool zip_verify(const ZipMember *m, Error *err) {
    if (!m->stored || !m->crc) return true;
    uint32_t got = (uint32_t)crc32_z(0, m->data, m->size);
    if (got == m->crc) return true;
    return error_set(err, "damaged: %.100s has the checksum %08x instead of %08x", m->name, got,
                     m->crc);
}

void zip_close(Zip *z) {
    for (size_t i = 0; i < z->count; i++) free(z->members[i].name);
    free(z->members);
    *z = (Zip){0};
}
