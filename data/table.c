#include "data/table.h"
#include "data/csv.h"
#include "data/index.h"
#include "data/io/file.h"
#include "data/io/folder.h"
#include "data/io/utf8.h"
#include "data/sources.h"
#include "kernels/hash.h"

#include <stdlib.h>
#include <string.h>

enum { COLUMNS_MAX = 1024 };

void table_add(Table *t, TableRow r) {
    if (t->count == t->capacity) {
        t->capacity = size_max(256, t->capacity * 2);
        t->rows = xrealloc(t->rows, size_mul(t->capacity, sizeof *t->rows));
    }
    t->rows[t->count++] = r;
}

static bool need_text(const DatasetOptions *o) { return o->text_keys && *o->text_keys; }

/* Takes ownership of a malloc'd string. */
char *table_keep(Table *t, char *s) {
    if (t->string_count == t->string_capacity) {
        t->string_capacity = size_max(256, t->string_capacity * 2);
        t->strings = xrealloc(t->strings, size_mul(t->string_capacity, sizeof *t->strings));
    }
    return t->strings[t->string_count++] = s;
}

/* ---- several captions of a picture ---- */

static size_t row_hash(const TableRow *r) {
    return (size_t)fnv_hash(fnv_hash(FNV_START, r->folder, strlen(r->folder) + 1), r->name,
                            strlen(r->name));
}

static bool same_image(const TableRow *a, const TableRow *b) {
    return strcmp(a->name, b->name) == 0 && strcmp(a->folder, b->folder) == 0;
}

static size_t add_caption(Table *t, const char *text) {
    if (t->more_count == t->more_capacity) {
        t->more_capacity = size_max(256, t->more_capacity * 2);
        t->more = xrealloc(t->more, size_mul(t->more_capacity, sizeof *t->more));
    }
    t->more[t->more_count++] = (TableCaption){.text = text};
    return t->more_count;
}

/* Merges the rows of one picture into a single row with several captions, at the place of the first
 * one. */
static void join_rows(Table *t) {
    size_t slots = 16, kept = 0;
    while (slots < t->count * 2) slots *= 2;
    size_t *first = xcalloc(slots, sizeof *first);  /* row + 1 */
    size_t *last = xcalloc(t->count, sizeof *last); /* of each kept row's captions; 0: its text */
    for (size_t i = 0; i < t->count; i++) {
        TableRow r = t->rows[i];
        size_t at = row_hash(&r) & (slots - 1);
        while (first[at] && !same_image(&t->rows[first[at] - 1], &r)) at = (at + 1) & (slots - 1);
        if (!first[at]) {
            t->rows[kept++] = r;
            first[at] = kept;
            continue;
        }
        size_t row = first[at] - 1, added = add_caption(t, r.text);
        *(last[row] ? &t->more[last[row] - 1].more : &t->rows[row].more) = added;
        last[row] = added;
    }
    t->count = kept;
    free(first);
    free(last);
}

void table_join(Table *t, const DatasetOptions *o) {
    bool apart = o->captions == CAPTIONS_WHOLE || o->captions == CAPTIONS_LABEL;
    if (t->need_text && t->count && !apart) join_rows(t);
}

void table_caption(const Table *t, const TableRow *r, CaptionPick pick, const uint64_t *draw,
                   Sample *s) {
    size_t n = 1;
    for (size_t m = r->more; m; m = t->more[m - 1].more) n++;
    const char **texts = xmalloc(size_mul(n, sizeof *texts));
    texts[0] = r->text;
    n = 1;
    for (size_t m = r->more; m; m = t->more[m - 1].more) texts[n++] = t->more[m - 1].text;
    captions_pick(s, pick, draw, texts, n);
    free(texts);
}

/* ---- CSV ---- */

/* Unless it is given: a tab if the first line has one, else a comma. */
static char separator_of(const char *text, const DatasetOptions *o) {
    const char *given = o->csv_separator;
    if (given && *given) return strcmp(given, "\\t") == 0 ? '\t' : *given;
    return text[strcspn(text, "\t\n")] == '\t' ? '\t' : ',';
}

static bool find_column(const char *path, const CsvField *f, size_t n, const char *name,
                        size_t *column, Error *err) {
    for (*column = 0; *column < n; ++*column)
        if (strcmp(f[*column].text, name) == 0) return true;
    char all[256] = "";
    for (size_t i = 0; i < n && strlen(all) + f[i].size + 4 < sizeof all; i++) {
        if (i) strcat(all, ", ");
        strcat(all, f[i].text);
    }
    return error_set(err,
                     "%s: no column \"%s\" among: %s (see --csv-separator, --csv-img-key, "
                     "--csv-caption-key)",
                     path, name, all);
}

const char *table_folder(Table *t, const char *csv, const char *first) {
    const char *slash = strrchr(csv, '/');
    if (!slash || *first == '/') return "";
    char *beside = xasprintf("%.*s/%s", (int)(slash - csv), csv, first);
    bool there = file_readable(beside);
    free(beside);
    return there ? table_keep(t, xasprintf("%.*s", (int)(slash - csv), csv)) : "";
}

bool table_open_csv(Table *t, const char *path, const DatasetOptions *o, Error *err) {
    *t = (Table){.need_text = need_text(o)};
    size_t size, n, image, caption = 0;
    Error why;
    uint8_t *bytes;
    if (!file_read_all(path, &bytes, &size, SIZE_MAX / 2, err)) return false;
    t->bytes = (char *)bytes;
    CsvReader r = csv_reader(t->bytes, size, separator_of(t->bytes, o));
    CsvField f[COLUMNS_MAX];
    if (!csv_next(&r, f, COLUMNS_MAX, &n, &why))
        return error_set(err, "%s: %s", path, why.text[0] ? why.text : "empty");
    n = size_min(n, COLUMNS_MAX);
    if (!find_column(path, f, n, o->csv_image_key, &image, err)) return false;
    if (t->need_text && !find_column(path, f, n, o->csv_caption_key, &caption, err)) return false;
    const char *folder = NULL;
    while (csv_next(&r, f, COLUMNS_MAX, &n, &why)) {
        n = size_min(n, COLUMNS_MAX);
        if (image >= n || string_is_blank(f[image].text) ||
            (t->need_text && (caption >= n || string_is_blank(f[caption].text)))) {
            t->dropped++;
            continue;
        }
        if (!folder) folder = table_folder(t, path, f[image].text);
        table_add(t, (TableRow){*f[image].text == '/' ? "" : folder, f[image].text,
                                t->need_text ? f[caption].text : NULL, -1, NULL, 0});
    }
    table_join(t, o);
    return why.text[0] == 0 || error_set(err, "%s: %s", path, why.text);
}

/* ---- folders ---- */

/* "dir/a.b.jpg" → "dir/a.b.txt". */
static char *name_beside(const char *image, const char *extension) {
    const char *slash = strrchr(image, '/'), *dot = strrchr(slash ? slash : image, '.');
    return xasprintf("%.*s%s", dot ? (int)(dot - image) : (int)strlen(image), image, extension);
}

/* Adds the images among a folder's sorted names. text: the caption of images without a .txt. */
static void add_images(Table *t, const char *folder, char **names, size_t count,
                       const char *image_keys, const char *text, int label) {
    for (size_t i = 0; i < count; i++) {
        if (!has_extension(names[i], image_keys)) continue;
        char *beside = name_beside(names[i], ".txt");
        bool has = names_have(names, count, beside);
        if (has) { /* an empty one counts as missing */
            char *full = xasprintf("%s/%s", folder, beside);
            FileStamp st;
            Error none;
            has = file_stamp(full, &st, &none) && st.size > 0;
            free(full);
        }
        free(beside);
        if (t->need_text && !has && !text)
            t->dropped++;
        else
            table_add(t, (TableRow){folder, table_keep(t, xstrdup(names[i])), has ? NULL : text,
                                    label, NULL, 0});
    }
}

static char *class_caption(const char *pattern, const char *name) {
    const char *gap = pattern ? strstr(pattern, "{}") : NULL;
    if (!pattern) return xstrdup(name);
    if (!gap) return xstrdup(pattern);
    return xasprintf("%.*s%s%s", (int)(gap - pattern), pattern, name, gap + 2);
}

static bool add_class(Table *t, const char *path, const char *name, bool classes,
                      const DatasetOptions *o, Error *err) {
    char *folder = xasprintf("%s/%s", path, name), **names;
    size_t count;
    if (!folder_is(folder)) {
        free(folder);
        return true;
    }
    table_keep(t, folder);
    bool ok = folder_list(folder, &names, &count, err), any = false;
    for (size_t i = 0; i < count && !any; i++) any = has_extension(names[i], o->image_keys);
    if (any && !classes)
        add_images(t, folder, names, count, o->image_keys, NULL, -1);
    else if (any) {
        t->classes = xrealloc(t->classes, (t->class_count + 1) * sizeof *t->classes);
        t->classes[t->class_count] = table_keep(t, xstrdup(name));
        char *text = table_keep(t, class_caption(o->caption_template, name));
        add_images(t, folder, names, count, o->image_keys, text, (int)t->class_count++);
    }
    names_free(names, count);
    return ok;
}

bool table_open_folder(Table *t, const char *path, const DatasetOptions *o, Error *err) {
    *t = (Table){.need_text = need_text(o)};
    char **names;
    size_t count;
    bool ok = folder_list(path, &names, &count, err);
    add_images(t, table_keep(t, xstrdup(path)), names, count, o->image_keys, NULL, -1);
    bool flat = t->count + t->dropped > 0, classes = true;
    for (size_t i = 0; i < count; i++) classes = classes && !ends_with(names[i], "_stats.json");
    for (size_t i = 0; ok && !flat && i < count; i++)
        ok = add_class(t, path, names[i], classes, o, err);
    names_free(names, count);
    return ok;
}

char *table_path(const TableRow *r) {
    return *r->folder ? xasprintf("%s/%s", r->folder, r->name) : xstrdup(r->name);
}

char *table_beside(const TableRow *r, const char *extension) {
    char *path = table_path(r), *beside = name_beside(path, extension);
    free(path);
    return beside;
}

void table_free(Table *t) {
    for (size_t i = 0; i < t->string_count; i++) free(t->strings[i]);
    free(t->strings);
    free(t->rows);
    free(t->more);
    free(t->classes);
    free(t->bytes);
    *t = (Table){.rows = NULL};
}
