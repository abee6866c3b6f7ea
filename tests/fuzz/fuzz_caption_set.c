/* Any bytes as Karpathy's JSON: refused, or a set whose captions all have a picture. */
#include "data/caption_set.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    CaptionSet s;
    Error err;
    CaptionSetOptions o = {.split = n % 2 ? "test" : NULL, .most = n % 3};
    if (!caption_set_parse_karpathy(&s, (const char *)bytes, n, &o, &err)) return 0;
    if (!s.text_count || !s.image_count) abort();
    for (size_t j = 0; j < s.text_count; j++)
        if (s.image_of[j] >= s.image_count || !s.texts[j][0]) abort();
    bool *keep = xcalloc(s.image_count, sizeof *keep);
    for (size_t i = 0; i < s.image_count; i++) keep[i] = s.images[i][0] != 0 && i % 2;
    caption_set_keep(&s, keep);
    free(keep);
    caption_set_free(&s);
    return 0;
}
