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

/* ---- one tower alone ---- */

static Encoder *open_towers(const char *checkpoint, OpenTowers towers) {
    EncoderOptions o = {.checkpoint = checkpoint,
                        .towers = towers,
                        .no_images = towers == OPEN_TEXT,
                        .no_texts = towers == OPEN_IMAGE,
                        .device = DEVICE_CPU,
                        .precision = PRECISION_FP32,
                        .batch_size = 2};
    return encoder_open(&o);
}

static bool fetch(void *context, size_t i, Image *img, Error *err) {
    (void)context;
    (void)i;
    img->width = 5;
    img->height = 7;
    img->rgb = xrealloc(img->rgb, 5 * 7 * 3);
    for (int b = 0; b < 5 * 7 * 3; b++) img->rgb[b] = (uint8_t)(b * (int)(i + 3));
    err->text[0] = 0;
    return true;
}

/* Elements of the tensors of a tower, and of none, as the flat block has them. */
static size_t elements_of(const Params *p, ParamTower tower) {
    size_t n = 0;
    for (size_t i = 0; i < p->count; i++)
        if (!p->list[i].tower || p->list[i].tower == tower)
            n += round_up(p->list[i].size, PARAM_ALIGN);
    return n;
}

/* The other tower has no memory; features and identity are those of the whole model. */
static void test_one_tower(void **state) {
    (void)state;
    static const char *const words[] = {"a red boat", "two", "dogs on a beach"};
    static const char *const models[] = {"tests/golden/openclip", "tests/golden/siglip/open_clip"};
    for (size_t m = 0; m < COUNT(models); m++) {
        Encoder *both = open_towers(models[m], OPEN_BOTH),
                *image = open_towers(models[m], OPEN_IMAGE),
                *text = open_towers(models[m], OPEN_TEXT);
        const Params *p = encoder_params(both);
        assert_int_equal(encoder_params(image)->size, elements_of(p, TOWER_IMAGE));
        assert_int_equal(encoder_params(text)->size, elements_of(p, TOWER_TEXT));
        size_t n = 3 * encoder_dim(both);
        float *want = xmalloc(2 * n * sizeof *want), *got = want + n;
        bool ok[3];
        encoder_images(both, fetch, NULL, 3, want, ok);
        encoder_images(image, fetch, NULL, 3, got, ok);
        assert_memory_equal(got, want, n * sizeof *want);
        encoder_texts(both, words, NULL, 3, want);
        encoder_texts(text, words, NULL, 3, got);
        assert_memory_equal(got, want, n * sizeof *want);
        assert_string_equal(encoder_identity(image), encoder_identity(both));
        assert_string_equal(encoder_identity(text), encoder_identity(both));
        assert_string_equal(encoder_checksum(text), encoder_checksum(both));
        assert_true(encoder_logit_scale(text) == encoder_logit_scale(both));
        encoder_close(both);
        encoder_close(image);
        encoder_close(text);
        free(want);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plain_clip),
        cmocka_unit_test(test_each_value_counts),
        cmocka_unit_test(test_one_tower),
    };
    return cmocka_run_group_tests_name("encoder", tests, NULL, NULL);
}
