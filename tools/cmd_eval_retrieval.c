/* clipc eval retrieval: the features by all ranks, or from files; the ranks by rank 0. */
#include "data/caption_set.h"
#include "eval/features.h"
#include "eval/lists.h"
#include "eval/retrieval.h"
#include "tools/commands.h"
#include "tools/common.h"
#include "train/ranks/agree.h"
#include "data/io/utf8.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static EncoderOptions encoder = ENCODER_DEFAULTS;
static DatasetOptions dataset;
static CommOptions comm = COMM_DEFAULTS;
static CaptionSetOptions captions = {.split = "test"};
static const char *data, *image_features, *text_features, *image_of_file;
static int64_t most;
static bool json, caption_lines;

static Option options[] = {
    ENCODER_OPTIONS(encoder),
    STRING("data", &data, "SPEC", "Karpathy's .json, a CSV/TSV, shards or a folder of pairs"),
    STRING("split", &captions.split, "NAME", "of Karpathy's .json"),
    STRING("image-root", &captions.root, "DIR",
           "folder of a .json's or CSV's pictures; default: its own"),
    INT("captions-per-image", &most, 0, 1e6, "of a .json or CSV the first so many; 0: all"),
    FLAG("caption-lines", &caption_lines,
         "every line of a sample's caption is one (shards, folders)"),
    STRING("image-features", &image_features, "X.npy",
           "instead of --checkpoint and --data: [N,E], f32 or f16"),
    STRING("text-features", &text_features, "Y.npy", "and the captions', [M,E]"),
    STRING("image-of", &image_of_file, "FILE",
           "a line a caption: its picture's row; default: row by row"),
    FLAG("json", &json, "one JSON object on stdout"),
    COMM_OPTIONS(comm),
    DATASET_OPTIONS(dataset),
};

static const Command command = {
    "eval retrieval",
    "Recall@k of images among captions and of captions among images, one or several captions each.",
    "clipc eval retrieval (--checkpoint PATH --data SPEC | --image-features X.npy --text-features "
    "Y.npy) [--json]",
    "  clipc eval retrieval --checkpoint logs/run/checkpoints/latest --data 'val/{00..04}.tar'\n"
    "  clipc eval retrieval --checkpoint CKPT --data dataset_coco.json --image-root coco/\n"
    "  clipc eval retrieval --image-features x.npy --text-features y.npy --json\n",
    options,
    COUNT(options),
};

enum { NAMED_FILES = 5 }; /* unreadable ones that are named */

/* The ranked features, on rank 0. */
typedef struct Pool {
    Rows images, texts;
    uint32_t *image_of; /* NULL: row by row */
    size_t bad;
    double seconds;                /* of encoding; 0: features came from files */
    float *image_rows, *text_rows; /* to be freed */
} Pool;

/* ---- features from files ---- */

static uint32_t *read_image_of(const char *path, size_t images, size_t texts) {
    size_t n;
    char **lines = read_lines(path, &n), *end;
    if (n != texts) die("%s has %zu lines, there are %zu captions", path, n, texts);
    uint32_t *image_of = xcalloc(n, sizeof *image_of);
    bool *found = xcalloc(images, sizeof *found);
    for (size_t i = 0; i < n; i++) {
        errno = 0;
        unsigned long long row = strtoull(lines[i], &end, 10);
        if (end == lines[i] || *end || errno || row >= images)
            die("%s line %zu: '%.40s' is no row of %zu pictures", path, i + 1, lines[i], images);
        image_of[i] = (uint32_t)row;
        found[row] = true;
    }
    for (size_t i = 0; i < images; i++)
        if (!found[i]) die("%s: picture %zu (from 0) has no caption", path, i);
    free(found);
    free_lines(lines, n);
    return image_of;
}

static void pool_open(Pool *p) {
    if (!image_features || !text_features)
        die_usage("clipc eval retrieval: --image-features and --text-features go together");
    if (data || encoder.checkpoint)
        die_usage("clipc eval retrieval: --data and --checkpoint, or features; not both");
    p->images = rows_open(image_features);
    p->texts = rows_open(text_features);
    if (p->images.dim != p->texts.dim)
        die("%s has rows of %zu, %s of %zu: they are not of one model", image_features,
            p->images.dim, text_features, p->texts.dim);
    if (image_of_file)
        p->image_of = read_image_of(image_of_file, p->images.count, p->texts.count);
    else if (p->images.count != p->texts.count)
        die("%zu pictures and %zu captions: say with --image-of which belong together",
            p->images.count, p->texts.count);
}

/* ---- features of data ---- */

/* Pictures that several rows or sentences name are computed once. */
static void pool_of_captions(Pool *p, Encoder *e, const Comm *c) {
    CaptionSet s;
    Error err;
    captions.most = (size_t)most;
    if (!caption_set_load(&s, data, &captions, &dataset, &err)) comm_die(c, "%s", err.text);
    agree_on(c, "data set (captions)", s.text_count);
    double t0 = clock_now();
    bool *ok = xcalloc(s.image_count, sizeof *ok);
    p->image_rows = features_of_files(e, c, s.images, s.image_count, ok, NAMED_FILES);
    size_t E = encoder_dim(e), good = 0;
    for (size_t i = 0; i < s.image_count; i++)
        if (ok[i]) memmove(p->image_rows + E * good++, p->image_rows + E * i, E * sizeof(float));
    p->bad = s.image_count - good;
    if (p->bad) log_warn("%zu of %zu pictures cannot be read", p->bad, s.image_count);
    if (!good)
        comm_die(c, "--data %s: no picture can be read (--image-root says where they are)", data);
    caption_set_keep(&s, ok);
    p->text_rows = features_of_texts(e, c, s.texts, s.text_count);
    p->seconds = clock_now() - t0;
    p->images = rows_of_floats(p->image_rows, good, E);
    p->texts = rows_of_floats(p->text_rows, s.text_count, E);
    bool pairs = s.text_count == good;
    for (size_t j = 0; j < s.text_count; j++) pairs &= s.image_of[j] == j;
    if (!pairs) {
        p->image_of = s.image_of;
        s.image_of = NULL;
    }
    caption_set_free(&s);
    free(ok);
}

/* The captions' lines that are not blank; image_of has the image of each. */
static char **split_lines(const Features *f, uint32_t **image_of, size_t *count) {
    char **lines = NULL;
    size_t n = 0, room = 0;
    *image_of = NULL;
    for (size_t i = 0; i < f->count; i++) {
        for (const char *at = f->captions[i]; *at;) {
            size_t length = strcspn(at, "\n");
            if (!text_is_blank(at, length)) {
                if (n == room) {
                    room = size_max(256, 2 * room);
                    lines = xrealloc(lines, size_mul(room, sizeof *lines));
                    *image_of = xrealloc(*image_of, size_mul(room, sizeof **image_of));
                }
                (*image_of)[n] = (uint32_t)i;
                lines[n++] = xasprintf("%.*s", (int)length, at);
            }
            at += length + (at[length] == '\n');
        }
    }
    *count = n;
    return lines;
}

static void pool_of_dataset(Pool *p, Encoder *e, const Comm *c, Dataset *d) {
    Features f;
    features_of_dataset(&f, e, c, d, true, !caption_lines);
    if (!f.count) comm_die(c, "--data %s: no readable pair", data);
    p->bad = f.bad;
    p->seconds = f.seconds;
    size_t texts = f.count;
    if (caption_lines) {
        double t0 = clock_now();
        char **lines = split_lines(&f, &p->image_of, &texts);
        f.texts = features_of_texts(e, c, lines, texts);
        free_lines(lines, texts);
        p->seconds += clock_now() - t0;
    }
    p->image_rows = f.images;
    p->text_rows = f.texts;
    p->images = rows_of_floats(f.images, f.count, f.dim);
    p->texts = rows_of_floats(f.texts, texts, f.dim);
    f.images = f.texts = NULL;
    features_free(&f);
    dataset_close(d);
}

static void pool_check(Pool *p) {
    Error err;
    if (!rows_normalise(&p->images, &err)) die("the pictures' features: %s", err.text);
    if (!rows_normalise(&p->texts, &err)) die("the captions' features: %s", err.text);
}

/* ---- report ---- */

/* Adds the expected result of a random order of `keys` with `positives` positives to r. */
static void add_chance(Recall *r, size_t keys, size_t positives) {
    double miss = 1, median = 0; /* chance that none of the first i is a positive */
    for (size_t i = 0; i < keys; i++) {
        size_t others = keys - positives;
        miss *= i < others ? (double)(others - i) / (double)(keys - i) : 0;
        if (i < 1) r->at1 += 1 - miss;
        if (i < 5) r->at5 += (i == 4 || i + 1 == keys) * (1 - miss);
        if (i < 10) r->at10 += (i == 9 || i + 1 == keys) * (1 - miss);
        if (!median && miss <= 0.5 + 1e-12) median = (double)i + 1;
        if (median && i >= 9) break;
    }
    r->mean_rank += (double)(keys + 1) / (double)(positives + 1);
    r->median_rank += median;
}

static void scale_recall(Recall *r, double by) {
    r->at1 *= by;
    r->at5 *= by;
    r->at10 *= by;
    r->mean_rank *= by;
    r->median_rank *= by;
}

/* The means over images, and of any caption. */
static void chance(const Pool *p, Recall *to_text, Recall *to_image) {
    *to_text = *to_image = (Recall){0};
    size_t N = p->images.count, M = p->texts.count;
    add_chance(to_image, N, 1);
    if (!p->image_of) {
        *to_text = *to_image;
        return;
    }
    size_t *captions_of = xcalloc(N, sizeof *captions_of),
           *images_with = xcalloc(M + 1, sizeof(size_t));
    for (size_t j = 0; j < M; j++) captions_of[p->image_of[j]]++;
    for (size_t i = 0; i < N; i++) images_with[captions_of[i]]++;
    for (size_t c = 1; c <= M; c++) {
        if (!images_with[c]) continue;
        Recall one = {0};
        add_chance(&one, M, c);
        scale_recall(&one, (double)images_with[c] / (double)N);
        to_text->at1 += one.at1;
        to_text->at5 += one.at5;
        to_text->at10 += one.at10;
        to_text->mean_rank += one.mean_rank;
        to_text->median_rank += one.median_rank;
    }
    FREE_ALL(captions_of, images_with);
}

static json_t *recall_json(const Recall *r) {
    return json_pack("{s:f, s:f, s:f, s:f, s:f}", "R@1", r->at1, "R@5", r->at5, "R@10", r->at10,
                     "mean_rank", r->mean_rank, "median_rank", r->median_rank);
}

static void print_recall(const char *name, const Recall *r) {
    printf("%-16s %7.2f %7.2f %7.2f %10.1f %12.0f\n", name, 100 * r->at1, 100 * r->at5,
           100 * r->at10, r->mean_rank, r->median_rank);
}

static void report(const Pool *p, const Recall *to_text, const Recall *to_image, double seconds) {
    size_t N = p->images.count, M = p->texts.count;
    Recall text_chance, image_chance;
    chance(p, &text_chance, &image_chance);
    if (json) {
        json_t *o =
            json_pack("{s:I, s:I, s:I, s:I, s:o, s:o, s:o, s:o, s:f}", "pairs", (json_int_t)M,
                      "images", (json_int_t)N, "captions", (json_int_t)M, "bad", (json_int_t)p->bad,
                      "image_to_text", recall_json(to_text), "text_to_image", recall_json(to_image),
                      "chance", recall_json(&image_chance), "chance_image_to_text",
                      recall_json(&text_chance), "rank_seconds", seconds);
        if (p->seconds > 0)
            json_object_set_new(o, "samples_per_s", json_real((double)M / p->seconds));
        print_json(o);
        return;
    }
    if (p->image_of)
        printf("%zu images, %zu captions", N, M);
    else
        printf("%zu pairs", N);
    if (p->seconds > 0)
        printf(", %.0f a second", (double)M / p->seconds);
    else
        printf(", ranked in %.1f s, %.0f MiB at most", seconds, (double)peak_rss() / (1 << 20));
    printf("%s\n\n", p->bad ? "; unreadable ones left out" : "");
    printf("%-16s %7s %7s %7s %10s %12s\n", "", "R@1 %", "R@5 %", "R@10 %", "mean rank",
           "median rank");
    print_recall("image -> text", to_text);
    print_recall("text -> image", to_image);
    if (p->image_of) print_recall("chance, to text", &text_chance);
    print_recall(p->image_of ? "chance, to image" : "chance", &image_chance);
}

int cmd_eval_retrieval(int argc, char **argv) {
    dataset = dataset_options_default();
    options_parse(&command, argc, argv, NULL);
    Pool p = {0};
    if (image_features || text_features) {
        pool_open(&p);
    } else {
        if (!data) die_usage("--data is missing (Karpathy's .json, a CSV/TSV, shards or a folder)");
        if (image_of_file) die_usage("clipc eval retrieval: --image-of goes with features");
        const Comm *c = open_comm(&command, &comm, &encoder);
        comm_rank0_begin(c);
        Dataset *d = caption_set_known(data) ? NULL : open_dataset("data", data, &dataset);
        Encoder *e = encoder_open(&encoder);
        comm_rank0_end(c);
        if (d) {
            agree_on(c, "data set (samples)", dataset_count(d));
            pool_of_dataset(&p, e, c, d);
        } else {
            pool_of_captions(&p, e, c);
        }
        c->close();
        if (c->rank > 0) return EXIT_OK;
        encoder_close(e);
        pool_check(&p);
    }
    const Kernels *k = kernels_open_device(encoder.device, encoder.precision);
    size_t N = p.images.count, M = p.texts.count;
    size_t *to_text = xcalloc(N, sizeof *to_text), *to_image = xcalloc(M, sizeof *to_image);
    double t0 = clock_now();
    retrieval_ranks_of(k, to_text, to_image, &p.images, &p.texts, p.image_of, !json);
    double seconds = clock_now() - t0;
    Recall text = retrieval_recall(to_text, N), image = retrieval_recall(to_image, M);
    report(&p, &text, &image, seconds);
    FREE_ALL(to_text, to_image, p.image_of, p.image_rows, p.text_rows);
    rows_close(&p.images);
    rows_close(&p.texts);
    return EXIT_OK;
}
