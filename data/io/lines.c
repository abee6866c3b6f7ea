/* lines: see the header. */
#include "data/io/lines.h"
#include "data/io/utf8.h"
#include <stdlib.h>
#include <string.h>

void lines_open(Lines *l, FILE *file) {
    *l = (Lines){.file = file, .buffer = xmalloc(LINES_BLOCK)};
}

void lines_close(Lines *l) {
    free(l->buffer);
    *l = (Lines){0};
}

static void fill(Lines *l) {
    memmove(l->buffer, l->buffer + l->taken, l->have - l->taken);
    l->have -= l->taken;
    l->from += l->taken;
    l->taken = 0;
    bool first = !l->begun;
    l->begun = true;
    while (!l->ended && l->have < LINES_BLOCK) {
        size_t got = fread(l->buffer + l->have, 1, LINES_BLOCK - l->have, l->file);
        l->have += got;
        if (got == 0) l->ended = true;
    }
    size_t mark = first ? text_mark(l->buffer, l->have) : 0;
    l->have -= mark;
    l->from += mark;
    if (mark) memmove(l->buffer, l->buffer + mark, l->have);
}

/* The length to which a line that fills the whole buffer is cut. */
static size_t cut_place(const char *s, size_t n) {
    size_t back = 0;
    while (back < 4 && back < n && (s[n - 1 - back] & 0xC0) == 0x80) back++;
    if (back < n && (s[n - 1 - back] & 0xC0) == 0xC0) back++;
    return back < n ? n - back : n;
}

bool lines_next_block(Lines *l, const char **block, size_t *n) {
    for (;;) {
        fill(l);
        if (l->have == 0) return false;
        if (l->skipping) {
            const char *end = memchr(l->buffer, '\n', l->have);
            l->taken = end ? (size_t)(end - l->buffer) + 1 : l->have;
            l->skipping = end == NULL;
            continue;
        }
        size_t whole = l->have;
        while (whole > 0 && l->buffer[whole - 1] != '\n') whole--;
        *block = l->buffer;
        if (whole > 0) {
            *n = l->taken = whole;
        } else if (l->ended) {
            *n = l->taken = l->have;
        } else {
            *n = cut_place(l->buffer, l->have);
            l->taken = l->have;
            l->skipping = true;
            l->cut++;
        }
        return true;
    }
}

bool lines_take(const char **block, size_t *n, const char **line, size_t *line_n) {
    if (*n == 0) return false;
    const char *end = memchr(*block, '\n', *n);
    *line = *block;
    *line_n = end ? (size_t)(end - *block) : *n;
    size_t used = *line_n + (end != NULL);
    *block += used;
    *n -= used;
    return true;
}
