/* clipc eval retrieval: the features by all ranks, the scores by rank 0. */
#include "eval/features.h"
#include "eval/retrieval.h"
#include "tools/commands.h"
#include "tools/common.h"

#include <stdio.h>
#include <stdlib.h>

static EncoderOptions encoder = ENCODER_DEFAULTS;
static DatasetOptions dataset;
static const char *data;
static bool json;
static CommOptions comm = COMM_DEFAULTS;

static Option retrieval_options[] = {
    ENCODER_OPTIONS(encoder),
    {"data", OPT_STRING, &data, "SPEC", 0, 0, "pairs: shards, a CSV/TSV or a folder", 0},
    {"json", OPT_FLAG, &json, NULL, 0, 0, "one JSON object on stdout", 0},
    COMM_OPTIONS(comm),
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
    const Comm *c = open_evaluation(&retrieval_command, &comm, data, &dataset, &encoder, &d, &e);
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
