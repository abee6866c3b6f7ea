/* utf8: code points out of UTF-8 and into it, and text that is blank. */
#ifndef DATA_IO_UTF8_H
#define DATA_IO_UTF8_H
#include "kernels/base.h"

#define UTF8_INVALID 0xFFFFFFFFu
/* The code point at s (n > 0 bytes are left) and how many bytes it takes. Bytes that are not UTF-8
 * (overlong, surrogate, out of range, cut off) give UTF8_INVALID and the length of the longest part
 * that could have begun a code point (Unicode 15, section 3.9, table 3-8). */
size_t utf8_decode(const unsigned char *s, size_t n, uint32_t *cp);
/* Writes 1 to 4 bytes. */
size_t utf8_encode(uint32_t cp, char *out);

/* Nothing but white space (of ASCII) and NUL bytes. */
bool text_is_blank(const char *text, size_t n);
bool string_is_blank(const char *s);
#endif
