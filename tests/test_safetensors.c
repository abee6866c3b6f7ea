/* The safetensors reader and writer: round trips, element types, invalid files, truncation at every
 * byte. */
#include "data/tensors/safetensors.h"
#include "data/io/crc32c.h"
#include "tests/support.h"
#include "tests/support_data.h"

#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

/* crc32c once more, as a CPU without the instruction does it */
#undef __SSE4_2__
#define crc32c crc32c_by_table
uint32_t crc32c(uint32_t crc, const void *bytes, size_t n);
#include "data/io/crc32c.c"
#undef crc32c

static const float some_f32[6] = {1.5f, -2, 3e-20f, 4e20f, 0, -1};
static const uint16_t some_u16[6] = {0x3c00, 0xc000, 0x0001, 0x7bff, 0x8000, 0x3555};
static const double some_f64[1] = {0.1};
static const int64_t some_i64[2] = {-1, 1};
static const Tensor four[] = {
    {.name = "a.weight", .dtype = DTYPE_F32, .ndim = 2, .shape = {2, 3}, .data = some_f32},
    {.name = "h \"quoted\" é", .dtype = DTYPE_F16, .ndim = 1, .shape = {6}, .data = some_u16},
    {.name = "scalar", .dtype = DTYPE_F64, .ndim = 0, .data = some_f64},
    {.name = "ids", .dtype = DTYPE_I64, .ndim = 1, .shape = {2}, .data = some_i64},
    {.name = "none", .dtype = DTYPE_BF16, .ndim = 3, .shape = {2, 0, 5}, .data = some_u16},
};
static const char *const meta[] = {"format", "pt", "step", "17"};

static const char *write_four(void) {
    const char *path = test_path("four.safetensors");
    Error err;
    if (!write_tensors_with(path, four, COUNT(four), meta, 2, &err)) fail_msg("%s", err.text);
    return path;
}

static void test_round_trip(void **state) {
    (void)state;
    Safetensors st;
    Error err;
    if (!safetensors_open(&st, write_four(), &err)) fail_msg("%s", err.text);
    assert_int_equal(st.count, COUNT(four));
    for (size_t i = 0; i < COUNT(four); i++) {
        const Tensor *t = safetensors_find(&st, four[i].name);
        assert_non_null(t);
        assert_int_equal(t->dtype, four[i].dtype);
        assert_int_equal(t->ndim, four[i].ndim);
        assert_memory_equal(t->shape, four[i].shape, sizeof t->shape);
        assert_memory_equal(t->data, four[i].data, t->count * dtype_size(t->dtype));
    }
    assert_int_equal(safetensors_find(&st, "scalar")->count, 1);
    assert_int_equal(safetensors_find(&st, "none")->count, 0);
    assert_null(safetensors_find(&st, "a"));
    assert_string_equal(safetensors_meta(&st, "step"), "17");
    assert_null(safetensors_meta(&st, "steps"));
    safetensors_close(&st);
}

static void test_values(void **state) {
    (void)state;
    Safetensors st;
    Error err;
    assert_true(safetensors_open(&st, write_four(), &err));
    float x[6];
    assert_true(tensor_read_f32(safetensors_find(&st, "a.weight"), 2, 3, x));
    assert_memory_equal(x, some_f32 + 2, sizeof *x * 3);
    assert_true(tensor_read_f32(safetensors_find(&st, four[1].name), 0, 6, x));
    static const float want[6] = {1, -2, 0x1p-24f, 65504, -0.f, 0x1.554p-2f};
    assert_memory_equal(x, want, sizeof x);
    assert_true(tensor_read_f32(safetensors_find(&st, "scalar"), 0, 1, x));
    assert_true(x[0] == 0.1f);
    assert_false(tensor_read_f32(safetensors_find(&st, "ids"), 0, 1, x));
    Tensor bf16 = {.dtype = DTYPE_BF16, .count = 2, .data = (uint16_t[]){0x3f80, 0xc040}};
    assert_true(tensor_read_f32(&bf16, 0, 2, x));
    assert_true(x[0] == 1 && x[1] == -3);
    Tensor special = {.dtype = DTYPE_F16, .count = 2, .data = (uint16_t[]){0xfc00, 0x7e00}};
    assert_true(tensor_read_f32(&special, 0, 2, x));
    assert_true(x[0] == -INFINITY && isnan(x[1]));
    safetensors_close(&st);
}

static void test_checksum(void **state) {
    (void)state;
    assert_int_equal(crc32c(0, "123456789", 9), 0xe3069283u);
    assert_int_equal(crc32c(crc32c(0, "1234", 4), "56789", 5), 0xe3069283u);
    assert_int_equal(crc32c_by_table(crc32c_by_table(0, "1234", 4), "56789", 5), 0xe3069283u);
    size_t n;
    char *bytes = test_read_file(write_four(), &n);
    const char *path = test_path("flipped.safetensors");
    size_t data = 6 * 4 + 6 * 2 + 8 + 2 * 8;
    for (size_t at = n - data; at <= n; at++) { /* at == n: nothing is wrong */
        bytes[at] ^= 1;
        test_write_file(path, bytes, n);
        bytes[at] ^= 1;
        Safetensors st;
        Error err = {""};
        if (!safetensors_open(&st, path, &err)) fail_msg("%s", err.text);
        assert_true(safetensors_verify(&st, &err) == (at == n));
        safetensors_close(&st);
    }
    free(bytes);
}

static void test_truncation(void **state) {
    (void)state;
    size_t n;
    char *bytes = test_read_file(write_four(), &n);
    const char *path = test_path("cut.safetensors");
    for (size_t cut = 0; cut <= n + 1; cut++) { /* n + 1: one byte too many */
        test_write_file(path, bytes, cut);
        Safetensors st;
        Error err = {""};
        bool ok = safetensors_open(&st, path, &err);
        assert_true(ok == (cut == n));
        if (ok)
            safetensors_close(&st);
        else
            assert_non_null(strstr(err.text, "cut.safetensors"));
    }
    free(bytes);
}

/* A file with this header followed by `data` bytes is refused, with `names` in the message. */
static void check_refused(const char *header, size_t data, const char *names) {
    size_t n = strlen(header), size = 8 + n + data;
    char *bytes = calloc(size, 1);
    memcpy(bytes, &(uint64_t){n}, 8);
    memcpy(bytes + 8, header, n);
    const char *path = test_path("bad.safetensors");
    test_write_file(path, bytes, size);
    free(bytes);
    Safetensors st;
    Error err = {""};
    assert_false(safetensors_open(&st, path, &err));
    if (!strstr(err.text, names)) fail_msg("'%s' does not name '%s'", err.text, names);
}

static void test_refused(void **state) {
    (void)state;
    check_refused("[]", 0, "object");
    check_refused("{", 0, "header");
    check_refused("{\"x\": 3}", 0, "tensor x");
    check_refused("{\"x\": {\"dtype\": \"F32\", \"shape\": [2], \"data_offsets\": [0, 4]}}", 4,
                  "x");
    check_refused("{\"x\": {\"dtype\": \"F32\", \"shape\": [-1], \"data_offsets\": [0, 4]}}", 4,
                  "shape");
    check_refused("{\"x\": {\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [4, 0]}}", 4,
                  "backwards");
    check_refused("{\"x\": {\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [-4, 0]}}", 4,
                  "backwards");
    check_refused("{\"x\": {\"dtype\": \"F32\", \"shape\": [2], \"data_offsets\": [0, 8]}}", 4,
                  "truncated: tensor x");
    check_refused("{\"x\": {\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [0, 4]}}", 8,
                  "4 bytes after");
    check_refused("{\"x\": {\"dtype\": \"F32\", \"shape\": [4294967296, 4294967296, 4], "
                  "\"data_offsets\": [0, 0]}}",
                  0, "shape");
    check_refused("{\"x\": {\"dtype\": \"F32\", \"shape\": [1,1,1,1,1,1,1,1,1], "
                  "\"data_offsets\": [0, 4]}}",
                  4, "shape");
    check_refused("{\"__metadata__\": {\"a\": 1}}", 0, "__metadata__");
    check_refused("{\"x\": {}, \"x\": {}}", 0, "duplicate");
    const char *path = test_path("huge.safetensors");
    test_write_file(path, &(uint64_t){1ull << 62}, 8);
    Safetensors st;
    Error err;
    assert_false(safetensors_open(&st, path, &err));
    assert_non_null(strstr(err.text, "not a safetensors file"));
    assert_false(safetensors_open(&st, test_path("absent"), &err));
    assert_non_null(strstr(err.text, "No such file"));
    assert_false(safetensors_open(&st, test_dir(), &err));
}

/* Types that this program does not compute with are kept and not read. */
static void test_other_types(void **state) {
    (void)state;
    const char header[] =
        "{\"x\": {\"dtype\": \"F8_E4M3\", \"shape\": [3], \"data_offsets\": [0, 3]}}";
    char bytes[8 + sizeof header - 1 + 3] = {0};
    memcpy(bytes, &(uint64_t){sizeof header - 1}, 8);
    memcpy(bytes + 8, header, sizeof header - 1);
    const char *path = test_path("f8.safetensors");
    test_write_file(path, bytes, sizeof bytes);
    Safetensors st;
    Error err;
    if (!safetensors_open(&st, path, &err)) fail_msg("%s", err.text);
    float x;
    assert_true(safetensors_verify(&st, &err)); /* no checksum */
    assert_int_equal(st.tensors[0].dtype, DTYPE_OTHER);
    assert_false(tensor_read_f32(&st.tensors[0], 0, 1, &x));
    safetensors_close(&st);
}

/* A limit on the size of files simulates a full disk. */
static void test_disk_full(void **state) {
    (void)state;
    struct rlimit was, small = {200, 200};
    getrlimit(RLIMIT_FSIZE, &was);
    small.rlim_max = was.rlim_max;
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &small);
    const char *path = test_path("full.safetensors");
    Error err = {""};
    bool ok = write_tensors_with(path, four, COUNT(four), meta, 2, &err);
    setrlimit(RLIMIT_FSIZE, &was);
    assert_false(ok);
    assert_non_null(strstr(err.text, "full.safetensors: File too large"));
    assert_int_equal(access(path, F_OK), -1);
    assert_false(write_tensors_with(test_path("no/such/folder"), four, 1, NULL, 0, &err));
}

/* A file or link in the way is neither written nor removed. */
static void test_in_the_way(void **state) {
    (void)state;
    Error err;
    const char *there = test_path("there"), *link = test_path("link");
    test_write_file(there, "theirs", 6);
    assert_int_equal(symlink(there, link), 0);
    for (const char *const *path = (const char *const[]){there, link, NULL}; *path; path++) {
        assert_false(safetensors_finish(safetensors_create(*path, four, 0, NULL, 0), &err));
        assert_non_null(strstr(err.text, "exists"));
        char *kept = test_read_file(*path, NULL);
        assert_string_equal(kept, "theirs");
        free(kept);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip), cmocka_unit_test(test_values),
        cmocka_unit_test(test_checksum),   cmocka_unit_test(test_truncation),
        cmocka_unit_test(test_refused),    cmocka_unit_test(test_other_types),
        cmocka_unit_test(test_disk_full),  cmocka_unit_test(test_in_the_way),
    };
    return cmocka_run_group_tests_name("safetensors", tests, NULL, NULL);
}
