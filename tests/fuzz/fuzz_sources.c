/* Any text as a specification of data (first byte even), or as a list file that one names (odd):
 * refused, or a bounded number of items. Nothing is run. */
#include "data/sources.h"
#include "tests/fuzz/work_folder.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

/* The folder in which names are looked up: outer/inner of an otherwise empty one, so that without a
 * slash ".." reaches nothing else. */
static void enter(void) {
    static const char *const files[] = {"a.tar", "b.jpg", "c", "outer/d.tar.zst",
                                        "outer/inner/e.tar"};
    char *outer = folder_path(work_folder(), "outer"), *inner = folder_path(outer, "inner");
    if (!folder_is(inner)) {
        folder_make_or_die(inner);
        for (size_t i = 0; i < COUNT(files); i++) free(work_file(files[i], (const uint8_t *)"", 0));
    }
    if (chdir(inner)) abort();
    free(inner);
    free(outer);
}

/* Slashes are only for addresses ("x://"), where no folder is. */
static void stay_inside(char *text) {
    for (char *p = text; *p; p++)
        if (*p == '/' && !(p > text + 1 && p[-1] == ':' && p[-2] >= 'a' && p[-2] <= 'z') &&
            !(p > text + 2 && p[-1] == '/' && p[-2] == ':'))
            *p = '_';
}

/* An upper bound of the names that braces give: each time digits {0..99}, or commas. */
static bool is_large(const char *text) {
    double names = 1;
    for (const char *p = strchr(text, '{'); p; p = strchr(p + 1, '{')) {
        size_t n = strcspn(p, "}\n");
        double numbers = 1, commas = 1;
        for (size_t i = 0; i < n; i++) {
            if (p[i] == ',') commas++;
            if (p[i] >= '0' && p[i] <= '9') numbers *= 10;
        }
        names *= numbers > commas ? numbers : commas;
    }
    return names > 20000;
}

static void check(const Sources *s, bool in_list) {
    for (size_t i = 0; i < s->count; i++) {
        const SourceItem *x = &s->items[i];
        if (!x->source || x->part >= s->parts || !*x->path) abort();
        if (in_list && !strncmp(x->path, "pipe:", 5)) abort();
        free(source_short_name(x->path));
    }
    if (!s->count) abort();
}

static char *same(const void *context, const char *path) {
    (void)context;
    return xstrdup(path);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    static int home = -1;
    if (home < 0) home = open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (n < 1) return 0;
    const bool in_list = bytes[0] & 1;
    char *text = xasprintf("%.*s", (int)(n - 1), (const char *)bytes + 1), *list = NULL;
    stay_inside(text);
    if (!is_large(text)) {
        Sources s;
        Error err = {""};
        enter();
        if (in_list) list = work_file("outer/inner/list", (const uint8_t *)text, strlen(text));
        if (sources_expand(&s, list ? "@list" : text, PIPES_OF_SPEC, &err))
            check(&s, in_list);
        else if (!*err.text)
            abort();
        sources_free(&s);
        if (list) unlink(list);
        if (fchdir(home)) abort();
        char *mapped = sources_map(text, same, NULL);
        if (strcmp(mapped, text)) abort();
        double factor[3], sum = 0;
        if (parse_factors(factor, 3, text, &err)) {
            for (size_t i = 0; i < 3; i++) sum += factor[i];
            if (!(sum > 0)) abort();
        }
        FREE_ALL(mapped, list);
    }
    free(text);
    return 0;
}
