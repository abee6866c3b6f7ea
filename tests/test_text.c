/* Cleaning captions and splitting them into words (data/text/text.h, codepoints, lines). */
#include "data/text/codepoints.h"
#include "data/io/lines.h"
#include "data/text/text.h"
#include "tests/support_data.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static TextCleaner *text;

static void assert_clean(const char *caption, size_t n, const char *want) {
    size_t got_n;
    const char *got = text_clean(text, TEXT_CLEAN_LOWER, caption, n, &got_n);
    if (got_n != strlen(want) || memcmp(got, want, got_n) != 0)
        fail_msg("'%.*s' is cleaned to '%.*s', not '%s'", (int)n, caption, (int)got_n, got, want);
}

static void test_cleaning(void **state) {
    (void)state;
    static const char *const cases[][2] = {
        {"A Photo of a CAT", "a photo of a cat"},
        {"  two\t\n blanks  ", "two blanks"},
        {"", ""},
        {" \n", ""},
        {"“smart” ‘quotes’ …", "\"smart\" 'quotes' …"},
        {"ＡＢＣ ﬁne　ﾊﾟ", "abc fine パ"},
        {"schÃ¶n", "schön"},
        {"Ã la mode", "à la mode"},
        {"â€œ like this â€\uFFFD", "\" like this \uFFFD"},
        {"Ã¢â‚¬â„¢", "'"},
        {"ΟΔΥΣΣΕΥΣ ΑΣ.", "οδυσσευς ας."},
        {"İ ẞ", "i\u0307 ß"},
        {"cafe\u0301", "café"},
        {"&amp;lt;b&amp;gt; &eacute", "<b> é"},
        {"<i> &EACUTE; &hellip;", "<i> &eacute; …"},
        {"&EACUTE;&SZLIG;", "éss"},
        {"<x> &amp;amp;amp;", "<x> &amp;"},
        {"\x1b[31mred\x1b[0m\x07", "red"},
        {"\uFEFFmark", "mark"},
        {"x\r\ny", "x y"},
    };
    for (size_t i = 0; i < COUNT(cases); i++)
        assert_clean(cases[i][0], strlen(cases[i][0]), cases[i][1]);
    assert_clean("hello\0world", 11, "helloworld");
}

/* One U+FFFD for each longest part that could have begun a character. */
static void test_invalid_utf8(void **state) {
    (void)state;
    assert_clean("a\x80z", 3, "a\uFFFDz");
    assert_clean("\xE2\x82", 2, "\uFFFD");
    assert_clean("\xE2\x82 x", 4, "\uFFFD x");
    assert_clean("\xC0\xAF", 2, "\uFFFD\uFFFD");
    assert_clean("\xED\xA0\x80", 3, "\uFFFD\uFFFD\uFFFD");
    assert_clean("\xF4\x90\x80\x80", 4, "\uFFFD\uFFFD\uFFFD\uFFFD");
    assert_clean("\xF0\x9F\x98", 3, "\uFFFD");
}

static void check_clean(void *context, const char *caption, size_t n, uint32_t clean,
                        uint32_t ids) {
    (void)context, (void)ids;
    size_t got_n;
    const char *got = text_clean(text, TEXT_CLEAN_LOWER, caption, n, &got_n);
    if (golden_hash(got, got_n) != clean)
        fail_msg("'%.*s' is cleaned to '%.*s', which open_clip does not", (int)n, caption,
                 (int)got_n, got);
}

static void test_golden_captions(void **state) {
    (void)state;
    assert_true(golden_captions(CAPTIONS_REAL, check_clean, NULL) >= 2000);
}

/* The other ways to clean. */
static void check_clean_modes(void *file, const char *caption, size_t n, uint32_t clean,
                              uint32_t ids) {
    (void)clean, (void)ids;
    static const TextClean modes[] = {TEXT_CLEAN_WHITESPACE, TEXT_CLEAN_CANONICALIZE,
                                      TEXT_CLEAN_SIGLIP};
    char **rest = file;
    for (size_t i = 0; i < COUNT(modes); i++) {
        uint32_t want = (uint32_t)strtoul(*rest, rest, 16);
        size_t got_n;
        const char *got = text_clean(text, modes[i], caption, n, &got_n);
        if (golden_hash(got, got_n) != want)
            fail_msg("'%s' is cleaned otherwise by mode %d: '%.*s'", caption, modes[i], (int)got_n,
                     got);
    }
}

static void test_golden_modes(void **state) {
    (void)state;
    char *file = test_read_file("tests/golden/tok/clean.txt", NULL), *rest = file;
    assert_true(golden_captions(CAPTIONS_REAL, check_clean_modes, &rest) >= 2000);
    assert_true(golden_captions(CAPTIONS_ODD, check_clean_modes, &rest) >= 480);
    free(file);
}

static void test_golden_odd(void **state) {
    (void)state;
    assert_true(golden_captions(CAPTIONS_ODD, check_clean, NULL) >= 480);
}

/* Cut at every byte: still valid UTF-8 without stray blanks. */
static void check_cut(void *context, const char *caption, size_t n, uint32_t clean, uint32_t ids) {
    (void)context, (void)clean, (void)ids;
    for (size_t cut = 0; cut < size_min(n, 60); cut++) {
        size_t got_n;
        const char *got = text_clean(text, TEXT_CLEAN_LOWER, caption, cut, &got_n);
        uint32_t cp, before = ' ';
        for (size_t i = 0; i < got_n; before = cp) {
            i += utf8_decode((const unsigned char *)got + i, got_n - i, &cp);
            assert_true(cp != UTF8_INVALID && !(cp == ' ' && before == ' '));
        }
        assert_true(got_n == 0 || before != ' ');
        for (size_t i = 0; i < TEXT_PAD; i++) assert_int_equal(got[got_n + i], 0);
    }
}

static void test_truncation(void **state) {
    (void)state;
    assert_true(golden_captions(CAPTIONS_ODD, check_cut, NULL) >= 480);
}

static void assert_words(const char *cleaned, const char *want) {
    char got[256] = "";
    size_t n = strlen(cleaned), length;
    const char *word;
    while (text_next_word(&cleaned, &n, &word, &length)) {
        strncat(got, word, length);
        strcat(got, "|");
    }
    assert_string_equal(got, want);
}

static void test_words(void **state) {
    (void)state;
    assert_words("it's 'tis don't we'll i'm they're i've he'd 'll",
                 "it|'s|'t|is|don|'t|we|'ll|i|'m|they|'re|i|'ve|he|'d|'ll|");
    assert_words("a1b 3.14", "a|1|b|3|.|1|4|");
    assert_words("x--y... é½①٣ 你好", "x|--|y|...|é|½|①|٣|你好|");
    assert_words("cafe\u0301", "cafe|\u0301|");
    assert_words("<start_of_text> <end_of_text><x", "<start_of_text>|<end_of_text>|<|x|");
    assert_words("!<end_of_text>", "!<|end|_|of|_|text|>|");
    assert_words("<\u017Ftart_of_text>'\u017F", "<\u017Ftart_of_text>|'\u017F|");
    assert_words("a\u0345b \u0345", "a|b|");
    assert_words("", "");
}

/* More marks than are inserted one by one; classes 220 and 230 in turn, each kind kept in order. */
static void test_many_marks(void **state) {
    (void)state;
    enum { MARKS = 2000 };
    CodePoints c = {0};
    codepoints_push(&c, 'x');
    for (size_t i = 0; i < MARKS; i++) codepoints_push(&c, i % 2 ? 0x316 + i % 4 : 0x300 + i % 3);
    codepoints_nfc(&c);
    assert_int_equal(c.count, MARKS + 1);
    for (size_t i = 0; i < MARKS / 2; i++) {
        assert_int_equal(c.at[1 + i], 0x316 + (2 * i + 1) % 4);
        assert_int_equal(c.at[1 + MARKS / 2 + i], 0x300 + 2 * i % 3);
    }
    codepoints_free(&c);
}

/* Nested references take a round each: long ones are given up, short ones are not. */
static void test_nesting_is_bounded(void **state) {
    (void)state;
    enum { DEPTH = 40000 };
    size_t n = 1 + 4 * DEPTH, got_n;
    char *s = xmalloc(n);
    s[0] = '&';
    for (size_t i = 0; i < DEPTH; i++) memcpy(s + 1 + 4 * i, "amp;", 4);
    double start = clock_now();
    text_clean(text, TEXT_CLEAN_LOWER, s, n, &got_n);
    assert_true(got_n > 4 && got_n < n);
    assert_true(clock_now() - start < 60);
    assert_clean(s, 1 + 4 * 100, "&");
    free(s);
}

static void assert_lines(const char *bytes, size_t n, const char *const *want, size_t want_n,
                         size_t cut) {
    test_write_file(test_path("lines"), bytes, n);
    FILE *f = fopen(test_path("lines"), "rb");
    Lines l;
    lines_open(&l, f);
    const char *block, *line;
    size_t block_n, line_n, count = 0;
    while (lines_next_block(&l, &block, &block_n)) {
        while (lines_take(&block, &block_n, &line, &line_n)) {
            assert_true(count < want_n);
            assert_int_equal(line_n, strlen(want[count]));
            assert_memory_equal(line, want[count], line_n);
            count++;
        }
    }
    assert_int_equal(count, want_n);
    assert_int_equal(l.cut, cut);
    lines_close(&l);
    fclose(f);
}

static void test_lines(void **state) {
    (void)state;
    assert_lines("", 0, NULL, 0, 0);
    assert_lines("a\n\nbc\n", 6, (const char *const[]){"a", "", "bc"}, 3, 0);
    assert_lines("a\nbc", 4, (const char *const[]){"a", "bc"}, 2, 0);

    size_t n = 2 * LINES_BLOCK + 16;
    char *big = xmalloc(n), *kept = xcalloc(LINES_BLOCK + 1, 1);
    memset(big, 'x', n);
    memcpy(big + LINES_BLOCK - 1, "é", 2);
    memcpy(big + n - 5, "\nend\n", 5);
    memset(kept, 'x', LINES_BLOCK - 1);
    assert_lines(big, n, (const char *const[]){kept, "end"}, 2, 1);
    free(big);
    free(kept);
}

static int set_up(void **state) {
    (void)state;
    text = text_cleaner_new();
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    text_cleaner_free(text);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cleaning),
        cmocka_unit_test(test_invalid_utf8),
        cmocka_unit_test(test_golden_captions),
        cmocka_unit_test(test_golden_odd),
        cmocka_unit_test(test_golden_modes),
        cmocka_unit_test(test_truncation),
        cmocka_unit_test(test_words),
        cmocka_unit_test(test_many_marks),
        cmocka_unit_test(test_nesting_is_bounded),
        cmocka_unit_test(test_lines),
    };
    return cmocka_run_group_tests_name("text", tests, set_up, tear_down);
}
