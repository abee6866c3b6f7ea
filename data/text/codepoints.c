/* codepoints: see the header. Composition and decomposition data come from libutf8proc. */
#include "data/text/codepoints.h"
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

void codepoints_reserve(CodePoints *c, size_t room) {
    if (room <= c->room) return;
    size_t grown = size_max(room, size_max(64, c->room + c->room / 2));
    c->at = xrealloc(c->at, size_mul(grown, sizeof *c->at));
    c->room = grown;
}

void codepoints_append(CodePoints *c, const uint32_t *values, size_t n) {
    if (n == 0) return;
    codepoints_reserve(c, size_add(c->count, n));
    memcpy(c->at + c->count, values, n * sizeof *values);
    c->count += n;
}

void codepoints_free(CodePoints *c) {
    free(c->at);
    *c = (CodePoints){0};
}

bool codepoints_equal(const CodePoints *a, const CodePoints *b) {
    return a->count == b->count &&
           (a->count == 0 || memcmp(a->at, b->at, a->count * sizeof *a->at) == 0);
}

void codepoints_from_utf8(CodePoints *c, const char *s, size_t n) {
    codepoints_reserve(c, size_add(c->count, n));
    uint32_t *out = c->at + c->count;
    const unsigned char *p = (const unsigned char *)s, *end = p + n;
    while (p < end) {
        uint32_t cp;
        p += utf8_decode(p, (size_t)(end - p), &cp);
        *out++ = cp == UTF8_INVALID ? CODEPOINT_REPLACEMENT : cp;
    }
    c->count = (size_t)(out - c->at);
}

static int by_class(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* Sorts a run of combining marks by combining class, stably. Short runs, the common case, use
 * insertion sort. A long run is packed as (class, position, mark) and sorted, so that hostile text
 * costs n log n. */
static void order_marks(uint32_t *marks, size_t n) {
    if (n <= 16) {
        for (size_t i = 1; i < n; i++) {
            uint32_t mark = marks[i];
            int rank = utf8proc_get_property((utf8proc_int32_t)mark)->combining_class;
            size_t j = i;
            for (; j > 0; j--) {
                int before = utf8proc_get_property((utf8proc_int32_t)marks[j - 1])->combining_class;
                if (before <= rank) break;
                marks[j] = marks[j - 1];
            }
            marks[j] = mark;
        }
        return;
    }
    uint64_t *keys = xmalloc(size_mul(n, 2 * sizeof *keys));
    uint32_t *copy = (uint32_t *)(keys + n);
    memcpy(copy, marks, n * sizeof *marks);
    for (size_t i = 0; i < n; i++) {
        uint64_t rank =
            (uint64_t)utf8proc_get_property((utf8proc_int32_t)marks[i])->combining_class;
        keys[i] = rank << 48 | i;
    }
    qsort(keys, n, sizeof *keys, by_class);
    for (size_t i = 0; i < n; i++) marks[i] = copy[keys[i] & 0xFFFFFFFFFFFF];
    free(keys);
}

void codepoints_nfc(CodePoints *c) {
    CodePoints out = {0};
    codepoints_reserve(&out, c->count + 8);
    for (size_t i = 0; i < c->count; i++) {
        utf8proc_int32_t parts[8];
        int last_class = 0;
        utf8proc_ssize_t n = utf8proc_decompose_char((utf8proc_int32_t)c->at[i], parts,
                                                     COUNT(parts), UTF8PROC_DECOMPOSE, &last_class);
        assert(n > 0 && (size_t)n <= COUNT(parts));
        codepoints_append(&out, (const uint32_t *)parts, (size_t)n);
    }
    for (size_t i = 0; i < out.count;) {
        size_t first = i;
        while (i < out.count &&
               utf8proc_get_property((utf8proc_int32_t)out.at[i])->combining_class != 0)
            i++;
        if (i - first > 1) order_marks(out.at + first, i - first);
        if (i == first) i++;
    }
    utf8proc_ssize_t n =
        utf8proc_normalize_utf32((utf8proc_int32_t *)out.at, (utf8proc_ssize_t)out.count,
                                 UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    assert(n >= 0);
    out.count = (size_t)n;
    codepoints_swap(c, &out);
    codepoints_free(&out);
}
