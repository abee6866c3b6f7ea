/* clipc eval zeroshot. */
#include "eval/features.h"
#include "eval/zeroshot.h"
#include "tools/commands.h"
#include "tools/common.h"

#include <stdio.h>
#include <stdlib.h>

static EncoderOptions encoder = ENCODER_DEFAULTS;
static DatasetOptions dataset;
static CommOptions comm = COMM_DEFAULTS;
static const char *data, *classes_file;
static bool json;

static Option zeroshot_options[] = {
    ENCODER_OPTIONS(encoder),
    {"data", OPT_STRING, &data, "SPEC", 0, 0, "a folder of class folders, or shards with .cls", 0},
    {"classes", OPT_STRING, &classes_file, "FILE", 0, 0,
     "JSON: {\"classes\": [...], \"templates\": [\"a photo of a {}.\"]}", 0},
    {"json", OPT_FLAG, &json, NULL, 0, 0, "one JSON object on stdout", 0},
    COMM_OPTIONS(comm),
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
    const Comm *c = open_evaluation(&zeroshot_command, &comm, data, &dataset, &encoder, &d, &e);
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
