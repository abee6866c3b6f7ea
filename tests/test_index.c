/* index: WebDataset's grouping, which samples are usable, the file format against damage. */
#include "data/index.h"
#include "data/tar.h"
#include "kernels/hash.h"
#include "tests/support_data.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utime.h>

static const char IMAGES[] = "jpg;png;jpeg;webp", TEXTS[] = "txt;caption";

/* "key[ext ext] key[ext]" */
static char *describe(const Index *ix) {
    char *s = xstrdup("");
    for (size_t i = 0; i < ix->h.samples; i++) {
        char *next = xasprintf("%s%s%s[", s, i ? " " : "", ix->strings + ix->samples[i].key);
        free(s);
        s = next;
        for (size_t m = ix->samples[i].first; m < ix->samples[i + 1].first; m++) {
            next = xasprintf("%s%s%s", s, m > ix->samples[i].first ? " " : "",
                             ix->strings + ix->members[m].extension);
            free(s);
            s = next;
        }
        next = xasprintf("%s]", s);
        free(s);
        s = next;
    }
    return s;
}

static void check_groups(const char *const *names, size_t n, const char *want) {
    Index ix = {0};
    Error err;
    for (size_t i = 0; i < n; i++) assert_true(index_add(&ix, names[i], i, 1, 0, &err));
    index_finish(&ix);
    char *got = describe(&ix);
    assert_string_equal(got, want);
    free(got);
    index_free(&ix);
}
#define CHECK_GROUPS(want, ...)                                                                    \
    check_groups((const char *const[]){__VA_ARGS__}, COUNT(((const char *const[]){__VA_ARGS__})),  \
                 want)

static void test_grouping(void **state) {
    (void)state;
    CHECK_GROUPS("a[jpg txt] b[jpg txt]", "a.jpg", "a.txt", "b.jpg", "b.txt");
    /* the first dot of the base name; folders are part of the key */
    CHECK_GROUPS("x.y/a[seg.png txt] x/a[txt]", "x.y/a.seg.png", "x.y/a.txt", "x/a.txt");
    CHECK_GROUPS("./a[jpg txt]", "./a.jpg", "./a.txt");
    /* lower case; members without extension, hidden ones and __…__ belong to nothing */
    CHECK_GROUPS("A[jpg txt]", "A.JPG", "README", ".hidden.txt", "__meta.json__", "d/__x.y__",
                 "A.Txt");
    /* an extension that repeats begins a new sample, in any case of letters */
    CHECK_GROUPS("a[jpg txt] a[jpg txt]", "a.jpg", "a.txt", "a.JPG", "a.txt");
    /* so does a key that is repeated later */
    CHECK_GROUPS("a[jpg] b[jpg] a[txt]", "a.jpg", "b.jpg", "a.txt");
}

static void test_usable(void **state) {
    (void)state;
    TarBytes t = {NULL, 0};
    const struct {
        const char *name, *text;
    } members[] = {
        {"good.jpg", "J"},      {"good.txt", "words"},     {"noimage.txt", "words"},
        {"notext.jpg", "J"},    {"empty.jpg", "J"},        {"empty.txt", ""},
        {"blank.jpg", "J"},     {"blank.txt", " \n\t "},   {"hollow.jpg", ""},
        {"hollow.txt", "w"},    {"second.png", "P"},       {"second.caption", "words"},
        {"both.txt", " first"}, {"both.caption", "other"}, {"both.webp", "W"},
        {"json.jpg", "J"},      {"json.json", "{}"},       {"json.cls", "3"},
    };
    char *spaces = xmalloc(1000);
    memset(spaces, ' ', 1000);
    for (size_t i = 0; i < COUNT(members); i++)
        tar_bytes_text(&t, members[i].name, members[i].text);
    tar_bytes_text(&t, "long.jpg", "J");
    spaces[999] = 0;
    tar_bytes_text(&t, "long.txt", spaces); /* blank, though long */
    tar_bytes_text(&t, "late.jpg", "J");
    spaces[998] = 'x';
    tar_bytes_text(&t, "late.txt", spaces);
    free(spaces);
    const char *path = tar_bytes_write(&t, "usable.tar");
    Index ix;
    Error err;
    const struct {
        const char *images, *texts;
        bool json;
        const char *keys;
    } cases[] = {
        {IMAGES, TEXTS, false, "good second both late "},
        {"png;webp", TEXTS, false, "second both "},
        {IMAGES, "caption", false, "second both "},
        {IMAGES, TEXTS, true, "json "},
        {IMAGES, NULL, false, "good notext empty blank second both json long late "},
    };
    for (size_t c = 0; c < COUNT(cases); c++) {
        IndexKeys k = index_keys_new(cases[c].images, cases[c].texts, cases[c].json);
        assert_true(index_build(&ix, path, &k, &err));
        char got[256] = "";
        IndexPick p;
        size_t n = 0;
        for (size_t i = 0; i < ix.h.samples; i++)
            if (index_pick(&ix, &k, i, &p)) {
                strcat(strcat(got, p.key), " ");
                n++;
            }
        assert_string_equal(got, cases[c].keys);
        assert_int_equal(ix.h.usable, n);
        assert_true(ix.h.keys == k.hash);
        index_free(&ix);
        index_keys_free(&k);
    }
    /* the hash distinguishes key lists */
    IndexKeys a = index_keys_new("jpg", "txt", false), b = index_keys_new("jpg", "caption", false),
              c = index_keys_new("jpg", "txt", true);
    assert_true(a.hash != b.hash && a.hash != c.hash && b.hash != c.hash);
    index_keys_free(&a);
    index_keys_free(&b);
    index_keys_free(&c);
}

static void make_index(Index *ix, size_t samples, size_t frame) {
    TarBytes t = {NULL, 0};
    Error err;
    char name[64], text[64];
    for (size_t i = 0; i < samples; i++) {
        snprintf(name, sizeof name, "%06zu.jpg", i);
        snprintf(text, sizeof text, "picture %zu", i);
        tar_bytes_text(&t, name, text);
        snprintf(name, sizeof name, "%06zu.txt", i);
        snprintf(text, sizeof text, "caption %zu", i);
        if (i % 3 == 0) *text = 0;
        tar_bytes_text(&t, name, text);
    }
    tar_bytes_end(&t);
    size_t packed = t.size;
    uint8_t *file = frame ? zstd_frames(t.bytes, t.size, frame, &packed) : t.bytes;
    const char *path = test_path(frame ? "made.tar.zst" : "made.tar");
    test_write_file(path, file, packed);
    IndexKeys k = index_keys_new(IMAGES, TEXTS, false);
    if (!index_build(ix, path, &k, &err)) fail_msg("%s", err.text);
    assert_int_equal(ix->h.usable, samples - (samples + 2) / 3);
    index_keys_free(&k);
    if (frame) free(file);
    free(t.bytes);
}

/* Its file is that of `path` byte for byte. */
static void assert_writes(Index *ix, const char *path) {
    size_t n, m;
    Error err;
    if (!index_write(ix, test_path("again.idx"), &err)) fail_msg("%s", err.text);
    char *a = test_read_file(path, &n), *b = test_read_file(test_path("again.idx"), &m);
    assert_int_equal(n, m);
    assert_memory_equal(a, b, n);
    free(a);
    free(b);
}

static void test_round_trip(void **state) {
    (void)state;
    for (size_t frame = 0; frame <= 3000; frame += 3000) {
        Index ix, back;
        Error err;
        make_index(&ix, 20, frame);
        assert_int_equal(ix.h.frames, frame ? div_up(20 * 2 * 1024 - 7 * 512 + 1024, 3000) : 0);
        const char *path = test_path("made.idx");
        if (!index_write(&ix, path, &err)) fail_msg("%s", err.text);
        if (!index_read(&back, path, &err)) fail_msg("%s", err.text);
        assert_writes(&back, path);
        char *a = describe(&ix), *b = describe(&back);
        assert_string_equal(a, b);
        free(a);
        free(b);
        for (size_t i = 0; i < ix.h.members; i++) {
            assert_int_equal(back.members[i].offset, ix.members[i].offset);
            assert_int_equal(back.members[i].size, ix.members[i].size);
            assert_int_equal(back.members[i].flags, ix.members[i].flags);
        }
        if (frame)
            assert_memory_equal(back.frames, ix.frames, (ix.h.frames + 1) * sizeof *ix.frames);
        assert_true(index_read_header(&back.h, path, &err));
        assert_writes(&back, path);
        index_free(&ix);
        index_free(&back);
    }
}

static bool parse_copy(const uint8_t *bytes, size_t n, Error *err) {
    uint8_t *copy = xmalloc(n);
    Index ix;
    if (n) memcpy(copy, bytes, n);
    bool ok = index_parse(&ix, copy, n, err);
    if (ok) index_free(&ix);
    free(copy);
    return ok;
}

static void test_damaged_file(void **state) {
    (void)state;
    for (size_t frame = 0; frame <= 3000; frame += 3000) {
        Index ix;
        Error err;
        size_t n;
        make_index(&ix, 6, frame);
        assert_true(index_write(&ix, test_path("made.idx"), &err));
        index_free(&ix);
        uint8_t *bytes = (uint8_t *)test_read_file(test_path("made.idx"), &n);
        assert_true(parse_copy(bytes, n, &err));
        assert_false(parse_copy(bytes, n + 1, &err));
        for (size_t cut = 0; cut < n; cut++) assert_false(parse_copy(bytes, cut, &err));
        for (size_t i = 0; i < n; i++) {
            bytes[i] ^= (uint8_t)(1 << i % 8);
            if (parse_copy(bytes, n, &err)) fail_msg("a wrong byte %zu was not noticed", i);
            bytes[i] ^= (uint8_t)(1 << i % 8);
        }
        free(bytes);
    }
}

static void put(uint8_t *b, uint64_t v, int width) {
    for (int i = 0; i < width; i++) b[i] = (uint8_t)(v >> 8 * i);
}

/* Numbers that are wrong though all sums are right. */
static void test_hostile_file(void **state) {
    (void)state;
    Index ix;
    Error err;
    size_t n;
    make_index(&ix, 4, 0);
    assert_true(index_write(&ix, test_path("made.idx"), &err));
    size_t samples = 104, members = samples + 8 * (ix.h.samples + 1), strings = members + 24 * 8;
    index_free(&ix);
    uint8_t *bytes = (uint8_t *)test_read_file(test_path("made.idx"), &n), *keep = xmalloc(n);
    memcpy(keep, bytes, n);
    const struct {
        size_t at;
        uint64_t value;
        int width;
    } wrong[] = {
        {40, 1u << 30, 8},
        {48, UINT64_MAX, 8},
        {56, 1, 8},
        {56, UINT64_MAX / 16, 8},
        {64, 0, 8},
        {64, UINT64_MAX, 8},
        {72, 100, 8},
        {samples, 1u << 20, 4},
        {samples + 4, 100, 4},
        {samples + 8 * 4 + 4, 7, 4},
        {members, 1u << 30, 8},
        {members + 8, UINT64_MAX, 8},
        {members + 16, 1u << 20, 4},
        {n - 1, 'x', 1},
        {8, 2, 4},
        {strings - 16, UINT64_MAX - 5, 8},
    };
    for (size_t i = 0; i < COUNT(wrong); i++) {
        memcpy(bytes, keep, n);
        put(bytes + wrong[i].at, wrong[i].value, wrong[i].width);
        put(bytes + 88, fnv_hash(FNV_START, bytes + 104, n - 104), 8);
        put(bytes + 96, fnv_hash(FNV_START, bytes, 96), 8);
        if (parse_copy(bytes, n, &err)) fail_msg("wrong number %zu was not noticed", i);
    }
    free(bytes);
    free(keep);
}

static void test_fresh(void **state) {
    (void)state;
    Error err;
    const char *path = test_path("stamp.tar");
    test_write_file(path, "0123456789", 10);
    IndexHeader h = {0};
    FileStamp now;
    assert_true(file_stamp(path, &h.shard, &err));
    assert_true(file_stamp(path, &now, &err));
    assert_true(index_fresh(&h, &now));
    struct utimbuf later = {.actime = now.mtime_sec, .modtime = now.mtime_sec};
    assert_int_equal(utime(path, &later), 0); /* whole seconds: a copy of it */
    assert_true(file_stamp(path, &now, &err));
    assert_true(index_fresh(&h, &now));
    later.modtime++;
    assert_int_equal(utime(path, &later), 0);
    assert_true(file_stamp(path, &now, &err));
    assert_false(index_fresh(&h, &now));
    later.modtime--;
    test_write_file(path, "0123456789+", 11);
    assert_int_equal(utime(path, &later), 0);
    assert_true(file_stamp(path, &now, &err));
    assert_false(index_fresh(&h, &now));
}

/* A shard cut anywhere is indexed up to the cut, and indexed members are inside it. */
static void test_cut_shard(void **state) {
    (void)state;
    for (size_t frame = 0; frame <= 2000; frame += 2000) {
        Index ix;
        Error err;
        size_t n;
        make_index(&ix, 8, frame);
        size_t all = ix.h.members, frames = ix.h.frames, end = 0;
        for (size_t i = 0; i < all; i++)
            end = size_max(end, (size_t)(ix.members[i].offset + ix.members[i].size));
        index_free(&ix);
        uint8_t *bytes =
            (uint8_t *)test_read_file(test_path(frame ? "made.tar.zst" : "made.tar"), &n);
        size_t last = 0;
        for (size_t cut = 0; cut < n; cut++) {
            Stream *s = stream_open_memory(bytes, cut);
            assert_true(index_scan(&ix, s, &err));
            stream_close(s);
            bool whole = ix.h.members == all;
            assert_true(ix.h.flags & INDEX_DAMAGED || whole);
            if (ix.h.flags & INDEX_DAMAGED) assert_true(err.text[0] != 0);
            assert_true(ix.h.members >= last);
            last = ix.h.members;
            uint64_t readable = frame ? (ix.h.frames ? ix.frames[ix.h.frames].raw : 0) : cut;
            for (size_t i = 0; i < ix.h.members; i++)
                assert_true(ix.members[i].offset + ix.members[i].size <= readable);
            assert_true(ix.h.frames <= frames);
            index_free(&ix);
        }
        assert_true(last >= all - 1);
        free(bytes);
    }
}

/* A cut frame gives some of its bytes to a reader of streams, but none at random. */
static void test_cut_large_frame(void **state) {
    (void)state;
    TarBytes t = {NULL, 0};
    Error err;
    enum { BYTES = 20000, SAMPLES = 40 };
    uint8_t *noise = xmalloc(BYTES);
    for (size_t i = 0; i < SAMPLES; i++) {
        char name[32];
        for (size_t k = 0; k < BYTES; k++)
            noise[k] = (uint8_t)(((uint32_t)(i * BYTES + k) * 2654435761u) >> 13);
        snprintf(name, sizeof name, "%06zu.jpg", i);
        tar_bytes_add(&t, name, noise, BYTES);
    }
    tar_bytes_end(&t);
    size_t packed, frame = t.size / 2;
    uint8_t *file = zstd_frames(t.bytes, t.size, frame, &packed);
    Stream *s = stream_open_memory(file, packed * 9 / 10);
    Index ix;
    assert_true(index_scan(&ix, s, &err));
    assert_true(ix.h.flags & INDEX_DAMAGED);
    assert_non_null(strstr(err.text, "cut"));
    assert_int_equal(ix.h.frames, 1);
    assert_in_range(ix.h.members, SAMPLES / 2 - 1, SAMPLES / 2);
    assert_int_equal(ix.h.samples, ix.h.members);
    uint64_t end = ix.members[ix.h.members - 1].offset + BYTES;
    assert_true(end <= ix.frames[1].raw && ix.frames[1].raw == frame);
    index_free(&ix);
    stream_close(s);
    free(file);
    free(noise);
    free(t.bytes);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_grouping),     cmocka_unit_test(test_usable),
        cmocka_unit_test(test_round_trip),   cmocka_unit_test(test_damaged_file),
        cmocka_unit_test(test_hostile_file), cmocka_unit_test(test_fresh),
        cmocka_unit_test(test_cut_shard),    cmocka_unit_test(test_cut_large_frame),
    };
    return cmocka_run_group_tests_name("index", tests, NULL, NULL);
}
