#include "data/pack.h"
#include "data/image.h"
#include "data/index.h"
#include "data/parallel.h"
#include "data/resize.h"
#include "data/sources.h"
#include "data/tar.h"
#include "data/writer.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { CHUNK = 256, LOGGED = 20, KEY_DIGITS = 9 };

typedef enum { GOOD, UNREADABLE, NO_CAPTION, TOO_LARGE } Verdict;

/* A sample between reading (parallel) and writing (in order). */
typedef struct Item {
    Verdict verdict;
    bool shrunk;
    const char *extension;
    uint8_t *image;
    size_t image_size;
    char *text;
    size_t text_size;
    int label;
    Error why;
} Item;

typedef struct Scratch {
    Sample sample;
    Image image;
    ResizeScratch *resize;
} Scratch;

typedef struct Packer {
    Dataset *data;
    const PackOptions *o;
    PackReport *report;
    size_t first; /* sample number of items[0] */
    Item items[CHUNK];
    Scratch *scratch; /* one a thread */
    char *folder, *name;
    size_t logged;
    /* the shard being written */
    Writer *writer;
    char *path;
    Index index;
    size_t in_shard;
    json_t *sizes;
} Packer;

PackOptions pack_options_default(void) {
    return (PackOptions){.shard_samples = 10000,
                         .shard_bytes = (uint64_t)1 << 30,
                         .frame_bytes = 256 << 10, /* a shuffled read decompresses a whole frame */
                         .max_pixels = IMAGE_MAX_PIXELS,
                         .quality = 95,
                         .threads = cpu_count()};
}

/* ---- reading ---- */

static const char *extension_of(const uint8_t *b, size_t n) {
    if (n > 4 && memcmp(b, "\x89PNG", 4) == 0) return "png";
    if (n > 4 && memcmp(b, "RIFF", 4) == 0) return "webp";
    return "jpg";
}

static bool shrink(Scratch *s, Item *item, const PackOptions *o, int width, int height) {
    Image *in = &s->image;
    if (!image_decode(in, s->sample.image, s->sample.image_size, o->max_pixels, &item->why))
        return false;
    double scale = (double)o->max_size / (width < height ? width : height);
    int w = (int)fmax(1, round(width * scale)), h = (int)fmax(1, round(height * scale));
    uint8_t *small = xmalloc(size_mul(size_mul((size_t)w, (size_t)h), 3));
    ResizeTarget target = {.full_width = w, .full_height = h, .width = w, .height = h};
    RgbView view = {in->rgb, (size_t)width * 3, width, height};
    resize_rgb(small, (size_t)w * 3, &target, &view, INTERPOLATION_BICUBIC, &s->resize);
    bool ok =
        image_encode_jpeg(&item->image, &item->image_size, small, w, h, o->quality, &item->why);
    free(small);
    item->extension = "jpg";
    item->shrunk = ok;
    return ok;
}

static Verdict judge(Scratch *s, Item *item, Packer *p, size_t index) {
    const PackOptions *o = p->o;
    Sample *sample = &s->sample;
    int width, height;
    Error why;
    if (!dataset_read(p->data, index, sample, &item->why))
        return sample->image_size ? NO_CAPTION : UNREADABLE;
    bool ok = image_size(&width, &height, sample->image, sample->image_size, &why);
    if (ok && (size_t)width * (size_t)height > o->max_pixels) {
        error_set(&item->why, "%s: %d x %d pixels", sample->key, width, height);
        return TOO_LARGE;
    }
    if (ok && o->max_size > 0 && width > o->max_size && height > o->max_size) {
        ok = shrink(s, item, o, width, height);
        why = item->why;
    } else if (ok) {
        item->extension = extension_of(sample->image, sample->image_size);
        item->image_size = sample->image_size;
        item->image = xmalloc(item->image_size);
        memcpy(item->image, sample->image, item->image_size);
    }
    if (!ok) {
        error_set(&item->why, "%s: %s", sample->key, why.text);
        return UNREADABLE;
    }
    item->text_size = sample->text_size;
    item->text = xstrdup(sample->text);
    item->label = sample->label;
    return GOOD;
}

static void read_item(void *context, size_t i, size_t thread) {
    Packer *p = context;
    Item *item = &p->items[i];
    memset(item, 0, sizeof *item);
    item->verdict = judge(&p->scratch[thread], item, p, p->first + i);
}

/* ---- writing ---- */

static bool put_member(Packer *p, const char *name, const void *bytes, size_t n, Error *err) {
    static const uint8_t zeros[TAR_BLOCK];
    uint8_t header[TAR_BLOCK];
    tar_header(header, name, n);
    return writer_put(p->writer, header, TAR_BLOCK, err) &&
           index_add(&p->index, name, writer_tell(p->writer), n, 0, err) &&
           writer_put(p->writer, bytes, n, err) &&
           writer_put(p->writer, zeros, (TAR_BLOCK - n % TAR_BLOCK) % TAR_BLOCK, err);
}

static bool begin_shard(Packer *p, Error *err) {
    p->path = xasprintf("%s/%s-%06zu.tar%s", p->folder, p->name, p->report->shards,
                        p->o->zstd ? ".zst" : "");
    p->writer = writer_open(p->path, p->o->zstd ? p->o->frame_bytes : 0, err);
    memset(&p->index, 0, sizeof p->index);
    p->in_shard = 0;
    return p->writer != NULL;
}

static bool end_shard(Packer *p, Error *err) {
    static const uint8_t zeros[2 * TAR_BLOCK];
    StreamFrame *frames = NULL;
    size_t count = 0;
    if (!writer_put(p->writer, zeros, sizeof zeros, err)) return false;
    Writer *w = p->writer;
    p->writer = NULL;
    if (!writer_commit(w, &frames, &count, err)) return false;
    for (size_t i = 0; frames && i <= count; i++) index_add_frame(&p->index, frames[i]);
    free(frames);
    index_finish(&p->index);
    DatasetOptions defaults = dataset_options_default();
    IndexKeys keys = index_keys_new(defaults.image_keys, defaults.text_keys, false);
    index_count(&p->index, &keys);
    index_keys_free(&keys);
    char *index_path = xasprintf("%s.idx", p->path);
    bool ok = index_stamp(&p->index.h, p->path, err) && index_write(&p->index, index_path, err);
    free(index_path);
    p->report->shards++;
    p->report->bytes += p->index.h.shard_size;
    json_object_set_new(p->sizes, strrchr(p->path, '/') + 1, json_integer((long)p->in_shard));
    index_free(&p->index);
    free(p->path);
    p->path = NULL;
    return ok;
}

static bool write_item(Packer *p, const Item *item, Error *err) {
    char name[KEY_DIGITS + 24], label[16];
    size_t number = p->report->samples;
    if (!p->writer && !begin_shard(p, err)) return false;
    snprintf(name, sizeof name, "%0*zu.%s", KEY_DIGITS, number, item->extension);
    bool ok = put_member(p, name, item->image, item->image_size, err);
    snprintf(name, sizeof name, "%0*zu.txt", KEY_DIGITS, number);
    if (item->text_size) ok = ok && put_member(p, name, item->text, item->text_size, err);
    snprintf(name, sizeof name, "%0*zu.cls", KEY_DIGITS, number);
    int digits = snprintf(label, sizeof label, "%d", item->label);
    if (item->label >= 0) ok = ok && put_member(p, name, label, (size_t)digits, err);
    if (!ok || !writer_border(p->writer, err)) return false;
    p->report->samples++;
    p->report->shrunk += item->shrunk;
    p->in_shard++;
    if (p->in_shard < p->o->shard_samples && writer_tell(p->writer) < p->o->shard_bytes)
        return true;
    return end_shard(p, err);
}

static void count_reject(Packer *p, const Item *item) {
    PackReport *r = p->report;
    r->unreadable += item->verdict == UNREADABLE;
    r->no_caption += item->verdict == NO_CAPTION;
    r->too_large += item->verdict == TOO_LARGE;
    if (p->logged++ < LOGGED) log_warn("rejected %s", item->why.text);
    if (p->logged == LOGGED) log_warn("further rejected samples are only counted");
}

static bool pack_all(Packer *p, Error *err) {
    size_t n = dataset_count(p->data);
    bool ok = true;
    for (p->first = 0; ok && p->first < n; p->first += CHUNK) {
        size_t count = size_min(CHUNK, n - p->first);
        parallel_for(count, p->o->threads, read_item, p);
        for (size_t i = 0; i < count; i++) {
            Item *item = &p->items[i];
            if (item->verdict != GOOD)
                count_reject(p, item);
            else
                ok = ok && write_item(p, item, err);
            free(item->image);
            free(item->text);
        }
    }
    if (ok && p->writer) ok = end_shard(p, err);
    if (ok && p->report->samples == 0)
        ok = error_set(err, "no sample was good enough to be packed");
    return ok;
}

/* ---- the folder ---- */

/* Whether file is NAME-NNNNNN.tar, .tar.zst, or the index of one; number: NNNNNN. */
static bool is_ours(const char *file, const char *name, size_t *number) {
    size_t n = strlen(name);
    char *end;
    if (strncmp(file, name, n) != 0 || file[n] != '-' || strspn(file + n + 1, "0123456789") < 6)
        return false;
    *number = strtoull(file + n + 1, &end, 10);
    const char *endings[] = {".tar", ".tar.zst", ".tar.idx", ".tar.zst.idx"};
    for (size_t i = 0; i < COUNT(endings); i++)
        if (strcmp(end, endings[i]) == 0) return true;
    return false;
}

/* Removes the shards of this name that the run did not write: more of them, or of the other kind.
 */
static bool remove_old(const Packer *p, Error *err) {
    char **files;
    size_t count, number;
    if (!list_folder(p->folder, &files, &count, err)) return false;
    bool ok = true;
    for (size_t i = 0; i < count; i++) {
        if (!is_ours(files[i], p->name, &number)) continue;
        bool zstd = strstr(files[i], ".tar.zst") != NULL;
        if (number < p->report->shards && zstd == p->o->zstd) continue;
        char *path = xasprintf("%s/%s", p->folder, files[i]);
        if (unlink(path) != 0) ok = error_set(err, "cannot remove %s: %s", path, strerror(errno));
        free(path);
    }
    names_free(files, count);
    return ok;
}

/* sizes.json tells other programs the shards' sizes; other names' entries stay. */
static bool write_sizes(Packer *p, Error *err) {
    char *path = xasprintf("%s/sizes.json", p->folder);
    json_t *all = json_load_file(path, 0, NULL);
    if (!json_is_object(all)) {
        json_decref(all);
        all = json_object();
    }
    const char *key;
    json_t *value;
    void *next;
    size_t number;
    json_object_foreach_safe(all, next, key, value) {
        if (is_ours(key, p->name, &number)) json_object_del(all, key);
    }
    json_object_update(all, p->sizes);
    char *text = json_dumps(all, JSON_INDENT(1) | JSON_SORT_KEYS);
    if (!text) die("out of memory: no room for %s", path);
    bool ok = file_write_atomic(path, text, strlen(text), err);
    free(text);
    json_decref(all);
    free(path);
    return ok;
}

static bool check_out(Packer *p, Error *err) {
    char **files;
    size_t count, number;
    if (!*p->name)
        return error_set(err, "%s: give a folder and a name, as in %s%s", p->o->out, p->o->out,
                         "train");
    if (!make_folders(p->folder, err) || !list_folder(p->folder, &files, &count, err)) return false;
    bool ok = true;
    for (size_t i = 0; ok && i < count && !p->o->force; i++)
        if (is_ours(files[i], p->name, &number))
            ok = error_set(err, "%s/%s is there already: --force replaces it", p->folder, files[i]);
    names_free(files, count);
    return ok;
}

bool pack_run(Dataset *d, const PackOptions *o, PackReport *report, Error *err) {
    Packer *p = xcalloc(1, sizeof *p);
    const char *slash = strrchr(o->out, '/');
    *report = (PackReport){.no_caption = dataset_dropped(d)};
    p->data = d;
    p->o = o;
    p->report = report;
    p->folder = slash ? xasprintf("%.*s", (int)size_max(1, (size_t)(slash - o->out)), o->out)
                      : xstrdup(".");
    p->name = xstrdup(slash ? slash + 1 : o->out);
    p->scratch = xcalloc(o->threads, sizeof *p->scratch);
    p->sizes = json_object();
    bool ok = check_out(p, err) && pack_all(p, err) && remove_old(p, err) && write_sizes(p, err);
    if (p->writer) writer_abort(p->writer);
    index_free(&p->index);
    for (size_t i = 0; i < o->threads; i++) {
        sample_free(&p->scratch[i].sample);
        image_free(&p->scratch[i].image);
        resize_scratch_free(&p->scratch[i].resize);
    }
    json_decref(p->sizes);
    free(p->scratch);
    free(p->path);
    free(p->folder);
    free(p->name);
    free(p);
    return ok;
}
