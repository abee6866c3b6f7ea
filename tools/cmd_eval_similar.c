/* clipc eval similar: how well pictures find those of their own label among features of files. */
#include "data/io/writer.h"
#include "eval/probe_split.h"
#include "eval/similar.h"
#include "tools/commands.h"
#include "tools/common.h"
#include "tools/probe_data.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static DeviceOption device;
static const char *features, *labels, *query_file, *per_query;
static int64_t top = 10;
static bool json;

static Option options[] = {
    STRING("features", &features, "X.npy", "[N,E], f32 or f16: what `clipc embed --out` wrote"),
    STRING("labels", &labels, "FILE", "a label a line: rows of a query's label are relevant"),
    STRING("queries", &query_file, "FILE",
           "rows that are queries, from 0, a line each; default: every row"),
    INT("top", &top, 1, 1e6, "precision is that of so many hits"),
    STRING("per-query", &per_query, "FILE.tsv",
           "also a line a query: row, precision, average precision"),
    CHOICE("device", &device, DEVICES, "where to compute"),
    KERNEL_TF32_OPTION,
    FLAG("json", &json, "one JSON object on stdout"),
};

static const Command command = {
    "eval similar",
    "Precision@k and mean average precision of pictures that find those of their label.",
    "clipc eval similar --features X.npy --labels FILE [--queries FILE] [--top 10] [--json]",
    "  clipc embed --checkpoint CKPT --images pages.tsv --out pages.npy\n"
    "  clipc eval similar --features pages.npy --labels kinds.txt --queries drawings.txt\n",
    options,
    COUNT(options),
};

static size_t *read_queries(size_t rows, size_t *count) {
    char **lines = read_lines(query_file, count), *end;
    size_t *queries = xcalloc(*count + 1, sizeof *queries);
    for (size_t i = 0; i < *count; i++) {
        errno = 0;
        unsigned long long row = strtoull(lines[i], &end, 10);
        if (end == lines[i] || *end || errno || row >= rows)
            die("%s line %zu: '%.40s' is no row of %zu", query_file, i + 1, lines[i], rows);
        queries[i] = (size_t)row;
    }
    free_lines(lines, *count);
    if (!*count) die("%s holds no query", query_file);
    return queries;
}

static void write_each(const SimilarScore *scores, const size_t *queries, size_t n) {
    char *bytes;
    size_t size;
    Error err;
    FILE *f = open_memstream(&bytes, &size);
    if (!f) die("out of memory");
    fputs("row\tprecision\taverage_precision\n", f);
    for (size_t i = 0; i < n; i++)
        if (scores[i].relevant)
            fprintf(f, "%zu\t%.9g\t%.9g\n", queries ? queries[i] : i, scores[i].precision,
                    scores[i].average);
    if (fclose(f)) die("out of memory");
    if (!file_write_atomic(per_query, bytes, size, &err)) die("%s", err.text);
    free(bytes);
}

/* Over the queries that have a relevant row. */
typedef struct Report {
    size_t rows, queries, alone; /* alone: without one */
    SimilarMean precision, average;
    SimilarScore chance;
} Report;

static Report sum_up(const SimilarScore *scores, size_t n, size_t rows) {
    Report r = {.rows = rows};
    double *precisions = xcalloc(n, sizeof *precisions), *averages = xcalloc(n, sizeof *averages);
    for (size_t i = 0; i < n; i++) {
        if (!scores[i].relevant) continue;
        SimilarScore c = similar_chance(rows - 1, scores[i].relevant, (size_t)top);
        precisions[r.queries] = scores[i].precision;
        averages[r.queries++] = scores[i].average;
        r.chance.precision += c.precision;
        r.chance.average += c.average;
    }
    if (!r.queries) die("%s: no query has another row of its label", labels);
    r.alone = n - r.queries;
    r.chance.precision /= (double)r.queries;
    r.chance.average /= (double)r.queries;
    r.precision = similar_mean(precisions, r.queries);
    r.average = similar_mean(averages, r.queries);
    FREE_ALL(precisions, averages);
    return r;
}

static void print_mean(const char *name, SimilarMean m, double chance) {
    double reach = 1.959964 * m.error;
    printf("%-22s %7.2f %%   95 %% (normal): %.2f to %.2f %%   chance %.2f %%\n", name,
           100 * m.mean, 100 * fmax(0, m.mean - reach), 100 * fmin(1, m.mean + reach),
           100 * chance);
}

static void report(const Report *r) {
    if (json) {
        print_json(json_pack("{s:I, s:I, s:I, s:I, s:f, s:f, s:f, s:f, s:f, s:f}", "rows",
                             (json_int_t)r->rows, "queries", (json_int_t)r->queries, "alone",
                             (json_int_t)r->alone, "top", (json_int_t)top, "precision",
                             r->precision.mean, "precision_error", r->precision.error, "map",
                             r->average.mean, "map_error", r->average.error, "chance_precision",
                             r->chance.precision, "chance_map", r->chance.average));
        return;
    }
    char name[40];
    printf("%zu queries among %zu rows", r->queries, r->rows);
    if (r->alone) printf("; left out: %zu without another row of their label", r->alone);
    putchar('\n');
    snprintf(name, sizeof name, "precision@%lld", (long long)top);
    print_mean(name, r->precision, r->chance.precision);
    print_mean("mAP", r->average, r->chance.average);
}

int cmd_eval_similar(int argc, char **argv) {
    options_parse(&command, argc, argv, NULL);
    if (!features) die_usage("clipc eval similar: --features is missing");
    if (!labels) die_usage("clipc eval similar: --labels is missing");
    Labelled l;
    labelled_open(&l, features, labels);
    size_t classes, n = l.count;
    const char **names = labelled_classes(&l, &classes);
    ProbeSet set = labelled_set(&l, "features", names, classes);
    size_t *queries = query_file ? read_queries(set.count, &n) : NULL;
    SimilarScore *scores = xcalloc(n, sizeof *scores);
    Rows rows = rows_of_floats(set.x, set.count, set.dim);
    similar_scores(kernels_open_device(device, PRECISION_FP32), scores, &rows, set.labels, queries,
                   n, (size_t)top);
    Report r = sum_up(scores, n, set.count);
    if (per_query) write_each(scores, queries, n);
    report(&r);
    FREE_ALL(names, queries, scores);
    probe_set_free(&set);
    labelled_free(&l);
    return EXIT_OK;
}
