/* Pages of PDFs as samples: keys, pixels, captions; PDFs that are damaged, encrypted, empty or
 * huge; programs that are started without a shell. */
#include "tests/support_data.h"
#include "data/image/image.h"
#include "data/io/file.h"
#include "data/io/folder.h"
#include "data/io/pipe.h"
#include "data/pdf.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define GOLDEN "tests/golden/pdf/"

static bool no_poppler(const char *test) {
    Error err;
    if (pdf_pages(GOLDEN "pages.pdf", &err) || !strstr(err.text, "not installed")) return false;
    printf("SKIP: %s: %s\n", test, err.text);
    return true;
}

static DatasetOptions with_pdfs(void) {
    DatasetOptions o = dataset_options_default();
    o.text_keys = NULL;
    o.pdfs = true;
    return o;
}

/* Its middle left, middle right and lower left pixels are near these colours. */
static void check_picture(const uint8_t *jpeg, size_t size, int width, const char *colours) {
    static const uint8_t of[256][3] = {
        ['r'] = {255, 0, 0}, ['g'] = {0, 255, 0}, ['b'] = {0, 0, 255}, ['w'] = {255, 255, 255}};
    Image img = {0};
    Error err;
    if (!image_decode(&img, jpeg, size, 1000000, &err)) fail_msg("%s", err.text);
    assert_int_equal(img.width, width);
    assert_int_equal(img.height, width / 2);
    const int x[3] = {width / 8, width * 7 / 8, width / 8},
              y[3] = {width / 8, width / 8, width * 3 / 8};
    for (int p = 0; p < 3; p++)
        for (int c = 0; c < 3; c++) {
            int got = img.rgb[(y[p] * width + x[p]) * 3 + c], want = of[(uint8_t)colours[p]][c];
            if (abs(got - want) > 3) fail_msg("%s: point %d: %d, not %d", colours, p, got, want);
        }
    image_free(&img);
}

static void test_pages(void **state) {
    (void)state;
    if (no_poppler("test_pages")) skip();
    static const char *const colours[] = {"rrr", "gwg", "wwb"};
    DatasetOptions o = with_pdfs();
    Sample s = {.label = -1};
    Error err;
    Dataset *d = open_data_set(GOLDEN "pages.pdf", &o);
    assert_int_equal(dataset_count(d), 3);
    for (size_t i = 0; i < 3; i++) {
        char key[64], *name = dataset_key(d, i, &err);
        snprintf(key, sizeof key, GOLDEN "pages.pdf#%zu", i + 1);
        assert_string_equal(name, key);
        if (!dataset_read(d, i, &s, &err)) fail_msg("%s", err.text);
        assert_string_equal(s.key, key);
        check_picture(s.image, s.image_size, 100, colours[i]);
        free(name);
    }
    pdf_dpi = 48;
    assert_true(dataset_read(d, 1, &s, &err));
    check_picture(s.image, s.image_size, 48, colours[1]);
    pdf_dpi = 100;
    sample_free(&s);
    dataset_close(d);
}

/* Among pictures of a folder, with a name that a program would take for an option; a table's
 * caption goes with every page. */
static void test_places(void **state) {
    (void)state;
    if (no_poppler("test_places")) skip();
    DatasetOptions o = with_pdfs();
    Sample s = {.label = -1};
    Error err;
    char *folder = xstrdup(test_path("pdfs")), *a = folder_path(folder, "-r 1.PDF"),
         *b = folder_path(folder, "b.png"), *table = folder_path(folder, "t.csv");
    assert_true(folder_make(folder, &err));
    assert_true(file_copy(GOLDEN "pages.pdf", a));
    assert_true(image_write_png(b, (const uint8_t *)"\1\2\3\4\5\6", 2, 1, &err));
    Dataset *d = open_data_set(folder, &o);
    assert_int_equal(dataset_count(d), 4);
    assert_true(dataset_read(d, 2, &s, &err));
    check_picture(s.image, s.image_size, 100, "wwb");
    assert_true(dataset_read(d, 3, &s, &err));
    assert_string_equal(s.key, b);
    dataset_close(d);
    char *here = getcwd(NULL, 0);
    assert_int_equal(chdir(folder), 0);
    if (pdf_pages("-r 1.PDF", &err) != 3) fail_msg("%s", err.text);
    assert_int_equal(chdir(here), 0);
    o.pdfs = false; /* as in training */
    d = open_data_set(folder, &o);
    assert_int_equal(dataset_count(d), 1);
    dataset_close(d);
    refuse_data_set(a, &o, "PDFs are read by clipc embed alone");
    static const char rows[] = "filepath,title\n-r 1.PDF,three colours\nb.png,one pixel\n";
    assert_true(file_write(table, rows, strlen(rows)));
    o = with_pdfs();
    o.text_keys = "txt";
    d = open_data_set(table, &o);
    assert_int_equal(dataset_count(d), 4);
    assert_true(dataset_read(d, 2, &s, &err));
    assert_string_equal(s.text, "three colours");
    assert_string_equal(path_base(s.key), "-r 1.PDF#3");
    assert_true(dataset_read(d, 3, &s, &err));
    assert_string_equal(s.text, "one pixel");
    dataset_close(d);
    sample_free(&s);
    FREE_ALL(folder, a, b, table, here);
}

/* One sample each, which cannot be read, with a line that says why. */
static void test_bad(void **state) {
    (void)state;
    if (no_poppler("test_bad")) skip();
    char *broken = xstrdup(test_path("broken.pdf"));
    assert_true(file_write(broken, "%PDF-1.4\nnothing\n", 17));
    const char *const bad[][2] = {{broken, "xref table"},
                                  {GOLDEN "encrypted.pdf", "Incorrect password"},
                                  {GOLDEN "empty.pdf", "after the last page (0)"},
                                  {GOLDEN "missing.pdf", "No such file"}};
    DatasetOptions o = with_pdfs();
    for (size_t i = 0; i < COUNT(bad); i++) {
        Sample s = {.label = -1};
        Error err;
        Dataset *d = open_data_set(bad[i][0], &o);
        assert_int_equal(dataset_count(d), 1);
        assert_false(dataset_read(d, 0, &s, &err));
        if (!strstr(err.text, bad[i][1]) || strchr(err.text, '\n')) fail_msg("%s", err.text);
        assert_string_equal(s.key, bad[i][0]);
        assert_int_equal(s.image_size, 0);
        assert_ptr_equal(strstr(err.text, bad[i][0]), err.text);
        sample_free(&s);
        dataset_close(d);
    }
    uint8_t *jpeg;
    size_t size;
    Error err;
    assert_false(pdf_page(GOLDEN "huge.pdf", 2, &jpeg, &size, &err)); /* no pixel in its place */
    assert_non_null(strstr(err.text, "huge.pdf#2: Bogus memory allocation size"));
    assert_false(pdf_page(GOLDEN "pages.pdf", 4, &jpeg, &size, &err));
    assert_non_null(strstr(err.text, "pages.pdf#4: Wrong page range given"));
    free(broken);
}

static void test_many_pages(void **state) {
    (void)state;
    if (no_poppler("test_many_pages")) skip();
    char *many = xstrdup(test_path("many.pdf")), *bytes;
    size_t size, count = PDF_PAGES_MAX + 1;
    Error err;
    FILE *f = open_memstream(&bytes, &size); /* one page, so many times */
    fprintf(f,
            "%%PDF-1.4\n1 0 obj <</Type/Catalog/Pages 2 0 R>> endobj\n2 0 obj <</Type/Pages"
            "/MediaBox [0 0 9 9]/Count %zu/Kids [",
            count);
    for (size_t i = 0; i < count; i++) fprintf(f, "%zu 0 R ", 3 + i);
    fprintf(f, "]>> endobj\n");
    for (size_t i = 0; i < count; i++)
        fprintf(f, "%zu 0 obj <</Type/Page/Parent 2 0 R>> endobj\n", 3 + i);
    fprintf(f, "trailer <</Root 1 0 R>>\n");
    assert_int_equal(fclose(f), 0);
    assert_true(file_write(many, bytes, size));
    assert_int_equal(pdf_pages(many, &err), 0);
    if (!strstr(err.text, "65537 pages, at most 65536")) fail_msg("%s", err.text);
    FREE_ALL(many, bytes);
}

/* A program named pdfinfo or pdftoppm in a folder that is first in PATH. */
static void impostor(const char *name, const char *script) {
    char *path = folder_path(test_path("bin"), name);
    unlink(path);
    assert_true(file_write(path, script, strlen(script)));
    assert_int_equal(chmod(path, 0755), 0);
    free(path);
}

static void test_programs(void **state) {
    (void)state;
    Error err;
    uint8_t *jpeg;
    size_t size;
    char *path = xstrdup(getenv("PATH"));
    assert_true(folder_make(test_path("bin"), &err));
    setenv("PATH", test_path("bin"), 1);
    assert_int_equal(pdf_pages(GOLDEN "pages.pdf", &err), 0);
    assert_non_null(strstr(err.text, "pages.pdf: pdfinfo of poppler-utils is not installed"));
    assert_false(pdf_page(GOLDEN "pages.pdf", 1, &jpeg, &size, &err));
    assert_non_null(strstr(err.text, "pages.pdf#1: pdftoppm of poppler-utils is not installed"));
    impostor("pdfinfo", "#!/bin/sh\necho Pages: 2\nexit 3\n");
    assert_int_equal(pdf_pages(GOLDEN "pages.pdf", &err), 0);
    impostor("pdfinfo", "#!/bin/sh\necho 'Pages:  7'\n"); /* the first line */
    assert_int_equal(pdf_pages(GOLDEN "pages.pdf", &err), 7);
    impostor("pdftoppm", "#!/bin/sh\nkill -9 $$\n");
    assert_false(pdf_page(GOLDEN "pages.pdf", 1, &jpeg, &size, &err));
    assert_non_null(strstr(err.text, "ended by signal 9"));
    impostor("pdftoppm", "#!/bin/sh\nexit 0\n");
    assert_false(pdf_page(GOLDEN "pages.pdf", 1, &jpeg, &size, &err));
    assert_non_null(strstr(err.text, "no picture"));
    setenv("PATH", path, 1);
    free(path);
}

static void run_program(const char *const *argv, ProgramLimits limits, char *out, size_t room,
                        const char *failure) {
    Error err;
    size_t got = 1, n = 0;
    Pipe *p = pipe_start_program(argv, limits, &err);
    if (!p) fail_msg("%s", err.text);
    while (got && n < room) {
        if (!pipe_read(p, out + n, room - n, &got, &err)) fail_msg("%s", err.text);
        n += got;
    }
    bool ok = pipe_finish(p, &err);
    pipe_close(p);
    assert_true(n < room);
    out[n] = 0;
    assert_int_equal(ok, !failure);
    if (failure && !strstr(err.text, failure)) fail_msg("%s", err.text);
}

/* Words come as they are, both outputs in one; limits hold. */
static void test_limits(void **state) {
    (void)state;
    char out[4096];
    const ProgramLimits wide = {(size_t)1 << 40, 60, 60}, small = {(size_t)64 << 20, 60, 60},
                        brief = {(size_t)1 << 40, 1, 60};
    run_program((const char *[]){"printf", "%s|", "$(id)", "a b;'", "*", NULL}, wide, out,
                sizeof out, NULL);
    assert_string_equal(out, "$(id)|a b;'|*|");
    run_program((const char *[]){"sh", "-c", "echo out; echo err >&2; ulimit -v; cat", NULL}, small,
                out, sizeof out, NULL);
    assert_string_equal(out, "out\nerr\n65536\n");
    run_program((const char *[]){"sh", "-c", "while :; do :; done", NULL}, brief, out, sizeof out,
                strsignal(SIGXCPU));
    Error err;
    assert_null(pipe_start_program((const char *[]){"no-such-program-here", NULL}, wide, &err));
    assert_int_equal(errno, ENOENT);
}

static void test_keys(void **state) {
    (void)state;
    size_t page;
    char *key = pdf_key("a#1.pdf", 12);
    assert_string_equal(key, "a#1.pdf#12");
    assert_int_equal(pdf_key_path(key, &page), strlen("a#1.pdf"));
    assert_int_equal(page, 12);
    const char *const other[] = {"a.pdf",   "a.pdf#", "a.pdf#x", "a.pdf#1x",
                                 "a.png#1", "#1",     "",        "a.pdf#1234567890"};
    for (size_t i = 0; i < COUNT(other); i++) assert_int_equal(pdf_key_path(other[i], &page), 0);
    free(key);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pages),    cmocka_unit_test(test_places),
        cmocka_unit_test(test_bad),      cmocka_unit_test(test_many_pages),
        cmocka_unit_test(test_programs), cmocka_unit_test(test_limits),
        cmocka_unit_test(test_keys)};
    return cmocka_run_group_tests_name("pdf", tests, NULL, NULL);
}
