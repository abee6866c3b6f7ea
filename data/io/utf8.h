/* utf8: decodes and encodes code points, and detects blank text. */
#pragma once
#include "kernels/base.h"

#define UTF8_INVALID 0xFFFFFFFFu
/* The code point at s (n > 0 bytes are left) and its length in bytes. Invalid UTF-8 (overlong,
 * surrogate, out of range, truncated) gives UTF8_INVALID and the length of the longest prefix of a
 * valid sequence (Unicode 15, section 3.9, table 3-8). */
size_t utf8_decode(const unsigned char *s, size_t n, uint32_t *cp);
/* Writes 1 to 4 bytes. */
size_t utf8_encode(uint32_t cp, char *out);

/* The length of the byte order mark with which the text begins: 3 or 0. */
size_t text_mark(const char *text, size_t n);
/* Returns true if there is only ASCII white space and NUL bytes. */
bool text_is_blank(const char *text, size_t n);
bool string_is_blank(const char *s);
