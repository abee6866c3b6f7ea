/* sampler: the order of samples is a permutation, a pure function of (seed, epoch), and stays
 * within its window of shards. */
#include "data/io/parallel.h"
#include "data/sampler.h"
#include "tests/support_data.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Shards of these sizes, as CSV files: opening does not look for the images. */
static Dataset *open_shards(const size_t *sizes, size_t n) {
    char *spec = xstrdup("");
    for (size_t i = 0; i < n; i++) {
        char name[64];
        snprintf(name, sizeof name, "s%zu.csv", i);
        FILE *f = fopen(test_path(name), "w");
        assert_non_null(f);
        fputs("filepath,title\n", f);
        for (size_t k = 0; k < sizes[i]; k++) fprintf(f, "%zu-%zu.jpg,words\n", i, k);
        fclose(f);
        char *longer = xasprintf("%s%s%s", spec, i ? "::" : "", test_path(name));
        free(spec);
        spec = longer;
    }
    DatasetOptions o = dataset_options_default();
    Dataset *d = open_data_set(spec, &o);
    free(spec);
    return d;
}

static const size_t SIZES[] = {7, 0, 30, 1, 12, 25, 0, 9, 16, 100, 3};

static size_t *epoch_order(Sampler *s, const Dataset *d, uint64_t epoch) {
    size_t n = dataset_count(d), *order = xmalloc(n * sizeof *order);
    for (size_t i = 0; i < n; i++) order[i] = sampler_at(s, epoch, i);
    return order;
}

static size_t shard_of(const Dataset *d, size_t sample) {
    size_t s = 0;
    while (dataset_shard_start(d, s + 1) <= sample) s++;
    return s;
}

static void test_permutation(void **state) {
    (void)state;
    Dataset *d = open_shards(SIZES, COUNT(SIZES));
    size_t n = dataset_count(d);
    assert_int_equal(n, 203);
    const size_t windows[] = {1, 2, 3, 11, 1000};
    for (size_t w = 0; w < COUNT(windows); w++) {
        Sampler *s = sampler_new(d, true, windows[w], test_seed());
        for (uint64_t epoch = 0; epoch < 3; epoch++) {
            size_t *order = epoch_order(s, d, epoch);
            bool *seen = xcalloc(n, 1);
            for (size_t i = 0; i < n; i++) {
                assert_true(order[i] < n);
                assert_false(seen[order[i]]);
                seen[order[i]] = true;
            }
            free(seen);
            free(order);
        }
        sampler_free(s);
    }
    dataset_close(d);
}

static size_t differences(const size_t *a, const size_t *b, size_t n) {
    size_t count = 0;
    for (size_t i = 0; i < n; i++) count += a[i] != b[i];
    return count;
}

static void test_pure_function(void **state) {
    (void)state;
    Dataset *d = open_shards(SIZES, COUNT(SIZES));
    size_t n = dataset_count(d);
    Sampler *a = sampler_new(d, true, 3, 5), *b = sampler_new(d, true, 3, 5),
            *other = sampler_new(d, true, 3, 6);
    size_t *first = epoch_order(a, d, 4), *second = epoch_order(a, d, 5);
    /* backwards, and with epochs and windows in turn, so that nothing is in b's caches */
    for (size_t i = n; i-- > 0;) {
        assert_int_equal(sampler_at(b, 5, i), second[i]);
        assert_int_equal(sampler_at(b, 4, i * 7 % n), first[i * 7 % n]);
        sampler_at(b, i % 3, n - 1 - i);
    }
    size_t *strange = epoch_order(other, d, 4);
    assert_true(differences(first, second, n) > n / 2);
    assert_true(differences(first, strange, n) > n / 2);
    free(first);
    free(second);
    free(strange);
    sampler_free(a);
    sampler_free(b);
    sampler_free(other);
    dataset_close(d);
}

static void test_locality(void **state) {
    (void)state;
    Dataset *d = open_shards(SIZES, COUNT(SIZES));
    size_t n = dataset_count(d), width = 3, mixed = 0;
    Sampler *s = sampler_new(d, true, width, test_seed());
    size_t *order = epoch_order(s, d, 0);
    for (size_t at = 0; at < n;) {
        /* a window ends where all samples of the shards seen so far have been served */
        size_t shards[COUNT(SIZES)], count = 0, left = 0, from = at;
        do {
            size_t shard = shard_of(d, order[at]), k = 0;
            while (k < count && shards[k] != shard) k++;
            if (k == count) {
                shards[count++] = shard;
                left += SIZES[shard];
            }
            mixed += at > from && shard_of(d, order[at - 1]) != shard;
            left--;
            at++;
        } while (left > 0);
        assert_true(count <= width);
    }
    assert_true(mixed > n / 4); /* inside a window shards are mixed */
    free(order);
    sampler_free(s);
    dataset_close(d);
}

static void test_stored_order(void **state) {
    (void)state;
    Dataset *d = open_shards(SIZES, COUNT(SIZES));
    Sampler *s = sampler_new(d, false, 3, 1);
    for (size_t i = 0; i < dataset_count(d); i++) assert_int_equal(sampler_at(s, i % 4, i), i);
    sampler_free(s);
    dataset_close(d);
}

/* Each of the 24 orders of four samples must come up about as often. */
static void test_uniform(void **state) {
    (void)state;
    Dataset *d = open_shards((const size_t[]){4}, 1);
    Sampler *s = sampler_new(d, true, 1, test_seed());
    size_t seen[256] = {0}, orders = 0;
    enum { EPOCHS = 4800 };
    for (uint64_t epoch = 0; epoch < EPOCHS; epoch++) {
        size_t code = 0;
        for (size_t i = 0; i < 4; i++) code = code * 4 + sampler_at(s, epoch, i);
        seen[code]++;
    }
    for (size_t i = 0; i < 256; i++) {
        if (!seen[i]) continue;
        orders++;
        assert_in_range(seen[i], EPOCHS / 24 - 75, EPOCHS / 24 + 75); /* 5 standard deviations */
    }
    assert_int_equal(orders, 24);
    sampler_free(s);
    dataset_close(d);
}

typedef struct Check {
    Sampler *s;
    const size_t *order[2];
    size_t n, wrong[4];
} Check;

static void check_one(void *context, size_t i, size_t thread) {
    Check *c = context;
    c->wrong[thread] += sampler_at(c->s, i % 2, i / 2 % c->n) != c->order[i % 2][i / 2 % c->n];
}

static void test_threads(void **state) {
    (void)state;
    Dataset *d = open_shards(SIZES, COUNT(SIZES));
    Sampler *s = sampler_new(d, true, 2, 9), *alone = sampler_new(d, true, 2, 9);
    size_t *even = epoch_order(alone, d, 0), *odd = epoch_order(alone, d, 1);
    Check c = {.s = s, .order = {even, odd}, .n = dataset_count(d)};
    parallel_for(4 * c.n, 4, check_one, &c);
    for (int i = 0; i < 4; i++) assert_int_equal(c.wrong[i], 0);
    free(even);
    free(odd);
    sampler_free(s);
    sampler_free(alone);
    dataset_close(d);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_permutation), cmocka_unit_test(test_pure_function),
        cmocka_unit_test(test_locality),    cmocka_unit_test(test_stored_order),
        cmocka_unit_test(test_uniform),     cmocka_unit_test(test_threads),
    };
    return cmocka_run_group_tests_name("sampler", tests, NULL, NULL);
}
