/* data/io: files of every storage, whole files, names in folders, resources, blank text; and the
 * search for a start. */
#include "data/io/file.h"
#include "data/io/folder.h"
#include "data/io/mapfile.h"
#include "data/io/resource.h"
#include "data/io/utf8.h"
#include "tests/support.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static const char TEXT[] = "0123456789";
enum { N = sizeof TEXT - 1 };

static void check_reads(File *f) {
    char out[N];
    Error err;
    assert_int_equal(file_size(f), N);
    for (size_t from = 0; from <= N; from++)
        for (size_t n = 0; from + n <= N; n++) {
            assert_true(file_read(f, out, n, from, &err));
            assert_memory_equal(out, TEXT + from, n);
        }
    assert_false(file_read(f, out, N, 1, &err));
    assert_string_equal(err.text, "cut at byte 10");
    file_close(f);
}

static void test_storages(void **state) {
    (void)state;
    const char *path = test_path("digits");
    Error err;
    struct stat st;
    FileStamp stamp;
    test_write_file(path, TEXT, N);
    check_reads(file_open(path, &err));
    check_reads(file_open_memory((const uint8_t *)TEXT, N));
    assert_int_equal(stat(path, &st), 0);
    assert_true(file_stamp(path, &stamp, &err));
    assert_true(stamp.size == N && stamp.mtime_sec == st.st_mtim.tv_sec);
    assert_int_equal(stamp.mtime_nsec, st.st_mtim.tv_nsec);
    assert_true(file_readable(path));
    const char *const refused[] = {test_dir(), "/dev/null", test_path("nothing")};
    for (size_t i = 0; i < COUNT(refused); i++) {
        const char *why = i < 2 ? "not a regular file" : strerror(ENOENT);
        assert_null(file_open(refused[i], &err));
        assert_true(strstr(err.text, refused[i]) == err.text && strstr(err.text, why));
        assert_false(file_stamp(refused[i], &stamp, &err));
        assert_true(strstr(err.text, refused[i]) == err.text && strstr(err.text, why));
        assert_false(file_readable(refused[i]));
    }
}

/* A file that cannot be opened, and one that cannot be read, because of the machine: tried again,
 * then an error of the program. */
static void open_denied(void *path) {
    Error err;
    if (!test_deny(SYS_openat, EMFILE)) die("no filter");
    file_open(path, &err);
}

static void read_denied(void *path) {
    Error err;
    char byte;
    File *f = file_open(path, &err);
    if (!test_deny(SYS_pread64, EIO)) die("no filter");
    file_read(f, &byte, 1, 0, &err);
}

static void whole_denied(void *path) {
    Error err;
    uint8_t *bytes;
    size_t n;
    if (!test_deny(SYS_read, EIO)) die("no filter");
    file_read_first(path, &bytes, &n, N, &err);
}

static void list_denied(void *path) {
    Error err;
    char **names;
    size_t n;
    if (!test_deny(SYS_getdents64, ESTALE)) die("no filter");
    folder_list(path, &names, &n, &err);
}

static void *free_descriptors(void *first) {
    nanosleep(&(struct timespec){.tv_nsec = 200000000}, NULL);
    close(*(int *)first);
    return NULL;
}

/* All descriptors are used until a thread closes one. */
static void open_later(void *path) {
    Error err;
    pthread_t thread;
    struct rlimit few = {32, 32};
    int last, fd;
    setrlimit(RLIMIT_NOFILE, &few);
    while ((fd = dup(STDIN_FILENO)) >= 0) last = fd;
    pthread_create(&thread, NULL, free_descriptors, &last);
    File *f = file_open(path, &err);
    die("%s", f ? "opened later" : err.text);
}

static void test_the_machine_fails(void **state) {
    (void)state;
    char *path = xstrdup(test_path("fine"));
    test_write_file(path, TEXT, N);
    test_dies(open_later, path, EXIT_ERROR, "opened later");
    test_dies(open_denied, path, EXIT_ERROR, "fine: Too many open files, tried 6 times");
    test_dies(read_denied, path, EXIT_ERROR, "fine: Input/output error, tried 6 times");
    test_dies(whole_denied, path, EXIT_ERROR, "fine: Input/output error, tried 6 times");
    test_dies(list_denied, (void *)test_dir(), EXIT_ERROR, "Stale file handle, tried 6 times");
    free(path);
}

/* Opening a FIFO would wait for a writer. */
static void test_fifos_are_not_opened(void **state) {
    (void)state;
    Error err;
    uint8_t *bytes;
    size_t n;
    char *path = xstrdup(test_path("fifo"));
    assert_int_equal(mkfifo(path, 0600), 0);
    alarm(20);
    assert_null(file_open(path, &err));
    test_says(err.text, "fifo: not a regular file");
    assert_false(file_read_all(path, &bytes, &n, N, &err));
    assert_false(map_file(&(MapFile){0}, path, &err));
    alarm(0);
    free(path);
}

static void read_cut(void *path) {
    MapFile m;
    Error err;
    if (!map_file(&m, path, &err) || truncate(path, 0)) _exit(77);
    static volatile unsigned char byte;
    byte = m.bytes[N - 1];
    _exit(byte);
}

/* A mapped file that is cut while it is read ends the program with a line. */
static void test_cut_while_mapped(void **state) {
    (void)state;
    char *path = xstrdup(test_path("cut\n\033here"));
    test_write_file(path, TEXT, N);
    test_dies(read_cut, path, EXIT_ERROR, "cut\n\\x1bhere: it was cut while in use");
    free(path);
}

static void *write_digits(void *path) {
    test_write_file(path, TEXT, N);
    return NULL;
}

static void test_whole(void **state) {
    (void)state;
    char *path = xstrdup(test_path("whole")), *pipe = xstrdup(test_path("pipe"));
    uint8_t *bytes;
    size_t n;
    Error err;
    test_write_file(path, TEXT, N);
    assert_true(file_read_all(path, &bytes, &n, N, &err));
    assert_int_equal(n, N);
    assert_string_equal((char *)bytes, TEXT);
    free(bytes);
    assert_false(file_read_all(path, &bytes, &n, N - 1, &err));
    assert_true(!bytes && strstr(err.text, "10 bytes, more than the 9 allowed"));
    for (size_t most = 0; most < N + 2; most++) {
        assert_true(file_read_first(path, &bytes, &n, most, &err));
        assert_int_equal(n, size_min(most, N));
        assert_memory_equal(bytes, TEXT, n);
        assert_int_equal(bytes[n], 0);
        free(bytes);
    }
    assert_false(file_read_first(test_dir(), &bytes, &n, N, &err));
    assert_true(!bytes && errno == EISDIR && !strcmp(err.text, strerror(EISDIR)));

    pthread_t writer;
    assert_int_equal(mkfifo(pipe, 0600), 0);
    assert_int_equal(pthread_create(&writer, NULL, write_digits, pipe), 0);
    assert_true(file_read_first(pipe, &bytes, &n, SIZE_MAX, &err));
    assert_string_equal((char *)bytes, TEXT);
    free(bytes);
    pthread_join(writer, NULL);

    assert_true(file_copy(path, test_path("copy")));
    assert_true(file_read_all(test_path("copy"), &bytes, &n, N, &err));
    assert_string_equal((char *)bytes, TEXT);
    free(bytes);
    assert_false(file_copy(test_path("nothing"), test_path("copy")));
    assert_int_equal(errno, ENOENT);
    free(path);
    free(pipe);
}

static void test_folders(void **state) {
    (void)state;
    Error err;
    char **names;
    size_t n;
    assert_true(folder_make(test_path("a/b/c"), &err));
    assert_true(folder_make(test_path("a/b/c"), &err));
    static const char *const files[] = {"a/z", "a/B", "a/.hidden"};
    for (size_t i = 0; i < COUNT(files); i++) test_write_file(test_path(files[i]), "", 0);
    assert_false(folder_make(test_path("a/z/d"), &err));
    assert_non_null(strstr(err.text, "cannot create the folder"));
    assert_true(folder_list(test_path("a"), &names, &n, &err));
    assert_int_equal(n, 3);
    static const char *const sorted[] = {"B", "b", "z"};
    for (size_t i = 0; i < n; i++) {
        assert_string_equal(names[i], sorted[i]);
        assert_true(names_have(names, n, sorted[i]));
    }
    assert_false(names_have(names, n, "c"));
    names_free(names, n);
    assert_string_equal(path_base("a/b.TAR"), "b.TAR");
    assert_string_equal(path_base("b"), "b");
    assert_true(ends_with("b.TAR", ".tar") && !ends_with("ar", ".tar") && !ends_with("b.tar", "x"));
    assert_true(has_extension("b.Tar.Zst", "tar;tar.zst") && has_extension(".jpg", ";jpg;"));
    assert_false(has_extension("bjpg", "jpg") || has_extension("b.jpg", ";pg") ||
                 has_extension("jpg", "jpg") || has_extension("b.", ""));
}

static void test_resources(void **state) {
    (void)state;
    char *home = getenv("CLIPC_HOME"), *path, here[4096];
    home = home ? xstrdup(home) : NULL;
    test_write_file(test_path("thing"), TEXT, N);
    setenv("CLIPC_HOME", test_dir(), 1);
    path = resource_installed("thing");
    assert_string_equal(path, test_path("thing"));
    free(path);
    assert_null(resource_find("nothing of that name"));
    assert_null(resource_find("/thing"));
    assert_non_null(getcwd(here, sizeof here));
    assert_int_equal(chdir(test_dir()), 0);
    path = resource_find("thing");
    assert_string_equal(path, "thing");
    free(path);
    unsetenv("CLIPC_HOME");
    assert_null(resource_installed("thing"));
    assert_int_equal(chdir(here), 0);
    /* this program is build/tests/test_file or build/FLAVOUR/tests/test_file */
    path = resource_installed("tests/test_file");
    assert_true(path && !access(path, X_OK));
    free(path);
    if (home) setenv("CLIPC_HOME", home, 1);
    free(home);
}

static void test_blank(void **state) {
    (void)state;
    assert_true(string_is_blank("") && string_is_blank(" \t\n\v\f\r"));
    assert_false(string_is_blank(" \n."));
    assert_true(text_is_blank(" \0 x", 3));
    assert_false(text_is_blank("\xc2\xa0", 2)); /* only ASCII's */
}

static void test_last_where(void **state) {
    (void)state;
    static const size_t start[] = {3, 3, 5, 9};
    static const size_t want[] = {0, 0, 0, 1, 1, 2, 2, 2, 2, 3, 3};
    for (size_t x = 0; x < COUNT(want); x++)
        assert_int_equal(LAST_WHERE(i, COUNT(start), start[i] <= x), want[x]);
    assert_int_equal(LAST_WHERE(i, 0, start[i] <= 9), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_machine_fails),
        cmocka_unit_test(test_fifos_are_not_opened),
        cmocka_unit_test(test_storages),
        cmocka_unit_test(test_cut_while_mapped),
        cmocka_unit_test(test_whole),
        cmocka_unit_test(test_folders),
        cmocka_unit_test(test_resources),
        cmocka_unit_test(test_blank),
        cmocka_unit_test(test_last_where),
    };
    return cmocka_run_group_tests_name("file", tests, NULL, NULL);
}
