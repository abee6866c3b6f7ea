#include "data/tensors/tensorfile.h"

#include "data/io/file.h"
#include "data/tensors/torchfile.h"
#include <stdlib.h>
#include <string.h>

struct TensorPart {
    char *path;
    bool is_torch;
    Safetensors st;
    TorchFile torch;
};

/* A PyTorch file is recognised by its first bytes; anything else is read as safetensors. */
static bool looks_like_torch(const char *path) {
    uint8_t *first;
    size_t n;
    Error none;
    bool is = file_read_first(path, &first, &n, 4, &none) && torchfile_is(first, n);
    free(first);
    return is;
}

static bool open_part(TensorFile *f, const char *path, Error *err) {
    f->parts = xrealloc(f->parts, (f->part_count + 1) * sizeof *f->parts);
    struct TensorPart *p = &f->parts[f->part_count];
    *p = (struct TensorPart){.is_torch = looks_like_torch(path)};
    if (p->is_torch ? !torchfile_open(&p->torch, path, err) : !safetensors_open(&p->st, path, err))
        return false;
    const Tensor *tensors = p->is_torch ? p->torch.tensors : p->st.tensors;
    size_t count = p->is_torch ? p->torch.count : p->st.count;
    p->path = xstrdup(path);
    f->part_count++;
    f->bytes += p->is_torch ? p->torch.map.size : p->st.map.size;
    f->tensors = xrealloc(f->tensors, (f->count + count + 1) * sizeof *f->tensors);
    if (count) memcpy(f->tensors + f->count, tensors, count * sizeof *f->tensors);
    f->count += count;
    return true;
}

static bool part_has(const struct TensorPart *p, const char *name) {
    if (!p->is_torch) return safetensors_find(&p->st, name) != NULL;
    for (size_t i = 0; i < p->torch.count; i++)
        if (!strcmp(p->torch.tensors[i].name, name)) return true;
    return false;
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
        if (!part_has(&f->parts[x->file_of[i]], x->tensors[i]))
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
        const struct TensorPart *p = &f->parts[i];
        if (p->is_torch ? !torchfile_verify(&p->torch, &inner)
                        : !safetensors_verify(&p->st, &inner))
            return error_set(err, "%.200s: %.300s", p->path, inner.text);
    }
    return true;
}

const char *tensorfile_checksum(const TensorFile *f) {
    bool has = f->part_count == 1 && !f->parts->is_torch;
    return has ? safetensors_meta(&f->parts->st, "crc32c") : NULL;
}

void tensorfile_drop(const TensorFile *f) {
    for (size_t i = 0; i < f->part_count; i++) {
        const struct TensorPart *p = &f->parts[i];
        map_drop(p->is_torch ? &p->torch.map : &p->st.map);
    }
}

void tensorfile_close(TensorFile *f) {
    for (size_t i = 0; i < f->part_count; i++) {
        if (f->parts[i].is_torch)
            torchfile_close(&f->parts[i].torch);
        else
            safetensors_close(&f->parts[i].st);
        free(f->parts[i].path);
    }
    FREE_ALL(f->parts, f->tensors);
    *f = (TensorFile){0};
}
