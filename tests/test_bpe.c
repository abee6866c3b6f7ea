/* CLIP's tokenizer: vocabulary files, encoding, decoding, learning, and clipc tok. */
#include "data/text/bpe_train.h"
#include "tests/support_data.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ids: byte 'a' is 64, 'a</w>' 320; the merges start at 512. */
#define SMALL                                                                                      \
    "#version: 0.2\n"                                                                              \
    "a b\n"                                                                                        \
    "ab c</w>\n"                                                                                   \
    "b c</w>\n"                                                                                    \
    "a a\n"                                                                                        \
    "aa a"
enum { AB = 512, ABC_END, BC_END, AA, AAA, SMALL_START, SMALL_END };

static Tokenizer *load(const char *file) {
    Error err = {""};
    Tokenizer *b = tokenizer_open_bytes(file, strlen(file), &err);
    if (b == NULL) fail_msg("%s", err.text);
    return b;
}

static void assert_ids(const Tokenizer *b, TokenizerCache *c, const char *caption,
                       const int32_t *want, size_t n) {
    int32_t ids[256];
    assert_int_equal(tokenizer_encode(c, caption, strlen(caption), COUNT(ids), ids), n + 2);
    assert_int_equal(ids[0], b->start);
    assert_int_equal(ids[n + 1], b->end);
    for (size_t i = 0; i < n; i++) {
        if (ids[1 + i] != want[i])
            fail_msg("'%s': id %zu is %d, not %d", caption, i, ids[1 + i], want[i]);
    }
}
#define ASSERT_IDS(b, c, caption, ...)                                                             \
    assert_ids(b, c, caption, (const int32_t[]){__VA_ARGS__},                                      \
               sizeof((const int32_t[]){__VA_ARGS__}) / sizeof(int32_t))

static void test_small_vocabulary(void **state) {
    (void)state;
    Tokenizer *b = load(SMALL);
    TokenizerCache *c = tokenizer_cache_new(b);
    assert_int_equal(b->vocab_size, 512 + 5 + 2);
    assert_int_equal(b->start, SMALL_START);
    assert_int_equal(b->end, SMALL_END);
    for (int again = 0; again < 2; again++) {
        ASSERT_IDS(b, c, "ABC", ABC_END);
        ASSERT_IDS(b, c, "abcd", AB, 66, 67 + 256);
        ASSERT_IDS(b, c, "bc", BC_END);
        ASSERT_IDS(b, c, "a a", 64 + 256, 64 + 256);
        ASSERT_IDS(b, c, "aaa", AA, 64 + 256);
        ASSERT_IDS(b, c, "aaaab", AA, AA, 65 + 256);
        ASSERT_IDS(b, c, "aaaac", AA, AA, 66 + 256);
        ASSERT_IDS(b, c, "aaac", AAA, 66 + 256);
        ASSERT_IDS(b, c, "é", 127, 102 + 256);
        ASSERT_IDS(b, c, "<end_of_text> b", SMALL_END, 65 + 256);
    }
    assert_ids(b, c, "", NULL, 0);
    assert_ids(b, c, " \t", NULL, 0);
    tokenizer_cache_free(c);
    tokenizer_close(b);
}

static void test_context(void **state) {
    (void)state;
    Tokenizer *b = load(SMALL);
    TokenizerCache *c = tokenizer_cache_new(b);
    int32_t ids[8], full[] = {SMALL_START, AB, 66, 67 + 256, SMALL_END};
    for (size_t context = 1; context <= 8; context++) {
        memset(ids, -1, sizeof ids);
        size_t n = tokenizer_encode(c, "abcd", 4, context, ids);
        assert_int_equal(n, size_min(context, 5));
        for (size_t i = 0; i + 1 < n; i++) assert_int_equal(ids[i], full[i]);
        assert_int_equal(ids[n - 1], SMALL_END);
        for (size_t i = n; i < 8; i++) assert_int_equal(ids[i], -1);
    }
    tokenizer_cache_free(c);
    tokenizer_close(b);
}

static void test_decode(void **state) {
    (void)state;
    Tokenizer *b = load(SMALL);
    TokenizerCache *c = tokenizer_cache_new(b);
    int32_t ids[32];
    size_t n = tokenizer_encode(c, "ABCD éa", 8, COUNT(ids), ids);
    char *s = tokenizer_decode(b, ids, n);
    assert_string_equal(s, "<start_of_text>abcd éa <end_of_text>");
    free(s);
    s = tokenizer_decode(b, (const int32_t[]){127, 102 + 256, 127, 188}, 4); /* 188 is byte 0 */
    assert_string_equal(s, "é \uFFFD\uFFFD");
    free(s);
    tokenizer_cache_free(c);
    tokenizer_close(b);
}

static void assert_refused(const char *file, size_t n, const char *needle) {
    Error err = {""};
    Tokenizer *b = tokenizer_open_bytes(file, n, &err);
    if (b != NULL || strstr(err.text, needle) == NULL)
        fail_msg("'%.40s' is not refused with '%s' but: '%s'", file, needle, err.text);
}

static void test_wrong_vocabularies(void **state) {
    (void)state;
    static const char *const cases[][2] = {
        {"", "no merges"},
        {"a b", "no merges"},
        {"#\n\n", "no merges"},
        {"#\na b\nabc\n", "line 3 is not two symbols"},
        {"#\na b c\n", "line 2 is not two symbols"},
        {"#\na  b\n", "line 2 is not two symbols"},
        {"#\na \n", "line 2 holds a character outside"},
        {"#\na \xE4\xBD\xA0\n", "line 2 holds a character outside"},
        {"#\na \xFF\n", "line 2 holds a character outside"},
        {"#\nab c\n", "line 2 merges a symbol that no line"},
        {"#\na b\na b\n", "line 3 makes a symbol that already exists"},
        {"#\na b\nb c\nab c\na bc\n", "line 5 makes a symbol that already exists"},
        {"{\"model\": 1,\n\"vocab\": 2}\n", "it has no object model"},
    };
    for (size_t i = 0; i < COUNT(cases); i++)
        assert_refused(cases[i][0], strlen(cases[i][0]), cases[i][1]);
}

/* An empty line takes an id, as in open_clip's loader; a carriage return is not part of a line. */
static void test_odd_lines(void **state) {
    (void)state;
    Tokenizer *b = load("#\r\na b\r\n\r\nb c\r\n");
    TokenizerCache *c = tokenizer_cache_new(b);
    assert_int_equal(b->start, 512 + 4);
    ASSERT_IDS(b, c, "abcbcd", 512, 66, 514, 67 + 256);
    tokenizer_cache_free(c);
    tokenizer_close(b);
}

/* Cut at any byte, a plain file is a smaller vocabulary or refused. */
static void test_truncation(void **state) {
    (void)state;
    size_t loaded = 0;
    for (size_t cut = 0; cut < strlen(SMALL); cut++) {
        Error err = {""};
        Tokenizer *b = tokenizer_open_bytes(SMALL, cut, &err);
        assert_true(b != NULL || err.text[0] != 0);
        loaded += b != NULL;
        tokenizer_close(b);
    }
    /* at the end of four lines, after their line feeds, and after "ab c" and "b c" */
    assert_int_equal(loaded, 10);
}

/* A full cache starts over and changes no ids; long words bypass it. */
static void test_cache(void **state) {
    (void)state;
    Tokenizer *b = load(SMALL);
    TokenizerCache *used = tokenizer_cache_new(b), *fresh = tokenizer_cache_new(b);
    int32_t got[64], want[64];
    for (size_t i = 0; i < 200000; i++) {
        char word[32] = "";
        size_t n = 0;
        for (size_t k = i + 1; k != 0; k /= 6) word[n++] = (char)('a' + k % 6);
        size_t count = tokenizer_encode(used, word, n, 64, got);
        if (i % 4001 != 0) continue;
        assert_int_equal(tokenizer_encode(fresh, word, n, 64, want), count);
        assert_memory_equal(got, want, count * sizeof *got);
    }
    tokenizer_cache_free(used);
    tokenizer_cache_free(fresh);
    tokenizer_close(b);
}

static void test_long_word(void **state) {
    (void)state;
    enum { N = 300000 };
    Tokenizer *b = load(SMALL);
    TokenizerCache *c = tokenizer_cache_new(b);
    char *word = xmalloc(N);
    int32_t *ids = xmalloc((N + 2) * sizeof *ids);
    memset(word, 'a', N);
    word[N - 1] = 'c';
    /* 299,999 times a: 149,999 times aa and one a, which the last aa takes. */
    assert_int_equal(tokenizer_encode(c, word, N, N + 2, ids), 2 + 149999 + 1);
    for (size_t i = 1; i < 149999; i++) assert_int_equal(ids[i], AA);
    assert_int_equal(ids[149999], AAA);
    assert_int_equal(ids[150000], 66 + 256);
    free(ids);
    free(word);
    tokenizer_cache_free(c);
    tokenizer_close(b);
}

/* ---- learning ---- */

static void assert_learns(const char *captions, size_t merges, const char *want) {
    test_write_file(test_path("captions"), captions, strlen(captions));
    Error err = {""};
    const char *out = test_path("learned");
    if (!bpe_train(test_path("captions"), merges, out, &err)) fail_msg("%s", err.text);
    char *got = test_read_file(out, NULL);
    assert_string_equal(got, want);
    free(got);
}

static void test_learning(void **state) {
    (void)state;
    assert_learns("low low low\nLOWER lower\nnewest\n", 4,
                  "#version: 0.2\nl o\nw e\nlo w</w>\nlo we");
    assert_learns("ab ab\ncd cd\n", 9, "#version: 0.2\na b</w>\nc d</w>");
    assert_learns("aaaa aaaa <start_of_text> <start_of_text>\n", 9,
                  "#version: 0.2\na a\na a</w>\naa aa</w>");
    Error err = {""};
    assert_false(bpe_train(test_path("missing"), 5, test_path("x"), &err));
    assert_false(bpe_train(test_path("captions"), BPE_MAX_MERGES + 1, test_path("x"), &err));
    test_write_file(test_path("once"), "a b c d\n", 8);
    assert_false(bpe_train(test_path("once"), 5, test_path("x"), &err));
    assert_non_null(strstr(err.text, "no pair occurs twice"));
    assert_false(bpe_train(test_path("captions"), 5, test_path("no/such/folder"), &err));
    assert_non_null(strstr(err.text, "cannot write vocabulary"));
}

/* The definition: count every pair anew before each merge. Words of letters a to f only, so that a
 * symbol's id orders as in the vocabulary. */
enum { WORDS = 120, LENGTH = 12, MERGES = 150 };
typedef struct Slow {
    int words[WORDS][LENGTH], lengths[WORDS];
    char names[512 + MERGES][80];
} Slow;

static bool slow_merge(Slow *s, int id) {
    static int counts[512 + MERGES][512 + MERGES];
    memset(counts, 0, sizeof counts);
    int left = 0, right = 0;
    for (int w = 0; w < WORDS; w++)
        for (int i = 0; i + 1 < s->lengths[w]; i++) counts[s->words[w][i]][s->words[w][i + 1]]++;
    for (int l = 0; l < id; l++) {
        for (int r = 0; r < id; r++) {
            if (counts[l][r] <= counts[left][right] || counts[l][r] < 2) continue;
            left = l, right = r;
        }
    }
    if (counts[left][right] < 2) return false;
    char name[80];
    snprintf(name, sizeof name, "%.39s%.39s", s->names[left], s->names[right]);
    memcpy(s->names[id], name, sizeof name);
    for (int w = 0; w < WORDS; w++) {
        int out = 0, *word = s->words[w];
        for (int i = 0; i < s->lengths[w];) {
            bool here = i + 1 < s->lengths[w] && word[i] == left && word[i + 1] == right;
            word[out++] = here ? id : word[i];
            i += here ? 2 : 1;
        }
        s->lengths[w] = out;
    }
    return true;
}

static void test_learning_equals_definition(void **state) {
    (void)state;
    static Slow s;
    char captions[WORDS * (LENGTH + 1) + 1], *p = captions;
    uint64_t seed = test_seed();
    for (int i = 0; i < 6; i++) {
        snprintf(s.names[64 + i], 80, "%c", 'a' + i);
        snprintf(s.names[320 + i], 80, "%c</w>", 'a' + i);
    }
    for (int w = 0; w < WORDS; w++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        s.lengths[w] = 1 + (int)(seed >> 40) % LENGTH;
        for (int i = 0; i < s.lengths[w]; i++) {
            seed = seed * 6364136223846793005u + 1442695040888963407u;
            int letter = (int)((seed >> 40) % 6 * ((seed >> 50) % 6) / 5);
            s.words[w][i] = 64 + letter + (i + 1 == s.lengths[w] ? 256 : 0);
            *p++ = (char)('a' + letter);
        }
        *p++ = w % 3 ? ' ' : '\n';
    }
    *p = 0;
    test_write_file(test_path("captions"), captions, (size_t)(p - captions));
    Error err = {""};
    if (!bpe_train(test_path("captions"), MERGES, test_path("v.gz"), &err))
        fail_msg("%s", err.text);
    Tokenizer *b = tokenizer_open(test_path("v.gz"), &err);
    assert_non_null(b);
    size_t learned = b->vocab_size - 514;
    assert_true(learned > 60);
    for (size_t i = 0; i < learned; i++) {
        int32_t id = (int32_t)(512 + i);
        if (!slow_merge(&s, (int)id)) fail_msg("merge %zu is one too many", i);
        char *got = tokenizer_decode(b, &id, 1), want[80], *end = strstr(s.names[id], "</w>");
        snprintf(want, sizeof want, "%.*s%s", (int)(end ? end - s.names[id] : 79), s.names[id],
                 end ? " " : "");
        if (strcmp(got, want) != 0) fail_msg("merge %zu is '%s', not '%s'", i, got, want);
        free(got);
    }
    if (learned < MERGES) assert_false(slow_merge(&s, (int)(512 + learned)));
    tokenizer_close(b);
}

/* ---- CLIP's own vocabulary ---- */

static Tokenizer *load_clip(const char *test) {
    const char *path = getenv("CLIPC_VOCAB");
    if (path == NULL) path = "build/vocab/bpe_simple_vocab_16e6.txt.gz";
    if (access(path, R_OK) != 0) {
        printf("SKIP: %s: no %s (tools/fetch_vocab.sh)\n", test, path);
        skip();
    }
    Error err = {""};
    Tokenizer *b = tokenizer_open(path, &err);
    if (b == NULL) fail_msg("%s", err.text);
    return b;
}

static void test_clip_ids(void **state) {
    (void)state;
    Tokenizer *b = load_clip("test_clip_ids");
    TokenizerCache *c = tokenizer_cache_new(b);
    assert_int_equal(b->vocab_size, 49408);
    assert_int_equal(b->start, 49406);
    assert_int_equal(b->end, 49407);
    ASSERT_IDS(b, c, "a photo of a cat", 320, 1125, 539, 320, 2368);
    ASSERT_IDS(b, c, "Don't we'll I'M", 847, 713, 649, 1342, 328, 880);
    ASSERT_IDS(b, c, "café naïve", 15304, 1097, 35689, 563);
    ASSERT_IDS(b, c, "cafe\u0301", 15304);
    ASSERT_IDS(b, c, "你好世界", 47466, 254, 29290, 121, 19759, 244, 163, 243, 490);
    ASSERT_IDS(b, c, "12345 3.14", 272, 273, 274, 275, 276, 274, 269, 272, 275);
    ASSERT_IDS(b, c, "&amp;lt;b&amp;gt; &quot;hi&quot;", 283, 321, 285, 257, 1883, 257);
    ASSERT_IDS(b, c, "<start_of_text> hello <end_of_text>", 49406, 3306, 49407);
    ASSERT_IDS(b, c, "“smart” ‘quotes’ …", 257, 4115, 257, 262, 5808, 262, 959);
    ASSERT_IDS(b, c, "schÃ¶n", 844, 7255, 333);
    ASSERT_IDS(b, c, "½ ① ٣ ²", 33613, 158, 239, 510, 149, 352, 41175);
    ASSERT_IDS(b, c, "ＡＢＣ ﬁne", 5334, 3797);
    ASSERT_IDS(b, c, "it's 'tis '", 585, 568, 713, 533, 262);
    ASSERT_IDS(b, c, "İstanbul ßTRASSE", 328, 16384, 11231, 127, 253, 752, 8938);
    ASSERT_IDS(b, c, "a.b.c...d", 320, 269, 321, 269, 322, 678, 323);
    ASSERT_IDS(b, c, "#hashtag $5.00 100%", 258, 9238, 259, 276, 269, 271, 271, 272, 271, 271, 260);
    ASSERT_IDS(b, c, "x_y-z/foo@bar.com", 343, 318, 344, 268, 345, 270, 23435, 287, 2411, 269,
               2464);
    ASSERT_IDS(b, c, "antidisestablishmentarianism", 3120, 4262, 7726, 12658, 1585, 44351);
    ASSERT_IDS(b, c, "😀👨‍👩‍👧", 12832, 25023, 26304, 964, 356);
    int32_t ids[77];
    assert_int_equal(tokenizer_encode(c, "hello\0world", 11, 77, ids), 4);
    assert_int_equal(ids[1], 12887);
    assert_int_equal(ids[2], 1002);
    tokenizer_cache_free(c);
    tokenizer_close(b);
}

static void check_ids(void *cache, const char *caption, size_t n, uint32_t clean, uint32_t want) {
    (void)clean;
    int32_t ids[77];
    n = tokenizer_encode(cache, caption, n, COUNT(ids), ids);
    if (golden_hash(ids, n * sizeof *ids) != want)
        fail_msg("'%s' has other ids than open_clip's", caption);
}

static void test_clip_golden(void **state) {
    (void)state;
    Tokenizer *b = load_clip("test_clip_golden");
    TokenizerCache *c = tokenizer_cache_new(b);
    assert_true(golden_captions(CAPTIONS_REAL, check_ids, c) >= 2000);
    assert_true(golden_captions(CAPTIONS_ODD, check_ids, c) >= 480);
    tokenizer_cache_free(c);
    tokenizer_close(b);
}

/* ---- clipc tok ---- */

/* Output of clipc tok with `input` on standard input. */
static char *tok(int want, const char *arguments, const char *input) {
    test_write_file(test_path("in"), input, strlen(input));
    return test_clipc(want, "tok %s < %s", arguments, test_path("in"));
}

static void test_command(void **state) {
    (void)state;
    test_write_file(test_path("small"), SMALL, strlen(SMALL));
    char *with = xasprintf("--vocab %s", test_path("small"));
    char *out = tok(0, with, "ABC\n\naaac bc");
    assert_string_equal(out, "517 513 518\n517 518\n517 516 322 514 518\n");
    free(out);
    free(with);

    with = xasprintf("--decode --vocab %s", test_path("small"));
    out = tok(0, with, "517 513 518\n517 518\n\n516 322\n");
    assert_string_equal(out, "abc\n\n\naaac\n");
    free(out);
    out = tok(1, with, "517 518\n519\n");
    test_says(out, "line 2: '519' is no id below 519");
    free(out);
    free(tok(1, with, "1x\n"));
    free(with);

    free(tok(1, "--vocab /nonexistent", ""));
    test_write_file(test_path("captions"), "aba aba", 7);
    free(test_clipc(0, "tok train --captions %s --merges 2 --out %s", test_path("captions"),
                    test_path("learned")));
    out = test_read_file(test_path("learned"), NULL);
    assert_string_equal(out, "#version: 0.2\na b\nab a</w>");
    free(out);
}

/* Many blocks on many threads: the lines stay in order. */
static void test_command_order(void **state) {
    (void)state;
    enum { LINES = 100000 };
    test_write_file(test_path("small"), SMALL, strlen(SMALL));
    char *in = xmalloc(LINES * 40), *p = in;
    for (int i = 0; i < LINES; i++) p += sprintf(p, "%d some more letters here %d\n", i, i % 7);
    char *with = xasprintf("--threads 3 --vocab %s", test_path("small"));
    char *out = tok(0, with, in), *rest = out;
    for (int i = 0; i < LINES; i++) {
        char digits[16], want[64] = "517";
        sprintf(digits, "%d", i);
        for (char *d = digits; *d != 0; d++) sprintf(want + strlen(want), " %d", *d - '!' + 256);
        strcat(want, " ");
        if (strncmp(rest, want, strlen(want)) != 0) fail_msg("line %d is '%.60s'", i + 1, rest);
        rest = strchr(rest, '\n') + 1;
    }
    assert_int_equal(*rest, 0);
    free(in);
    free(out);
    free(with);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_small_vocabulary),
        cmocka_unit_test(test_context),
        cmocka_unit_test(test_decode),
        cmocka_unit_test(test_wrong_vocabularies),
        cmocka_unit_test(test_odd_lines),
        cmocka_unit_test(test_truncation),
        cmocka_unit_test(test_cache),
        cmocka_unit_test(test_long_word),
        cmocka_unit_test(test_learning),
        cmocka_unit_test(test_learning_equals_definition),
        cmocka_unit_test(test_clip_ids),
        cmocka_unit_test(test_clip_golden),
        cmocka_unit_test(test_command),
        cmocka_unit_test(test_command_order),
    };
    return cmocka_run_group_tests_name("bpe", tests, NULL, NULL);
}
