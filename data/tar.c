#include "data/tar.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Fields of a header block: offset and width. */
enum {
    NAME = 0,
    NAME_SIZE = 100,
    SIZE = 124,
    SIZE_SIZE = 12,
    SUM = 148,
    SUM_SIZE = 8,
    TYPE = 156,
    MAGIC = 257,
    PREFIX = 345,
    PREFIX_SIZE = 155,
};

/* Values of extended headers for the member that follows. */
typedef struct Extended {
    char name[TAR_NAME_MAX + 1]; /* empty: not given */
    bool has_size;
    uint64_t size;
} Extended;

void tar_reader_init(TarReader *t, Stream *stream) {
    memset(t, 0, sizeof *t);
    t->stream = stream;
}

/* Octal digits between blanks, or base 256 if the first bit is set. */
static bool parse_number(const uint8_t *field, size_t width, uint64_t *out) {
    uint64_t v = 0;
    if (field[0] & 0x80) {
        if (field[0] != 0x80) return false; /* negative, or more than 64 bits */
        for (size_t i = 1; i < width; i++) {
            if (v >> 55) return false;
            v = v << 8 | field[i];
        }
        *out = v;
        return true;
    }
    size_t i = 0;
    while (i < width && field[i] == ' ') i++;
    for (; i < width && field[i] >= '0' && field[i] <= '7'; i++) v = v << 3 | (field[i] - '0');
    if (i < width && field[i] != ' ' && field[i] != 0) return false;
    *out = v;
    return true;
}

static bool checksum_ok(const uint8_t *block) {
    uint64_t stored;
    if (!parse_number(block + SUM, SUM_SIZE, &stored)) return false;
    uint32_t plain = 0;
    int32_t with_sign = 0; /* some old writers sum signed chars */
    for (size_t i = 0; i < TAR_BLOCK; i++) {
        uint8_t b = i >= SUM && i < SUM + SUM_SIZE ? ' ' : block[i];
        plain += b;
        with_sign += (int8_t)b;
    }
    return stored == plain || (int64_t)stored == with_sign;
}

static bool is_zero(const uint8_t *block) {
    for (size_t i = 0; i < TAR_BLOCK; i++)
        if (block[i]) return false;
    return true;
}

bool tar_begins(const uint8_t *bytes, size_t n) {
    return n == 0 || (n >= TAR_BLOCK && (is_zero(bytes) || checksum_ok(bytes)));
}

/* "LENGTH key=value\n" records; only `path` and `size` matter here. */
static bool parse_pax(Extended *x, const char *at, size_t left, Error *err) {
    while (left > 0 && *at != 0) {
        size_t length = 0, digits = 0;
        while (digits < left && digits < 8 && at[digits] >= '0' && at[digits] <= '9')
            length = length * 10 + (size_t)(at[digits++] - '0');
        if (digits == 0 || length > left || length < digits + 3 || at[digits] != ' ' ||
            at[length - 1] != '\n')
            return error_set(err, "a pax header that is not one");
        const char *key = at + digits + 1, *end = at + length - 1;
        const char *equals = memchr(key, '=', (size_t)(end - key));
        if (!equals) return error_set(err, "a pax header that is not one");
        size_t key_size = (size_t)(equals - key), size = (size_t)(end - equals - 1);
        if (key_size == 4 && memcmp(key, "path", 4) == 0) {
            if (size == 0 || size > TAR_NAME_MAX)
                return error_set(err, "a name of %zu bytes", size);
            memcpy(x->name, equals + 1, size);
            x->name[size] = 0;
        } else if (key_size == 4 && memcmp(key, "size", 4) == 0) {
            uint64_t v = 0;
            for (const char *c = equals + 1; c < end; c++) {
                if (*c < '0' || *c > '9' || v >> 58)
                    return error_set(err, "a pax size that is no number");
                v = v * 10 + (uint64_t)(*c - '0');
            }
            x->has_size = true;
            x->size = v;
        }
        at += length;
        left -= length;
    }
    return true;
}

/* Reads the data of an extended header (the current member) into x. */
static bool read_extended(TarReader *t, char type, Extended *x, Error *err) {
    if (t->size > TAR_EXTENDED_MAX)
        return error_set(err, "an extended header of %llu bytes", (unsigned long long)t->size);
    size_t n = (size_t)t->size, got;
    char *bytes = xmalloc(n + 1);
    bool ok = tar_read(t, bytes, n, &got, err) && tar_finish(t, err);
    bytes[n] = 0;
    if (ok && type == 'L') {
        size_t length = strlen(bytes);
        if (length == 0 || length > TAR_NAME_MAX)
            ok = error_set(err, "a name of %zu bytes", length);
        else
            memcpy(x->name, bytes, length + 1);
    } else if (ok && type == 'x') {
        ok = parse_pax(x, bytes, n, err);
    }
    free(bytes);
    return ok;
}

static void header_name(char *out, const uint8_t *block) {
    size_t prefix = 0;
    /* only POSIX ustar has a prefix; GNU's magic "ustar  " keeps other fields there */
    if (memcmp(block + MAGIC, "ustar\0", 6) == 0)
        prefix = strnlen((const char *)block + PREFIX, PREFIX_SIZE);
    if (prefix) {
        memcpy(out, block + PREFIX, prefix);
        out[prefix++] = '/';
    }
    size_t n = strnlen((const char *)block + NAME, NAME_SIZE);
    memcpy(out + prefix, block + NAME, n);
    out[prefix + n] = 0;
}

/* Reads one header block into t; *type 0: end of the archive. */
static bool read_header(TarReader *t, const Extended *x, char *type, Error *err) {
    uint8_t block[TAR_BLOCK];
    size_t got;
    unsigned long long at = stream_tell(t->stream);
    if (!stream_read(t->stream, block, TAR_BLOCK, &got, err)) return false;
    if (got < TAR_BLOCK) return error_set(err, "cut at byte %llu", at + got);
    if (is_zero(block)) {
        *type = 0;
        return true;
    }
    if (!checksum_ok(block)) return error_set(err, "no tar header at byte %llu", at);
    *type = block[TYPE] ? (char)block[TYPE] : '0';
    bool plain = *type == '0' || *type == '7';
    if (!parse_number(block + SIZE, SIZE_SIZE, &t->size))
        return error_set(err, "a size that is no number at byte %llu", at);
    if (*type >= '1' && *type <= '6') t->size = 0; /* links, devices and folders have no data */
    if (plain && x->has_size) t->size = x->size;
    if (t->size >> 60) return error_set(err, "a size beyond all files at byte %llu", at);
    if (*type == 'S') return error_set(err, "a sparse member at byte %llu", at);
    header_name(t->name, block);
    if (plain && x->name[0]) memcpy(t->name, x->name, strlen(x->name) + 1);
    t->offset = stream_tell(t->stream);
    t->left = t->size;
    t->padding = (TAR_BLOCK - t->size % TAR_BLOCK) % TAR_BLOCK;
    return true;
}

TarStatus tar_next(TarReader *t, Error *err) {
    Extended x = {.name = ""};
    for (;;) {
        char type = 0;
        if (!tar_finish(t, err) || !read_header(t, &x, &type, err)) return TAR_BAD;
        if (type == 0) return TAR_END;
        if (type == 'x' || type == 'L') {
            if (!read_extended(t, type, &x, err)) return TAR_BAD;
            continue;
        }
        /* a name ending in a slash is a folder of an old archive */
        size_t n = strlen(t->name);
        bool folder = n == 0 || t->name[n - 1] == '/';
        if ((type == '0' || type == '7') && !folder) return TAR_FILE;
        if (type != 'g' && type != 'K') x = (Extended){.name = ""};
    }
}

bool tar_read(TarReader *t, void *out, size_t n, size_t *got, Error *err) {
    size_t want = t->left < n ? (size_t)t->left : n;
    if (!stream_read(t->stream, out, want, got, err)) return false;
    if (*got < want)
        return error_set(err, "cut at byte %llu", (unsigned long long)stream_tell(t->stream));
    t->left -= *got;
    return true;
}

bool tar_finish(TarReader *t, Error *err) {
    if (!stream_skip(t->stream, t->left + t->padding, err)) return false;
    t->left = t->padding = 0;
    return true;
}

void tar_header(uint8_t block[TAR_BLOCK], const char *name, uint64_t size) {
    assert(strlen(name) < NAME_SIZE);
    memset(block, 0, TAR_BLOCK);
    memcpy(block + NAME, name, strlen(name));
    memcpy(block + 100, "0000644\0000000000\0000000000", 24);
    if (size >> 33) {
        block[SIZE] = 0x80;
        for (int i = 0; i < 8; i++) block[SIZE + 11 - i] = (uint8_t)(size >> 8 * i);
    } else {
        snprintf((char *)block + SIZE, SIZE_SIZE, "%011llo", (unsigned long long)size);
    }
    memcpy(block + 136, "00000000000", 12);
    block[TYPE] = '0';
    memcpy(block + MAGIC, "ustar\00000", 8);
    memset(block + SUM, ' ', SUM_SIZE);
    unsigned sum = 0;
    for (size_t i = 0; i < TAR_BLOCK; i++) sum += block[i];
    snprintf((char *)block + SUM, SUM_SIZE, "%06o", sum & 0777777);
    block[SUM + 7] = ' ';
}
