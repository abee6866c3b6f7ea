/* data sets: expansion of a specification, reading through indexes, stale and damaged files, zstd
 * shards, threads. */
#include "data/index.h"
#include "data/io/parallel.h"
#include "data/dataset.h"
#include "data/sources.h"
#include "data/tarshard.h"
#include "tests/support_data.h"
#include "data/io/folder.h"

#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#include <utime.h>

/* A path that stays, unlike test_path's. */
static const char *keep_path(const char *name) {
    static char paths[64][768];
    static size_t n;
    for (size_t i = 0; i < n; i++)
        if (strcmp(strrchr(paths[i], '/') + 1, name) == 0) return paths[i];
    assert_true(n < COUNT(paths));
    strcpy(paths[n], test_path(name));
    return paths[n++];
}

static DatasetOptions options(void) {
    DatasetOptions o = dataset_options_default();
    o.cache_dir = keep_path("cache");
    return o;
}

static void remove_cache(void) {
    char **names;
    size_t n;
    Error err;
    if (!folder_list(keep_path("cache"), &names, &n, &err)) return;
    for (size_t i = 0; i < n; i++) {
        char *path = xasprintf("%s/%s", keep_path("cache"), names[i]);
        unlink(path);
        free(path);
    }
    names_free(names, n);
}

static size_t cache_files(void) {
    char **names;
    size_t n;
    Error err;
    assert_true(folder_list(keep_path("cache"), &names, &n, &err));
    names_free(names, n);
    return n;
}

/* n samples whose image is "image KEY " and bytes up to `size`, whose caption is "caption KEY". */
static TarBytes make_tar(size_t first, size_t n, size_t size) {
    TarBytes t = {NULL, 0};
    uint8_t *image = xmalloc(size + 64);
    for (size_t i = first; i < first + n; i++) {
        char name[64], text[64];
        snprintf(name, sizeof name, "%06zu.jpg", i);
        memset(image, (int)(i % 251), size + 64);
        int begin = snprintf((char *)image, 64, "image %06zu ", i);
        tar_bytes_add(&t, name, image, size_max(size, (size_t)begin));
        snprintf(name, sizeof name, "%06zu.txt", i);
        snprintf(text, sizeof text, "caption %06zu", i);
        tar_bytes_text(&t, name, text);
    }
    free(image);
    return t;
}

static void check_sample(Dataset *d, size_t at, size_t number, Sample *s) {
    Error err;
    char want[64];
    if (!dataset_read(d, at, s, &err)) fail_msg("%s", err.text);
    snprintf(want, sizeof want, "image %06zu ", number);
    assert_memory_equal(s->image, want, strlen(want));
    snprintf(want, sizeof want, "caption %06zu", number);
    assert_string_equal(s->text, want);
    assert_int_equal(s->text_size, strlen(want));
    snprintf(want, sizeof want, ":%06zu", number);
    assert_non_null(strstr(s->key, want));
    assert_int_equal(s->label, -1);
}

static void check_all(Dataset *d, size_t n) {
    Sample s = {.key = NULL};
    assert_int_equal(dataset_count(d), n);
    for (size_t i = 0; i < n; i++) check_sample(d, i * 7 % n, i * 7 % n, &s);
    sample_free(&s);
}

static void check_spec(const char *spec, const char *want) {
    Sources s;
    Error err;
    char *got = xstrdup("");
    if (!sources_expand(&s, spec, PIPES_OF_SPEC, &err)) fail_msg("%s", err.text);
    for (size_t i = 0; i < s.count; i++) {
        char *next = xasprintf("%s%s%s", got, i ? " " : "", s.items[i].path);
        free(got);
        got = next;
    }
    assert_string_equal(got, want);
    free(got);
    sources_free(&s);
}

static void check_bad_spec(const char *spec, const char *needle) {
    Sources s;
    Error err;
    if (sources_expand(&s, spec, PIPES_OF_SPEC, &err)) fail_msg("%s was taken", spec);
    if (!strstr(err.text, needle)) fail_msg("\"%s\" does not say \"%s\"", err.text, needle);
    sources_free(&s);
}

static void test_specifications(void **state) {
    (void)state;
    check_spec("d/{008..011}.tar", "d/008.tar d/009.tar d/010.tar d/011.tar");
    check_spec("{8..10}.tar.zst", "8.tar.zst 9.tar.zst 10.tar.zst");
    check_spec("{a,b}{0..1}.tar", "a0.tar a1.tar b0.tar b1.tar");
    check_spec("a{,-x}.tar::b.csv::c.tsv", "a.tar a-x.tar b.csv c.tsv");
    check_spec("{00..01}/{9..9}.tar", "00/9.tar 01/9.tar");
    check_bad_spec("a.tar::", "names no data");
    check_bad_spec("", "names no data");
    check_bad_spec("{a}.tar", "braces");
    check_bad_spec("{3..1}.tar", "braces");
    check_bad_spec("{0..99999999999}.tar", "more than");
    check_bad_spec("{00..09999993}.tar", "braces give more than 2000000 names");
    check_bad_spec("{0..1999}{0..1999}.jpg", "braces give more than 2000000 names");
    char wide[1100];
    snprintf(wide, sizeof wide, "%01000d{0..999999}.jpg", 0);
    check_bad_spec(wide, "braces give names of more than 256 MiB");
    check_bad_spec("{a,b}{a,b}{a,b}{a,b}{a,b}{a,b}{a,b}{a,b}{a,b}.tar", "more than");
    check_bad_spec("https://example.org/{0..3}.tar", "pipe:curl");
    check_bad_spec("/nonexistent-folder", "No such file");

    /* lists: relative to the list, with braces and comments */
    const char *list = keep_path("list.txt");
    test_write_file(list, "# all\n\n  x{1..2}.tar \r\n/abs/y.tar.zst", 37);
    char *want = xasprintf("%s/x1.tar %s/x2.tar /abs/y.tar.zst", test_dir(), test_dir());
    check_spec(list, want);
    char *at = xasprintf("@%s", list);
    check_spec(at, want);
    free(at);
    free(want);
    test_write_file(list, "list.txt\n", 9);
    check_bad_spec(list, "a list inside a list");
    test_write_file(list, "# nothing\n", 10);
    check_bad_spec(list, "names no shard");
}

static void test_reading(void **state) {
    (void)state;
    remove_cache();
    DatasetOptions o = options();
    mkdir(test_path("read"), 0777);
    TarBytes t;
    t = make_tar(0, 10, 0);
    tar_bytes_write(&t, "read/0.tar");
    t = make_tar(10, 1, 3000);
    tar_bytes_write(&t, "read/1.tar");
    t = make_tar(11, 14, 700);
    tar_bytes_write(&t, "read/2.tar");
    char *spec = xasprintf("%s/{0..2}.tar", test_path("read"));
    for (int twice = 0; twice < 2; twice++) { /* the second time the indexes are there */
        Dataset *d = open_data_set(spec, &o);
        check_all(d, 25);
        assert_int_equal(dataset_shards(d), 3);
        const size_t starts[] = {0, 10, 11, 25};
        for (size_t i = 0; i < 4; i++) assert_int_equal(dataset_shard_start(d, i), starts[i]);
        assert_int_equal(dataset_dropped(d), 0);
        dataset_close(d);
    }
    free(spec);
    /* nothing was written into the data's folder */
    char **names;
    size_t n;
    Error err;
    assert_true(folder_list(test_path("read"), &names, &n, &err));
    assert_int_equal(n, 3);
    names_free(names, n);
    assert_int_equal(cache_files(), 3);
    /* the folder itself is the same data */
    Dataset *d = open_data_set(test_path("read"), &o);
    check_all(d, 25);
    dataset_close(d);
    refuse_data_set(test_path("read/3.tar"), &o, "No such file");
}

/* Of many shards at most half of the process's limit are open. */
static void test_few_descriptors(void **state) {
    (void)state;
    mkdir(test_path("few"), 0777);
    for (size_t i = 0; i < 40; i++) {
        char name[16];
        snprintf(name, sizeof name, "few/%02zu.tar", i);
        TarBytes t = make_tar(i, 1, 0);
        tar_bytes_write(&t, name);
    }
    DatasetOptions o = options();
    Dataset *d = open_data_set(test_path("few"), &o); /* builds the indexes */
    dataset_close(d);
    struct rlimit was, small;
    getrlimit(RLIMIT_NOFILE, &was);
    small = (struct rlimit){32, was.rlim_max};
    setrlimit(RLIMIT_NOFILE, &small);
    d = open_data_set(test_path("few"), &o);
    check_all(d, 40);
    dataset_close(d);
    setrlimit(RLIMIT_NOFILE, &was);
}

static void test_json_and_labels(void **state) {
    (void)state;
    TarBytes t = {NULL, 0};
    const char *json[] = {"{\"cap\": \"from json \\u00e9\"}", "{\"other\": \"x\"}", "{\"cap\": 5}",
                          "{\"cap\": \"unended", "{\"cap\": \"  \"}"};
    const char *classes[] = {"7", "12\n", "-1", "x", "99999999999"};
    for (size_t i = 0; i < COUNT(json); i++) {
        char name[16];
        snprintf(name, sizeof name, "%zu.jpg", i);
        tar_bytes_text(&t, name, "J");
        snprintf(name, sizeof name, "%zu.txt", i);
        tar_bytes_text(&t, name, "from txt");
        snprintf(name, sizeof name, "%zu.json", i);
        tar_bytes_text(&t, name, json[i]);
        snprintf(name, sizeof name, "%zu.cls", i);
        tar_bytes_text(&t, name, classes[i]);
    }
    const char *path = keep_path("fields.tar");
    tar_bytes_write(&t, "fields.tar");
    DatasetOptions o = options();
    Sample s = {.key = NULL};
    Error err;
    Dataset *d = open_data_set(path, &o);
    const int labels[] = {7, 12, 0, -1}; /* "x": a name */
    for (size_t i = 0; i < 5; i++) {
        if (i < 2 || i == 3) {
            assert_true(dataset_read(d, i, &s, &err));
            assert_string_equal(s.text, "from txt");
            assert_int_equal(s.label, labels[i]);
        } else {
            assert_false(dataset_read(d, i, &s, &err));
            assert_non_null(strstr(err.text, "fields.tar:"));
            assert_non_null(strstr(err.text, ".cls"));
        }
    }
    dataset_close(d);
    o.json_text_key = "cap";
    d = open_data_set(path, &o); /* the same index, other members */
    assert_int_equal(dataset_count(d), 5);
    assert_true(dataset_read(d, 0, &s, &err));
    assert_string_equal(s.text, "from json é");
    const char *reasons[] = {"no text \"cap\"", "no text \"cap\"", "bad JSON", "empty caption"};
    for (size_t i = 1; i < 5; i++) {
        assert_false(dataset_read(d, i, &s, &err));
        if (i != 4) assert_non_null(strstr(err.text, reasons[i - 1]));
    }
    sample_free(&s);
    dataset_close(d);
}

static void add_seconds(const char *path, int seconds) {
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    struct utimbuf t = {st.st_atime, st.st_mtime + seconds};
    assert_int_equal(utime(path, &t), 0);
}

static void write_index(const char *shard) {
    DatasetOptions o = options();
    IndexKeys k = index_keys_new(o.image_keys, o.text_keys, false);
    Index ix;
    Error err;
    assert_true(index_build(&ix, shard, &k, &err));
    char *path = xasprintf("%s.idx", shard);
    assert_true(index_write(&ix, path, &err));
    free(path);
    index_free(&ix);
    index_keys_free(&k);
}

static void test_index_beside(void **state) {
    (void)state;
    remove_cache();
    DatasetOptions o = options();
    TarBytes t = make_tar(0, 5, 0);
    const char *shard = keep_path("beside.tar");
    tar_bytes_write(&t, "beside.tar");
    write_index(shard);
    Dataset *d = open_data_set(shard, &o);
    check_all(d, 5);
    assert_int_equal(cache_files(), 0); /* it was used */
    dataset_close(d);
    /* stale: the shard has changed */
    t = make_tar(0, 8, 0);
    tar_bytes_write(&t, "beside.tar");
    d = open_data_set(shard, &o);
    check_all(d, 8);
    assert_int_equal(cache_files(), 1);
    dataset_close(d);
    /* stale in the cache as well: same size, later */
    t = make_tar(0, 8, 0);
    memcpy(t.bytes + 512, "IMAGE", 5);
    tar_bytes_write(&t, "beside.tar");
    add_seconds(shard, 10);
    write_index(shard);
    t = make_tar(0, 8, 0);
    tar_bytes_write(&t, "beside.tar");
    add_seconds(shard, 20);
    d = open_data_set(shard, &o);
    check_all(d, 8);
    dataset_close(d);
    /* other keys than it was counted with */
    write_index(shard);
    o.text_keys = "caption;cls";
    refuse_data_set(shard, &o, "no usable sample: 8 without");
    o.text_keys = NULL;
    d = open_data_set(shard, &o);
    assert_int_equal(dataset_count(d), 8);
    dataset_close(d);
}

static void test_bad_index(void **state) {
    (void)state;
    DatasetOptions o = options();
    TarBytes t = make_tar(0, 6, 0);
    const char *shard = keep_path("badindex.tar");
    tar_bytes_write(&t, "badindex.tar");
    char *index = xasprintf("%s.idx", shard);
    write_index(shard);
    size_t n;
    char *bytes = test_read_file(index, &n);
    const size_t places[] = {0, 9, 20, 60, 100, 104, n / 2, n - 1};
    for (size_t i = 0; i < COUNT(places); i++) { /* header and body, whole length */
        remove_cache();
        bytes[places[i]] ^= 4;
        test_write_file(index, bytes, n);
        bytes[places[i]] ^= 4;
        Dataset *d = open_data_set(shard, &o);
        check_all(d, 6);
        dataset_close(d);
    }
    for (size_t cut = 0; cut < n; cut += 37) {
        remove_cache();
        test_write_file(index, bytes, cut);
        Dataset *d = open_data_set(shard, &o);
        check_all(d, 6);
        dataset_close(d);
    }
    /* it goes bad while the data set is open */
    test_write_file(index, bytes, n);
    Dataset *d = open_data_set(shard, &o);
    test_write_file(index, bytes, n / 2);
    check_all(d, 6);
    dataset_close(d);
    /* the shard changes while the data set is open */
    test_write_file(index, bytes, n);
    d = open_data_set(shard, &o);
    t = make_tar(0, 3, 0);
    tar_bytes_write(&t, "badindex.tar");
    Sample s = {.key = NULL};
    Error err;
    assert_false(dataset_read(d, 0, &s, &err));
    assert_non_null(strstr(err.text, "has changed"));
    sample_free(&s);
    dataset_close(d);
    free(bytes);
    free(index);
}

/* Cut anywhere, a shard gives its complete samples. */
static void test_cut_shard(void **state) {
    (void)state;
    DatasetOptions o = options();
    TarBytes t = make_tar(0, 4, 600);
    tar_bytes_end(&t);
    const char *path = keep_path("cut.tar");
    Sample s = {.key = NULL};
    size_t sample = (512 + 1024) + (512 + 512), reads = 0;
    for (size_t cut = 1; cut < t.size; cut += 101) {
        Error err;
        remove_cache();
        test_write_file(path, t.bytes, cut);
        Dataset *d = dataset_open(path, &o, &err);
        size_t whole = size_min(4, cut / sample);
        if (!d) {
            assert_int_equal(whole, 0);
            continue;
        }
        assert_int_equal(dataset_count(d), whole);
        for (size_t i = 0; i < whole; i++, reads++) check_sample(d, i, i, &s);
        dataset_close(d);
    }
    assert_true(reads > 50);
    sample_free(&s);
    free(t.bytes);
}

static void write_zstd(TarBytes *t, const char *name, size_t frame) {
    size_t packed;
    uint8_t *bytes;
    tar_bytes_end(t);
    bytes = zstd_frames(t->bytes, t->size, frame, &packed);
    test_write_file(test_path(name), bytes, packed);
    free(bytes);
    free(t->bytes);
}

static void test_zstd(void **state) {
    (void)state;
    remove_cache();
    DatasetOptions o = options();
    const size_t frames[] = {700, 5000, 100000, 1 << 24};
    for (size_t i = 0; i < COUNT(frames); i++) { /* samples straddle frames */
        TarBytes t = make_tar(0, 40, 1500);
        char name[32];
        snprintf(name, sizeof name, "z%zu.tar.zst", i);
        write_zstd(&t, name, frames[i]);
        Dataset *d = open_data_set(test_path(name), &o);
        check_all(d, 40);
        dataset_close(d);
    }
    assert_int_equal(cache_files(), COUNT(frames));
}

/* A frame too large for random access is copied into smaller ones in the cache. */
static void test_large_frames(void **state) {
    (void)state;
    remove_cache();
    DatasetOptions o = options();
    TarBytes t = make_tar(0, 20, 1 << 20);
    write_zstd(&t, "large.tar.zst", (size_t)1 << 30);
    const char *path = keep_path("large.tar.zst");
    for (int twice = 0; twice < 2; twice++) {
        Dataset *d = open_data_set(path, &o);
        check_all(d, 20);
        assert_int_equal(cache_files(), 2); /* copy and index */
        dataset_close(d);
    }
    remove_cache();
    Dataset *d = open_data_set(path, &o);
    dataset_close(d);
    assert_int_equal(cache_files(), 2);
    /* the index is useless without its copy: both are rebuilt */
    char **names;
    size_t n;
    Error err;
    assert_true(folder_list(keep_path("cache"), &names, &n, &err));
    for (size_t i = 0; i < n; i++)
        if (ends_with(names[i], ".zst")) {
            char *copy = xasprintf("%s/%s", keep_path("cache"), names[i]);
            unlink(copy);
            free(copy);
        }
    names_free(names, n);
    d = open_data_set(path, &o);
    check_all(d, 20);
    dataset_close(d);
}

typedef struct Readers {
    Dataset *d;
    Sample samples[4];
    size_t n;
    atomic_int wrong;
} Readers;

static void read_one(void *context, size_t i, size_t thread) {
    Readers *r = context;
    size_t at = i * 37 % r->n;
    Error err;
    char want[32];
    snprintf(want, sizeof want, "caption %06zu", at);
    if (!dataset_read(r->d, at, &r->samples[thread], &err) ||
        strcmp(r->samples[thread].text, want) != 0)
        r->wrong++;
}

static void test_threads(void **state) {
    (void)state;
    remove_cache();
    DatasetOptions o = options();
    mkdir(test_path("many"), 0777);
    for (size_t i = 0; i < 8; i++) {
        TarBytes t = make_tar(i * 50, 50, 500);
        char name[32];
        snprintf(name, sizeof name, "many/%zu.tar%s", i, i % 2 ? ".zst" : "");
        if (i % 2)
            write_zstd(&t, name, 2000); /* more frames than are kept */
        else
            tar_bytes_write(&t, name);
    }
    Readers r = {.d = open_data_set(test_path("many"), &o), .n = 400};
    parallel_for(1600, 4, read_one, &r);
    assert_int_equal(r.wrong, 0);
    for (int i = 0; i < 4; i++) sample_free(&r.samples[i]);
    dataset_close(r.d);
}

static void test_damaged_frame(void **state) {
    (void)state;
    DatasetOptions o = options();
    TarBytes t = make_tar(0, 12, 1500);
    write_zstd(&t, "frame.tar.zst", 2560 + 512);
    const char *path = keep_path("frame.tar.zst");
    Dataset *d = open_data_set(path, &o);
    size_t n, bad = 0;
    struct stat st;
    stat(path, &st);
    char *bytes = test_read_file(path, &n);
    memset(bytes + n / 2, 0x55, 40);
    test_write_file(path, bytes, n);
    struct timespec times[2] = {st.st_atim, st.st_mtim}; /* a disk's fault leaves the time alone */
    assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
    Sample s = {.key = NULL};
    Error err;
    for (size_t i = 0; i < 12; i++)
        if (!dataset_read(d, i, &s, &err)) {
            bad++;
            assert_non_null(strstr(err.text, "zstd"));
            assert_non_null(strstr(err.text, "frame.tar.zst:0000"));
        }
    assert_in_range(bad, 1, 4);
    sample_free(&s);
    dataset_close(d);
    free(bytes);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_specifications),  cmocka_unit_test(test_reading),
        cmocka_unit_test(test_few_descriptors), cmocka_unit_test(test_json_and_labels),
        cmocka_unit_test(test_index_beside),    cmocka_unit_test(test_bad_index),
        cmocka_unit_test(test_cut_shard),       cmocka_unit_test(test_zstd),
        cmocka_unit_test(test_large_frames),    cmocka_unit_test(test_threads),
        cmocka_unit_test(test_damaged_frame),
    };
    return cmocka_run_group_tests_name("shards", tests, NULL, NULL);
}
