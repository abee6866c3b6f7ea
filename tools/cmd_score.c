/* clipc score: which of several captions fits an image: probabilities. */
#include "tools/commands.h"
#include "tools/common.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static EncoderOptions encoder = ENCODER_DEFAULTS;
static StringList texts;
static const char *image, *text_file;
static bool json;

static Option options[] = {
    ENCODER_OPTIONS(encoder),
    {"image", OPT_STRING, &image, "FILE", 0, 0, "the picture", 0},
    {"texts", OPT_LIST, &texts, "TEXT...", 0, 0, "the captions", 0},
    {"text", OPT_STRING, &text_file, "FILE", 0, 0, "the captions, one a line; - is stdin", 0},
    {"json", OPT_FLAG, &json, NULL, 0, 0, "one JSON object on stdout", 0},
};

static const Command command = {
    "score",
    "One image against several captions: softmax of the scaled cosines.",
    "clipc score --checkpoint PATH --image FILE (--texts TEXT... | --text FILE)",
    "  clipc score --checkpoint CKPT --image cat.jpg --texts 'a cat' 'a dog' 'a red car'\n",
    options,
    COUNT(options),
};

int cmd_score(int argc, char **argv) {
    options_parse(&command, argc, argv, NULL);
    if (!image) die_usage("clipc score: --image is missing");
    if ((texts.count > 0) == (text_file != NULL))
        die_usage("clipc score: give the captions with --texts or --text");
    size_t n = texts.count;
    char **captions = text_file ? read_lines(text_file, &n) : texts.items;
    if (!n) die("%s holds no caption", text_file);
    Encoder *e = encoder_open(&encoder);
    size_t E = encoder_dim(e);
    float *picture = embed_image_files(e, (char *const *)&image, 1),
          *features = embed_texts(e, captions, n);
    double *cosine = xcalloc(n, sizeof *cosine), *p = xcalloc(n, sizeof *p), best = -2, sum = 0;
    for (size_t i = 0; i < n; i++) {
        for (size_t j = 0; j < E; j++) cosine[i] += (double)picture[j] * features[i * E + j];
        best = fmax(best, cosine[i]);
    }
    for (size_t i = 0; i < n; i++) sum += p[i] = exp(encoder_logit_scale(e) * (cosine[i] - best));
    json_t *list = json_array();
    for (size_t i = 0; i < n; i++) {
        p[i] /= sum;
        char bar[25] = "";
        memset(bar, '#', (size_t)lround(p[i] * 24));
        if (!json)
            printf("%6.2f %%  cos %7.4f  %-24s  %s\n", 100 * p[i], cosine[i], bar, captions[i]);
        json_array_append_new(list, json_pack("{s:o, s:f, s:f}", "text", json_text(captions[i]),
                                              "probability", p[i], "cosine", cosine[i]));
    }
    if (json) print_json(json_pack("{s:o, s:O}", "image", json_text(image), "scores", list));
    json_decref(list);
    free(cosine);
    free(p);
    free(picture);
    free(features);
    if (text_file) free_lines(captions, n);
    encoder_close(e);
    return EXIT_OK;
}
