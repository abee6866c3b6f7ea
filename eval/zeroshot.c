#include "eval/zeroshot.h"

#include "eval/search.h"

#include <ctype.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static char **string_array(const json_t *root, const char *key, size_t *count, const char *path) {
    const json_t *array = json_object_get(root, key), *item;
    if (!json_is_array(array) || !json_array_size(array))
        die("%s: \"%s\" must be a list of strings with at least one", path, key);
    *count = json_array_size(array);
    char **out = xcalloc(*count, sizeof *out);
    size_t i;
    json_array_foreach(array, i, item) {
        if (!json_is_string(item)) die("%s: \"%s\"[%zu] is no string", path, key, i);
        out[i] = xstrdup(json_string_value(item));
    }
    return out;
}

void class_set_load(ClassSet *s, const char *path) {
    json_error_t err;
    json_t *root = json_load_file(path, 0, &err);
    if (!root) die("%s: line %d: %s", path, err.line, err.text);
    *s = (ClassSet){0};
    s->classes = string_array(root, "classes", &s->count, path);
    if (json_object_get(root, "templates")) {
        s->templates = string_array(root, "templates", &s->template_count, path);
    } else {
        s->templates = xcalloc(s->template_count = 1, sizeof *s->templates);
        s->templates[0] = xstrdup("{}");
    }
    for (size_t i = 0; i < s->template_count; i++)
        if (!strstr(s->templates[i], "{}") && !strstr(s->templates[i], "{c}"))
            die("%s: template \"%s\" has no {} for the class's name", path, s->templates[i]);
    json_decref(root);
}

void class_set_free(ClassSet *s) {
    for (size_t i = 0; i < s->count; i++) free(s->classes[i]);
    for (size_t i = 0; i < s->template_count; i++) free(s->templates[i]);
    free(s->classes);
    free(s->templates);
}

static char *fill_template(const char *template, const char *name) {
    const char *hole = strstr(template, "{}");
    size_t width = 2;
    if (!hole) hole = strstr(template, "{c}"), width = 3;
    return xasprintf("%.*s%s%s", (int)(hole - template), template, name, hole + width);
}

static void normalise(float *v, size_t E) {
    double sum = 0;
    for (size_t j = 0; j < E; j++) sum += (double)v[j] * v[j];
    double norm = fmax(sqrt(sum), 1e-12);
    for (size_t j = 0; j < E; j++) v[j] = (float)(v[j] / norm);
}

void zeroshot_weights(Encoder *e, const ClassSet *s, float *weights) {
    size_t E = encoder_dim(e), T = s->template_count;
    char **captions = xcalloc(T, sizeof *captions);
    float *features = xmalloc(size_mul(T, E * sizeof *features));
    for (size_t c = 0; c < s->count; c++) {
        for (size_t t = 0; t < T; t++) captions[t] = fill_template(s->templates[t], s->classes[c]);
        encoder_texts(e, (const char *const *)captions, T, features);
        float *w = weights + c * E;
        for (size_t j = 0; j < E; j++) {
            double sum = 0;
            for (size_t t = 0; t < T; t++) sum += features[t * E + j];
            w[j] = (float)(sum / (double)T);
        }
        normalise(w, E);
        for (size_t t = 0; t < T; t++) free(captions[t]);
    }
    free(captions);
    free(features);
}

enum { IMAGE_ROWS = 256 };

ZeroshotResult zeroshot_score(const Kernels *k, const float *images, const int *labels, size_t n,
                              const float *weights, size_t classes, size_t E) {
    acc *w = k->alloc(size_mul(classes * E, k->acc_size)),
        *x = k->alloc(IMAGE_ROWS * E * k->acc_size);
    acc *z = k->alloc(size_mul(classes, IMAGE_ROWS * k->acc_size));
    float *host = xmalloc(size_mul(classes, IMAGE_ROWS * sizeof *host));
    size_t *seen = xcalloc(classes, sizeof *seen), *right = xcalloc(classes, sizeof *right);
    ZeroshotResult r = {.count = n};
    k->acc_set_f32(w, weights, classes * E);
    for (size_t first = 0; first < n; first += IMAGE_ROWS) {
        size_t rows = size_min(IMAGE_ROWS, n - first);
        k->acc_set_f32(x, images + first * E, rows * E);
        k->gemm(z, classes, x, E, false, w, E, true, rows, classes, E, false);
        k->acc_get_f32(host, z, rows * classes);
        for (size_t i = 0; i < rows; i++) {
            Hit top[5];
            size_t hits = search_top_scores(top, 5, host + i * classes, classes),
                   label = (size_t)labels[first + i];
            assert(label < classes);
            seen[label]++;
            right[label] += top[0].row == label;
            r.top1 += top[0].row == label;
            for (size_t h = 0; h < hits; h++) r.top5 += top[h].row == label;
        }
    }
    size_t occurring = 0;
    for (size_t c = 0; c < classes; c++) {
        if (!seen[c]) continue;
        occurring++;
        r.mean_per_class += (double)right[c] / (double)seen[c];
    }
    if (n) r.top1 /= (double)n, r.top5 /= (double)n;
    if (occurring) r.mean_per_class /= (double)occurring;
    free(seen);
    free(right);
    free(host);
    k->release(z);
    k->release(x);
    k->release(w);
    return r;
}

static bool same_name(const char *a, const char *b) {
    for (;; a++, b++) {
        int x = *a == '_' ? ' ' : tolower((unsigned char)*a),
            y = *b == '_' ? ' ' : tolower((unsigned char)*b);
        if (x != y) return false;
        if (!x) return true;
    }
}

void zeroshot_map_folders(int *map, const char *const *folders, size_t n, const ClassSet *s) {
    size_t found = 0, missing = 0;
    for (size_t f = 0; f < n; f++) {
        map[f] = -1;
        for (size_t c = 0; c < s->count && map[f] < 0; c++)
            if (same_name(folders[f], s->classes[c])) map[f] = (int)c;
        if (map[f] >= 0)
            found++;
        else
            missing = f;
    }
    if (found == n) return;
    if (found || n != s->count)
        die("class folder '%s' is none of the %zu classes (%zu of %zu folders were matched by "
            "name)",
            folders[missing], s->count, found, n);
    for (size_t f = 0; f < n; f++) map[f] = (int)f;
}
