/* table: CSV with quoted fields, folders of images, folders of class folders. */
#include "data/csv.h"
#include "data/dataset.h"
#include "data/io/folder.h"
#include "data/sources.h"
#include "tests/support_data.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Rows as "a|b;c|d;", up to the end or an error. */
static char *parse(const char *text, size_t n, char separator, Error *err) {
    char *bytes = xmalloc(n + 1), *out = xstrdup("");
    memcpy(bytes, text, n);
    CsvReader r = csv_reader(bytes, n, separator);
    CsvField f[4];
    size_t count;
    while (csv_next(&r, f, COUNT(f), &count, err)) {
        for (size_t i = 0; i < count; i++) {
            assert_true(i >= COUNT(f) || f[i].text[f[i].size] == 0);
            char *next = xasprintf("%s%s%s", out, i ? "|" : "", i < COUNT(f) ? f[i].text : "…");
            free(out);
            out = next;
        }
        char *next = xasprintf("%s;", out);
        free(out);
        out = next;
    }
    free(bytes);
    return out;
}

static void test_csv(void **state) {
    (void)state;
    const struct {
        const char *text;
        char separator;
        const char *want;
    } cases[] = {
        {"a,b\nc,d\n", ',', "a|b;c|d;"},
        {"a,b\nc,d", ',', "a|b;c|d;"},
        {"a,b\r\nc,d\r\n", ',', "a|b;c|d;"},
        {"\xef\xbb\xbf"
         "a\tb\n\n\nc\td\n",
         '\t', "a|b;c|d;"},
        {"\"a,\"\"1\"\"\",b\n", ',', "a,\"1\"|b;"},
        {"\"two\nlines\",\"\"\n", ',', "two\nlines|;"},
        {"\"a\"b,c\n", ',', "ab|c;"},
        {"a\"b\",c\n", ',', "a\"b\"|c;"},
        {",\n,,\n", ',', "|;||;"},
        {"1,2,3,4,5,6\n", ',', "1|2|3|4|…|…;"},
        {"\"q\"\r\nx\n", ',', "q;x;"},
        {"\"\"\"\"\n", ',', "\";"},
        {"", ',', ""},
        {"\n\r\n", ',', ""},
    };
    Error err;
    for (size_t i = 0; i < COUNT(cases); i++) {
        char *got = parse(cases[i].text, strlen(cases[i].text), cases[i].separator, &err);
        assert_string_equal(got, cases[i].want);
        assert_string_equal(err.text, "");
        free(got);
    }
    const char open[] = "a,b\nc,\"d\ne";
    char *got = parse(open, strlen(open), ',', &err);
    assert_string_equal(got, "a|b;");
    assert_string_equal(err.text, "line 2: a quote that is not closed");
    free(got);
}

static void test_csv_cut(void **state) {
    (void)state;
    const char text[] = "filepath,title\n\"a \"\"b\"\".jpg\",\"x\ny\"\r\nc.jpg,z\n";
    for (size_t cut = 0; cut < sizeof text; cut++) {
        Error err;
        free(parse(text, cut, ',', &err));
        free(parse(text, cut, '"', &err));
    }
}

static void put(const char *name, const char *text) {
    char *path = xasprintf("%s/%s", test_dir(), name);
    for (char *at = path + strlen(test_dir()) + 1; (at = strchr(at, '/')); *at++ = '/') {
        *at = 0;
        mkdir(path, 0777);
    }
    test_write_file(path, text, strlen(text));
    free(path);
}

/* "image|text|label" of every sample, ; after each; the reason in place of a bad one. */
static char *describe(Dataset *d) {
    Sample s = {.key = NULL};
    char *out = xstrdup("");
    for (size_t i = 0; i < dataset_count(d); i++) {
        Error err;
        char *next;
        if (dataset_read(d, i, &s, &err))
            next = xasprintf("%s%.*s|%s|%d;", out, (int)s.image_size, (char *)s.image, s.text,
                             s.label);
        else
            next = xasprintf("%sbad %s;", out, strrchr(err.text, '/') + 1);
        free(out);
        out = next;
    }
    sample_free(&s);
    return out;
}

static void check(const char *spec, const DatasetOptions *o, const char *want, size_t dropped) {
    Dataset *d = open_data_set(spec, o);
    char *got = describe(d);
    assert_string_equal(got, want);
    assert_int_equal(dataset_dropped(d), dropped);
    free(got);
    dataset_close(d);
}

static void test_csv_data(void **state) {
    (void)state;
    DatasetOptions o = dataset_options_default();
    put("csv/img/a.jpg", "AA");
    put("csv/img/b.jpg", "BB");
    put("csv/list.csv", "id,title,filepath\n1,\"one, two\",img/a.jpg\n2,  ,img/b.jpg\n3,x\n"
                        "4,four,img/b.jpg\n5,five,img/none.jpg\n6,six,\n");
    check(test_path("csv/list.csv"), &o,
          "AA|one, two|-1;BB|four|-1;bad none.jpg: No such file or directory;", 3);
    put("csv/list.tsv", "filepath\ttitle\nimg/a.jpg\ta \"b\"\n");
    check(test_path("csv/list.tsv"), &o, "AA|a \"b\"|-1;", 0);
    put("csv/tabs.csv", "title\tfilepath\na, b\timg/a.jpg\n"); /* the header decides */
    check(test_path("csv/tabs.csv"), &o, "AA|a, b|-1;", 0);
    o.csv_image_key = "url";
    o.csv_caption_key = "text";
    o.csv_separator = ";";
    put("csv/own.csv", "text;url\nwords;img/b.jpg\n");
    check(test_path("csv/own.csv"), &o, "BB|words|-1;", 0);
    o.csv_separator = "\\t";
    put("csv/tab.csv", "text\turl\nwords\timg/b.jpg\n");
    check(test_path("csv/tab.csv"), &o, "BB|words|-1;", 0);
    o.text_keys = NULL; /* no caption needed, nor its column */
    put("csv/bare.tsv", "url\nimg/a.jpg\n");
    check(test_path("csv/bare.tsv"), &o, "AA||-1;", 0);
    /* absolute paths, and such as are relative to the current folder */
    o = dataset_options_default();
    char *text = xasprintf("filepath,title\n%s/csv/img/a.jpg,abs\nimg/b.jpg,rel\n", test_dir());
    put("csv/abs.csv", text);
    free(text);
    put("csv/cwd.csv", "filepath,title\ntests/golden/tar/make.py,words\n");
    Dataset *d = open_data_set(test_path("csv/cwd.csv"), &o);
    Sample s = {.key = NULL};
    Error err;
    assert_true(dataset_read(d, 0, &s, &err));
    assert_true(s.image_size > 500);
    assert_string_equal(s.key, "tests/golden/tar/make.py");
    sample_free(&s);
    dataset_close(d);
}

static void test_refused(void **state) {
    (void)state;
    DatasetOptions o = dataset_options_default();
    put("bad/column.csv", "file,title\na,b\n");
    refuse_data_set(test_path("bad/column.csv"), &o, "no column \"filepath\" among: file, title");
    put("bad/quote.csv", "filepath,title\na,\"b\n");
    refuse_data_set(test_path("bad/quote.csv"), &o, "line 2: a quote");
    put("bad/empty.csv", "");
    refuse_data_set(test_path("bad/empty.csv"), &o, "empty");
    put("bad/none.csv", "filepath,title\n,x\n");
    refuse_data_set(test_path("bad/none.csv"), &o, "no usable sample");
    refuse_data_set(test_path("bad/missing.csv"), &o, "No such file");
}

static void test_flat_folder(void **state) {
    (void)state;
    DatasetOptions o = dataset_options_default();
    put("flat/b.jpg", "B");
    put("flat/b.txt", "bee");
    put("flat/a.x.PNG", "A");
    put("flat/a.x.txt", "ay");
    put("flat/c.jpg", "C"); /* no caption */
    put("flat/d.jpg", "D");
    put("flat/d.txt", ""); /* an empty one */
    put("flat/e.jpg", "E");
    put("flat/e.txt", " \n"); /* a blank one, seen only when it is read */
    put("flat/notes.md", "no image");
    put("flat/deeper/f.jpg", "F");
    check(test_path("flat"), &o, "A|ay|-1;B|bee|-1;bad e.jpg: an empty caption;", 3);
    o.text_keys = "";
    check(test_path("flat"), &o, "A||-1;B||-1;C||-1;D||-1;E||-1;F||-1;", 0);
    o.image_keys = "png";
    check(test_path("flat"), &o, "A||-1;", 0);
}

static void test_class_folders(void **state) {
    (void)state;
    DatasetOptions o = dataset_options_default();
    put("classes/dog/1.jpg", "D1");
    put("classes/cat/1.jpg", "C1");
    put("classes/cat/2.jpg", "C2");
    put("classes/cat/2.txt", "this cat");
    put("classes/empty/readme.md", "x");
    put("classes/list.md", "x");
    check(test_path("classes"), &o, "C1|cat|0;C2|this cat|0;D1|dog|1;", 0);
    o.caption_template = "a photo of a {}.";
    Dataset *d = open_data_set(test_path("classes"), &o);
    char *got = describe(d);
    assert_string_equal(got, "C1|a photo of a cat.|0;C2|this cat|0;D1|a photo of a dog.|1;");
    const char *const *names;
    assert_int_equal(dataset_classes(d, &names), 2);
    assert_string_equal(names[0], "cat");
    assert_string_equal(names[1], "dog");
    assert_int_equal(dataset_shards(d), 1);
    free(got);
    dataset_close(d);
}

/* All below a folder: its own files first, then its folders, sorted; no hidden ones; links once
 * around. */
static void test_tree(void **state) {
    (void)state;
    DatasetOptions o = dataset_options_default();
    o.text_keys = NULL;
    put("tree/z.jpg", "Z");
    put("tree/b/2.jpg", "B2");
    put("tree/b/1.jpg", "B1");
    put("tree/b/a/3.jpg", "BA3");
    put("tree/b-c/4.jpg", "BC4");
    put("tree/.hidden/5.jpg", "H");
    put("tree/b/.6.jpg", "H");
    put("far/7.jpg", "F7");
    assert_int_equal(symlink("../../far", test_path("tree/b/link")), 0);
    assert_int_equal(symlink("..", test_path("tree/b/up")), 0);
    check(test_path("tree"), &o, "Z||-1;B1||-1;B2||-1;BA3||-1;F7||-1;BC4||-1;", 0);
    /* classes are the folders directly in it, each with all below */
    put("deep/cat/1.jpg", "C1");
    put("deep/cat/more/2.jpg", "C2");
    put("deep/dog/more/3.jpg", "D3");
    o = dataset_options_default();
    check(test_path("deep"), &o, "C1|cat|0;C2|cat|0;D3|dog|1;", 0);
}

static void test_tree_of_shards(void **state) {
    (void)state;
    Sources s;
    Error err;
    put("shards/b/1.tar", "x");
    put("shards/a/2.tar", "x");
    put("shards/a/3.jpg", "x");
    assert_true(sources_expand(&s, test_path("shards"), PIPES_NONE, &err));
    assert_int_equal(s.count, 2);
    assert_non_null(strstr(s.items[0].path, "shards/a/2.tar"));
    assert_non_null(strstr(s.items[1].path, "shards/b/1.tar"));
    sources_free(&s);
    char *twice = xasprintf("%s/{a,../shards,a,b}", test_path("shards"));
    assert_true(sources_expand(&s, twice, PIPES_NONE, &err));
    free(twice);
    const char *const names[] = {"2.tar", "2.tar", "1.tar", "2.tar", "1.tar"};
    assert_int_equal(s.count, COUNT(names));
    for (size_t i = 0; i < COUNT(names); i++)
        assert_string_equal(path_base(s.items[i].path), names[i]);
    assert_int_equal(s.folders.count, 3);
    sources_free(&s);
    put("shards/0.tar", "x"); /* shards in the folder itself are its data */
    assert_true(sources_expand(&s, test_path("shards"), PIPES_NONE, &err));
    assert_int_equal(s.count, 1);
    sources_free(&s);
}

static void test_pictures(void **state) {
    (void)state;
    DatasetOptions o = dataset_options_default();
    put("pics/a.jpg", "A");
    put("pics/a.txt", "ay");
    put("pics/b.PNG", "B");
    put("pics/list.txt", "\xef\xbb\xbf# all\na.jpg\r\n b.PNG\n");
    check(test_path("pics/list.txt"), &o, "A|ay|-1;", 1);
    o.text_keys = NULL;
    check(test_path("pics/list.txt"), &o, "A||-1;B||-1;", 0);
    char *spec = xasprintf("%s/{b.PNG,a.jpg}", test_path("pics"));
    check(spec, &o, "B||-1;A||-1;", 0);
    free(spec);
    Dataset *d = open_data_set(test_path("pics/list.txt"), &o);
    assert_int_equal(dataset_shards(d), 1);
    dataset_close(d);
    /* names that are not beside the list but in the current folder */
    put("pics/cwd.txt", "tests/golden/image/jpeg-420.jpg\n");
    d = open_data_set(test_path("pics/cwd.txt"), &o);
    Sample sample = {.key = NULL};
    Error err;
    assert_true(dataset_read(d, 0, &sample, &err));
    sample_free(&sample);
    dataset_close(d);
}

/* A separator in a caption that is not quoted. */
static void test_surplus_fields(void **state) {
    (void)state;
    DatasetOptions o = dataset_options_default();
    put("wide/a.jpg", "A");
    put("wide/b.jpg", "B");
    put("wide/x.csv",
        "filepath,title\na.jpg,red, round\nb.jpg,\"two\nlines\"\nb.jpg,one,two,three\n");
    refuse_data_set(test_path("wide/x.csv"), &o,
                    "2 rows have more fields than the header (line 2, line 5): quote");
    put("wide/empty.csv", "filepath,title\na.jpg,red,\n"); /* nothing is lost */
    check(test_path("wide/empty.csv"), &o, "A|red|-1;", 0);
    put("wide/last.csv", "title,filepath\nred, round,a.jpg\n");
    refuse_data_set(test_path("wide/last.csv"), &o, "1 rows have more fields");
    o.text_keys = NULL; /* the path may be in another field, too */
    refuse_data_set(test_path("wide/last.csv"), &o, "1 rows have more fields");
    check(test_path("wide/x.csv"), &o, "A||-1;B||-1;B||-1;", 0);
    o = dataset_options_default();
    o.csv_join = true;
    check(test_path("wide/x.csv"), &o, "A|red, round|-1;B|two\nlines|-1;B|one,two,three|-1;", 0);
    check(test_path("wide/last.csv"), &o, "A|red, round|-1;", 0);
    o.text_keys = NULL; /* the caption's columns are joined all the same: the path comes after */
    check(test_path("wide/last.csv"), &o, "A||-1;", 0);
}

static void test_column_names(void **state) {
    (void)state;
    DatasetOptions o = dataset_options_default();
    put("names/a.jpg", "A");
    put("names/x.csv", "\xef\xbb\xbf"
                       "caption,image\nwords,a.jpg\n");
    check(test_path("names/x.csv"), &o, "A|words|-1;", 0);
    put("names/x.jsonl", "\xef\xbb\xbf"
                         "{\"image\": \"a.jpg\", \"text\": \"words\"}\n");
    check(test_path("names/x.jsonl"), &o, "A|words|-1;", 0);
    o.csv_caption_key = "alt"; /* a name that was given is meant */
    refuse_data_set(test_path("names/x.csv"), &o, "no column \"alt\" among");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_csv),          cmocka_unit_test(test_csv_cut),
        cmocka_unit_test(test_csv_data),     cmocka_unit_test(test_refused),
        cmocka_unit_test(test_flat_folder),  cmocka_unit_test(test_class_folders),
        cmocka_unit_test(test_tree),         cmocka_unit_test(test_tree_of_shards),
        cmocka_unit_test(test_pictures),     cmocka_unit_test(test_surplus_fields),
        cmocka_unit_test(test_column_names),
    };
    return cmocka_run_group_tests_name("table", tests, NULL, NULL);
}
