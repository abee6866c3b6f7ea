/* clipc search: the nearest rows of an embedded collection to a text or an image. */
#include "data/npy.h"
#include "eval/search.h"
#include "tools/commands.h"
#include "tools/common.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static EncoderOptions encoder = ENCODER_DEFAULTS;
static StringList texts, image_files;
static const char *collection, *text_file;
static int64_t top = 5;
static bool json;

static Option options[] = {
    ENCODER_OPTIONS(encoder),
    {"collection", OPT_STRING, &collection, "FILE.npy", 0, 0,
     "what `clipc embed --images` wrote (with FILE.npy.keys)", 0},
    {"texts", OPT_LIST, &texts, "TEXT...", 0, 0, "queries in words", 0},
    {"text", OPT_STRING, &text_file, "FILE", 0, 0, "queries in words, one a line; - is stdin", 0},
    {"image", OPT_LIST, &image_files, "FILE...", 0, 0, "queries as pictures", 0},
    {"top", OPT_INT, &top, NULL, 1, 1e6, "hits a query", 0},
    {"json", OPT_FLAG, &json, NULL, 0, 0, "one JSON object on stdout", 0},
};

static const Command command = {
    "search",
    "Find the pictures of an embedded collection that fit a text or a picture best.",
    "clipc search --checkpoint PATH --collection X.npy (--texts TEXT... | --text FILE | --image "
    "FILE...)",
    "  clipc search --checkpoint CKPT --collection photos.npy --texts 'a dog on a beach'\n"
    "  clipc search --checkpoint CKPT --collection photos.npy --image query.jpg --top 10 --json\n",
    options,
    COUNT(options),
};

int cmd_search(int argc, char **argv) {
    options_parse(&command, argc, argv, NULL);
    if (!collection)
        die_usage("clipc search: --collection is missing (a .npy that clipc embed wrote)");
    if ((texts.count > 0) + (text_file != NULL) + (image_files.count > 0) != 1)
        die_usage("clipc search: give one of --texts, --text and --image");
    if (text_file) texts.items = read_lines(text_file, &texts.count);
    if (text_file && !texts.count) die("%s holds no query", text_file);
    Error err;
    float *rows;
    size_t N, E, names = 0;
    if (!npy_read_f32(collection, &rows, &N, &E, &err)) die("%s", err.text);
    char *keys_path = xasprintf("%s.keys", collection), **keys = NULL;
    if (!access(keys_path, R_OK)) keys = read_lines(keys_path, &names);
    if (keys && names != N)
        die("%s has %zu keys, the collection %zu rows: embed it again", keys_path, names, N);

    Encoder *e = encoder_open(&encoder);
    if (encoder_dim(e) != E)
        die("%s holds rows of %zu, the model's features have %zu: embed it with this model",
            collection, E, encoder_dim(e));
    const StringList *queries = texts.count ? &texts : &image_files;
    float *features = texts.count ? embed_texts(e, texts.items, texts.count)
                                  : embed_image_files(e, image_files.items, image_files.count);
    Hit *hits = xcalloc(size_min((size_t)top, N) + 1, sizeof *hits);
    json_t *results = json_array();
    for (size_t q = 0; q < queries->count; q++) {
        size_t n = search_top(hits, (size_t)top, features + q * E, rows, N, E);
        json_t *list = json_array();
        if (!json) printf("%s\n", queries->items[q]);
        for (size_t h = 0; h < n; h++) {
            const char *key = keys ? keys[hits[h].row] : "";
            if (!json)
                printf("  %2zu  %7.4f  row %zu  %s\n", h + 1, hits[h].score, hits[h].row, key);
            json_array_append_new(list,
                                  json_pack("{s:I, s:o, s:f}", "row", (json_int_t)hits[h].row,
                                            "key", json_text(key), "score", (double)hits[h].score));
        }
        json_array_append_new(
            results, json_pack("{s:o, s:o}", "query", json_text(queries->items[q]), "hits", list));
    }
    if (json) print_json(json_pack("{s:O}", "results", results));
    json_decref(results);
    if (keys) free_lines(keys, names);
    free(keys_path);
    free(hits);
    free(features);
    free(rows);
    encoder_close(e);
    return EXIT_OK;
}
