/* Any bytes as a model config: refused, or written back as a config that means the same. */
#include "train/model/config.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    ClipConfig c, again;
    Error err;
    if (!clip_config_parse(&c, "fuzz", (const char *)bytes, n, &err)) return 0;
    char *json = clip_config_to_json(&c);
    if (!clip_config_parse(&again, "again", json, strlen(json), &err)) abort();
    if (memcmp(&c.image, &again.image, sizeof c.image) || c.vocab_size != again.vocab_size ||
        memcmp(c.eval_transform.mean, again.eval_transform.mean, sizeof again.eval_transform.mean))
        abort();
    free(json);
    clip_config_free(&c);
    clip_config_free(&again);
    return 0;
}
