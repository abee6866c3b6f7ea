#include "train/model/config_resnet.h"

#include <jansson.h>
#include <string.h>

enum { STAGES = 4, MAX_BLOCKS = 256, MAX_STEM = 1 << 9, HEAD = 64 };

static const struct {
    const char *name;
    ConvNet net;
} timm[] = {
    {"resnet18", {CONV_BASIC, 64, {2, 2, 2, 2}}},
    {"resnet34", {CONV_BASIC, 64, {3, 4, 6, 3}}},
    {"resnet50", {CONV_BOTTLENECK, 64, {3, 4, 6, 3}}},
};

static const ConvNet *timm_net(const json_t *vision_cfg) {
    const char *name = json_string_value(json_object_get(vision_cfg, "timm_model_name"));
    for (size_t i = 0; name && i < COUNT(timm); i++)
        if (!strcmp(name, timm[i].name)) return &timm[i].net;
    return NULL;
}

bool resnet_config_is(const json_t *vision_cfg) {
    return json_is_array(json_object_get(vision_cfg, "layers")) || timm_net(vision_cfg);
}

/* The field's whole number from 1 to most; `missing` if it is absent. */
static bool number(size_t *to, json_t *object, const char *field, size_t most, size_t missing,
                   Error *err) {
    json_t *v = json_object_get(object, field);
    *to = missing;
    if (!v || json_is_null(v)) return true;
    json_int_t x = json_is_integer(v) ? json_integer_value(v) : 0;
    if (x < 1 || x > (json_int_t)most)
        return error_set(err, "expected a whole number from 1 to %zu", most);
    *to = (size_t)x;
    return true;
}

static bool read_stages(ConvNet *net, const json_t *layers, Error *err) {
    bool good = json_array_size(layers) == STAGES;
    for (size_t i = 0; i < STAGES && good; i++) {
        json_int_t n = json_integer_value(json_array_get(layers, i));
        good = n >= 1 && n <= MAX_BLOCKS;
        net->stage[i] = (size_t)n;
    }
    return good || error_set(err, "expected four numbers of blocks, each from 1 to %d", MAX_BLOCKS);
}

/* The field has this value or is absent. */
static bool is_default(const json_t *object, const char *field, const char *value) {
    const json_t *v = json_object_get(object, field);
    return !v || json_is_null(v) ||
           !strcmp(json_string_value(v) ? json_string_value(v) : "", value);
}

static bool read_timm(ClipConfig *c, json_t *v, const char **field, Error *err) {
    c->image.conv = *timm_net(v);
    *field = "timm_pool";
    if (!is_default(v, *field, "avg")) return error_set(err, "only \"avg\" is supported");
    *field = "timm_proj";
    c->image.no_proj = is_default(v, *field, "none") && json_object_get(v, *field);
    if (!c->image.no_proj && !is_default(v, *field, "linear"))
        return error_set(err, "only \"linear\" and \"none\" are supported");
    *field = "timm_proj_bias";
    if (json_is_true(json_object_get(v, *field)))
        return error_set(err, "true is not supported (only false)");
    json_object_del(v, "timm_model_name");
    return true;
}

static bool read_modified(ClipConfig *c, json_t *v, const char **field, Error *err) {
    ConvNet *net = &c->image.conv;
    size_t head;
    net->kind = CONV_MODIFIED;
    *field = "layers";
    if (!read_stages(net, json_object_get(v, *field), err)) return false;
    *field = "width";
    if (!number(&net->width, v, *field, MAX_STEM, 64, err)) return false;
    if (net->width % 2) return error_set(err, "expected an even number: the stem has half of it");
    *field = "head_width";
    if (!number(&head, v, *field, 32 * MAX_STEM, HEAD, err)) return false;
    c->image.width = 32 * net->width;
    c->image.heads = c->image.width / head;
    if (c->image.width % head) return error_set(err, "does not divide 32 times the width");
    c->image.class_token = true; /* the mean of the pixels */
    json_object_del(v, "layers");
    return true;
}

bool resnet_config_read(ClipConfig *c, json_t *v, const char **field, Error *err) {
    TowerConfig *t = &c->image;
    *t = (TowerConfig){.heads = 1, .eps = 1e-5, .pool = POOL_MEAN, .proj_bias = true};
    if (!(timm_net(v) ? read_timm(c, v, field, err) : read_modified(c, v, field, err)))
        return false;
    ConvNet *net = &t->conv;
    for (size_t i = 0; i < STAGES; i++) t->layers += net->stage[i];
    if (net->kind != CONV_MODIFIED) t->width = net->kind == CONV_BASIC ? 512 : 2048;
    *field = "timm_proj";
    if (t->no_proj && t->width != c->embed_dim)
        return error_set(err, "without a projection embed_dim must be the tower's width");
    t->proj_bias = !t->no_proj;
    c->patch_size = 32; /* pixels of the picture along a side of the last grid's */
    *field = "image_size";
    if (c->image_size % c->patch_size) return error_set(err, "expected a multiple of 32");
    static const char *const read[] = {"width", "head_width", "patch_size", "mlp_ratio"};
    for (size_t i = 0; i < COUNT(read); i++) json_object_del(v, read[i]);
    return true;
}
