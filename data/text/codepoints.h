/* codepoints: a growing array of Unicode code points, from UTF-8, and NFC. */
#pragma once
#include "data/io/utf8.h"

enum { CODEPOINT_MAX = 0x10FFFF, CODEPOINT_REPLACEMENT = 0xFFFD };

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

/* Appends the text; invalid UTF-8 becomes U+FFFD. */
void codepoints_from_utf8(CodePoints *c, const char *s, size_t n);
/* Normalization form C (Unicode annex 15). */
void codepoints_nfc(CodePoints *c);
