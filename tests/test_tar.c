/* tar and stream: every dialect, zstd frames, damage and truncation at every byte. */
#include "data/tar.h"
#include "tests/support_data.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* One line a member: name, size, first bytes. */
typedef struct Listing {
    char *text;
    size_t members;
    TarStatus status;
    Error err;
} Listing;

static Listing list_stream(Stream *s) {
    Listing l = {.text = xstrdup("")};
    TarReader *t = xmalloc(sizeof *t);
    tar_reader_init(t, s);
    while ((l.status = tar_next(t, &l.err)) == TAR_FILE) {
        char data[33];
        size_t got;
        if (!tar_read(t, data, 32, &got, &l.err) || !tar_finish(t, &l.err)) {
            l.status = TAR_BAD;
            break;
        }
        data[got] = 0;
        char *more =
            xasprintf("%s%s %llu %s\n", l.text, t->name, (unsigned long long)t->size, data);
        free(l.text);
        l.text = more;
        l.members++;
    }
    free(t);
    stream_close(s);
    return l;
}

static Listing list_bytes(const uint8_t *bytes, size_t n) {
    /* an exact copy: a read past its end is seen by AddressSanitizer */
    uint8_t *copy = xmalloc(n);
    if (n) memcpy(copy, bytes, n);
    Listing l = list_stream(stream_open_memory(copy, n));
    free(copy);
    return l;
}

static const char *repeat(char *out, const char *what, int times, const char *end) {
    *out = 0;
    while (times--) strcat(out, what);
    return strcat(out, end);
}

static void check_member(const char *text, const char *name, int i) {
    char *line = xasprintf("%s %d content %d\n", name, 10 * (i + 1), i);
    if (!strstr(text, line)) fail_msg("no line '%s' in\n%s", line, text);
    free(line);
}

static void test_dialects(void **state) {
    (void)state;
    const char *kinds[] = {"ustar", "gnu", "pax"};
    char name[512];
    for (size_t k = 0; k < COUNT(kinds); k++) {
        char path[64];
        Error err;
        snprintf(path, sizeof path, "tests/golden/tar/%s.tar", kinds[k]);
        Stream *s = stream_open(path, &err);
        if (!s) fail_msg("%s", err.text);
        Listing l = list_stream(s);
        assert_int_equal(l.status, TAR_END);
        assert_int_equal(l.members, k == 0 ? 3 : 5);
        check_member(l.text, "000000.jpg", 0);
        check_member(l.text, "000000.txt", 1);
        check_member(l.text, repeat(name, "folder/", 14, "some-longer-file-name.jpg"), 2);
        if (k > 0) check_member(l.text, repeat(name, "a-long-folder-name/", 12, "picture.jpg"), 3);
        if (k == 1) check_member(l.text, repeat(name, "g", 300, ".txt"), 4);
        if (k == 2) check_member(l.text, "\u00e9t\u00e9/\u6a21.jpg", 4);
        free(l.text);
    }
}

static void fix_sum(uint8_t *block) {
    unsigned sum = 0;
    memset(block + 148, ' ', 8);
    for (int i = 0; i < TAR_BLOCK; i++) sum += block[i];
    snprintf((char *)block + 148, 8, "%06o", sum);
}

static void test_sizes(void **state) {
    (void)state;
    TarBytes t = {NULL, 0};
    tar_bytes_text(&t, "a.txt", "hello");
    tar_bytes_text(&t, "b.txt", "world");
    tar_bytes_end(&t);
    /* base 256 */
    memset(t.bytes + 124, 0, 12);
    t.bytes[124] = 0x80;
    t.bytes[135] = 5;
    fix_sum(t.bytes);
    Listing l = list_bytes(t.bytes, t.size);
    assert_int_equal(l.status, TAR_END);
    assert_string_equal(l.text, "a.txt 5 hello\nb.txt 5 world\n");
    free(l.text);
    /* more than 64 bits, a size of 2^60, a negative one, letters */
    const char *bad[] = {"\x80\1\0\0\0\0\0\0\0\0\0\5", "\x80\0\0\0\x10\0\0\0\0\0\0\0",
                         "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", "0000000000x"};
    for (size_t i = 0; i < COUNT(bad); i++) {
        memcpy(t.bytes + 124, bad[i], 12);
        fix_sum(t.bytes);
        l = list_bytes(t.bytes, t.size);
        assert_int_equal(l.status, TAR_BAD);
        assert_int_equal(l.members, 0);
        free(l.text);
    }
    free(t.bytes);
}

static void test_pax_overrides(void **state) {
    (void)state;
    TarBytes t = {NULL, 0};
    tar_bytes_text(&t, "PaxHeader", "16 path=é.jpg\n9 size=5\n13 ctime=1.5\n");
    t.bytes[156] = 'x';
    fix_sum(t.bytes);
    size_t at = t.size;
    tar_bytes_text(&t, "short.jpg", "hello");
    memcpy(t.bytes + at + 124, "00000000777", 11); /* the pax size counts, not this one */
    fix_sum(t.bytes + at);
    tar_bytes_text(&t, "next.jpg", "x"); /* for the next member nothing of it is left */
    tar_bytes_end(&t);
    /* "16 path=é.jpg\n" has 15 bytes: a wrong length is refused, the right one taken */
    Listing l = list_bytes(t.bytes, t.size);
    assert_int_equal(l.status, TAR_BAD);
    assert_non_null(strstr(l.err.text, "pax"));
    free(l.text);
    t.bytes[TAR_BLOCK + 1] = '5';
    l = list_bytes(t.bytes, t.size);
    assert_string_equal(l.text, "é.jpg 5 hello\nnext.jpg 1 x\n");
    assert_int_equal(l.status, TAR_END);
    free(l.text);
    free(t.bytes);
}

static void check_long_name(size_t length, char type) {
    char *name = xmalloc(length + 1), *record;
    memset(name, 'n', length);
    name[length] = 0;
    record = type == 'L' ? xstrdup(name) : xasprintf("%zu path=%s\n", length + 11, name);
    TarBytes t = {NULL, 0};
    tar_bytes_text(&t, "././@Extended", record);
    t.bytes[156] = (uint8_t)type;
    fix_sum(t.bytes);
    tar_bytes_text(&t, "n", "data");
    tar_bytes_end(&t);
    Listing l = list_bytes(t.bytes, t.size);
    bool fits = length <= TAR_NAME_MAX;
    assert_int_equal(l.members, fits ? 1 : 0);
    assert_int_equal(l.status, fits ? TAR_END : TAR_BAD);
    if (fits) assert_memory_equal(l.text, name, length);
    free(l.text);
    free(t.bytes);
    free(record);
    free(name);
}

static void test_long_names_are_bounded(void **state) {
    (void)state;
    for (size_t length = TAR_NAME_MAX; length <= TAR_NAME_MAX + 1; length++) {
        check_long_name(length, 'L');
        check_long_name(length, 'x');
    }
    /* a record that claims to be larger than any is */
    TarBytes t = {NULL, 0};
    tar_bytes_text(&t, "x", "");
    memcpy(t.bytes + 124, "00000000000", 11);
    snprintf((char *)t.bytes + 124, 12, "%011o", TAR_EXTENDED_MAX + 1);
    t.bytes[156] = 'x';
    fix_sum(t.bytes);
    Listing l = list_bytes(t.bytes, t.size);
    assert_int_equal(l.status, TAR_BAD);
    assert_non_null(strstr(l.err.text, "extended header of 1048577"));
    free(l.text);
    free(t.bytes);
}

/* Where a cut leaves the archive's end: anything before the first zero block must be an error. */
static void check_cuts(const uint8_t *bytes, size_t n, size_t end) {
    Listing whole = list_bytes(bytes, n);
    assert_int_equal(whole.status, TAR_END);
    for (size_t cut = 0; cut < end; cut++) {
        Listing l = list_bytes(bytes, cut);
        assert_int_equal(l.status, TAR_BAD);
        assert_true(l.err.text[0] != 0);
        if (strncmp(l.text, whole.text, strlen(l.text)) != 0)
            fail_msg("cut at %zu: %s is no beginning of %s", cut, l.text, whole.text);
        free(l.text);
    }
    free(whole.text);
}

static size_t archive_end(const uint8_t *bytes, size_t n) {
    static const uint8_t zeros[2 * TAR_BLOCK];
    for (size_t at = 0; at + sizeof zeros <= n; at += TAR_BLOCK)
        if (memcmp(bytes + at, zeros, sizeof zeros) == 0) return at + TAR_BLOCK;
    return n;
}

static void test_cut_at_every_byte(void **state) {
    (void)state;
    const char *paths[] = {"tests/golden/tar/ustar.tar", "tests/golden/tar/gnu.tar",
                           "tests/golden/tar/pax.tar"};
    for (size_t k = 0; k < COUNT(paths); k++) {
        size_t n, packed;
        uint8_t *bytes = (uint8_t *)test_read_file(paths[k], &n);
        size_t end = archive_end(bytes, n);
        check_cuts(bytes, n, end);
        /* frames that end with the archive: every cut loses data */
        uint8_t *frames = zstd_frames(bytes, end, 1000, &packed);
        check_cuts(frames, packed, packed);
        free(frames);
        free(bytes);
    }
}

static void test_damage(void **state) {
    (void)state;
    size_t n, packed;
    uint8_t *bytes = (uint8_t *)test_read_file("tests/golden/tar/pax.tar", &n);
    n = archive_end(bytes, n);
    uint8_t *frames = zstd_frames(bytes, n, 1500, &packed);
    for (size_t i = 0; i < n; i++) {
        bytes[i] ^= (uint8_t)(1 << i % 8);
        free(list_bytes(bytes, n).text);
        bytes[i] ^= (uint8_t)(1 << i % 8);
    }
    for (size_t i = 0; i < packed; i++) {
        frames[i] ^= (uint8_t)(1 << i % 8);
        free(list_bytes(frames, packed).text);
        frames[i] ^= (uint8_t)(1 << i % 8);
    }
    bytes[0] ^= 1; /* a header's byte is under its sum */
    Listing l = list_bytes(bytes, n);
    assert_int_equal(l.status, TAR_BAD);
    free(l.text);
    free(frames);
    free(bytes);
}

static void test_stream_frames(void **state) {
    (void)state;
    enum { N = 100000, FRAME = 30000 };
    uint8_t *raw = xmalloc(N), *back = xmalloc(N + 1);
    size_t packed, got;
    Error err;
    for (size_t i = 0; i < N; i++) raw[i] = (uint8_t)(i * i >> 7);
    uint8_t *frames = zstd_frames(raw, N, FRAME, &packed);
    /* a skippable frame before and one after, as in seekable archives */
    uint8_t *file = xmalloc(packed + 24);
    const uint8_t skip[12] = {0x5e, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4};
    memcpy(file, skip, 12);
    memcpy(file + 12, frames, packed);
    memcpy(file + 12 + packed, skip, 12);
    Stream *s = stream_open_memory(file, packed + 24);
    assert_true(stream_read(s, back, 10, &got, &err));
    assert_true(stream_skip(s, 50000, &err));
    assert_int_equal(stream_tell(s), 50010);
    assert_true(stream_read(s, back, N, &got, &err));
    assert_int_equal(got, N - 50010);
    assert_memory_equal(back, raw + 50010, N - 50010);
    assert_false(stream_skip(s, 1, &err));
    const StreamFrame *f;
    assert_int_equal(stream_frames(s, &f), 4);
    for (int i = 0; i < 5; i++) assert_int_equal(f[i].raw, i < 4 ? i * FRAME : N);
    assert_int_equal(f[4].at, packed + 12);
    uint64_t f_at[5];
    for (int i = 0; i < 5; i++) f_at[i] = f[i].at;

    const char *path = test_path("frames.zst");
    test_write_file(path, file, packed + 24);
    File *open_file = file_open(path, &err);
    for (int i = 0; i < 4; i++) {
        memset(back, 0, N);
        assert_true(frame_read(open_file, f[i], f[i + 1], back, &err));
        assert_memory_equal(back, raw + f[i].raw, f[i + 1].raw - f[i].raw);
        StreamFrame wrong = {f[i + 1].at, f[i + 1].raw - 1};
        assert_false(frame_read(open_file, f[i], wrong, back, &err));
    }
    file_close(open_file);
    stream_close(s);
    /* cut inside a frame it is an error, between two it is the end */
    for (size_t cut = 13; cut < packed + 12; cut += 7) {
        s = stream_open_memory(file, cut);
        bool ok = stream_read(s, back, N, &got, &err), border = false;
        for (int i = 0; i < 5; i++) border |= f_at[i] == cut;
        assert_int_equal(ok, border);
        stream_close(s);
    }
    free(file);
    free(frames);
    free(back);
    free(raw);
}

static void test_plain_skip(void **state) {
    (void)state;
    enum { N = 200000 };
    uint8_t *raw = xmalloc(N), back[16];
    for (size_t i = 0; i < N; i++) raw[i] = (uint8_t)(i >> 8 ^ i);
    const char *path = test_path("plain.bin");
    test_write_file(path, raw, N);
    Error err;
    size_t got;
    Stream *s = stream_open(path, &err);
    for (size_t at = 0; at + 10007 < N; at += 10007 + 16) {
        assert_true(stream_read(s, back, 16, &got, &err));
        assert_memory_equal(back, raw + at, 16);
        if (at + 16 + 10007 > N) break;
        assert_true(stream_skip(s, 10007, &err));
    }
    assert_false(stream_skip(s, N, &err));
    assert_non_null(strstr(err.text, "cut at byte 200000"));
    stream_close(s);
    assert_null(stream_open(test_path("nothing"), &err));
    assert_null(stream_open(test_dir(), &err));
    free(raw);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dialects),          cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_pax_overrides),     cmocka_unit_test(test_long_names_are_bounded),
        cmocka_unit_test(test_cut_at_every_byte), cmocka_unit_test(test_damage),
        cmocka_unit_test(test_stream_frames),     cmocka_unit_test(test_plain_skip),
    };
    return cmocka_run_group_tests_name("tar", tests, NULL, NULL);
}
