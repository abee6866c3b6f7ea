#include "kernels/terminal.h"

#include "kernels/base.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static size_t put_escaped(char *out, unsigned char byte) {
    static const char digits[] = "0123456789abcdef";
    memcpy(out, (char[]){'\\', 'x', digits[byte >> 4], digits[byte & 15]}, 4);
    return 4;
}

size_t terminal_escape(TerminalText *t, char *out, const char *text, size_t n) {
    size_t m = 0;
    for (size_t i = 0; i < n; i++) {
        unsigned char b = (unsigned char)text[i];
        bool continues = t->continuation && (b & 0xC0) == 0x80;
        t->continuation = continues   ? t->continuation - 1
                          : b >= 0xF0 ? 3
                          : b >= 0xE0 ? 2
                          : b >= 0xC2 ? 1
                                      : 0;
        if (t->held && continues && b < 0xA0) {
            t->held = 0;
            m += put_escaped(out + m, b);
            continue;
        }
        if (t->held) out[m++] = (char)t->held;
        t->held = b == 0xC2 ? b : 0;
        if (t->held) continue;
        bool c0 = (b < 0x20 && b != '\n' && b != '\t') || b == 0x7F;
        bool c1 = !continues && b >= 0x80 && b < 0xA0;
        if (c0 || c1)
            m += put_escaped(out + m, b);
        else
            out[m++] = (char)b;
    }
    return m;
}

static ssize_t write_escaped(void *cookie, const char *text, size_t n) {
    char out[TERMINAL_GROWTH * (256 + 1)];
    for (size_t done = 0; done < n;) {
        size_t piece = size_min(n - done, 256),
               m = terminal_escape(cookie, out, text + done, piece);
        for (size_t at = 0; at < m;) {
            ssize_t wrote = write(STDOUT_FILENO, out + at, m - at);
            if (wrote < 0 && errno != EINTR) return 0;
            if (wrote > 0) at += (size_t)wrote;
        }
        done += piece;
    }
    return (ssize_t)n;
}

static void check_output(void) {
    bool failed = ferror(stdout), unwritten = fflush(stdout) != 0;
    if (!failed && !unwritten) return;
    log_warn("standard output: %s: what was printed is not complete",
             unwritten ? strerror(errno) : "a write failed");
    _exit(EXIT_ERROR);
}

void terminal_guard(void) {
    static TerminalText text;
    if (isatty(STDOUT_FILENO)) {
        FILE *escaped = fopencookie(&text, "w", (cookie_io_functions_t){.write = write_escaped});
        if (escaped) {
            setvbuf(escaped, NULL, _IOLBF, BUFSIZ);
            stdout = escaped;
        }
    }
    at_every_exit(check_output);
}
