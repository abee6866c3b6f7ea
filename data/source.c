#include "data/source.h"
#include "data/dataset.h"
#include "data/idx.h"
#include "data/io/file.h"
#include "data/io/folder.h"
#include "data/jsonl.h"
#include "data/pdf.h"
#include "data/table.h"
#include "data/tarshard.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- tar, indexed ---- */

static bool set_tar(Shard *s, bool ok) {
    const IndexHeader *h = &((TarShard *)s->state)->h;
    s->count = h->usable;
    s->dropped = h->samples - h->usable;
    s->damaged = h->flags & INDEX_DAMAGED;
    return ok;
}

static bool tar_open(Shard *s, const char *path, const SourceContext *c, Error *err) {
    s->state = xcalloc(1, sizeof(TarShard));
    return set_tar(s, tarshard_find(s->state, path, c->options->cache_dir, c->keys, err));
}

typedef struct TarMembers {
    ShardCache *cache;
    TarShard *t;
    size_t sample;
    char *text; /* of the last member read, malloc'd */
} TarMembers;

static bool read_member(TarMembers *from, const IndexMember *m, size_t limit, uint8_t *out,
                        Error *err) {
    if (m->size > limit)
        return error_set(err, "a member of %llu bytes", (unsigned long long)m->size);
    return shard_cache_read(from->cache, from->t, m->offset, out, (size_t)m->size, err);
}

static int read_text(void *context, const char *extension, const char **bytes, size_t *n,
                     Error *err) {
    TarMembers *from = context;
    const IndexMember *m = index_member(&from->t->index, from->sample, extension);
    if (!m) return 0;
    if (m->size > SAMPLE_TEXT_MAX) {
        error_set(err, "a .%s of %llu bytes", extension, (unsigned long long)m->size);
        return -1;
    }
    free(from->text);
    from->text = xmalloc((size_t)m->size + 1);
    *bytes = from->text;
    *n = (size_t)m->size;
    return read_member(from, m, SAMPLE_TEXT_MAX, (uint8_t *)from->text, err) ? 1 : -1;
}

static bool read_label(TarMembers *from, const IndexMember *m, Sample *s, Error *err) {
    char digits[16];
    if (m->size > sizeof digits) return true; /* a name */
    return read_member(from, m, sizeof digits, (uint8_t *)digits, err) &&
           sample_set_label(s, digits, (size_t)m->size, err);
}

static bool tar_read_sample(Shard *shard, const SourceContext *c, size_t i, const uint64_t *draw,
                            Sample *s, Error *err) {
    TarShard *t = shard->state;
    IndexPick p;
    if (!shard_cache_acquire(c->cache, t, err)) {
        s->key = xstrdup(t->path);
        return false;
    }
    TarMembers from = {.cache = c->cache, .t = t, .sample = t->usable[i]};
    index_pick(&t->index, c->keys, from.sample, &p);
    s->key = xasprintf("%s:%s", t->name ? t->name : path_base(t->path), p.key);
    size_t image = (size_t)p.image->size;
    bool ok = image <= SAMPLE_IMAGE_MAX || error_set(err, "an image of %zu bytes", image);
    ok = ok && read_member(&from, p.image, SAMPLE_IMAGE_MAX, sample_reserve_image(s, image), err);
    if (ok) s->image_size = image;
    if (ok && c->captions->alternatives)
        ok = captions_take(s, c->captions, c->options->captions, draw, read_text, &from, err);
    if (ok && p.label) ok = read_label(&from, p.label, s, err);
    const char *json;
    if (ok && c->options->want_json && read_text(&from, "json", &json, &s->json_size, err) == 1) {
        s->json = from.text;
        s->json[s->json_size] = 0;
        from.text = NULL;
    }
    free(from.text);
    shard_cache_release(c->cache, t);
    return ok;
}

static char *tar_key(Shard *s, const SourceContext *c, size_t i, Error *err) {
    TarShard *t = s->state;
    IndexPick p;
    if (!shard_cache_acquire(c->cache, t, err)) return NULL;
    index_pick(&t->index, c->keys, t->usable[i], &p);
    char *key = xasprintf("%s:%s", t->path, p.key);
    shard_cache_release(c->cache, t);
    return key;
}

static void tar_close(Shard *s) { tarshard_free(s->state); }

static Stream *tar_stream(const char *path, double seconds, const atomic_bool *stop, Pipe **pipe,
                          Error *err) {
    (void)seconds;
    (void)stop;
    *pipe = NULL;
    return stream_open(path, err);
}

#define TAR .read = tar_read_sample, .key = tar_key, .close = tar_close
const Source source_tar = {
    .extensions = "tar;tar.zst", .open = tar_open, .stream = tar_stream, TAR};

/* ---- tar from a command or standard input: copied, then indexed ---- */

static bool stream_open_copy(Shard *s, const char *path, const SourceContext *c, Error *err) {
    s->state = xcalloc(1, sizeof(TarShard));
    return set_tar(s, tarshard_spool(s->state, s->source, path, c, err));
}

static bool read_pipe(void *context, void *out, size_t n, size_t *got, Error *err) {
    return pipe_read(context, out, n, got, err);
}

/* p: NULL for the reason `why`. */
static Stream *stream_of(Pipe *p, Pipe **pipe, const char *path, Error *why, Error *err) {
    Stream *s = p ? stream_open_source(read_pipe, p, why) : NULL;
    *pipe = s ? p : NULL;
    if (s) return s;
    pipe_close(p);
    error_set(err, "%s: %s", path, why->text);
    return NULL;
}

#define COMMAND_PREFIX "pipe:"

static Stream *command_stream(const char *path, double seconds, const atomic_bool *stop,
                              Pipe **pipe, Error *err) {
    Error why;
    Pipe *p = pipe_start(path + strlen(COMMAND_PREFIX), seconds, stop, &why);
    return stream_of(p, pipe, path, &why, err);
}

static Stream *stdin_stream(const char *path, double seconds, const atomic_bool *stop, Pipe **pipe,
                            Error *err) {
    Error why;
    return stream_of(pipe_stdin(seconds, stop), pipe, path, &why, err);
}

static const Source source_command = {.prefix = COMMAND_PREFIX,
                                      .is_stream = true,
                                      .open = stream_open_copy,
                                      .stream = command_stream,
                                      TAR};
const Source source_stdin = {
    .is_stream = true, .open = stream_open_copy, .stream = stdin_stream, TAR};

/* ---- tables and folders ---- */

static bool open_table(Shard *s, const char *path, const SourceContext *c,
                       bool (*open)(Table *, const char *, const DatasetOptions *, Error *),
                       Error *err) {
    Table *t = s->state = xcalloc(1, sizeof *t);
    bool ok = open(t, path, c->options, err);
    if (ok && c->options->pdfs) table_pages(t);
    if (ok) table_report(t, s->source->name ? s->source->name : path);
    s->count = t->count;
    s->dropped = t->dropped;
    s->classes = (const char *const *)t->classes;
    s->class_count = t->class_count;
    return ok;
}

static bool csv_open(Shard *s, const char *path, const SourceContext *c, Error *err) {
    return open_table(s, path, c, table_open_csv, err);
}

static bool jsonl_open(Shard *s, const char *path, const SourceContext *c, Error *err) {
    return open_table(s, path, c, table_open_jsonl, err);
}

static bool pictures_open(Shard *s, const char *paths, const SourceContext *c, Error *err) {
    return open_table(s, paths, c, table_open_pictures, err);
}

static bool folder_open(Shard *s, const char *path, const SourceContext *c, Error *err) {
    return open_table(s, path, c, table_open_folder, err);
}

/* A row's line, or the .json next to its picture; a missing one is no error. */
static void read_table_json(const TableRow *r, Sample *s) {
    Error none;
    if (r->json) {
        s->json = xstrdup(r->json);
        s->json_size = strlen(r->json);
        return;
    }
    char *path = table_beside(r, ".json");
    uint8_t *bytes;
    if (file_read_all(path, &bytes, &s->json_size, SAMPLE_TEXT_MAX, &none)) s->json = (char *)bytes;
    free(path);
}

/* The picture of a row: a file, or a page. */
static bool read_picture(const TableRow *r, bool pdfs, Sample *s, Error *err) {
    char *path = table_path(r);
    bool ok;
    free(s->image);
    s->image = NULL;
    s->image_size = 0;
    if (r->page)
        ok = pdf_page(path, r->page, &s->image, &s->image_size, err);
    else if (pdfs && pdf_is(path)) /* says why its pages cannot be counted */
        ok = pdf_pages(path, err) && error_set(err, "%s: it has changed since", path);
    else
        ok = file_read_all(path, &s->image, &s->image_size, SAMPLE_IMAGE_MAX, err);
    s->image_capacity = s->image_size;
    free(path);
    return ok;
}

static bool table_read(Shard *shard, const SourceContext *c, size_t i, const uint64_t *draw,
                       Sample *s, Error *err) {
    const Table *t = shard->state;
    const TableRow *r = &t->rows[i];
    CaptionPick pick = c->options->captions;
    s->key = table_row_key(r);
    s->label = r->label;
    bool ok = read_picture(r, c->options->pdfs, s, err);
    if (ok && r->text) table_caption(t, r, pick, draw, s);
    if (ok && !r->text && t->need_text) {
        char *path = table_beside(r, ".txt");
        uint8_t *bytes;
        size_t n;
        ok = file_read_all(path, &bytes, &n, SAMPLE_TEXT_MAX, err);
        if (ok) captions_pick_line(s, pick, draw, (const char *)bytes, n);
        FREE_ALL(bytes, path);
    }
    if (ok && c->options->want_json) read_table_json(r, s);
    return ok;
}

static char *table_key(Shard *s, const SourceContext *c, size_t i, Error *err) {
    (void)c;
    (void)err;
    const Table *t = s->state;
    return table_row_key(&t->rows[i]);
}

static void table_close(Shard *s) { table_free(s->state); }

#define TABLE .files = true, .read = table_read, .key = table_key, .close = table_close
static const Source source_csv = {.extensions = "csv;tsv", .open = csv_open, TABLE};
static const Source source_jsonl = {.extensions = "jsonl", .open = jsonl_open, TABLE};
const Source source_folder = {.open = folder_open, TABLE};
const Source source_pictures = {
    .name = "image files", .extensions = "jpg;jpeg;png;webp;pdf", .open = pictures_open, TABLE};

/* ---- arrays ---- */

static bool arrays_open(Shard *s, const char *path, const SourceContext *c, Error *err) {
    (void)c;
    IdxSet *x = s->state = xcalloc(1, sizeof *x);
    bool ok = idx_set_open(x, path + strlen(ARRAYS_PREFIX), err);
    s->count = x->images.shape[0];
    return ok;
}

static char *arrays_key(Shard *shard, const SourceContext *c, size_t i, Error *err) {
    (void)c;
    (void)err;
    const IdxSet *x = shard->state;
    return xasprintf("%s:%zu", x->name, i);
}

/* Its caption, if one is needed, is the label's number. */
static bool arrays_read(Shard *shard, const SourceContext *c, size_t i, const uint64_t *draw,
                        Sample *s, Error *err) {
    (void)draw;
    const IdxSet *x = shard->state;
    s->key = arrays_key(shard, c, i, err);
    free(s->image);
    s->image = NULL;
    s->image_capacity = 0;
    if (!idx_picture(x, i, &s->image, &s->image_size, err)) return false;
    s->image_capacity = s->image_size;
    if (x->labels.size) s->label = x->labels.bytes[i];
    char digits[8];
    int n = snprintf(digits, sizeof digits, "%d", s->label);
    if (c->captions->alternatives && s->label >= 0) sample_set_text(s, digits, (size_t)n);
    return true;
}

static void arrays_close(Shard *s) { idx_set_free(s->state); }

static const Source source_arrays = {.prefix = ARRAYS_PREFIX,
                                     .files = true,
                                     .open = arrays_open,
                                     .read = arrays_read,
                                     .key = arrays_key,
                                     .close = arrays_close};

/* ---- by name ---- */

const Source *source_of(const char *path) {
    static const Source *const rows[] = {&source_command, &source_arrays, &source_tar,
                                         &source_csv,     &source_jsonl,  &source_pictures};
    if (!strcmp(path, "-")) return &source_stdin;
    for (size_t i = 0; i < COUNT(rows); i++) {
        const char *prefix = rows[i]->prefix, *extensions = rows[i]->extensions;
        if (prefix && !strncmp(path, prefix, strlen(prefix))) return rows[i];
        if (extensions && has_extension(path, extensions)) return rows[i];
    }
    return NULL;
}
