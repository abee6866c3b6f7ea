#include "data/jsonl.h"
#include "data/io/file.h"
#include "data/io/utf8.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

static const json_t *find(const json_t *row, const char *given, const char *const *others) {
    const json_t *value = json_object_get(row, given);
    for (; !value && *others; others++) value = json_object_get(row, *others);
    return value;
}

/* The i-th caption of a string or an array; NULL: no more. */
static const char *caption(const json_t *value, size_t i) {
    if (!json_is_array(value)) return i == 0 ? json_string_value(value) : NULL;
    return json_string_value(json_array_get(value, i));
}

static void add_line(Table *t, const char *line, size_t number, const json_t *row, const char *path,
                     const char **folder, const DatasetOptions *o) {
    const json_t *texts = find(row, o->csv_caption_key, table_text_names);
    const char *name = json_string_value(find(row, o->csv_image_key, table_image_names));
    char place[32];
    size_t added = 0;
    snprintf(place, sizeof place, "line %zu", number);
    if (!name || string_is_blank(name)) {
        table_drop(t, "without path", place);
        return;
    }
    char *image = table_keep(t, xstrdup(name));
    if (!*folder) *folder = table_folder(t, path, image);
    TableRow r = {*image == '/' ? "" : *folder, image, NULL, -1, line, 0, 0};
    size_t most = t->need_text && o->captions != CAPTIONS_WHOLE ? SIZE_MAX : 1;
    const char *text = t->need_text ? caption(texts, 0) : NULL;
    for (size_t i = 0; text && added < most; text = caption(texts, ++i)) {
        if (string_is_blank(text)) continue;
        r.text = table_keep(t, xstrdup(text));
        table_add(t, r);
        added++;
    }
    if (!t->need_text)
        table_add(t, r);
    else if (!added)
        table_drop(t, "without caption", place);
}

bool table_parse_jsonl(Table *t, char *bytes, size_t size, const char *path,
                       const DatasetOptions *o, Error *err) {
    *t = (Table){.need_text = o->text_keys && *o->text_keys, .bytes = bytes};
    const char *folder = NULL;
    size_t number = 0;
    for (char *at = bytes + text_mark(bytes, size), *end = bytes + size, *next; at < end;
         at = next) {
        char *stop = memchr(at, '\n', (size_t)(end - at));
        next = stop ? stop + 1 : end;
        if (!stop) stop = end;
        *stop = 0;
        number++;
        size_t n = (size_t)(stop - at);
        if (text_is_blank(at, n)) continue;
        if (n > SAMPLE_TEXT_MAX) return error_set(err, "%s: line %zu: %zu bytes", path, number, n);
        json_error_t why;
        json_t *row = json_loadb(at, n, 0, &why);
        bool ok = json_is_object(row);
        if (ok) add_line(t, at, number, row, path, &folder, o);
        json_decref(row);
        if (!ok)
            return error_set(err, "%s: line %zu: %s", path, number,
                             row ? "no JSON object" : why.text);
    }
    table_join(t, o);
    return true;
}

bool table_open_jsonl(Table *t, const char *path, const DatasetOptions *o, Error *err) {
    uint8_t *bytes;
    size_t size;
    *t = (Table){.bytes = NULL};
    if (!file_read_all(path, &bytes, &size, SIZE_MAX / 2, err)) return false;
    return table_parse_jsonl(t, (char *)bytes, size, path, o, err);
}
