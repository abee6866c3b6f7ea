#include "data/table.h"
#include "data/csv.h"
#include "data/index.h"
#include "data/io/file.h"
#include "data/io/folder.h"
#include "data/io/parallel.h"
#include "data/io/walk.h"
#include "data/io/utf8.h"
#include "data/pdf.h"
#include "data/sources.h"
#include "kernels/hash.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { COLUMNS_MAX = 1024 };
static const char no_caption[] = "without caption";

void table_add(Table *t, TableRow r) {
    if (t->count == t->capacity) {
        t->capacity = size_max(256, t->capacity * 2);
        t->rows = xrealloc(t->rows, size_mul(t->capacity, sizeof *t->rows));
    }
    t->rows[t->count++] = r;
}

void table_drop(Table *t, const char *what, const char *place) {
    t->dropped++;
    skipped_add(&t->skipped, what, place);
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
    FREE_ALL(first, last);
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

const char *const table_image_names[] = {"filepath", "file_name", "image", "path", NULL};
const char *const table_text_names[] = {"title", "caption", "text", NULL};

static bool column_is(const CsvField *f, size_t n, const char *name, size_t *column) {
    for (*column = 0; *column < n; ++*column)
        if (strcmp(f[*column].text, name) == 0) return true;
    return false;
}

/* The column `name`, or if that is the default (names[0]) the first of `names`. */
static bool find_column(const char *path, const CsvField *f, size_t n, const char *name,
                        const char *const *names, size_t *column, Error *err) {
    if (column_is(f, n, name, column)) return true;
    for (size_t i = 1; strcmp(name, names[0]) == 0 && names[i]; i++)
        if (column_is(f, n, names[i], column)) return true;
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

/* What the rows of a CSV consist of. */
typedef struct CsvColumns {
    size_t count, image, caption;
    char separator;
    bool join; /* surplus fields belong to the caption */
    const char *advice;
} CsvColumns;

/* Fields beyond the header's, empty ones at the end of the row aside: parts of a caption that is
 * not quoted. */
static size_t surplus(const CsvColumns *c, const CsvField *f, size_t n) {
    while (n > c->count && f[n - 1].size == 0) n--;
    return n > c->count ? n - c->count : 0;
}

/* The caption's field and the `extra` ones after it as one text; later fields move down. */
static void join_caption(Table *t, const CsvColumns *c, CsvField *f, size_t n, size_t extra) {
    char *text = xstrdup(f[c->caption].text);
    for (size_t i = 1; i <= extra; i++) {
        char *longer = xasprintf("%s%c%s", text, c->separator, f[c->caption + i].text);
        free(text);
        text = longer;
    }
    f[c->caption].text = table_keep(t, text);
    for (size_t i = c->caption + 1; i + extra < n; i++) f[i] = f[i + extra];
}

static void add_row(Table *t, const CsvColumns *c, const CsvField *f, size_t n, const char *csv,
                    const char *place, const char **folder) {
    if (c->image >= n || string_is_blank(f[c->image].text)) {
        table_drop(t, "without path", place);
    } else if (t->need_text && (c->caption >= n || string_is_blank(f[c->caption].text))) {
        table_drop(t, no_caption, place);
    } else {
        const char *name = f[c->image].text;
        if (!*folder) *folder = table_folder(t, csv, name);
        table_add(t, (TableRow){*name == '/' ? "" : *folder, name,
                                t->need_text ? f[c->caption].text : NULL, -1, NULL, 0, 0});
    }
}

/* All rows after the header. */
static bool read_rows(Table *t, CsvReader *r, const CsvColumns *c, const char *path, Error *err) {
    CsvField f[COLUMNS_MAX];
    size_t n;
    Error why;
    const char *folder = NULL;
    Skipped wide = {.count = 0};
    while (csv_next(r, f, COLUMNS_MAX, &n, &why)) {
        n = size_min(n, COLUMNS_MAX);
        size_t extra = surplus(c, f, n);
        char place[32];
        snprintf(place, sizeof place, "line %zu", r->row);
        if (extra && c->join) {
            join_caption(t, c, f, n, extra);
            n -= extra;
        } else if (extra && (t->need_text || c->image)) {
            skipped_add(&wide, "rows have more fields than the header", place);
            continue;
        }
        add_row(t, c, f, n, path, place, &folder);
    }
    if (why.text[0]) return error_set(err, "%s: %s", path, why.text);
    if (!wide.count) return true;
    char *text = skipped_text(&wide);
    error_set(err, "%s: %s: quote captions that contain '%c'%s", path, text, c->separator,
              c->advice);
    free(text);
    return false;
}

bool table_open_csv(Table *t, const char *path, const DatasetOptions *o, Error *err) {
    *t = (Table){.need_text = need_text(o)};
    size_t size;
    Error why;
    uint8_t *bytes;
    if (!file_read_all(path, &bytes, &size, SIZE_MAX / 2, err)) return false;
    t->bytes = (char *)bytes;
    CsvColumns c = {.separator = separator_of(t->bytes, o),
                    .advice = o->csv_join ? "" : ", or give --csv-join"};
    CsvReader r = csv_reader(t->bytes, size, c.separator);
    CsvField f[COLUMNS_MAX];
    if (!csv_next(&r, f, COLUMNS_MAX, &c.count, &why))
        return error_set(err, "%s: %s", path, why.text[0] ? why.text : "empty");
    c.count = size_min(c.count, COLUMNS_MAX);
    if (!find_column(path, f, c.count, o->csv_image_key, table_image_names, &c.image, err) ||
        (t->need_text &&
         !find_column(path, f, c.count, o->csv_caption_key, table_text_names, &c.caption, err)))
        return false;
    /* captions that are not needed have separators as well */
    c.join = o->csv_join && (t->need_text || find_column(path, f, c.count, o->csv_caption_key,
                                                         table_text_names, &c.caption, &why));
    if (!read_rows(t, &r, &c, path, err)) return false;
    table_join(t, o);
    return true;
}

/* ---- pages of PDFs ---- */

typedef struct PageCounts {
    const Table *t;
    size_t *pages; /* [t->count]; 0: no PDF, or a bad one */
} PageCounts;

static void count_pages(void *context, size_t i, size_t thread) {
    const PageCounts *c = context;
    Error none;
    (void)thread;
    if (!pdf_is(c->t->rows[i].name)) return;
    char *path = table_path(&c->t->rows[i]);
    c->pages[i] = pdf_pages(path, &none);
    free(path);
}

void table_pages(Table *t) {
    PageCounts c = {t, xcalloc(t->count + 1, sizeof(size_t))};
    parallel_for(t->count, cpu_count(), count_pages, &c);
    Table old = *t;
    t->rows = NULL;
    t->count = t->capacity = 0;
    for (size_t i = 0; i < old.count; i++) {
        TableRow r = old.rows[i];
        for (r.page = c.pages[i] > 0; r.page <= c.pages[i]; r.page++) table_add(t, r);
    }
    FREE_ALL(old.rows, c.pages);
}

/* ---- folders ---- */

static bool is_picture(const DatasetOptions *o, const char *name) {
    return has_extension(name, o->image_keys) || (o->pdfs && pdf_is(name));
}

/* "dir/a.b.jpg" → "dir/a.b.txt". */
static char *name_beside(const char *image, const char *extension) {
    const char *slash = strrchr(image, '/'), *dot = strrchr(slash ? slash : image, '.');
    return xasprintf("%.*s%s", dot ? (int)(dot - image) : (int)strlen(image), image, extension);
}

/* Returns true if the file has something in it. */
static bool has_text(const char *path) {
    FileStamp st;
    Error none;
    return file_stamp(path, &st, &none) && st.size > 0;
}

/* Counts a file that is no image; captions and metadata are not counted. */
static void skip_file(Table *t, const char *name) {
    const char *dot = strrchr(name, '.');
    char kind[40] = "without extension";
    if (has_extension(name, "txt;json")) return;
    if (dot && strlen(dot) < sizeof kind)
        for (size_t i = 0; i <= strlen(dot); i++) kind[i] = (char)tolower((unsigned char)dot[i]);
    skipped_add(&t->skipped, kind, NULL);
}

/* Adds the images among a folder's sorted names. text: the caption of images without a .txt. */
static void add_images(Table *t, const char *folder, const char *within, char *const *names,
                       size_t count, const DatasetOptions *o, const char *text, int label) {
    for (size_t i = 0; i < count; i++) {
        if (!is_picture(o, names[i])) {
            skip_file(t, names[i]);
            continue;
        }
        char *beside = name_beside(names[i], ".txt"), *full = folder_path(folder, beside);
        bool has = names_have(names, count, beside) && has_text(full);
        FREE_ALL(beside, full);
        if (t->need_text && !has && !text) {
            char *place = *within ? folder_path(within, names[i]) : xstrdup(names[i]);
            table_drop(t, no_caption, place);
            free(place);
        } else {
            table_add(t, (TableRow){folder, table_keep(t, xstrdup(names[i])), has ? NULL : text,
                                    label, NULL, 0, 0});
        }
    }
}

static char *class_caption(const char *pattern, const char *name) {
    const char *gap = pattern ? strstr(pattern, "{}") : NULL;
    if (!pattern) return xstrdup(name);
    if (!gap) return xstrdup(pattern);
    return xasprintf("%.*s%s%s", (int)(gap - pattern), pattern, name, gap + 2);
}

typedef struct TreeTable {
    Table *t;
    const DatasetOptions *o;
    bool classes;        /* each folder in the root is one */
    const char *caption; /* of the last class; NULL: there is none yet */
} TreeTable;

/* The class of a folder is the first name of its path below the root. */
static void enter_class(TreeTable *w, const char *within) {
    Table *t = w->t;
    size_t n = strcspn(within, "/");
    const char *last = t->class_count ? t->classes[t->class_count - 1] : "";
    if (strlen(last) == n && strncmp(last, within, n) == 0) return;
    char *name = table_keep(t, xasprintf("%.*s", (int)n, within));
    t->classes = xrealloc(t->classes, (t->class_count + 1) * sizeof *t->classes);
    t->classes[t->class_count++] = name;
    w->caption = table_keep(t, class_caption(w->o->caption_template, name));
}

static bool add_folder(void *context, const char *path, const char *within, char *const *names,
                       size_t count) {
    TreeTable *w = context;
    Table *t = w->t;
    bool any = false, reports = false;
    for (size_t i = 0; i < count; i++) {
        any |= is_picture(w->o, names[i]);
        reports |= ends_with(names[i], "_stats.json");
    }
    if (!*within) w->classes = !any && !reports;
    bool is_class = any && w->classes;
    if (is_class) enter_class(w, within);
    t->folders += any;
    t->deep |= is_class && strchr(within, '/');
    add_images(t, any ? table_keep(t, xstrdup(path)) : path, within, names, count, w->o,
               is_class ? w->caption : NULL, is_class ? (int)t->class_count - 1 : -1);
    return true;
}

static void skip_folder(void *context, const char *within, const char *why) {
    TreeTable *w = context;
    skipped_add(&w->t->skipped, "folders not read", within);
    log_info("%s is not read: %s", within, why);
}

bool table_open_folder(Table *t, const char *path, const DatasetOptions *o, Error *err) {
    *t = (Table){.need_text = need_text(o)};
    TreeTable w = {.t = t, .o = o};
    return walk_folder(&(FolderWalk){add_folder, skip_folder, &w}, path, err);
}

bool table_open_pictures(Table *t, const char *paths, const DatasetOptions *o, Error *err) {
    *t = (Table){.need_text = need_text(o)};
    for (size_t n; *paths; paths += n + (paths[n] == '\n')) {
        n = strcspn(paths, "\n");
        char *path = table_keep(t, xasprintf("%.*s", (int)n, paths)),
             *beside = name_beside(path, ".txt");
        if (!o->pdfs && pdf_is(path)) {
            free(beside);
            return error_set(err, "%s: pages of PDFs are read by clipc embed alone", path);
        }
        bool has = !t->need_text || has_text(beside);
        free(beside);
        if (has)
            table_add(t, (TableRow){"", path, NULL, -1, NULL, 0, 0});
        else
            table_drop(t, no_caption, path);
    }
    return true;
}

void table_report(Table *t, const char *path) {
    char *skipped = skipped_text(&t->skipped), in[48] = "";
    if (t->folders) snprintf(in, sizeof in, " in %zu folders", t->folders);
    if (t->need_text && t->deep)
        log_info("%s: %zu classes, the folders directly in it; images in folders below them have "
                 "the same captions",
                 path, t->class_count);
    if (*skipped || (t->folders > 1 && !t->class_count))
        log_info("%s: %zu samples%s%s%s", path, t->count, in, *skipped ? "; skipped: " : "",
                 skipped);
    free(skipped);
}

char *table_path(const TableRow *r) {
    return *r->folder ? xasprintf("%s/%s", r->folder, r->name) : xstrdup(r->name);
}

char *table_row_key(const TableRow *r) {
    char *path = table_path(r);
    if (!r->page) return path;
    char *key = pdf_key(path, r->page);
    free(path);
    return key;
}

char *table_beside(const TableRow *r, const char *extension) {
    char *path = table_path(r), *beside = name_beside(path, extension);
    free(path);
    return beside;
}

void table_free(Table *t) {
    for (size_t i = 0; i < t->string_count; i++) free(t->strings[i]);
    FREE_ALL(t->strings, t->rows, t->more, t->classes, t->bytes);
    *t = (Table){.rows = NULL};
}
