/* .npy files: NumPy's format, row by row, invalid files. */
#include "data/tensors/npy.h"
#include "tests/support.h"
#include "tests/support_data.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

static const float six[6] = {1, 2, 3, -4, 5.5f, 6e-30f};

/* The bytes of numpy.save for a float32 array of shape (2, 3): version 1.0, 128 bytes of header. */
static void check_bytes(const char *path) {
    size_t n;
    char *bytes = test_read_file(path, &n);
    assert_int_equal(n, 128 + sizeof six);
    const char start[] = "\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': "
                         "(2, 3), }";
    assert_memory_equal(bytes, start, sizeof start - 1);
    for (size_t i = sizeof start - 1; i < 127; i++) assert_int_equal(bytes[i], ' ');
    assert_int_equal(bytes[127], '\n');
    assert_memory_equal(bytes + 128, six, sizeof six);
    free(bytes);
}

static void test_write_and_read(void **state) {
    (void)state;
    Error err;
    const char *path = test_path("a.npy");
    assert_true(npy_write_f32(path, six, (size_t[]){2, 3}, 2, &err));
    check_bytes(path);
    size_t rows, cols;
    float *x = read_npy(path, &rows, &cols);
    assert_int_equal(rows, 2);
    assert_int_equal(cols, 3);
    assert_memory_equal(x, six, sizeof six);
    free(x);
    /* other numbers of dimensions are written; only matrices are read */
    const char *one = test_path("one.npy");
    assert_true(npy_write_f32(one, six, (size_t[]){6}, 1, &err));
    char *bytes = test_read_file(one, NULL);
    assert_non_null(strstr(bytes + 10, "'shape': (6,), }"));
    free(bytes);
    NpyMap m;
    assert_false(npy_map(&m, one, &err));
    assert_true(npy_write_f32(test_path("empty.npy"), six, (size_t[]){0, 3}, 2, &err));
    free(read_npy(test_path("empty.npy"), &rows, &cols));
    assert_true(rows == 0 && cols == 3);
}

static void test_row_by_row(void **state) {
    (void)state;
    Error err;
    const char *path = test_path("rows.npy");
    NpyWriter *w = npy_writer_open(path, NPY_F32, 2, 3, &err);
    assert_non_null(w);
    assert_true(npy_writer_append(w, six, 1, &err));
    assert_int_equal(access(path, F_OK), -1);
    assert_true(npy_writer_append(w, six + 3, 1, &err));
    assert_true(npy_writer_close(w, &err));
    check_bytes(path);
    /* missing rows: the existing file is kept */
    w = npy_writer_open(path, NPY_F32, 5, 3, &err);
    assert_true(npy_writer_append(w, six, 1, &err));
    assert_false(npy_writer_close(w, &err));
    check_bytes(path);
    assert_null(npy_writer_open(test_path("no/such/folder.npy"), NPY_F32, 1, 1, &err));
    assert_non_null(strstr(err.text, "No such file"));
}

static void test_disk_full(void **state) {
    (void)state;
    struct rlimit was, small;
    getrlimit(RLIMIT_FSIZE, &was);
    small = (struct rlimit){100, was.rlim_max};
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &small);
    Error err = {""};
    bool ok = npy_write_f32(test_path("full.npy"), six, (size_t[]){2, 3}, 2, &err);
    setrlimit(RLIMIT_FSIZE, &was);
    assert_false(ok);
    assert_non_null(strstr(err.text, "File too large"));
    assert_int_equal(access(test_path("full.npy"), F_OK), -1);
}

static void test_truncation(void **state) {
    (void)state;
    Error err;
    const char *path = test_path("whole.npy"), *cut_path = test_path("cut.npy");
    assert_true(npy_write_f32(path, six, (size_t[]){2, 3}, 2, &err));
    size_t n;
    char *bytes = test_read_file(path, &n);
    for (size_t cut = 0; cut <= n + 1; cut++) {
        test_write_file(cut_path, bytes, cut);
        NpyMap m;
        assert_true(npy_map(&m, cut_path, &err) == (cut == n));
        npy_unmap(&m);
    }
    free(bytes);
}

static void check_refused(const char *dictionary, size_t data, const char *names) {
    char bytes[512] = "\x93NUMPY\x01";
    size_t n = strlen(dictionary);
    bytes[8] = (char)n;
    memcpy(bytes + 10, dictionary, n);
    const char *path = test_path("bad.npy");
    test_write_file(path, bytes, 10 + n + data);
    NpyMap m;
    Error err = {""};
    assert_false(npy_map(&m, path, &err));
    assert_null(m.f32);
    if (!strstr(err.text, names)) fail_msg("'%s' does not name '%s'", err.text, names);
}

static void test_refused(void **state) {
    (void)state;
    check_refused("{'descr': '<f8', 'fortran_order': False, 'shape': (2, 3), }", 24, "float32");
    check_refused("{'descr': '<f4', 'fortran_order': True, 'shape': (2, 3), }", 24, "Fortran");
    check_refused("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3, 1), }", 24, "two-dim");
    check_refused("{'descr': '<f4', 'fortran_order': False, 'shape': (-2, 3), }", 24, "two-dim");
    check_refused("{'descr': '<f4', 'fortran_order': False, 'shape': (6,), }", 24, "two-dim");
    check_refused("{'descr': '<f4', 'fortran_order': False}", 0, "header");
    check_refused("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 4), }", 24, "bytes");
    check_refused("{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999, "
                  "99999999999999), }",
                  24, "bytes");
    static const char long_header[10 + 65535] = "\x93NUMPY\x01\x00\xff\xff";
    test_write_file(test_path("long.npy"), long_header, sizeof long_header);
    NpyMap none;
    Error long_err;
    assert_false(npy_map(&none, test_path("long.npy"), &long_err));
    assert_non_null(strstr(long_err.text, "a header of 65535 bytes"));
    /* whatever order and spacing the keys have */
    const char *path = test_path("good.npy");
    char good[128] = "\x93NUMPY\x01\x00\x3a\x00{'shape':(1,2),'fortran_order':False , "
                     "'descr':'<f4' }";
    good[8] = (char)strlen(good + 10);
    test_write_file(path, good, 10 + strlen(good + 10) + 8);
    size_t rows, cols;
    free(read_npy(path, &rows, &cols));
    assert_true(rows == 1 && cols == 2);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_write_and_read), cmocka_unit_test(test_row_by_row),
        cmocka_unit_test(test_disk_full),      cmocka_unit_test(test_truncation),
        cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests_name("npy", tests, NULL, NULL);
}
