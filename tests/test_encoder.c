/* The identity of an encoder: other values with the same weights are another model. */
#include "tests/support.h"
#include "eval/encoder.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TOWERS "tests/golden/formats/towers/"

static void read_identity(const char *checkpoint, char out[17]) {
    EncoderOptions o = {.checkpoint = checkpoint, .precision = PRECISION_FP32, .batch_size = 1};
    Encoder *e = encoder_open(&o);
    snprintf(out, 17, "%s", encoder_identity(e));
    encoder_close(e);
}

/* CLIP's own, which indexes written before have. */
static void test_plain_clip(void **state) {
    (void)state;
    char identity[17];
    read_identity("tests/golden/formats/open_clip", identity);
    assert_string_equal(identity, "e09d191a33ef8547");
}

/* A folder of the same weights whose configuration has `to` for `from`. */
static const char *changed(const char *from, const char *to) {
    const char *config = test_path("open_clip_config.json"),
               *weights = test_path("open_clip_model.safetensors");
    char *json = test_read_file(TOWERS "open_clip_config.json", NULL), *at = strstr(json, from);
    assert_non_null(at);
    char *text = xasprintf("%.*s%s%s", (int)(at - json), json, to, at + strlen(from));
    test_write_file(config, text, strlen(text));
    free(text);
    free(json);
    unlink(weights);
    char *source = realpath(TOWERS "open_clip_model.safetensors", NULL);
    assert_int_equal(symlink(source, weights), 0);
    free(source);
    return test_dir();
}

static void test_each_value_counts(void **state) {
    (void)state;
    static const char *const changes[][2] = {
        {"0.001", "0.001"},
        {"0.001", "0.003"},
        {"0.002", "0.003"},
        {"\"approximate\": \"tanh\"}, \"image_size\"",
         "\"approximate\": \"none\"}, \"image_size\""},
        {"\"approximate\": \"tanh\"}, \"context_length\"",
         "\"approximate\": \"none\"}, \"context_length\""},
        {"\"avg\"", "\"tok\""},
        {"\"final_ln_after_pool\": true", "\"final_ln_after_pool\": false"},
        {"\"no_causal_mask\": true", "\"no_causal_mask\": false"},
        {"\"last\"", "\"argmax\""},
        {"\"size\": 8", "\"std\": [1, 1, 1]"},
        {"\"size\": 8", "\"resize_mode\": \"squash\""},
    };
    char identity[COUNT(changes)][17];
    for (size_t i = 0; i < COUNT(changes); i++) {
        read_identity(changed(changes[i][0], changes[i][1]), identity[i]);
        for (size_t j = 0; j < i; j++)
            if (!strcmp(identity[i], identity[j]))
                fail_msg("%s and %s: both %s", changes[i][1], changes[j][1], identity[i]);
    }
    char same[17];
    read_identity("tests/golden/formats/towers", same);
    assert_string_equal(same, identity[0]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plain_clip),
        cmocka_unit_test(test_each_value_counts),
    };
    return cmocka_run_group_tests_name("encoder", tests, NULL, NULL);
}
