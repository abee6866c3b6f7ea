/* Some test of tests/test_kernels_*.c calls every slot of the device and of the kernel table, from
 * the backend under test or through RUN. Reads the sources, so it runs in the repository's root. */
#include "kernels/kernels.h"
#include "tests/support.h"

#include <glob.h>
#include <stdlib.h>
#include <string.h>

/* Returns true if `text` contains `head` + `slot` + `tail`. */
static bool calls(const char *text, const char *head, const char *slot, const char *tail) {
    char *call = xasprintf("%s%s%s", head, slot, tail);
    bool found = strstr(text, call) != NULL;
    free(call);
    return found;
}

static void every_slot_is_tested(void **state) {
    (void)state;
    bool tested[SLOT_COUNT] = {false};
    glob_t files;
    assert_int_equal(glob("tests/test_kernels_*.c", 0, NULL, &files), 0);
    for (size_t f = 0; f < files.gl_pathc; f++) {
        char *text = test_read_file(files.gl_pathv[f], NULL);
        for (int s = 0; s < SLOT_COUNT; s++)
            tested[s] |= calls(text, "backend->device->", kernel_names[s], "(") ||
                         calls(text, "RUN(", kernel_names[s], ",") ||
                         calls(text, "backend->", kernel_names[s], "(");
        free(text);
    }
    globfree(&files);
    size_t missing = 0;
    for (int s = 0; s < SLOT_COUNT; s++)
        if (!tested[s]) {
            print_error("no test calls the kernel %s\n", kernel_names[s]);
            missing++;
        }
    assert_int_equal(missing, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_slot_is_tested)};
    return cmocka_run_group_tests_name("kernels_coverage", tests, NULL, NULL);
}
