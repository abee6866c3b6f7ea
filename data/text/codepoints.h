/* codepoints: a growing array of Unicode code points, UTF-8 in and out, and NFC. For the caption
 * cleaner (data/text/). */
#ifndef DATA_TEXT_CODEPOINTS_H
#define DATA_TEXT_CODEPOINTS_H
#include "kernels/base.h"

enum { CODEPOINT_MAX = 0x10FFFF, CODEPOINT_REPLACEMENT = 0xFFFD };
#define UTF8_INVALID 0xFFFFFFFFu

typedef struct CodePoints {
    uint32_t *at;
    size_t count, room;
} CodePoints;

void codepoints_reserve(CodePoints *c, size_t room);
static inline void codepoints_push(CodePoints *c, uint32_t value) {
    if (c->count == c->room) codepoints_reserve(c, c->count + 1);
    c->at[c->count++] = value;
}
void codepoints_append(CodePoints *c, const uint32_t *values, size_t n);
void codepoints_free(CodePoints *c);
bool codepoints_equal(const CodePoints *a, const CodePoints *b);
static inline void codepoints_swap(CodePoints *a, CodePoints *b) {
    CodePoints t = *a;
    *a = *b, *b = t;
}

/* The code point at s (n > 0 bytes are left) and how many bytes it takes. Bytes that are not UTF-8
 * (overlong, surrogate, out of range, cut off) give UTF8_INVALID and the length of the longest part
 * that could have begun a code point (Unicode 15, section 3.9, table 3-8). */
size_t utf8_decode(const unsigned char *s, size_t n, uint32_t *cp);
/* Writes 1 to 4 bytes. */
size_t utf8_encode(uint32_t cp, char *out);

/* Appends the text; what is not UTF-8 becomes U+FFFD. */
void codepoints_from_utf8(CodePoints *c, const char *s, size_t n);
/* Normalization form C (Unicode annex 15). */
void codepoints_nfc(CodePoints *c);
#endif
