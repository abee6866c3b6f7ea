/* clipc data check: reads and decodes every sample; lists the bad ones. */
#include "data/image.h"
#include "data/parallel.h"
#include "tools/commands.h"
#include "tools/common.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

static DatasetOptions dataset;
static int64_t max_pixels = IMAGE_MAX_PIXELS, workers;
static bool json;

static Option options[] = {
    {"max-image-pixels", OPT_INT, &max_pixels, NULL, 1, 1e10, "larger images are bad", 0},
    {"workers", OPT_INT, &workers, NULL, 1, 1024, "threads", 0},
    {"json", OPT_FLAG, &json, NULL, 0, 0, "the result as JSON on stdout", 0},
    DATASET_OPTIONS(dataset),
};

static const Command command = {
    "data check",
    "Decodes every image and checks every caption; exit code 1 if a sample is bad.",
    "clipc data check SPEC...",
    "  clipc data check 'shards/train-{000000..000099}.tar'\n"
    "Bad samples are listed on stdout, one a line: shard, key and reason. Samples that are left\n"
    "out (no image, no caption) are only counted.\n",
    options,
    COUNT(options),
};

typedef struct Thread {
    Sample sample;
    Image image;
} Thread;

typedef struct Check {
    Dataset *d;
    Thread *threads;
    char **reasons; /* of each sample; NULL: good */
} Check;

static bool valid_utf8(const char *text, size_t n) {
    utf8proc_int32_t point;
    for (size_t at = 0; at < n;) {
        utf8proc_ssize_t used = utf8proc_iterate((const utf8proc_uint8_t *)text + at,
                                                 (utf8proc_ssize_t)(n - at), &point);
        if (used <= 0) return false;
        at += (size_t)used;
    }
    return true;
}

static void check_one(void *context, size_t i, size_t thread) {
    Check *c = context;
    Thread *t = &c->threads[thread];
    Sample *s = &t->sample;
    Error err;
    if (!dataset_read(c->d, i, s, &err))
        c->reasons[i] = xstrdup(err.text);
    else if (!image_decode(&t->image, s->image, s->image_size, (size_t)max_pixels, &err))
        c->reasons[i] = xasprintf("%s: %s", s->key, err.text);
    else if (!valid_utf8(s->text, s->text_size))
        c->reasons[i] = xasprintf("%s: its caption is not UTF-8", s->key);
}

int cmd_data_check(int argc, char **argv) {
    static StringList operands;
    dataset = dataset_options_default();
    workers = (int64_t)cpu_count();
    options_parse(&command, argc, argv, &operands);
    Dataset *d = open_operands(&command, &operands, &dataset);
    size_t n = dataset_count(d), bad = 0;
    Check c = {d, xcalloc((size_t)workers, sizeof(Thread)), xcalloc(n, sizeof(char *))};
    parallel_for(n, (size_t)workers, check_one, &c);
    json_t *list = json_array();
    for (size_t i = 0; i < n; i++) {
        if (!c.reasons[i]) continue;
        bad++;
        if (json)
            json_array_append_new(list, json_text(c.reasons[i]));
        else
            puts(c.reasons[i]);
        free(c.reasons[i]);
    }
    if (json)
        print_json(json_pack("{sI sI sI so}", "samples", (json_int_t)n, "bad", (json_int_t)bad,
                             "left_out", (json_int_t)dataset_dropped(d), "reasons", list));
    else
        json_decref(list);
    fflush(stdout);
    log_info("%zu samples in %zu shards: %zu bad; %zu left out (no image or caption)", n,
             dataset_shards(d), bad, dataset_dropped(d));
    for (int64_t i = 0; i < workers; i++) {
        sample_free(&c.threads[i].sample);
        image_free(&c.threads[i].image);
    }
    free(c.threads);
    free(c.reasons);
    dataset_close(d);
    return bad ? EXIT_ERROR : EXIT_OK;
}
