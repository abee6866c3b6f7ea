#include "data/tensors/torchfile.h"

#include "data/tensors/pickle.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_DEPTH = 32, MAX_VISITS = 1 << 18, MAX_TENSORS = 1 << 14, MAX_NAME = 512 };

static const struct {
    const char *name;
    Dtype dtype;
    size_t size;
} storages[] = {
    {"torch FloatStorage", DTYPE_F32, 4},     {"torch HalfStorage", DTYPE_F16, 2},
    {"torch BFloat16Storage", DTYPE_BF16, 2}, {"torch DoubleStorage", DTYPE_F64, 8},
    {"torch LongStorage", DTYPE_I64, 8},      {"torch IntStorage", DTYPE_I32, 4},
    {"torch ShortStorage", DTYPE_OTHER, 2},   {"torch CharStorage", DTYPE_OTHER, 1},
    {"torch ByteStorage", DTYPE_U8, 1},       {"torch BoolStorage", DTYPE_OTHER, 1},
};

typedef struct Walk {
    TorchFile *f;
    const char *root; /* the archive's folder */
    char name[MAX_NAME];
    size_t visits, room, gathered;
    Error *err;
} Walk;

/* ---- one tensor ---- */

/* The storage's bytes, at least `elements` of them. */
static bool find_storage(Walk *w, const PickleValue *s, size_t size, const unsigned char **data,
                         Error *err) {
    char *path = xasprintf("%s/data/%s", w->root, s->text);
    const ZipMember *m = zip_find(&w->f->zip, path);
    size_t bytes;
    bool ok = m && m->stored && !__builtin_mul_overflow((size_t)s->integer, size, &bytes) &&
              bytes <= m->size;
    if (!m)
        error_set(err, "its data %.100s is missing", path);
    else if (!m->stored)
        error_set(err, "its data %.100s is compressed: save it again with PyTorch", path);
    else if (!ok)
        error_set(err, "its data %.100s has %zu bytes, too few", path, m->size);
    free(path);
    if (ok) *data = m->data;
    return ok;
}

/* *end: one past the last storage element that the tensor reads; false: an overflow. */
static bool reach(const Tensor *t, const size_t *stride, size_t offset, size_t *end) {
    *end = offset;
    for (int d = 0; d < t->ndim; d++) {
        size_t step;
        if (__builtin_mul_overflow(t->shape[d] - 1, stride[d], &step) ||
            __builtin_add_overflow(*end, step, end))
            return false;
    }
    return !__builtin_add_overflow(*end, 1, end);
}

static bool is_row_major(const Tensor *t, const size_t *stride) {
    size_t want = 1;
    for (int d = t->ndim; d-- > 0;) {
        if (t->shape[d] != 1 && stride[d] != want) return false;
        want *= t->shape[d];
    }
    return true;
}

/* Copies the elements in row-major order. */
static const void *gather(TorchFile *f, const Tensor *t, const size_t *stride,
                          const unsigned char *from, size_t size) {
    unsigned char *to = xmalloc(size_mul(t->count, size));
    size_t at[COUNT(t->shape)] = {0};
    for (size_t i = 0; i < t->count; i++) {
        size_t place = 0;
        for (int d = 0; d < t->ndim; d++) place += at[d] * stride[d];
        memcpy(to + i * size, from + place * size, size);
        for (int d = t->ndim; d-- > 0 && ++at[d] == t->shape[d];) at[d] = 0;
    }
    f->copies = xrealloc(f->copies, (f->copy_count + 1) * sizeof *f->copies);
    f->copies[f->copy_count++] = to;
    return to;
}

static bool read_shape(Tensor *t, size_t *stride, const PickleTensor *p) {
    if (p->ndim > COUNT(t->shape)) return false;
    t->ndim = (int)p->ndim;
    t->count = 1;
    for (int d = 0; d < t->ndim; d++) {
        t->shape[d] = p->sizes[d];
        stride[d] = p->sizes[p->ndim + (size_t)d];
        if (__builtin_mul_overflow(t->count, t->shape[d], &t->count)) return false;
    }
    return true;
}

static bool read_tensor(Walk *w, Tensor *t, const PickleTensor *p, Error *err) {
    const PickleValue *s = p->storage;
    size_t stride[COUNT(t->shape)], kind = 0, end;
    while (kind < COUNT(storages) && strcmp(storages[kind].name, s->name)) kind++;
    assert(kind < COUNT(storages));
    size_t size = storages[kind].size, offset = p->offset;
    const unsigned char *data;
    t->dtype = storages[kind].dtype;
    if (!read_shape(t, stride, p)) return error_set(err, "its shape is not usable");
    if (!find_storage(w, s, size, &data, err)) return false;
    if (!t->count) return true;
    /* a tensor with more elements than its storage repeats them */
    if (!reach(t, stride, offset, &end) || end > (size_t)s->integer ||
        t->count > (size_t)s->integer)
        return error_set(err, "it reaches beyond its data");
    data += offset * size;
    t->data = data;
    if (is_row_major(t, stride)) return true;
    /* many views may share one storage */
    w->gathered += t->count * size;
    if (w->gathered > w->f->map.size)
        return error_set(err, "views that are not contiguous take more than the file");
    t->data = gather(w->f, t, stride, data, size);
    return true;
}

/* ---- the tree ---- */

static bool add_tensor(Walk *w, const PickleTensor *p) {
    TorchFile *f = w->f;
    if (f->count == MAX_TENSORS) return error_set(w->err, "more than %d tensors", MAX_TENSORS);
    if (f->count == w->room) {
        w->room = w->room ? 2 * w->room : 256;
        f->tensors = xrealloc(f->tensors, w->room * sizeof *f->tensors);
    }
    Tensor t = {0};
    Error inner;
    if (!read_tensor(w, &t, p, &inner))
        return error_set(w->err, "tensor %.100s: %.300s", w->name, inner.text);
    t.name = xstrdup(w->name);
    f->tensors[f->count++] = t;
    return true;
}

/* Tensors of a dict; of a module also those of the modules in it. */
static bool walk(Walk *w, const PickleValue *v, size_t length, int depth) {
    if (depth > MAX_DEPTH) return error_set(w->err, "modules in modules in modules …");
    for (size_t i = 0; i + 1 < v->count; i += 2) {
        const PickleValue *key = v->items[i], *value = v->items[i + 1];
        bool tensor = value->kind == PICKLE_TENSOR, module = value->kind == PICKLE_OBJECT;
        if (++w->visits > MAX_VISITS) return error_set(w->err, "modules that multiply");
        if (key->kind != PICKLE_STRING || (!tensor && !module)) continue;
        size_t n = strlen(key->text), dot = length > 0;
        if (length + dot + n >= MAX_NAME) return error_set(w->err, "a name that is too long");
        if (dot) w->name[length] = '.';
        memcpy(w->name + length + dot, key->text, n + 1);
        if (tensor ? !add_tensor(w, value->tensor) : !walk(w, value, length + dot + n, depth + 1))
            return false;
    }
    return true;
}

static bool no_tensors(const PickleValue *root, Error *err) {
    char keys[200] = "";
    size_t n = 0;
    for (size_t i = 0; i + 1 < root->count && n < 100; i += 2)
        if (root->items[i]->kind == PICKLE_STRING)
            n += (size_t)snprintf(keys + n, sizeof keys - n, "%s%.60s", n ? ", " : "",
                                  root->items[i]->text);
    return error_set(err, "it holds no dictionary of tensors (its keys: %s)", keys);
}

static bool read_tree(Walk *w, const PickleValue *root, Error *err) {
    const PickleValue *state = pickle_get(root, "state_dict"), *from = state ? state : root;
    if (from->kind != PICKLE_DICT && from->kind != PICKLE_OBJECT)
        return error_set(err, "it holds no dictionary of tensors");
    if (!walk(w, from, 0, 0)) return false;
    return w->f->count || no_tensors(from, err);
}

/* ---- the archive ---- */

/* "archive/data.pkl"; the folder has the file's original name. */
static const ZipMember *find_pickle(const Zip *z, Error *err) {
    static const char name[] = "/data.pkl";
    for (size_t i = 0; i < z->count; i++) {
        const char *slash = strchr(z->members[i].name, '/');
        if (!slash || strcmp(slash, name)) continue;
        if (z->members[i].stored) return &z->members[i];
        error_set(err, "its data.pkl is compressed: save it again with PyTorch");
        return NULL;
    }
    error_set(err, "an archive, but not one of PyTorch (no data.pkl)");
    return NULL;
}

static bool check_order(const Zip *z, const char *root, Error *err) {
    char *path = xasprintf("%s/byteorder", root);
    const ZipMember *m = zip_find(z, path);
    free(path);
    if (!m || (m->stored && m->size == 6 && !memcmp(m->data, "little", 6))) return true;
    return error_set(err, "its numbers are not little-endian");
}

static bool read_archive(TorchFile *f, Error *err) {
    if (!torchfile_is(f->map.bytes, f->map.size)) return error_set(err, "not a PyTorch file");
    if (f->map.bytes[0] != 'P')
        return error_set(err, "the form that torch.save had before PyTorch 1.6: load and save it "
                              "again with a newer one");
    if (!zip_open(&f->zip, f->map.bytes, f->map.size, err)) return false;
    const ZipMember *m = find_pickle(&f->zip, err);
    if (!m) return false;
    char *root = xstrdup(m->name);
    *strchr(root, '/') = 0;
    char *constants = xasprintf("%s/constants.pkl", root);
    f->script = zip_find(&f->zip, constants) != NULL;
    Pickle p = {0};
    Walk w = {.f = f, .root = root, .err = err};
    bool ok = check_order(&f->zip, root, err) && zip_verify(m, err) &&
              pickle_parse(&p, m->data, m->size, err) && read_tree(&w, p.root, err);
    pickle_free(&p);
    FREE_ALL(constants, root);
    return ok;
}

bool torchfile_is(const unsigned char *bytes, size_t n) {
    return n >= 4 && (!memcmp(bytes, "PK\3\4", 4) || (bytes[0] == 0x80 && bytes[1] == 2));
}

bool torchfile_open(TorchFile *f, const char *path, Error *err) {
    *f = (TorchFile){0};
    Error inner;
    if (map_file(&f->map, path, &inner) && read_archive(f, &inner)) return true;
    torchfile_close(f);
    return error_set(err, "%.200s: %.300s", path, inner.text);
}

bool torchfile_verify(const TorchFile *f, Error *err) {
    for (size_t i = 0; i < f->zip.count; i++) {
        if (!zip_verify(&f->zip.members[i], err)) return false;
        map_drop(&f->map);
    }
    return true;
}

void torchfile_close(TorchFile *f) {
    for (size_t i = 0; i < f->count; i++) free((char *)f->tensors[i].name);
    for (size_t i = 0; i < f->copy_count; i++) free(f->copies[i]);
    FREE_ALL(f->tensors, f->copies);
    zip_close(&f->zip);
    unmap_file(&f->map);
    *f = (TorchFile){0};
}
