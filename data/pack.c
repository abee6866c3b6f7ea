#include "data/pack.h"
#include "data/image/image.h"
#include "data/image/resize.h"
#include "data/index.h"
#include "data/io/parallel.h"
#include "data/io/progress.h"
#include "data/io/utf8.h"
#include "data/io/writer.h"
#include "data/pack_folder.h"
#include "data/tar.h"
#include "kernels/hash.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CHUNK = 256, LOGGED = 20, KEY_DIGITS = 9, TOKENS_MAX = 1024 };

typedef enum {
    GOOD,
    UNREADABLE,
    NO_CAPTION,
    SHORT_CAPTION,
    TOO_LARGE,
    NOT_DOWNLOADED,
    DUPLICATE,
} Verdict;

/* A sample, read in parallel and written in order. */
typedef struct Item {
    Verdict verdict;
    bool shrunk;
    const char *extension;
    uint8_t *image;
    size_t image_size;
    char *text, *json;
    size_t text_size, json_size, characters;
    int label;
    Hash128 hash; /* of the image as stored */
    Error why;
} Item;

typedef struct Scratch {
    Sample sample;
    Image image;
    ResizeScratch *resize;
    TokenizerCache *cache;
} Scratch;

typedef struct Packer {
    Dataset *data;
    const PackOptions *o;
    PackState state; /* of all samples so far, including those of the unfinished shard */
    size_t first;    /* sample number of items[0] */
    Item items[CHUNK];
    Scratch *scratch; /* one for each thread */
    PackFolder folder;
    ContentSet seen;
    size_t saved_hashes, hash_capacity, logged;
    /* the shard being written */
    Writer *writer;
    char *path;
    Index index;
    size_t in_shard;
} Packer;

PackOptions pack_options_default(void) {
    return (PackOptions){.shard_samples = 10000,
                         .shard_bytes = (uint64_t)1 << 30,
                         .frame_bytes = 256 << 10, /* a shuffled read decompresses a whole frame */
                         .zstd_level = 3,
                         .max_pixels = (size_t)image_max_pixels,
                         .quality = 95,
                         .threads = cpu_count()};
}

/* ---- reading ---- */

static const char *extension_of(const uint8_t *b, size_t n) {
    if (n > 4 && memcmp(b, "\x89PNG", 4) == 0) return "png";
    if (n > 4 && memcmp(b, "RIFF", 4) == 0) return "webp";
    return "jpg";
}

/* The factor by which an image must shrink; 1: not at all. */
static double shrink_scale(const PackOptions *o, int width, int height) {
    int shorter = width < height ? width : height, longer = width < height ? height : width;
    double scale = 1;
    if (o->max_size > 0 && shorter > o->max_size) scale = (double)o->max_size / shorter;
    if (o->max_side > 0 && longer > o->max_side) scale = fmin(scale, (double)o->max_side / longer);
    return scale;
}

static bool shrink(Scratch *s, Item *item, const PackOptions *o, double scale) {
    Image *in = &s->image;
    if (!image_decode(in, s->sample.image, s->sample.image_size, o->max_pixels, &item->why))
        return false;
    int w = (int)fmax(1, round(in->width * scale)), h = (int)fmax(1, round(in->height * scale));
    uint8_t *small = xmalloc(size_mul(size_mul((size_t)w, (size_t)h), 3));
    ResizeTarget target = {.full_width = w, .full_height = h, .width = w, .height = h};
    RgbView view = {in->rgb, (size_t)in->width * 3, in->width, in->height};
    resize_rgb(small, (size_t)w * 3, &target, &view, INTERPOLATION_BICUBIC, &s->resize);
    bool ok =
        image_encode_jpeg(&item->image, &item->image_size, small, w, h, o->quality, &item->why);
    free(small);
    item->extension = "jpg";
    item->shrunk = ok;
    return ok;
}

/* Characters of UTF-8 text without surrounding white space. */
static size_t count_characters(const char *text, size_t n) {
    size_t count = 0;
    while (n && text_is_blank(text, 1)) text++, n--;
    while (n && text_is_blank(text + n - 1, 1)) n--;
    for (size_t i = 0; i < n; i++) count += (text[i] & 0xC0) != 0x80;
    return count;
}

/* img2dataset's record of a picture that it failed to download. */
static bool was_downloaded(const Sample *s) {
    json_t *meta = s->json ? json_loadb(s->json, s->json_size, 0, NULL) : NULL;
    const char *status = json_string_value(json_object_get(meta, "status"));
    bool ok = !status || strcmp(status, "success") == 0;
    json_decref(meta);
    return ok;
}

static bool too_short(const Packer *p, Scratch *s, Item *item) {
    const Sample *sample = &s->sample;
    int32_t ids[TOKENS_MAX];
    item->characters = count_characters(sample->text, sample->text_size);
    if (item->characters < p->o->min_chars)
        return !error_set(&item->why, "%s: a caption of %zu characters", sample->key,
                          item->characters);
    if (!p->o->min_tokens) return false;
    if (!s->cache) s->cache = tokenizer_cache_new(p->o->tokenizer);
    size_t n = tokenizer_encode(s->cache, sample->text, sample->text_size, TOKENS_MAX, ids);
    n -= p->o->tokenizer->added;
    return n < p->o->min_tokens &&
           !error_set(&item->why, "%s: a caption of %zu tokens", sample->key, n);
}

static void keep_sample(Item *item, const Sample *s) {
    item->text_size = s->text_size;
    item->text = xstrdup(s->text);
    item->label = s->label;
    item->json_size = s->json_size;
    if (!s->json) return;
    item->json = xmalloc(s->json_size);
    memcpy(item->json, s->json, s->json_size);
}

static Verdict judge(Scratch *s, Item *item, Packer *p, size_t index) {
    const PackOptions *o = p->o;
    Sample *sample = &s->sample;
    int width, height;
    Error why;
    if (!dataset_read(p->data, index, sample, &item->why))
        return sample->image_size ? NO_CAPTION : UNREADABLE;
    if (!was_downloaded(sample)) {
        error_set(&item->why, "%s: its record says that it was not downloaded", sample->key);
        return NOT_DOWNLOADED;
    }
    bool ok = image_size(&width, &height, sample->image, sample->image_size, &why);
    if (ok && (size_t)width * (size_t)height > o->max_pixels) {
        error_set(&item->why, "%s: %d x %d pixels", sample->key, width, height);
        return TOO_LARGE;
    }
    if (too_short(p, s, item)) return SHORT_CAPTION;
    double scale = ok ? shrink_scale(o, width, height) : 1;
    if (ok && scale < 1) {
        ok = shrink(s, item, o, scale);
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
    if (o->dedup) {
        item->hash = fnv_hash128(sample->image, sample->image_size);
        error_set(&item->why, "%s: the same picture as an earlier one", sample->key);
    }
    keep_sample(item, sample);
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
    p->path = xasprintf("%s/%s-%06zu.tar%s", p->folder.folder, p->folder.name,
                        (size_t)p->state.report.shards, p->o->zstd ? ".zst" : "");
    p->writer = writer_open(p->path, p->o->zstd ? p->o->frame_bytes : 0, err);
    if (p->writer) writer_level(p->writer, p->o->zstd_level);
    memset(&p->index, 0, sizeof p->index);
    p->in_shard = 0;
    return p->writer != NULL;
}

/* next: the first sample that the shard does not cover. */
static bool end_shard(Packer *p, size_t next, Error *err) {
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
    bool ok =
        file_stamp(p->path, &p->index.h.shard, err) && index_write(&p->index, index_path, err);
    free(index_path);
    p->state.report.shards++;
    p->state.report.bytes += p->index.h.shard.size;
    json_object_set_new(p->state.sizes, strrchr(p->path, '/') + 1, json_integer((long)p->in_shard));
    index_free(&p->index);
    free(p->path);
    p->path = NULL;
    p->state.next = next;
    ok = ok && pack_folder_save(&p->folder, &p->state, p->saved_hashes, err);
    p->saved_hashes = p->state.added_count;
    return ok;
}

static bool write_item(Packer *p, const Item *item, size_t sample, Error *err) {
    char name[KEY_DIGITS + 24], label[16];
    size_t number = (size_t)p->state.report.samples;
    if (!p->writer && !begin_shard(p, err)) return false;
    snprintf(name, sizeof name, "%0*zu.%s", KEY_DIGITS, number, item->extension);
    bool ok = put_member(p, name, item->image, item->image_size, err);
    snprintf(name, sizeof name, "%0*zu.txt", KEY_DIGITS, number);
    if (item->text_size) ok = ok && put_member(p, name, item->text, item->text_size, err);
    snprintf(name, sizeof name, "%0*zu.cls", KEY_DIGITS, number);
    int digits = snprintf(label, sizeof label, "%d", item->label);
    if (item->label >= 0) ok = ok && put_member(p, name, label, (size_t)digits, err);
    snprintf(name, sizeof name, "%0*zu.json", KEY_DIGITS, number);
    if (item->json) ok = ok && put_member(p, name, item->json, item->json_size, err);
    if (!ok || !writer_border(p->writer, err)) return false;
    p->state.report.samples++;
    p->state.report.shrunk += item->shrunk;
    p->state.report.image_bytes += item->image_size;
    pack_report_caption(&p->state.report, item->characters);
    p->in_shard++;
    if (p->in_shard < p->o->shard_samples && writer_tell(p->writer) < p->o->shard_bytes)
        return true;
    return end_shard(p, sample + 1, err);
}

static void count_reject(Packer *p, const Item *item) {
    PackReport *r = &p->state.report;
    r->unreadable += item->verdict == UNREADABLE;
    r->no_caption += item->verdict == NO_CAPTION;
    r->short_caption += item->verdict == SHORT_CAPTION;
    r->too_large += item->verdict == TOO_LARGE;
    r->not_downloaded += item->verdict == NOT_DOWNLOADED;
    r->duplicate += item->verdict == DUPLICATE;
    if (p->logged++ < LOGGED) log_warn("rejected %s", item->why.text);
    if (p->logged == LOGGED) log_warn("further rejected samples are only counted");
}

/* Returns true if no earlier picture has the same bytes, and records its hash. */
static bool is_new(Packer *p, const Item *item) {
    uint64_t earlier;
    PackState *s = &p->state;
    if (!p->o->dedup) return true;
    if (!content_set_add(&p->seen, item->hash, 0, &earlier)) return false;
    if (s->added_count == p->hash_capacity) {
        p->hash_capacity = size_max(1024, p->hash_capacity * 2);
        s->added = xrealloc(s->added, size_mul(p->hash_capacity, sizeof *s->added));
    }
    s->added[s->added_count++] = item->hash;
    return true;
}

static bool put_item(Packer *p, Item *item, size_t sample, Error *err) {
    if (item->verdict == GOOD && !is_new(p, item)) item->verdict = DUPLICATE;
    if (item->verdict == GOOD) return write_item(p, item, sample, err);
    count_reject(p, item);
    return true;
}

static void show(Progress *p, size_t done, size_t all, const PackReport *r) {
    char words[96];
    snprintf(words, sizeof words, "%llu packed, %llu rejected", (unsigned long long)r->samples,
             (unsigned long long)pack_report_rejected(r));
    progress_show(p, done, all, words);
}

static bool pack_all(Packer *p, Error *err) {
    size_t n = dataset_count(p->data);
    Progress progress = progress_start(p->o->show_progress ? "packing" : NULL);
    bool ok = true;
    for (p->first = p->state.next; ok && p->first < n; p->first += CHUNK) {
        size_t count = size_min(CHUNK, n - p->first);
        parallel_for(count, p->o->threads, read_item, p);
        for (size_t i = 0; i < count; i++) {
            Item *item = &p->items[i];
            ok = ok && put_item(p, item, p->first + i, err);
            FREE_ALL(item->image, item->text, item->json);
        }
        show(&progress, p->first + count, n, &p->state.report);
    }
    progress_end(&progress);
    if (ok && p->writer) ok = end_shard(p, n, err);
    if (ok && p->state.report.samples == 0)
        ok = error_set(err, "no sample was good enough to be packed");
    return ok;
}

/* ---- packing ---- */

/* Hash of the data and of all options that affect the packed bytes. */
static uint64_t identity(const Dataset *d, const PackOptions *o) {
    const uint64_t numbers[] = {o->source,
                                dataset_count(d),
                                o->zstd,
                                (uint64_t)o->zstd_level,
                                o->shard_samples,
                                o->shard_bytes,
                                o->frame_bytes,
                                o->max_pixels,
                                (uint64_t)o->max_size,
                                (uint64_t)o->max_side,
                                (uint64_t)o->quality,
                                o->dedup,
                                o->min_chars,
                                o->min_tokens};
    uint64_t h = fnv_hash(FNV_START, numbers, sizeof numbers);
    for (size_t i = 0; i <= dataset_shards(d); i++) {
        uint64_t start = dataset_shard_start(d, i);
        h = fnv_hash(h, &start, sizeof start);
    }
    return h;
}

static bool open_folder(Packer *p, Error *err) {
    bool going_on;
    uint64_t earlier;
    PackState *s = &p->state;
    if (!pack_folder_open(&p->folder, p->o->out, identity(p->data, p->o), p->o->force, &going_on, s,
                          err))
        return false;
    p->saved_hashes = p->hash_capacity = s->added_count;
    for (size_t i = 0; i < s->added_count; i++) content_set_add(&p->seen, s->added[i], 0, &earlier);
    if (going_on)
        log_info("going on behind %zu shards, at sample %zu of %zu", (size_t)s->report.shards,
                 s->next, dataset_count(p->data));
    else
        s->report.no_caption = dataset_dropped(p->data);
    return true;
}

bool pack_run(Dataset *d, const PackOptions *o, PackReport *report, Error *err) {
    Packer *p = xcalloc(1, sizeof *p);
    p->data = d;
    p->o = o;
    p->scratch = xcalloc(o->threads, sizeof *p->scratch);
    bool ok = open_folder(p, err) && pack_all(p, err) &&
              pack_folder_finish(&p->folder, &p->state, o->zstd, err);
    *report = p->state.report;
    if (p->writer) writer_abort(p->writer);
    index_free(&p->index);
    for (size_t i = 0; i < o->threads; i++) {
        sample_free(&p->scratch[i].sample);
        image_free(&p->scratch[i].image);
        resize_scratch_free(&p->scratch[i].resize);
        tokenizer_cache_free(p->scratch[i].cache);
    }
    pack_folder_close(&p->folder);
    pack_state_free(&p->state);
    content_set_free(&p->seen);
    FREE_ALL(p->scratch, p->path, p);
    return ok;
}
