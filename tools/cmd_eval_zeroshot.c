/* clipc eval zeroshot: predictions by all ranks, the report by rank 0. */
#include "eval/classifier_cache.h"
#include "eval/zeroshot_report.h"
#include "tools/commands.h"
#include "tools/common.h"
#include "train/ranks/agree.h"

#include <stdio.h>
#include <stdlib.h>

static EncoderOptions encoder = ENCODER_DEFAULTS;
static DatasetOptions dataset;
static CommOptions comm = COMM_DEFAULTS;
static const char *data, *classes_file, *html;
static const char *label_keys = LABEL_KEYS, *label_column = LABEL_COLUMN;
static bool json, per_template, cache = true;
static int64_t rows = 10;

static Option options[] = {
    ENCODER_OPTIONS(encoder),
    STRING(
        "data", &data, "SPEC",
        "class folders, shards with .cls, a CSV/TSV of paths and classes, or idx:IMAGES[,LABELS]"),
    STRING("classes", &classes_file, "FILE|NAME",
           "a set of `make zeroshot-sets`, or JSON: {\"classes\": [...], \"templates\": [\"a photo "
           "of a {}.\"], \"folders\": [...]}; default: imagenet, if the labels are its"),
    FLAG("per-template", &per_template, "the accuracy of each template alone as well"),
    FLAG("cache", &cache,
         "keep the classifier in --cache-dir for the next time; --no-cache: build it"),
    PICTURE_OPTIONS,
    STRING("html", &html, "FILE", "a page with the confusion matrix and pictures of confusions"),
    INT("rows", &rows, 0, 1e9, "lines of each printed table at most"),
    FLAG("json", &json, "one JSON object on stdout"),
    COMM_OPTIONS(comm),
    STRING("image-key", &dataset.image_keys, "KEYS", "extensions of the image"),
    STRING("label-key", &label_keys, "KEYS",
           "shards: where the label is, a number from 0 or a name"),
    STRING("csv-img-key", &dataset.csv_image_key, "COLUMN", "column of the path"),
    STRING("csv-label-key", &label_column, "COLUMN", "column of the label"),
    STRING("csv-separator", &dataset.csv_separator, "CHAR", "tab or comma"),
    STREAM_OPTIONS(dataset),
    STRING("cache-dir", &dataset.cache_dir, "DIR", "for missing indexes and classifiers"),
};

static const Command command = {
    "eval zeroshot",
    "Classify images by the names of classes alone; prompts are ensembled.",
    "clipc eval zeroshot --checkpoint PATH --data SPEC [--classes FILE] [--json]",
    "  clipc eval zeroshot --checkpoint CKPT --data flowers/ --classes flowers.json\n"
    "  clipc eval zeroshot --checkpoint CKPT --data imagenet/val --html report.html\n"
    "  clipc eval zeroshot --checkpoint CKPT --data 'cifar10/{0..9}.tar' --classes "
    "build/zeroshot/cifar10.json --per-template\n"
    "`make zeroshot-sets` fetches the class files of ImageNet and of the usual benchmarks.\n",
    options,
    COUNT(options),
};

/* Numbers of templates by falling accuracy, malloc'd. */
static int compare_templates(const void *a, const void *b, void *context) {
    const size_t *right = context, x = *(const size_t *)a, y = *(const size_t *)b;
    if (right[x] != right[y]) return right[x] > right[y] ? -1 : 1;
    return (x > y) - (x < y);
}

static size_t *best_templates(const Predictions *p) {
    size_t *order = xcalloc(p->templates, sizeof *order);
    for (size_t t = 0; t < p->templates; t++) order[t] = t;
    qsort_r(order, p->templates, sizeof *order, compare_templates, p->right);
    return order;
}

/* ---- JSON output ---- */

static json_t *interval_json(const Interval *i) { return json_pack("[f, f]", i->low, i->high); }

static json_t *classes_json(const ZeroshotReport *r, const ClassSet *s) {
    json_t *list = json_array();
    for (size_t i = 0; i < r->occurring; i++) {
        int class = r->worst_first[i];
        const ClassReport *c = &r->of_class[class];
        json_t *o = json_pack("{s:s, s:i, s:I, s:f, s:f}", "class", s->classes[class], "index",
                              class, "images", (json_int_t)c->images, "recall",
                              (double)c->right / (double)c->images, "top5_recall",
                              (double)c->right5 / (double)c->images);
        if (c->confused >= 0)
            json_object_update_new(o,
                                   json_pack("{s:s, s:I}", "confused_with", s->classes[c->confused],
                                             "confused_images", (json_int_t)c->confused_images));
        json_array_append_new(list, o);
    }
    return list;
}

static json_t *confusions_json(const ZeroshotReport *r, const ClassSet *s) {
    json_t *list = json_array();
    for (size_t i = 0; i < r->confusion_count; i++) {
        const Cell *c = &r->confusions[i];
        json_array_append_new(list, json_pack("{s:s, s:s, s:I}", "class", s->classes[c->truth],
                                              "predicted", s->classes[c->predicted], "images",
                                              (json_int_t)c->images));
    }
    return list;
}

static json_t *templates_json(const Predictions *p, const ClassSet *s) {
    json_t *list = json_array();
    size_t *order = best_templates(p);
    for (size_t i = 0; i < p->templates; i++)
        json_array_append_new(list,
                              json_pack("{s:s, s:f}", "template", s->templates[order[i]], "top1",
                                        (double)p->right[order[i]] / (double)p->count));
    free(order);
    return list;
}

static void print_as_json(const ZeroshotReport *r, const Predictions *p, const ClassSet *s,
                          size_t unlabelled) {
    json_t *o = json_pack(
        "{s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:f, s:f, s:f}", "images", (json_int_t)r->images,
        "bad", (json_int_t)p->bad, "unlabelled", (json_int_t)unlabelled, "classes",
        (json_int_t)s->count, "occurring_classes", (json_int_t)r->occurring, "templates",
        (json_int_t)s->template_count, "top1", r->top1, "top5", r->top5, "mean_per_class_recall",
        r->mean_per_class, "images_per_s", (double)r->images / p->seconds);
    json_object_set_new(o, "confidence_95",
                        json_pack("{s:o, s:o, s:o}", "top1", interval_json(&r->top1_interval),
                                  "top5", interval_json(&r->top5_interval), "mean_per_class_recall",
                                  interval_json(&r->mean_interval)));
    json_object_set_new(o, "per_class", classes_json(r, s));
    json_object_set_new(o, "confusions", confusions_json(r, s));
    if (p->templates) json_object_set_new(o, "per_template", templates_json(p, s));
    print_json(o);
}

/* ---- text output ---- */

static void print_summary(const ZeroshotReport *r, const Predictions *p, const ClassSet *s,
                          size_t unlabelled) {
    printf("%zu images, %zu classes, %zu templates: top-1 %.2f %%, top-5 %.2f %%, mean per-class "
           "recall %.2f %%\n",
           r->images, s->count, s->template_count, 100 * r->top1, 100 * r->top5,
           100 * r->mean_per_class);
    printf("95 %% confidence (Wilson; of the mean: normal): %.2f to %.2f %%, %.2f to %.2f %%, %.2f "
           "to %.2f %%\n",
           100 * r->top1_interval.low, 100 * r->top1_interval.high, 100 * r->top5_interval.low,
           100 * r->top5_interval.high, 100 * r->mean_interval.low, 100 * r->mean_interval.high);
    if (r->occurring < s->count)
        printf("%zu of the classes have no image\n", s->count - r->occurring);
    if (p->bad || unlabelled)
        printf("left out: %zu unreadable, %zu without image or label\n", p->bad, unlabelled);
    printf("%.0f images a second\n", (double)r->images / p->seconds);
}

static void print_tables(const ZeroshotReport *r, const Predictions *p, const ClassSet *s) {
    size_t most = (size_t)rows, n = size_min(most, r->occurring);
    if (n) printf("\n%8s %8s  %-28s %s\n", "recall", "images", "class, worst first", "taken for");
    for (size_t i = 0; i < n; i++) {
        const ClassReport *c = &r->of_class[r->worst_first[i]];
        printf("%7.2f%% %8zu  %-28s ", 100 * (double)c->right / (double)c->images, c->images,
               s->classes[r->worst_first[i]]);
        if (c->confused >= 0) printf("%s (%zu)", s->classes[c->confused], c->confused_images);
        putchar('\n');
    }
    n = size_min(most, r->confusion_count);
    if (n) printf("\n%8s  %-28s %s\n", "images", "class", "taken for");
    for (size_t i = 0; i < n; i++)
        printf("%8zu  %-28s %s\n", r->confusions[i].images, s->classes[r->confusions[i].truth],
               s->classes[r->confusions[i].predicted]);
    if (!p->templates) return;
    size_t *order = best_templates(p);
    printf("\n%8s %8s  %s\n", "top-1", "points", "template alone, against the ensemble");
    for (size_t i = 0; i < p->templates; i++) {
        double share = (double)p->right[order[i]] / (double)p->count;
        printf("%7.2f%% %+8.2f  %s\n", 100 * share, 100 * (share - r->top1),
               s->templates[order[i]]);
    }
    free(order);
}

static void report(Dataset *d, const ClassSet *s, const Predictions *p) {
    if (!p->count) die("--data %s: no readable image", data);
    if (!p->finite)
        die("%s: features that are not finite: the checkpoint is damaged, or its training diverged",
            encoder.checkpoint);
    ZeroshotReport r;
    zeroshot_report(&r, p, s->count);
    if (json) {
        print_as_json(&r, p, s, dataset_dropped(d));
    } else {
        print_summary(&r, p, s, dataset_dropped(d));
        print_tables(&r, p, s);
    }
    if (html) {
        char *title = xasprintf("Zero-shot: %s on %s", encoder.checkpoint, data);
        Error err;
        if (!zeroshot_write_html(html, title, &r, p, s, d, &err)) die("--html %s", err.text);
        free(title);
    }
    zeroshot_report_free(&r);
}

static void load_classes(ClassSet *s, const char *name) {
    char *found = class_set_find(name);
    if (!found)
        die("--classes %s: no such file or set: `make zeroshot-sets` fetches ImageNet's and others",
            name);
    Error err;
    if (!class_set_load(s, found, &err)) die("%s", err.text);
    free(found);
}

/* ImageNet's classes, for data whose labels are no other set's. */
static void load_imagenet(ClassSet *s, Dataset *d) {
    if (!labels_are_imagenet(d))
        die_usage("clipc eval zeroshot: --classes is missing: a JSON file, or a set of `make "
                  "zeroshot-sets`. ImageNet's is the default for labels that are synset ids "
                  "(n01440764) and for folders 0 to 999; those of %s are not",
                  data);
    load_classes(s, "imagenet");
    log_info("the labels are ImageNet's: --classes imagenet (%s)", s->path);
}

int cmd_eval_zeroshot(int argc, char **argv) {
    dataset = dataset_options_default();
    options_parse(&command, argc, argv, NULL);
    labels_dataset_options(&dataset, label_keys, label_column);
    ClassSet s;
    if (classes_file) load_classes(&s, classes_file);
    const Comm *c = open_comm(&command, &comm, &encoder);
    Labels labels;
    comm_rank0_begin(c);
    Dataset *d = open_dataset("data", data, &dataset);
    if (!classes_file) load_imagenet(&s, d);
    labels_open(&labels, &s, d);
    Encoder *e = encoder_open(&encoder);
    comm_rank0_end(c);
    agree_on(c, "data set (samples)", dataset_count(d));
    agree_on(c, "--classes", class_set_hash(&s));
    Classifier w;
    Predictions p;
    if (per_template || !cache)
        classifier_build(&w, e, c, &s, per_template);
    else
        classifier_cached(&w, e, c, &s, dataset.cache_dir);
    zeroshot_predict(&p, e, c, d, &labels, &w);
    c->close();
    if (c->rank == 0) report(d, &s, &p);
    predictions_free(&p);
    classifier_free(&w);
    labels_free(&labels);
    class_set_free(&s);
    encoder_close(e);
    dataset_close(d);
    return EXIT_OK;
}
