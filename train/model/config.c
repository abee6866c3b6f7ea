#include "train/model/config.h"

#include "data/io/file.h"
#include "data/io/folder.h"
#include "data/io/machine.h"
#include "data/io/utf8.h"
#include "data/io/resource.h"
#include "train/model/config_fields.h"
#include "train/model/config_resnet.h"
#include "train/model/config_timm.h"
#include "train/model/families.h"
#include "train/model/hf_config.h"
#include "train/model/hf_siglip.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* Far above any published model, far below an overflow of sizes. */
enum {
    MAX_JSON = 1 << 20,
    MAX_WIDTH = 1 << 14,
    MAX_MLP = 1 << 18,
    MAX_LAYERS = 1 << 10,
    MAX_IMAGE = 1 << 13,
    MAX_PATCHES = 1 << 14,
    MAX_CONTEXT = 1 << 16,
    MAX_VOCAB = 1 << 22
};
static const double default_eps = 1e-5; /* PyTorch's LayerNorm */

/* ---- fields ---- (tables of fields_neutral) */

static const NeutralField top_neutral[] = {{"custom_text", NULL},
                                           {"nonscalar_logit_scale", NULL},
                                           {"output_dict", NULL},
                                           {"cast_dtype", "null"},
                                           {NULL, NULL}};
static const NeutralField image_neutral[] = {{"ls_init_value", "null"},
                                             {"attentional_pool", "false"},
                                             {"attn_pooler_queries", NULL},
                                             {"attn_pooler_heads", NULL},
                                             {"pos_embed_type", "\"learnable\""},
                                             {"output_tokens", "false"},
                                             {"timm_model_pretrained", NULL},
                                             {"timm_proj_bias", NULL},
                                             {"timm_drop", NULL},
                                             {"timm_drop_path", NULL},
                                             {NULL, NULL}};
/* of a tower that is not timm's */
static const NeutralField timm_neutral[] = {
    {"timm_model_name", "null"}, {"timm_pool", NULL}, {"timm_proj", NULL}, {NULL, NULL}};
static const NeutralField text_neutral[] = {{"tokenizer_mode", "null"},
                                            {"ls_init_value", "null"},
                                            {"embed_cls", "false"},
                                            {"pad_id", NULL},
                                            /* the same numbers, since LayerNorm acts on each row
                                             * alone */
                                            {"final_ln_after_pool", NULL},
                                            {"output_tokens", "false"},
                                            {"hf_model_name", "null"},
                                            {"hf_model_pretrained", NULL},
                                            {"hf_proj_type", NULL},
                                            {"hf_pooler_type", NULL},
                                            {NULL, NULL}};
static const NeutralField block_neutral[] = {
    {"block_type", "\"default\""},   {"qk_norm", "false"},
    {"scaled_cosine_attn", "false"}, {"scale_heads", "false"},
    {"scale_attn_inner", "false"},   {"scale_attn", "false"},
    {"scale_fc", "false"},           {NULL, NULL}};

/* ---- the three parts ---- */

TowerConfig clip_image_tower(size_t width, size_t layers, size_t heads, size_t mlp) {
    return (TowerConfig){width,
                         layers,
                         heads,
                         mlp,
                         .eps = default_eps,
                         .class_token = true,
                         .ln_pre = true,
                         .pool = POOL_CLASS};
}

TowerConfig clip_text_tower(size_t width, size_t layers, size_t heads, size_t mlp) {
    return (TowerConfig){width,          layers,          heads, mlp, .eps = default_eps,
                         .causal = true, .pool = POOL_END};
}

static double take_eps(const JsonFields *r, double missing) {
    char where[48];
    json_t *object;
    JsonFields norm = fields_arguments(r, "norm_kwargs", &object, where);
    double eps = fields_number(&norm, "eps", 1e-12, 1, missing);
    fields_end(&norm);
    json_decref(object);
    return eps;
}

static Activation take_activation(const JsonFields *r, bool quick) {
    static const char *const approximations[] = {"none", "tanh", NULL};
    char where[48];
    json_t *object;
    JsonFields gelu = fields_arguments(r, "act_kwargs", &object, where);
    bool tanh = fields_word(&gelu, "approximate", approximations);
    if (quick && tanh) fields_fail(&gelu, "approximate", "quick_gelu is another approximation");
    fields_end(&gelu);
    json_decref(object);
    return quick ? ACTIVATION_QUICK_GELU : tanh ? ACTIVATION_GELU_TANH : ACTIVATION_GELU;
}

/* t: the values of absent fields. */
static void read_tower(const JsonFields *r, TowerConfig *t, bool quick) {
    t->width = fields_size(r, "width", MAX_WIDTH, t->width);
    t->layers = fields_size(r, "layers", MAX_LAYERS, t->layers);
    t->mlp = (size_t)((double)t->width * fields_number(r, "mlp_ratio", 1e-3, 64, 4));
    if (!t->mlp || t->mlp > MAX_MLP)
        fields_fail(r, "mlp_ratio", "the hidden width is out of range");
    t->activation = take_activation(r, quick);
    t->eps = take_eps(r, t->eps);
}

static void read_resnet(ClipConfig *c, const JsonFields *r, bool quick) {
    const char *field;
    Error why;
    c->image_size = fields_size(r, "image_size", MAX_IMAGE, 224);
    if (!resnet_config_read(c, r->object, &field, &why)) fields_fail(r, field, why.text);
    c->image.activation = quick ? ACTIVATION_QUICK_GELU : ACTIVATION_GELU; /* named, not used */
    fields_neutral(r, image_neutral);
    fields_neutral(r, timm_neutral);
    fields_end(r);
}

static void read_image(ClipConfig *c, const JsonFields *r, bool quick) {
    static const char *const pools[] = {"tok", "avg", NULL};
    if (resnet_config_is(r->object)) {
        read_resnet(c, r, quick);
        return;
    }
    fields_neutral(r, image_neutral); /* first: another family's sizes have other rules */
    json_t *timm = fields_take(r, "timm_model_name");
    if (timm && !json_is_string(timm)) fields_fail(r, "timm_model_name", "expected a name");
    bool is_timm = json_is_string(timm);
    if (is_timm) timm_sizes(r, json_string_value(timm));
    if (is_timm && quick) fields_fail(r, "timm_model_name", "its towers have no quick_gelu");
    size_t head_width = fields_size(r, "head_width", MAX_WIDTH, 64);
    TowerConfig *t = &c->image;
    *t = clip_image_tower(768, 12, 0, 0);
    read_tower(r, t, quick);
    t->heads = t->width / head_width;
    if (!t->heads || t->width % head_width)
        fields_fail(r, "head_width", "does not divide the width");
    c->patch_size = fields_size(r, "patch_size", MAX_IMAGE, 16);
    c->image_size = fields_size(r, "image_size", MAX_IMAGE, 224);
    /* timm's convolution skips the rest of a picture */
    if (is_timm ? c->image_size < c->patch_size : c->image_size % c->patch_size)
        fields_fail(r, "patch_size", "does not divide the image size");
    c->patch_dropout = fields_number(r, "patch_dropout", 0, 0.999, 0);
    if (is_timm) {
        timm_tower(r, c, json_string_value(timm));
    } else {
        t->ln_pre = !fields_bool(r, "no_ln_pre");
        t->pool = fields_word(r, "pool_type", pools) ? POOL_MEAN : POOL_CLASS;
        t->norm_after_pool = fields_bool(r, "final_ln_after_pool");
        fields_neutral(r, timm_neutral);
    }
    json_decref(timm);
    fields_neutral(r, block_neutral);
    fields_end(r);
}

/* Without a name of Hugging Face the tokenizer is CLIP's, which has no settings. */
static void read_tokenizer(ClipConfig *c, const JsonFields *r) {
    static const char *const words[] = {"whitespace", "lower", "canonicalize", NULL};
    static const TextClean cleans[] = {TEXT_CLEAN_WHITESPACE, TEXT_CLEAN_LOWER,
                                       TEXT_CLEAN_CANONICALIZE};
    char where[48];
    json_t *object, *name = fields_take(r, "hf_tokenizer_name");
    if (name && !json_is_string(name)) fields_fail(r, "hf_tokenizer_name", "expected a name");
    c->names_tokenizer = name != NULL;
    json_decref(name);
    JsonFields kwargs = fields_arguments(r, "tokenizer_kwargs", &object, where);
    if (c->names_tokenizer) {
        c->tokenizer.clean = cleans[fields_word(&kwargs, "clean", words)];
        c->tokenizer.strip_sep = fields_bool(&kwargs, "strip_sep_token");
    }
    fields_end(&kwargs);
    json_decref(object);
}

static void read_text(ClipConfig *c, const JsonFields *r, bool quick) {
    static const char *const pools[] = {"argmax", "last", "eos", NULL};
    static const char *const projections[] = {"linear", "none", NULL};
    static const Pooling poolings[] = {POOL_END, POOL_LAST, POOL_ID};
    c->context_length = fields_size(r, "context_length", MAX_CONTEXT, 77);
    c->vocab_size = fields_size(r, "vocab_size", MAX_VOCAB, 49408);
    TowerConfig *t = &c->text;
    *t = clip_text_tower(512, 12, 8, 0);
    t->heads = fields_size(r, "heads", MAX_WIDTH, t->heads);
    read_tower(r, t, quick);
    if (t->width % t->heads) fields_fail(r, "heads", "does not divide the width");
    t->causal = !fields_bool(r, "no_causal_mask");
    t->pool = poolings[fields_word(r, "pool_type", pools)];
    double id = fields_number(r, "eos_id", 0, MAX_VOCAB, 2);
    if (t->pool == POOL_ID) t->pool_id = (int32_t)id;
    if ((size_t)t->pool_id >= c->vocab_size) fields_fail(r, "eos_id", "is no id of the vocabulary");
    t->no_proj = fields_word(r, "proj_type", projections);
    t->proj_bias = fields_bool(r, "proj_bias") && !t->no_proj;
    if (t->no_proj && t->width != c->embed_dim)
        fields_fail(r, "proj_type", "without a projection embed_dim must be the tower's width");
    read_tokenizer(c, r);
    fields_neutral(r, text_neutral);
    fields_neutral(r, block_neutral);
    fields_end(r);
}

static void read_model(ClipConfig *c, const JsonFields *r) {
    c->embed_dim = fields_size(r, "embed_dim", MAX_WIDTH, 0);
    bool quick = fields_bool(r, "quick_gelu");
    c->init_logit_scale = fields_number(r, "init_logit_scale", -100, 100, CLIP_LOGIT_SCALE);
    c->init_logit_bias = fields_number(r, "init_logit_bias", -1000, 1000, NAN);
    c->has_logit_bias = !isnan(c->init_logit_bias);
    if (!c->has_logit_bias) c->init_logit_bias = 0;
    json_t *image, *text;
    JsonFields image_reader = fields_object(r, "vision_cfg", &image);
    read_image(c, &image_reader, quick);
    json_decref(image);
    JsonFields text_reader = fields_object(r, "text_cfg", &text);
    read_text(c, &text_reader, quick);
    json_decref(text);
    fields_neutral(r, top_neutral);
    fields_end(r);
}

static void read_preprocess(ClipConfig *c, const JsonFields *r) {
    static const char *const resizes[] = {RESIZE_MODES(CHOICE_WORD) NULL};
    static const char *const interpolations[] = {INTERPOLATIONS(CHOICE_WORD) NULL};
    static const char *const modes[] = {"RGB", "RGB", NULL};
    Transform *t = &c->eval_transform;
    /* the model's own image size rules, as in open_clip */
    fields_size(r, "size", MAX_IMAGE, 1);
    if (c->naflex)
        t->max_patches =
            (int)fields_size(r, "max_num_patches", MAX_PATCHES, (size_t)t->max_patches);
    fields_word(r, "mode", modes);
    fields_triple(r, "mean", -10, 10, t->mean);
    fields_triple(r, "std", 1e-6, 10, t->std);
    t->interpolation = (Interpolation)fields_word(r, "interpolation", interpolations);
    t->resize_mode = (ResizeMode)fields_word(r, "resize_mode", resizes);
    uint8_t fill = (uint8_t)fields_number(r, "fill_color", 0, 255, 0);
    memset(t->fill, fill, sizeof t->fill);
    fields_end(r);
}

/* ---- JSON in ---- */

static bool parse_root(ClipConfig *c, json_t *root, Error *err) {
    bool ok = true, wrapped = json_object_get(root, "model_cfg") != NULL;
    JsonFields file = {root, "config", err, &ok};
    json_t *model = root, *preprocess = NULL;
    JsonFields r = file;
    r.where = "model";
    if (wrapped) r = fields_object(&file, "model_cfg", &model);
    c->json = json_dumps(model, JSON_COMPACT);
    if (!c->json) fields_fail(&file, "model_cfg", "cannot be written as JSON");
    read_model(c, &r);
    c->eval_transform = transform_default((int)c->image_size, false);
    if (c->naflex) {
        c->eval_transform.patch_size = (int)c->patch_size;
        c->eval_transform.max_patches = (int)clip_image_tokens(c);
    }
    if (wrapped) {
        if (json_object_get(root, "preprocess_cfg")) {
            JsonFields p = fields_object(&file, "preprocess_cfg", &preprocess);
            read_preprocess(c, &p);
            json_decref(preprocess);
        }
        fields_end(&file);
        json_decref(model);
    }
    return ok;
}

/* preprocessor: of Hugging Face's folder; NULL: none. Takes both references. */
static bool parse_either(ClipConfig *c, json_t *root, json_t *preprocessor, Error *err) {
    json_t *own = root;
    bool ok = json_is_object(root) || error_set(err, "expected a JSON object");
    bool hf = ok && hf_config_is(root);
    if (hf) {
        own = hf_config_in(root, preprocessor, err);
        json_decref(root);
        ok = own != NULL;
    }
    ok = ok && parse_root(c, own, err);
    /* transformers' classes clean, and nothing before them */
    if (hf && c->names_tokenizer) c->tokenizer.clean = TEXT_CLEAN_NONE;
    json_decref(own);
    json_decref(preprocessor);
    return ok;
}

static json_t *load_json(const char *name, const char *json, size_t bytes, Error *err) {
    json_error_t where;
    if (bytes > MAX_JSON) {
        error_set(err, "%s: %zu bytes are too many for a model config", name, bytes);
        return NULL;
    }
    size_t mark = text_mark(json, bytes);
    json_t *root = json_loadb(json + mark, bytes - mark, JSON_REJECT_DUPLICATES, &where);
    if (!root) error_set(err, "%s:%d: %s", name, where.line, where.text);
    return root;
}

static bool parse(ClipConfig *c, const char *name, json_t *root, json_t *preprocessor, Error *err) {
    Error inner;
    if (!parse_either(c, root, preprocessor, &inner)) {
        error_set(err, "%s: %.400s", name, inner.text);
        clip_config_free(c);
        return false;
    }
    c->name = xstrdup(name);
    return true;
}

bool clip_config_parse(ClipConfig *c, const char *name, const char *json, size_t bytes,
                       Error *err) {
    memset(c, 0, sizeof *c);
    json_t *root = load_json(name, json, bytes, err);
    return root && parse(c, name, root, NULL, err);
}

/* ---- path of the file ---- */

static bool is_file(const char *path) {
    struct stat s;
    return machine_stat(path, &s, 0) && S_ISREG(s.st_mode);
}

char *clip_config_find(const char *checkpoint) {
    static const char *const names[] = {"open_clip_config.json", "config.json"};
    for (size_t i = 0; i < COUNT(names); i++) {
        char *path = folder_beside(checkpoint, names[i]);
        if (is_file(path)) return path;
        free(path);
    }
    return NULL;
}

static char *find_config(const char *name) {
    if (ends_with(name, ".json") && !ends_with(name, ".index.json")) return xstrdup(name);
    bool checkpoint = folder_is(name) || is_file(name);
    char *found = NULL;
    if (checkpoint) {
        found = clip_config_find(name);
    } else if (!strchr(name, '/')) {
        char *relative = xasprintf("configs/models/%s.json", name);
        found = resource_find(relative);
        free(relative);
    }
    if (!found && checkpoint)
        die("%s has no architecture with it (open_clip_config.json or config.json): give --model "
            "NAME or FILE.json",
            name);
    if (!found)
        die("model '%s': not one of configs/models, no checkpoint with open_clip_config.json or "
            "config.json, no .json file",
            name);
    return found;
}

static json_t *read_json(const char *path, Error *err) {
    uint8_t *bytes;
    size_t n;
    Error why;
    json_t *root = NULL;
    if (file_read_first(path, &bytes, &n, MAX_JSON + 1, &why))
        root = load_json(path, (const char *)bytes, n, err);
    else
        error_set(err, "%.200s: %s", path, why.text);
    free(bytes);
    return root;
}

bool clip_config_read(ClipConfig *c, const char *path, Error *err) {
    memset(c, 0, sizeof *c);
    json_t *root = read_json(path, err), *preprocessor = NULL;
    bool ok = root != NULL;
    if (ok && hf_config_is(root)) {
        char *file = folder_beside(path, "preprocessor_config.json");
        if (is_file(file)) ok = (preprocessor = read_json(file, err)) != NULL;
        free(file);
    }
    if (ok) return parse(c, path, root, preprocessor, err);
    json_decref(root);
    return false;
}

bool clip_config_read_tokenizer(ClipConfig *c, const char *checkpoint, Error *err) {
    char *path = clip_config_find(checkpoint);
    bool ok = true;
    memset(c, 0, sizeof *c);
    if (!path) return true;
    json_t *root = read_json(path, err), *model = json_object_get(root, "model_cfg");
    json_t *text = json_object_get(model ? model : root, "text_cfg");
    if (root && json_is_object(text)) {
        Error why;
        JsonFields r = {text, "text_cfg", &why, &ok};
        c->context_length = fields_size(&r, "context_length", MAX_CONTEXT, 77);
        read_tokenizer(c, &r);
        if (!ok) error_set(err, "%.200s: %s", path, why.text);
    } else if (root) {
        json_t *hf =
            json_object_get(json_object_get(root, "text_config"), "max_position_embeddings");
        json_int_t n = json_integer_value(hf);
        if (n > 0 && n <= MAX_CONTEXT) c->context_length = (size_t)n;
        c->names_tokenizer = hf_siglip_is(root);
        if (c->names_tokenizer && !hf) c->context_length = HF_SIGLIP_CONTEXT;
    }
    ok = ok && root != NULL;
    json_decref(root);
    free(path);
    return ok;
}

void clip_config_load(ClipConfig *c, const char *name) {
    char *path = find_config(name);
    Error err;
    if (!clip_config_read(c, path, &err)) die("model config %s", err.text);
    free(c->name);
    c->name = xstrdup(name);
    free(path);
}

void clip_config_free(ClipConfig *c) {
    FREE_ALL(c->name, c->json);
    memset(c, 0, sizeof *c);
}

const char *activation_name(Activation f) {
    static const char *const names[] = {[ACTIVATION_GELU] = "GELU",
                                        [ACTIVATION_QUICK_GELU] = "QuickGELU",
                                        [ACTIVATION_GELU_TANH] = "GELU by tanh"};
    return names[f];
}

size_t clip_image_tokens(const ClipConfig *c) {
    size_t grid = c->image_size / c->patch_size;
    return grid * grid + c->image.class_token;
}

size_t clip_most_patches(const ClipConfig *c) {
    return c->naflex ? (size_t)c->eval_transform.max_patches
                     : clip_image_tokens(c) - c->image.class_token;
}
