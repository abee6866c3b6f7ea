/* clipc ckpt info: the contents of a checkpoint of any format. */
#include "tools/commands.h"
#include "tools/common.h"
#include "train/checkpoint.h"
#include "data/io/folder.h"
#include "train/options.h"
#include "train/model/weights.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static bool as_json;

static Option options[] = {
    FLAG("json", &as_json, "one JSON object instead of a table"),
};

static const Command command = {
    "ckpt info",
    "What a checkpoint of any format holds: architecture, progress, tensors.",
    "clipc ckpt info PATH [--json]",
    "  clipc ckpt info logs/run/checkpoints/latest\n"
    "  clipc ckpt info open_clip_model.safetensors --json\n",
    options,
    COUNT(options),
};

typedef struct Checkpoint {
    const char *path;
    TensorFile weights;
    bool has_config, has_state;
    ClipConfig config;
    TrainState state;
} Checkpoint;

static void open_checkpoint(Checkpoint *c, const char *path) {
    Error err;
    *c = (Checkpoint){.path = path};
    char *file = weights_find_file(path), *config = clip_config_find(path);
    if (!file) die("%s: no weights in this folder", path);
    if (!tensorfile_open(&c->weights, file, &err)) die("%s", err.text);
    c->has_config = config && clip_config_read(&c->config, config, &err);
    if (config && !c->has_config) log_warn("%s", err.text);
    c->has_state = folder_is(path) && checkpoint_load_state(path, NULL, &c->state);
    FREE_ALL(file, config);
}

static void close_checkpoint(Checkpoint *c) {
    tensorfile_close(&c->weights);
    if (c->has_config) clip_config_free(&c->config);
}

/* Euclidean; NAN if the tensor has a NaN or is not of floats. */
static double norm(const Tensor *t) {
    float chunk[4096];
    double squares = 0;
    for (size_t first = 0; first < t->count; first += COUNT(chunk)) {
        size_t n = size_min(COUNT(chunk), t->count - first);
        if (!tensor_read_f32(t, first, n, chunk)) return NAN;
        for (size_t i = 0; i < n; i++) squares += (double)chunk[i] * (double)chunk[i];
    }
    return sqrt(squares);
}

static size_t elements(const TensorFile *st) {
    size_t n = 0;
    for (size_t i = 0; i < st->count; i++) n += st->tensors[i].count;
    return n;
}

/* ---- text output ---- */

static void print_tower(const char *what, const TowerConfig *t) {
    printf("%s  width %zu, %zu layers, %zu heads, MLP %zu", what, t->width, t->layers, t->heads,
           t->mlp);
}

static void print_image(const ClipConfig *c) {
    const ConvNet *net = &c->image.conv;
    if (net->kind) {
        printf("image        ResNet of %zu, %zu, %zu, %zu blocks, width %zu to %zu, %zux%zu\n",
               net->stage[0], net->stage[1], net->stage[2], net->stage[3], net->width,
               c->image.width, c->image_size, c->image_size);
        return;
    }
    print_tower("image      ", &c->image);
    if (c->naflex) {
        printf(", up to %zu patches of %zu\n", clip_most_patches(c), c->patch_size);
        return;
    }
    printf(", %zux%zu in patches of %zu\n", c->image_size, c->image_size, c->patch_size);
}

static void print_config(const ClipConfig *c) {
    print_image(c);
    print_tower("text       ", &c->text);
    printf(", %zu tokens of %zu\n", c->context_length, c->vocab_size);
    printf("embedding    %zu, %s\n", c->embed_dim, activation_name(c->image.activation));
}

static void print_tensor(const Tensor *t) {
    char shape[192] = "[";
    size_t n = 1;
    for (int d = 0; d < t->ndim; d++)
        n += (size_t)snprintf(shape + n, sizeof shape - n, d ? ",%zu" : "%zu", t->shape[d]);
    snprintf(shape + n, sizeof shape - n, "]");
    printf("%-56s %-5s %-18s %12zu  ", t->name, dtype_name(t->dtype), shape, t->count);
    if (t->dtype <= DTYPE_BF16)
        printf("%.6g\n", norm(t));
    else
        printf("-\n");
}

static void print_table(const Checkpoint *c) {
    if (c->has_config) print_config(&c->config);
    if (c->has_state)
        printf("trained      %llu steps; epoch %llu, sample %llu; seed %llu\n",
               (unsigned long long)c->state.step, (unsigned long long)c->state.epoch,
               (unsigned long long)c->state.position, (unsigned long long)c->state.seed);
    printf("parameters   %zu in %zu tensors, %.1f MB\n\n", elements(&c->weights), c->weights.count,
           (double)c->weights.bytes * 1e-6);
    printf("%-56s %-5s %-18s %12s  norm\n", "tensor", "type", "shape", "elements");
    for (size_t i = 0; i < c->weights.count; i++) print_tensor(&c->weights.tensors[i]);
}

/* ---- JSON output ---- */

static json_t *tensor_json(const Tensor *t) {
    json_t *shape = json_array();
    for (int d = 0; d < t->ndim; d++)
        json_array_append_new(shape, json_integer((json_int_t)t->shape[d]));
    double x = norm(t);
    return json_pack("{s:s, s:s, s:o, s:o}", "name", t->name, "dtype", dtype_name(t->dtype),
                     "shape", shape, "norm", isfinite(x) ? json_real(x) : json_null());
}

static void print_object(const Checkpoint *c) {
    json_t *root = json_object(), *tensors = json_array();
    json_object_set_new(root, "path", json_string(c->path));
    if (c->has_config) {
        char *text = clip_config_to_json(&c->config);
        json_object_set_new(root, "config", json_loads(text, 0, NULL));
        free(text);
    }
    if (c->has_state) {
        const TrainState *s = &c->state;
        /* the seed has 64 bits, JSON's whole numbers here 63 */
        char seed[24];
        snprintf(seed, sizeof seed, "%llu", (unsigned long long)s->seed);
        json_object_set_new(root, "train_state",
                            json_pack("{s:I, s:I, s:I, s:s}", "step", (json_int_t)s->step, "epoch",
                                      (json_int_t)s->epoch, "position", (json_int_t)s->position,
                                      "seed", seed));
    }
    json_object_set_new(root, "parameters", json_integer((json_int_t)elements(&c->weights)));
    for (size_t i = 0; i < c->weights.count; i++)
        json_array_append_new(tensors, tensor_json(&c->weights.tensors[i]));
    json_object_set_new(root, "tensors", tensors);
    json_dumpf(root, stdout, JSON_INDENT(1) | JSON_REAL_PRECISION(9));
    putchar('\n');
    json_decref(root);
}

int cmd_ckpt_info(int argc, char **argv) {
    static StringList paths;
    options_parse(&command, argc, argv, &paths);
    if (paths.count != 1) die_usage("clipc ckpt info: give one PATH");
    find_checkpoints(&paths);
    Checkpoint c;
    open_checkpoint(&c, paths.items[0]);
    if (as_json)
        print_object(&c);
    else
        print_table(&c);
    close_checkpoint(&c);
    return EXIT_OK;
}
