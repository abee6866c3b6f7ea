/* The cache of large vocabularies: mapped if it is whole and nobody else can write to it. */
#include "data/text/pipeline.h"
#include "tests/support.h"
#include "tests/support_data.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* A vocabulary of more than 1 MiB, of which every piece has 8 characters. */
static void write_large(const char *path) {
    enum { LINES = 150000 };
    char *text = xmalloc(9 * LINES + 64), *p = text + sprintf(text, "[PAD]\n[UNK]\n[CLS]\n[SEP]\n");
    for (int i = 0; i < LINES; i++) p += sprintf(p, "w%07d\n", i);
    test_write_file(path, text, (size_t)(p - text));
    free(text);
}

static char *stored_file(void) {
    struct dirent **list;
    int n = scandir(test_path("clipc"), &list, NULL, alphasort), found = 0;
    char *path = NULL;
    for (int i = 0; i < n; i++) {
        if (strncmp(list[i]->d_name, "tokenizer-", 10) == 0) {
            path = xasprintf("%s/%s", test_path("clipc"), list[i]->d_name);
            found++;
        }
        free(list[i]);
    }
    if (n >= 0) free(list);
    assert_true(found <= 1); /* nothing is left beside it */
    return path;
}

/* Opens the large vocabulary and tells whether it is mapped; its ids are the same. */
static bool opens_mapped(void) {
    Tokenizer *t = test_tokenizer(test_path("large.txt"));
    TokenizerCache *c = tokenizer_cache_new(t);
    int32_t ids[8];
    assert_int_equal(tokenizer_encode(c, "w0000003 w0149999 x", 19, 8, ids), 5);
    assert_int_equal(ids[1], 7);
    assert_int_equal(ids[2], 150003);
    assert_int_equal(ids[3], 1);
    bool mapped = ((Pipeline *)t)->map != NULL;
    tokenizer_cache_free(c);
    tokenizer_close(t);
    return mapped;
}

static void test_store(void **state) {
    (void)state;
    setenv("XDG_CACHE_HOME", test_dir(), 1);
    write_large(test_path("large.txt"));
    assert_false(opens_mapped());
    char *path = stored_file();
    assert_non_null(path);
    assert_true(opens_mapped());
    size_t n;
    char *whole = test_read_file(path, &n);
    whole[n / 2] ^= 1;
    test_write_file(path, whole, n); /* damaged: parsed, and written anew */
    assert_false(opens_mapped());
    assert_true(opens_mapped());
    test_write_file(path, whole, n / 2); /* cut */
    assert_false(opens_mapped());
    assert_true(opens_mapped());
    assert_int_equal(chmod(path, 0666), 0); /* others could write it */
    assert_false(opens_mapped());
    assert_true(opens_mapped());
    assert_int_equal(chmod(test_path("clipc"), 0777), 0); /* or replace it */
    assert_false(opens_mapped());
    assert_int_equal(chmod(test_path("clipc"), 0700), 0);
    assert_int_equal(rename(path, test_path("elsewhere")), 0);
    assert_int_equal(symlink(test_path("elsewhere"), path), 0);
    assert_false(opens_mapped());
    assert_true(opens_mapped()); /* the link is replaced */
    free(whole);
    free(path);
    unsetenv("XDG_CACHE_HOME");
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_store)};
    return cmocka_run_group_tests_name("pipeline_store", tests, NULL, NULL);
}
