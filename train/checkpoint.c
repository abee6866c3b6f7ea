#include "train/checkpoint.h"

#include "data/safetensors.h"
#include "train/shard.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { CHUNK = 1 << 18 }; /* elements on their way between device and file */
static const char model_file[] = "open_clip_model.safetensors";
static const char config_file[] = "open_clip_config.json";
static const char state_file[] = "train_state.safetensors";
static const char vocab_file[] = "vocab.bpe";
static const char choices_file[] = "gpu_products.txt";
static const char state_format[] = "clipc-train-state-1";

static char *path_in(const char *folder, const char *name) {
    return xasprintf("%s/%s", folder, name);
}

static bool is_folder(const char *path) {
    struct stat s;
    return !stat(path, &s) && S_ISDIR(s.st_mode);
}

/* ---- folders ---- */

/* A folder of plain files, as checkpoints are; a file that cannot go leaves the folder standing. */
static void remove_folder(const char *path) {
    DIR *d = opendir(path);
    if (!d) return;
    for (struct dirent *e; (e = readdir(d));)
        if (strcmp(e->d_name, ".") && strcmp(e->d_name, "..")) unlinkat(dirfd(d), e->d_name, 0);
    closedir(d);
    rmdir(path);
}

static void make_folders(const char *path) {
    char *part = xstrdup(path);
    for (char *slash = part + 1;; slash++) {
        if (*slash && *slash != '/') continue;
        char was = *slash;
        *slash = 0;
        if (mkdir(part, 0777) && errno != EEXIST)
            die("checkpoint folder %s: %s", part, strerror(errno));
        *slash = was;
        if (!was) break;
    }
    free(part);
}

static bool sync_folder(const char *path) {
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return false;
    bool ok = !fsync(fd) || errno == EINVAL; /* EINVAL: a file system without it */
    close(fd);
    return ok;
}

static bool write_file(const char *path, const void *bytes, size_t n) {
    FILE *f = fopen(path, "wb");
    if (!f) return false;
    bool ok = fwrite(bytes, 1, n, f) == n && !fflush(f) && !fsync(fileno(f));
    return !fclose(f) && ok;
}

/* `from` takes the place of `to`, which disappears. A crash at any point leaves a whole folder that
 * checkpoint_latest finds: under the name `to` where the file system can exchange names, else
 * perhaps as `to`.old. */
static bool replace_folder(const char *from, const char *to) {
    if (!rename(from, to)) return true;
    if (errno != ENOTEMPTY && errno != EEXIST) return false;
    if (!renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_EXCHANGE)) {
        remove_folder(from);
        return true;
    }
    char *old = xasprintf("%s.old", to);
    remove_folder(old);
    bool ok = !rename(to, old) && !rename(from, to);
    if (ok) remove_folder(old);
    free(old);
    return ok;
}

/* What a run that was killed while saving left behind. */
static void remove_unfinished(const char *dir) {
    DIR *d = opendir(dir);
    if (!d) return;
    for (struct dirent *e; (e = readdir(d));) {
        if (strncmp(e->d_name, ".tmp-", 5)) continue;
        char *path = path_in(dir, e->d_name);
        if (unlink(path)) remove_folder(path);
        free(path);
    }
    closedir(d);
}

/* ---- saving ---- */

static void shape_of(Tensor *t, const Param *q, const char *name) {
    *t = (Tensor){.name = name, .dtype = DTYPE_F32, .ndim = q->ndim, .count = q->size};
    for (int i = 0; i < q->ndim; i++) t->shape[i] = q->shape[i];
}

static void append_param(SafetensorsWriter *w, const Params *p, const acc *block, const Param *q,
                         float *chunk) {
    for (size_t first = 0; first < q->size; first += CHUNK) {
        size_t n = size_min(CHUNK, q->size - first);
        p->k->acc_get_f32(chunk, acc_at(p->k, block, q->offset + first), n);
        safetensors_append(w, chunk, n * sizeof *chunk);
    }
}

static bool write_model(const char *path, const Params *p, Error *err) {
    static const char *const meta[] = {"format", "pt"};
    Tensor *tensors = xcalloc(p->count, sizeof *tensors);
    for (size_t i = 0; i < p->count; i++) shape_of(&tensors[i], &p->list[i], p->list[i].name);
    SafetensorsWriter *w = safetensors_create(path, tensors, p->count, meta, 1);
    float *chunk = xmalloc(CHUNK * sizeof *chunk);
    for (size_t i = 0; i < p->count; i++) append_param(w, p, p->master, &p->list[i], chunk);
    free(chunk);
    free(tensors);
    return safetensors_finish(w, err);
}

static bool write_state(const char *path, const Params *p, const TrainState *s, Error *err) {
    char number[4][24];
    const uint64_t value[4] = {s->step, s->epoch, s->position, s->seed};
    for (int i = 0; i < 4; i++)
        snprintf(number[i], sizeof number[i], "%llu", (unsigned long long)value[i]);
    char best[METRIC_NAME + 80];
    snprintf(best, sizeof best, "%a %llu %llu %s", s->best.value, (unsigned long long)s->best.step,
             (unsigned long long)s->best.stale, s->best.metric);
    const char *const meta[] = {"format",   state_format, "step", number[0], "epoch", number[1],
                                "position", number[2],    "seed", number[3], "best",  best};
    char(*names)[128] = xcalloc(2 * p->count, sizeof *names);
    Tensor *tensors = xcalloc(2 * p->count, sizeof *tensors);
    for (size_t i = 0; i < 2 * p->count; i++) {
        const Param *q = &p->list[i % p->count];
        snprintf(names[i], sizeof names[i], "%s.%s", i < p->count ? "adam_m" : "adam_v", q->name);
        shape_of(&tensors[i], q, names[i]);
    }
    SafetensorsWriter *w =
        safetensors_create(path, tensors, 2 * p->count, meta, *s->best.metric ? 6 : 5);
    float *chunk = xmalloc(CHUNK * sizeof *chunk);
    for (int moment = 0; moment < 2; moment++) {
        const acc *whole = shard_whole(p, moment ? p->v : p->m);
        for (size_t i = 0; i < p->count; i++) append_param(w, p, whole, &p->list[i], chunk);
    }
    if (is_sharded(p)) p->k->zero(p->grad, p->size * p->k->acc_size);
    free(chunk);
    free(tensors);
    free(names);
    return safetensors_finish(w, err);
}

static bool copy_file(const char *from, const char *to) {
    FILE *f = fopen(from, "rb");
    if (!f) return false;
    struct stat s;
    size_t size = fstat(fileno(f), &s) ? 0 : (size_t)s.st_size;
    char *bytes = xmalloc(size);
    bool ok = fread(bytes, 1, size, f) == size;
    fclose(f);
    ok = ok && write_file(to, bytes, size);
    free(bytes);
    return ok;
}

/* Where the run's vocabulary came from may have been pruned: then the newest checkpoint has it. */
static bool copy_vocab(const char *dir, const char *vocab_path, const char *to) {
    if (copy_file(vocab_path, to)) return true;
    if (errno != ENOENT) return false;
    char *latest = xasprintf("%s/latest/%s", dir, vocab_file);
    bool ok = copy_file(latest, to);
    free(latest);
    return ok;
}

static bool system_error(const char *path, Error *err) {
    return error_set(err, "%.200s: %s", path, strerror(errno));
}

static bool write_folder(const char *dir, const char *folder, const Params *p, const ClipConfig *c,
                         const TrainState *s, const char *vocab_path, Error *err) {
    if (mkdir(folder, 0777)) return system_error(folder, err);
    char *path[] = {path_in(folder, model_file), path_in(folder, config_file),
                    path_in(folder, state_file), path_in(folder, vocab_file),
                    path_in(folder, choices_file)};
    char *json = clip_config_to_json(c);
    bool ok = write_model(path[0], p, err);
    if (ok && !write_file(path[1], json, strlen(json))) ok = system_error(path[1], err);
    if (ok && p->m) ok = write_state(path[2], p, s, err);
    if (ok && vocab_path && !copy_vocab(dir, vocab_path, path[3])) ok = system_error(path[3], err);
    ok = ok && kernels_write_choices(path[4], err);
    if (ok && !sync_folder(folder)) ok = system_error(folder, err);
    free(json);
    for (size_t i = 0; i < COUNT(path); i++) free(path[i]);
    return ok;
}

static void point_latest(const char *dir, const char *name) {
    char *beside = xasprintf("%s/.tmp-latest", dir), *latest = xasprintf("%s/latest", dir);
    /* only a convenience: checkpoint_latest looks at the checkpoints themselves */
    if (symlink(name, beside) || rename(beside, latest))
        log_warn("%s cannot point to %s: %s", latest, name, strerror(errno));
    free(beside);
    free(latest);
}

void checkpoint_save(const char *dir, const char *name, const Params *p, const ClipConfig *c,
                     const TrainState *s, const char *vocab_path) {
    assert(*name && *name != '.' && !strchr(name, '/'));
    make_folders(dir);
    char *beside = xasprintf("%s/.tmp-%s", dir, name), *folder = path_in(dir, name);
    remove_unfinished(dir);
    Error err;
    bool ok = write_folder(dir, beside, p, c, s, vocab_path, &err);
    if (ok && !(replace_folder(beside, folder) && sync_folder(dir)))
        ok = system_error(folder, &err);
    if (!ok) {
        remove_folder(beside);
        die("checkpoint not saved: %s (the checkpoints before it stand; make room or choose "
            "another --logs, then --resume latest)",
            err.text);
    }
    point_latest(dir, name);
    if (!sync_folder(dir)) log_warn("%s: %s", dir, strerror(errno));
    free(beside);
    free(folder);
}

void checkpoint_help_save(const Params *p) {
    if (!is_sharded(p)) return;
    shard_whole(p, p->m);
    shard_whole(p, p->v);
    p->k->zero(p->grad, p->size * p->k->acc_size);
}

char *checkpoint_vocab(const char *path) {
    char *vocab = path_in(path, vocab_file);
    if (!access(vocab, R_OK)) return vocab;
    free(vocab);
    return NULL;
}

void checkpoint_load_choices(const char *path) {
    char *choices = path_in(path, choices_file);
    Error err;
    if (!access(choices, R_OK) && !kernels_read_choices(choices, &err))
        log_warn("%s: products are chosen anew, so the last bits may differ from a run that was "
                 "not interrupted",
                 err.text);
    free(choices);
}

/* ---- loading ---- */

/* Weights of output positions over n_in input positions: row o holds the weights w[o,·]; resampling
 * is a product with this matrix, for each of the two axes of a grid. */
static double *resize_matrix(size_t n_in, size_t n_out, bool bicubic) {
    double *w = xcalloc(size_mul(n_in, n_out), sizeof *w), scale = (double)n_in / (double)n_out;
    for (size_t o = 0; o < n_out; o++) {
        double *row = w + o * n_in, centre = ((double)o + 0.5) * scale, sum = 0;
        if (!bicubic) { /* linear between the two neighbours, no antialiasing */
            double x = fmax(centre - 0.5, 0);
            size_t a = size_min((size_t)x, n_in - 1), b = size_min(a + 1, n_in - 1);
            row[a] += 1 - (x - (double)a);
            row[b] += x - (double)a;
            continue;
        }
        /* Keys' cubic with a = -1/2, widened by the reduction (antialias) */
        double widen = fmax(scale, 1), support = 2 * widen;
        size_t lo = (size_t)fmax(floor(centre - support + 0.5), 0);
        size_t hi = size_min((size_t)floor(centre + support + 0.5), n_in);
        for (size_t i = lo; i < hi; i++) {
            double x = fabs(((double)i - centre + 0.5) / widen);
            if (x < 1)
                row[i] = (1.5 * x - 2.5) * x * x + 1;
            else if (x < 2)
                row[i] = ((-0.5 * x + 2.5) * x - 4) * x + 2;
            sum += row[i];
        }
        for (size_t i = lo; i < hi; i++) row[i] /= sum;
    }
    return w;
}

/* out[n_out,C] = w[n_out,n_in] in[n_in,C], with `step` floats between rows. */
static void resample(float *out, const float *in, const double *w, size_t n_in, size_t n_out,
                     size_t step, size_t C) {
    for (size_t o = 0; o < n_out; o++)
        for (size_t c = 0; c < C; c++) {
            double sum = 0;
            for (size_t i = 0; i < n_in; i++) sum += w[o * n_in + i] * (double)in[i * step + c];
            out[o * step + c] = (float)sum;
        }
}

static float *read_whole(const Tensor *t) {
    float *x = xmalloc(size_mul(t->count, sizeof *x));
    bool ok = tensor_read_f32(t, 0, t->count, x);
    assert(ok);
    return x;
}

/* from [rows,C] → malloc'd [n,C]. */
static float *resize_text(const float *from, size_t rows, size_t n, size_t C) {
    float *to = xmalloc(size_mul(n, C * sizeof *to));
    double *w = resize_matrix(rows, n, false);
    resample(to, from, w, rows, n, C, C);
    free(w);
    return to;
}

/* Class row, then a g×g grid → class row, then a G×G grid. */
static float *resize_image(const float *from, size_t g, size_t G, size_t C) {
    float *to = xmalloc(size_mul(G * G + 1, C * sizeof *to));
    float *half = xmalloc(size_mul(g * G, C * sizeof *half));
    double *w = resize_matrix(g, G, true);
    memcpy(to, from, C * sizeof *to);
    for (size_t y = 0; y < g; y++)
        resample(half + y * G * C, from + (1 + y * g) * C, w, g, G, C, C);
    for (size_t x = 0; x < G; x++) resample(to + (1 + x) * C, half + x * C, w, g, G, G * C, C);
    free(w);
    free(half);
    return to;
}

static size_t grid_side(size_t tokens) {
    size_t side = (size_t)lround(sqrt((double)(tokens - 1)));
    return side * side + 1 == tokens ? side : 0;
}

/* A positional embedding of another length; NULL: not that, or not resizable. */
static float *resized(const Tensor *t, const Param *q) {
    bool image = !strcmp(q->name, "visual.positional_embedding");
    if ((!image && strcmp(q->name, "positional_embedding")) || t->ndim != 2 || !t->shape[0] ||
        t->shape[1] != q->shape[1])
        return NULL;
    size_t from = t->shape[0], to = q->shape[0], C = q->shape[1];
    if (image && (from < 2 || !grid_side(from))) return NULL;
    float *x = read_whole(t);
    float *y =
        image ? resize_image(x, grid_side(from), grid_side(to), C) : resize_text(x, from, to, C);
    free(x);
    log_info("%s resized from %zu to %zu positions", q->name, from, to);
    return y;
}

static const char *shape_text(char out[160], int ndim, const size_t *shape) {
    int n = snprintf(out, 160, "[");
    for (int i = 0; i < ndim && n < 140; i++)
        n += snprintf(out + n, (size_t)(160 - n), i ? ",%zu" : "%zu", shape[i]);
    snprintf(out + n, (size_t)(160 - n), "]");
    return out;
}

static bool same_shape(const Tensor *t, const Param *q) {
    if (t->count == 1 && q->size == 1 && t->ndim <= 1 && q->ndim <= 1) return true; /* [] and [1] */
    if (t->ndim != q->ndim) return false;
    for (int i = 0; i < q->ndim; i++)
        if (t->shape[i] != q->shape[i]) return false;
    return true;
}

static void load_tensor(const char *path, const Tensor *t, const Params *p, acc *block,
                        const Param *q) {
    if (t->dtype > DTYPE_BF16) die("%s: %s is not a floating-point tensor", path, t->name);
    acc *to = acc_at(p->k, block, q->offset);
    if (!same_shape(t, q)) {
        float *x = resized(t, q);
        char has[160], wants[160];
        if (!x)
            die("%s: %s is %s, the model needs %s: is this another --model?", path, t->name,
                shape_text(has, t->ndim, t->shape), shape_text(wants, q->ndim, q->shape));
        p->k->acc_set_f32(to, x, q->size);
        free(x);
        return;
    }
    float *chunk = xmalloc(CHUNK * sizeof *chunk);
    for (size_t first = 0; first < q->size; first += CHUNK) {
        size_t n = size_min(CHUNK, q->size - first);
        bool ok = tensor_read_f32(t, first, n, chunk);
        assert(ok);
        p->k->acc_set_f32(acc_at(p->k, to, first), chunk, n);
    }
    free(chunk);
}

static bool ends_with(const char *s, const char *end) {
    size_t n = strlen(s), m = strlen(end);
    return n >= m && !strcmp(s + n - m, end);
}

/* The model's name of a file's tensor: a text tower of its own puts "text." in front. */
static const char *flat_name(const char *name) {
    return strncmp(name, "text.", 5) ? name : name + 5;
}

/* Buffers that some files carry and that are no parameters. */
static bool is_buffer(const char *name) {
    static const char *const buffers[] = {"attn_mask", "position_ids", "input_resolution",
                                          "context_length", "vocab_size"};
    for (size_t i = 0; i < COUNT(buffers); i++)
        if (ends_with(name, buffers[i])) return true;
    return false;
}

static void load_all(const char *path, const Safetensors *st, Params *p, const ClipConfig *c) {
    bool *found = xcalloc(p->count, sizeof *found);
    for (size_t i = 0; i < st->count; i++) {
        const Tensor *t = &st->tensors[i];
        const Param *q = params_find(p, flat_name(t->name));
        if (!q && is_buffer(t->name)) continue;
        if (!q)
            die("%s: %s is no tensor of the model %s: is this another --model?", path, t->name,
                c->name);
        if (found[q - p->list]) die("%s: %s is there twice", path, q->name);
        found[q - p->list] = true;
        load_tensor(path, t, p, p->master, q);
    }
    for (size_t i = 0; i < p->count; i++) {
        const Param *q = &p->list[i];
        if (found[i]) continue;
        if (strcmp(q->name, "logit_bias"))
            die("%s: %s is missing: is this another --model?", path, q->name);
        p->k->zero(param_acc(p, q), p->k->acc_size);
        log_info("%s has no logit_bias: 0", path);
    }
    free(found);
    params_round(p);
}

void checkpoint_load_weights(const char *path, Params *p, const ClipConfig *c) {
    char *file = is_folder(path) ? path_in(path, model_file) : xstrdup(path);
    Safetensors st;
    Error err;
    if (!safetensors_open(&st, file, &err)) die("weights: %s", err.text);
    if (!safetensors_verify(&st, &err)) die("weights: %s: %s", file, err.text);
    load_all(file, &st, p, c);
    safetensors_close(&st);
    free(file);
}

static bool read_counter(const Safetensors *st, const char *key, uint64_t *x) {
    const char *text = safetensors_meta(st, key);
    if (!text || *text < '0' || *text > '9') return false;
    char *end;
    errno = 0;
    *x = strtoull(text, &end, 10);
    return !*end && !errno;
}

static void read_best(const Safetensors *st, Best *b) {
    const char *text = safetensors_meta(st, "best");
    unsigned long long step, stale;
    *b = (Best){.metric = ""};
    if (!text || sscanf(text, "%la %llu %llu %63s", &b->value, &step, &stale, b->metric) != 4) {
        *b = (Best){.metric = ""};
        return;
    }
    b->step = step;
    b->stale = stale;
}

static bool open_state(const char *file, Safetensors *st, TrainState *s, Error *err) {
    if (!safetensors_open(st, file, err)) return false;
    const char *format = safetensors_meta(st, "format");
    if (format && !strcmp(format, state_format) && read_counter(st, "step", &s->step) &&
        read_counter(st, "epoch", &s->epoch) && read_counter(st, "position", &s->position) &&
        read_counter(st, "seed", &s->seed)) {
        read_best(st, &s->best);
        return true;
    }
    safetensors_close(st);
    return error_set(err, "%.200s: not a train state of this program", file);
}

/* One moment, as a whole block. */
static void load_moment(const char *file, const Safetensors *st, Params *p, const char *prefix,
                        acc *whole) {
    for (size_t i = 0; i < p->count; i++) {
        const Param *q = &p->list[i];
        char name[128];
        snprintf(name, sizeof name, "%s.%s", prefix, q->name);
        const Tensor *t = safetensors_find(st, name);
        if (!t) die("%s: %s is missing: is this another model's state?", file, name);
        if (!same_shape(t, q))
            die("%s: %s has another shape than the model's tensor: the state cannot go on", file,
                name);
        load_tensor(file, t, p, whole, q);
    }
}

/* st: NULL on ranks that only listen. */
static void load_moments(const char *file, const Safetensors *st, Params *p) {
    assert(p->m && p->v);
    for (int moment = 0; moment < 2; moment++) {
        acc *own = moment ? p->v : p->m, *whole = shard_fill(p, own);
        if (st) load_moment(file, st, p, moment ? "adam_v" : "adam_m", whole);
        if (p->comm) p->comm->broadcast(whole, p->size, 0);
        shard_split(p, own);
    }
    if (is_sharded(p)) p->k->zero(p->grad, p->size * p->k->acc_size);
}

bool checkpoint_load_state(const char *path, Params *p, TrainState *s) {
    if (p && p->comm && p->comm->rank > 0) {
        load_moments(path, NULL, p);
        return true;
    }
    char *file = path_in(path, state_file);
    bool exists = !access(file, F_OK);
    if (exists) {
        Safetensors st;
        Error err;
        if (!open_state(file, &st, s, &err)) die("train state: %s", err.text);
        if (p && !safetensors_verify(&st, &err)) die("train state: %s: %s", file, err.text);
        if (p) load_moments(file, &st, p);
        safetensors_close(&st);
    }
    free(file);
    return exists;
}

/* ---- which checkpoints there are ---- */

typedef struct Found {
    char *path;
    uint64_t step;
} Found;

static int newest_first(const void *a, const void *b) {
    uint64_t x = ((const Found *)a)->step, y = ((const Found *)b)->step;
    return (x < y) - (x > y);
}

/* Whole: both files are there with all their bytes, and the bytes are those that were written. */
static bool check_whole(const char *path, Error *err) {
    static const char *const files[] = {state_file, model_file};
    for (size_t i = 0; i < COUNT(files); i++) {
        char *file = path_in(path, files[i]);
        Safetensors st;
        bool ok = safetensors_open(&st, file, err);
        if (ok) {
            Error inner;
            ok = safetensors_verify(&st, &inner) ||
                 error_set(err, "%.200s: %.300s", file, inner.text);
            safetensors_close(&st);
        }
        free(file);
        if (!ok) return false;
    }
    return true;
}

static bool read_step(const char *path, Found *found, Error *err) {
    char *file = path_in(path, state_file);
    Safetensors st;
    TrainState s;
    bool ok = open_state(file, &st, &s, err);
    if (ok) safetensors_close(&st);
    free(file);
    if (ok) *found = (Found){xstrdup(path), s.step};
    return ok;
}

static size_t list_checkpoints(const char *dir, Found **found) {
    DIR *d = opendir(dir);
    size_t count = 0;
    *found = NULL;
    for (struct dirent *e; d && (e = readdir(d));) {
        char *path = path_in(dir, e->d_name);
        struct stat s;
        Error err;
        if (e->d_name[0] != '.' && !lstat(path, &s) && S_ISDIR(s.st_mode)) {
            *found = xrealloc(*found, (count + 1) * sizeof **found);
            if (read_step(path, *found + count, &err))
                count++;
            else
                log_warn("checkpoint %s is damaged, passed over: %s", path, err.text);
        }
        free(path);
    }
    if (d) closedir(d);
    if (count) qsort(*found, count, sizeof **found, newest_first);
    return count;
}

char *checkpoint_latest(const char *dir) {
    Found *found;
    char *newest = NULL;
    size_t count = list_checkpoints(dir, &found);
    for (size_t i = 0; i < count; i++) {
        Error err;
        if (!newest && check_whole(found[i].path, &err)) {
            newest = found[i].path;
            continue;
        }
        if (!newest) log_warn("checkpoint %s is damaged, passed over: %s", found[i].path, err.text);
        free(found[i].path);
    }
    free(found);
    return newest;
}

static int larger_first(const void *a, const void *b) {
    unsigned long long x = *(const unsigned long long *)a, y = *(const unsigned long long *)b;
    return (x < y) - (x > y);
}

void checkpoint_prune(const char *dir, size_t keep) {
    DIR *d = opendir(dir);
    if (!d) return;
    unsigned long long *steps = NULL;
    size_t count = 0;
    for (struct dirent *e; (e = readdir(d));) {
        unsigned long long step;
        int end = 0;
        if (sscanf(e->d_name, "step_%llu%n", &step, &end) != 1 || e->d_name[end]) continue;
        steps = xrealloc(steps, (count + 1) * sizeof *steps);
        steps[count++] = step;
    }
    closedir(d);
    if (count) qsort(steps, count, sizeof *steps, larger_first);
    char *latest = xasprintf("%s/latest", dir), target[64] = "";
    ssize_t length = readlink(latest, target, sizeof target - 1);
    for (size_t i = keep; i < count; i++) {
        char *path = xasprintf("%s/step_%llu", dir, steps[i]);
        bool pointed_at = length > 0 && !strcmp(strrchr(path, '/') + 1, target);
        if (!pointed_at) remove_folder(path);
        free(path);
    }
    free(latest);
    free(steps);
}
