/* loader: batches are the same for every number of threads, every ring, every way to split a global
 * batch over ranks and accumulation, and from any position; bad samples are replaced and counted.
 */
#include "data/loader.h"
#include "data/index.h"
#include "kernels/rng.h"
#include "tests/support_data.h"
#include "kernels/hash.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SIZE = 16, CONTEXT = 12, SAMPLES = 61, SHARDS = 3, GLOBAL = 8 };

static Tokenizer *tokenizer;

static int set_up(void **state) {
    (void)state;
    static const char vocab[] = "#version\nt h\nth e</w>\nc a\nca t</w>\n";
    Error err;
    test_write_file(test_path("vocab.txt"), vocab, sizeof vocab - 1);
    tokenizer = tokenizer_open(test_path("vocab.txt"), &err);
    if (!tokenizer) print_error("%s\n", err.text);
    return tokenizer ? 0 : -1;
}

static int tear_down(void **state) {
    (void)state;
    tokenizer_close(tokenizer);
    return 0;
}

/* Picture number i, identified by its colours and its size. */
static void add_picture(TarBytes *t, size_t i, bool broken) {
    int width = 20 + (int)(i % 7), height = 18 + (int)(i % 5);
    uint8_t *rgb = xmalloc((size_t)(width * height * 3)), *jpeg;
    size_t n;
    Error err;
    char name[32], text[64];
    for (int k = 0; k < width * height * 3; k++)
        rgb[k] = (uint8_t)(i * 37 + (size_t)k * (i % 3 + 1) / 7);
    if (!image_encode_jpeg(&jpeg, &n, rgb, width, height, 90, &err)) fail_msg("%s", err.text);
    if (broken) memset(jpeg, 0, n);
    snprintf(name, sizeof name, "%05zu.jpg", i);
    tar_bytes_add(t, name, jpeg, n);
    snprintf(name, sizeof name, "%05zu.txt", i);
    /* captions of every length, some beyond the context */
    snprintf(text, sizeof text, "the cat %zu%.*s", i, (int)(i % 17), " the cat abcdefgh");
    tar_bytes_text(t, name, text);
    snprintf(name, sizeof name, "%05zu.cls", i);
    snprintf(text, sizeof text, "%zu", i % 10);
    tar_bytes_text(t, name, text);
    free(jpeg);
    free(rgb);
}

/* bad: sample numbers whose image is broken, ended by SIZE_MAX. */
static Dataset *make_data(size_t samples, size_t shards, const size_t *bad) {
    DatasetOptions o = dataset_options_default();
    o.cache_dir = test_path("cache");
    for (size_t k = 0; k < shards; k++) {
        TarBytes t = {NULL, 0};
        char name[32];
        for (size_t i = k * samples / shards; i < (k + 1) * samples / shards; i++) {
            bool broken = false;
            for (const size_t *b = bad; b && *b != SIZE_MAX; b++) broken |= *b == i;
            add_picture(&t, i, broken);
        }
        snprintf(name, sizeof name, "%zu.tar", k);
        tar_bytes_write(&t, name);
    }
    char *spec = xasprintf("%s/{0..%zu}.tar", test_dir(), shards - 1);
    Dataset *d = open_data_set(spec, &o);
    free(spec);
    return d;
}

static LoaderOptions options(void) {
    LoaderOptions o = {.transform = transform_default(SIZE, true),
                       .tokenizer = tokenizer,
                       .context = CONTEXT,
                       .batch_size = GLOBAL,
                       .accum = 1,
                       .rank = 0,
                       .ranks = 1,
                       .workers = 2,
                       .seed = 11,
                       .max_bad = 0.5,
                       .max_pixels = 1 << 20};
    return o;
}

/* Everything of one row. */
typedef struct Row {
    uint64_t sample, pixels, text, view[2]; /* 0: without */
    int32_t label, length;
} Row;

static Row row_of(const Batch *b, size_t i) {
    size_t pixels = SIZE * SIZE * 3;
    Row row = {.sample = b->sample[i], .label = b->label[i]};
    if (b->pixels) row.pixels = fnv_hash(FNV_START, b->pixels + i * pixels, pixels);
    for (size_t v = 0; b->views && v < 2; v++)
        row.view[v] = fnv_hash(FNV_START, b->views + (v * b->size + i) * pixels, pixels);
    if (b->ids) {
        size_t n = (size_t)(b->start[i + 1] - b->start[i]);
        row.text = fnv_hash(FNV_START, b->ids + b->start[i], n * sizeof *b->ids);
        row.length = (int32_t)n;
    }
    return row;
}

/* The rows of `steps` global batches from (epoch, step) on, in order of position, put together
 * from all ranks. */
static Row *collect(Dataset *d, LoaderOptions o, uint64_t epoch, uint64_t step, size_t steps) {
    size_t global = o.batch_size * (size_t)o.ranks * o.accum;
    Row *rows = xcalloc(steps * global, sizeof *rows);
    Sampler *s = sampler_new(d, true, 2, o.seed);
    for (o.rank = 0; o.rank < o.ranks; o.rank++) {
        Loader *l = loader_start(d, s, &o, epoch, step);
        size_t per_epoch = loader_steps_per_epoch(d, &o);
        for (size_t k = 0; k < steps; k++)
            for (size_t j = 0; j < o.accum; j++) {
                Batch *b = loader_next(l);
                assert_int_equal(b->epoch, epoch + (step + k) / per_epoch);
                assert_int_equal(b->step, (step + k) % per_epoch);
                assert_int_equal(b->micro, j);
                assert_int_equal(b->size, o.batch_size);
                if (b->ids) assert_int_equal(b->start[0], 0);
                size_t first = k * global + (j * (size_t)o.ranks + (size_t)o.rank) * o.batch_size;
                for (size_t i = 0; i < b->size; i++) rows[first + i] = row_of(b, i);
                loader_release(l, b);
            }
        loader_stop(l);
    }
    sampler_free(s);
    return rows;
}

static void check_same(const Row *a, const Row *b, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (memcmp(&a[i], &b[i], sizeof *a) != 0)
            fail_msg("row %zu differs: sample %llu and %llu", i, (unsigned long long)a[i].sample,
                     (unsigned long long)b[i].sample);
}

/* One batch against its definition, part by part. */
static void test_contract(void **state) {
    (void)state;
    Dataset *d = make_data(SAMPLES, SHARDS, NULL);
    LoaderOptions o = options();
    o.ranks = 2;
    o.rank = 1;
    o.accum = 2;
    o.batch_size = 5;
    size_t global = 20;
    assert_int_equal(loader_steps_per_epoch(d, &o), SAMPLES / global);
    Sampler *s = sampler_new(d, true, 2, o.seed);
    Loader *l = loader_start(d, s, &o, 3, 1);
    Sample sample = {.key = NULL};
    Image img = {0};
    TransformScratch *scratch = NULL;
    TokenizerCache *cache = tokenizer_cache_new(tokenizer);
    uint8_t pixels[SIZE * SIZE * 3];
    Error err;
    for (size_t j = 0; j < 2; j++) {
        Batch *b = loader_next(l);
        for (size_t i = 0; i < 5; i++) {
            size_t p = global + (j * 2 + 1) * 5 + i, at = sampler_at(s, 3, p);
            int32_t ids[CONTEXT];
            assert_int_equal(b->sample[i], at);
            assert_true(dataset_read(d, at, &sample, &err));
            assert_int_equal(b->label[i], sample.label);
            assert_int_equal(sample.label, at % 10);
            assert_true(image_decode(&img, sample.image, sample.image_size, o.max_pixels, &err));
            transform_apply(pixels, &img, &o.transform, rng_mix(rng_mix(o.seed, 3), at), &scratch);
            assert_memory_equal(pixels, b->pixels + i * sizeof pixels, sizeof pixels);
            size_t n = tokenizer_encode(cache, sample.text, sample.text_size, CONTEXT, ids);
            assert_int_equal(b->start[i + 1] - b->start[i], n);
            assert_memory_equal(b->ids + b->start[i], ids, n * sizeof *ids);
        }
        loader_release(l, b);
    }
    loader_stop(l);
    sampler_free(s);
    tokenizer_cache_free(cache);
    transform_scratch_free(&scratch);
    image_free(&img);
    sample_free(&sample);
    dataset_close(d);
}

/* An epoch is the first samples_per_epoch positions, or all of them if there are fewer. */
static void test_samples_per_epoch(void **state) {
    (void)state;
    Dataset *d = make_data(SAMPLES, SHARDS, NULL);
    LoaderOptions o = options();
    Row *whole = collect(d, o, 1, 0, 3);
    o.samples_per_epoch = 3 * GLOBAL + GLOBAL / 2;
    assert_int_equal(loader_steps_per_epoch(d, &o), 3);
    Row *got = collect(d, o, 1, 0, 4), *next = collect(d, o, 2, 0, 1);
    check_same(got, whole, 3 * GLOBAL);
    check_same(got + 3 * GLOBAL, next, GLOBAL);
    o.samples_per_epoch = 10 * SAMPLES;
    assert_int_equal(loader_steps_per_epoch(d, &o), SAMPLES / GLOBAL);
    free(whole);
    free(got);
    free(next);
    dataset_close(d);
}

static void test_threads_and_rings(void **state) {
    (void)state;
    Dataset *d = make_data(SAMPLES, SHARDS, NULL);
    LoaderOptions o = options();
    o.workers = 1;
    size_t steps = 16; /* beyond two epochs of 7 */
    Row *want = collect(d, o, 0, 0, steps);
    const size_t workers[] = {1, 2, 3, 8}, rings[] = {0, 1, 2, 7};
    for (size_t i = 0; i < COUNT(workers); i++) {
        o.workers = workers[i];
        o.ring = rings[(i + 1) % COUNT(rings)];
        Row *got = collect(d, o, 0, 0, steps);
        check_same(got, want, steps * GLOBAL);
        free(got);
    }
    /* an epoch's samples are all different, and the next one's order and crops are others */
    size_t same_place = 0, same_pixels = 0;
    for (size_t i = 0; i < 7 * GLOBAL; i++) {
        for (size_t k = 0; k < i; k++) assert_true(want[i].sample != want[k].sample);
        same_place += want[i].sample == want[7 * GLOBAL + i].sample;
        for (size_t k = 7 * GLOBAL; k < 14 * GLOBAL; k++)
            same_pixels += want[i].sample == want[k].sample && want[i].pixels == want[k].pixels;
    }
    assert_true(same_place < 15);
    assert_true(same_pixels < 15);
    free(want);
    dataset_close(d);
}

static void test_ranks_and_accumulation(void **state) {
    (void)state;
    Dataset *d = make_data(SAMPLES, SHARDS, NULL);
    LoaderOptions o = options();
    size_t steps = 9;
    Row *want = collect(d, o, 0, 2, steps);
    const struct {
        size_t batch_size, accum;
        int ranks;
    } splits[] = {{4, 1, 2}, {2, 1, 4}, {4, 2, 1}, {2, 2, 2}, {1, 8, 1}, {1, 2, 4}};
    for (size_t i = 0; i < COUNT(splits); i++) {
        o.batch_size = splits[i].batch_size;
        o.accum = splits[i].accum;
        o.ranks = splits[i].ranks;
        Row *got = collect(d, o, 0, 2, steps);
        check_same(got, want, steps * GLOBAL);
        free(got);
    }
    free(want);
    dataset_close(d);
}

static void test_resume(void **state) {
    (void)state;
    Dataset *d = make_data(SAMPLES, SHARDS, NULL);
    LoaderOptions o = options();
    size_t steps = 15;
    Row *want = collect(d, o, 0, 0, steps);
    for (size_t k = 1; k < steps; k++) {
        Row *got = collect(d, o, k / 7, k % 7, steps - k);
        check_same(got, want + k * GLOBAL, (steps - k) * GLOBAL);
        free(got);
    }
    /* the end of an epoch is the next one's beginning */
    Sampler *s = sampler_new(d, true, 2, o.seed);
    Loader *l = loader_start(d, s, &o, 0, 7);
    Batch *b = loader_next(l);
    assert_true(b->epoch == 1 && b->step == 0);
    assert_true(b->sample[0] == want[7 * GLOBAL].sample);
    loader_stop(l);
    sampler_free(s);
    free(want);
    dataset_close(d);
}

/* Views are functions of seed, epoch, sample and which of the two; they leave pictures and captions
 * alone, and are the same without them. */
static void test_views(void **state) {
    (void)state;
    Dataset *d = make_data(SAMPLES, SHARDS, NULL);
    LoaderOptions o = options();
    Transform view = transform_default(SIZE, true);
    view.scale[0] = 0.08;
    view.flip_prob = view.blur_prob = 0.5;
    view.blur_sigma[0] = 0.1;
    view.blur_sigma[1] = 2;
    size_t steps = 9, n = steps * GLOBAL, alike = 0;
    Row *plain = collect(d, o, 0, 0, steps);
    o.views = &view;
    Row *both = collect(d, o, 0, 0, steps);
    for (size_t i = 0; i < n; i++) {
        alike += both[i].view[0] == both[i].view[1];
        plain[i].view[0] = both[i].view[0];
        plain[i].view[1] = both[i].view[1];
    }
    check_same(both, plain, n);
    assert_true(alike < n / 10);
    const struct {
        size_t workers, batch_size, accum, from;
        int ranks;
        bool only;
    } runs[] = {{1, GLOBAL, 1, 0, 1, true}, {8, GLOBAL, 1, 3, 1, false}, {2, 4, 1, 0, 2, true},
                {3, 2, 2, 2, 2, false},     {2, 1, 8, 1, 1, true},       {1, 1, 2, 8, 4, true}};
    for (size_t i = 0; i < COUNT(runs); i++) {
        o.workers = runs[i].workers;
        o.batch_size = runs[i].batch_size;
        o.accum = runs[i].accum;
        o.ranks = runs[i].ranks;
        o.views_only = runs[i].only;
        size_t from = runs[i].from, left = n - from * GLOBAL;
        Row *got = collect(d, o, from / 7, from % 7, steps - from);
        for (size_t k = 0; k < left && runs[i].only; k++) {
            const Row *want = &both[from * GLOBAL + k];
            assert_true(!got[k].pixels && !got[k].text && !got[k].length);
            got[k].pixels = want->pixels;
            got[k].text = want->text;
            got[k].length = want->length;
        }
        check_same(got, both + from * GLOBAL, left);
        free(got);
    }
    FREE_ALL(plain, both);
    dataset_close(d);
}

static void test_bad_samples(void **state) {
    (void)state;
    const size_t bad[] = {3, 17, 18, 40, 60, SIZE_MAX};
    Dataset *good_data = make_data(SAMPLES, SHARDS, NULL);
    LoaderOptions o = options();
    size_t steps = 7, n = steps * GLOBAL;
    Row *good = collect(good_data, o, 0, 0, steps);
    dataset_close(good_data);
    Dataset *d = make_data(SAMPLES, SHARDS, bad);
    Row *got = collect(d, o, 0, 0, steps);
    size_t replaced = 0, reads = 0;
    for (size_t i = 0; i < n; i++) {
        size_t from = i, tries = 0;
        for (bool again = true; again; tries++) {
            again = false;
            for (size_t k = 0; bad[k] != SIZE_MAX; k++) again |= good[from].sample == bad[k];
            if (again) from = (from + GLOBAL) % n;
        }
        replaced += from != i;
        reads += tries;
        if (memcmp(&got[i], &good[from], sizeof *got) != 0) fail_msg("row %zu is wrong", i);
    }
    assert_in_range(replaced, 3, 5); /* some may be in the dropped part of the epoch */
    /* the same for another split, and counted */
    o.batch_size = 2;
    o.ranks = 4;
    Row *split = collect(d, o, 0, 0, steps);
    check_same(split, got, n);
    free(split);
    o = options();
    o.ring = 2;
    Sampler *s = sampler_new(d, true, 2, o.seed);
    Loader *l = loader_start(d, s, &o, 0, 0);
    Batch *held[2];
    for (size_t k = 0; k < steps; k++) {
        if (k >= 2) loader_release(l, held[k % 2]);
        held[k % 2] = loader_next(l);
    }
    /* both slots are held: nothing beyond these steps was read */
    LoaderStats stats = loader_stats(l);
    assert_int_equal(stats.read, reads);
    assert_int_equal(stats.bad, reads - n);
    loader_stop(l);
    sampler_free(s);
    free(good);
    free(got);
    dataset_close(d);
}

/* An epoch of one global batch has no other to take from: its neighbours serve. */
static void test_one_step_epoch(void **state) {
    (void)state;
    const size_t bad[] = {2, 5, SIZE_MAX};
    Dataset *d = make_data(9, 1, bad);
    LoaderOptions o = options();
    Row *rows = collect(d, o, 0, 0, 3);
    for (size_t i = 0; i < 3 * GLOBAL; i++) assert_true(rows[i].sample != 2 && rows[i].sample != 5);
    o.batch_size = 2;
    o.ranks = 2;
    o.accum = 2;
    Row *split = collect(d, o, 0, 0, 3);
    check_same(split, rows, 3 * GLOBAL);
    free(split);
    free(rows);
    dataset_close(d);
}

typedef struct Death {
    Dataset *d;
    LoaderOptions o;
    size_t steps;
} Death;

static void run_death(void *arg) {
    Death *x = arg;
    Sampler *s = sampler_new(x->d, true, 2, x->o.seed);
    Loader *l = loader_start(x->d, s, &x->o, 0, 0);
    for (size_t k = 0; k < x->steps; k++) loader_release(l, loader_next(l));
}

static void test_too_many_bad(void **state) {
    (void)state;
    size_t bad[13];
    for (size_t i = 0; i < 12; i++) bad[i] = 5 * i; /* 20 percent */
    bad[12] = SIZE_MAX;
    Death x = {make_data(SAMPLES, SHARDS, bad), options(), 40};
    x.o.max_bad = 0.1;
    test_dies(run_death, &x, EXIT_ERROR, "samples are bad, more than --max-bad 0.1 allows");
    test_dies(run_death, &x, EXIT_ERROR, ".tar:000"); /* the shard and key are named */
    x.o.max_bad = 0.3;
    test_dies(run_death, &x, EXIT_OK, "bad sample");
    dataset_close(x.d);
    /* all bad, none allowed, fewer samples than a batch */
    for (size_t i = 0; i < 12; i++) bad[i] = i;
    x.d = make_data(12, 1, bad);
    x.o.max_bad = 1;
    test_dies(run_death, &x, EXIT_ERROR, "no sample can be read");
    x.o.batch_size = 13;
    test_dies(run_death, &x, EXIT_ERROR, "12 samples, fewer than one global batch of 13");
    dataset_close(x.d);
    bad[1] = SIZE_MAX;
    x.d = make_data(12, 1, bad);
    x.o = options();
    x.o.max_bad = 0;
    test_dies(run_death, &x, EXIT_ERROR, " samples are bad, more than --max-bad 0 allows");
    dataset_close(x.d);
}

/* All micro-batches of a step are held at once; the loader is stopped while it waits. */
static void test_held_batches(void **state) {
    (void)state;
    Dataset *d = make_data(SAMPLES, SHARDS, NULL);
    LoaderOptions o = options();
    o.batch_size = 2;
    o.accum = 4;
    o.ring = 1; /* too small: the loader uses the size that it needs */
    Sampler *s = sampler_new(d, false, 1, 0);
    Loader *l = loader_start(d, s, &o, 0, 0);
    for (size_t k = 0; k < 3; k++) {
        Batch *b[4];
        for (size_t j = 0; j < 4; j++) b[j] = loader_next(l);
        for (size_t j = 0; j < 4; j++)
            for (size_t i = 0; i < 2; i++) assert_int_equal(b[j]->sample[i], k * 8 + j * 2 + i);
        for (size_t j = 4; j-- > 0;) loader_release(l, b[j]); /* in any order */
    }
    assert_true(loader_stats(l).wait_seconds >= 0);
    loader_stop(l);
    sampler_free(s);
    dataset_close(d);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_contract),
        cmocka_unit_test(test_samples_per_epoch),
        cmocka_unit_test(test_threads_and_rings),
        cmocka_unit_test(test_ranks_and_accumulation),
        cmocka_unit_test(test_resume),
        cmocka_unit_test(test_views),
        cmocka_unit_test(test_bad_samples),
        cmocka_unit_test(test_one_step_epoch),
        cmocka_unit_test(test_too_many_bad),
        cmocka_unit_test(test_held_batches),
    };
    return cmocka_run_group_tests_name("loader", tests, set_up, tear_down);
}
