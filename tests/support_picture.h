/* support_picture: computed pictures and golden files, for the tests of images. The same pictures
 * as in tests/golden/make_image.py. */
#pragma once
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "data/io/file.h"

#define IMAGE_GOLDEN "tests/golden/image/"

/* malloc'd RGB: kind 0 noise, 1 black or white, 2 stripes. */
static inline uint8_t *picture(int w, int h, int kind) {
    size_t n = (size_t)w * (size_t)h * 3;
    uint8_t *p = xmalloc(n);
    for (size_t i = 0; i < n; i++) {
        if (kind == 2) {
            size_t x = i / 3 % (size_t)w, y = i / 3 / (size_t)w;
            p[i] = (uint8_t)((x * 5 + y * 3) / 2 + 40 * (i % 3));
        } else {
            uint32_t u = (uint32_t)i * 2654435761u;
            u = (u ^ u >> 15) * 2246822519u;
            u ^= u >> 13;
            p[i] = (uint8_t)(kind == 0 ? u >> 24 : (u >> 31) * 255);
        }
    }
    return p;
}

static inline uint32_t checksum(const void *bytes, size_t n) {
    return (uint32_t)crc32(crc32(0, NULL, 0), bytes, (uInt)n);
}

/* The whole file IMAGE_GOLDEN name, malloc'd. */
static inline uint8_t *golden_file(const char *name, size_t *size) {
    char *path = xasprintf(IMAGE_GOLDEN "%s", name);
    uint8_t *bytes;
    Error err;
    if (!file_read_all(path, &bytes, size, SIZE_MAX, &err))
        die("%s; tests run in the repository's root", err.text);
    free(path);
    return bytes;
}

/* Reads the next line of a golden table that is not a comment; false at the end. */
static inline bool golden_line(FILE *f, char line[512]) {
    while (fgets(line, 512, f))
        if (line[0] != '#') return true;
    return false;
}

static inline FILE *golden_table(const char *name) {
    char *path = xasprintf(IMAGE_GOLDEN "%s", name);
    FILE *f = fopen(path, "r");
    if (!f) die("%s: cannot be opened; tests run in the repository's root", path);
    free(path);
    return f;
}
