/* Any text in any pieces: what a terminal gets holds no control sequence, and the same bytes
 * whatever the pieces. */
#include "kernels/terminal.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

static size_t escape(TerminalText *t, char *out, const char *text, size_t n) {
    char *exact = malloc(n + !n),
         *to = malloc(TERMINAL_GROWTH * (n + 1)); /* so that ASan sees one byte beyond */
    memcpy(exact, text, n);
    size_t m = terminal_escape(t, to, exact, n);
    memcpy(out, to, m);
    free(exact);
    free(to);
    return m;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    if (n < 1 || n > 4096) return 0;
    const char *text = (const char *)bytes + 1;
    size_t cut = bytes[0] % n, m, k;
    char *whole = malloc(TERMINAL_GROWTH * (n + 2)), *pieces = malloc(TERMINAL_GROWTH * (n + 2));
    TerminalText a = {0}, b = {0};
    m = escape(&a, whole, text, n - 1);
    m += escape(&a, whole + m, "\n", 1);
    k = escape(&b, pieces, text, cut);
    k += escape(&b, pieces + k, text + cut, n - 1 - cut);
    k += escape(&b, pieces + k, "\n", 1);
    if (m != k || memcmp(whole, pieces, m)) abort();
    for (size_t i = 0; i < m; i++) {
        unsigned char c = (unsigned char)whole[i];
        if ((c < 0x20 && c != '\t' && c != '\n') || c == 0x7f) abort();
        if (c == 0xc2 && i + 1 < m && ((unsigned char)whole[i + 1] & 0xe0) == 0x80) abort();
    }
    free(whole);
    free(pieces);
    return 0;
}
