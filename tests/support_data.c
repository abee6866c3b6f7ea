#include "tests/support_data.h"
#include "data/tar.h"
#include "data/tensors/npy.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

static void append(TarBytes *t, const void *data, size_t n) {
    t->bytes = xrealloc(t->bytes, t->size + n);
    if (n) memcpy(t->bytes + t->size, data, n);
    t->size += n;
}

void tar_bytes_add(TarBytes *t, const char *name, const void *data, size_t n) {
    static const uint8_t zeros[TAR_BLOCK];
    uint8_t block[TAR_BLOCK];
    tar_header(block, name, n);
    append(t, block, TAR_BLOCK);
    append(t, data, n);
    append(t, zeros, (TAR_BLOCK - n % TAR_BLOCK) % TAR_BLOCK);
}

void tar_bytes_text(TarBytes *t, const char *name, const char *text) {
    tar_bytes_add(t, name, text, strlen(text));
}

void tar_bytes_end(TarBytes *t) {
    static const uint8_t zeros[2 * TAR_BLOCK];
    append(t, zeros, sizeof zeros);
}

const char *tar_bytes_write(TarBytes *t, const char *name) {
    const char *path = test_path(name);
    tar_bytes_end(t);
    test_write_file(path, t->bytes, t->size);
    free(t->bytes);
    *t = (TarBytes){NULL, 0};
    return path;
}

uint8_t *zstd_frames(const uint8_t *bytes, size_t n, size_t frame, size_t *size) {
    uint8_t *out = NULL;
    *size = 0;
    for (size_t at = 0; at < n; at += frame) {
        size_t raw = n - at < frame ? n - at : frame, bound = ZSTD_compressBound(raw);
        out = xrealloc(out, *size + bound);
        size_t packed = ZSTD_compress(out + *size, bound, bytes + at, raw, 1);
        assert_false(ZSTD_isError(packed));
        *size += packed;
    }
    return out;
}

Dataset *open_data_set(const char *spec, const DatasetOptions *o) {
    Error err;
    Dataset *d = dataset_open(spec, o, &err);
    if (!d) fail_msg("%s", err.text);
    return d;
}

void refuse_data_set(const char *spec, const DatasetOptions *o, const char *needle) {
    Error err;
    assert_null(dataset_open(spec, o, &err));
    test_says(err.text, needle);
}

uint32_t golden_hash(const void *bytes, size_t n) {
    uint32_t h = 0x811C9DC5u;
    for (const unsigned char *p = bytes, *end = p + n; p < end; p++) h = (h ^ *p) * 0x01000193u;
    return h;
}

/* Undoes backslash escapes in place; returns the length. */
static size_t unescape(char *s) {
    size_t n = 0;
    for (char *p = s; *p != 0; n++) {
        unsigned byte;
        if (*p == '\\' && sscanf(p + 1, "%2x", &byte) == 1) {
            s[n] = (char)byte;
            p += 3;
        } else {
            s[n] = *p++;
        }
    }
    return n;
}

size_t golden_captions(GoldenCaptions which, GoldenCheck *check, void *context) {
    bool odd = which == CAPTIONS_ODD;
    char *file =
        test_read_file(odd ? "tests/golden/tok/odd.txt" : "tests/golden/tok/captions.txt", NULL);
    char *rest = file, *line;
    size_t count = 0;
    for (; (line = strsep(&rest, "\n")) != NULL && *line != 0; count++) {
        unsigned clean, ids;
        assert_int_equal(sscanf(line, "%8x %8x ", &clean, &ids), 2);
        char *caption = line + 18;
        size_t n = odd ? unescape(caption) : strlen(caption);
        check(context, caption, n, clean, ids);
    }
    free(file);
    return count;
}

Tokenizer *test_tokenizer(const char *path) {
    Error err;
    Tokenizer *t = tokenizer_open(path, &err);
    if (t == NULL) fail_msg("%s", err.text);
    return t;
}

float *read_npy(const char *path, size_t *rows, size_t *cols) {
    NpyMap m;
    Error err;
    if (!npy_map(&m, path, &err)) fail_msg("%s", err.text);
    assert_non_null(m.f32);
    size_t bytes = m.rows * m.cols * sizeof(float);
    float *x = xmalloc(bytes);
    memcpy(x, m.f32, bytes);
    *rows = m.rows;
    *cols = m.cols;
    npy_unmap(&m);
    return x;
}

void same_npy(const char *got, const char *want, double tolerance) {
    size_t n, E, m, F;
    float *x = read_npy(got, &n, &E), *y = read_npy(want, &m, &F);
    assert_int_equal(n, m);
    assert_int_equal(E, F);
    double worst = 0;
    for (size_t i = 0; i < n * E; i++) worst = fmax(worst, fabs((double)x[i] - y[i]));
    print_message("%s: largest difference %.2e\n", want, worst);
    assert_near(worst, 0, tolerance);
    FREE_ALL(x, y);
}

char *run_metrics(const char *name) {
    char *path = xasprintf("%s/%s/metrics.jsonl", test_path("logs"), name);
    char *text = test_read_file(path, NULL);
    free(path);
    return text;
}

double run_last_loss(const char *name) {
    char *lines = run_metrics(name), *at = lines, *found = NULL;
    while ((at = strstr(at, "\"loss\":"))) found = at++;
    assert_non_null(found);
    double loss = strtod(found + strlen("\"loss\":"), NULL);
    free(lines);
    return loss;
}

static void same_step(const json_t *got, const json_t *want, int step) {
    static const char *const keys[] = {"loss", "logit_scale", "grad_norm", "lr"};
    for (size_t k = 0; k < COUNT(keys); k++) {
        double a = json_number_value(json_object_get(got, keys[k]));
        double b = json_number_value(json_object_get(want, keys[k]));
        double tolerance = k == 3 ? 1e-9 : step == 0 ? 1e-5 : 2e-4;
        test_near(a, b, tolerance * fmax(1, fabs(b)), keys[k], __FILE__, step);
    }
}

void same_steps(const char *name, const char *want) {
    json_error_t err;
    json_t *steps = json_load_file(want, 0, &err), *step;
    char *lines = run_metrics(name), *save, *line = strtok_r(lines, "\n", &save);
    size_t i;
    json_array_foreach(steps, i, step) {
        assert_non_null(line);
        json_t *got = json_loads(line, 0, &err);
        same_step(got, step, (int)i);
        json_decref(got);
        line = strtok_r(NULL, "\n", &save);
    }
    assert_int_equal(i, 10);
    json_decref(steps);
    free(lines);
}

bool write_tensors_with(const char *path, const Tensor *tensors, size_t count,
                        const char *const *meta, size_t meta_count, Error *err) {
    remove(path);
    SafetensorsWriter *w = safetensors_create(path, tensors, count, meta, meta_count);
    for (size_t i = 0; i < count; i++) {
        size_t n = 1;
        for (int d = 0; d < tensors[i].ndim; d++) n *= tensors[i].shape[d];
        safetensors_append(w, tensors[i].data, n * dtype_size(tensors[i].dtype));
    }
    return safetensors_finish(w, err);
}

void write_tensors(const char *path, const Tensor *tensors, size_t count) {
    Error err;
    if (!write_tensors_with(path, tensors, count, NULL, 0, &err)) fail_msg("%s", err.text);
}
