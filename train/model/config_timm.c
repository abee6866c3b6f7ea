#include "train/model/config_timm.h"

#include "train/model/families.h"
#include "train/model/params_resnet.h"
#include <stdio.h>
#include <string.h>

enum { MAX_SIDE = 128 }; /* of NaFlex's positions */
#define ERF ACTIVATION_GELU
#define TANH ACTIVATION_GELU_TANH
#define SIGLIP TIMM_SIGLIP, 0, 0, false
#define NAFLEX TIMM_NAFLEX, 0, 0, false
#define EVA TIMM_EVA, 0, 0, false
#define CLIP TIMM_CLIP, 0, 0, false
#define EVA02 TIMM_EVA02, 0, 16, false
static const TimmModel models[] = {
    {"vit_base_patch32_siglip_256", 256, 32, 768, 12, 64, 4, TANH, SIGLIP},
    {"vit_base_patch16_siglip_224", 224, 16, 768, 12, 64, 4, ERF, SIGLIP},
    {"vit_base_patch16_siglip_256", 256, 16, 768, 12, 64, 4, ERF, SIGLIP},
    {"vit_base_patch16_siglip_384", 384, 16, 768, 12, 64, 4, ERF, SIGLIP},
    {"vit_base_patch16_siglip_512", 512, 16, 768, 12, 64, 4, ERF, SIGLIP},
    {"vit_large_patch16_siglip_256", 256, 16, 1024, 24, 64, 4, ERF, SIGLIP},
    {"vit_large_patch16_siglip_384", 384, 16, 1024, 24, 64, 4, ERF, SIGLIP},
    {"vit_large_patch16_siglip_512", 512, 16, 1024, 24, 64, 4, TANH, SIGLIP},
    {"vit_so400m_patch14_siglip_224", 224, 14, 1152, 27, 72, 3.7362, ERF, SIGLIP},
    {"vit_so400m_patch14_siglip_378", 378, 14, 1152, 27, 72, 3.7362, ERF, SIGLIP},
    {"vit_so400m_patch14_siglip_384", 384, 14, 1152, 27, 72, 3.7362, ERF, SIGLIP},
    {"vit_so400m_patch16_siglip_256", 256, 16, 1152, 27, 72, 3.7362, TANH, SIGLIP},
    {"vit_so400m_patch16_siglip_384", 384, 16, 1152, 27, 72, 3.7362, TANH, SIGLIP},
    {"vit_so400m_patch16_siglip_512", 512, 16, 1152, 27, 72, 3.7362, TANH, SIGLIP},
    {"vit_giantopt_patch16_siglip_256", 256, 16, 1536, 40, 96, 4, TANH, SIGLIP},
    {"vit_giantopt_patch16_siglip_384", 384, 16, 1536, 40, 96, 4, TANH, SIGLIP},
    {"naflexvit_base_patch16_siglip", 256, 16, 768, 12, 64, 4, TANH, NAFLEX},
    {"naflexvit_so400m_patch16_siglip", 256, 16, 1152, 27, 72, 3.7362, TANH, NAFLEX},
    {"eva_giant_patch14_224", 224, 14, 1408, 40, 88, 6144.0 / 1408, ERF, EVA},
    {"eva_giant_patch14_clip_224", 224, 14, 1408, 40, 88, 6144.0 / 1408, ERF, EVA},
    {"eva02_base_patch16_clip_224", 224, 16, 768, 12, 64, 4 * 2.0 / 3, ERF, EVA02},
    {"eva02_large_patch14_clip_224", 224, 14, 1024, 24, 64, 4 * 2.0 / 3, ERF, EVA02},
    {"eva02_large_patch14_clip_336", 336, 14, 1024, 24, 64, 4 * 2.0 / 3, ERF, EVA02},
    {"eva02_enormous_patch14_clip_224", 224, 14, 1792, 64, 112, 15360.0 / 1792, ERF, TIMM_EVA_POST,
     0, 0, false},
    {"vit_pe_core_tiny_patch16_384", 384, 16, 192, 12, 64, 4, ERF, TIMM_PE_CORE, 8, 24, false},
    {"vit_pe_core_small_patch16_384", 384, 16, 384, 12, 64, 4, ERF, TIMM_PE_CORE, 8, 24, false},
    {"vit_pe_core_base_patch16_224", 224, 16, 768, 12, 64, 4, ERF, TIMM_PE_CORE, 8, 14, false},
    {"vit_pe_core_large_patch14_336", 336, 14, 1024, 24, 64, 4, ERF, TIMM_PE_CORE, 8, 24, false},
    {"vit_pe_core_gigantic_patch14_448", 448, 14, 1536, 50, 96, 8960.0 / 1536, ERF, TIMM_PE_CORE, 8,
     32, true},
    {"vit_base_mci_224", 224, STEM_PATCH, 768, 12, 64, 4, ERF, TIMM_MCI, 0, 0, false},
    {"vit_base_patch32_clip_224", 224, 32, 768, 12, 64, 4, ERF, CLIP},
    {"vit_base_patch16_clip_224", 224, 16, 768, 12, 64, 4, ERF, CLIP},
    {"vit_large_patch14_clip_224", 224, 14, 1024, 24, 64, 4, ERF, CLIP},
    {"vit_large_patch14_clip_336", 336, 14, 1024, 24, 64, 4, ERF, CLIP},
    {"vit_huge_patch14_clip_224", 224, 14, 1280, 32, 80, 4, ERF, CLIP},
};

/* token: pools the class token; else attention pooling. head: trunk.head projects, with a bias;
 * else there is no projection. */
static const struct {
    double eps;
    bool token, class_token, ln_pre, gated, post_norm, no_key_bias, head;
} families[] = {
    [TIMM_SIGLIP] = {.eps = 1e-6},
    [TIMM_NAFLEX] = {.eps = 1e-6},
    [TIMM_EVA] =
        {.eps = 1e-6, .token = true, .class_token = true, .no_key_bias = true, .head = true},
    [TIMM_EVA_POST] = {.eps = 1e-6,
                       .token = true,
                       .class_token = true,
                       .post_norm = true,
                       .no_key_bias = true,
                       .head = true},
    [TIMM_EVA02] = {.eps = 1e-6,
                    .token = true,
                    .class_token = true,
                    .gated = true,
                    .no_key_bias = true,
                    .head = true},
    [TIMM_PE_CORE] = {.eps = 1e-5, .class_token = true, .ln_pre = true, .head = true},
    [TIMM_MCI] = {.eps = 1e-6, .token = true, .class_token = true, .head = true},
    [TIMM_CLIP] = {.eps = 1e-5, .token = true, .class_token = true, .ln_pre = true, .head = true},
};

const TimmModel *timm_find(const char *name) {
    for (size_t i = 0; i < COUNT(models); i++)
        if (!strcmp(models[i].name, name)) return &models[i];
    return NULL;
}

static bool same_blocks(const TimmModel *a, const TimmModel *b) {
    return a->family == b->family && a->width == b->width && a->layers == b->layers &&
           a->head_width == b->head_width &&
           (size_t)((double)a->width * a->mlp_ratio) == (size_t)((double)b->width * b->mlp_ratio);
}

const TimmModel *timm_like(const TimmModel *sizes) {
    for (size_t i = 0; i < COUNT(models); i++)
        if (same_blocks(&models[i], sizes) && models[i].patch_size == sizes->patch_size &&
            models[i].image_size == sizes->image_size)
            return &models[i];
    return NULL;
}

const TimmModel *timm_of_size(const char *name, size_t image_size) {
    const TimmModel *own = timm_find(name);
    if (!own) return NULL;
    TimmModel sizes = *own;
    sizes.image_size = image_size;
    const TimmModel *other = timm_like(&sizes);
    return other && other->activation == own->activation ? other : NULL;
}

static void add(json_t *object, const char *field, json_t *value) {
    if (json_object_get(object, field))
        json_decref(value);
    else
        json_object_set_new(object, field, value);
}

void timm_sizes(const JsonFields *r, const char *name) {
    const TimmModel *m = timm_find(name);
    json_t *cfg = r->object;
    bool sized = json_object_get(cfg, "width") && json_object_get(cfg, "layers");
    if (!m && (!strstr(name, "siglip") || !sized)) {
        char what[160];
        const char *family = family_of("timm_model_name", name);
        snprintf(what, sizeof what, "\"%.60s\" is not supported (%s)", name, family);
        fields_fail(r, "timm_model_name", what);
        return;
    }
    add(cfg, "norm_kwargs", json_pack("{s:f}", "eps", families[m ? m->family : TIMM_SIGLIP].eps));
    if (!m) return;
    add(cfg, "width", json_integer((json_int_t)m->width));
    add(cfg, "layers", json_integer((json_int_t)m->layers));
    add(cfg, "head_width", json_integer((json_int_t)m->head_width));
    add(cfg, "patch_size", json_integer((json_int_t)m->patch_size));
    add(cfg, "mlp_ratio", json_real(m->mlp_ratio));
    add(cfg, "act_kwargs",
        json_pack("{s:s}", "approximate", m->activation == TANH ? "tanh" : "none"));
}

static void read_pool_and_head(const JsonFields *r, bool token, bool head) {
    static const char *const token_only[] = {"token", NULL}, *const map_only[] = {"map", NULL};
    static const char *const none_only[] = {"none", NULL};
    if (!json_object_get(r->object, "timm_pool")) fields_fail(r, "timm_pool", "is missing");
    if (!json_object_get(r->object, "timm_proj")) fields_fail(r, "timm_proj", "is missing");
    fields_word(r, "timm_pool", token ? token_only : map_only);
    bool null = json_is_null(json_object_get(r->object, "timm_proj"));
    if (head && !null)
        fields_fail(r, "timm_proj", "only null, the tower's own projection, is supported");
    fields_word(r, "timm_proj", none_only);
}

void timm_tower(const JsonFields *r, ClipConfig *c, const char *name) {
    static const TimmModel siglip = {.family = TIMM_SIGLIP}, naflex = {.family = TIMM_NAFLEX};
    const TimmModel *m = timm_find(name);
    if (!m) m = strncmp(name, "naflexvit", 9) ? &siglip : &naflex;
    TowerConfig *t = &c->image;
    c->timm = true;
    c->naflex = m->family == TIMM_NAFLEX;
    if (c->naflex && c->image_size % c->patch_size)
        fields_fail(r, "patch_size", "does not divide the image size");
    if (c->naflex && c->image_size / c->patch_size > MAX_SIDE)
        fields_fail(r, "image_size", "has more than 128 × 128 positions");
    read_pool_and_head(r, families[m->family].token, families[m->family].head);
    t->class_token = families[m->family].class_token && !m->no_class_token;
    t->ln_pre = families[m->family].ln_pre;
    t->patch_bias = !t->ln_pre;
    if (m->family == TIMM_MCI) {
        t->stem = t->width / 4;
        t->no_class_position = true;
        if (t->width % 4) fields_fail(r, "width", "is not a multiple of 4");
        if (c->patch_size != STEM_PATCH)
            fields_fail(r, "patch_size", "is 16 behind a convolutional stem");
    }
    t->gated = t->ln_mlp = t->ln_inner = families[m->family].gated;
    t->post_norm = families[m->family].post_norm;
    t->no_key_bias = families[m->family].no_key_bias;
    t->proj_bias = families[m->family].head;
    t->no_proj = !t->proj_bias;
    bool pe_core = m->family == TIMM_PE_CORE;
    if (m->reference)
        t->rotary = (Rotary){1e4, pe_core && t->class_token, (double)m->reference, pe_core};
    if (t->rotary.theta > 0 && t->width / t->heads % 4)
        fields_fail(r, "head_width", "is not a multiple of 4, as rotary positions need");
    t->pool = families[m->family].token ? POOL_CLASS : POOL_ATTENTION;
    if (t->pool == POOL_ATTENTION) {
        t->pool_heads = m->pool_heads ? m->pool_heads : t->heads;
        t->pool_mlp = m->pool_heads ? 4 * t->width : 0;
        if (t->width % t->pool_heads) fields_fail(r, "width", "is not a multiple of 8");
    }
    if (t->no_proj && t->width != c->embed_dim)
        fields_fail(r, "timm_proj", "without a projection embed_dim must be the tower's width");
}
