/* clipc score: probabilities that each of several captions fits an image. */
#include "tools/commands.h"
#include "tools/common.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static EncoderOptions encoder = ENCODER_DEFAULTS;
static StringList texts, images;
static const char *text_file;
static bool json, sort, sigmoid;
static int64_t top;

static Option options[] = {
    ENCODER_OPTIONS(encoder),
    PICTURE_OPTIONS,
    LIST("image", &images, "FILE...", "the picture, or several"),
    LIST("texts", &texts, "TEXT...", "the captions"),
    STRING("text", &text_file, "FILE", "the captions, one a line; - is stdin"),
    FLAG("sort", &sort, "the best first"),
    INT("top", &top, 0, 1e6, "only so many, the best first; 0: all"),
    FLAG("sigmoid", &sigmoid,
         "each caption alone, as in SigLIP's loss; default if the model has a bias"),
    FLAG("json", &json, "one JSON object on stdout"),
};

static const Command command = {
    "score",
    "Images against several captions: softmax (or sigmoid) of the scaled cosines.",
    "clipc score --checkpoint PATH --image FILE... (--texts TEXT... | --text FILE)",
    "  clipc score --checkpoint CKPT --image cat.jpg --texts 'a cat' 'a dog' 'a red car'\n"
    "  clipc score --checkpoint CKPT --image *.jpg --text labels.txt --top 3 --json\n",
    options,
    COUNT(options),
};

typedef struct Score {
    const char *text;
    double cosine, probability;
} Score;

/* By falling cosine; equal ones keep their order, which their addresses give. */
static int by_falling_cosine(const void *a, const void *b) {
    const Score *x = *(const Score *const *)a, *y = *(const Score *const *)b;
    if (x->cosine != y->cosine) return x->cosine < y->cosine ? 1 : -1;
    return (x > y) - (x < y);
}

static void score_image(Score *s, size_t n, const float *image, const float *features, size_t E,
                        double scale, double bias) {
    double best = -INFINITY, sum = 0;
    for (size_t i = 0; i < n; i++) {
        s[i].cosine = 0;
        for (size_t j = 0; j < E; j++) s[i].cosine += (double)image[j] * features[i * E + j];
        if (!isfinite(s[i].cosine)) die("features are not finite (NaN): is the checkpoint sound?");
        best = fmax(best, s[i].cosine);
    }
    for (size_t i = 0; i < n; i++) {
        s[i].probability = sigmoid ? 1 / (1 + exp(-(scale * s[i].cosine + bias)))
                                   : exp(scale * (s[i].cosine - best));
        sum += s[i].probability;
    }
    for (size_t i = 0; !sigmoid && i < n; i++) s[i].probability /= sum;
}

enum { BAR = 24 };

/* Prints, or returns the list. */
static json_t *show(const Score *s, size_t n) {
    const Score **order = xcalloc(n, sizeof *order);
    json_t *list = json_array();
    for (size_t i = 0; i < n; i++) order[i] = &s[i];
    if (sort || top) qsort(order, n, sizeof *order, by_falling_cosine);
    for (size_t i = 0; i < (top ? size_min((size_t)top, n) : n); i++) {
        char bar[BAR + 1] = "";
        memset(bar, '#', (size_t)lround(order[i]->probability * BAR));
        if (!json)
            printf("%6.2f %%  cos %7.4f  %-24s  %s\n", 100 * order[i]->probability,
                   order[i]->cosine, bar, order[i]->text);
        json_array_append_new(list, json_pack("{s:o, s:f, s:f}", "text", json_text(order[i]->text),
                                              "probability", order[i]->probability, "cosine",
                                              order[i]->cosine));
    }
    free(order);
    return list;
}

int cmd_score(int argc, char **argv) {
    options_parse(&command, argc, argv, NULL);
    expand_image_files(&images);
    if (!images.count) die_usage("clipc score: --image is missing");
    if ((texts.count > 0) == (text_file != NULL))
        die_usage("clipc score: give the captions with --texts or --text");
    size_t n = texts.count;
    char **captions = text_file ? read_lines(text_file, &n) : texts.items;
    if (!n) die("%s holds no caption", text_file);
    Encoder *e = encoder_open(&encoder);
    size_t E = encoder_dim(e);
    if (!option_find(&command, "sigmoid")->given) sigmoid = encoder_config(e)->has_logit_bias;
    float *pictures = embed_image_files(e, images.items, images.count),
          *features = embed_texts(e, captions, n);
    Score *scores = xcalloc(n, sizeof *scores);
    json_t *results = json_array();
    for (size_t i = 0; i < n; i++) scores[i].text = captions[i];
    for (size_t p = 0; p < images.count; p++) {
        score_image(scores, n, pictures + p * E, features, E, encoder_logit_scale(e),
                    encoder_logit_bias(e));
        if (!json && images.count > 1) printf("%s%s\n", p ? "\n" : "", images.items[p]);
        json_t *list = show(scores, n);
        json_array_append_new(
            results, json_pack("{s:o, s:o}", "image", json_text(images.items[p]), "scores", list));
    }
    if (json) {
        json_t *root = json_object();
        /* a single picture's fields are at the top too */
        if (images.count == 1) json_object_update(root, json_array_get(results, 0));
        json_object_set(root, "results", results);
        print_json(root);
    }
    json_decref(results);
    FREE_ALL(scores, pictures, features);
    if (text_file) free_lines(captions, n);
    encoder_close(e);
    return EXIT_OK;
}
