/* The JSON index over the files of a checkpoint in parts: {"weight_map": {tensor: file, …}}. */
#include "data/tensors/tensorfile.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_INDEX = 8 << 20, MAX_FILES = 1024, MAX_TENSORS = 1 << 14 };

/* The files are in the index's folder; a name that leads elsewhere is refused. */
static bool plain_name(const char *name) {
    return *name && *name != '.' && !strchr(name, '/') && strlen(name) < 256;
}

static bool add_entry(TensorIndex *x, const char *tensor, const json_t *value, Error *err) {
    const char *file = json_string_value(value);
    if (!file || !plain_name(file))
        return error_set(err, "weight_map.%.100s: expected the plain name of a file beside it",
                         tensor);
    size_t at = 0;
    while (at < x->file_count && strcmp(x->files[at], file)) at++;
    if (at == MAX_FILES) return error_set(err, "more than %d files", MAX_FILES);
    if (at == x->file_count) x->files[x->file_count++] = xstrdup(file);
    x->tensors[x->count] = xstrdup(tensor);
    x->file_of[x->count++] = at;
    return true;
}

static bool read_map(TensorIndex *x, json_t *map, Error *err) {
    size_t n = json_object_size(map);
    if (!json_is_object(map) || !n) return error_set(err, "no weight_map: not an index of tensors");
    if (n > MAX_TENSORS) return error_set(err, "%zu tensors are too many", n);
    x->tensors = xcalloc(n, sizeof *x->tensors);
    x->file_of = xcalloc(n, sizeof *x->file_of);
    x->files = xcalloc(size_min(n, MAX_FILES), sizeof *x->files);
    const char *key;
    json_t *value;
    json_object_foreach(map, key, value) {
        if (!add_entry(x, key, value, err)) return false;
    }
    return true;
}

bool tensorindex_parse(TensorIndex *x, const char *json, size_t n, Error *err) {
    *x = (TensorIndex){0};
    if (n > MAX_INDEX) return error_set(err, "%zu bytes are too many for an index", n);
    json_error_t where;
    json_t *root = json_loadb(json, n, JSON_REJECT_DUPLICATES, &where);
    if (!root) return error_set(err, "line %d: %.200s", where.line, where.text);
    bool ok = read_map(x, json_object_get(root, "weight_map"), err);
    json_decref(root);
    if (!ok) tensorindex_free(x);
    return ok;
}

void tensorindex_free(TensorIndex *x) {
    for (size_t i = 0; i < x->count; i++) free(x->tensors[i]);
    for (size_t i = 0; i < x->file_count; i++) free(x->files[i]);
    FREE_ALL(x->tensors, x->file_of, x->files);
    *x = (TensorIndex){0};
}
