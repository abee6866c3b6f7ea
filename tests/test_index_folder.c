/* Index folders (manifest, adding, removing, damage, leftovers), search over parts, duplicates. */
#include "tests/support.h"
#include "data/io/string_map.h"
#include "eval/index_folder.h"
#include "eval/duplicates.h"
#include "eval/search.h"
#include "eval/score_tiles.h"
#include "kernels/rng.h"

#include <fcntl.h>
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static float *random_rows(size_t n, size_t E, uint64_t stream) {
    float *x = xmalloc(n * E * sizeof *x);
    for (size_t i = 0; i < n * E; i++) x[i] = (float)rng_uniform(test_seed(), stream, i) - 0.5f;
    return x;
}

/* ---- search ---- */

/* One query alone, many at once, whole or in parts, f32 or f16 of the same numbers, any number of
 * threads: the same bits. */
static void test_search_is_one(void **state) {
    (void)state;
    enum { N = 1000, E = 37, Q = 9, K = 20, CUT = 333 };
    float *x = random_rows(N, E, 1), *q = random_rows(Q, E, 2);
    uint64_t skip[N / 64 + 1] = {0};
    for (size_t i = 0; i < N; i += 3) skip[i / 64] |= 1ull << i % 64;
    Hit all[Q * K], got[Q * K];
    Rows rows = rows_of_floats(x, N, E);
    Search *s = search_new(K, q, Q, E);
    search_add(s, &rows, 0, skip);
    assert_int_equal(search_finish(s, all), K);
    for (size_t h = 0; h < Q * K; h++) { /* against plain sums */
        double sum = 0;
        for (size_t j = 0; j < E; j++) sum += (double)q[h / K * E + j] * x[all[h].row * E + j];
        assert_near(all[h].score, sum, 1e-5);
        assert_true(all[h].row % 3 && (h % K == 0 || all[h].score <= all[h - 1].score));
    }
    for (size_t i = 0; i < Q; i++) { /* no other row scores higher */
        size_t above = 0;
        for (size_t r = 0; r < N; r++) {
            double sum = 0;
            for (size_t j = 0; j < E; j++) sum += (double)q[i * E + j] * x[r * E + j];
            above += r % 3 && sum > all[i * K + K - 1].score + 1e-5;
        }
        assert_in_range(above, K - 2, K - 1);
    }
    int was = omp_get_max_threads();
    for (int threads = 1; threads <= 3; threads++) {
        omp_set_num_threads(threads);
        for (size_t i = 0; i < Q; i++) {
            uint64_t right[N / 64 + 1] = {0};
            for (size_t r = CUT; r < N; r++)
                if (bit_of(skip, r)) right[(r - CUT) / 64] |= 1ull << (r - CUT) % 64;
            Rows a = rows_of_floats(x, CUT, E), b = rows_of_floats(x + CUT * E, N - CUT, E);
            s = search_new(K, q + i * E, 1, E);
            search_add(s, &b, CUT, right);
            search_add(s, &a, 0, skip);
            assert_int_equal(search_finish(s, got), K);
            for (size_t h = 0; h < K; h++)
                assert_true(got[h].row == all[i * K + h].row &&
                            got[h].score == all[i * K + h].score);
        }
    }
    omp_set_num_threads(was);
    free(x);
    free(q);
}

/* ---- duplicates ---- */

static void test_duplicates(void **state) {
    (void)state;
    enum { N = 300, E = 24, CUT = 130 };
    const Kernels *k = kernels_open("cpu", PRECISION_FP32);
    float *x = random_rows(N, E, 3);
    for (size_t i = 0; i < N;
         i++) { /* three of ten rows are close to the one before: chains of four */
        double norm = 0;
        for (size_t j = 0; j < E; j++) {
            if (i % 10 < 3 && i) x[i * E + j] = x[(i - 1) * E + j] + 0.2f * x[i * E + j];
            norm += (double)x[i * E + j] * x[i * E + j];
        }
        for (size_t j = 0; j < E; j++) x[i * E + j] /= (float)sqrt(norm);
    }
    uint64_t skip[N / 64 + 1] = {0};
    skip[0] = 1ull << 21; /* a row that is gone links nothing */
    Rows a = rows_of_floats(x, CUT, E), b = rows_of_floats(x + CUT * E, N - CUT, E);
    RowsPart parts[] = {{&a, 0, skip}, {&b, CUT, NULL}};
    uint32_t got[N], want[N];
    float alike[N], most[N];
    for (size_t i = 0; i < N; i++) most[i] = -INFINITY;
    size_t pairs = 0, found = duplicates_find(k, parts, 2, 0.94, got, alike), linked = 0;
    for (size_t i = 0; i < N; i++) want[i] = (uint32_t)i;
    for (size_t i = 0; i < N; i++) {
        for (size_t j = i + 1; j < N; j++) {
            double s = 0;
            for (size_t e = 0; e < E; e++) s += (double)x[i * E + e] * x[j * E + e];
            if (s < 0.94 || i == 21 || j == 21) continue;
            pairs++;
            if (want[i] != i || want[j] != j) continue;
            want[j] = (uint32_t)i;
            most[i] = fmaxf(most[i], (float)s);
            most[j] = (float)s;
        }
    }
    for (size_t i = 0; i < N; i++) {
        if (isinf(most[i]))
            assert_true(isinf(alike[i]));
        else
            assert_near(alike[i], most[i], 1e-5);
    }
    assert_true(pairs > 50);
    assert_int_equal(found, pairs);
    for (size_t i = 0; i < N; i++) {
        assert_int_equal(got[i], want[i]);
        linked += got[i] != i;
    }
    assert_true(linked > 50 && got[21] == 21 && got[22] == 22);
    free(x);
}

/* Points on an arc, 15 degrees apart: a chain is no group. */
static void test_no_chains(void **state) {
    (void)state;
    const double degrees[] = {0, 60, 30, 15, 45};
    float x[10], alike[5];
    uint32_t group[5];
    for (size_t i = 0; i < 5; i++) {
        x[2 * i] = (float)cos(degrees[i] * acos(-1) / 180);
        x[2 * i + 1] = (float)sin(degrees[i] * acos(-1) / 180);
    }
    Rows rows = rows_of_floats(x, 5, 2);
    RowsPart part = {&rows, 0, NULL};
    assert_int_equal(
        duplicates_find(kernels_open("cpu", PRECISION_FP32), &part, 1, 0.94, group, alike), 4);
    const uint32_t want[] = {0, 1, 2, 0, 1};
    for (size_t i = 0; i < 5; i++) assert_int_equal(group[i], want[i]);
    assert_true(isinf(alike[2]) && alike[3] > 0.94f && alike[0] == alike[3]);
}

/* Similar means the threshold or more. */
static void test_threshold_counts(void **state) {
    (void)state;
    const float x[] = {1, 0, 0, 1, 1, 0};
    float alike[3];
    uint32_t group[3];
    Rows rows = rows_of_floats(x, 3, 2);
    RowsPart part = {&rows, 0, NULL};
    const Kernels *k = kernels_open("cpu", PRECISION_FP32);
    assert_int_equal(duplicates_find(k, &part, 1, 1, group, alike), 1);
    assert_true(group[0] == 0 && group[1] == 1 && group[2] == 0);
}

/* ---- the folder ---- */

enum { DIM = 6 };
static const char identity[] = "0123456789abcdef";

static void add_some(IndexFolder *c, size_t n, size_t number, const float *rows) {
    char **keys = xcalloc(n, sizeof *keys);
    Thumb *thumbs = xcalloc(n, sizeof *thumbs);
    uint64_t *stamps = xcalloc(n, sizeof *stamps);
    for (size_t i = 0; i < n; i++) {
        keys[i] = xasprintf("p/%zu.jpg", number + i);
        thumbs[i].size = i % 3; /* some have none */
        thumbs[i].bytes = (uint8_t *)keys[i];
        stamps[i] = number + i;
    }
    index_folder_add(c, rows, keys, thumbs, stamps, n, 700 - number);
    for (size_t i = 0; i < n; i++) free(keys[i]);
    FREE_ALL(keys, thumbs, stamps);
}

static void check_rows(const IndexFolder *c, const size_t *numbers, size_t n, const float *rows,
                       float tolerance) {
    assert_int_equal(c->rows, n);
    for (size_t i = 0; i < n; i++) {
        char key[32];
        float row[DIM];
        snprintf(key, sizeof key, "p/%zu.jpg", numbers[i]);
        assert_string_equal(index_folder_key(c, i), key);
        const Segment *s = c->segments;
        while (i >= s->first + s->rows) s++;
        rows_load(&s->features, i - s->first, 1, row, DIM);
        for (size_t j = 0; j < DIM; j++) assert_near(row[j], rows[numbers[i] * DIM + j], tolerance);
        const uint8_t *thumb;
        size_t size;
        index_folder_thumb(c, i, &thumb, &size);
        assert_int_equal(size, numbers[i] % 5 % 3);
        assert_memory_equal(thumb, "p/", size);
    }
}

/* The only segment has three runs of times, as add_some gives them. */
static void check_times(const IndexFolder *c, size_t a, size_t b, size_t end) {
    const Segment *s = c->segments;
    const size_t ends[] = {a, b, end};
    assert_true(c->count == 1 && c->removed == 0 && s->time_count == 3);
    for (size_t i = 0; i < 3; i++)
        assert_true(s->times[i].end == ends[i] && s->times[i].time == 700 - 5 * i);
}

/* Three segments of five rows; 3 and 4 and 12 removed; compacted; another removed; compacted. */
static void make_and_change(const char *folder, NpyType type, const float *rows) {
    const float tolerance = type == NPY_F16 ? 3e-4f : 0;
    size_t all[15], left[12], n = 0;
    Error err;
    IndexFolder c, reader;
    index_folder_create(&c, folder, identity, "ckpt", DIM, type, 64);
    for (size_t s = 0; s < 3; s++) add_some(&c, 5, 5 * s, rows + 5 * s * DIM);
    for (size_t i = 0; i < 15; i++) {
        all[i] = i;
        if (i != 3 && i != 4 && i != 12) left[n++] = i;
    }
    check_rows(&c, all, 15, rows, tolerance);
    index_folder_close(&c);
    index_folder_open(&reader, folder);
    check_rows(&reader, all, 15, rows, tolerance);
    index_folder_open_locked(&c, folder);
    index_folder_remove(&c, 4);
    index_folder_remove(&c, 3);
    index_folder_remove(&c, 12);
    index_folder_remove(&c, 12);
    assert_int_equal(c.removed, 3);
    index_folder_commit(&c);
    index_folder_close(&c);
    index_folder_open_locked(&c, folder);
    assert_true(c.removed == 3 && index_folder_removed(&c, 4) && !index_folder_removed(&c, 5));
    index_folder_compact(&c);
    check_rows(&c, left, n, rows, tolerance);
    check_times(&c, 3, 8, 12);
    for (size_t i = 0; i < n; i++)
        assert_memory_equal(c.segments[0].stamps.bytes + 8 * i, &left[i], 8);
    assert_true(index_folder_check(&c, &err));
    index_folder_close(&c);
    check_rows(&reader, all, 15, rows, tolerance); /* an open index is unchanged */
    index_folder_close(&reader);
    index_folder_open_locked(&c, folder);
    check_rows(&c, left, n, rows, tolerance);
    index_folder_remove(&c, 7);
    index_folder_compact(&c);
    check_times(&c, 3, 7, 11);
    index_folder_close(&c);
}

static void test_folder(void **state) {
    (void)state;
    float *rows = random_rows(15, DIM, 5);
    make_and_change(test_path("f32"), NPY_F32, rows);
    make_and_change(test_path("f16"), NPY_F16, rows);
    /* everything removed, then compacted: an empty index that can be added to */
    IndexFolder c;
    index_folder_create(&c, test_path("empty"), identity, "ckpt", DIM, NPY_F32, 64);
    add_some(&c, 2, 0, rows);
    index_folder_remove(&c, 0);
    index_folder_remove(&c, 1);
    index_folder_compact(&c);
    assert_true(c.rows == 0 && c.count == 0);
    add_some(&c, 2, 0, rows);
    assert_int_equal(c.rows, 2);
    index_folder_close(&c);
    free(rows);
}

/* The next writer deletes files that a killed writer left, and nothing else. */
static void test_leftovers(void **state) {
    (void)state;
    float *rows = random_rows(5, DIM, 5);
    const char *folder = test_path("killed");
    IndexFolder c;
    index_folder_create(&c, folder, identity, "ckpt", DIM, NPY_F32, 64);
    add_some(&c, 5, 0, rows);
    index_folder_close(&c);
    const char *left[] = {"00000002.npy", "00000002.keys.tmp.3.4", "00000001.npy.tmp-12",
                          "index.json.tmp.5.6"};
    char path[4][512], own[512], other[512];
    for (size_t i = 0; i < 4; i++) {
        snprintf(path[i], sizeof path[i], "%s/%s", folder, left[i]);
        test_write_file(path[i], "x", 1);
    }
    snprintf(own, sizeof own, "%s/00000001.npy", folder);
    snprintf(other, sizeof other, "%s/notes.txt", folder);
    test_write_file(other, "x", 1);
    index_folder_open(&c, folder); /* a reader clears nothing */
    assert_int_equal(access(path[0], F_OK), 0);
    index_folder_close(&c);
    index_folder_open_locked(&c, folder);
    for (size_t i = 0; i < 4; i++) assert_int_equal(access(path[i], F_OK), -1);
    assert_int_equal(access(own, F_OK) + access(other, F_OK), 0);
    add_some(&c, 5, 5, rows);
    index_folder_close(&c);
    free(rows);
}

/* ---- damage ---- */

static void open_it(void *folder) {
    IndexFolder c;
    index_folder_open(&c, folder);
}
static void open_locked(void *folder) {
    IndexFolder c;
    index_folder_open_locked(&c, folder);
}
static void check_it(void *folder) {
    IndexFolder c;
    Error err;
    index_folder_open(&c, folder);
    if (!index_folder_check(&c, &err)) die("%s", err.text);
}
static void add_nan(void *folder) {
    IndexFolder c;
    float row[DIM] = {1, NAN};
    index_folder_open_locked(&c, folder);
    add_some(&c, 1, 0, row);
}

/* Flips a byte at `at` (from the end if negative), or cuts there, runs f, and repairs the file. */
static void damaged(const char *folder, const char *name, long at, bool cut, void (*f)(void *),
                    const char *needle) {
    char path[512];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    size_t n;
    char *bytes = test_read_file(path, &n);
    size_t where = at < 0 ? n - (size_t)-at : (size_t)at;
    bytes[where] ^= 1;
    test_write_file(path, bytes, cut ? where : n);
    test_dies(f, (void *)folder, EXIT_ERROR, needle);
    bytes[where] ^= 1;
    test_write_file(path, bytes, n);
    free(bytes);
}

static void test_damage(void **state) {
    (void)state;
    static const char *const lines[] = {"a\nb", "a\n", "a\nb\nc\n", "a\nb\nc"};
    for (size_t i = 0; i < COUNT(lines); i++) {
        const char *keys[2];
        char text[8];
        strcpy(text, lines[i]);
        assert_false(index_folder_split_keys(text, strlen(lines[i]), 2, keys));
    }
    float *rows = random_rows(5, DIM, 5);
    const char *folder = test_path("damaged");
    IndexFolder c;
    index_folder_create(&c, folder, identity, "ckpt", DIM, NPY_F32, 64);
    add_some(&c, 5, 0, rows);
    test_dies(open_locked, (void *)folder, EXIT_ERROR, "another clipc is writing");
    index_folder_close(&c);
    damaged(folder, "00000001.keys", 3, false, open_it, "00000001.keys is damaged (checksum)");
    damaged(folder, "00000001.npy", -1, false, check_it, "00000001.npy is damaged (checksum)");
    damaged(folder, "00000001.thumbs", -1, false, check_it, "00000001.thumbs is damaged");
    damaged(folder, "00000001.stamps", -1, false, check_it, "00000001.stamps is damaged");
    damaged(folder, "00000001.stamps", -1, true, open_it, "00000001.stamps: not 8 bytes a row");
    damaged(folder, "00000001.npy", -4, true, open_it, "floats");
    damaged(folder, "00000001.keys", -1, true, open_it, "00000001.keys");
    damaged(folder, "00000001.thumbs", 0, true, open_it, "00000001.thumbs: empty");
    damaged(folder, "index.json", 20, true, open_it, "index.json: line 1");
    test_dies(add_nan, (void *)folder, EXIT_ERROR, "not finite (NaN)");
    test_dies(open_it, (void *)test_path("nowhere"), EXIT_ERROR, "is no index folder");
    index_folder_open_locked(&c, folder); /* nothing was damaged */
    assert_int_equal(c.rows, 5);
    index_folder_close(&c);
    free(rows);
}

/* ---- stale rows ---- */

/* A row's file is changed, in turn, to this content (NULL: as it is) and time of modification. */
static void test_stale(void **state) {
    (void)state;
    const time_t hour = 3600, now = (time_t)(index_folder_now() / 1000000000);
    const struct {
        const char *text;
        time_t mtime;
    } changes[] = {{"other", now - hour},     {"older", 1000000000},  {"longer", 1000000000},
                   {"shorts", 1000000000},    {NULL, now - 2 * hour}, {NULL, now + 2 * hour},
                   {"future", now + 2 * hour}};
    char path[512];
    snprintf(path, sizeof path, "%s", test_path("stale.jpg"));
    char *keys[] = {path, path};
    float *rows = random_rows(2, DIM, 5);
    IndexFolder c;
    index_folder_create(&c, test_path("stale"), identity, "ckpt", DIM, NPY_F32, 0);
    assert_true(index_folder_stamp(&c, path) == 0); /* no file */
    test_write_file(path, "first", 5);
    for (size_t i = 0, at = 0; i < COUNT(changes); i++, at += 4) {
        uint64_t stamps[2] = {0, 0};
        while (!(stamps[0] = index_folder_stamp(&c, path))) usleep(1000);
        /* the clock may be wrong by an hour when the rows are made */
        for (int wrong = -1; wrong <= 1; wrong += 2)
            index_folder_add(&c, rows, keys, NULL, stamps, 2,
                             (uint64_t)(now + wrong * hour) * 1000000000);
        assert_true(!index_folder_stale(&c, at) && !index_folder_stale(&c, at + 2));
        assert_int_equal(index_folder_stale(&c, at + 3), i == 6); /* no stamp: the times count */
        if (changes[i].text) test_write_file(path, changes[i].text, strlen(changes[i].text));
        const struct timespec times[2] = {{0, UTIME_OMIT}, {changes[i].mtime, 0}};
        assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
        assert_true(index_folder_stale(&c, at) && index_folder_stale(&c, at + 2));
        assert_true(index_folder_stale(&c, at + 1));
        assert_int_equal(index_folder_stale(&c, at + 3), i >= 5);
    }
    unlink(path);
    assert_false(index_folder_stale(&c, c.rows - 4)); /* what is gone cannot be embedded again */
    index_folder_close(&c);
    free(rows);
}

/* ---- index.json ---- */

#define HEAD                                                                                       \
    "{\"format\":\"clipc index\",\"version\":1,\"identity\":\"0123456789abcdef\",\"checkpoint\":"  \
    "\"c\",\"dim\":6,\"dtype\":\"f16\",\"thumbnails\":0,\"next\":9,\"segments\":["
#define SEGMENT(name, rows, rest)                                                                  \
    "{\"name\":\"" name "\",\"rows\":" rows                                                        \
    ",\"crc32c\":[\"00000001\",\"0000000a\",\"00000000\"]" rest "}"

#define READ(background, exif, dpi)                                                                \
    ",\"read\":{\"background\":\"" background "\",\"exif\":" exif ",\"pdf_dpi\":" dpi "}"

static void test_manifest(void **state) {
    (void)state;
    static const char good[] =
        HEAD SEGMENT("00000002", "5", ",\"removed\":[[0,2],[4,1]]") "," SEGMENT(
            "00000007", "3",
            ",\"stamps\":\"0000000c\",\"times\":[[2,1700000000000000001],[1,0]]") "],\"checksum\":"
                                                                                  "\"fedcba98765432"
                                                                                  "10\"" READ(
                                                                                      "black",
                                                                                      "true",
                                                                                      "150") "}";
    IndexFolder c;
    Error err;
    if (!index_folder_parse(&c, good, strlen(good), NULL, &err)) fail_msg("%s", err.text);
    assert_true(c.count == 2 && c.rows == 8 && c.removed == 3 && c.type == NPY_F16);
    assert_string_equal(c.checksum, "fedcba9876543210");
    assert_true(c.reading.known && c.reading.background == BACKGROUND_BLACK && c.reading.exif &&
                c.reading.pdf_dpi == 150);
    assert_true(c.segments[1].first == 5 && c.segments[0].crc[1] == 10);
    assert_true(!c.segments[0].stamped && c.segments[1].stamped && c.segments[1].crc[3] == 12);
    assert_true(!c.segments[0].times && c.segments[1].times[0].time == 1700000000000000001);
    assert_true(index_folder_removed(&c, 1) && !index_folder_removed(&c, 2) &&
                index_folder_removed(&c, 4));
    char *again = index_folder_to_json(&c);
    assert_string_equal(again, good);
    free(again);
    index_folder_close(&c);
    for (size_t cut = 0; cut < strlen(good); cut++)
        assert_false(index_folder_parse(&c, good, cut, NULL, &err));
    static const struct {
        const char *json, *needle;
    } bad[] = {
        {"{}", "not a clipc index"},
        {HEAD SEGMENT("../../etc", "5", "") "]}", "8 digits"},
        {HEAD SEGMENT("00000009", "5", "") "]}", "below \"next\""},
        {HEAD SEGMENT("00000002", "0", "") "]}", "\"rows\""},
        {HEAD SEGMENT("00000002", "4294967295", "") "]}", "\"rows\""},
        {HEAD SEGMENT("00000001", "4294967000", "") "," SEGMENT("00000002", "1000", "") "]}",
         "rows"},
        {HEAD SEGMENT("00000002", "5", "") "," SEGMENT("00000002", "5", "") "]}", "order"},
        {HEAD SEGMENT("00000002", "5", ",\"removed\":[[4,2]]") "]}", "range"},
        {HEAD SEGMENT("00000002", "5", ",\"removed\":[[2,2],[3,1]]") "]}", "range"},
        {HEAD SEGMENT("00000002", "5", ",\"removed\":[[0,0]]") "]}", "range"},
        {HEAD SEGMENT("00000002", "5", ",\"removed\":7") "]}", "removed"},
        {HEAD SEGMENT("00000002", "5", ",\"stamps\":7") "]}", "stamps"},
        {HEAD SEGMENT("00000002", "5", ",\"times\":7") "]}", "times"},
        {HEAD SEGMENT("00000002", "5", ",\"times\":[[4,1]]") "]}", "times"},
        {HEAD SEGMENT("00000002", "5", ",\"times\":[[4,1],[2,1]]") "]}", "times"},
        {HEAD SEGMENT("00000002", "5", ",\"times\":[[5,-1]]") "]}", "times"},
        {HEAD SEGMENT("00000002", "5", ",\"times\":[[0,1],[5,1]]") "]}", "times"},
        {HEAD "],\"checksum\":\"fedcba98\"}", "\"checksum\""},
        {HEAD "],\"read\":7}", "\"background\""},
        {HEAD "]" READ("red", "true", "100") "}", "\"background\""},
        {HEAD "]" READ("white", "1", "100") "}", "\"exif\""},
        {HEAD "]" READ("white", "false", "9") "}", "\"pdf_dpi\""},
        {HEAD "{\"name\":\"00000002\",\"rows\":5,\"crc32c\":[\"1\",\"2\",\"3\"]}]}", "checksums"},
    };
    for (size_t i = 0; i < COUNT(bad); i++) {
        assert_false(index_folder_parse(&c, bad[i].json, strlen(bad[i].json), NULL, &err));
        if (!strstr(err.text, bad[i].needle)) fail_msg("%zu: %s", i, err.text);
    }
}

static void test_string_map(void **state) {
    (void)state;
    enum { N = 5000 };
    StringMap m = {0};
    char(*s)[16] = xcalloc(N, sizeof *s);
    bool added;
    assert_int_equal(string_map_find(&m, "0"), UINT32_MAX);
    for (size_t i = 0; i < N; i++) {
        snprintf(s[i], sizeof s[i], "%zu", i);
        assert_int_equal(string_map_put(&m, s[i], &added), i);
        assert_true(added);
    }
    for (size_t i = 0; i < N; i++) {
        char copy[16];
        snprintf(copy, sizeof copy, "%zu", i);
        assert_int_equal(string_map_put(&m, copy, &added), i);
        assert_true(!added && string_map_find(&m, copy) == i);
    }
    assert_int_equal(string_map_find(&m, "x"), UINT32_MAX);
    string_map_free(&m);
    free(s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        /* first: a child of a process that has OpenMP threads cannot use them */
        cmocka_unit_test(test_stale),      cmocka_unit_test(test_damage),
        cmocka_unit_test(test_folder),     cmocka_unit_test(test_leftovers),
        cmocka_unit_test(test_manifest),   cmocka_unit_test(test_search_is_one),
        cmocka_unit_test(test_duplicates), cmocka_unit_test(test_string_map),
        cmocka_unit_test(test_no_chains),  cmocka_unit_test(test_threshold_counts),
    };
    return cmocka_run_group_tests_name("index_folder", tests, NULL, NULL);
}
