/* clipc eval retrieval, clipc eval zeroshot: the features by all ranks, the scores by rank 0. */
#include "eval/features.h"
#include "eval/retrieval.h"
#include "eval/zeroshot.h"
#include "tools/commands.h"
#include "tools/common.h"
#include "train/agree.h"

#include <stdio.h>
#include <stdlib.h>

static EncoderOptions encoder = ENCODER_DEFAULTS;
static DatasetOptions dataset;
static const char *data, *classes_file;
static bool json;
static int comm_choice;
static double comm_timeout = 300;

#define COMM_OPTIONS                                                                               \
    {"comm", OPT_CHOICE, &comm_choice, COMM_CHOICES, 0, 0, "how ranks talk", 0}, {                 \
        "comm-timeout", OPT_FLOAT, &comm_timeout, "SECONDS", 0.1, 1e6,                             \
            "end all ranks when one does not come", 0                                              \
    }

/* Data set and encoder, the same on all ranks. */
static const Comm *open_all(const Command *command, Dataset **d, Encoder **e) {
    const Comm *c = comm_open((CommChoice)comm_choice,
                              kernels_open_choice(encoder.device, encoder.precision), comm_timeout);
    agree_on_start(c, command);
    comm_rank0_begin(c);
    *d = open_dataset("data", data, &dataset);
    *e = encoder_open(&encoder);
    comm_rank0_end(c);
    agree_on(c, "data set (samples)", dataset_count(*d));
    return c;
}

static Option retrieval_options[] = {
    ENCODER_OPTIONS(encoder),
    {"data", OPT_STRING, &data, "SPEC", 0, 0, "pairs: shards, a CSV/TSV or a folder", 0},
    {"json", OPT_FLAG, &json, NULL, 0, 0, "one JSON object on stdout", 0},
    COMM_OPTIONS,
    DATASET_OPTIONS(dataset),
};

static const Command retrieval_command = {
    "eval retrieval",
    "Recall@k of a set of pairs: each image among all captions, each caption among all images.",
    "clipc eval retrieval --checkpoint PATH --data SPEC [--json]",
    "  clipc eval retrieval --checkpoint logs/run/checkpoints/latest --data 'val/{00..04}.tar'\n",
    retrieval_options,
    COUNT(retrieval_options),
};

static json_t *recall_json(const Recall *r) {
    return json_pack("{s:f, s:f, s:f, s:f, s:f}", "R@1", r->at1, "R@5", r->at5, "R@10", r->at10,
                     "mean_rank", r->mean_rank, "median_rank", r->median_rank);
}

static void print_recall(const char *name, const Recall *r) {
    printf("%-16s %7.2f %7.2f %7.2f %10.1f %12.0f\n", name, 100 * r->at1, 100 * r->at5,
           100 * r->at10, r->mean_rank, r->median_rank);
}

int cmd_eval_retrieval(int argc, char **argv) {
    dataset = dataset_options_default();
    options_parse(&retrieval_command, argc, argv, NULL);
    Dataset *d;
    Encoder *e;
    Features f;
    const Comm *c = open_all(&retrieval_command, &d, &e);
    features_of_dataset(&f, e, c, d, true, true);
    c->close();
    if (c->rank > 0) return EXIT_OK;
    if (!f.count) die("--data %s: no readable pair", data);
    size_t N = f.count, *ranks = xcalloc(N, sizeof *ranks);
    retrieval_ranks(encoder_kernels(e), ranks, f.images, f.texts, N, f.dim);
    Recall to_text = retrieval_recall(ranks, N);
    retrieval_ranks(encoder_kernels(e), ranks, f.texts, f.images, N, f.dim);
    Recall to_image = retrieval_recall(ranks, N);
    double n = (double)N, middle = (n + 1) / 2;
    Recall chance = {1 / n, size_min(5, N) / n, size_min(10, N) / n, middle, middle};
    if (json) {
        print_json(json_pack("{s:I, s:I, s:o, s:o, s:o, s:f}", "pairs", (json_int_t)N, "bad",
                             (json_int_t)f.bad, "image_to_text", recall_json(&to_text),
                             "text_to_image", recall_json(&to_image), "chance",
                             recall_json(&chance), "samples_per_s", n / f.seconds));
    } else {
        printf("%zu pairs, %.0f a second%s\n\n", N, n / f.seconds,
               f.bad ? "; unreadable ones left out" : "");
        printf("%-16s %7s %7s %7s %10s %12s\n", "", "R@1 %", "R@5 %", "R@10 %", "mean rank",
               "median rank");
        print_recall("image -> text", &to_text);
        print_recall("text -> image", &to_image);
        print_recall("chance", &chance);
    }
    free(ranks);
    features_free(&f);
    encoder_close(e);
    dataset_close(d);
    return EXIT_OK;
}

static Option zeroshot_options[] = {
    ENCODER_OPTIONS(encoder),
    {"data", OPT_STRING, &data, "SPEC", 0, 0, "a folder of class folders, or shards with .cls", 0},
    {"classes", OPT_STRING, &classes_file, "FILE", 0, 0,
     "JSON: {\"classes\": [...], \"templates\": [\"a photo of a {}.\"]}", 0},
    {"json", OPT_FLAG, &json, NULL, 0, 0, "one JSON object on stdout", 0},
    COMM_OPTIONS,
    DATASET_OPTIONS(dataset),
};

static const Command zeroshot_command = {
    "eval zeroshot",
    "Classify images by the names of classes alone; prompts are ensembled.",
    "clipc eval zeroshot --checkpoint PATH --data SPEC --classes FILE [--json]",
    "  clipc eval zeroshot --checkpoint CKPT --data flowers/ --classes flowers.json\n",
    zeroshot_options,
    COUNT(zeroshot_options),
};

/* Labels of the data as class numbers: through the folders' names, or as .cls gives them.
 * Unlabelled samples die. */
static void map_labels(Features *f, const Dataset *d, const ClassSet *s) {
    const char *const *folders;
    size_t n = dataset_classes(d, &folders);
    int *map = xcalloc(n, sizeof *map);
    if (n) zeroshot_map_folders(map, folders, n, s);
    for (size_t i = 0; i < f->count; i++) {
        int label = f->labels[i];
        if (label < 0)
            die("%s has no label: a folder of class folders or shards with .cls are needed",
                f->keys[i]);
        if (n) label = map[label];
        if ((size_t)label >= s->count)
            die("%s: label %d, but there are %zu classes", f->keys[i], label, s->count);
        f->labels[i] = label;
    }
    free(map);
}

int cmd_eval_zeroshot(int argc, char **argv) {
    dataset = dataset_options_default();
    dataset.text_keys = NULL; /* images need no caption */
    options_parse(&zeroshot_command, argc, argv, NULL);
    if (!classes_file) die_usage("clipc eval zeroshot: --classes is missing (a JSON file)");
    ClassSet s;
    class_set_load(&s, classes_file);
    Dataset *d;
    Encoder *e;
    Features f;
    const Comm *c = open_all(&zeroshot_command, &d, &e);
    features_of_dataset(&f, e, c, d, true, false);
    c->close();
    if (c->rank > 0) return EXIT_OK;
    if (!f.count) die("--data %s: no readable image", data);
    map_labels(&f, d, &s);
    float *weights = xmalloc(size_mul(s.count, f.dim * sizeof *weights));
    zeroshot_weights(e, &s, weights);
    ZeroshotResult r =
        zeroshot_score(encoder_kernels(e), f.images, f.labels, f.count, weights, s.count, f.dim);
    if (json)
        print_json(json_pack("{s:I, s:I, s:I, s:f, s:f, s:f, s:f}", "images", (json_int_t)r.count,
                             "bad", (json_int_t)f.bad, "classes", (json_int_t)s.count, "top1",
                             r.top1, "top5", r.top5, "mean_per_class_recall", r.mean_per_class,
                             "images_per_s", (double)f.count / f.seconds));
    else
        printf("%zu images, %zu classes, %zu templates: top-1 %.2f %%, top-5 %.2f %%, mean "
               "per-class recall %.2f %%\n",
               r.count, s.count, s.template_count, 100 * r.top1, 100 * r.top5,
               100 * r.mean_per_class);
    free(weights);
    features_free(&f);
    class_set_free(&s);
    encoder_close(e);
    dataset_close(d);
    return EXIT_OK;
}
