#include "data/tensors/torchwriter.h"

#include "data/io/file.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

/* Data starts at multiples of 64, as in PyTorch's files; the gap is an extra field of the
 * header. */
enum { ALIGN = 64, LOCAL_SIZE = 30, NAME = 40, OVERFLOWN = 0xffff };
static const uint64_t limit = 0xffffffff;

typedef struct Record {
    char name[NAME];
    uint64_t at, size;
    uint32_t crc;
} Record;

struct TorchWriter {
    char *path;
    FILE *f;
    uint64_t at;     /* bytes written */
    Record *records; /* those started; the last may be open */
    size_t count;
    size_t *sizes; /* bytes of each tensor */
    size_t tensors, next;
    uint64_t left; /* of the open record */
    bool failed;
    Error err;
};

/* ---- bytes ---- */

static void fail(TorchWriter *w, const char *what) {
    if (!w->failed) error_set(&w->err, "%.200s: %s", w->path, what);
    w->failed = true;
}

static void put(TorchWriter *w, const void *bytes, size_t n) {
    if (!w->failed && fwrite(bytes, 1, n, w->f) != n) fail(w, strerror(errno));
    w->at += n;
}

static void put_int(TorchWriter *w, uint64_t x, size_t n) {
    unsigned char bytes[8];
    for (size_t i = 0; i < n; i++) bytes[i] = (unsigned char)(x >> 8 * i);
    put(w, bytes, n);
}

/* ---- members ---- */

static void begin(TorchWriter *w, const char *name, uint64_t size) {
    static const unsigned char gap[ALIGN + 4] = {0};
    Record *r = &w->records[w->count++];
    *r = (Record){.at = w->at, .size = size};
    snprintf(r->name, sizeof r->name, "archive/%s", name);
    if (size >= limit) fail(w, "a tensor of 4 GiB or more does not go into this format");
    size_t length = strlen(r->name), used = (w->at + LOCAL_SIZE + length + 4) % ALIGN;
    size_t extra = (ALIGN - used) % ALIGN;
    put_int(w, 0x04034b50, 4);
    put_int(w, 20, 2);
    put_int(w, 1 << 11, 2); /* names are UTF-8 */
    put_int(w, 0, 6);       /* stored; no time */
    put_int(w, 0, 4);       /* the checksum is written at the end */
    put_int(w, size, 4);
    put_int(w, size, 4);
    put_int(w, length, 2);
    put_int(w, extra + 4, 2);
    put(w, r->name, length);
    put_int(w, 0x4246, 2); /* PyTorch's padding */
    put_int(w, extra, 2);
    put(w, gap, extra);
    r->crc = (uint32_t)crc32(0, NULL, 0);
    w->left = size;
}

static void end(TorchWriter *w) {
    const Record *r = &w->records[w->count - 1];
    assert(!w->left);
    if (w->failed) return;
    if (fseeko(w->f, (off_t)(r->at + 14), SEEK_SET)) fail(w, strerror(errno));
    put_int(w, r->crc, 4);
    w->at -= 4;
    if (fseeko(w->f, 0, SEEK_END)) fail(w, strerror(errno));
}

static void fill(TorchWriter *w, const void *bytes, size_t n) {
    Record *r = &w->records[w->count - 1];
    r->crc = (uint32_t)crc32_z(r->crc, bytes, n);
    w->left -= n;
    put(w, bytes, n);
}

static void whole(TorchWriter *w, const char *name, const void *bytes, size_t n) {
    begin(w, name, n);
    fill(w, bytes, n);
    end(w);
}

static void write_directory(TorchWriter *w) {
    uint64_t start = w->at;
    for (size_t i = 0; i < w->count; i++) {
        const Record *r = &w->records[i];
        bool far = r->at >= limit;
        put_int(w, 0x02014b50, 4);
        put_int(w, 45, 2);
        put_int(w, far ? 45 : 20, 2);
        put_int(w, 1 << 11, 2);
        put_int(w, 0, 6);
        put_int(w, r->crc, 4);
        put_int(w, r->size, 4);
        put_int(w, r->size, 4);
        put_int(w, strlen(r->name), 2);
        put_int(w, far ? 12 : 0, 2);
        put_int(w, 0, 8); /* comment, disk, attributes */
        put_int(w, 0, 2);
        put_int(w, far ? limit : r->at, 4);
        put(w, r->name, strlen(r->name));
        if (!far) continue;
        put_int(w, 1, 2);
        put_int(w, 8, 2);
        put_int(w, r->at, 8);
    }
    uint64_t size = w->at - start, end64 = w->at;
    put_int(w, 0x06064b50, 4);
    put_int(w, 44, 8);
    put_int(w, 45, 2);
    put_int(w, 45, 2);
    put_int(w, 0, 8);
    put_int(w, w->count, 8);
    put_int(w, w->count, 8);
    put_int(w, size, 8);
    put_int(w, start, 8);
    put_int(w, 0x07064b50, 4);
    put_int(w, 0, 4);
    put_int(w, end64, 8);
    put_int(w, 1, 4);
    bool far = start >= limit || w->count >= OVERFLOWN;
    put_int(w, 0x06054b50, 4);
    put_int(w, 0, 4);
    put_int(w, far ? OVERFLOWN : w->count, 2);
    put_int(w, far ? OVERFLOWN : w->count, 2);
    put_int(w, far ? limit : size, 4);
    put_int(w, far ? limit : start, 4);
    put_int(w, 0, 2);
}

/* ---- the pickle ---- */

static void say(FILE *f, const char *text) { fputs(text, f); }

static void say_text(FILE *f, const char *text) {
    uint32_t n = (uint32_t)strlen(text);
    fputc('X', f);
    fwrite(&n, 4, 1, f);
    say(f, text);
}

static void say_int(FILE *f, uint64_t x) {
    if (x < 256) {
        fprintf(f, "K%c", (int)x);
    } else if (x < 1u << 31) {
        uint32_t n = (uint32_t)x;
        fputc('J', f);
        fwrite(&n, 4, 1, f);
    } else {
        fprintf(f, "\x8a%c", 8);
        fwrite(&x, 8, 1, f);
    }
}

static void say_tensor(FILE *f, const Tensor *t, size_t number) {
    static const char *const classes[] = {[DTYPE_F64] = "DoubleStorage",
                                          [DTYPE_F32] = "FloatStorage",
                                          [DTYPE_F16] = "HalfStorage",
                                          [DTYPE_BF16] = "BFloat16Storage"};
    assert(t->dtype <= DTYPE_BF16);
    char key[24];
    size_t count = 1;
    for (int d = 0; d < t->ndim; d++) count = size_mul(count, t->shape[d]);
    snprintf(key, sizeof key, "%zu", number);
    say_text(f, t->name);
    say(f, "ctorch._utils\n_rebuild_tensor_v2\n((");
    say_text(f, "storage");
    fprintf(f, "ctorch\n%s\n", classes[t->dtype]);
    say_text(f, key);
    say_text(f, "cpu");
    say_int(f, count);
    say(f, "tQ");
    say_int(f, 0);
    fputc('(', f);
    for (int d = 0; d < t->ndim; d++) say_int(f, t->shape[d]);
    say(f, "t(");
    for (int d = 0; d < t->ndim; d++) {
        size_t stride = 1;
        for (int e = d + 1; e < t->ndim; e++) stride *= t->shape[e];
        say_int(f, stride);
    }
    say(f, "t\x89");
    say(f, "ccollections\nOrderedDict\n)RtR");
}

/* malloc'd; *n: its size in bytes. */
static char *make_pickle(const Tensor *tensors, size_t count, size_t *n) {
    char *text = NULL;
    FILE *f = open_memstream(&text, n);
    if (!f) die("no memory for a pickle");
    say(f, "\x80\x02"
           "ccollections\nOrderedDict\n)R(");
    for (size_t i = 0; i < count; i++) say_tensor(f, &tensors[i], i);
    say(f, "u.");
    if (fclose(f)) die("no memory for a pickle");
    return text;
}

/* ---- the writer ---- */

/* Opens and closes members up to the tensor whose bytes are next, including empty tensors. */
static void begin_next(TorchWriter *w) {
    while (!w->left && w->next < w->tensors) {
        char name[NAME - 8];
        if (w->next) end(w);
        snprintf(name, sizeof name, "data/%zu", w->next);
        begin(w, name, w->sizes[w->next++]);
    }
}

TorchWriter *torchwriter_create(const char *path, const Tensor *tensors, size_t count) {
    TorchWriter *w = xcalloc(1, sizeof *w);
    w->path = xstrdup(path);
    w->tensors = count;
    w->sizes = xcalloc(count + 1, sizeof *w->sizes);
    w->records = xcalloc(count + 3, sizeof *w->records);
    for (size_t i = 0; i < count; i++) {
        w->sizes[i] = dtype_size(tensors[i].dtype);
        for (int d = 0; d < tensors[i].ndim; d++)
            w->sizes[i] = size_mul(w->sizes[i], tensors[i].shape[d]);
    }
    int fd = file_create(path);
    w->f = fd < 0 ? NULL : fdopen(fd, "w+b");
    if (!w->f) fail(w, strerror(errno));
    size_t n;
    char *pickle = make_pickle(tensors, count, &n);
    whole(w, "data.pkl", pickle, n);
    whole(w, "byteorder", "little", 6);
    free(pickle);
    begin_next(w);
    return w;
}

void torchwriter_append(TorchWriter *w, const void *bytes, size_t n) {
    const char *p = bytes;
    while (n) {
        size_t here = w->left < n ? (size_t)w->left : n;
        assert(here);
        fill(w, p, here);
        p += here;
        n -= here;
        begin_next(w);
    }
}

bool torchwriter_finish(TorchWriter *w, Error *err) {
    assert(w->failed || (!w->left && w->next == w->tensors));
    if (!w->failed) {
        if (w->tensors) end(w);
        whole(w, "version", "3\n", 2);
        write_directory(w);
    }
    if (w->f && !w->failed && (fflush(w->f) || fsync(fileno(w->f)))) fail(w, strerror(errno));
    if (w->f) {
        if (fclose(w->f)) fail(w, strerror(errno));
        if (w->failed) unlink(w->path);
    }
    bool ok = !w->failed;
    if (!ok) *err = w->err;
    FREE_ALL(w->records, w->sizes, w->path, w);
    return ok;
}

void torchwriter_abandon(TorchWriter *w) {
    Error ignored;
    fail(w, "abandoned");
    torchwriter_finish(w, &ignored);
}
