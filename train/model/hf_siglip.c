#include "train/model/hf_siglip.h"

#include "train/model/config_timm.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Far above any published model. */
enum { MAX_SIZE = 1 << 24, MAX_SIDE = 1 << 13 };
/* Siglip2Config's num_patches and Siglip2ImageProcessor's max_num_patches. */
enum { NAFLEX_PATCHES = 256 };

static const char *const activations[] = {"gelu_pytorch_tanh", "gelu", NULL};

bool hf_siglip_is(const json_t *root) {
    const char *type = json_string_value(json_object_get(root, "model_type"));
    return type && (!strcmp(type, "siglip") || !strcmp(type, "siglip2"));
}

/* Pictures of their own sizes (Siglip2Model); SigLIP 2 of a fixed size has SiglipModel's type. */
static bool is_naflex(const json_t *root) {
    return !strcmp(json_string_value(json_object_get(root, "model_type")), "siglip2");
}

typedef struct TowerSizes {
    size_t width, hidden, layers, heads;
    bool erf;
    double eps;
} TowerSizes;

static TowerSizes take_tower(const JsonFields *r) {
    TowerSizes t = {.width = fields_size(r, "hidden_size", MAX_SIZE, 768),
                    .hidden = fields_size(r, "intermediate_size", MAX_SIZE, 3072),
                    .layers = fields_size(r, "num_hidden_layers", MAX_SIZE, 12),
                    .heads = fields_size(r, "num_attention_heads", MAX_SIZE, 12),
                    .erf = fields_word(r, "hidden_act", activations),
                    .eps = fields_number(r, "layer_norm_eps", 1e-12, 1, 1e-6)};
    if (t.width % t.heads) fields_fail(r, "num_attention_heads", "does not divide hidden_size");
    return t;
}

/* A ratio for which open_clip's rule, int(width × ratio), gives this hidden width. */
static double ratio_of(const TowerSizes *t) {
    char digits[32];
    snprintf(digits, sizeof digits, "%.6g", (double)t->hidden / (double)t->width);
    double ratio = strtod(digits, NULL);
    return (size_t)((double)t->width * ratio) == t->hidden
               ? ratio
               : ((double)t->hidden + 0.5) / (double)t->width;
}

static json_t *tower_cfg(const TowerSizes *t) {
    json_t *cfg = json_pack("{s:I, s:I, s:{s:f}, s:{s:s}}", "width", (json_int_t)t->width, "layers",
                            (json_int_t)t->layers, "norm_kwargs", "eps", t->eps, "act_kwargs",
                            "approximate", t->erf ? "none" : "tanh");
    if (t->hidden != 4 * t->width) json_object_set_new(cfg, "mlp_ratio", json_real(ratio_of(t)));
    return cfg;
}

/* Of the square of positions. */
static size_t grid_side(const JsonFields *r) {
    size_t patches = fields_size(r, "num_patches", MAX_SIZE, NAFLEX_PATCHES);
    size_t side = (size_t)lround(sqrt((double)patches));
    if (side * side != patches) fields_fail(r, "num_patches", "is not the square of a number");
    return side;
}

/* timm has erf's GELU in some models for which SiglipModel has tanh's: act_kwargs says which. */
static json_t *image_cfg(const JsonFields *r, bool naflex, size_t *width) {
    TowerSizes t = take_tower(r);
    size_t patch = fields_size(r, "patch_size", MAX_SIDE, 16);
    size_t size = naflex ? patch * grid_side(r) : fields_size(r, "image_size", MAX_SIZE, 224);
    if (fields_size(r, "num_channels", MAX_SIZE, 3) != 3)
        fields_fail(r, "num_channels", "only 3 are supported");
    json_t *head = fields_take(r, "vision_use_head");
    if (head && !json_is_true(head)) fields_fail(r, "vision_use_head", "only true is supported");
    json_decref(head);
    *width = t.width;
    TimmModel sizes = {.image_size = size,
                       .patch_size = patch,
                       .width = t.width,
                       .layers = t.layers,
                       .head_width = t.width / t.heads,
                       .mlp_ratio = ratio_of(&t),
                       .family = naflex ? TIMM_NAFLEX : TIMM_SIGLIP};
    const TimmModel *named = timm_like(&sizes);
    json_t *cfg = tower_cfg(&t);
    json_object_set_new(cfg, "image_size", json_integer((json_int_t)size));
    json_object_set_new(cfg, "patch_size", json_integer((json_int_t)patch));
    json_object_set_new(cfg, "head_width", json_integer((json_int_t)sizes.head_width));
    const char *other = naflex ? NAFLEX_NAME : "vit_siglip";
    json_object_set_new(cfg, "timm_model_name", json_string(named ? named->name : other));
    json_object_set_new(cfg, "timm_model_pretrained", json_false());
    json_object_set_new(cfg, "timm_pool", json_string("map"));
    json_object_set_new(cfg, "timm_proj", json_string("none"));
    return cfg;
}

static json_t *text_cfg(const JsonFields *r, size_t embed) {
    TowerSizes t = take_tower(r);
    size_t vocab = fields_size(r, "vocab_size", MAX_SIZE, 32000);
    size_t context = fields_size(r, "max_position_embeddings", MAX_SIZE, HF_SIGLIP_CONTEXT);
    if (fields_size(r, "projection_size", MAX_SIZE, embed) != embed)
        fields_fail(r, "projection_size", "is not vision_config.hidden_size");
    json_t *cfg = tower_cfg(&t);
    json_object_set_new(cfg, "context_length", json_integer((json_int_t)context));
    json_object_set_new(cfg, "vocab_size", json_integer((json_int_t)vocab));
    json_object_set_new(cfg, "heads", json_integer((json_int_t)t.heads));
    /* SigLIP 2's tokenizer keeps punctuation, SigLIP's removes it */
    bool gemma = vocab == 256000;
    json_object_set_new(cfg, "hf_tokenizer_name",
                        json_string(gemma ? "timm/ViT-B-16-SigLIP2" : "timm/ViT-B-16-SigLIP"));
    if (!gemma)
        json_object_set_new(cfg, "tokenizer_kwargs", json_pack("{s:s}", "clean", "canonicalize"));
    json_object_set_new(cfg, "no_causal_mask", json_true());
    json_object_set_new(cfg, "proj_bias", json_true());
    json_object_set_new(cfg, "pool_type", json_string("last"));
    return cfg;
}

/* The numbers are checked when preprocess_cfg is read. */
static json_t *preprocess_cfg(const json_t *pre, bool naflex, json_int_t patch, Error *err) {
    const json_t *resample = json_object_get(pre, "resample"),
                 *own = json_object_get(pre, "patch_size");
    json_int_t filter = json_is_integer(resample) ? json_integer_value(resample) : naflex ? 2 : 3;
    if (naflex && own && json_integer_value(own) != patch) {
        error_set(err, "preprocessor.patch_size: is not vision_config.patch_size, %lld",
                  (long long)patch);
        return NULL;
    }
    if (filter != 2 && filter != 3) {
        error_set(err, "preprocessor.resample: only 2 (bilinear) and 3 (bicubic) are supported");
        return NULL;
    }
    json_t *cfg =
        json_pack("{s:[f,f,f], s:[f,f,f], s:s, s:s}", "mean", 0.5, 0.5, 0.5, "std", 0.5, 0.5, 0.5,
                  "interpolation", filter == 2 ? "bilinear" : "bicubic", "resize_mode", "squash");
    json_t *mean = json_object_get(pre, "image_mean"), *std = json_object_get(pre, "image_std");
    if (mean) json_object_set(cfg, "mean", mean);
    if (std) json_object_set(cfg, "std", std);
    json_t *most = json_object_get(pre, "max_num_patches");
    if (naflex)
        json_object_set_new(cfg, "max_num_patches",
                            most ? json_incref(most) : json_integer(NAFLEX_PATCHES));
    return cfg;
}

/* A copy of which the reader may take fields. */
static JsonFields copy_of(const json_t *root, const char *name, Error *err, bool *ok) {
    const json_t *object = json_object_get(root, name);
    json_t *copy = json_is_object(object) ? json_copy((json_t *)object) : json_object();
    return (JsonFields){copy, name, err, ok};
}

json_t *hf_siglip_in(const json_t *root, const json_t *preprocessor, Error *err) {
    bool ok = true, naflex = is_naflex(root);
    size_t embed;
    JsonFields vision = copy_of(root, "vision_config", err, &ok);
    JsonFields words = copy_of(root, "text_config", err, &ok);
    json_t *image = image_cfg(&vision, naflex, &embed), *text = text_cfg(&words, embed);
    json_t *model = json_pack("{s:I, s:f, s:f, s:b, s:o, s:o}", "embed_dim", (json_int_t)embed,
                              "init_logit_scale", log(10), "init_logit_bias", -10.0, "custom_text",
                              1, "vision_cfg", image, "text_cfg", text);
    json_decref(vision.object);
    json_decref(words.object);
    json_int_t patch = json_integer_value(json_object_get(image, "patch_size"));
    json_t *pre = ok ? preprocess_cfg(preprocessor, naflex, patch, err) : NULL;
    if (pre) return json_pack("{s:o, s:o}", "model_cfg", model, "preprocess_cfg", pre);
    json_decref(model);
    return NULL;
}

/* ---- out ---- */

bool hf_siglip_fits(const ClipConfig *c) {
    const TowerConfig *i = &c->image, *t = &c->text;
    return c->has_logit_bias && i->pool == POOL_ATTENTION && i->pool_heads == i->heads &&
           i->no_proj && !i->class_token && !i->ln_pre && i->patch_bias && !t->causal &&
           t->pool == POOL_LAST && t->proj_bias && !t->no_proj &&
           i->activation != ACTIVATION_QUICK_GELU && t->activation != ACTIVATION_QUICK_GELU;
}

static json_t *tower_out(const TowerConfig *t, const char *type) {
    return json_pack("{s:s, s:I, s:I, s:I, s:I, s:s, s:f, s:f}", "model_type", type, "hidden_size",
                     (json_int_t)t->width, "intermediate_size", (json_int_t)t->mlp,
                     "num_hidden_layers", (json_int_t)t->layers, "num_attention_heads",
                     (json_int_t)t->heads, "hidden_act",
                     activations[t->activation == ACTIVATION_GELU], "layer_norm_eps", t->eps,
                     "attention_dropout", 0.0);
}

char *hf_siglip_out(const ClipConfig *c, const char *dtype) {
    bool naflex = c->naflex;
    json_t *image = tower_out(&c->image, naflex ? "siglip2_vision_model" : "siglip_vision_model"),
           *text = tower_out(&c->text, naflex ? "siglip2_text_model" : "siglip_text_model");
    json_int_t size = (json_int_t)(naflex ? clip_image_tokens(c) : c->image_size);
    json_object_set_new(image, naflex ? "num_patches" : "image_size", json_integer(size));
    json_object_set_new(image, "patch_size", json_integer((json_int_t)c->patch_size));
    json_object_set_new(image, "num_channels", json_integer(3));
    json_object_set_new(image, "vision_use_head", json_true());
    json_object_set_new(text, "max_position_embeddings",
                        json_integer((json_int_t)c->context_length));
    json_object_set_new(text, "vocab_size", json_integer((json_int_t)c->vocab_size));
    json_object_set_new(text, "projection_size", json_integer((json_int_t)c->embed_dim));
    return clip_config_text(json_pack("{s:[s], s:s, s:s, s:o, s:o}", "architectures",
                                      naflex ? "Siglip2Model" : "SiglipModel", "model_type",
                                      naflex ? "siglip2" : "siglip", "torch_dtype", dtype,
                                      "text_config", text, "vision_config", image));
}

char *hf_siglip_preprocessor_out(const ClipConfig *c, Error *err) {
    const Transform *t = &c->eval_transform;
    if (!c->naflex && t->resize_mode != RESIZE_SQUASH) {
        error_set(err, "Hugging Face's SiglipImageProcessor has only resize_mode squash");
        return NULL;
    }
    json_int_t S = (json_int_t)c->image_size;
    json_t *root =
        json_pack("{s:s, s:b, s:i, s:b, s:f, s:b, s:b}", "image_processor_type",
                  c->naflex ? "Siglip2ImageProcessor" : "SiglipImageProcessor", "do_resize", 1,
                  "resample", t->interpolation == INTERPOLATION_BILINEAR ? 2 : 3, "do_rescale", 1,
                  "rescale_factor", 1.0 / 255, "do_normalize", 1, "do_convert_rgb", 1);
    if (c->naflex) {
        json_object_set_new(root, "patch_size", json_integer(t->patch_size));
        json_object_set_new(root, "max_num_patches", json_integer(t->max_patches));
    } else {
        json_object_set_new(root, "size", json_pack("{s:I, s:I}", "height", S, "width", S));
    }
    json_object_set_new(root, "image_mean", clip_config_triple(t->mean));
    json_object_set_new(root, "image_std", clip_config_triple(t->std));
    return clip_config_text(root);
}
