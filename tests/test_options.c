/* Options: command line, recipes, ranges, messages. */
#include "tests/support.h"
#include "train/options.h"
#include "train/train_options.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static bool flag, consent;
static int64_t number;
static double real;
static const char *string, *config, *file, *data;
#define PLACES(X) X(FIRST, "one") X(SECOND, "two") X(THIRD, "three")
static enum { PLACES(CHOICE_NAME) } choice;
static StringList list;
static Steps steps;

static Option table[] = {
    STRING("config", &config, NULL, ""),   FLAG("flag", &flag, ""),
    CONSENT("consent", &consent, ""),      INT("batch-size", &number, 1, 100, ""),
    FLOAT("lr", &real, 0, 1, ""),          STRING("string", &string, NULL, ""),
    PATH("file", &file, NULL, ""),         DATA("data", &data, NULL, ""),
    CHOICE("choice", &choice, PLACES, ""), LIST("list", &list, NULL, ""),
    STEPS("steps", &steps, 1, 1000, ""),
};
static const Command command = {"test", "A test.", "clipc test", NULL, table, COUNT(table)};

static int reset(void **state) {
    (void)state;
    flag = consent = false, number = 8, real = 0.5, choice = FIRST;
    string = config = file = data = NULL;
    string_list_free(&list);
    steps = (Steps){.count = 7};
    for (size_t i = 0; i < COUNT(table); i++) table[i].given = NOT_GIVEN;
    return 0;
}

static void parse(const char *line) {
    char *copy = xstrdup(line), *argv[32] = {"test"};
    int argc = 1;
    for (char *save, *word = strtok_r(copy, " ", &save); word; word = strtok_r(NULL, " ", &save))
        argv[argc++] = word;
    options_parse(&command, argc, argv, NULL);
    free(copy);
}

static void test_every_type(void **state) {
    (void)state;
    parse("--flag --batch-size 12 --lr=0.25 --string abc --choice three --list a b --list c");
    assert_true(flag);
    assert_int_equal(number, 12);
    assert_near(real, 0.25, 0);
    assert_string_equal(string, "abc");
    assert_int_equal(choice, THIRD);
    assert_int_equal(list.count, 3);
    assert_string_equal(list.items[2], "c");
    assert_true(option_find(&command, "lr")->given);
    parse("--no-flag");
    assert_false(flag);
}

static void test_recipe_and_order(void **state) {
    (void)state;
    const char *path = test_path("recipe.conf");
    const char *text = "# a comment\nbatch-size = 20  # another\nlr = 0.125\nflag = true\n"
                       "string = a#b c\nlist = x y\n\n";
    test_write_file(path, text, strlen(text));
    char line[4096];
    snprintf(line, sizeof line, "--lr 0.75 --config %s --batch-size 30", path);
    parse(line);
    assert_int_equal(number, 30); /* is after the recipe */
    assert_near(real, 0.125, 0);  /* the recipe is after it */
    assert_string_equal(string, "a#b c");
    assert_int_equal(list.count, 2);
    assert_true(flag);
}

static void test_written_options_read_back(void **state) {
    (void)state;
    parse("--flag --batch-size 77 --lr 0.1 --string hello --choice two --list p q");
    const char *path = test_path("written.conf");
    options_write(&command, path);
    reset(NULL);
    options_read_recipe(&command, path);
    assert_true(flag);
    assert_int_equal(number, 77);
    assert_near(real, 0.1, 1e-12);
    assert_string_equal(string, "hello");
    assert_int_equal(choice, 1);
    assert_int_equal(list.count, 2);
}

/* Values that a recipe would change are quoted; what was a value before quotes were is one. */
static void test_any_value_reads_back(void **state) {
    (void)state;
    const char *path = test_path("any.conf");
    const char *const values[] = {"a #b",    "#",
                                  " a",      "a\t",
                                  "\"",      "\"a\"",
                                  "\"a\" b", "a\nb = c\n",
                                  "a\rb",    "\\ \\\" \\n #",
                                  "a#b",     "pipe:cat \"x y\"",
                                  "a = b",   "\\",
                                  "\t",      ""};
    const double reals[] = {1.0 / 3, 0.1, 1e-300, 0.123456789012, 1, 0};
    for (size_t i = 0; i < COUNT(values); i++) {
        reset(NULL);
        string = values[i];
        real = reals[i % COUNT(reals)];
        options_write(&command, path);
        reset(NULL);
        options_read_recipe(&command, path);
        assert_string_equal(string, values[i]);
        assert_true(real == reals[i % COUNT(reals)]);
    }
    reset(NULL);
    parse("--list #a b #c");
    options_write(&command, path);
    reset(NULL);
    options_read_recipe(&command, path);
    assert_int_equal(list.count, 3);
    assert_string_equal(list.items[0], "#a");
    assert_string_equal(list.items[2], "#c");
    const char *const items[] = {"a b", "", "\"", "c\td", "e\\ \"f\"", "\"g\" h", "i\nj #k", "l"};
    for (size_t from = 0; from < COUNT(items); from++) {
        reset(NULL);
        for (size_t i = from; i < COUNT(items); i++) string_list_add(&list, items[i]);
        options_write(&command, path);
        reset(NULL);
        options_read_recipe(&command, path);
        assert_int_equal(list.count, COUNT(items) - from);
        for (size_t i = 0; i < list.count; i++) assert_string_equal(list.items[i], items[from + i]);
    }
    const char *text[] = {"string = \"a b\" # comment\n",
                          "string = \"a\" b\n",
                          "string = \"a\n",
                          "string = a \"b\"\n",
                          "string = \"a\"b\n",
                          "string = \"a\\x\"",
                          "# string = \"a\"\nstring=b # = \"c\"\n"};
    const char *want[] = {"a b", "\"a\" b", "\"a", "a \"b\"", "\"a\"b", "a\\x", "b"};
    for (size_t i = 0; i < COUNT(text); i++) {
        test_write_file(path, text[i], strlen(text[i]));
        options_read_recipe(&command, path);
        assert_string_equal(string, want[i]);
    }
}

/* A NUL byte is refused with its line, wherever it is; nothing after it is skipped in silence. */
static void test_nul_bytes(void **state) {
    (void)state;
    static const char *const texts[] = {"string = a\0b\n", "\0\n", "# c\0\nstring = a\n",
                                        "string = a\0"};
    static const size_t sizes[] = {13, 2, 16, 12};
    for (size_t i = 0; i < COUNT(texts); i++) {
        Error err = {""};
        FILE *f = fmemopen((void *)texts[i], sizes[i], "r");
        assert_false(options_parse_recipe(&command, f, "n.conf", &err));
        fclose(f);
        assert_string_equal(err.text, "n.conf:1: a NUL byte: this is no text");
    }
}

/* Recorded paths are absolute; words that name no file, commands and addresses stay. */
static void test_paths(void **state) {
    (void)state;
    const char *path = test_path("paths.conf");
    char *here = getcwd(NULL, 0);
    const struct {
        const char *data, *want; /* H: the current folder */
    } cases[] = {
        {"a.tar", "H/a.tar"},
        {"s/{0..3}.tar::b.csv", "H/s/{0..3}.tar::H/b.csv"},
        {"@list::/x.tar", "@H/list::/x.tar"},
        {"idx:a,b", "idx:H/a,H/b"},
        {"idx:./a", "idx:H/a"},
        {"pipe:cat a.tar::-", "pipe:cat a.tar::-"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        parse("--file tests/support.h --string tests/support.h");
        data = cases[i].data;
        options_write(&command, path);
        reset(NULL);
        options_read_recipe(&command, path);
        char *want = xstrdup("");
        for (const char *c = cases[i].want; *c; c++) {
            char *longer = *c == 'H' ? xasprintf("%s%s", want, here) : xasprintf("%s%c", want, *c);
            free(want);
            want = longer;
        }
        assert_string_equal(data, want);
        free(want);
        want = xasprintf("%s/tests/support.h", here);
        assert_string_equal(file, want);
        assert_string_equal(string, "tests/support.h");
        free(want);
    }
    parse("--file ViT-B-32");
    options_write(&command, path);
    options_read_recipe(&command, path);
    assert_string_equal(file, "ViT-B-32");
    free(here);
}

/* A path of a recipe is relative to the current folder, or else to the recipe's. */
static void test_paths_beside_a_recipe(void **state) {
    (void)state;
    const char *path = test_path("beside.conf"),
               *text = "\xef\xbb\xbf"
                       "file = only-there\ndata = only-there::tests/support.h::no-file\n";
    test_write_file(path, text, strlen(text));
    test_write_file(test_path("only-there"), "x", 1);
    options_read_recipe(&command, path);
    assert_true(*file == '/' && !access(file, R_OK));
    char *want = xasprintf("%s::tests/support.h::no-file", file);
    assert_string_equal(data, want);
    free(want);
    unlink(test_path("only-there"));
}

static void test_steps(void **state) {
    (void)state;
    const struct {
        const char *text;
        uint64_t total, want;
    } cases[] = {{"12", 3, 12},        {"10%", 200, 20},       {"10%", 3, 1},
                 {"500,10%", 200, 20}, {"500,10%", 5000, 500}, {"500,10%", 50000, 500},
                 {"2.5%", 1000, 25},   {"100%", 17, 17}};
    const char *path = test_path("steps.conf");
    char line[64];
    for (size_t i = 0; i < COUNT(cases); i++) {
        snprintf(line, sizeof line, "--steps %s", cases[i].text);
        parse(line);
        options_write(&command, path);
        steps = (Steps){.count = 1};
        options_read_recipe(&command, path);
        char *text = option_text(option_find(&command, "steps"));
        assert_string_equal(text, cases[i].text);
        free(text);
        steps_settle(&steps, cases[i].total);
        assert_int_equal(steps.of_run, cases[i].want);
    }
}

static void parse_line(void *line) { parse(line); }

/* A recipe neither sets nor records a consent. */
static void test_consent(void **state) {
    (void)state;
    char line[4096];
    const char *path = test_path("consent.conf");
    parse("--consent --string abc");
    assert_true(consent);
    assert_int_equal(option_find(&command, "string")->given, GIVEN_ON_COMMAND_LINE);
    options_write(&command, path);
    parse("--no-consent");
    assert_false(consent);
    snprintf(line, sizeof line, "--config %s", path);
    parse(line);
    assert_false(consent);
    assert_int_equal(option_find(&command, "string")->given, GIVEN_BY_RECIPE);
    test_write_file(path, "consent = true\n", 15);
    test_dies(parse_line, line, EXIT_USAGE, "no recipe can allow it");
}

static void test_refusals(void **state) {
    (void)state;
    test_dies(parse_line, "--batch-sise 3", EXIT_USAGE, "did you mean 'batch-size'");
    test_dies(parse_line, "--batch-size -3", EXIT_USAGE, "between 1 and 100");
    test_dies(parse_line, "--batch-size three", EXIT_USAGE, "whole number");
    test_dies(parse_line, "--batch-size", EXIT_USAGE, "needs a value");
    const char *const no_steps[] = {"x",  "5%%",  "0%",    "101%", "nan%",
                                    "5,", "0,5%", "-1,5%", ",5%",  "5,10"};
    for (size_t i = 0; i < COUNT(no_steps); i++) {
        char steps_line[64];
        snprintf(steps_line, sizeof steps_line, "--steps=%s", no_steps[i]);
        test_dies(parse_line, steps_line, EXIT_USAGE, "steps must");
    }
    test_dies(parse_line, "--steps 0", EXIT_USAGE, "between 1 and 1000");
    test_dies(parse_line, "--lr nan", EXIT_USAGE, "between 0 and 1");
    test_dies(parse_line, "--choice four", EXIT_USAGE, CHOICES(PLACES));
    test_dies(parse_line, "--choice twoo", EXIT_USAGE, "did you mean 'two'?");
    test_dies(parse_line, "--flag=perhaps", EXIT_USAGE, "true or false");
    test_dies(parse_line, "--no-batch-size", EXIT_USAGE, "no-batch-size");
    test_dies(parse_line, "--no-flag=true", EXIT_USAGE, "no-flag");
    test_dies(parse_line, "stray", EXIT_USAGE, "'stray' is no option");
    test_dies(parse_line, "--config /nowhere.conf", EXIT_ERROR, "/nowhere.conf");
    const char *path = test_path("bad.conf");
    test_write_file(path, "lr = 0.1\nnonsense\n", 18);
    char line[4096];
    snprintf(line, sizeof line, "--config %s", path);
    test_dies(parse_line, line, EXIT_USAGE, "bad.conf:2");
}

/* On a GPU the rank's CPUs but two; else two, which leave the CPUs to the products. */
static void test_loader_threads(void **state) {
    (void)state;
    Device gpu = {.gpu = true}, host = {.gpu = false};
    const Kernels on_gpu = {.device = &gpu}, on_host = {.device = &host};
    const struct {
        int64_t given;
        double cpus;
        size_t gpu, host;
    } rows[] = {{0, 16, 14, 2}, {0, 1.5, 2, 2},   {0, 2, 2, 2}, {0, 4.9, 2, 2},
                {0, 5, 3, 2},   {0, 1e3, 256, 2}, {7, 16, 7, 7}};
    for (size_t i = 0; i < COUNT(rows); i++) {
        TrainOptions o = {.workers = rows[i].given};
        assert_int_equal(loader_threads_of(&o, &on_gpu, rows[i].cpus), rows[i].gpu);
        assert_int_equal(loader_threads_of(&o, &on_host, rows[i].cpus), rows[i].host);
    }
    assert_int_equal(train_options.workers, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_every_type, reset),
        cmocka_unit_test_setup(test_recipe_and_order, reset),
        cmocka_unit_test_setup(test_written_options_read_back, reset),
        cmocka_unit_test_setup(test_any_value_reads_back, reset),
        cmocka_unit_test_setup(test_nul_bytes, reset),
        cmocka_unit_test_setup(test_paths, reset),
        cmocka_unit_test_setup(test_paths_beside_a_recipe, reset),
        cmocka_unit_test_setup(test_steps, reset),
        cmocka_unit_test_setup(test_consent, reset),
        cmocka_unit_test_setup(test_refusals, reset),
        cmocka_unit_test(test_loader_threads),
    };
    return cmocka_run_group_tests_name("options", tests, NULL, NULL);
}
