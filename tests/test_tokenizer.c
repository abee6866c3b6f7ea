/* The table of tokenizers: opening a vocabulary, finding the default one, identities, the ids of a
 * caption. Kinds have separate tests (tests/test_bpe.c). */
#include "data/text/bpe.h"
#include "tests/support.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <zlib.h>

#define SMALL "#version: 0.2\na b\nab c</w>"

static Tokenizer *open_text(const char *text) {
    Error err = {""};
    Tokenizer *t = tokenizer_open_bytes(text, strlen(text), &err);
    if (t == NULL) fail_msg("%s", err.text);
    return t;
}

static void assert_refused(const char *bytes, size_t n, const char *needle) {
    Error err = {""};
    if (tokenizer_open_bytes(bytes, n, &err) != NULL || strstr(err.text, needle) == NULL)
        fail_msg("not refused with '%s' but: '%s'", needle, err.text);
}

static void test_opening(void **state) {
    (void)state;
    Error err = {""};
    assert_null(tokenizer_open(test_path("missing"), &err));
    assert_non_null(strstr(err.text, "cannot open vocabulary"));
    test_write_file(test_path("wrong"), "#\nabc", 5);
    assert_null(tokenizer_open(test_path("wrong"), &err));
    assert_non_null(strstr(err.text, "wrong: line 2 is not two symbols"));
    assert_null(tokenizer_open(test_dir(), &err));
    assert_non_null(strstr(err.text, "cannot open vocabulary"));

    test_write_file(test_path("small"), SMALL, strlen(SMALL));
    Tokenizer *t = tokenizer_open(test_path("small"), &err);
    if (t == NULL) fail_msg("%s", err.text);
    assert_ptr_equal(t->kind, &bpe_kind);
    assert_int_equal(t->vocab_size, 512 + 2 + 2);
    tokenizer_close(t);
    tokenizer_close(NULL);
}

static size_t gzip(const char *path, const char *bytes, size_t n, char **packed) {
    gzFile f = gzopen(path, "wb");
    assert_int_equal(gzwrite(f, bytes, (unsigned)n), n);
    assert_int_equal(gzclose(f), Z_OK);
    size_t packed_n;
    *packed = test_read_file(path, &packed_n);
    return packed_n;
}

static void test_gzip(void **state) {
    (void)state;
    char *packed;
    size_t n = gzip(test_path("small.gz"), SMALL, strlen(SMALL), &packed);
    Error err = {""};
    Tokenizer *t = tokenizer_open(test_path("small.gz"), &err), *plain = open_text(SMALL);
    assert_non_null(t);
    assert_int_equal(t->vocab_size, 512 + 2 + 2);
    assert_int_equal(tokenizer_identity(t), tokenizer_identity(plain));
    tokenizer_close(plain);
    tokenizer_close(t);
    for (size_t cut = 2; cut < n; cut++) assert_refused(packed, cut, "damaged or cut off");
    packed[n / 2] ^= 0x55;
    assert_refused(packed, n, "");
    free(packed);

    size_t bomb_n = (1 << 26) + 1;
    char *zeros = xcalloc(bomb_n, 1);
    n = gzip(test_path("bomb.gz"), zeros, bomb_n, &packed);
    assert_refused(packed, n, "larger than");
    free(zeros);
    free(packed);
}

/* Equal for files that give every caption the same ids, different for others. */
static void test_identity(void **state) {
    (void)state;
    static const char *const files[] = {
        SMALL, "#version: 0.2\na b\nab d</w>", "#version: 0.2\na b\nb c</w>",
        "#version: 0.2\na b\n\nab c</w>", "#version: 0.2\na b",
        /* the same symbols, merged from other parts */
        "#version: 0.2\na b\nb c</w>\nab c</w>", "#version: 0.2\na b\nb c</w>\na bc</w>"};
    uint64_t id[COUNT(files)];
    for (size_t i = 0; i < COUNT(files); i++) {
        Tokenizer *t = open_text(files[i]);
        id[i] = tokenizer_identity(t);
        tokenizer_close(t);
        for (size_t k = 0; k < i; k++) assert_int_not_equal(id[i], id[k]);
    }
    Tokenizer *other_bytes = open_text("another header\r\na b\r\nab c</w>");
    assert_int_equal(tokenizer_identity(other_bytes), id[0]);
    tokenizer_close(other_bytes);
    assert_int_equal(id[0], 0xF2D72BA38108EC3); /* the same in every build */
}

/* A caption may contain the end token; without words only added ids remain. */
static void test_literal_end(void **state) {
    (void)state;
    Tokenizer *t = open_text(SMALL);
    TokenizerCache *c = tokenizer_cache_new(t);
    const char *caption = "abc <end_of_text> abc";
    int32_t ids[16];
    assert_int_equal(tokenizer_encode(c, caption, strlen(caption), 16, ids), 5);
    assert_true(ids[2] == t->end && ids[4] == t->end);
    assert_int_equal(tokenizer_encode(c, caption, strlen(caption), 2, ids), 2);
    assert_int_equal(tokenizer_encode(c, "", 0, 16, ids), t->added);
    tokenizer_cache_free(c);
    tokenizer_close(t);
}

static void find_default(void *arg) {
    (void)arg;
    free(tokenizer_default_path());
}

static void test_default_path(void **state) {
    (void)state;
    char *vocab = getenv("CLIPC_VOCAB"), *home = getenv("CLIPC_HOME"), *path;
    vocab = vocab ? xstrdup(vocab) : NULL;
    home = home ? xstrdup(home) : NULL;
    test_write_file(test_path("mine"), SMALL, strlen(SMALL));
    setenv("CLIPC_VOCAB", test_path("mine"), 1);
    path = tokenizer_default_path();
    assert_string_equal(path, test_path("mine"));
    free(path);
    setenv("CLIPC_VOCAB", test_path("missing"), 1);
    test_dies(find_default, NULL, EXIT_ERROR, "CLIPC_VOCAB names it");
    unsetenv("CLIPC_VOCAB");
    assert_int_equal(mkdir(test_path("build"), 0777), 0);
    assert_int_equal(mkdir(test_path("build/vocab"), 0777), 0);
    test_write_file(test_path("build/vocab/bpe_simple_vocab_16e6.txt.gz"), SMALL, strlen(SMALL));
    setenv("CLIPC_HOME", test_dir(), 1);
    path = tokenizer_default_path();
    assert_string_equal(path, test_path("build/vocab/bpe_simple_vocab_16e6.txt.gz"));
    free(path);
    unsetenv("CLIPC_HOME");
    if (vocab != NULL) setenv("CLIPC_VOCAB", vocab, 1);
    if (home != NULL) setenv("CLIPC_HOME", home, 1);
    free(vocab);
    free(home);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_opening),      cmocka_unit_test(test_gzip),
        cmocka_unit_test(test_identity),     cmocka_unit_test(test_literal_end),
        cmocka_unit_test(test_default_path),
    };
    return cmocka_run_group_tests_name("tokenizer", tests, NULL, NULL);
}
