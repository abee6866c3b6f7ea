#include "train/model/config.h"

#include "data/io/file.h"
#include "data/io/folder.h"
#include "data/io/machine.h"
#include "data/io/utf8.h"
#include "data/io/resource.h"
#include "train/model/config_resnet.h"
#include "train/model/families.h"
#include "train/model/hf_config.h"
#include <jansson.h>
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
    MAX_CONTEXT = 1 << 16,
    MAX_VOCAB = 1 << 22
};
static const double default_eps = 1e-5; /* PyTorch's LayerNorm */

/* ---- fields ---- */

/* Fields of open_clip that this program supports only with their default: `fallback` is the
 * accepted value (null is accepted too). NULL: the field has no effect here, so any value is
 * accepted. */
typedef struct NeutralField {
    const char *name, *fallback;
} NeutralField;

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
                                             {"timm_model_name", "null"},
                                             {"timm_model_pretrained", NULL},
                                             {"timm_pool", NULL},
                                             {"timm_proj", NULL},
                                             {"timm_proj_bias", NULL},
                                             {"timm_drop", NULL},
                                             {"timm_drop_path", NULL},
                                             {NULL, NULL}};
static const NeutralField text_neutral[] = {{"tokenizer_mode", "null"},
                                            {"ls_init_value", "null"},
                                            {"embed_cls", "false"},
                                            {"pad_id", NULL},
                                            /* the same numbers, since LayerNorm acts on each row
                                             * alone */
                                            {"final_ln_after_pool", NULL},
                                            {"proj_type", "\"linear\""},
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

/* One JSON object being read. The first error is kept; later readers do nothing. */
typedef struct Reader {
    json_t *object;
    const char *where; /* "vision_cfg" */
    Error *err;
    bool *ok;
} Reader;

static void fail(const Reader *r, const char *field, const char *what) {
    if (*r->ok) error_set(r->err, "%s.%s: %s", r->where, field, what);
    *r->ok = false;
}

/* Removes the field from the object, so that unread fields remain. NULL: absent or null. The caller
 * owns a reference. */
static json_t *take(const Reader *r, const char *field) {
    json_t *v = json_incref(json_object_get(r->object, field));
    json_object_del(r->object, field);
    if (v && json_is_null(v)) v = NULL;
    return v;
}

static double take_number(const Reader *r, const char *field, double lo, double hi,
                          double missing) {
    json_t *v = take(r, field);
    if (!v) return missing;
    double x = json_is_number(v) ? json_number_value(v) : NAN;
    json_decref(v);
    if (x >= lo && x <= hi) return x;
    char what[96];
    snprintf(what, sizeof what, "expected a number from %g to %g", lo, hi);
    fail(r, field, what);
    return missing;
}

/* missing 0: the field is required. */
static size_t take_size(const Reader *r, const char *field, size_t hi, size_t missing) {
    json_t *v = take(r, field);
    if (!v) {
        if (!missing) fail(r, field, "is missing");
        return missing;
    }
    json_t *one = v;
    /* a square written as a pair */
    if (json_is_array(v) && json_array_size(v) == 2 &&
        json_equal(json_array_get(v, 0), json_array_get(v, 1)))
        one = json_array_get(v, 0);
    json_int_t x = json_is_integer(one) ? json_integer_value(one) : 0;
    json_decref(v);
    if (x >= 1 && (json_int_t)hi >= x) return (size_t)x;
    char what[96];
    snprintf(what, sizeof what, "expected a whole number from 1 to %zu", hi);
    fail(r, field, what);
    return missing;
}

static bool take_bool(const Reader *r, const char *field) {
    json_t *v = take(r, field);
    if (v && !json_is_boolean(v)) fail(r, field, "expected true or false");
    bool x = v && json_is_true(v);
    json_decref(v);
    return x;
}

/* Index of the string in words (NULL-terminated); 0 if absent. */
static int take_word(const Reader *r, const char *field, const char *const *words) {
    json_t *v = take(r, field);
    if (!v) return 0;
    int found = -1;
    for (int i = 0; words[i] && json_is_string(v); i++)
        if (!strcmp(json_string_value(v), words[i])) found = i;
    json_decref(v);
    if (found >= 0) return found;
    char what[128];
    int n = snprintf(what, sizeof what, "only");
    for (int i = 0; words[i]; i++)
        n += snprintf(what + n, sizeof what - (size_t)n, "%s \"%s\"",
                      i == 0         ? ""
                      : words[i + 1] ? ","
                                     : " and",
                      words[i]);
    snprintf(what + n, sizeof what - (size_t)n, " are supported");
    fail(r, field, what);
    return 0;
}

static void take_triple(const Reader *r, const char *field, double lo, double hi, float x[3]) {
    json_t *v = take(r, field);
    if (!v) return;
    bool good = json_is_array(v) && json_array_size(v) == 3;
    for (size_t i = 0; i < 3 && good; i++) {
        json_t *e = json_array_get(v, i);
        double value = json_is_number(e) ? json_number_value(e) : NAN;
        good = value >= lo && value <= hi;
        x[i] = (float)value;
    }
    json_decref(v);
    if (!good) fail(r, field, "expected three numbers in range");
}

static void take_neutral(const Reader *r, const NeutralField *f) {
    for (; f->name; f++) {
        json_t *v = take(r, f->name);
        if (!v) continue;
        json_t *want = f->fallback ? json_loads(f->fallback, JSON_DECODE_ANY, NULL) : NULL;
        if (f->fallback && !json_equal(v, want)) {
            const char *family = family_of(f->name, json_string_value(v));
            char *text = json_dumps(v, JSON_COMPACT | JSON_ENCODE_ANY), what[160];
            snprintf(what, sizeof what, "%.60s is not supported (%s%s)", text ? text : "this",
                     family ? "" : "only ", family ? family : f->fallback);
            fail(r, f->name, what);
            free(text);
        }
        json_decref(want);
        json_decref(v);
    }
}

static void nothing_left(const Reader *r) {
    const char *field = json_object_iter_key(json_object_iter(r->object));
    if (!field) return;
    char shown[80];
    snprintf(shown, sizeof shown, "%.64s", field);
    const char *family = family_of(shown, NULL);
    char what[96];
    snprintf(what, sizeof what, "this field is not supported%s%s%s", family ? " (" : "",
             family ? family : "", family ? ")" : "");
    fail(r, shown, what);
}

/* Without the field an empty object. */
static Reader optional_section(const Reader *parent, const char *field, json_t **object) {
    *object = take(parent, field);
    if (*object && !json_is_object(*object)) {
        fail(parent, field, "expected an object");
        json_decref(*object);
        *object = NULL;
    }
    if (!*object) *object = json_object();
    return (Reader){*object, field, parent->err, parent->ok};
}

static Reader section(const Reader *parent, const char *field, json_t **object) {
    json_t *v = json_object_get(parent->object, field);
    if (!v || json_is_null(v)) fail(parent, field, "is missing");
    return optional_section(parent, field, object);
}

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

/* Arguments of a PyTorch module as an object; where: room for its name in messages. */
static Reader arguments(const Reader *parent, const char *field, json_t **object, char where[48]) {
    Reader r = optional_section(parent, field, object);
    snprintf(where, 48, "%s.%s", parent->where, field);
    r.where = where;
    return r;
}

static double take_eps(const Reader *r, double missing) {
    char where[48];
    json_t *object;
    Reader norm = arguments(r, "norm_kwargs", &object, where);
    double eps = take_number(&norm, "eps", 1e-12, 1, missing);
    nothing_left(&norm);
    json_decref(object);
    return eps;
}

static Activation take_activation(const Reader *r, bool quick) {
    static const char *const approximations[] = {"none", "tanh", NULL};
    char where[48];
    json_t *object;
    Reader gelu = arguments(r, "act_kwargs", &object, where);
    bool tanh = take_word(&gelu, "approximate", approximations);
    if (quick && tanh) fail(&gelu, "approximate", "quick_gelu is another approximation");
    nothing_left(&gelu);
    json_decref(object);
    return quick ? ACTIVATION_QUICK_GELU : tanh ? ACTIVATION_GELU_TANH : ACTIVATION_GELU;
}

/* t: the values of absent fields. */
static void read_tower(const Reader *r, TowerConfig *t, bool quick) {
    t->width = take_size(r, "width", MAX_WIDTH, t->width);
    t->layers = take_size(r, "layers", MAX_LAYERS, t->layers);
    t->mlp = (size_t)((double)t->width * take_number(r, "mlp_ratio", 1e-3, 64, 4));
    if (!t->mlp || t->mlp > MAX_MLP) fail(r, "mlp_ratio", "the hidden width is out of range");
    t->activation = take_activation(r, quick);
    t->eps = take_eps(r, t->eps);
}

static void read_resnet(ClipConfig *c, const Reader *r, bool quick) {
    const char *field;
    Error why;
    c->image_size = take_size(r, "image_size", MAX_IMAGE, 224);
    if (!resnet_config_read(c, r->object, &field, &why)) fail(r, field, why.text);
    c->image.activation = quick ? ACTIVATION_QUICK_GELU : ACTIVATION_GELU; /* named, not used */
    take_neutral(r, image_neutral);
    nothing_left(r);
}

static void read_image(ClipConfig *c, const Reader *r, bool quick) {
    static const char *const pools[] = {"tok", "avg", NULL};
    if (resnet_config_is(r->object)) {
        read_resnet(c, r, quick);
        return;
    }
    take_neutral(r, image_neutral); /* first: another family's sizes have other rules */
    size_t head_width = take_size(r, "head_width", MAX_WIDTH, 64);
    TowerConfig *t = &c->image;
    *t = clip_image_tower(768, 12, 0, 0);
    read_tower(r, t, quick);
    t->heads = t->width / head_width;
    if (!t->heads || t->width % head_width) fail(r, "head_width", "does not divide the width");
    c->patch_size = take_size(r, "patch_size", MAX_IMAGE, 16);
    c->image_size = take_size(r, "image_size", MAX_IMAGE, 224);
    if (c->image_size % c->patch_size) fail(r, "patch_size", "does not divide the image size");
    c->patch_dropout = take_number(r, "patch_dropout", 0, 0.999, 0);
    t->ln_pre = !take_bool(r, "no_ln_pre");
    t->pool = take_word(r, "pool_type", pools) ? POOL_MEAN : POOL_CLASS;
    t->norm_after_pool = take_bool(r, "final_ln_after_pool");
    take_neutral(r, block_neutral);
    nothing_left(r);
}

/* Without a name of Hugging Face the tokenizer is CLIP's, which has no settings. */
static void read_tokenizer(ClipConfig *c, const Reader *r) {
    static const char *const words[] = {"whitespace", "lower", "canonicalize", NULL};
    static const TextClean cleans[] = {TEXT_CLEAN_WHITESPACE, TEXT_CLEAN_LOWER,
                                       TEXT_CLEAN_CANONICALIZE};
    char where[48];
    json_t *object, *name = take(r, "hf_tokenizer_name");
    if (name && !json_is_string(name)) fail(r, "hf_tokenizer_name", "expected a name");
    c->names_tokenizer = name != NULL;
    json_decref(name);
    Reader kwargs = arguments(r, "tokenizer_kwargs", &object, where);
    if (c->names_tokenizer) {
        c->tokenizer.clean = cleans[take_word(&kwargs, "clean", words)];
        c->tokenizer.strip_sep = take_bool(&kwargs, "strip_sep_token");
    }
    nothing_left(&kwargs);
    json_decref(object);
}

static void read_text(ClipConfig *c, const Reader *r, bool quick) {
    static const char *const pools[] = {"argmax", "last", "eos", NULL};
    static const Pooling poolings[] = {POOL_END, POOL_LAST, POOL_ID};
    c->context_length = take_size(r, "context_length", MAX_CONTEXT, 77);
    c->vocab_size = take_size(r, "vocab_size", MAX_VOCAB, 49408);
    TowerConfig *t = &c->text;
    *t = clip_text_tower(512, 12, 8, 0);
    t->heads = take_size(r, "heads", MAX_WIDTH, t->heads);
    read_tower(r, t, quick);
    if (t->width % t->heads) fail(r, "heads", "does not divide the width");
    t->causal = !take_bool(r, "no_causal_mask");
    t->pool = poolings[take_word(r, "pool_type", pools)];
    double id = take_number(r, "eos_id", 0, MAX_VOCAB, 2);
    if (t->pool == POOL_ID) t->pool_id = (int32_t)id;
    if ((size_t)t->pool_id >= c->vocab_size) fail(r, "eos_id", "is no id of the vocabulary");
    t->proj_bias = take_bool(r, "proj_bias");
    read_tokenizer(c, r);
    take_neutral(r, text_neutral);
    take_neutral(r, block_neutral);
    nothing_left(r);
}

static void read_model(ClipConfig *c, const Reader *r) {
    c->embed_dim = take_size(r, "embed_dim", MAX_WIDTH, 0);
    bool quick = take_bool(r, "quick_gelu");
    c->init_logit_scale = take_number(r, "init_logit_scale", -100, 100, CLIP_LOGIT_SCALE);
    c->init_logit_bias = take_number(r, "init_logit_bias", -1000, 1000, NAN);
    c->has_logit_bias = !isnan(c->init_logit_bias);
    if (!c->has_logit_bias) c->init_logit_bias = 0;
    json_t *image, *text;
    Reader image_reader = section(r, "vision_cfg", &image);
    read_image(c, &image_reader, quick);
    json_decref(image);
    Reader text_reader = section(r, "text_cfg", &text);
    read_text(c, &text_reader, quick);
    json_decref(text);
    take_neutral(r, top_neutral);
    nothing_left(r);
}

static void read_preprocess(ClipConfig *c, const Reader *r) {
    static const char *const resizes[] = {RESIZE_MODES(CHOICE_WORD) NULL};
    static const char *const interpolations[] = {INTERPOLATIONS(CHOICE_WORD) NULL};
    static const char *const modes[] = {"RGB", "RGB", NULL};
    Transform *t = &c->eval_transform;
    /* the model's own image size rules, as in open_clip */
    take_size(r, "size", MAX_IMAGE, 1);
    take_word(r, "mode", modes);
    take_triple(r, "mean", -10, 10, t->mean);
    take_triple(r, "std", 1e-6, 10, t->std);
    t->interpolation = (Interpolation)take_word(r, "interpolation", interpolations);
    t->resize_mode = (ResizeMode)take_word(r, "resize_mode", resizes);
    uint8_t fill = (uint8_t)take_number(r, "fill_color", 0, 255, 0);
    memset(t->fill, fill, sizeof t->fill);
    nothing_left(r);
}

/* ---- JSON in ---- */

static bool parse_root(ClipConfig *c, json_t *root, Error *err) {
    bool ok = true, wrapped = json_object_get(root, "model_cfg") != NULL;
    Reader file = {root, "config", err, &ok};
    json_t *model = root, *preprocess = NULL;
    Reader r = file;
    r.where = "model";
    if (wrapped) r = section(&file, "model_cfg", &model);
    c->json = json_dumps(model, JSON_COMPACT);
    if (!c->json) fail(&file, "model_cfg", "cannot be written as JSON");
    read_model(c, &r);
    c->eval_transform = transform_default((int)c->image_size, false);
    if (wrapped) {
        if (json_object_get(root, "preprocess_cfg")) {
            Reader p = section(&file, "preprocess_cfg", &preprocess);
            read_preprocess(c, &p);
            json_decref(preprocess);
        }
        nothing_left(&file);
        json_decref(model);
    }
    return ok;
}

/* preprocessor: of Hugging Face's folder; NULL: none. Takes both references. */
static bool parse_either(ClipConfig *c, json_t *root, json_t *preprocessor, Error *err) {
    json_t *own = root;
    bool ok = json_is_object(root) || error_set(err, "expected a JSON object");
    if (ok && hf_config_is(root)) {
        own = hf_config_in(root, preprocessor, err);
        json_decref(root);
        ok = own != NULL;
    }
    ok = ok && parse_root(c, own, err);
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
        Reader r = {text, "text_cfg", &why, &ok};
        c->context_length = take_size(&r, "context_length", MAX_CONTEXT, 77);
        read_tokenizer(c, &r);
        if (!ok) error_set(err, "%.200s: %s", path, why.text);
    } else if (root) {
        json_t *hf =
            json_object_get(json_object_get(root, "text_config"), "max_position_embeddings");
        json_int_t n = json_integer_value(hf);
        if (n > 0 && n <= MAX_CONTEXT) c->context_length = (size_t)n;
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
