/* clipc search: the nearest pictures of an index folder or a .npy to a text, an image or both; and
 * groups of similar pictures. */
#include "eval/index_folder.h"
#include "data/io/machine.h"
#include "eval/duplicates.h"
#include "eval/html.h"
#include "eval/search.h"
#include "tools/commands.h"
#include "tools/common.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static EncoderOptions encoder = ENCODER_DEFAULTS;
static StringList texts, image_files;
static const char *npy, *text_file, *html;
static int64_t top = 5;
static double weight = 0.5, duplicates;
static bool json, exclude_self;

static Option options[] = {
    ENCODER_OPTIONS(encoder),
    TOWER_OPTION(encoder),
    PICTURE_OPTIONS,
    PDF_OPTION,
    STRING("collection", &npy, "FILE.npy",
           "instead of DIR: what `clipc embed --out` wrote (with FILE.npy.keys)"),
    LIST("texts", &texts, "TEXT...", "queries in words"),
    STRING("text", &text_file, "FILE", "queries in words, one a line; - is stdin"),
    LIST("image", &image_files, "FILE...",
         "queries as pictures or pages FILE.pdf#7; with words too, one of them goes with all or "
         "each with each"),
    FLOAT("weight", &weight, 0, 1, "of the words if both are given"),
    INT("top", &top, 1, 1e6, "hits a query"),
    FLAG("exclude-self", &exclude_self, "a query's own picture is no hit of it"),
    FLOAT_OF("duplicates", &duplicates, "COSINE", -1, 1,
             "instead of queries: pictures at least so alike the first of their group"),
    STRING("html", &html, "FILE", "a page with the hits' thumbnails as well"),
    FLAG("json", &json, "one JSON object on stdout"),
};

static const Command command = {
    "search",
    "Find the pictures of an index that fit a text, a picture or both best, or are alike.",
    "clipc search DIR WORDS...\n"
    "       clipc search DIR (--texts TEXT... | --text FILE | --image FILE...) [--checkpoint "
    "PATH]\n"
    "       clipc search DIR --duplicates COSINE\n"
    "       clipc search --collection X.npy --checkpoint PATH ...",
    "  clipc search photos.index a dog on a beach\n"
    "  clipc search photos.index --texts 'a dog' 'a boat at night' --top 10\n"
    "  clipc search photos.index --image query.jpg --texts 'at night' --weight 0.3 --html "
    "hits.html\n"
    "  clipc search photos.index --duplicates 0.95\n"
    "  clipc search --checkpoint CKPT --collection photos.npy --image query.jpg --json\n",
    options,
    COUNT(options),
};

/* ---- the index ---- */

/* A .npy with its keys, as an index of one segment without a model identity. */
static void open_npy(IndexFolder *x, const char *path) {
    Segment *g = xcalloc(1, sizeof *g);
    g->features = rows_open(path);
    g->features.drop = false;
    g->rows = g->features.count;
    *x = (IndexFolder){.folder = xstrdup(path),
                       .dim = g->features.dim,
                       .rows = g->rows,
                       .segments = g,
                       .count = 1,
                       .lock = -1};
    char *keys = xasprintf("%s.keys", path);
    size_t n = 0;
    if (machine_access(keys, R_OK)) g->keys = (const char **)read_lines(keys, &n);
    if (g->keys && n != g->rows)
        die("%s has %zu keys, the collection %zu rows: embed it again", keys, n, g->rows);
    free(keys);
}

static void close_npy(IndexFolder *x) {
    for (size_t i = 0; x->segments->keys && i < x->rows; i++) free((char *)x->segments->keys[i]);
    index_folder_close(x);
}

static size_t living(const IndexFolder *x) { return x->rows - x->removed; }

/* ---- queries ---- */

typedef struct Queries {
    size_t count, dim;
    float *features; /* [count,dim] */
    char **names;
    size_t *pictures; /* [count] number of its image file; NULL: queries in words */
    bool sigmoid;     /* in words, of a model with a logit_bias: a cosine has a probability */
    double scale, bias;
} Queries;

/* That a picture and a caption belong together (Zhai et al. 2023). */
static double probability(const Queries *q, double cosine) {
    return 1 / (1 + exp(-(q->scale * cosine + q->bias)));
}

/* Returns true if the file or folder is in the folder, however both are named. */
static bool is_inside(const char *path, const char *folder) {
    char *file = realpath(path, NULL), *in = realpath(folder, NULL);
    size_t n = in ? strlen(in) : 0;
    bool inside = file && in && !strncmp(file, in, n) && (!file[n] || file[n] == '/');
    FREE_ALL(file, in);
    return inside;
}

/* Without --checkpoint, the one that the index names, which may come from anywhere. */
static void take_checkpoint(const IndexFolder *x) {
    encoder.checkpoint = x->checkpoint;
    if (!machine_access(encoder.checkpoint, F_OK))
        die("%s was made with %s, which is not there: say with --checkpoint where it is", x->folder,
            encoder.checkpoint);
    if (is_inside(encoder.checkpoint, x->folder))
        die("%s names a checkpoint inside itself: if you trust it, give --checkpoint %s", x->folder,
            encoder.checkpoint);
}

static Encoder *open_model(const IndexFolder *x) {
    ModelId made_by = {x->folder, x->checkpoint, x->identity, x->checksum};
    if (x->checkpoint) {
        if (!encoder.checkpoint) take_checkpoint(x);
        encoder.must_be = &made_by;
    }
    encoder.no_images = !image_files.count;
    encoder.no_texts = !texts.count;
    Encoder *e = encoder_open(&encoder);
    if (encoder_dim(e) != x->dim)
        die("%s holds rows of %zu, the model's features have %zu: embed it with this model",
            x->folder, x->dim, encoder_dim(e));
    return e;
}

static void normalise(float *v, size_t E) {
    double sum = 0;
    for (size_t j = 0; j < E; j++) sum += (double)v[j] * v[j];
    for (size_t j = 0; sum > 0 && j < E; j++) v[j] = (float)(v[j] / sqrt(sum));
}

/* weight·text + (1-weight)·image, normalised: of each text with each image, or of one with all. */
static void join_queries(Queries *q, const float *words, const float *pictures) {
    size_t T = texts.count, I = image_files.count, E = q->dim;
    if (T != I && T != 1 && I != 1)
        die_usage("clipc search: %zu texts and %zu images: as many of both, or one of either", T,
                  I);
    q->count = size_max(T, I);
    q->features = xcalloc(q->count * E, sizeof *q->features);
    q->names = xcalloc(q->count, sizeof *q->names);
    q->pictures = xcalloc(q->count, sizeof *q->pictures);
    for (size_t i = 0; i < q->count; i++) {
        size_t t = T == 1 ? 0 : i, p = I == 1 ? 0 : i;
        float *to = q->features + i * E;
        for (size_t j = 0; j < E; j++)
            to[j] = (float)(weight * words[t * E + j] + (1 - weight) * pictures[p * E + j]);
        normalise(to, E);
        q->names[i] = xasprintf("%s + %s", texts.items[t], image_files.items[p]);
        q->pictures[i] = p;
    }
}

static Queries make_queries(const IndexFolder *x) {
    Encoder *e = open_model(x);
    Queries q = {.dim = x->dim};
    float *words = texts.count ? embed_texts(e, texts.items, texts.count) : NULL,
          *pictures =
              image_files.count ? embed_image_files(e, image_files.items, image_files.count) : NULL;
    if (words && pictures) {
        join_queries(&q, words, pictures);
        FREE_ALL(words, pictures);
    } else {
        const StringList *l = words ? &texts : &image_files;
        q.count = l->count;
        q.features = words ? words : pictures;
        q.names = xcalloc(q.count, sizeof *q.names);
        for (size_t i = 0; i < q.count; i++) q.names[i] = xstrdup(l->items[i]);
        if (!words) q.pictures = xcalloc(q.count, sizeof *q.pictures);
        for (size_t i = 0; !words && i < q.count; i++) q.pictures[i] = i;
    }
    q.sigmoid = !pictures && encoder_config(e)->has_logit_bias;
    q.scale = encoder_logit_scale(e);
    q.bias = encoder_logit_bias(e);
    for (size_t i = 0; i < q.count * q.dim; i++)
        if (!isfinite(q.features[i])) die("a query's features are not finite (NaN)");
    encoder_close(e);
    return q;
}

/* ---- output ---- */

static void page_heading(const HtmlPage *p, const char *text) {
    fputs("</section>\n<h2>", p->out);
    html_text(p, text);
    fputs("</h2>\n<section>\n", p->out);
}

static void page_origin(const HtmlPage *p, const IndexFolder *x) {
    char date[32];
    time_t now = time(NULL);
    struct tm tm;
    strftime(date, sizeof date, "%Y-%m-%d %H:%M", localtime_r(&now, &tm));
    const char *model = encoder.checkpoint ? encoder.checkpoint : x->checkpoint;
    fputs("<p class=small>", p->out);
    html_text(p, x->folder);
    fprintf(p->out, ", %zu pictures; model ", living(x));
    html_text(p, model ? model : "not known");
    fprintf(p->out, "; %s</p>\n<section>\n", date);
}

/* A hit's caption is a link if its picture is a file, or a page of one. */
static void page_hit(const HtmlPage *p, IndexFolder *x, size_t row, double score) {
    const uint8_t *jpeg;
    size_t size;
    const char *key = index_folder_key(x, row);
    char *file = index_folder_meaning(x, key);
    size_t page = 0, n = pdf_key_path(file, &page);
    if (n) file[n] = 0;
    bool linked = machine_access(file, F_OK);
    index_folder_thumb(x, row, &jpeg, &size);
    fputs("<figure>", p->out);
    if (linked) html_link(p, file, page);
    if (size) html_picture(p, jpeg, size, key);
    fprintf(p->out, "<figcaption>%.4f ", score);
    html_text(p, key);
    fprintf(p->out, "</figcaption>%s</figure>\n", linked ? "</a>" : "");
    free(file);
}

static json_t *hit_json(const IndexFolder *x, size_t row, double score) {
    return json_pack("{s:I, s:o, s:f}", "row", (json_int_t)row, "key",
                     json_text(index_folder_key(x, row)), "score", score);
}

static void show_hit(const IndexFolder *x, const Queries *q, size_t rank, Hit hit, json_t *list) {
    double p = probability(q, hit.score);
    if (!json) {
        printf("  %2zu  %7.4f  ", rank, hit.score);
        if (q->sigmoid) printf("%6.2f%%  ", 100 * p);
        printf("row %zu  %s\n", hit.row, index_folder_key(x, hit.row));
        return;
    }
    json_t *object = hit_json(x, hit.row, hit.score);
    if (q->sigmoid) json_object_set_new(object, "probability", json_real(p));
    json_array_append_new(list, object);
}

/* Processes as many queries at once as their hits fit in memory. */
enum { QUERIES_AT_ONCE = 256, HITS_AT_ONCE = 1 << 22 };

/* Removes the hit on the query's own picture; returns the number that remain. */
static size_t drop_self(IndexFolder *x, const Queries *q, size_t query, Hit *hits, size_t n) {
    if (!exclude_self || !q->pictures) return n;
    char *name = index_folder_make_key(x, image_files.items[q->pictures[query]]),
         *self = index_folder_meaning(x, name);
    size_t kept = 0;
    for (size_t h = 0; h < n; h++) {
        char *hit = index_folder_meaning(x, index_folder_key(x, hits[h].row));
        if (strcmp(hit, self) != 0) hits[kept++] = hits[h];
        free(hit);
    }
    free(name);
    free(self);
    return size_min(kept, (size_t)top);
}

static void search(IndexFolder *x, const Queries *q, const HtmlPage *page) {
    size_t k = size_min((size_t)top + (exclude_self && q->pictures), living(x));
    size_t at_once = size_max(1, size_min(QUERIES_AT_ONCE, HITS_AT_ONCE / k));
    Hit *hits = xcalloc(size_mul(at_once, k), sizeof *hits);
    json_t *results = json_array();
    for (size_t first = 0; first < q->count; first += at_once) {
        size_t n = size_min(at_once, q->count - first);
        Search *walk = search_new(k, q->features + first * q->dim, n, q->dim);
        for (const Segment *g = x->segments; g < x->segments + x->count; g++)
            search_add(walk, &g->features, g->first, g->removed);
        size_t found = search_finish(walk, hits);
        for (size_t i = 0; i < n; i++) {
            json_t *list = json_array();
            if (!json) printf("%s\n", q->names[first + i]);
            if (page) page_heading(page, q->names[first + i]);
            size_t shown = drop_self(x, q, first + i, hits + i * k, found);
            for (size_t h = 0; h < shown; h++) {
                Hit hit = hits[i * k + h];
                show_hit(x, q, h + 1, hit, list);
                if (page) page_hit(page, x, hit.row, hit.score);
            }
            json_array_append_new(results, json_pack("{s:o, s:o}", "query",
                                                     json_text(q->names[first + i]), "hits", list));
        }
    }
    if (json) print_json(json_pack("{s:O}", "results", results));
    json_decref(results);
    free(hits);
}

/* Groups in the order of their first rows; members in rising order. */
static void report_duplicates(IndexFolder *x, const HtmlPage *page) {
    uint32_t *group = xmalloc(size_mul(x->rows, sizeof *group)),
             *next = xmalloc(size_mul(x->rows, sizeof *next)),
             *last = xmalloc(size_mul(x->rows, sizeof *last));
    float *alike = xmalloc(size_mul(x->rows, sizeof *alike));
    const Kernels *k = kernels_open_device(encoder.device, encoder.precision);
    RowsPart *parts = xcalloc(x->count, sizeof *parts);
    for (size_t i = 0; i < x->count; i++) {
        const Segment *g = &x->segments[i];
        parts[i] = (RowsPart){&g->features, g->first, g->removed};
    }
    size_t pairs = duplicates_find(k, parts, x->count, duplicates, group, alike), groups = 0,
           members = 0;
    free(parts);
    for (size_t i = 0; i < x->rows; i++) { /* chains from each group's first row */
        next[i] = UINT32_MAX;
        if (group[i] != i) next[last[group[i]]] = (uint32_t)i;
        last[group[i]] = (uint32_t)i;
    }
    json_t *list = json_array();
    for (size_t i = 0; i < x->rows; i++) {
        if (group[i] != i || next[i] == UINT32_MAX) continue;
        json_t *rows = json_array();
        char title[64];
        snprintf(title, sizeof title, "group %zu", ++groups);
        if (!json) printf("%s\n", title);
        if (page) page_heading(page, title);
        for (uint32_t r = (uint32_t)i; r != UINT32_MAX; r = next[r]) {
            members++;
            if (json)
                json_array_append_new(rows, hit_json(x, r, alike[r]));
            else
                printf("  %7.4f  row %u  %s\n", alike[r], r, index_folder_key(x, r));
            if (page) page_hit(page, x, r, alike[r]);
        }
        json_array_append_new(list, rows);
    }
    if (json)
        print_json(json_pack("{s:f, s:I, s:I, s:O}", "threshold", duplicates, "pictures",
                             (json_int_t)living(x), "pairs", (json_int_t)pairs, "groups", list));
    else
        printf("%zu pairs of %zu pictures are at least %.6g alike: %zu pictures in %zu groups\n",
               pairs, living(x), duplicates, members, groups);
    json_decref(list);
    FREE_ALL(group, next, last, alike);
}

/* Operands after the index are one query in words. */
static void take_words(StringList *operands) {
    size_t first = npy ? 0 : 1;
    if (operands->count <= first) return;
    if (texts.count || text_file)
        die_usage(
            "clipc search: give the words '%s ...', or --texts or --text: one index is searched",
            operands->items[first]);
    char *words = xstrdup(operands->items[first]);
    for (size_t i = first + 1; i < operands->count; i++) {
        char *longer = xasprintf("%s %s", words, operands->items[i]);
        free(words);
        words = longer;
    }
    string_list_add(&texts, words);
    free(words);
    while (operands->count > first) free(operands->items[--operands->count]);
}

int cmd_search(int argc, char **argv) {
    StringList operands = {0};
    options_parse(&command, argc, argv, &operands);
    expand_image_files(&image_files);
    take_words(&operands);
    bool alike = option_find(&command, "duplicates")->given;
    if (operands.count + (npy != NULL) != 1)
        die_usage("clipc search: name one index folder, or --collection (a .npy that clipc embed "
                  "wrote)");
    if (texts.count && text_file) die_usage("clipc search: give one of --texts and --text");
    if (alike == (texts.count > 0 || text_file || image_files.count > 0))
        die_usage("clipc search: give one of --texts, --text, --image and --duplicates");
    if (option_find(&command, "weight")->given &&
        !((texts.count || text_file) && image_files.count))
        die_usage("clipc search: --weight is for words and pictures together");
    if (exclude_self && !image_files.count)
        die_usage("clipc search: --exclude-self is for queries by --image");
    if (text_file) texts.items = read_lines(text_file, &texts.count);
    if (text_file && !texts.count) die("%s holds no query", text_file);
    IndexFolder x;
    if (npy)
        open_npy(&x, npy);
    else
        index_folder_open(&x, operands.items[0]);
    read_pictures_as(&command, &x);
    if (!living(&x)) die("%s holds no picture", x.folder);
    HtmlPage page;
    Error err;
    if (html && !html_open(&page, html, "clipc search", &err)) die("%s", err.text);
    if (html) page_origin(&page, &x);
    if (alike) {
        report_duplicates(&x, html ? &page : NULL);
    } else {
        Queries q = make_queries(&x);
        search(&x, &q, html ? &page : NULL);
        for (size_t i = 0; i < q.count; i++) free(q.names[i]);
        FREE_ALL(q.names, q.pictures, q.features);
    }
    if (html) fputs("</section>\n", page.out);
    if (html && !html_close(&page, &err)) die("%s", err.text);
    (npy ? close_npy : index_folder_close)(&x);
    string_list_free(&operands);
    return EXIT_OK;
}
