#include "tools/common.h"

#include "train/agree.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

Dataset *open_dataset(const char *option, const char *spec, const DatasetOptions *d) {
    Error err;
    if (!spec) die_usage("--%s is missing (shards, a CSV/TSV or a folder)", option);
    Dataset *set = dataset_open(spec, d, &err);
    if (!set) die("--%s %s: %s", option, spec, err.text);
    return set;
}

const Comm *open_evaluation(const Command *command, const CommOptions *co, const char *data,
                            const DatasetOptions *dataset, const EncoderOptions *encoder,
                            Dataset **d, Encoder **e) {
    const Comm *c =
        comm_open((CommChoice)co->choice, kernels_open_choice(encoder->device, encoder->precision),
                  co->timeout, (int)co->port);
    agree_on_start(c, command);
    comm_rank0_begin(c);
    *d = open_dataset("data", data, dataset);
    *e = encoder_open(encoder);
    comm_rank0_end(c);
    agree_on(c, "data set (samples)", dataset_count(*d));
    return c;
}

char *join_operands(const Command *c, const StringList *operands) {
    if (operands->count == 0)
        die_usage("clipc %s: no data named (shards, a CSV/TSV or a folder)", c->name);
    char *spec = xstrdup(operands->items[0]);
    for (size_t i = 1; i < operands->count; i++) {
        char *longer = xasprintf("%s::%s", spec, operands->items[i]);
        free(spec);
        spec = longer;
    }
    return spec;
}

Dataset *open_operands(const Command *c, const StringList *operands, const DatasetOptions *d) {
    Error err;
    char *spec = join_operands(c, operands);
    Dataset *set = dataset_open(spec, d, &err);
    if (!set) die("%s", err.text);
    free(spec);
    return set;
}

char **read_lines(const char *path, size_t *count) {
    FILE *f = strcmp(path, "-") ? fopen(path, "r") : stdin;
    if (!f) die("%s: %s", path, strerror(errno));
    char **lines = NULL, *line = NULL;
    size_t n = 0, room = 0, capacity = 0;
    ssize_t length;
    while ((length = getline(&line, &capacity, f)) >= 0) {
        if (length && line[length - 1] == '\n') line[--length] = 0;
        if (length && line[length - 1] == '\r') line[--length] = 0;
        if (n == room) lines = xrealloc(lines, (room = room ? 2 * room : 64) * sizeof *lines);
        lines[n++] = xstrdup(line);
    }
    if (ferror(f)) die("%s: %s", path, strerror(errno));
    if (f != stdin) fclose(f);
    free(line);
    *count = n;
    return lines;
}

void free_lines(char **lines, size_t count) {
    for (size_t i = 0; i < count; i++) free(lines[i]);
    free(lines);
}

float *embed_texts(Encoder *e, char *const *texts, size_t n) {
    float *out = xmalloc(size_mul(n, encoder_dim(e) * sizeof *out));
    encoder_texts(e, (const char *const *)texts, n, out);
    return out;
}

/* The whole file in a buffer, at most 1 GiB. */
static uint8_t *read_file(const char *path, size_t *size, Error *err) {
    FILE *f = fopen(path, "rb");
    if (!f) {
        error_set(err, "%s: %s", path, strerror(errno));
        return NULL;
    }
    uint8_t *bytes = NULL;
    size_t n = 0, room = 0, got;
    do {
        if (n == room) bytes = xrealloc(bytes, room = room ? 2 * room : 1 << 16);
        got = fread(bytes + n, 1, room - n, f);
        n += got;
    } while (got && n < (1u << 30));
    if (ferror(f)) {
        error_set(err, "%s: %s", path, strerror(errno));
        free(bytes);
        bytes = NULL;
    }
    fclose(f);
    *size = n;
    return bytes;
}

enum { NAMED_FILES = 3 }; /* unreadable ones that are named: a refusal stays short */

typedef struct ImageFiles {
    char *const *paths;
    atomic_size_t bad;
} ImageFiles;

static bool fetch_file(void *context, size_t i, Image *img, Error *err) {
    ImageFiles *f = context;
    size_t size;
    uint8_t *bytes = read_file(f->paths[i], &size, err);
    bool ok = bytes && image_decode(img, bytes, size, IMAGE_MAX_PIXELS, err);
    if (!ok && bytes) {
        Error why = *err;
        error_set(err, "%.200s: %.250s", f->paths[i], why.text);
    }
    if (!ok && atomic_fetch_add(&f->bad, 1) >= NAMED_FILES) err->text[0] = 0;
    free(bytes);
    return ok;
}

float *embed_image_files(Encoder *e, char *const *paths, size_t n) {
    float *out = xmalloc(size_mul(n, encoder_dim(e) * sizeof *out));
    bool *ok = xcalloc(n, sizeof *ok);
    ImageFiles files = {.paths = paths};
    size_t good = encoder_images(e, fetch_file, &files, n, out, ok);
    if (good != n)
        die("%zu of %zu image files could not be read: nothing was written", n - good, n);
    free(ok);
    return out;
}

json_t *json_text(const char *text) {
    json_t *s = json_string(text);
    if (s) return s;
    char *ascii = xstrdup(text);
    for (char *c = ascii; *c; c++)
        if (*c & 0x80) *c = '?';
    s = json_string(ascii);
    free(ascii);
    return s;
}

void print_json(json_t *object) {
    json_dumpf(object, stdout, JSON_REAL_PRECISION(9));
    putchar('\n');
    json_decref(object);
}
