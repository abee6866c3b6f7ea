/* Against open_clip itself (tests/golden/make_openclip.py): features of JPEGs and captions, ten
 * training steps through the whole program. */
#include "tests/support.h"
#include "tests/support_data.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define GOLDEN "tests/golden/openclip"

static void test_image_features(void **state) {
    (void)state;
    const char *out = test_path("images.npy");
    free(test_clipc(0,
                    "embed --precision fp32 --checkpoint " GOLDEN " --vocab " GOLDEN
                    "/vocab.txt --images " GOLDEN "/pairs.tsv --out %s",
                    out));
    same_npy(out, GOLDEN "/image_features.npy", 2e-6);
    free(test_clipc(0,
                    "embed --precision fp32 --checkpoint " GOLDEN " --vocab " GOLDEN
                    "/vocab.txt --batch-size 5 --image %s --out %s",
                    GOLDEN "/0[0-9].jpg " GOLDEN "/1[0-9].jpg " GOLDEN "/2[0-3].jpg", out));
    same_npy(out, GOLDEN "/image_features.npy", 2e-6);
}

static void write_captions(const char *path) {
    char *tsv = test_read_file(GOLDEN "/pairs.tsv", NULL);
    FILE *f = fopen(path, "w");
    char *save, *line = strtok_r(tsv, "\n", &save); /* the header */
    while ((line = strtok_r(NULL, "\n", &save))) fprintf(f, "%s\n", strchr(line, '\t') + 1);
    fclose(f);
    free(tsv);
}

static void test_text_features(void **state) {
    (void)state;
    const char *captions = test_path("captions.txt"), *out = test_path("texts.npy");
    write_captions(captions);
    free(test_clipc(0,
                    "embed --precision fp32 --checkpoint " GOLDEN " --vocab " GOLDEN
                    "/vocab.txt --text %s --out %s",
                    captions, out));
    same_npy(out, GOLDEN "/text_features.npy", 2e-6);
}

/* Rounding differences grow from step to step: the first loss must agree to fp32, the later ones
 * nearly so. */
static void test_ten_steps(void **state) {
    (void)state;
    free(test_clipc(
        0,
        "train --pretrained " GOLDEN " --vocab " GOLDEN "/vocab.txt --train-data " GOLDEN
        "/pairs.tsv "
        "--train-transform eval --no-shuffle --batch-size 8 --max-steps 12 --warmup 2 --lr 1e-3 "
        "--wd 0.2 --beta1 0.9 "
        "--beta2 0.98 --eps 1e-6 --grad-clip-norm 1 --wd-groups legacy --precision fp32 --logs %s "
        "--name steps",
        test_path("logs")));
    same_steps("steps", GOLDEN "/steps.json");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_image_features),
        cmocka_unit_test(test_text_features),
        cmocka_unit_test(test_ten_steps),
    };
    return cmocka_run_group_tests_name("openclip", tests, NULL, NULL);
}
