#include "train/model/weights.h"

#include "data/io/folder.h"
#include "data/io/machine.h"
#include "train/model/positions.h"
#include "train/model/weight_names.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { CHUNK = 1 << 18, MAX_TENSORS = 1 << 14 };

/* ---- opening ---- */

char *weights_find_file(const char *path) {
    static const char *const names[] = {
        "open_clip_model.safetensors", "open_clip_pytorch_model.bin",
        "model.safetensors",           "model.safetensors.index.json",
        "pytorch_model.bin",           "pytorch_model.bin.index.json"};
    if (!folder_is(path)) return xstrdup(path);
    for (size_t i = 0; i < COUNT(names); i++) {
        char *file = folder_path(path, names[i]);
        if (machine_access(file, F_OK)) return file;
        free(file);
    }
    return NULL;
}

/* Published weights that need QuickGELU, by the names of their files (open_clip's
 * pretrained.py). */
static bool openai_by_name(const char *path) {
    static const char *const families[] = {"openai", "metaclip", "dfn2b", "dfn5b"};
    for (size_t i = 0; i < COUNT(families); i++)
        if (strcasestr(path, families[i])) return true;
    return strcasestr(path, "laion400m") && (strcasestr(path, "b-32") || strcasestr(path, "b_32"));
}

Weight weight_of(const Tensor *t) {
    Weight w = {.part = {t}, .ndim = t->ndim, .count = t->count};
    memcpy(w.shape, t->shape, sizeof w.shape);
    return w;
}

static bool add_tensor(Weights *w, const Tensor *t, Error *err) {
    WeightName n = weight_name_in(t->name);
    Weight *old = (Weight *)weights_find(w, n.name);
    int split = n.thirds ? 3 : n.half ? 2 : 0;
    int first = n.half ? n.half - 1 : n.third, parts = n.half ? 1 : n.thirds;
    bool place_free = old && split && old->split == split;
    for (int i = 0; place_free && i < parts; i++) place_free = !old->part[first + i];
    if (old && !place_free) return error_set(err, "%s is there twice", n.name);
    Weight *new = old ? old : &w->list[w->count++];
    if (!old) {
        *new = weight_of(t);
        memcpy(new->name, n.name, sizeof new->name);
        new->split = split;
        if (new->split) new->part[0] = NULL;
    }
    for (int i = 0; i < parts; i++) new->part[first + i] = t;
    for (int i = 0; i < n.ones && new->ndim &&new->shape[0] == 1; i++)
        memmove(new->shape, new->shape + 1, (size_t)-- new->ndim * sizeof *new->shape);
    if (n.square && new->ndim == 3) {
        new->shape[0] = size_mul(new->shape[0], new->shape[1]);
        new->shape[1] = new->shape[2];
        new->ndim = 2;
    }
    new->transposed = n.transposed && t->ndim == 2;
    if (new->transposed) {
        new->shape[0] = t->shape[1];
        new->shape[1] = t->shape[0];
    }
    return true;
}

static bool stack_halves(Weight *w, Error *err) {
    const Tensor *gate = w->part[0], *value = w->part[1];
    if (!gate || !value)
        return error_set(err, "%s: the %s projection is missing", w->name, gate ? "value" : "gate");
    bool same = gate->ndim == value->ndim && gate->ndim >= 1;
    for (int d = 0; same && d < gate->ndim; d++) same = gate->shape[d] == value->shape[d];
    if (!same) return error_set(err, "%s: gate and value differ in shape", w->name);
    w->shape[0] = size_mul(gate->shape[0], 2);
    w->count = size_mul(gate->count, 2);
    return true;
}

static bool stack_parts(Weight *w, Error *err) {
    if (!w->split) return true;
    if (w->split == 2) return stack_halves(w, err);
    const Tensor *q = w->part[0], *k = w->part[1], *v = w->part[2];
    bool bias = q && q->ndim == 1; /* of a key: fit_one requires it if the model has one */
    if (!q || !v || (!k && !bias))
        return error_set(err, "%s: the %s projection is missing", w->name,
                         !q   ? "query"
                         : !k ? "key"
                              : "value");
    for (int i = 0; i < 3; i++) {
        const Tensor *t = w->part[i];
        if (!t) continue;
        size_t shares = i && k == v ? 2 : 1;
        bool same = t->ndim == q->ndim && t->ndim >= 1;
        for (int d = 0; same && d < t->ndim; d++)
            same = t->shape[d] == size_mul(q->shape[d], d ? 1 : shares);
        if (!same) return error_set(err, "%s: query, key and value differ in shape", w->name);
    }
    w->shape[0] = size_mul(q->shape[0], 3);
    for (int d = 1; d < q->ndim; d++) w->shape[d] = q->shape[d];
    w->count = size_mul(q->count, 3);
    return true;
}

/* CLIPModel's projection has the name of open_clip's with a bias; only the latter has one. */
static void name_projection(Weights *w) {
    Weight *p = (Weight *)weights_find(w, "text_projection");
    if (!p || !p->transposed || !weights_find(w, "text_projection.bias")) return;
    *p = weight_of(p->part[0]);
    snprintf(p->name, sizeof p->name, "text_projection.weight");
}

static bool name_all(Weights *w, Error *err) {
    if (w->file.count > MAX_TENSORS)
        return error_set(err, "%zu tensors are too many", w->file.count);
    w->list = xcalloc(w->file.count + 1, sizeof *w->list);
    for (size_t i = 0; i < w->file.count; i++) {
        const Tensor *t = &w->file.tensors[i];
        if (weight_is_buffer(t->name))
            w->openai |= strstr(t->name, "input_resolution") != NULL;
        else if (!add_tensor(w, t, err))
            return false;
    }
    for (size_t i = 0; i < w->count; i++)
        if (!stack_parts(&w->list[i], err)) return false;
    name_projection(w);
    return true;
}

bool weights_open(Weights *w, const char *path, Error *err) {
    *w = (Weights){.path = weights_find_file(path), .openai = openai_by_name(path)};
    if (!w->path)
        return error_set(err,
                         "%.200s: no weights in this folder (open_clip_model.safetensors, "
                         "model.safetensors, pytorch_model.bin, …)",
                         path);
    if (!tensorfile_open(&w->file, w->path, err)) {
        weights_close(w);
        return false;
    }
    Error inner;
    if (tensorfile_verify(&w->file, err)) {
        if (name_all(w, &inner)) return true;
        error_set(err, "%.200s: %.300s", w->path, inner.text);
    }
    weights_close(w);
    return false;
}

void weights_close(Weights *w) {
    for (size_t i = 0; i < w->count; i++) free(w->list[i].own);
    FREE_ALL(w->list, w->path);
    tensorfile_close(&w->file);
    *w = (Weights){0};
}

const Weight *weights_find(const Weights *w, const char *name) {
    for (size_t i = 0; i < w->count; i++)
        if (!strcmp(w->list[i].name, name)) return &w->list[i];
    return NULL;
}

/* ---- fitting to a model ---- */

static const char *shape_text(char out[160], int ndim, const size_t *shape) {
    int n = snprintf(out, 160, "[");
    for (int i = 0; i < ndim && n < 140; i++)
        n += snprintf(out + n, (size_t)(160 - n), i ? ",%zu" : "%zu", shape[i]);
    snprintf(out + n, (size_t)(160 - n), "]");
    return out;
}

static bool same_shape(const Weight *w, const Param *q) {
    if (w->count == 1 && q->size == 1 && w->ndim <= 1 && q->ndim <= 1) return true; /* [] and [1] */
    if (w->ndim != q->ndim) return false;
    for (int i = 0; i < q->ndim; i++)
        if (w->shape[i] != q->shape[i]) return false;
    return true;
}

/* The patches' matrix as NaFlex's files have it, [C,P·P·3]. */
static void take_layout(Weight *w, const Param *q) {
    if (q->role == ROLE_PATCHES && q->ndim == 4 && w->ndim == 2 && w->shape[0] == q->shape[0] &&
        w->count == q->size && !w->split) {
        w->channels_last = true;
        w->ndim = q->ndim;
        memcpy(w->shape, q->shape, sizeof q->shape);
    }
}

/* A positional embedding of another length; false: not that, or not resizable. */
static bool resize_to(Weight *w, const Param *q) {
    if (q->role != ROLE_POSITIONS || w->ndim != 2 || w->shape[1] != q->shape[1]) return false;
    float *from = xmalloc(size_mul(w->count, sizeof *from));
    weight_read(w, 0, w->count, from);
    w->own = positions_resize(from, w->shape[0], q->shape[0], q->shape[1], q->tower == TOWER_IMAGE,
                              q->kept);
    free(from);
    if (!w->own) return false;
    log_info("%s resized from %zu to %zu positions%s", q->name, w->shape[0], q->shape[0],
             q->kept ? ", the first ones kept" : "");
    w->shape[0] = q->shape[0];
    w->count = q->size;
    return true;
}

static bool fit_one(Weight *w, const Param *q, Error *err) {
    for (int i = 0; i < 3; i++)
        if (w->part[i] && w->part[i]->dtype > DTYPE_BF16)
            return error_set(err, "%.100s is not a floating-point tensor", w->part[i]->name);
    if (w->split == 3 && !w->part[1] && !q->no_key)
        return error_set(err, "%s: the key projection is missing", w->name);
    if (q->no_key && (w->split != 3 || w->part[1]))
        return error_set(err, "%s has a bias of keys, the model has none: is this another --model?",
                         w->name);
    char has[160], wants[160];
    take_layout(w, q);
    if (same_shape(w, q) || resize_to(w, q)) return true;
    if (q->kept && w->ndim == 2 && size_min(w->shape[0], q->shape[0]) <= q->kept)
        return error_set(err,
                         "%s: %zu positions become %zu: --keep-positions %zu leaves none to "
                         "stretch",
                         q->name, w->shape[0], q->shape[0], q->kept);
    return error_set(err, "%s is %s, the model needs %s: is this another --model?",
                     w->part[0]->name, shape_text(has, w->ndim, w->shape),
                     shape_text(wants, q->ndim, q->shape));
}

/* Returns true if the file has no tensor of a tower beside this one. */
static bool has_alone(const Weights *w, const Param *list, size_t count, ParamTower tower) {
    for (size_t i = 0; i < count; i++)
        if (list[i].tower && list[i].tower != tower && weights_find(w, list[i].name)) return false;
    return tower != TOWER_NONE;
}

static Weight scalar(float value) {
    Weight w = {.count = 1, .own = xmalloc(sizeof value)};
    *w.own = value;
    return w;
}

static bool fit_all(Weights *w, Weight *fitted, const Param *list, size_t count, ParamTower only,
                    Error *err) {
    bool alone = has_alone(w, list, count, only);
    for (size_t i = 0; i < count; i++) {
        const Param *q = &list[i];
        const Weight *found = weights_find(w, q->name);
        if (found) {
            fitted[i] = *found;
            if (!fit_one(&fitted[i], q, err)) return false;
            continue;
        }
        if (alone && q->tower != only) {
            if (!q->tower) fitted[i] = scalar((float)q->init.value);
        } else if (q->role == ROLE_LOGIT_BIAS) {
            log_info("%s has no logit_bias: 0", w->path);
            fitted[i] = scalar(0);
        } else {
            return error_set(err, "%s is missing: is this another --model?", q->name);
        }
        memcpy(fitted[i].name, q->name, sizeof fitted[i].name);
    }
    return true;
}

bool weights_fit(Weights *w, const Param *list, size_t count, ParamTower only, const char *model,
                 Error *err) {
    for (size_t i = 0; i < w->count; i++) {
        bool known = false;
        for (size_t j = 0; j < count && !known; j++) known = !strcmp(w->list[i].name, list[j].name);
        if (!known)
            return error_set(err,
                             "%s: %s is no tensor of the model %.100s: is this another "
                             "--model?",
                             w->path, w->list[i].name, model);
    }
    Weight *fitted = xcalloc(count, sizeof *fitted);
    Error inner;
    bool ok = fit_all(w, fitted, list, count, only, &inner);
    if (!ok) error_set(err, "%.200s: %.300s", w->path, inner.text);
    free(w->list);
    w->list = fitted;
    w->count = count;
    return ok;
}

/* ---- reading ---- */

static void read_part(const Tensor *t, size_t first, size_t n, float *out) {
    bool ok = tensor_read_f32(t, first, n, out);
    assert(ok);
}

void weight_read(const Weight *w, size_t first, size_t n, float *out) {
    assert(first <= w->count && n <= w->count - first);
    if (w->own) {
        memcpy(out, w->own + first, n * sizeof *out);
    } else if (w->transposed) {
        size_t rows = w->shape[0], cols = w->shape[1];
        for (size_t i = 0; i < n; i++)
            read_part(w->part[0], (first + i) % cols * rows + (first + i) / cols, 1, out + i);
    } else if (w->channels_last) {
        size_t row = w->count / w->shape[0], area = row / w->shape[1];
        for (size_t i = 0; i < n; i++) {
            size_t at = (first + i) % row;
            read_part(w->part[0], first + i - at + at % area * w->shape[1] + at / area, 1, out + i);
        }
    } else if (w->split) {
        size_t size = w->count / (size_t)w->split;
        while (n) {
            size_t at = first % size, here = size_min(n, size - at);
            const Tensor *t = w->part[first / size];
            /* thirds of the same tensor */
            size_t before = t && t->count > size ? first / size - 1 : 0;
            if (t)
                read_part(t, before * size + at, here, out);
            else
                memset(out, 0, here * sizeof *out);
            first += here;
            out += here;
            n -= here;
        }
    } else {
        read_part(w->part[0], first, n, out);
    }
}

void weight_load(const Weight *w, const Params *p, acc *block, const Param *q) {
    assert(w->count == q->size);
    acc *to = param_in(p, block, q);
    float *chunk = xmalloc(CHUNK * sizeof *chunk);
    for (size_t first = 0; first < q->size; first += CHUNK) {
        size_t n = size_min(CHUNK, q->size - first);
        weight_read(w, first, n, chunk);
        p->k->acc_set_f32(acc_at(p->k, to, first), chunk, n);
    }
    free(chunk);
}
