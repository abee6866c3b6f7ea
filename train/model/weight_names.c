#include "train/model/weight_names.h"

#include <stdio.h>
#include <string.h>

/* A name in a file and in the model; or, ending in '.', the start of names, whose rest has rows of
 * its own (inner) or is the same. */
typedef struct Place {
    const char *file, *own;
    const struct Place *inner;
    bool numbered; /* a layer's number and '.' precede the rest */
    bool transposed, channels_last, square;
    int ones, third, thirds, half;
} Place;

/* ---- blocks ---- */

static const Place hf_block[] = {
    {.file = "layer_norm1.", "ln_1."},
    {.file = "self_attn.q_proj.weight", "attn.in_proj_weight", .third = 0, .thirds = 1},
    {.file = "self_attn.k_proj.weight", "attn.in_proj_weight", .third = 1, .thirds = 1},
    {.file = "self_attn.v_proj.weight", "attn.in_proj_weight", .third = 2, .thirds = 1},
    {.file = "self_attn.q_proj.bias", "attn.in_proj_bias", .third = 0, .thirds = 1},
    {.file = "self_attn.k_proj.bias", "attn.in_proj_bias", .third = 1, .thirds = 1},
    {.file = "self_attn.v_proj.bias", "attn.in_proj_bias", .third = 2, .thirds = 1},
    {.file = "self_attn.out_proj.", "attn.out_proj."},
    {.file = "layer_norm2.", "ln_2."},
    {.file = "mlp.fc1.", "mlp.c_fc."},
    {.file = "mlp.fc2.", "mlp.c_proj."},
    {0}};

static const Place timm_block[] = {{.file = "norm1.", "ln_1."},
                                   {.file = "attn.qkv.weight", "attn.in_proj_weight"},
                                   {.file = "attn.qkv.bias", "attn.in_proj_bias"},
                                   {.file = "attn.proj.", "attn.out_proj."},
                                   {.file = "norm2.", "ln_2."},
                                   {.file = "mlp.fc1.", "mlp.c_fc."},
                                   {.file = "mlp.fc2.", "mlp.c_proj."},
                                   {0}};

/* where they differ from timm_block */
static const Place eva_block[] = {
    {.file = "attn.q_bias", "attn.in_proj_bias", .third = 0, .thirds = 1},
    {.file = "attn.v_bias", "attn.in_proj_bias", .third = 2, .thirds = 1},
    {0}};

static const Place eva02_block[] = {
    {.file = "attn.q_proj.weight", "attn.in_proj_weight", .third = 0, .thirds = 1},
    {.file = "attn.k_proj.weight", "attn.in_proj_weight", .third = 1, .thirds = 1},
    {.file = "attn.v_proj.weight", "attn.in_proj_weight", .third = 2, .thirds = 1},
    {.file = "attn.q_proj.bias", "attn.in_proj_bias", .third = 0, .thirds = 1},
    {.file = "attn.v_proj.bias", "attn.in_proj_bias", .third = 2, .thirds = 1},
    {.file = "attn.norm.", "attn.ln_inner."},
    {.file = "mlp.fc1_g.weight", "mlp.c_fc.weight", .half = 1},
    {.file = "mlp.fc1_x.weight", "mlp.c_fc.weight", .half = 2},
    {.file = "mlp.fc1_g.bias", "mlp.c_fc.bias", .half = 1},
    {.file = "mlp.fc1_x.bias", "mlp.c_fc.bias", .half = 2},
    {.file = "mlp.norm.", "mlp.ln_inner."},
    {0}};

/* ---- attention pooling ---- */

static const Place hf_pool[] = {{.file = "probe", "probe", .ones = 1},
                                {.file = "attention.in_proj_weight", "attn.in_proj_weight"},
                                {.file = "attention.in_proj_bias", "attn.in_proj_bias"},
                                {.file = "attention.out_proj.", "attn.out_proj."},
                                {.file = "layernorm.", "ln_2."},
                                {.file = "mlp.fc1.", "mlp.c_fc."},
                                {.file = "mlp.fc2.", "mlp.c_proj."},
                                {0}};

static const Place timm_pool[] = {
    {.file = "latent", "probe", .ones = 1},
    {.file = "q.weight", "attn.in_proj_weight", .third = 0, .thirds = 1},
    {.file = "kv.weight", "attn.in_proj_weight", .third = 1, .thirds = 2},
    {.file = "q.bias", "attn.in_proj_bias", .third = 0, .thirds = 1},
    {.file = "kv.bias", "attn.in_proj_bias", .third = 1, .thirds = 2},
    {.file = "proj.", "attn.out_proj."},
    {.file = "norm.", "ln_2."},
    {.file = "mlp.fc1.", "mlp.c_fc."},
    {.file = "mlp.fc2.", "mlp.c_proj."},
    {0}};

/* ---- convolutional stem ---- */

static const Place timm_stem[] = {{.file = "0.conv.", "conv1."}, {.file = "0.bn.", "bn1."},
                                  {.file = "1.conv.", "conv2."}, {.file = "1.bn.", "bn2."},
                                  {.file = "2.conv.", "conv3."}, {0}};

/* ---- models ---- */

static const Place custom_text[] = {{.file = "text.positional_embedding", "positional_embedding"},
                                    {.file = "text.token_embedding.", "token_embedding."},
                                    {.file = "text.transformer.", "transformer."},
                                    {.file = "text.ln_final.", "ln_final."},
                                    {.file = "text.text_projection", "text_projection"},
                                    {.file = "text.text_projection.", "text_projection."},
                                    {0}};

#define BLOCKS(rows)                                                                               \
    { .file = "visual.trunk.blocks.", "visual.transformer.resblocks.", rows, .numbered = true }
static const Place eva[] = {BLOCKS(eva_block), {0}};
static const Place eva02[] = {BLOCKS(eva02_block), {0}};
static const Place timm[] = {
    {.file = "visual.trunk.cls_token", "visual.class_embedding", .ones = 2},
    {.file = "visual.trunk.norm_pre.", "visual.ln_pre."},
    {.file = "visual.trunk.head.", "visual.proj."},
    {.file = "visual.trunk.pos_embed", "visual.positional_embedding", .ones = 1},
    {.file = "visual.trunk.patch_embed.proj.", "visual.conv1."},
    {.file = "visual.trunk.patch_embed.backbone.", "visual.stem.", timm_stem},
    BLOCKS(timm_block),
    {.file = "visual.trunk.norm.", "visual.ln_post."},
    {.file = "visual.trunk.attn_pool.", "visual.attn_pool.", timm_pool},
    {0}};

/* where it differs from timm; channels_last is of files that are written: readers see the shape */
static const Place naflex[] = {
    {.file = "visual.trunk.embeds.pos_embed",
     "visual.positional_embedding",
     .ones = 1,
     .square = true},
    {.file = "visual.trunk.embeds.proj.weight", "visual.conv1.weight", .channels_last = true},
    {.file = "visual.trunk.embeds.proj.bias", "visual.conv1.bias"},
    {0}};

static const Place clip_model[] = {
    {.file = "visual_projection.weight", "visual.proj", .transposed = true},
    {.file = "text_projection.weight", "text_projection", .transposed = true},
    {.file = "vision_model.embeddings.class_embedding", "visual.class_embedding"},
    {.file = "vision_model.embeddings.patch_embedding.", "visual.conv1."},
    {.file = "vision_model.embeddings.position_embedding.weight", "visual.positional_embedding"},
    {.file = "vision_model.pre_layrnorm.", "visual.ln_pre."},
    {.file = "vision_model.post_layernorm.", "visual.ln_post."},
    {.file = "vision_model.encoder.layers.",
     "visual.transformer.resblocks.",
     hf_block,
     .numbered = true},
    {.file = "text_model.embeddings.token_embedding.weight", "token_embedding.weight"},
    {.file = "text_model.embeddings.position_embedding.weight", "positional_embedding"},
    {.file = "text_model.final_layer_norm.", "ln_final."},
    {.file = "text_model.encoder.layers.", "transformer.resblocks.", hf_block, .numbered = true},
    {.file = "logit_scale", "logit_scale"},
    {0}};

static const Place siglip_model[] = {{.file = "vision_model.head.", "visual.attn_pool.", hf_pool},
                                     {.file = "text_model.head.", "text_projection."},
                                     {.file = "logit_scale", "logit_scale", .ones = 1},
                                     {.file = "logit_bias", "logit_bias", .ones = 1},
                                     {0}};

static const Place torchvision[] = {{.file = "conv1.", "visual.trunk.conv1."},
                                    {.file = "bn1.", "visual.trunk.bn1."},
                                    {.file = "layer1.", "visual.trunk.layer1."},
                                    {.file = "layer2.", "visual.trunk.layer2."},
                                    {.file = "layer3.", "visual.trunk.layer3."},
                                    {.file = "layer4.", "visual.trunk.layer4."},
                                    {0}};

static const Place siglip2_model[] = {{.file = "vision_model.embeddings.patch_embedding.weight",
                                       "visual.conv1.weight",
                                       .channels_last = true},
                                      {0}};

enum { TABLES = 3 };
static const Place *const tables[][TABLES] = {
    [NAMES_OPEN_CLIP] = {NULL},
    [NAMES_CUSTOM_TEXT] = {custom_text},
    [NAMES_TIMM] = {timm, custom_text},
    [NAMES_NAFLEX] = {naflex, timm, custom_text},
    [NAMES_EVA] = {eva, timm, custom_text},
    [NAMES_EVA02] = {eva02, timm, custom_text},
    [NAMES_TORCHVISION] = {torchvision},
    [NAMES_CLIP_MODEL] = {clip_model},
    [NAMES_SIGLIP_MODEL] = {siglip_model, clip_model},
    [NAMES_SIGLIP2_MODEL] = {siglip2_model, siglip_model, clip_model},
};
/* Of the names that reading finds without prefixes. */
static const Place *const reading[] = {siglip_model, clip_model, naflex,     timm,
                                       eva,          eva02,      torchvision};

NamesOf weight_names_of(const ClipConfig *c) {
    if (c->naflex) return NAMES_NAFLEX;
    if (c->timm && c->image.no_key_bias) return c->image.gated ? NAMES_EVA02 : NAMES_EVA;
    return c->timm ? NAMES_TIMM : c->text.proj_bias ? NAMES_CUSTOM_TEXT : NAMES_OPEN_CLIP;
}

/* ---- translation ---- */

static bool starts_with(const char *s, const char *start) {
    return !strncmp(s, start, strlen(start));
}

/* Returns true if `name` matches the row's pattern; *rest: the part after a prefix, else "". */
static bool fits(const char *name, const char *pattern, const char **rest) {
    size_t n = strlen(pattern);
    bool prefix = pattern[n - 1] == '.';
    if (prefix ? strncmp(name, pattern, n) != 0 : strcmp(name, pattern) != 0) return false;
    *rest = name + n;
    return true;
}

/* "3.mlp.fc1.bias" → the length of "3."; 0: no number there. */
static size_t layer_digits(const char *s) {
    size_t n = strspn(s, "0123456789");
    return n && n < 6 && s[n] == '.' ? n + 1 : 0;
}

/* The nth of the rows that fit, whose translation is written to out[room], cut to it; NULL: none.
 */
static const Place *translate(const Place *p, bool to_file, const char *name, size_t nth, char *out,
                              size_t room) {
    for (; p->file; p++) {
        const char *rest;
        if (!fits(name, to_file ? p->own : p->file, &rest)) continue;
        size_t digits = p->numbered ? layer_digits(rest) : 0;
        if (p->numbered && !digits) continue;
        const char *start = to_file ? p->file : p->own;
        if (!p->inner) {
            if (nth-- > 0) continue;
            snprintf(out, room, "%s%s", start, rest);
            return p;
        }
        int n = snprintf(out, room, "%s%.*s", start, (int)digits, rest);
        assert(n > 0 && (size_t)n < room);
        const Place *leaf =
            translate(p->inner, to_file, rest + digits, nth, out + n, room - (size_t)n);
        if (leaf) return leaf;
    }
    return NULL;
}

static const char *without_prefix(const char *name) {
    static const char *const prefixes[] = {"module.", "_orig_mod.", "text."};
    for (size_t i = 0; i < COUNT(prefixes);) {
        if (starts_with(name, prefixes[i])) {
            name += strlen(prefixes[i]);
            i = 0;
        } else {
            i++;
        }
    }
    return name;
}

static void copy_place(WeightName *to, const Place *p) {
    to->third = p->third;
    to->thirds = p->thirds;
    to->transposed = p->transposed;
    to->channels_last = p->channels_last;
    to->square = p->square;
    to->half = p->half;
    to->ones = p->ones;
}

WeightName weight_name_in(const char *name) {
    const char *plain = without_prefix(name);
    WeightName out = {.name = ""};
    for (size_t i = 0; i < COUNT(reading); i++) {
        const Place *p = translate(reading[i], false, plain, 0, out.name, sizeof out.name);
        if (!p) continue;
        copy_place(&out, p);
        return out;
    }
    snprintf(out.name, sizeof out.name, "%s", plain);
    return out;
}

bool weight_name_out(NamesOf names, const char *parameter, size_t nth, char file[FILE_NAME],
                     WeightName *out) {
    bool known = false, own = names < NAMES_TORCHVISION;
    *out = (WeightName){.name = ""};
    snprintf(out->name, sizeof out->name, "%s", parameter);
    for (size_t i = 0; i < TABLES && tables[names][i] && !known; i++) {
        const Place *p = translate(tables[names][i], true, parameter, nth, file, FILE_NAME);
        if (p) {
            copy_place(out, p);
            return true;
        }
        known = translate(tables[names][i], true, parameter, 0, file, FILE_NAME) != NULL;
    }
    if (known || !own || nth) return false;
    snprintf(file, FILE_NAME, "%s", parameter);
    return true;
}

bool weight_is_buffer(const char *name) {
    static const char *const buffers[] = {"attn_mask",      "position_ids", "input_resolution",
                                          "context_length", "vocab_size",   "num_batches_tracked"};
    size_t n = strlen(name);
    const char *plain = without_prefix(name);
    if (!strcmp(plain, "fc.weight") || !strcmp(plain, "fc.bias")) return true;
    for (size_t i = 0; i < COUNT(buffers); i++) {
        size_t m = strlen(buffers[i]);
        if (n >= m && !strcmp(name + n - m, buffers[i])) return true;
    }
    return false;
}
