/* captions: the grammar of a text key, random choices, one of several captions; then through data
 * sets: shards with .txt and .json, tables with several rows a picture. */
#include "data/captions.h"
#include "data/dataset.h"
#include "kernels/rng.h"
#include "tests/support_data.h"

#include <string.h>

static void check_refused(const char *text, const char *needle) {
    CaptionKeys k;
    Error err;
    assert_false(caption_keys_parse(&k, text, &err));
    if (!strstr(err.text, needle)) fail_msg("\"%s\" does not say \"%s\"", err.text, needle);
    caption_keys_free(&k);
}

static void test_grammar(void **state) {
    (void)state;
    CaptionKeys k;
    Error err;
    assert_true(caption_keys_parse(&k, "txt;caption", &err));
    assert_int_equal(k.alternatives, 1);
    assert_int_equal(k.count, 2);
    assert_string_equal(k.members, "txt;caption");
    caption_keys_free(&k);
    assert_true(caption_keys_parse(&k, "txt;caption:0.7,json.a.b:0.3,alt", &err));
    assert_int_equal(k.alternatives, 3);
    assert_string_equal(k.members, "txt;caption,json,alt");
    assert_string_equal(k.keys[2].extension, "json");
    assert_string_equal(k.keys[2].field, "a.b");
    assert_null(k.keys[0].field);
    assert_near(k.weights[0], 0.7, 0);
    assert_near(k.weights[2], 1, 0);
    caption_keys_free(&k);
    for (int none = 0; none < 2; none++) {
        assert_true(caption_keys_parse(&k, none ? NULL : "", &err));
        assert_int_equal(k.alternatives, 0);
        caption_keys_free(&k);
    }
    check_refused("txt:", "no weight");
    check_refused("txt:x", "no weight");
    check_refused("txt:-1", "no weight");
    check_refused("txt:nan", "no weight");
    check_refused("txt:1:2", "no weight");
    check_refused("txt:0,alt:0", "all weights are 0");
    check_refused("txt,,alt", "an empty key");
    check_refused(";", "an empty key");
    char many[300] = "a";
    for (int i = 0; i < 64; i++) strcat(many, ";a");
    check_refused(many, "more than 64");
}

static void test_order(void **state) {
    (void)state;
    CaptionKeys k;
    Error err;
    size_t order[CAPTION_KEYS_MAX], first[3] = {0}, second[3] = {0};
    enum { DRAWS = 20000 };
    assert_true(caption_keys_parse(&k, "a:5,b:3,c:2", &err));
    caption_order(&k, NULL, order);
    for (size_t i = 0; i < 3; i++) assert_int_equal(order[i], i);
    for (uint64_t d = 0; d < DRAWS; d++) {
        uint64_t draw = rng_u64(test_seed(), RNG_TEST, d);
        caption_order(&k, &draw, order);
        assert_int_equal(order[0] + order[1] + order[2], 3);
        first[order[0]]++;
        second[order[1]]++;
    }
    const double want[] = {0.5, 0.3, 0.2};
    for (size_t i = 0; i < 3; i++) {
        double next = 0; /* probability of being second: the rest is drawn by weight again */
        for (size_t j = 0; j < 3; j++)
            if (j != i) next += want[j] * want[i] / (1 - want[j]);
        assert_near((double)first[i] / DRAWS, want[i], 0.02);
        assert_near((double)second[i] / DRAWS, next, 0.02);
    }
    caption_keys_free(&k);
}

static void test_pick(void **state) {
    (void)state;
    const char text[] = "one\r\n  \n two\nthree\n";
    const char *const lines[] = {"one", " two", "three"};
    Sample s = {.key = NULL};
    captions_pick_line(&s, CAPTIONS_WHOLE, NULL, text, sizeof text - 1);
    assert_string_equal(s.text, text);
    captions_pick_line(&s, CAPTIONS_FIRST, NULL, text, sizeof text - 1);
    assert_string_equal(s.text, "one");
    captions_pick_line(&s, CAPTIONS_RANDOM, NULL, text, sizeof text - 1);
    assert_string_equal(s.text, "one");
    size_t seen[3] = {0};
    for (uint64_t d = 0; d < 3000; d++) {
        captions_pick_line(&s, CAPTIONS_RANDOM, &d, text, sizeof text - 1);
        for (size_t i = 0; i < 3; i++) seen[i] += strcmp(s.text, lines[i]) == 0;
    }
    assert_int_equal(seen[0] + seen[1] + seen[2], 3000);
    for (size_t i = 0; i < 3; i++) assert_near((double)seen[i], 1000, 120);
    captions_pick(&s, CAPTIONS_ALL, NULL, (const char *[]){"a\nb", " ", "c"}, 3);
    assert_string_equal(s.text, "a b\nc");
    captions_pick_line(&s, CAPTIONS_FIRST, NULL, "\n\n", 2);
    assert_string_equal(s.text, "");
    sample_free(&s);
}

static Dataset *open_it(const char *path, const char *keys, CaptionPick pick) {
    DatasetOptions o = dataset_options_default();
    o.cache_dir = test_path("cache");
    o.text_keys = keys;
    o.captions = pick;
    return open_data_set(path, &o);
}

/* "text;" of every sample, the reason in place of a bad one. */
static void check(const char *path, const char *keys, CaptionPick pick, const uint64_t *draw,
                  const char *want) {
    char got[512] = "";
    Sample s = {.key = NULL};
    Dataset *d = open_it(path, keys, pick);
    for (size_t i = 0; i < dataset_count(d); i++) {
        Error err;
        bool ok = dataset_read_drawn(d, i, draw, &s, &err);
        strcat(strcat(got, ok ? s.text : strrchr(err.text, ':') + 2), ";");
    }
    assert_string_equal(got, want);
    sample_free(&s);
    dataset_close(d);
}

static const char *make_shard(void) {
    TarBytes t = {NULL, 0};
    const struct {
        const char *name, *text;
    } members[] = {
        {"a.jpg", "A"},
        {"a.txt", "a text"},
        {"a.json", "{\"alt\": \"a alt\", \"meta\": {\"title\": [7, \"\", \"a t1\", \"a t2\"]}}"},
        {"b.jpg", "B"},
        {"b.json", "{\"alt\": \"b alt\", \"meta.title\": \"b t\"}"},
        {"c.jpg", "C"},
        {"c.txt", "c one\nc two\n"},
        {"c.json", "{\"alt\": 5}"},
        {"d.jpg", "D"},
        {"d.txt", " \n"},
        {"d.json", "{\"alt\": \"d alt\"}"},
        {"e.jpg", "E"},
        {"e.txt", "\n"},
        {"e.json", "no json"},
    };
    for (size_t i = 0; i < COUNT(members); i++)
        tar_bytes_text(&t, members[i].name, members[i].text);
    return tar_bytes_write(&t, "set.tar");
}

static void test_shard(void **state) {
    (void)state;
    const char *path = make_shard();
    check(path, "txt", CAPTIONS_WHOLE, NULL, "a text;c one\nc two\n;");
    check(path, "txt", CAPTIONS_FIRST, NULL, "a text;c one;");
    check(path, "txt,json.alt", CAPTIONS_FIRST, NULL,
          "a text;b alt;c one;d alt;"
          "'[' or '{' expected near 'no';");
}

static void test_json_fields(void **state) {
    (void)state;
    const char *path = make_shard();
    check(path, "json.alt,txt", CAPTIONS_FIRST, NULL, "a alt;b alt;c one;d alt;an empty caption;");
    check(path, "json.meta.title", CAPTIONS_FIRST, NULL,
          "a t1;b t;its .json has no text \"meta.title\";its .json has no text \"meta.title\";"
          "'[' or '{' expected near 'no';");
    check(path, "json.meta.title,txt", CAPTIONS_ALL, NULL,
          "a t1\na t2;b t;c one\nc two\n;an empty caption;an empty caption;");
}

/* Shares over many draws are those of the weights, and one draw gives one caption. */
static void test_shares(void **state) {
    (void)state;
    const char *path = make_shard();
    Dataset *d = open_it(path, "txt:0.7,json.alt:0.3", CAPTIONS_RANDOM);
    Sample s = {.key = NULL}, again = {.key = NULL};
    Error err;
    size_t text = 0, one = 0;
    enum { DRAWS = 4000 };
    for (uint64_t i = 0; i < DRAWS; i++) {
        uint64_t draw = rng_u64(3, RNG_TEST, i);
        assert_true(dataset_read_drawn(d, 0, &draw, &s, &err));
        text += strcmp(s.text, "a text") == 0;
        assert_true(dataset_read_drawn(d, 0, &draw, &again, &err));
        assert_string_equal(s.text, again.text);
        assert_true(dataset_read_drawn(d, 2, &draw, &s, &err)); /* has no text in its .json */
        one += strcmp(s.text, "c one") == 0;
    }
    assert_near((double)text / DRAWS, 0.7, 0.03);
    assert_near((double)one / DRAWS, 0.5, 0.03);
    sample_free(&s);
    sample_free(&again);
    dataset_close(d);
}

static void test_rows(void **state) {
    (void)state;
    test_write_file(test_path("a.jpg"), "A", 1);
    test_write_file(test_path("b.jpg"), "B", 1);
    const char table[] = "filepath\ttitle\na.jpg\ta1\nb.jpg\tb1\na.jpg\ta2\na.jpg\t \na.jpg\ta3\n";
    test_write_file(test_path("rows.tsv"), table, sizeof table - 1);
    check(test_path("rows.tsv"), "txt", CAPTIONS_WHOLE, NULL, "a1;b1;a2;a3;");
    check(test_path("rows.tsv"), "txt", CAPTIONS_FIRST, NULL, "a1;b1;");
    check(test_path("rows.tsv"), "txt", CAPTIONS_ALL, NULL, "a1\na2\na3;b1;");
    Dataset *d = open_it(test_path("rows.tsv"), "txt", CAPTIONS_RANDOM);
    Sample s = {.key = NULL};
    Error err;
    size_t seen[4] = {0};
    for (uint64_t draw = 0; draw < 3000; draw++) {
        assert_true(dataset_read_drawn(d, 0, &draw, &s, &err));
        seen[s.text[1] - '0']++;
    }
    for (size_t i = 1; i < 4; i++) assert_near((double)seen[i], 1000, 120);
    sample_free(&s);
    dataset_close(d);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_grammar),     cmocka_unit_test(test_order),
        cmocka_unit_test(test_pick),        cmocka_unit_test(test_shard),
        cmocka_unit_test(test_json_fields), cmocka_unit_test(test_shares),
        cmocka_unit_test(test_rows),
    };
    return cmocka_run_group_tests_name("captions", tests, NULL, NULL);
}
