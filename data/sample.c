#include "data/sample.h"

#include <stdlib.h>
#include <string.h>

static void *reserve(void *p, size_t *capacity, size_t need) {
    if (need <= *capacity) return p;
    free(p);
    *capacity = need + need / 4;
    return xmalloc(*capacity);
}

void sample_reset(Sample *s) {
    FREE_ALL(s->key, s->json);
    s->key = NULL;
    s->json = NULL;
    s->json_size = 0;
    s->label = -1;
    s->image_size = 0;
    sample_set_text(s, "", 0);
}

uint8_t *sample_reserve_image(Sample *s, size_t n) {
    return s->image = reserve(s->image, &s->image_capacity, n);
}

void sample_set_text(Sample *s, const char *text, size_t n) {
    s->text = reserve(s->text, &s->text_capacity, n + 1);
    memcpy(s->text, text, n);
    s->text[n] = 0;
    s->text_size = n;
}

bool sample_set_label(Sample *s, const char *digits, size_t n, Error *err) {
    char text[16] = "", *end;
    if (n < sizeof text) memcpy(text, digits, n);
    long v = strtol(text, &end, 10);
    if (end == text || end[strspn(end, " \r\n")]) return true; /* a name */
    if (v < 0 || v > INT32_MAX) return error_set(err, "its .cls is no class number");
    s->label = (int)v;
    return true;
}

void sample_free(Sample *s) {
    FREE_ALL(s->key, s->image, s->text, s->json);
    *s = (Sample){.label = -1};
}
