/* pack: output equals input, in shards that any tar reads; rejects are counted by reason; nothing
 * is overwritten and no partial file stays. */
#include "data/pack.h"
#include "data/pack_folder.h"
#include "data/image/image.h"
#include "data/sources.h"
#include "data/io/stream.h"
#include "data/tar.h"
#include "tests/support_data.h"
#include "tests/support_picture.h"
#include "data/io/folder.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void put(const char *folder, const char *name, const void *bytes, size_t n) {
    Error err;
    char *path = xasprintf("%s/%s", test_dir(), folder);
    assert_true(folder_make(path, &err));
    char *file = xasprintf("%s/%s", path, name);
    test_write_file(file, bytes, n);
    free(file);
    free(path);
}

static uint8_t *jpeg(int width, int height, size_t *n) {
    uint8_t *rgb = picture(width, height, 2), *bytes;
    Error err;
    assert_true(image_encode_jpeg(&bytes, n, rgb, width, height, 90, &err));
    free(rgb);
    return bytes;
}

/* n pictures with captions "caption N", as a flat folder. */
static void make_folder(const char *folder, size_t n) {
    for (size_t i = 0; i < n; i++) {
        char name[32], text[32];
        size_t size;
        uint8_t *bytes = jpeg(30 + (int)i, 20, &size);
        snprintf(name, sizeof name, "p%03zu.jpg", i);
        put(folder, name, bytes, size);
        free(bytes);
        snprintf(name, sizeof name, "p%03zu.txt", i);
        snprintf(text, sizeof text, "caption %zu", i);
        put(folder, name, text, strlen(text));
    }
}

static Dataset *open_it(const char *spec, const DatasetOptions *options) {
    DatasetOptions o = options ? *options : dataset_options_default();
    o.cache_dir = test_path("cache");
    return open_data_set(spec, &o);
}

static PackReport pack(const char *spec, PackOptions o, const char *out, bool want) {
    Dataset *d = open_it(spec, NULL);
    char *path = xasprintf("%s/%s", test_dir(), out);
    PackReport r;
    Error err = {""};
    o.out = path;
    if (pack_run(d, &o, &r, &err) != want) fail_msg("%s: %s", out, err.text);
    if (!want && o.force == false) assert_non_null(strstr(err.text, "there already"));
    dataset_close(d);
    free(path);
    return r;
}

static size_t files_in(const char *folder) {
    char **names;
    size_t n;
    Error err;
    assert_true(folder_list(test_path(folder), &names, &n, &err));
    for (size_t i = 0; i < n; i++) assert_null(strstr(names[i], ".tmp"));
    names_free(names, n);
    return n;
}

static void check_packed(const char *folder, size_t n, size_t cache_files) {
    char *path = xasprintf("%s/%s", test_dir(), folder);
    Dataset *packed = open_it(path, NULL), *flat = open_it(test_path("flat"), NULL);
    Sample a = {.key = NULL}, b = {.key = NULL};
    Error err;
    assert_int_equal(dataset_count(packed), n);
    for (size_t i = 0; i < n; i++) {
        char key[32];
        if (!dataset_read(packed, i, &a, &err)) fail_msg("%s", err.text);
        assert_true(dataset_read(flat, i, &b, &err));
        assert_int_equal(a.image_size, b.image_size); /* the original bytes */
        assert_memory_equal(a.image, b.image, a.image_size);
        assert_string_equal(a.text, b.text);
        snprintf(key, sizeof key, ":%09zu", i);
        assert_non_null(strstr(a.key, key));
    }
    sample_free(&a);
    sample_free(&b);
    dataset_close(packed);
    dataset_close(flat);
    free(path);
    if (access(test_path("cache"), F_OK) == 0) assert_int_equal(files_in("cache"), cache_files);
}

static void test_round_trip(void **state) {
    (void)state;
    make_folder("flat", 25);
    for (int zstd = 0; zstd < 2; zstd++) {
        PackOptions o = pack_options_default();
        o.shard_samples = 10;
        o.zstd = zstd;
        o.frame_bytes = 4000;
        o.threads = 3;
        const char *folder = zstd ? "zst" : "tar", *out = zstd ? "zst/train" : "tar/train";
        PackReport r = pack(test_path("flat"), o, out, true);
        assert_int_equal(r.samples, 25);
        assert_int_equal(r.shards, 3);
        assert_int_equal(r.unreadable + r.no_caption + r.too_large + r.shrunk, 0);
        assert_int_equal(files_in(folder), 7); /* 3 shards, 3 indexes, sizes.json */
        check_packed(folder, 25, 0); /* the indexes next to the shards are used: none is built */
    }
    /* every tar program reads it */
    char *command =
        xasprintf("tar -tf %s/tar/train-000002.tar > %s/listing", test_dir(), test_dir());
    assert_int_equal(system(command), 0);
    char *listing = test_read_file(test_path("listing"), NULL);
    assert_non_null(strstr(listing, "000000020.jpg\n000000020.txt\n000000021.jpg\n"));
    free(listing);
    free(command);
    /* sizes.json has webdataset's format */
    char *text = test_read_file(test_path("tar/sizes.json"), NULL);
    json_t *sizes = json_loads(text, 0, NULL);
    assert_int_equal(json_integer_value(json_object_get(sizes, "train-000000.tar")), 10);
    assert_int_equal(json_integer_value(json_object_get(sizes, "train-000002.tar")), 5);
    assert_int_equal(json_object_size(sizes), 3);
    json_decref(sizes);
    free(text);
}

/* The frames of .tar.zst end at samples: no member is in two. */
static void test_frames(void **state) {
    (void)state;
    Error err;
    Stream *s = stream_open(test_path("zst/train-000000.tar.zst"), &err);
    assert_non_null(s);
    TarReader *t = xmalloc(sizeof *t);
    uint64_t starts[32];
    size_t members = 0, inside = 0;
    tar_reader_init(t, s);
    while (tar_next(t, &err) == TAR_FILE) starts[members++] = t->offset - TAR_BLOCK;
    assert_int_equal(members, 20);
    starts[members++] = stream_tell(s) - TAR_BLOCK; /* offset of the archive's end */
    uint8_t rest[64];
    size_t got = 1;
    while (got) assert_true(stream_read(s, rest, sizeof rest, &got, &err));
    const StreamFrame *f;
    size_t n = stream_frames(s, &f);
    assert_in_range(n, 3, 10);
    for (size_t i = 1; i < n; i++)
        for (size_t m = 0; m < members; m += 2) inside += f[i].raw == starts[m];
    assert_int_equal(inside, n - 1);
    free(t);
    stream_close(s);
}

static void test_same_bytes(void **state) {
    (void)state;
    PackOptions o = pack_options_default();
    o.threads = 1;
    o.shard_bytes = 20000;
    pack(test_path("flat"), o, "one/x", true);
    o.threads = 4;
    PackReport r = pack(test_path("flat"), o, "four/x", true);
    assert_true(r.shards > 2); /* ended by bytes */
    for (size_t i = 0; i < r.shards; i++) {
        char name[64];
        size_t n, m;
        snprintf(name, sizeof name, "one/x-%06zu.tar", i);
        char *a = test_read_file(test_path(name), &n);
        snprintf(name, sizeof name, "four/x-%06zu.tar", i);
        char *b = test_read_file(test_path(name), &m);
        assert_int_equal(n, m);
        assert_memory_equal(a, b, n);
        free(a);
        free(b);
    }
}

static void test_force(void **state) {
    (void)state;
    make_folder("few", 3);
    PackOptions o = pack_options_default();
    o.shard_samples = 10;
    pack(test_path("flat"), o, "keep/train", true);
    pack(test_path("few"), o, "keep/train-more", true); /* another name is no obstacle */
    pack(test_path("few"), o, "keep/train", false);
    assert_int_equal(files_in("keep"), 9);
    o.zstd = true; /* the other kind is in the way as well */
    pack(test_path("few"), o, "keep/train", false);
    o.force = true;
    o.zstd = false; /* fewer shards: those beyond go */
    pack(test_path("few"), o, "keep/train", true);
    assert_int_equal(files_in("keep"), 5);
    o.zstd = true;
    pack(test_path("few"), o, "keep/train", true);
    assert_int_equal(files_in("keep"), 5); /* the old ones are gone, the other name's are not */
    char *text = test_read_file(test_path("keep/sizes.json"), NULL);
    assert_non_null(strstr(text, "\"train-000000.tar.zst\": 3"));
    assert_non_null(strstr(text, "\"train-more-000000.tar\": 3"));
    assert_null(strstr(text, "train-000001"));
    free(text);
    /* a shard that cannot be renamed into place leaves no file */
    put("keep/blocked-000000.tar.zst", "file", "x", 1);
    pack(test_path("few"), o, "keep/blocked", false);
    assert_int_equal(files_in("keep"), 6);
}

/* A sizes.json that is none is refused before the work and again after it; nothing is lost. */
static void test_damaged_sizes(void **state) {
    (void)state;
    static const char *const bad[] = {"{\"other-000000.tar\": 7", "[]", ""};
    Error err;
    PackOptions o = pack_options_default();
    make_folder("three", 3);
    pack(test_path("three"), o, "sized/train", true);
    o.force = true;
    char *out = xstrdup(test_path("sized/train"));
    for (size_t i = 0; i < COUNT(bad); i++) {
        size_t n;
        put("sized", "sizes.json", bad[i], strlen(bad[i]));
        Dataset *d = open_it(test_path("three"), NULL);
        PackReport r;
        err.text[0] = 0;
        o.out = out;
        assert_false(pack_run(d, &o, &r, &err));
        test_says(err.text, "sized/sizes.json: damaged: mend it");
        dataset_close(d);
        char *text = test_read_file(test_path("sized/sizes.json"), &n);
        assert_string_equal(text, bad[i]);
        free(text);
        assert_int_equal(files_in("sized"), 3);
    }
    PackFolder f;
    PackState s;
    bool going_on;
    assert_int_equal(unlink(test_path("sized/sizes.json")), 0);
    assert_true(pack_folder_open(&f, out, 1, true, &going_on, &s, &err));
    assert_int_equal(mkfifo(test_path("sized/sizes.json"), 0666), 0);
    assert_false(pack_folder_finish(&f, &s, false, &err));
    test_says(err.text, "sized/sizes.json: not a regular file");
    assert_int_equal(files_in("sized"), 3); /* the shards that the pack would replace, too */
    pack_state_free(&s);
    pack_folder_close(&f);
    free(out);
}

static void test_rejects(void **state) {
    (void)state;
    size_t n;
    uint8_t *bytes = jpeg(40, 30, &n);
    put("mixed", "a.jpg", bytes, n);
    put("mixed", "b.jpg", bytes, n);
    put("mixed", "c.jpg", bytes, n);
    put("mixed", "d.jpg", "no picture", 10);
    put("mixed", "f.jpg", bytes, n);
    free(bytes);
    bytes = jpeg(50, 31, &n);
    put("mixed", "e.jpg", bytes, n);
    free(bytes);
    const char table[] =
        "title\tfilepath\none\ta.jpg\n\tb.jpg\n \tc.jpg\nfour\td.jpg\nfive\te.jpg\n"
        "six\tmissing.jpg\nseven\tf.jpg\n";
    put("mixed", "list.tsv", table, strlen(table));
    PackOptions o = pack_options_default();
    o.max_pixels = 50 * 31 - 1;
    PackReport r = pack(test_path("mixed/list.tsv"), o, "rejects/x", true);
    assert_int_equal(r.samples, 2);
    assert_int_equal(r.no_caption, 2);
    assert_int_equal(r.unreadable, 2);
    assert_int_equal(r.too_large, 1);
    put("mixed", "a.txt", "a caption", 9);
    put("mixed", "b.txt", " \n ", 3); /* blank, seen when it is read */
    r = pack(test_path("mixed"), o, "rejects/y", true);
    assert_int_equal(r.samples, 1);
    assert_int_equal(r.no_caption, 5);
    /* nothing is good: no shard, an error */
    o.max_pixels = 1;
    o.force = true;
    pack(test_path("mixed"), o, "rejects/z", false);
    assert_int_equal(files_in("rejects"), 5);
}

static void test_max_size(void **state) {
    (void)state;
    const struct {
        int width, height, want_width, want_height;
    } cases[] = {{200, 100, 64, 32}, {90, 300, 32, 107}, {32, 400, 32, 400}, {20, 20, 20, 20}};
    for (size_t i = 0; i < COUNT(cases); i++) {
        char name[16];
        size_t n;
        uint8_t *bytes = jpeg(cases[i].width, cases[i].height, &n);
        snprintf(name, sizeof name, "%zu.jpg", i);
        put("sizes", name, bytes, n);
        free(bytes);
        snprintf(name, sizeof name, "%zu.txt", i);
        put("sizes", name, "words", 5);
    }
    PackOptions o = pack_options_default();
    o.max_size = 32;
    PackReport r = pack(test_path("sizes"), o, "small/x", true);
    assert_int_equal(r.samples, 4);
    assert_int_equal(r.shrunk, 2);
    Dataset *d = open_it(test_path("small"), NULL);
    Sample s = {.key = NULL};
    Image img = {0};
    Error err;
    for (size_t i = 0; i < COUNT(cases); i++) {
        assert_true(dataset_read(d, i, &s, &err));
        assert_true(image_decode(&img, s.image, s.image_size, 1 << 20, &err));
        assert_int_equal(img.width, cases[i].want_width);
        assert_int_equal(img.height, cases[i].want_height);
    }
    image_free(&img);
    sample_free(&s);
    dataset_close(d);
}

static void test_classes(void **state) {
    (void)state;
    size_t n;
    uint8_t *bytes = jpeg(16, 16, &n);
    put("classes/cat", "1.jpg", bytes, n);
    put("classes/dog", "1.jpg", bytes, n);
    free(bytes);
    PackOptions o = pack_options_default();
    pack(test_path("classes"), o, "labels/x", true);
    Dataset *d = open_it(test_path("labels"), NULL);
    Sample s = {.key = NULL};
    Error err;
    for (int i = 0; i < 2; i++) {
        assert_true(dataset_read(d, (size_t)i, &s, &err));
        assert_int_equal(s.label, i);
        assert_string_equal(s.text, i ? "dog" : "cat");
    }
    sample_free(&s);
    dataset_close(d);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),    cmocka_unit_test(test_frames),
        cmocka_unit_test(test_same_bytes),    cmocka_unit_test(test_force),
        cmocka_unit_test(test_damaged_sizes), cmocka_unit_test(test_rejects),
        cmocka_unit_test(test_max_size),      cmocka_unit_test(test_classes),
    };
    return cmocka_run_group_tests_name("pack", tests, NULL, NULL);
}
