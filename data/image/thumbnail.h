/* thumbnail: small pictures for HTML pages. */
#pragma once
#include "data/image/image.h"
#include "data/image/resize.h"

/* img → JPEG bytes (malloc'd), shrunk so that no side is longer than `side`; smaller pictures keep
 * their size. */
bool thumbnail_jpeg(uint8_t **bytes, size_t *size, const Image *img, int side,
                    ResizeScratch **scratch, Error *err);
/* n bytes as a data URI's content (RFC 4648, base64), malloc'd. */
char *base64_text(const uint8_t *bytes, size_t n);
