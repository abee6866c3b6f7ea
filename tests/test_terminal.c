/* Terminal control sequences are shown escaped, wherever a piece of text ends. */
#include "kernels/terminal.h"
#include "tests/support.h"

#include <string.h>

static void test_escapes(void **state) {
    (void)state;
    static const struct {
        const char *text, *shown;
    } cases[] = {
        {"a red boat\tx\n", "a red boat\tx\n"},
        {"\x1b]0;title\x07", "\\x1b]0;title\\x07"},
        {"a\rb\x7f", "a\\x0db\\x7f"},
        {"\xc2\x9b"
         "31m",
         "\\x9b31m"},      /* CSI as UTF-8 */
        {"\x9b", "\\x9b"}, /* and as a single byte */
        {"caf\xc3\xa9 \xc2\xa9", "caf\xc3\xa9 \xc2\xa9"},
        {"\xe2\x80\x9c\xf0\x9f\x90\x88",
         "\xe2\x80\x9c\xf0\x9f\x90\x88"}, /* continuation bytes of C1's range */
        {"\xc2"
         "a\xc2\xc2\x85",
         "\xc2"
         "a\xc2\\x85"},
        {"\xe2\x9b\x1b", "\xe2\x9b\\x1b"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        size_t n = strlen(cases[i].text);
        for (size_t cut = 0; cut <= n; cut++) {
            char out[200];
            TerminalText t = {0};
            size_t m = terminal_escape(&t, out, cases[i].text, cut);
            m += terminal_escape(&t, out + m, cases[i].text + cut, n - cut);
            out[m] = 0;
            assert_string_equal(out, cases[i].shown);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_escapes)};
    return cmocka_run_group_tests_name("terminal", tests, NULL, NULL);
}
