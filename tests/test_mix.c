/* Sources mixed by weights, drawn with replacement: rates and order, independent of the access
 * pattern; shards, tables, streams. */
#include "data/loader.h"
#include "data/sources.h"
#include "kernels/rng.h"
#include "tests/support_data.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SAMPLES = 61 }; /* a: 4 shards of 10, b: 2 of 3, c: a table of 15 */

static char *spec;

static void add(TarBytes *t, size_t i) {
    char name[32], text[32];
    snprintf(name, sizeof name, "%03zu.jpg", i);
    tar_bytes_text(t, name, "image");
    snprintf(name, sizeof name, "%03zu.txt", i);
    snprintf(text, sizeof text, "%zu", i);
    tar_bytes_text(t, name, text);
}

static int make_data(void **state) {
    (void)state;
    const size_t shards[] = {10, 10, 10, 10, 3, 3};
    size_t at = 0;
    for (size_t k = 0; k < COUNT(shards); k++) {
        TarBytes t = {NULL, 0};
        char name[16];
        for (size_t i = 0; i < shards[k]; i++) add(&t, at++);
        snprintf(name, sizeof name, "%zu.tar", k);
        tar_bytes_write(&t, name);
    }
    char *table = xstrdup("filepath\ttitle\n");
    for (; at < SAMPLES; at++) {
        char *longer = xasprintf("%s%zu.jpg\t%zu\n", table, at, at);
        free(table);
        table = longer;
    }
    test_write_file(test_path("c.tsv"), table, strlen(table));
    free(table);
    spec = xasprintf("%s/{0..3}.tar::%s/{4..5}.tar::%s/c.tsv", test_dir(), test_dir(), test_dir());
    return 0;
}

static int free_data(void **state) {
    (void)state;
    free(spec);
    return 0;
}

static Dataset *open_data(const char *what, const FeedOptions *feed) {
    DatasetOptions o = dataset_options_default();
    o.cache_dir = test_path("cache");
    o.feed = feed;
    return open_data_set(what, &o);
}

static size_t part_of(size_t sample) { return sample < 40 ? 0 : sample < 46 ? 1 : 2; }

static Sampler *resample(const Dataset *d, size_t window, size_t n, const char *factors) {
    Error err;
    Sampler *s = sampler_new_resampled(d, window, 5, n, factors, &err);
    if (!s) fail_msg("%s", err.text);
    return s;
}

/* Each sample is drawn at the rate of its factor, for any sizes of shards and sources. */
static void check_shares(const char *factors, double a, double b, double c) {
    enum { N = 60000 };
    Dataset *d = open_data(spec, NULL);
    Sampler *s = resample(d, 2, N, factors);
    size_t seen[SAMPLES] = {0}, parts[3] = {0};
    for (size_t i = 0; i < N; i++) {
        size_t at = sampler_at(s, 1, i);
        seen[at]++;
        parts[part_of(at)]++;
    }
    const double want[] = {40 * a, 6 * b, 15 * c}, sum = want[0] + want[1] + want[2];
    for (size_t i = 0; i < 3; i++) assert_near((double)parts[i] / N, want[i] / sum, 0.02);
    for (size_t i = 0; i < SAMPLES; i++) {
        double factor = (double[]){a, b, c}[part_of(i)], expected = factor / sum * N;
        assert_near((double)seen[i], expected, 0.2 * expected + 1e-9);
    }
    sampler_free(s);
    dataset_close(d);
}

static void test_shares(void **state) {
    (void)state;
    check_shares(NULL, 1, 1, 1);
    check_shares("1::5::2", 1, 5, 2);
    check_shares("0.5::0::1e0", 0.5, 0, 1);
}

/* A pure function of seed, epoch and position: asked in any order, by another sampler. */
static void test_pure(void **state) {
    (void)state;
    enum { N = 500 };
    Dataset *d = open_data(spec, NULL);
    Sampler *s = resample(d, 3, N, "1::4::1");
    size_t first[N], other[N], same = 0;
    for (size_t i = 0; i < N; i++) first[i] = sampler_at(s, 0, i);
    for (size_t i = 0; i < N; i++) other[i] = sampler_at(s, 1, i);
    for (size_t i = 0; i < N; i++) same += first[i] == other[i];
    assert_true(same < N / 4);
    size_t differ = 0; /* each epoch draws its own pieces, and shuffles them its own way */
    for (size_t i = 0; i < SAMPLES; i++) {
        size_t count[2] = {0};
        for (size_t j = 0; j < N; j++) count[0] += first[j] == i, count[1] += other[j] == i;
        differ += count[0] > count[1] ? count[0] - count[1] : count[1] - count[0];
    }
    assert_true(differ > N / 10);
    sampler_free(s);
    s = resample(d, 3, N, "1::4::1");
    for (size_t i = 0; i < N; i++) {
        size_t at = i * 7 % N;
        assert_int_equal(sampler_at(s, at % 2, at), at % 2 ? other[at] : first[at]);
    }
    sampler_free(s);
    /* a run of the length of an epoch is the beginning of a longer one's first windows */
    s = resample(d, 3, 60, "1::4::1");
    for (size_t i = 0; i < 9; i++) assert_int_equal(sampler_at(s, 0, i), first[i]);
    sampler_free(s);
    dataset_close(d);
}

static void test_steps(void **state) {
    (void)state;
    Dataset *d = open_data(spec, NULL);
    LoaderOptions o = {.batch_size = 10, .accum = 1, .ranks = 1, .samples_per_epoch = 200};
    assert_int_equal(loader_steps_per_epoch(d, &o), 6);
    o.resampled = true;
    assert_int_equal(loader_steps_per_epoch(d, &o), 20);
    dataset_close(d);
}

static void check_refused(const Dataset *d, const char *factors, const char *needle) {
    Error err;
    assert_null(sampler_new_resampled(d, 1, 0, 10, factors, &err));
    if (!strstr(err.text, needle)) fail_msg("\"%s\" does not say \"%s\"", err.text, needle);
}

static void test_refused(void **state) {
    (void)state;
    Dataset *d = open_data(spec, NULL);
    check_refused(d, "1::2", "one number for each of the 3 sources");
    check_refused(d, "1::2::3::4", "one number for each");
    check_refused(d, "1::2::x", "one number for each");
    check_refused(d, "1:2:3", "one number for each");
    check_refused(d, "1::-2::3", "one number for each");
    check_refused(d, "1::inf::3", "one number for each");
    check_refused(d, "0::0::0", "all are 0");
    dataset_close(d);
}

/* Of streams, sources are drawn, with equal rates inside a part; ranks draw independently. */
static void test_streams(void **state) {
    (void)state;
    enum { N = 4000 };
    size_t parts[2] = {0}, same = 0;
    long first[N];
    char *pipes = xasprintf("%s/{0..3}.tar::pipe:cat %s/{4..5}.tar", test_dir(), test_dir());
    FeedOptions o = {.samples = 2 * N,
                     .ranks = 2,
                     .seed = 3,
                     .shuffle = true,
                     .buffer = 20,
                     .seconds = 20,
                     .resampled = true,
                     .factors = "1::4"};
    for (o.rank = 0; o.rank < 2; o.rank++) {
        Dataset *d = open_data(pipes, &o);
        Feed *f = dataset_feed(d);
        feed_start(f, 0, 0, N, 0);
        for (size_t i = 0; i < N; i++) {
            FeedRow row;
            Error err;
            if (!feed_take(f, 0, i, &row, &err)) fail_msg("%s", err.text);
            long sample = atol(row.candidates[0]->s.text);
            parts[part_of((size_t)sample)]++;
            same += o.rank == 1 && sample == first[i];
            first[i] = sample;
            feed_release(&row);
        }
        dataset_close(d);
    }
    /* 4 sources of 10 samples with factor 1, 2 of 3 with factor 4 */
    assert_near((double)parts[0] / (2 * N), 40.0 / (40 + 24), 0.04);
    assert_true(same < N / 8);
    DatasetOptions options = dataset_options_default();
    options.feed = &o;
    o.factors = "1";
    refuse_data_set(pipes, &options, "one number for each of the 2 sources");
    free(pipes);
}

/* Sources without a sample are not drawn for ever. */
static void test_barren(void **state) {
    (void)state;
    FeedOptions o = {.samples = 8, .ranks = 1, .buffer = 4, .seconds = 20, .resampled = true};
    TarBytes t = {NULL, 0};
    tar_bytes_text(&t, "a.txt", "no image");
    tar_bytes_write(&t, "empty.tar");
    char *pipe = xasprintf("pipe:cat %s/empty.tar", test_dir());
    Dataset *d = open_data(pipe, &o);
    FeedRow row;
    Error err;
    feed_start(dataset_feed(d), 0, 0, 8, 1);
    assert_false(feed_take(dataset_feed(d), 0, 0, &row, &err));
    assert_non_null(strstr(err.text, "no stream has a usable sample"));
    dataset_close(d);
    free(pipe);
}

/* Of a table some rows are drawn, not all. */
static void test_pieces_of_a_table(void **state) {
    (void)state;
    FILE *f = fopen(test_path("long.tsv"), "w");
    fputs("filepath\ttitle\n", f);
    for (size_t i = 0; i < 5000; i++) fprintf(f, "%zu.jpg\t%zu\n", i, i);
    fclose(f);
    Dataset *d = open_data(test_path("long.tsv"), NULL);
    Sampler *s = resample(d, 1, 800, NULL);
    size_t piece = sampler_at(s, 0, 0) / 1024;
    for (size_t i = 1; i < 800; i++) assert_int_equal(sampler_at(s, 0, i) / 1024, piece);
    sampler_free(s);
    dataset_close(d);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shares),
        cmocka_unit_test(test_pure),
        cmocka_unit_test(test_pieces_of_a_table),
        cmocka_unit_test(test_steps),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_streams),
        cmocka_unit_test(test_barren),
    };
    return cmocka_run_group_tests_name("mix", tests, make_data, free_data);
}
