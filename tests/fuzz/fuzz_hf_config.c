/* Any JSON as Hugging Face's config.json: refused, or a config of open_clip's schema, which is
 * refused or can be written back and means the same. */
#include "train/model/hf_config.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

static bool parse(ClipConfig *c, const json_t *root, const json_t *preprocessor) {
    Error err;
    json_t *own = hf_config_in(root, preprocessor, &err);
    char *text = own ? json_dumps(own, 0) : NULL;
    bool ok = text && clip_config_parse(c, "fuzz", text, strlen(text), &err);
    free(text);
    json_decref(own);
    return ok;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    const uint8_t *end = memchr(bytes, 0, n); /* config.json, 0, preprocessor_config.json */
    size_t first = end ? (size_t)(end - bytes) : n;
    json_t *root = json_loadb((const char *)bytes, first, 0, NULL);
    json_t *preprocessor = end ? json_loadb((const char *)end + 1, n - first - 1, 0, NULL) : NULL;
    ClipConfig c, again;
    Error err;
    if (root && hf_config_is(root) && parse(&c, root, preprocessor)) {
        char *text = hf_config_out(&c, "float32", &err), *images = hf_preprocessor_out(&c, &err);
        if (text && images) {
            json_t *a = json_loads(text, 0, NULL), *b = json_loads(images, 0, NULL);
            if (!a || !b || !parse(&again, a, b)) abort();
            if (c.vocab_size != again.vocab_size || c.context_length != again.context_length ||
                c.embed_dim != again.embed_dim)
                abort();
            clip_config_free(&again);
            json_decref(a);
            json_decref(b);
        }
        free(text);
        free(images);
        clip_config_free(&c);
    }
    json_decref(root);
    json_decref(preprocessor);
    return 0;
}
