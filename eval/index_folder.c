#include "eval/index_folder.h"

#include "data/io/crc32c.h"
#include "data/io/file.h"
#include "data/io/folder.h"
#include "data/io/machine.h"
#include "data/io/writer.h"
#include "data/pdf.h"
#include "data/sources.h"
#include "eval/search.h"
#include "kernels/hash.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define MANIFEST "index.json"
#define MANIFEST_MAX ((size_t)1 << 30)
#define KEY_MAX ((size_t)1 << 14) /* bytes, on average */
enum { CHUNK_ROWS = 1024, FILES = 4 };
static const char *const suffixes[FILES] = {"npy", "keys", "thumbs", "stamps"};

static char *file_of(const IndexFolder *x, const char *segment, size_t suffix) {
    return xasprintf("%s/%s.%s", x->folder, segment, suffixes[suffix]);
}

static bool has_file(const IndexFolder *x, const Segment *s, size_t suffix) {
    return suffix < 2 || (suffix == 2 ? x->thumb_side != 0 : s->stamped);
}

/* ---- opening ---- */

static void segment_close(Segment *s) {
    rows_close(&s->features);
    unmap_file(&s->thumbs);
    unmap_file(&s->stamps);
    FREE_ALL(s->key_bytes, s->keys, s->removed, s->times);
    *s = (Segment){.rows = 0};
}

void index_folder_close(IndexFolder *x) {
    for (size_t i = 0; i < x->count; i++) segment_close(&x->segments[i]);
    if (x->lock >= 0) close(x->lock);
    FREE_ALL(x->segments, x->folder, x->checkpoint, x->base, x->seen[0], x->seen[1]);
    *x = (IndexFolder){.lock = -1};
}

bool index_folder_split_keys(char *bytes, size_t size, size_t rows, const char **keys) {
    char *at = bytes, *const end = bytes + size;
    for (size_t n = 0; n < rows; n++) {
        char *stop = at < end ? memchr(at, '\n', (size_t)(end - at)) : NULL;
        if (!stop) return false;
        *stop = 0;
        keys[n] = at;
        at = stop + 1;
    }
    return at == end;
}

static bool open_keys(const IndexFolder *x, Segment *s, Error *err) {
    char *path = file_of(x, s->name, 1);
    uint8_t *bytes;
    size_t size;
    bool ok = file_read_all(path, &bytes, &size, size_mul(s->rows, KEY_MAX), err);
    s->key_bytes = (char *)bytes;
    if (ok && crc32c(0, bytes, size) != s->crc[1])
        ok = error_set(err, "%s is damaged (checksum)", path);
    if (ok) s->keys = xcalloc(s->rows, sizeof *s->keys);
    if (ok && !index_folder_split_keys(s->key_bytes, size, s->rows, s->keys))
        ok = error_set(err, "%s does not have %zu lines", path, s->rows);
    free(path);
    return ok;
}

static bool open_features(const IndexFolder *x, Segment *s, Error *err) {
    char *path = file_of(x, s->name, 0);
    NpyMap m;
    bool ok = npy_map(&m, path, err);
    if (ok) {
        s->features = (Rows){m.rows, m.cols, m.f32, m.f16, NULL, false, m};
        if (m.rows != s->rows || m.cols != x->dim || (m.f16 != NULL) != (x->type == NPY_F16))
            ok = error_set(err, "%s is not %zu rows of %zu as index.json says", path, s->rows,
                           x->dim);
    }
    free(path);
    return ok;
}

static bool open_thumbs(const IndexFolder *x, Segment *s, Error *err) {
    if (!x->thumb_side) return true;
    char *path = file_of(x, s->name, 2);
    Error why = {"empty"};
    bool ok = map_file(&s->thumbs, path, &why) && s->thumbs.size;
    if (!ok) error_set(err, "%s: %s", path, why.text);
    free(path);
    return ok;
}

static bool open_stamps(const IndexFolder *x, Segment *s, Error *err) {
    if (!s->stamped) return true;
    char *path = file_of(x, s->name, 3);
    Error why = {"not 8 bytes a row"};
    bool ok = map_file(&s->stamps, path, &why) && s->stamps.size == s->rows * sizeof(uint64_t);
    if (!ok) error_set(err, "%s: %s", path, why.text);
    free(path);
    return ok;
}

static bool open_segment(const IndexFolder *x, Segment *s, Error *err) {
    return open_features(x, s, err) && open_keys(x, s, err) && open_thumbs(x, s, err) &&
           open_stamps(x, s, err);
}

/* The folder that holds the index folder; NULL: it cannot be found. */
static char *base_of(const char *folder) {
    char *real = realpath(folder, NULL), *slash = real ? strrchr(real, '/') : NULL;
    if (slash) slash[slash == real] = 0;
    return real;
}

static bool open_all(IndexFolder *x, const char *folder, int lock, Error *err) {
    char *path = xasprintf("%s/" MANIFEST, folder);
    uint8_t *bytes;
    size_t size;
    Error why;
    bool ok = file_read_all(path, &bytes, &size, MANIFEST_MAX, err);
    if (ok) {
        ok = index_folder_parse(x, (const char *)bytes, size, folder, &why) ||
             error_set(err, "%.200s: %.300s", path, why.text);
        free(bytes);
    }
    free(path);
    if (!ok) return false;
    x->folder = xstrdup(folder);
    x->base = base_of(folder);
    x->lock = lock;
    for (size_t i = 0; ok && i < x->count; i++) ok = open_segment(x, &x->segments[i], err);
    if (ok) return true;
    x->lock = -1; /* the caller keeps the lock */
    index_folder_close(x);
    return false;
}

bool index_folder_exists(const char *folder) {
    char *path = xasprintf("%s/" MANIFEST, folder);
    bool there = machine_access(path, F_OK);
    free(path);
    return there;
}

/* A writer that compacts may delete files after index.json is read and before they are opened; in
 * that case there is a newer index.json. */
void index_folder_open(IndexFolder *x, const char *folder) {
    Error err;
    if (!index_folder_exists(folder))
        die("%s is no index folder (no " MANIFEST "): clipc embed --images ... --index makes one",
            folder);
    for (int attempt = 0; attempt < 3; attempt++)
        if (open_all(x, folder, -1, &err)) return;
    die("%s", err.text);
}

static int take_lock(const char *folder) {
    char *path = xasprintf("%s/lock", folder);
    int fd = open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0666);
    if (fd < 0) die("%s: %s", path, strerror(errno));
    if (flock(fd, LOCK_EX | LOCK_NB))
        die("%s: another clipc is writing to it: try again when it has ended", folder);
    free(path);
    return fd;
}

static bool is_known(const IndexFolder *x, const char *name) {
    for (size_t i = 0; i < x->count; i++)
        if (strncmp(x->segments[i].name, name, 8) == 0) return true;
    return false;
}

/* Files of segments that index.json does not name, and half-written ones. */
static void clear_leftovers(const IndexFolder *x) {
    char **names;
    size_t count;
    Error err;
    if (!folder_list(x->folder, &names, &count, &err)) die("%s", err.text);
    for (size_t i = 0; i < count; i++) {
        bool segment = strspn(names[i], "0123456789") == 8 && names[i][8] == '.';
        bool half = strstr(names[i], ".tmp") && (segment || !strncmp(names[i], MANIFEST, 10));
        if (!half && !(segment && !is_known(x, names[i]))) continue;
        char *path = xasprintf("%s/%s", x->folder, names[i]);
        unlink(path);
        free(path);
    }
    names_free(names, count);
}

void index_folder_open_locked(IndexFolder *x, const char *folder) {
    Error err;
    if (!index_folder_exists(folder)) die("%s is no index folder (no " MANIFEST ")", folder);
    int lock = take_lock(folder);
    if (!open_all(x, folder, lock, &err)) die("%s", err.text);
    clear_leftovers(x);
}

void index_folder_create(IndexFolder *x, const char *folder, const char *identity,
                         const char *checkpoint, size_t dim, NpyType type, size_t thumb_side) {
    folder_make_or_die(folder);
    *x = (IndexFolder){
        .dim = dim, .type = type, .thumb_side = thumb_side, .next = 1, .anchored = true};
    x->reading = (PictureReading){true, image_background, image_exif, pdf_dpi};
    x->base = base_of(folder);
    x->lock = take_lock(folder);
    if (index_folder_exists(folder)) die("%s has an index already", folder);
    x->folder = xstrdup(folder);
    x->checkpoint = xstrdup(checkpoint);
    memcpy(x->identity, identity, sizeof x->identity);
    clear_leftovers(x);
    index_folder_commit(x);
}

/* ---- rows ---- */

static Segment *segment_of(const IndexFolder *x, size_t row) {
    assert(row < x->rows);
    return &x->segments[LAST_WHERE(i, x->count, x->segments[i].first <= row)];
}

bool index_folder_removed(const IndexFolder *x, size_t row) {
    const Segment *s = segment_of(x, row);
    return s->removed && bit_of(s->removed, row - s->first);
}

const char *index_folder_key(const IndexFolder *x, size_t row) {
    const Segment *s = segment_of(x, row);
    return s->keys ? s->keys[row - s->first] : "";
}

static uint64_t nanoseconds(struct timespec t) {
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

uint64_t index_folder_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME_COARSE, &t);
    return nanoseconds(t);
}

static uint64_t time_of(const IndexFolder *x, size_t row) {
    const Segment *s = segment_of(x, row);
    size_t lo = 0, hi = s->time_count;
    if (!s->times) return 0;
    while (lo + 1 < hi) { /* of the runs from lo on, and before hi */
        size_t mid = (lo + hi) / 2;
        if (s->times[mid - 1].end <= row - s->first)
            lo = mid;
        else
            hi = mid;
    }
    return s->times[lo].time;
}

static uint64_t stamp_of(const IndexFolder *x, size_t row) {
    const Segment *s = segment_of(x, row);
    uint64_t stamp = 0;
    if (s->stamped) memcpy(&stamp, s->stamps.bytes + 8 * (row - s->first), 8);
    return stamp;
}

static bool stat_key(const IndexFolder *x, const char *key, struct stat *st) {
    char *path = index_folder_key_file(x, key);
    bool ok = path && machine_stat(path, st, 0);
    free(path);
    return ok;
}

static uint64_t stamp_from(const struct stat *st) {
    const uint64_t parts[] = {(uint64_t)st->st_size, nanoseconds(st->st_mtim),
                              nanoseconds(st->st_ctim)};
    uint64_t hash = fnv_hash(FNV_START, parts, sizeof parts);
    return hash ? hash : 1;
}

uint64_t index_folder_stamp(const IndexFolder *x, const char *key) {
    struct stat st;
    if (!stat_key(x, key, &st) || nanoseconds(st.st_ctim) == index_folder_now()) return 0;
    return stamp_from(&st);
}

bool index_folder_stale(const IndexFolder *x, size_t row) {
    struct stat st;
    uint64_t stamp = stamp_of(x, row), time = stamp ? 0 : time_of(x, row);
    if ((!stamp && !time) || !stat_key(x, index_folder_key(x, row), &st)) return false;
    if (stamp) return stamp_from(&st) != stamp;
    return nanoseconds(st.st_mtim) >= time || nanoseconds(st.st_ctim) >= time;
}

bool index_folder_find_thumb(const uint8_t *file, size_t bytes, size_t rows, size_t row,
                             const uint8_t **jpeg, size_t *size) {
    uint64_t from, to;
    if (row >= rows || bytes / 8 < rows + 1) return false;
    memcpy(&from, file + 8 * row, 8);
    memcpy(&to, file + 8 * (row + 1), 8);
    if (from < 8 * ((uint64_t)rows + 1) || from > to || to > bytes) return false;
    *jpeg = file + from;
    *size = (size_t)(to - from);
    return true;
}

void index_folder_thumb(const IndexFolder *x, size_t row, const uint8_t **bytes, size_t *size) {
    const Segment *s = segment_of(x, row);
    *size = 0;
    if (s->thumbs.size)
        index_folder_find_thumb(s->thumbs.bytes, s->thumbs.size, s->rows, row - s->first, bytes,
                                size);
}

/* ---- writing ---- */

void index_folder_commit(IndexFolder *x) {
    Error err;
    char *json = index_folder_to_json(x), *path = xasprintf("%s/" MANIFEST, x->folder);
    assert(x->lock >= 0);
    if (!file_write_atomic(path, json, strlen(json), &err)) die("%s", err.text);
    FREE_ALL(path, json);
}

void index_folder_remove(IndexFolder *x, size_t row) {
    Segment *s = segment_of(x, row);
    size_t i = row - s->first;
    if (!s->removed) s->removed = xcalloc(div_up(s->rows, 64), sizeof *s->removed);
    if (bit_of(s->removed, i)) return;
    s->removed[i / 64] |= 1ull << i % 64;
    s->removed_count++;
    x->removed++;
}

/* The checksum of a file on disk. */
static bool file_crc(const char *path, uint32_t *crc, Error *err) {
    enum { CHUNK = 1 << 20 };
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return error_set(err, "%s: %s", path, strerror(errno));
    uint8_t *buffer = xmalloc(CHUNK);
    ssize_t n;
    *crc = 0;
    while ((n = read(fd, buffer, CHUNK)) > 0) *crc = crc32c(*crc, buffer, (size_t)n);
    bool ok = n == 0 || error_set(err, "%s: %s", path, strerror(errno));
    free(buffer);
    close(fd);
    return ok;
}

/* The files of an unfinished segment. */
typedef struct SegmentWriter {
    IndexFolder *x;
    char name[9], *paths[FILES];
    size_t rows;
    TimeRun *times; /* of the rows whose keys are written */
    size_t time_count;
    NpyWriter *features;
    Writer *keys, *thumbs, *stamps;
    uint64_t *offsets; /* [rows + 1] of thumbnails */
} SegmentWriter;

static void must(bool ok, const Error *err) {
    if (!ok) die("%s", err->text);
}

/* The table of offsets comes first, so the sizes of all thumbnails are requested at the start. */
static void writer_start(SegmentWriter *w, IndexFolder *x, size_t rows,
                         size_t (*thumb_size)(void *context, size_t i), void *context) {
    Error err = {""};
    *w = (SegmentWriter){.x = x, .rows = rows};
    if (x->next > 99999999) die("%s: no numbers for segments are left", x->folder);
    snprintf(w->name, sizeof w->name, "%08u", (unsigned)x->next);
    for (size_t f = 0; f < FILES; f++) w->paths[f] = file_of(x, w->name, f);
    w->features = npy_writer_open(w->paths[0], x->type, rows, x->dim, &err);
    must(w->features != NULL, &err);
    w->keys = writer_open(w->paths[1], 0, &err);
    must(w->keys != NULL, &err);
    w->stamps = writer_open(w->paths[3], 0, &err);
    must(w->stamps != NULL, &err);
    if (!x->thumb_side) return;
    w->thumbs = writer_open(w->paths[2], 0, &err);
    must(w->thumbs != NULL, &err);
    uint64_t *offsets = xcalloc(rows + 1, sizeof *offsets);
    offsets[0] = 8 * ((uint64_t)rows + 1);
    for (size_t i = 0; i < rows; i++) offsets[i + 1] = offsets[i] + thumb_size(context, i);
    must(writer_put(w->thumbs, offsets, 8 * (rows + 1), &err), &err);
    free(offsets);
}

static void writer_rows(SegmentWriter *w, const float *rows, size_t n) {
    Error err;
    for (size_t i = 0; i < n * w->x->dim; i++)
        if (!isfinite(rows[i]))
            die("a feature is not finite (NaN): nothing was added; is the checkpoint sound?");
    must(npy_writer_append(w->features, rows, n, &err), &err);
}

static void writer_time(SegmentWriter *w, uint64_t time) {
    const TimeRun *last = w->time_count ? &w->times[w->time_count - 1] : NULL;
    if (!last || last->time != time) {
        const TimeRun new = {last ? last->end : 0, time};
        w->times = xrealloc(w->times, (w->time_count + 1) * sizeof *w->times);
        w->times[w->time_count++] = new;
    }
    w->times[w->time_count - 1].end++;
}

static void writer_key(SegmentWriter *w, const char *key, uint64_t time, uint64_t stamp,
                       const uint8_t *thumb, size_t size) {
    Error err;
    writer_time(w, time);
    must(writer_put(w->keys, key, strlen(key), &err) && writer_put(w->keys, "\n", 1, &err), &err);
    must(writer_put(w->stamps, &stamp, sizeof stamp, &err), &err);
    if (w->thumbs && size) must(writer_put(w->thumbs, thumb, size, &err), &err);
}

/* Renames the files into place and opens them as the index's last segment, in memory only. */
static void writer_finish(SegmentWriter *w) {
    Error err;
    IndexFolder *x = w->x;
    must(npy_writer_close(w->features, &err), &err);
    must(writer_commit(w->keys, NULL, NULL, &err), &err);
    if (w->thumbs) must(writer_commit(w->thumbs, NULL, NULL, &err), &err);
    must(writer_commit(w->stamps, NULL, NULL, &err), &err);
    x->segments = xrealloc(x->segments, (x->count + 1) * sizeof *x->segments);
    Segment *s = &x->segments[x->count];
    *s = (Segment){.rows = w->rows, .first = x->rows, .stamped = true};
    s->times = w->times, s->time_count = w->time_count;
    memcpy(s->name, w->name, sizeof s->name);
    for (size_t f = 0; f < FILES; f++) {
        if (has_file(x, s, f)) must(file_crc(w->paths[f], &s->crc[f], &err), &err);
        free(w->paths[f]);
    }
    must(open_segment(x, s, &err), &err);
    x->count++;
    x->rows += s->rows;
    x->next++;
}

static size_t size_of_thumb(void *context, size_t i) { return ((const Thumb *)context)[i].size; }

void index_folder_add(IndexFolder *x, const float *rows, char *const *keys, const Thumb *thumbs,
                      const uint64_t *stamps, size_t n, uint64_t time) {
    SegmentWriter w;
    if (!n) return;
    writer_start(&w, x, n, size_of_thumb, (void *)thumbs);
    writer_rows(&w, rows, n);
    for (size_t i = 0; i < n; i++)
        writer_key(&w, keys[i], time, stamps[i], thumbs ? thumbs[i].bytes : NULL,
                   thumbs ? thumbs[i].size : 0);
    writer_finish(&w);
    index_folder_commit(x);
}

typedef struct Living {
    const IndexFolder *x;
    size_t *rows; /* numbers of the rows that stay */
} Living;

static size_t size_of_living(void *context, size_t i) {
    const Living *l = context;
    const uint8_t *jpeg;
    size_t size;
    index_folder_thumb(l->x, l->rows[i], &jpeg, &size);
    return size;
}

/* Deletes the first n segments and their files. */
static void drop_segments(IndexFolder *x, size_t n) {
    char **paths = xcalloc(FILES * n, sizeof *paths);
    for (size_t i = 0; i < n; i++) {
        for (size_t f = 0; f < FILES; f++)
            paths[FILES * i + f] = file_of(x, x->segments[i].name, f);
        x->rows -= x->segments[i].rows;
        x->removed -= x->segments[i].removed_count;
        segment_close(&x->segments[i]);
    }
    memmove(x->segments, x->segments + n, (x->count - n) * sizeof *x->segments);
    x->count -= n;
    for (size_t i = 0, first = 0; i < x->count; first += x->segments[i++].rows)
        x->segments[i].first = first;
    index_folder_commit(x);
    for (size_t i = 0; i < FILES * n; i++) {
        unlink(paths[i]);
        free(paths[i]);
    }
    free(paths);
}

void index_folder_compact(IndexFolder *x) {
    size_t old = x->count, n = 0;
    Living l = {x, xcalloc(x->rows + 1, sizeof *l.rows)};
    for (size_t i = 0; i < x->rows; i++)
        if (!index_folder_removed(x, i)) l.rows[n++] = i;
    if (n) {
        SegmentWriter w;
        float *block = xmalloc(size_mul(CHUNK_ROWS, x->dim * sizeof *block));
        writer_start(&w, x, n, size_of_living, &l);
        for (size_t at = 0; at < n;) {
            size_t m = size_min(CHUNK_ROWS, n - at);
            for (size_t i = 0; i < m; i++) {
                const Segment *s = segment_of(x, l.rows[at + i]);
                rows_load(&s->features, l.rows[at + i] - s->first, 1, block + i * x->dim, x->dim);
            }
            writer_rows(&w, block, m);
            at += m;
        }
        for (size_t i = 0; i < n; i++) {
            const uint8_t *jpeg = NULL;
            size_t size;
            index_folder_thumb(x, l.rows[i], &jpeg, &size);
            writer_key(&w, index_folder_key(x, l.rows[i]), time_of(x, l.rows[i]),
                       stamp_of(x, l.rows[i]), jpeg, size);
        }
        writer_finish(&w);
        free(block);
    }
    free(l.rows);
    drop_segments(x, old);
}

bool index_folder_check(const IndexFolder *x, Error *err) {
    for (size_t i = 0; i < x->count; i++) {
        const Segment *s = &x->segments[i];
        for (size_t f = 0; f < FILES; f++) {
            if (!has_file(x, s, f)) continue;
            char *path = file_of(x, s->name, f);
            uint32_t crc;
            bool ok = file_crc(path, &crc, err);
            if (ok && crc != s->crc[f]) ok = error_set(err, "%s is damaged (checksum)", path);
            free(path);
            if (!ok) return false;
        }
    }
    return true;
}
