#include "train/checkpoint.h"

#include "data/io/file.h"
#include "data/io/folder.h"
#include "data/io/machine.h"
#include "data/tensors/safetensors.h"
#include "train/model/lora.h"
#include "train/model/pretrained.h"
#include "train/model/weight_pieces.h"
#include "train/shard.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { CHUNK = 1 << 18 }; /* elements copied at a time between device and file */
static const char model_file[] = "open_clip_model.safetensors";
static const char config_file[] = "open_clip_config.json";
static const char state_file[] = "train_state.safetensors";
static const char products_file[] = "gpu_products.txt";
static const char ema_folder[] = "ema";
static const char state_format[] = "clipc-train-state-1";

/* Removes leftovers of a run that was killed while saving. */
static void remove_unfinished(const char *dir) {
    DIR *d = opendir(dir);
    if (!d) return;
    for (struct dirent *e; (e = readdir(d));) {
        if (strncmp(e->d_name, ".tmp-", 5)) continue;
        char *path = folder_path(dir, e->d_name);
        if (unlink(path)) folder_remove(path);
        free(path);
    }
    closedir(d);
}

/* ---- saving ---- */

static void shape_of(Tensor *t, const Param *q, const char *name) {
    *t = (Tensor){.name = name, .dtype = DTYPE_F32, .ndim = q->ndim, .count = q->size};
    for (int i = 0; i < q->ndim; i++) t->shape[i] = q->shape[i];
}

/* In place: the upper halves of floats that are already rounded to bf16. */
static void narrow(float *x, size_t n) {
    uint16_t *half = (uint16_t *)x;
    for (size_t i = 0; i < n; i++) {
        uint32_t u;
        memcpy(&u, &x[i], sizeof u);
        u >>= 16;
        memcpy(&half[i], &u, sizeof *half);
    }
}

static void append_values(SafetensorsWriter *w, const Params *p, const acc *x, size_t count,
                          Dtype dtype, float *chunk) {
    for (size_t first = 0; first < count; first += CHUNK) {
        size_t n = size_min(CHUNK, count - first);
        p->k->acc_get_f32(chunk, acc_at(p->k, x, first), n);
        if (dtype == DTYPE_BF16) narrow(chunk, n);
        safetensors_append(w, chunk, n * dtype_size(dtype));
    }
}

static void append_param(SafetensorsWriter *w, const Params *p, const acc *block, const Param *q,
                         Dtype dtype, float *chunk) {
    append_values(w, p, param_in(p, block, q), q->size, dtype, chunk);
}

static void append_moved(SafetensorsWriter *w, const Params *p, const acc *x,
                         const WeightPiece *piece, const Param *q) {
    float *own = xmalloc(size_mul(2 * q->size, sizeof *own));
    p->k->acc_get_f32(own, x, q->size);
    weight_piece_move(piece, q, own, own + q->size);
    safetensors_append(w, own + q->size, q->size * sizeof *own);
    free(own);
}

/* block: the masters, or their moving average. */
static bool write_model(const char *path, const Params *p, const acc *block, const ClipConfig *c,
                        Error *err) {
    static const char *const meta[] = {"format", "pt"};
    WeightPieces pieces = weight_pieces(weight_names_of(c), p->list, p->tensors, DTYPE_F32);
    SafetensorsWriter *w = safetensors_create(path, pieces.tensors, pieces.count, meta, 1);
    float *chunk = xmalloc(CHUNK * sizeof *chunk);
    for (size_t i = 0; i < pieces.count; i++) {
        const WeightPiece *piece = &pieces.list[i];
        const Param *q = &p->list[piece->param];
        const acc *x = q->adapted ? lora_merged(p, block, q) : param_in(p, block, q);
        if (weight_piece_moves(piece))
            append_moved(w, p, x, piece, q);
        else
            append_values(w, p, acc_at(p->k, x, piece->first), piece->count, DTYPE_F32, chunk);
    }
    free(chunk);
    weight_pieces_free(&pieces);
    return safetensors_finish(w, err);
}

/* Contents of a train state, in order: moments; tensors apart (param_is_apart), the weights that
 * LoRA's factors adapt (the models' files hold only sums), and the moving average of those apart.
 */
enum { PART_M, PART_V, PART_PARAM, PART_AVERAGE, PARTS };

static const char *part_name(const OptimState *o, int part) {
    static const char *const names[] = {"adam_m", "adam_v", "param", "average"};
    return part == PART_M && o->optimizer == OPTIMIZER_LARS ? "lars_m" : names[part];
}

static bool has_part(const OptimState *o, int part, const Param *q) {
    if (part == PART_PARAM) return param_is_apart(q) || q->adapted;
    if (part == PART_AVERAGE) return o->ema && param_is_apart(q);
    return q->trainable && (part == PART_M || o->v);
}

/* Its whole block; NULL: there is no such part. */
static const acc *state_block(const OptimState *o, int part) {
    if (part == PART_PARAM) return o->p->master;
    if (part == PART_AVERAGE) return o->ema;
    void *moment = part == PART_V ? o->v : o->m;
    return moment ? shard_whole(o, moment) : NULL;
}

static char *recent_text(const RecentLosses *r) {
    size_t n = size_min((size_t)r->seen, RECENT_LOSSES), room = 32 * (n + 2);
    char *text = xmalloc(room);
    int at = snprintf(text, room, "%llu", (unsigned long long)r->seen);
    for (size_t i = 0; i < n; i++) at += snprintf(text + at, room - (size_t)at, " %a", r->loss[i]);
    return text;
}

static bool write_state(const char *path, const OptimState *o, const TrainState *s, Error *err) {
    const Params *p = o->p;
    char number[5][24];
    const uint64_t value[5] = {s->step, s->epoch, s->position, s->seed, s->ranks};
    for (int i = 0; i < 5; i++)
        snprintf(number[i], sizeof number[i], "%llu", (unsigned long long)value[i]);
    char best[METRIC_NAME + 80], *recent = recent_text(&s->recent);
    snprintf(best, sizeof best, "%a %llu %llu %s", s->best.value, (unsigned long long)s->best.step,
             (unsigned long long)s->best.stale, s->best.metric);
    const char *meta[18] = {"format",        state_format, "step",    number[0], "epoch",
                            number[1],       "position",   number[2], "seed",    number[3],
                            "recent_losses", recent,       "ranks",   number[4]};
    size_t pairs = 7;
    if (*s->best.metric) meta[2 * pairs] = "best", meta[2 * pairs++ + 1] = best;
    if (s->record) meta[2 * pairs] = "record", meta[2 * pairs++ + 1] = s->record;
    Dtype moments = o->moments == MOMENTS_BF16 ? DTYPE_BF16 : DTYPE_F32;
    char(*names)[128] = xcalloc(PARTS * p->count, sizeof *names);
    Tensor *tensors = xcalloc(PARTS * p->count + 1, sizeof *tensors);
    size_t count = 0;
    for (int part = 0; part < PARTS; part++)
        for (size_t i = 0; i < p->count; i++) {
            const Param *q = &p->list[i];
            if (!has_part(o, part, q)) continue;
            snprintf(names[count], sizeof *names, "%s.%s", part_name(o, part), q->name);
            shape_of(&tensors[count], q, names[count]);
            if (part <= PART_V) tensors[count].dtype = moments;
            count++;
        }
    const Param scaling = fp8_param(p);
    shape_of(&tensors[count], &scaling, scaling.name);
    SafetensorsWriter *w = safetensors_create(path, tensors, count + (p->fp8 != NULL), meta, pairs);
    float *chunk = xmalloc(CHUNK * sizeof *chunk);
    for (int part = 0; part < PARTS; part++) {
        const acc *whole = state_block(o, part);
        for (size_t i = 0; i < p->count; i++)
            if (has_part(o, part, &p->list[i]))
                append_param(w, p, whole, &p->list[i], part <= PART_V ? moments : DTYPE_F32, chunk);
    }
    if (p->fp8) append_values(w, p, p->fp8, scaling.size, DTYPE_F32, chunk);
    shard_done(o);
    FREE_ALL(chunk, tensors, names, recent);
    return safetensors_finish(w, err);
}

/* The source of the run's vocabulary may have been pruned; then the newest checkpoint has it. */
static bool copy_vocab(const char *dir, const char *vocab_path, const char *folder) {
    if (pretrained_copy_vocab(vocab_path, folder)) return true;
    if (errno != ENOENT) return false;
    char *latest = folder_path(dir, "latest"), *vocab = pretrained_vocab(latest);
    errno = ENOENT;
    bool ok = vocab != NULL && pretrained_copy_vocab(vocab, folder);
    FREE_ALL(vocab, latest);
    return ok;
}

static bool system_error(const char *path, Error *err) {
    return error_set(err, "%.200s: %s", path, strerror(errno));
}

/* s NULL: weights only. */
static bool write_folder(const char *dir, const char *folder, const OptimState *o, const acc *block,
                         const ClipConfig *c, const TrainState *s, const char *vocab_path,
                         Error *err) {
    if (mkdir(folder, 0777)) return system_error(folder, err);
    char *path[] = {folder_path(folder, model_file), folder_path(folder, config_file),
                    folder_path(folder, state_file), folder_path(folder, products_file)};
    char *json = clip_config_to_json(c);
    bool ok = write_model(path[0], o->p, block, c, err);
    if (ok && !file_write(path[1], json, strlen(json))) ok = system_error(path[1], err);
    if (ok && s) ok = write_state(path[2], o, s, err);
    if (ok && vocab_path && !copy_vocab(dir, vocab_path, folder))
        ok = system_error(vocab_path, err);
    ok = ok && (!s || kernels_write_algorithms(path[3], err));
    if (ok && s && o->ema) {
        char *inner = folder_path(folder, ema_folder);
        ok = write_folder(dir, inner, o, o->ema, c, NULL, vocab_path, err);
        free(inner);
    }
    if (ok && !folder_sync(folder)) ok = system_error(folder, err);
    free(json);
    for (size_t i = 0; i < COUNT(path); i++) free(path[i]);
    return ok;
}

static void point_latest(const char *dir, const char *name) {
    char *beside = xasprintf("%s/.tmp-latest", dir), *latest = xasprintf("%s/latest", dir);
    /* only a convenience: checkpoint_latest examines the checkpoints */
    if (symlink(name, beside) || rename(beside, latest))
        log_warn("%s cannot point to %s: %s", latest, name, strerror(errno));
    FREE_ALL(beside, latest);
}

void checkpoint_save(const char *dir, const char *name, const OptimState *o, const ClipConfig *c,
                     const TrainState *s, const char *vocab_path) {
    assert(*name && *name != '.' && !strchr(name, '/'));
    folder_make_or_die(dir);
    char *beside = xasprintf("%s/.tmp-%s", dir, name), *folder = folder_path(dir, name);
    remove_unfinished(dir);
    Error err;
    bool ok = write_folder(dir, beside, o, shard_whole_masters(o), c, s, vocab_path, &err);
    if (ok && !(folder_replace(beside, folder) && folder_sync(dir)))
        ok = system_error(folder, &err);
    if (!ok) {
        folder_remove(beside);
        die("checkpoint not saved: %s (the checkpoints before it stand; make room or choose "
            "another --logs, then --resume latest)",
            err.text);
    }
    point_latest(dir, name);
    if (!folder_sync(dir)) log_warn("%s: %s", dir, strerror(errno));
    FREE_ALL(beside, folder);
}

void checkpoint_help_save(const OptimState *o) {
    if (!is_sharded(o)) return;
    shard_whole_masters(o);
    shard_whole(o, o->m);
    if (o->v) shard_whole(o, o->v);
    shard_done(o);
}

void checkpoint_load_algorithms(const char *path) {
    char *products = folder_path(path, products_file);
    Error err;
    if (machine_access(products, R_OK) && !kernels_read_algorithms(products, &err))
        log_warn("%s: products are chosen anew, so the last bits may differ from a run that was "
                 "not interrupted",
                 err.text);
    free(products);
}

/* ---- loading ---- */

/* A frozen tensor's average is the tensor. */
static void load_average(const Weights *w, const OptimState *o) {
    const Params *p = o->p;
    for (size_t i = 0; i < p->tensors; i++)
        if (p->list[i].trainable) weight_load(&w->list[i], p, o->ema, &p->list[i]);
}

static bool same_shape(const Tensor *t, const Param *q) {
    return t->ndim == q->ndim && !memcmp(t->shape, q->shape, (size_t)q->ndim * sizeof *t->shape);
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

static void read_recent(const Safetensors *st, RecentLosses *r) {
    const char *text = safetensors_meta(st, "recent_losses");
    char *end;
    *r = (RecentLosses){.seen = text ? strtoull(text, &end, 10) : 0};
    for (size_t i = 0; i < size_min((size_t)r->seen, RECENT_LOSSES); i++) {
        char *from = end;
        r->loss[i] = strtod(from, &end);
        if (end == from) r->seen = i; /* a file truncated by hand: its complete values count */
    }
}

static bool open_state(const char *file, Safetensors *st, TrainState *s, Error *err) {
    if (!safetensors_open(st, file, err)) return false;
    const char *format = safetensors_meta(st, "format");
    if (format && !strcmp(format, state_format) && read_counter(st, "step", &s->step) &&
        read_counter(st, "epoch", &s->epoch) && read_counter(st, "position", &s->position) &&
        read_counter(st, "seed", &s->seed)) {
        if (!read_counter(st, "ranks", &s->ranks)) s->ranks = 0; /* of an older program */
        read_best(st, &s->best);
        read_recent(st, &s->recent);
        s->record = NULL;
        return true;
    }
    safetensors_close(st);
    return error_set(err, "%.200s: not a train state of this program", file);
}

static const Tensor *find_in_part(const Safetensors *st, const OptimState *o, int part,
                                  const Param *q, char name[128]) {
    snprintf(name, 128, "%s.%s", part_name(o, part), q->name);
    return safetensors_find(st, name);
}

/* Tensors that were frozen when the state was written have no moments: they start from 0. */
static bool was_frozen(const Safetensors *st, const OptimState *o, const Param *q) {
    char name[128];
    return !param_is_apart(q) && !find_in_part(st, o, PART_M, q, name) &&
           !find_in_part(st, o, PART_V, q, name);
}

/* Reads one part of the state into a whole block. */
static void load_part(const char *file, const Safetensors *st, OptimState *o, int part,
                      acc *whole) {
    const Params *p = o->p;
    size_t fresh = 0;
    for (size_t i = 0; i < p->count; i++) {
        const Param *q = &p->list[i];
        if (!has_part(o, part, q)) continue;
        char name[128];
        const Tensor *t = find_in_part(st, o, part, q, name);
        if (!t && part <= PART_V && was_frozen(st, o, q)) {
            p->k->device->zero(param_in(p, whole, q), q->size * p->k->acc_size);
            fresh++;
            continue;
        }
        if (!t) die("%s: %s is missing: is this another model's state?", file, name);
        if (t->dtype > DTYPE_BF16 || !same_shape(t, q))
            die("%s: %s has another shape or type than the model's tensor: the state cannot go on",
                file, name);
        Weight w = weight_of(t);
        weight_load(&w, p, whole, q);
    }
    if (fresh && part == PART_M)
        log_warn("%s: %zu tensors that learn now were frozen in the run before: their "
                 "moments start from 0",
                 file, fresh);
}

/* Scales start anew if the previous run had another precision. */
static void load_scaling(const char *file, const Safetensors *st, OptimState *o) {
    const Params *p = o->p;
    if (!p->fp8) return;
    const Param q = fp8_param(p);
    const Tensor *t = st ? safetensors_find(st, q.name) : NULL;
    size_t n = q.shape[1];
    /* with LoRA, later columns belong to factors, which are not multiplied in 8 bits */
    bool fits = t && t->ndim == 2 && t->shape[0] == q.shape[0] &&
                (t->shape[1] == n || (p->lora && t->shape[1] > n));
    if (t && !fits) die("%s: %s has another shape than the model's", file, q.name);
    float *row = xmalloc((n + 1) * sizeof *row);
    for (size_t i = 0; t && i < q.shape[0]; i++) {
        const Weight w = weight_of(t);
        weight_read(&w, i * t->shape[1], n, row);
        p->k->acc_set_f32(acc_at(p->k, p->fp8, i * n), row, n);
    }
    free(row);
    if (o->comm) o->comm->broadcast(p->fp8, q.size, 0);
}

/* st: NULL on ranks that only receive. */
static void load_moments(const char *file, const Safetensors *st, OptimState *o) {
    for (int part = PART_M; part <= PART_V; part++) {
        void *own = part == PART_V ? o->v : o->m;
        if (!own) continue;
        acc *whole = shard_fill(o, own);
        if (st) load_part(file, st, o, part, whole);
        if (o->comm) o->comm->broadcast(whole, o->p->learning, 0);
        shard_split(o, own);
    }
    shard_done(o);
    load_scaling(file, st, o);
}

/* The moving average, and the masters that no model's file has; path: the checkpoint. */
static void load_rest(const char *path, const char *file, const Safetensors *st, OptimState *o) {
    const Params *p = o->p;
    if (st && params_apart(p)) load_part(file, st, o, PART_PARAM, p->master);
    if (o->comm && params_apart(p)) optim_state_broadcast(o);
    if (!o->ema) return;
    char *inner = folder_path(path, ema_folder);
    Weights w;
    Error err;
    if (st && !folder_is(inner)) {
        log_warn("%s has no moving average: it starts from the weights", path);
    } else if (st) {
        if (!weights_open(&w, inner, &err) ||
            !weights_fit(&w, p->list, p->tensors, p->only, path, &err))
            die("moving average: %s", err.text);
        load_average(&w, o);
        load_part(file, st, o, PART_AVERAGE, o->ema);
        weights_close(&w);
    }
    free(inner);
    if (o->comm) o->comm->broadcast(o->ema, p->learning, 0);
}

bool checkpoint_load_state(const char *path, OptimState *o, TrainState *s) {
    if (o && o->comm && o->comm->rank > 0) {
        load_moments(path, NULL, o);
        load_rest(path, path, NULL, o);
        return true;
    }
    char *file = folder_path(path, state_file);
    bool exists = machine_access(file, F_OK);
    if (exists) {
        Safetensors st;
        Error err;
        if (!open_state(file, &st, s, &err)) die("train state: %s", err.text);
        if (o && !safetensors_verify(&st, &err)) die("train state: %s: %s", file, err.text);
        if (o) load_moments(file, &st, o);
        if (o) load_rest(path, file, &st, o);
        safetensors_close(&st);
    }
    free(file);
    return exists;
}

char *checkpoint_load_record(const char *path) {
    char *file = folder_path(path, state_file);
    Safetensors st;
    Error none;
    char *record = NULL;
    if (safetensors_open(&st, file, &none)) {
        const char *text = safetensors_meta(&st, "record");
        if (text) record = xstrdup(text);
        safetensors_close(&st);
    }
    free(file);
    return record;
}

/* ---- existing checkpoints ---- */

typedef struct Found {
    char *path;
    uint64_t step;
} Found;

static int newest_first(const void *a, const void *b) {
    uint64_t x = ((const Found *)a)->step, y = ((const Found *)b)->step;
    return (x < y) - (x > y);
}

/* Returns true if both files are complete and match their checksums. */
static bool check_whole(const char *path, Error *err) {
    const char *const files[] = {state_file, model_file, "ema/open_clip_model.safetensors"};
    for (size_t i = 0; i < COUNT(files); i++) {
        char *file = folder_path(path, files[i]);
        if (i == 2 && !machine_access(file, F_OK)) {
            free(file);
            break;
        }
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
    char *file = folder_path(path, state_file);
    Safetensors st;
    TrainState s;
    bool ok = open_state(file, &st, &s, err);
    if (ok) safetensors_close(&st);
    free(file);
    if (ok) *found = (Found){xstrdup(path), s.step};
    return ok;
}

static size_t list_checkpoints(const char *dir, Found **found) {
    char **names = NULL;
    size_t n = 0, count = 0;
    Error err;
    *found = NULL;
    if (!folder_list(dir, &names, &n, &err) && (machine_access(dir, F_OK) || errno != ENOENT))
        die("%s", err.text); /* not a run without any */
    for (size_t i = 0; i < n; i++) {
        char *path = folder_path(dir, names[i]);
        struct stat s;
        if (machine_stat(path, &s, AT_SYMLINK_NOFOLLOW) && S_ISDIR(s.st_mode)) {
            *found = xrealloc(*found, (count + 1) * sizeof **found);
            if (read_step(path, *found + count, &err))
                count++;
            else
                log_warn("checkpoint %s is damaged, passed over: %s", path, err.text);
        }
        free(path);
    }
    names_free(names, n);
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

void checkpoint_settle(const char *dir, const char *path, uint64_t step) {
    char *latest = folder_path(dir, "latest"), *inside = folder_path(dir, path_base(path));
    Found found = {0};
    Error err;
    remove_unfinished(dir);
    bool is = read_step(latest, &found, &err) && found.step == step;
    if (!is && !strcmp(inside, path)) point_latest(dir, path_base(path));
    FREE_ALL(found.path, latest, inside);
}

static int larger_first(const void *a, const void *b) {
    unsigned long long x = *(const unsigned long long *)a, y = *(const unsigned long long *)b;
    return (x < y) - (x > y);
}

/* Returns true for a folder named exactly as this program names it: no link, no step_007, no
 * step_+7. */
static bool is_step(const char *dir, const char *name, unsigned long long *step) {
    if (sscanf(name, "step_%llu", step) != 1) return false;
    char *path = xasprintf("%s/step_%llu", dir, *step);
    struct stat s;
    bool is = !strcmp(strrchr(path, '/') + 1, name) &&
              machine_stat(path, &s, AT_SYMLINK_NOFOLLOW) && S_ISDIR(s.st_mode);
    free(path);
    return is;
}

void checkpoint_prune(const char *dir, size_t keep) {
    char **names;
    size_t n, count = 0;
    Error none;
    if (!folder_list(dir, &names, &n, &none)) return;
    unsigned long long *steps = NULL;
    for (size_t i = 0; i < n; i++) {
        unsigned long long step;
        if (!is_step(dir, names[i], &step)) continue;
        steps = xrealloc(steps, (count + 1) * sizeof *steps);
        steps[count++] = step;
    }
    names_free(names, n);
    if (count) qsort(steps, count, sizeof *steps, larger_first);
    char *latest = xasprintf("%s/latest", dir), target[64] = "";
    ssize_t length;
    for (int tries = 0; (length = readlink(latest, target, sizeof target - 1)) < 0;)
        if (!machine_again(latest, &tries)) break;
    for (size_t i = keep; i < count; i++) {
        char *path = xasprintf("%s/step_%llu", dir, steps[i]);
        bool pointed_at = length > 0 && !strcmp(strrchr(path, '/') + 1, target);
        if (!pointed_at) folder_remove(path);
        free(path);
    }
    FREE_ALL(latest, steps);
}
