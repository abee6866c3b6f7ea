/* index_folder: its index.json. */
#include "eval/index_folder.h"

#include "data/io/file.h"
#include "data/pdf.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FORMAT "clipc index"
#define PATHS "index" /* relative keys start at the folder that holds the index folder */
enum { VERSION = 1, DIM_MAX = 1 << 20, SIDE_MAX = 1024, SEGMENTS_MAX = 1 << 20 };
#define ROWS_MAX ((size_t)UINT32_MAX - 1)

/* ---- reading ---- */

static bool take_size(const json_t *o, const char *name, size_t least, size_t most, size_t *out,
                      Error *err) {
    const json_t *v = json_object_get(o, name);
    json_int_t x = json_integer_value(v);
    if (!json_is_integer(v) || x < 0 || (uint64_t)x < least || (uint64_t)x > most)
        return error_set(err, "\"%s\" is no whole number from %zu to %zu", name, least, most);
    *out = (size_t)x;
    return true;
}

/* Hexadecimal digits, exactly n of them. */
static bool take_hex(const json_t *v, size_t n, char *out) {
    const char *s = json_string_value(v);
    if (!s || strlen(s) != n || strspn(s, "0123456789abcdef") != n) return false;
    memcpy(out, s, n + 1);
    return true;
}

static bool take_crcs(Segment *s, const json_t *list, const json_t *stamps, Error *err) {
    char digits[9];
    for (size_t i = 0; i < 3; i++) {
        if (json_array_size(list) != 3 || !take_hex(json_array_get(list, i), 8, digits))
            return error_set(err, "segment %s has no three checksums \"crc32c\"", s->name);
        s->crc[i] = (uint32_t)strtoul(digits, NULL, 16);
    }
    s->stamped = stamps != NULL;
    if (stamps && !take_hex(stamps, 8, digits))
        return error_set(err, "\"stamps\" of segment %s is no checksum", s->name);
    if (stamps) s->crc[3] = (uint32_t)strtoul(digits, NULL, 16);
    return true;
}

/* [first, count] in rising order, within the rows. */
static bool take_removed(Segment *s, const json_t *list, Error *err) {
    const json_t *range;
    size_t i, at = 0;
    if (!list) return true;
    if (!json_is_array(list)) return error_set(err, "\"removed\" of segment %s", s->name);
    if (json_array_size(list)) s->removed = xcalloc(div_up(s->rows, 64), sizeof *s->removed);
    json_array_foreach(list, i, range) {
        json_int_t first = json_integer_value(json_array_get(range, 0)),
                   n = json_integer_value(json_array_get(range, 1));
        if (json_array_size(range) != 2 || first < (json_int_t)at || n < 1 ||
            first > (json_int_t)s->rows || n > (json_int_t)s->rows - first)
            return error_set(err, "\"removed\"[%zu] of segment %s is no range of its %zu rows", i,
                             s->name, s->rows);
        at = (size_t)(first + n);
        s->removed_count += (size_t)n;
        for (size_t r = (size_t)first; r < at; r++) s->removed[r / 64] |= 1ull << r % 64;
    }
    return true;
}

/* [rows, time] of all rows. */
static bool take_times(Segment *s, const json_t *list, Error *err) {
    const json_t *run;
    size_t i, at = 0;
    if (!list) return true;
    s->times = xcalloc(json_array_size(list) + 1, sizeof *s->times);
    json_array_foreach(list, i, run) {
        json_int_t n = json_integer_value(json_array_get(run, 0)),
                   time = json_integer_value(json_array_get(run, 1));
        if (json_array_size(run) != 2 || n < 1 || n > (json_int_t)(s->rows - at) || time < 0) break;
        at += (size_t)n;
        s->times[s->time_count++] = (TimeRun){at, (uint64_t)time};
    }
    return at == s->rows || error_set(err, "\"times\" of segment %s are not those of its %zu rows",
                                      s->name, s->rows);
}

/* The segment's features are on disk, in as many bytes as its rows have. */
static bool has_rows(const IndexFolder *x, const Segment *s, const char *folder, Error *err) {
    FileStamp f;
    char *path = xasprintf("%s/%s.npy", folder, s->name);
    bool ok = file_stamp(path, &f, err);
    if (ok && f.size / (x->dim * (x->type == NPY_F16 ? 2 : 4)) < s->rows)
        ok = error_set(err, "%.200s is not %zu rows of %zu", path, s->rows, x->dim);
    free(path);
    return ok;
}

static bool take_segment(IndexFolder *x, Segment *s, const json_t *o, const char *folder,
                         Error *err) {
    const char *name = json_string_value(json_object_get(o, "name"));
    if (!name || strlen(name) != 8 || strspn(name, "0123456789") != 8)
        return error_set(err, "a segment's \"name\" is not 8 digits");
    memcpy(s->name, name, 9);
    if (!take_size(o, "rows", 1, ROWS_MAX, &s->rows, err)) return false;
    if (s->rows > ROWS_MAX - x->rows) return error_set(err, "more than %zu rows", ROWS_MAX);
    s->first = x->rows;
    if (folder && !has_rows(x, s, folder, err)) return false;
    if (!take_crcs(s, json_object_get(o, "crc32c"), json_object_get(o, "stamps"), err))
        return false;
    if (!take_removed(s, json_object_get(o, "removed"), err)) return false;
    if (!take_times(s, json_object_get(o, "times"), err)) return false;
    if (strtoull(name, NULL, 10) >= x->next)
        return error_set(err, "segment %s is not below \"next\"", name);
    if (s != x->segments && strcmp(s[-1].name, s->name) >= 0)
        return error_set(err, "segment %s is out of order", name);
    x->rows += s->rows;
    x->removed += s->removed_count;
    return true;
}

static const char *const backgrounds[] = {BACKGROUNDS(CHOICE_WORD)};

static bool take_reading(PictureReading *r, const json_t *o, Error *err) {
    if (!o) return true;
    const char *name = json_string_value(json_object_get(o, "background"));
    const json_t *exif = json_object_get(o, "exif");
    size_t dpi = 0, background = 0;
    while (name && background < COUNT(backgrounds) && strcmp(name, backgrounds[background]))
        background++;
    if (!name || background == COUNT(backgrounds))
        return error_set(err, "\"background\" of \"read\" is no background");
    if (!json_is_boolean(exif)) return error_set(err, "\"exif\" of \"read\" is no boolean");
    if (!take_size(o, "pdf_dpi", PDF_DPI_LEAST, PDF_DPI_MOST, &dpi, err)) return false;
    *r = (PictureReading){true, (Background)background, json_is_true(exif), (int64_t)dpi};
    return true;
}

static json_t *reading_json(const PictureReading *r) {
    return json_pack("{s:s, s:b, s:I}", "background", backgrounds[r->background], "exif", r->exif,
                     "pdf_dpi", (json_int_t)r->pdf_dpi);
}

static bool take_fields(IndexFolder *x, const json_t *root, const char *folder, Error *err) {
    const char *format = json_string_value(json_object_get(root, "format"));
    const char *dtype = json_string_value(json_object_get(root, "dtype"));
    const char *checkpoint = json_string_value(json_object_get(root, "checkpoint"));
    const json_t *segments = json_object_get(root, "segments"), *o;
    size_t version = 0, next = 0, i;
    if (!format || strcmp(format, FORMAT)) return error_set(err, "not a " FORMAT);
    if (!take_size(root, "version", 1, 1 << 30, &version, err)) return false;
    if (version != VERSION)
        return error_set(err, "version %zu; this program knows %d", version, VERSION);
    if (!dtype || (strcmp(dtype, "f32") && strcmp(dtype, "f16")))
        return error_set(err, "\"dtype\" is neither f32 nor f16");
    x->type = strcmp(dtype, "f16") ? NPY_F32 : NPY_F16;
    if (!take_size(root, "dim", 1, DIM_MAX, &x->dim, err) ||
        !take_size(root, "thumbnails", 0, SIDE_MAX, &x->thumb_side, err) ||
        !take_size(root, "next", 1, 99999999, &next, err))
        return false;
    x->next = next;
    if (!take_hex(json_object_get(root, "identity"), 16, x->identity))
        return error_set(err, "\"identity\" is not 16 hexadecimal digits");
    const json_t *checksum = json_object_get(root, "checksum");
    if (checksum && !take_hex(checksum, 16, x->checksum))
        return error_set(err, "\"checksum\" is not 16 hexadecimal digits");
    const json_t *paths = json_object_get(root, "paths");
    if (paths && (!json_is_string(paths) || strcmp(json_string_value(paths), PATHS)))
        return error_set(err, "\"paths\" is not " PATHS);
    x->anchored = paths != NULL;
    if (!take_reading(&x->reading, json_object_get(root, "read"), err)) return false;
    if (!checkpoint) return error_set(err, "no \"checkpoint\"");
    x->checkpoint = xstrdup(checkpoint);
    if (!json_is_array(segments) || json_array_size(segments) > SEGMENTS_MAX)
        return error_set(err, "no list \"segments\"");
    x->segments = xcalloc(json_array_size(segments) + 1, sizeof *x->segments);
    json_array_foreach(segments, i, o) {
        x->count++;
        if (!take_segment(x, &x->segments[i], o, folder, err)) return false;
    }
    return true;
}

bool index_folder_parse(IndexFolder *x, const char *json, size_t bytes, const char *folder,
                        Error *err) {
    *x = (IndexFolder){.lock = -1};
    json_error_t why;
    json_t *root = json_loadb(json, bytes, 0, &why);
    if (!root) return error_set(err, "line %d: %.160s", why.line, why.text);
    bool ok = take_fields(x, root, folder, err);
    json_decref(root);
    if (!ok) index_folder_close(x);
    return ok;
}

/* ---- writing ---- */

static json_t *removed_ranges(const Segment *s) {
    json_t *list = json_array();
    for (size_t i = 0; i < s->rows;) {
        size_t first = i;
        while (i < s->rows && (s->removed[i / 64] >> i % 64 & 1)) i++;
        if (i > first)
            json_array_append_new(list,
                                  json_pack("[I, I]", (json_int_t)first, (json_int_t)(i - first)));
        else
            i++;
    }
    return list;
}

static json_t *time_runs(const Segment *s) {
    json_t *list = json_array();
    size_t at = 0;
    for (const TimeRun *t = s->times; t < s->times + s->time_count; at = t++->end)
        json_array_append_new(list,
                              json_pack("[I, I]", (json_int_t)(t->end - at), (json_int_t)t->time));
    return list;
}

char *index_folder_to_json(const IndexFolder *x) {
    json_t *segments = json_array();
    for (size_t i = 0; i < x->count; i++) {
        const Segment *s = &x->segments[i];
        char crc[4][9];
        for (size_t f = 0; f < 4; f++) snprintf(crc[f], sizeof crc[f], "%08x", s->crc[f]);
        json_t *o = json_pack("{s:s, s:I, s:[s, s, s]}", "name", s->name, "rows",
                              (json_int_t)s->rows, "crc32c", crc[0], crc[1], crc[2]);
        if (s->stamped) json_object_set_new(o, "stamps", json_string(crc[3]));
        if (s->times) json_object_set_new(o, "times", time_runs(s));
        if (s->removed_count) json_object_set_new(o, "removed", removed_ranges(s));
        json_array_append_new(segments, o);
    }
    json_t *checkpoint = json_string(x->checkpoint);
    json_t *root = json_pack(
        "{s:s, s:i, s:s, s:o, s:I, s:s, s:I, s:I, s:o}", "format", FORMAT, "version", VERSION,
        "identity", x->identity, "checkpoint", checkpoint ? checkpoint : json_string(""), "dim",
        (json_int_t)x->dim, "dtype", npy_type_names[x->type], "thumbnails",
        (json_int_t)x->thumb_side, "next", (json_int_t)x->next, "segments", segments);
    if (*x->checksum) json_object_set_new(root, "checksum", json_string(x->checksum));
    if (x->anchored) json_object_set_new(root, "paths", json_string(PATHS));
    if (x->reading.known) json_object_set_new(root, "read", reading_json(&x->reading));
    char *text = json_dumps(root, JSON_COMPACT);
    if (!text) die("index.json cannot be made");
    json_decref(root);
    return text;
}
