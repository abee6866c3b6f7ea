#include "train/model/hf_config.h"
#include "train/model/hf_siglip.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Fields with their defaults in CLIPTextConfig and CLIPVisionConfig. */
typedef struct Section {
    const char *name;    /* text_config */
    const json_t *plain; /* may be NULL */
    const json_t *dict;  /* text_config_dict of old files: wins */
} Section;

static Section section(const json_t *root, const char *name) {
    char dict[32];
    snprintf(dict, sizeof dict, "%s_dict", name);
    return (Section){name, json_object_get(root, name), json_object_get(root, dict)};
}

/* NULL: absent or null. */
static const json_t *field(const Section *s, const char *name) {
    const json_t *v = json_object_get(s->dict, name);
    if (!v || json_is_null(v)) v = json_object_get(s->plain, name);
    return v && !json_is_null(v) ? v : NULL;
}

static bool whole(const Section *s, const char *name, json_int_t missing, json_int_t *out,
                  Error *err) {
    const json_t *v = field(s, name);
    *out = v ? json_integer_value(v) : missing;
    if (*out >= 1 && *out <= 1 << 24 && (!v || json_is_integer(v))) return true;
    return error_set(err, "%s.%s: expected a whole number from 1", s->name, name);
}

static const char *const activations[] = {[ACTIVATION_GELU] = "gelu",
                                          [ACTIVATION_QUICK_GELU] = "quick_gelu",
                                          [ACTIVATION_GELU_TANH] = "gelu_pytorch_tanh"};

static bool read_activation(const Section *s, Activation *f, Error *err) {
    const json_t *v = field(s, "hidden_act");
    const char *name = v ? json_string_value(v) : activations[ACTIVATION_QUICK_GELU];
    for (int i = 0; i < ACTIVATIONS; i++) {
        *f = (Activation)i;
        if (name && !strcmp(name, activations[i])) return true;
    }
    return error_set(
        err, "%s.hidden_act: only \"quick_gelu\", \"gelu\" and \"gelu_pytorch_tanh\" are supported",
        s->name);
}

/* A ratio for which open_clip's rule, int(width × ratio), gives exactly this hidden width, even if
 * the file loses its last digits. */
static double ratio_of(json_int_t hidden, json_int_t width) {
    char digits[32];
    snprintf(digits, sizeof digits, "%.6g", (double)hidden / (double)width);
    double ratio = strtod(digits, NULL), got = (double)width * ratio;
    bool exact = hidden % width == 0 || (got > (double)hidden + 1e-6 && got < (double)hidden + 1);
    return exact ? ratio : ((double)hidden + 0.5) / (double)width;
}

typedef struct TowerFields {
    json_int_t width, hidden, layers, heads;
    Activation activation;
    double eps;
} TowerFields;

static bool read_tower(const Section *s, json_int_t width, json_int_t heads, TowerFields *t,
                       Error *err) {
    if (!whole(s, "hidden_size", width, &t->width, err) ||
        !whole(s, "intermediate_size", 4 * width, &t->hidden, err) ||
        !whole(s, "num_hidden_layers", 12, &t->layers, err) ||
        !whole(s, "num_attention_heads", heads, &t->heads, err) ||
        !read_activation(s, &t->activation, err))
        return false;
    if (t->width % t->heads)
        return error_set(err, "%s.num_attention_heads: does not divide hidden_size", s->name);
    const json_t *eps = field(s, "layer_norm_eps");
    t->eps = eps && !(fabs(json_number_value(eps) - 1e-5) < 1e-9) ? json_number_value(eps) : 1e-5;
    if (eps && !json_is_number(eps))
        return error_set(err, "%s.layer_norm_eps: expected a number", s->name);
    return true;
}

static const char metaclip_2[] = "metaclip_2";

/* The pooled token of a caption: the first eos_token_id, or in CLIPModel with the value 2 of early
 * files the largest id (which is the same if eos is the vocabulary's last id). */
static bool read_eos(const Section *s, bool early, json_int_t vocab, json_t *text_cfg, Error *err) {
    const json_t *v = field(s, "eos_token_id");
    json_int_t eos = v ? json_integer_value(v) : 49407;
    if ((v && !json_is_integer(v)) || eos < 0 || eos >= vocab)
        return error_set(err, "%s.eos_token_id: expected an id of the vocabulary", s->name);
    if ((eos == 2 && early) || eos == vocab - 1) return true;
    json_object_set_new(text_cfg, "pool_type", json_string("eos"));
    json_object_set_new(text_cfg, "eos_id", json_integer(eos));
    return true;
}

/* Fields that are only written if they are not the defaults of open_clip's schema. */
static void name_rest(json_t *cfg, const TowerFields *t) {
    if (t->hidden != 4 * t->width)
        json_object_set_new(cfg, "mlp_ratio", json_real(ratio_of(t->hidden, t->width)));
    if (t->activation == ACTIVATION_GELU_TANH)
        json_object_set_new(cfg, "act_kwargs", json_pack("{s:s}", "approximate", "tanh"));
    if (t->eps != 1e-5) json_object_set_new(cfg, "norm_kwargs", json_pack("{s:f}", "eps", t->eps));
}

static json_t *model_cfg(const json_t *root, Error *err) {
    Section top = {"config", root, NULL}, image = section(root, "vision_config"),
            text = section(root, "text_config");
    TowerFields i, t;
    json_int_t embed, size, patch, channels, context, vocab;
    const json_t *type = field(&top, "model_type");
    const char *model = type ? json_string_value(type) : "clip";
    bool early = model && !strcmp(model, "clip");
    if (!model || (!early && strcmp(model, metaclip_2))) {
        error_set(
            err, "config.model_type: only \"clip\", \"metaclip_2\", \"siglip\" and \"siglip2\" are "
                 "supported");
        return NULL;
    }
    if (!read_tower(&image, 768, 12, &i, err) || !read_tower(&text, 512, 8, &t, err) ||
        !whole(&top, "projection_dim", 512, &embed, err) ||
        !whole(&image, "image_size", 224, &size, err) ||
        !whole(&image, "patch_size", 32, &patch, err) ||
        !whole(&image, "num_channels", 3, &channels, err) ||
        !whole(&text, "max_position_embeddings", 77, &context, err) ||
        !whole(&text, "vocab_size", 49408, &vocab, err))
        return NULL;
    if (channels != 3) {
        error_set(err, "vision_config.num_channels: only 3 are supported");
        return NULL;
    }
    bool quick = i.activation == ACTIVATION_QUICK_GELU;
    if (quick != (t.activation == ACTIVATION_QUICK_GELU)) {
        error_set(err, "hidden_act: both towers must have the same");
        return NULL;
    }
    json_t *cfg = json_pack(
        "{s:I, s:{s:I, s:I, s:I, s:I, s:I}, s:{s:I, s:I, s:I, s:I, s:I}}", "embed_dim", embed,
        "vision_cfg", "image_size", size, "layers", i.layers, "width", i.width, "head_width",
        i.width / i.heads, "patch_size", patch, "text_cfg", "context_length", context, "vocab_size",
        vocab, "width", t.width, "heads", t.heads, "layers", t.layers);
    assert(cfg);
    if (quick) json_object_set_new(cfg, "quick_gelu", json_true());
    name_rest(json_object_get(cfg, "vision_cfg"), &i);
    name_rest(json_object_get(cfg, "text_cfg"), &t);
    if (read_eos(&text, early, vocab, json_object_get(cfg, "text_cfg"), err)) return cfg;
    json_decref(cfg);
    return NULL;
}

/* The numbers are checked when preprocess_cfg is read. */
static json_t *preprocess_cfg(const json_t *pre, Error *err) {
    json_t *cfg = json_object(), *mean = json_object_get(pre, "image_mean"),
           *std = json_object_get(pre, "image_std");
    const json_t *resample = json_object_get(pre, "resample"), *size = json_object_get(pre, "size");
    json_int_t filter = json_is_integer(resample) ? json_integer_value(resample) : 3;
    if (filter != 2 && filter != 3) {
        error_set(err, "preprocessor.resample: only 2 (bilinear) and 3 (bicubic) are supported");
        json_decref(cfg);
        return NULL;
    }
    if (mean) json_object_set(cfg, "mean", mean);
    if (std) json_object_set(cfg, "std", std);
    json_object_set_new(cfg, "interpolation", json_string(filter == 2 ? "bilinear" : "bicubic"));
    bool both = json_object_get(size, "height") && json_object_get(size, "width");
    json_object_set_new(cfg, "resize_mode", json_string(both ? "squash" : "shortest"));
    return cfg;
}

bool hf_config_is(const json_t *root) {
    return json_is_object(json_object_get(root, "vision_config")) ||
           json_is_object(json_object_get(root, "text_config")) ||
           json_is_object(json_object_get(root, "vision_config_dict")) ||
           json_is_string(json_object_get(root, "model_type"));
}

json_t *hf_config_in(const json_t *root, const json_t *preprocessor, Error *err) {
    if (hf_siglip_is(root)) return hf_siglip_in(root, preprocessor, err);
    json_t *model = model_cfg(root, err), *pre = model ? preprocess_cfg(preprocessor, err) : NULL;
    if (model && pre) return json_pack("{s:o, s:o}", "model_cfg", model, "preprocess_cfg", pre);
    json_decref(model);
    return NULL;
}

/* ---- out ---- */

static json_t *tower_out(const TowerConfig *t, const ClipConfig *c, const char *type) {
    return json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:s, s:f, s:f}", "model_type", type,
                     "hidden_size", (json_int_t)t->width, "intermediate_size", (json_int_t)t->mlp,
                     "num_hidden_layers", (json_int_t)t->layers, "num_attention_heads",
                     (json_int_t)t->heads, "projection_dim", (json_int_t)c->embed_dim, "hidden_act",
                     activations[t->activation], "layer_norm_eps", t->eps, "attention_dropout",
                     0.0);
}

char *hf_config_out(const ClipConfig *c, const char *dtype, Error *err) {
    if (hf_siglip_fits(c)) return hf_siglip_out(c, dtype);
    const struct {
        bool has;
        const char *what;
    } beyond[] = {{c->image.conv.kind != CONV_NONE, "a ResNet"},
                  {c->image.stem, "a convolutional stem"},
                  {c->has_logit_bias, "a logit_bias"},
                  {!c->image.class_token, "an image tower without class token"},
                  {c->image.patch_bias, "a bias of the patches"},
                  {!c->image.ln_pre, "no_ln_pre"},
                  {c->image.pool == POOL_MEAN, "pool_type avg"},
                  {c->image.pool == POOL_ATTENTION, "attention pooling"},
                  {c->image.no_proj || c->text.no_proj, "a tower without projection"},
                  {c->image.norm_after_pool, "final_ln_after_pool"},
                  {c->image.rotary.theta > 0, "rotary positions"},
                  {!c->text.causal, "no_causal_mask"},
                  {c->text.pool == POOL_LAST, "pool_type last"},
                  {c->text.proj_bias, "proj_bias"}};
    for (size_t i = 0; i < COUNT(beyond); i++)
        if (beyond[i].has) {
            error_set(err, "Hugging Face's CLIPModel has no place for %s", beyond[i].what);
            return NULL;
        }
    json_int_t vocab = (json_int_t)c->vocab_size;
    bool first_id = c->text.pool == POOL_ID;
    json_t *image =
        tower_out(&c->image, c, first_id ? "metaclip_2_vision_model" : "clip_vision_model");
    json_t *text = tower_out(&c->text, c, first_id ? "metaclip_2_text_model" : "clip_text_model");
    json_object_set_new(image, "image_size", json_integer((json_int_t)c->image_size));
    json_object_set_new(image, "patch_size", json_integer((json_int_t)c->patch_size));
    json_object_set_new(image, "num_channels", json_integer(3));
    json_object_set_new(text, "max_position_embeddings",
                        json_integer((json_int_t)c->context_length));
    json_object_set_new(text, "vocab_size", json_integer(vocab));
    json_object_set_new(text, "eos_token_id", json_integer(first_id ? c->text.pool_id : vocab - 1));
    if (!first_id) {
        json_object_set_new(text, "bos_token_id", json_integer(vocab - 2));
        json_object_set_new(text, "pad_token_id", json_integer(vocab - 1));
    }
    return clip_config_text(json_pack(
        "{s:[s], s:s, s:I, s:f, s:s, s:o, s:o}", "architectures",
        first_id ? "MetaClip2Model" : "CLIPModel", "model_type", first_id ? metaclip_2 : "clip",
        "projection_dim", (json_int_t)c->embed_dim, "logit_scale_init_value", c->init_logit_scale,
        "torch_dtype", dtype, "text_config", text, "vision_config", image));
}

char *hf_preprocessor_out(const ClipConfig *c, Error *err) {
    if (hf_siglip_fits(c)) return hf_siglip_preprocessor_out(c, err);
    const Transform *t = &c->eval_transform;
    if (t->resize_mode == RESIZE_LONGEST) {
        error_set(err, "Hugging Face's CLIPImageProcessor has no resize_mode longest");
        return NULL;
    }
    bool squash = t->resize_mode == RESIZE_SQUASH;
    json_int_t S = (json_int_t)c->image_size;
    json_t *square = json_pack("{s:I, s:I}", "height", S, "width", S);
    json_t *size = squash ? json_incref(square) : json_pack("{s:I}", "shortest_edge", S);
    json_t *root = json_pack("{s:s, s:b, s:o, s:i, s:b, s:o, s:b, s:f, s:b, s:b}",
                             "image_processor_type", "CLIPImageProcessor", "do_resize", 1, "size",
                             size, "resample", t->interpolation == INTERPOLATION_BILINEAR ? 2 : 3,
                             "do_center_crop", !squash, "crop_size", square, "do_rescale", 1,
                             "rescale_factor", 1.0 / 255, "do_normalize", 1, "do_convert_rgb", 1);
    json_object_set_new(root, "image_mean", clip_config_triple(t->mean));
    json_object_set_new(root, "image_std", clip_config_triple(t->std));
    return clip_config_text(root);
}
