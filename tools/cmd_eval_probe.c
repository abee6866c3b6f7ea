/* clipc eval probe: a linear classifier and nearest neighbours on frozen features. */
#include "eval/classes.h"
#include "eval/knn.h"
#include "eval/probe_split.h"
#include "tools/commands.h"
#include "tools/common.h"
#include "tools/probe_data.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static EncoderOptions encoder = ENCODER_DEFAULTS;
static DatasetOptions dataset;
static CommOptions comm = COMM_DEFAULTS;
static ProbeOptions probe = PROBE_DEFAULTS;
enum { TRAIN, VAL, TEST, SETS };
static const char *const names[SETS] = {"train", "val", "test"};
static const char *spec[SETS], *features[SETS], *labels[SETS];
static const char *label_keys = LABEL_KEYS, *label_column = LABEL_COLUMN, *shots_text, *cache;
static int64_t knn, seeds = 3, seed, max_iterations = 1000;
static double fixed_c;
static KnnVote knn_vote;
static bool json, linear = true;

static Option options[] = {
    ENCODER_OPTIONS(encoder),
    TOWER_OPTION(encoder),
    STRING("train", &spec[TRAIN], "SPEC",
           "labelled pictures: class folders, shards with .cls, a CSV/TSV"),
    STRING("val", &spec[VAL], "SPEC", "to choose C on; default: a fifth of each class of train"),
    STRING("test", &spec[TEST], "SPEC", "to report on"),
    STRING("features-cache", &cache, "DIR", "keep the features there and use them again"),
    STRING("train-features", &features[TRAIN], "X.npy", "instead of --checkpoint, --train, --test"),
    STRING("train-labels", &labels[TRAIN], "FILE", "a label a line"),
    STRING("val-features", &features[VAL], "X.npy", "likewise"),
    STRING("val-labels", &labels[VAL], "FILE", "likewise"),
    STRING("test-features", &features[TEST], "X.npy", "likewise"),
    STRING("test-labels", &labels[TEST], "FILE", "likewise"),
    FLAG("linear", &linear, "logistic regression"),
    FLOAT_OF("c", &fixed_c, "C", 0, 1e12, "of the loss; 0: chosen on the validation set"),
    INT("max-iterations", &max_iterations, 1, 1e9, "of L-BFGS"),
    FLOAT("tolerance", &probe.tolerance, 0, 1,
          "L-BFGS ends if no component of the mean loss's gradient is larger"),
    STRING("shots", &shots_text, "LIST", "few-shot: so many pictures a class, such as 1,2,4,8,16"),
    INT("seeds", &seeds, 1, 1000, "few-shot: draws to average"),
    INT("seed", &seed, 0, 1e15, "of the draws and of the held-out fifth"),
    INT_OF("knn", &knn, "K", 0, 1e6, "also the K nearest neighbours; 0: not"),
    CHOICE("knn-vote", &knn_vote, KNN_VOTES, "a neighbour counts exp(cosine/0.07), or 1"),
    FLAG("json", &json, "one JSON object on stdout"),
    COMM_OPTIONS(comm),
    STRING("image-key", &dataset.image_keys, "KEYS", "extensions of the image"),
    STRING("label-key", &label_keys, "KEYS", "shards: where the label is"),
    STRING("csv-img-key", &dataset.csv_image_key, "COLUMN", "column of the path"),
    STRING("csv-label-key", &label_column, "COLUMN", "column of the label"),
    STRING("csv-separator", &dataset.csv_separator, "CHAR", "tab or comma"),
    STREAM_OPTIONS(dataset),
    STRING("cache-dir", &dataset.cache_dir, "DIR", "for missing indexes"),
};

static const Command command = {
    "eval probe",
    "Accuracy of a linear classifier, and of nearest neighbours, on frozen normalised features.",
    "clipc eval probe --checkpoint PATH --train SPEC --test SPEC [--shots 1,2,4,8,16] [--knn 20]\n"
    "       clipc eval probe --train-features X.npy --train-labels FILE --test-features Y.npy "
    "--test-labels FILE",
    "  clipc eval probe --checkpoint CKPT --train pets/train --test pets/test --features-cache f\n"
    "  clipc eval probe --checkpoint CKPT --train pets/train --test pets/test --features-cache f "
    "--shots 1,2,4,8,16 --seeds 5\n"
    "  clipc eval probe --train-features x.npy --train-labels x.txt --test-features y.npy "
    "--test-labels y.txt --c 3.16 --knn 20\n",
    options,
    COUNT(options),
};

/* ---- data ---- */

static void read_sets(Labelled l[SETS]) {
    for (int i = 0; i < SETS; i++) {
        l[i] = (Labelled){0};
        if ((features[i] != NULL) != (labels[i] != NULL))
            die_usage("clipc eval probe: --%s-features and --%s-labels go together", names[i],
                      names[i]);
        if (!features[i] && i != VAL)
            die_usage("clipc eval probe: --%s-features is missing", names[i]);
        if (spec[i] || encoder.checkpoint || cache)
            die_usage("clipc eval probe: data and --checkpoint, or features; not both");
        if (features[i]) labelled_open(&l[i], features[i], labels[i]);
        if (l[i].count && l[i].dim != l[TRAIN].dim)
            die("%s has rows of %zu, %s of %zu: they are not of one model", features[i], l[i].dim,
                features[TRAIN], l[TRAIN].dim);
    }
}

/* False: this rank has nothing more to do. */
static bool embed_sets(Labelled l[SETS]) {
    for (int i = 0; i < SETS; i++)
        if (!spec[i] && i != VAL)
            die_usage("clipc eval probe: --%s is missing (class folders, shards or a CSV/TSV)",
                      names[i]);
    labels_dataset_options(&dataset, label_keys, label_column);
    const Comm *c = open_comm(&command, &comm, &encoder);
    comm_rank0_begin(c);
    encoder.no_texts = true;
    Encoder *e = encoder_open(&encoder);
    comm_rank0_end(c);
    for (int i = 0; i < SETS; i++) {
        l[i] = (Labelled){0};
        if (spec[i]) labelled_embed(&l[i], e, c, names[i], spec[i], &dataset, cache);
    }
    c->close();
    encoder_close(e);
    return c->rank == 0;
}

typedef struct Task {
    const Kernels *k;
    size_t classes;
    ProbeSet set[SETS]; /* val.count 0: none was given */
} Task;

/* ---- linear ---- */

typedef struct Linear {
    ProbeScore score;
    double c, val_accuracy, objective; /* val_accuracy < 0: C was given */
    size_t iterations;
    bool converged;
} Linear;

static void fit_and_score(Linear *r, const Task *t, const ProbeSet *train, double c) {
    Probe p;
    probe_fit(&p, t->k, train, t->classes, c, NULL, &probe);
    r->score = probe_score(t->k, &p, &t->set[TEST], NULL);
    r->c = c;
    r->objective = p.objective;
    r->iterations = p.iterations;
    r->converged = p.converged;
    probe_free(&p);
}

/* With all of train: C is selected on val or a held-out fifth, then train and val are fitted
 * together, as in the CLIP paper. */
static Linear run_full(const Task *t) {
    Linear r = {.val_accuracy = -1};
    ProbeSet part = {0}, held = {0}, joined = {0};
    double c = fixed_c;
    if (c == 0) {
        bool given = t->set[VAL].count > 0;
        if (!given) probe_hold_out(&t->set[TRAIN], t->classes, (uint64_t)seed, &part, &held);
        const ProbeSet *val = given ? &t->set[VAL] : &held;
        if (!val->count) die("no class has two pictures to hold one out: give --val or --c");
        c = probe_select_c(t->k, given ? &t->set[TRAIN] : &part, val, t->classes, &probe,
                           &r.val_accuracy);
    }
    if (t->set[VAL].count) joined = probe_set_join(&t->set[TRAIN], &t->set[VAL]);
    fit_and_score(&r, t, joined.count ? &joined : &t->set[TRAIN], c);
    probe_set_free(&part);
    probe_set_free(&held);
    probe_set_free(&joined);
    return r;
}

enum { VAL_SHOTS = 4 }; /* at most: a few-shot task has no large validation set */

static Linear run_shots(const Task *t, size_t shots, uint64_t draw) {
    Linear r = {.val_accuracy = -1};
    ProbeSet train, more;
    probe_draw_shots(&t->set[TRAIN], t->classes, shots, size_min(shots, VAL_SHOTS), draw, &train,
                     &more);
    double c = fixed_c;
    if (c == 0) {
        const ProbeSet *val = t->set[VAL].count ? &t->set[VAL] : &more;
        if (!val->count) die("--shots %zu leaves nothing to choose C on: give --val or --c", shots);
        c = probe_select_c(t->k, &train, val, t->classes, &probe, &r.val_accuracy);
    }
    fit_and_score(&r, t, &train, c);
    probe_set_free(&train);
    probe_set_free(&more);
    return r;
}

static void report_full(const Task *t, json_t *out) {
    Linear r = run_full(t);
    if (!r.converged)
        log_warn("L-BFGS had not converged after %zu iterations (--max-iterations)", r.iterations);
    if (!json) {
        printf("linear probe: %.2f %%, mean per-class recall %.2f %% (C = %.4g",
               100 * r.score.accuracy, 100 * r.score.mean_per_class, r.c);
        if (r.val_accuracy >= 0) printf(", %.2f %% on validation", 100 * r.val_accuracy);
        printf("; %zu iterations)\n", r.iterations);
    }
    json_t *o =
        json_pack("{s:f, s:f, s:f, s:f, s:I, s:b}", "accuracy", r.score.accuracy,
                  "mean_per_class_recall", r.score.mean_per_class, "c", r.c, "objective",
                  r.objective, "iterations", (json_int_t)r.iterations, "converged", r.converged);
    if (r.val_accuracy >= 0) json_object_set_new(o, "val_accuracy", json_real(r.val_accuracy));
    json_object_set_new(out, "linear", o);
}

/* The standard deviation is that of a sample (n - 1). */
static void report_shots(const Task *t, const size_t *shots, size_t count, json_t *out) {
    json_t *list = json_array();
    if (!json)
        printf("%8s %10s %8s   mean and deviation of %lld draws\n", "shots", "accuracy", "",
               (long long)seeds);
    for (size_t s = 0; s < count; s++) {
        double sum = 0, squares = 0, *each = xcalloc((size_t)seeds, sizeof *each);
        json_t *draws = json_array();
        for (int64_t d = 0; d < seeds; d++) {
            Linear r = run_shots(t, shots[s], (uint64_t)(seed + d));
            sum += each[d] = r.score.accuracy;
            json_array_append_new(draws,
                                  json_pack("{s:f, s:f}", "accuracy", r.score.accuracy, "c", r.c));
        }
        double mean = sum / (double)seeds;
        for (int64_t d = 0; d < seeds; d++) squares += (each[d] - mean) * (each[d] - mean);
        double deviation = seeds > 1 ? sqrt(squares / (double)(seeds - 1)) : 0;
        if (!json) printf("%8zu %8.2f %% ± %5.2f\n", shots[s], 100 * mean, 100 * deviation);
        json_array_append_new(list,
                              json_pack("{s:I, s:f, s:f, s:o}", "shots", (json_int_t)shots[s],
                                        "accuracy", mean, "deviation", deviation, "draws", draws));
        free(each);
    }
    json_object_set_new(out, "few_shot", list);
}

static void report_knn(const Task *t, json_t *out) {
    int *predicted = xcalloc(t->set[TEST].count, sizeof *predicted);
    knn_predict(predicted, &t->set[TRAIN], &t->set[TEST], t->classes, (size_t)knn, knn_vote);
    ProbeScore s = probe_score_predictions(predicted, &t->set[TEST], t->classes);
    if (!json)
        printf("%lld nearest neighbours: %.2f %%, mean per-class recall %.2f %%\n", (long long)knn,
               100 * s.accuracy, 100 * s.mean_per_class);
    json_object_set_new(out, "knn",
                        json_pack("{s:I, s:f, s:f}", "k", (json_int_t)knn, "accuracy", s.accuracy,
                                  "mean_per_class_recall", s.mean_per_class));
    free(predicted);
}

static size_t *parse_shots(const char *text, size_t *count) {
    size_t *shots = xcalloc(strlen(text) + 1, sizeof *shots), n = 0;
    char *end;
    for (const char *at = text;; at = end + 1) {
        errno = 0;
        long long v = strtoll(at, &end, 10);
        if (end == at || errno || v < 1 || v > INT32_MAX || (*end && *end != ','))
            die_usage("clipc eval probe: --shots '%s': numbers from 1 with commas between", text);
        shots[n++] = (size_t)v;
        if (!*end) break;
    }
    *count = n;
    return shots;
}

int cmd_eval_probe(int argc, char **argv) {
    dataset = dataset_options_default();
    options_parse(&command, argc, argv, NULL);
    probe.max_iterations = (size_t)max_iterations;
    size_t shot_count = 0, *shots = shots_text ? parse_shots(shots_text, &shot_count) : NULL;
    if (!linear && !knn) die_usage("clipc eval probe: --no-linear without --knn leaves nothing");
    Labelled l[SETS];
    bool of_files = features[TRAIN] || features[TEST] || features[VAL];
    if (of_files)
        read_sets(l);
    else if (!embed_sets(l))
        return EXIT_OK;
    Task t = {.k = kernels_open_device(encoder.device, encoder.precision)};
    const char **classes = labelled_classes(&l[TRAIN], &t.classes);
    if (t.classes < 2) die("the training set has one class: there is nothing to tell apart");
    for (int i = 0; i < SETS; i++) t.set[i] = labelled_set(&l[i], names[i], classes, t.classes);
    json_t *out = json_pack("{s:I, s:I, s:I, s:I}", "classes", (json_int_t)t.classes, "train",
                            (json_int_t)t.set[TRAIN].count, "val", (json_int_t)t.set[VAL].count,
                            "test", (json_int_t)t.set[TEST].count);
    if (!json)
        printf("%zu classes, %zu training and %zu test pictures\n", t.classes, t.set[TRAIN].count,
               t.set[TEST].count);
    if (linear && shots) report_shots(&t, shots, shot_count, out);
    if (linear && !shots) report_full(&t, out);
    if (knn) report_knn(&t, out);
    if (json)
        print_json(out);
    else
        json_decref(out);
    for (int i = 0; i < SETS; i++) {
        probe_set_free(&t.set[i]);
        labelled_free(&l[i]);
    }
    FREE_ALL(classes, shots);
    return EXIT_OK;
}
