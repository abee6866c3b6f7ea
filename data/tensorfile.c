#include "data/tensorfile.h"

#include <stdlib.h>
#include <string.h>

struct TensorPart {
    char *path;
    Safetensors st;
};

static bool open_part(TensorFile *f, const char *path, Error *err) {
    f->parts = xrealloc(f->parts, (f->part_count + 1) * sizeof *f->parts);
    struct TensorPart *p = &f->parts[f->part_count];
    *p = (struct TensorPart){0};
    if (!safetensors_open(&p->st, path, err)) return false;
    p->path = xstrdup(path);
    f->part_count++;
    f->bytes += p->st.map.size;
    f->tensors = xrealloc(f->tensors, (f->count + p->st.count) * sizeof *f->tensors);
    if (p->st.count) memcpy(f->tensors + f->count, p->st.tensors, p->st.count * sizeof *f->tensors);
    f->count += p->st.count;
    return true;
}

static const Tensor *part_find(const struct TensorPart *p, const char *name) {
    return safetensors_find(&p->st, name);
}

static bool open_indexed(TensorFile *f, const char *path, const TensorIndex *x, Error *err) {
    const char *slash = strrchr(path, '/');
    int folder = slash ? (int)(slash + 1 - path) : 0;
    for (size_t i = 0; i < x->file_count; i++) {
        char *file = xasprintf("%.*s%s", folder, path, x->files[i]);
        bool ok = open_part(f, file, err);
        free(file);
        if (!ok) return false;
    }
    for (size_t i = 0; i < x->count; i++)
        if (!part_find(&f->parts[x->file_of[i]], x->tensors[i]))
            return error_set(err, "%.200s: %.100s is not in %.100s as it says", path, x->tensors[i],
                             x->files[x->file_of[i]]);
    return true;
}

static bool open_index(TensorFile *f, const char *path, Error *err) {
    MapFile m;
    TensorIndex x;
    Error inner;
    if (!map_file(&m, path, &inner)) return error_set(err, "%.200s: %.200s", path, inner.text);
    bool ok = tensorindex_parse(&x, (const char *)m.bytes, m.size, &inner);
    unmap_file(&m);
    if (!ok) return error_set(err, "%.200s: %.300s", path, inner.text);
    ok = open_indexed(f, path, &x, err);
    tensorindex_free(&x);
    return ok;
}

bool tensorfile_open(TensorFile *f, const char *path, Error *err) {
    *f = (TensorFile){0};
    size_t n = strlen(path);
    bool index = n > 5 && !strcmp(path + n - 5, ".json");
    if (index ? open_index(f, path, err) : open_part(f, path, err)) return true;
    tensorfile_close(f);
    return false;
}

bool tensorfile_verify(const TensorFile *f, Error *err) {
    for (size_t i = 0; i < f->part_count; i++) {
        Error inner;
        if (!safetensors_verify(&f->parts[i].st, &inner))
            return error_set(err, "%.200s: %.300s", f->parts[i].path, inner.text);
    }
    return true;
}

void tensorfile_close(TensorFile *f) {
    for (size_t i = 0; i < f->part_count; i++) {
        safetensors_close(&f->parts[i].st);
        free(f->parts[i].path);
    }
    free(f->parts);
    free(f->tensors);
    *f = (TensorFile){0};
}
