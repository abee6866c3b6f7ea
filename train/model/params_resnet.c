#include "train/model/params_resnet.h"

#include <math.h>
#include <stdio.h>

static ConvShape shape(size_t in, size_t out, size_t side, size_t stride) {
    return (ConvShape){in, out, side, stride, side / 2};
}

static ResnetBlock stem(const ConvNet *net) {
    size_t half = net->width / 2;
    if (net->kind != CONV_MODIFIED)
        return (ResnetBlock){.count = 1, .pool = 1, .conv = {shape(3, net->width, 7, 2)}};
    return (ResnetBlock){
        .count = 3,
        .pool = 1,
        .conv = {shape(3, half, 3, 2), shape(half, half, 3, 1), shape(half, net->width, 3, 1)}};
}

ResnetBlock resnet_block(const ConvNet *net, size_t i) {
    if (i == SIZE_MAX) return stem(net);
    ResnetBlock b = {.index = i, .pool = 1};
    while (b.index >= net->stage[b.stage]) b.index -= net->stage[b.stage++];
    size_t wide = net->kind == CONV_BASIC ? 1 : 4, mid = net->width << b.stage, out = mid * wide;
    size_t in = b.index ? out : b.stage ? out / 2 : net->width;
    size_t stride = b.stage && !b.index ? 2 : 1, own = stride;
    if (net->kind == CONV_MODIFIED) b.pool = stride, own = 1;
    if (net->kind == CONV_BASIC) {
        b.count = 2;
        b.conv[0] = shape(in, mid, 3, own);
        b.conv[1] = shape(mid, out, 3, 1);
    } else {
        b.count = 3;
        b.conv[0] = shape(in, mid, 1, 1);
        b.conv[1] = shape(mid, mid, 3, own);
        b.conv[2] = shape(mid, out, 1, 1);
    }
    if (stride > 1 || in != out) b.conv[BLOCK_CONVS] = shape(in, out, 1, own);
    return b;
}

static const ParamInit zero = {INIT_CONSTANT, 0}, one = {INIT_CONSTANT, 1};

static void add(Params *p, Param q, size_t layer, const char *prefix, const char *name) {
    int n = snprintf(q.name, sizeof q.name, "visual.%s%s", prefix, name);
    assert(n > 0 && (size_t)n < sizeof q.name);
    q.tower = TOWER_IMAGE;
    q.layer = layer;
    params_add(p, &q);
}

static void add_vector(Params *p, size_t layer, const char *prefix, const char *name,
                       ParamRole role, bool bias, ParamInit init, size_t n) {
    add(p, (Param){.role = role, .bias = bias, .init = init, .ndim = 1, .shape = {n}}, layer,
        prefix, name);
}

/* norm NULL: no batch normalisation. Initial values: PyTorch's default in CLIP's ResNets, He's (fan
 * out) in timm's. */
static void add_conv(Params *p, const ConvNet *net, size_t layer, const char *prefix,
                     const ConvShape *s, size_t place, const char *conv, const char *norm,
                     bool last) {
    size_t area = s->side * s->side;
    ParamInit init = {INIT_NORMAL, sqrt(2 / (double)(s->out * area))};
    if (net->kind == CONV_MODIFIED)
        init = (ParamInit){INIT_UNIFORM, sqrt(1 / (double)(s->in * area))};
    Param w = {.role = ROLE_CONV_1 + (ParamRole)place,
               .init = init,
               .ndim = 4,
               .shape = {s->out, s->in, s->side, s->side}};
    static const char *const ends[] = {"weight", "bias", "running_mean", "running_var"};
    char name[48];
    snprintf(name, sizeof name, "%s.weight", conv);
    add(p, w, layer, prefix, name);
    for (int i = 0; i < 4 && norm; i++) {
        ParamRole role = (i < 2 ? ROLE_BN_1 : ROLE_STATS_1) + (ParamRole)place;
        snprintf(name, sizeof name, "%s.%s", norm, ends[i]);
        /* a block starts as the identity */
        ParamInit start = i == 0 ? (last ? zero : one) : i == 3 ? one : zero;
        add_vector(p, layer, prefix, name, role, i % 2, start, s->out);
    }
}

static void add_block(Params *p, const ConvNet *net, size_t i, const char *trunk) {
    ResnetBlock b = resnet_block(net, i);
    char prefix[64], conv[32], norm[32];
    bool is_stem = i == SIZE_MAX;
    size_t layer = is_stem ? 0 : i + 1;
    snprintf(prefix, sizeof prefix, "%s", trunk);
    if (!is_stem) snprintf(prefix, sizeof prefix, "%slayer%zu.%zu.", trunk, b.stage + 1, b.index);
    for (size_t c = 0; c < b.count; c++) {
        snprintf(conv, sizeof conv, "conv%zu", c + 1);
        snprintf(norm, sizeof norm, "bn%zu", c + 1);
        add_conv(p, net, layer, prefix, &b.conv[c], c, conv, norm, !is_stem && c + 1 == b.count);
    }
    if (b.conv[BLOCK_CONVS].side)
        add_conv(p, net, layer, prefix, &b.conv[BLOCK_CONVS], BLOCK_CONVS, "downsample.0",
                 "downsample.1", false);
}

ConvShape stem_conv(const TowerConfig *t, size_t i) {
    static const size_t sides[STEM_CONVS] = {4, 2, 2};
    size_t in = i ? t->stem : 3, out = i + 1 < STEM_CONVS ? t->stem : t->width;
    return (ConvShape){in, out, sides[i], sides[i], 0};
}

void params_add_stem(Params *p, const TowerConfig *t) {
    static const ConvNet plain = {.kind = CONV_MODIFIED};
    size_t last = STEM_CONVS - 1;
    for (size_t i = 0; i <= last; i++) {
        ConvShape shape = stem_conv(t, i);
        char conv[16], norm[16];
        snprintf(conv, sizeof conv, "conv%zu", i + 1);
        snprintf(norm, sizeof norm, "bn%zu", i + 1);
        add_conv(p, &plain, 0, "stem.", &shape, i, conv, i < last ? norm : NULL, false);
    }
    double spread = sqrt(1 / (double)(4 * t->stem));
    add_vector(p, 0, "stem.", "conv3.bias", ROLE_CONV_1 + (ParamRole)last, true,
               (ParamInit){INIT_UNIFORM, spread}, t->width);
}

static void add_matrix(Params *p, size_t layer, const char *name, ParamRole role, ParamInit init,
                       size_t rows, size_t cols) {
    add(p, (Param){.role = role, .init = init, .ndim = 2, .shape = {rows, cols}}, layer, "", name);
}

/* The matrices of query, key and value are adjacent in the flat block, and so are their biases. */
static void add_attention(Params *p, const ClipConfig *c, size_t layer) {
    size_t C = c->image.width;
    double spread = sqrt(1 / (double)C);
    ParamInit matrix = {INIT_NORMAL, spread}, bias = {INIT_UNIFORM, spread};
    static const char *const names[] = {"attnpool.q_proj.", "attnpool.k_proj.", "attnpool.v_proj.",
                                        "attnpool.c_proj."};
    add_matrix(p, layer, "attnpool.positional_embedding", ROLE_POSITIONS, matrix,
               clip_image_tokens(c), C);
    for (size_t i = 0; i < COUNT(names); i++) {
        ParamRole role = i < 3 ? ROLE_POOL_Q + (ParamRole)i : ROLE_PROJECTION;
        size_t out = i < 3 ? C : c->embed_dim;
        char name[48];
        snprintf(name, sizeof name, "%sweight", names[i]);
        add_matrix(p, layer, name, role, matrix, out, C);
        add_vector(p, layer, names[i], "bias", role, true, bias, out);
    }
}

void params_add_resnet(Params *p, const ClipConfig *c) {
    const ConvNet *net = &c->image.conv;
    const char *trunk = net->kind == CONV_MODIFIED ? "" : "trunk.";
    size_t top = c->image.layers + 1;
    add_block(p, net, SIZE_MAX, trunk);
    for (size_t i = 0; i < c->image.layers; i++) add_block(p, net, i, trunk);
    if (net->kind == CONV_MODIFIED)
        add_attention(p, c, top);
    else if (!c->image.no_proj)
        add_matrix(p, top, "head.proj.weight", ROLE_PROJECTION,
                   (ParamInit){INIT_UNIFORM, sqrt(1 / (double)c->image.width)}, c->embed_dim,
                   c->image.width);
}
