/* clipc data peek: prints the first samples of a data set. */
#include "data/image/image.h"
#include "tools/commands.h"
#include "tools/common.h"

#include <ctype.h>
#include <stdio.h>

static DatasetOptions dataset;
static int64_t count = 10, first;
static bool json;

static Option options[] = {
    INT("count", &count, 1, 1e9, "samples to print"),
    INT("first", &first, 0, 1e15, "number of the first one"),
    FLAG("json", &json, "one JSON object on stdout"),
    DATASET_OPTIONS(dataset),
};

static const Command command = {
    "data peek",
    "Prints key, image size and caption of the first samples.",
    "clipc data peek SPEC...",
    "  clipc data peek shards/train-000000.tar --count 3\n",
    options,
    COUNT(options),
};

/* The caption on one line. */
static void print_caption(const char *text) {
    for (; *text; text++) putchar(iscntrl((unsigned char)*text) ? ' ' : *text);
    putchar('\n');
}

static json_t *peek_one(Dataset *d, size_t i, Sample *s) {
    Error err;
    int width = 0, height = 0;
    bool ok =
        dataset_read(d, i, s, &err) && image_size(&width, &height, s->image, s->image_size, &err);
    if (json) {
        json_t *o = json_object();
        json_object_set_new(o, "sample", json_integer((json_int_t)i));
        json_object_set_new(o, "key", json_text(s->key));
        if (!ok) {
            json_object_set_new(o, "error", json_text(err.text));
            return o;
        }
        json_object_set_new(o, "width", json_integer(width));
        json_object_set_new(o, "height", json_integer(height));
        json_object_set_new(o, "bytes", json_integer((json_int_t)s->image_size));
        json_object_set_new(o, "caption", json_text(s->text));
        if (s->label >= 0) json_object_set_new(o, "label", json_integer(s->label));
        return o;
    }
    if (!ok) {
        printf("%s  bad: %s\n", s->key, err.text);
        return NULL;
    }
    printf("%s  %d x %d, %zu bytes  ", s->key, width, height, s->image_size);
    if (s->label >= 0) printf("class %d  ", s->label);
    print_caption(s->text);
    return NULL;
}

int cmd_data_peek(int argc, char **argv) {
    static StringList operands;
    dataset = dataset_options_default();
    options_parse(&command, argc, argv, &operands);
    Dataset *d = open_operands(&command, &operands, &dataset);
    size_t n = dataset_count(d), end = size_min(n, (size_t)(first + count));
    Sample s = {.key = NULL};
    json_t *list = json_array();
    for (size_t i = (size_t)first; i < end; i++) {
        json_t *one = peek_one(d, i, &s);
        if (one) json_array_append_new(list, one);
    }
    if (json)
        print_json(json_pack("{sI sI sI so}", "samples", (json_int_t)n, "shards",
                             (json_int_t)dataset_shards(d), "left_out",
                             (json_int_t)dataset_dropped(d), "first", list));
    else {
        json_decref(list);
        printf("%zu samples in %zu shards, %zu left out\n", n, dataset_shards(d),
               dataset_dropped(d));
    }
    sample_free(&s);
    dataset_close(d);
    return EXIT_OK;
}
