/* Any bytes as a text key, up to the first line feed, and the rest as a sample's .json and .txt:
 * refused, or a caption that is not blank. */
#include "data/captions.h"
#include "data/io/utf8.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

typedef struct Text {
    const char *bytes;
    size_t n;
} Text;

static int read_text(void *context, const char *extension, const char **bytes, size_t *n,
                     Error *err) {
    (void)err;
    const Text *t = context;
    *bytes = t->bytes;
    *n = t->n;
    return strcmp(extension, "json") == 0 || strcmp(extension, "txt") == 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    const uint8_t *end = n ? memchr(bytes, '\n', n) : NULL;
    if (!end) return 0;
    char *key = xasprintf("%.*s", (int)(end - bytes), (const char *)bytes);
    size_t rest = n - (size_t)(end - bytes) - 1;
    char *copy = xmalloc(rest);
    if (rest) memcpy(copy, end + 1, rest);
    Text text = {copy, rest};
    CaptionKeys k;
    Error err;
    Sample s = {.key = NULL};
    uint64_t draw = n;
    if (caption_keys_parse(&k, key, &err))
        for (int pick = CAPTIONS_WHOLE; pick <= CAPTIONS_ALL; pick++)
            if (captions_take(&s, &k, (CaptionPick)pick, &draw, read_text, &text, &err) &&
                (text_is_blank(s.text, s.text_size) || s.text[s.text_size]))
                abort();
    caption_keys_free(&k);
    sample_free(&s);
    free(copy);
    free(key);
    return 0;
}
