#include "train/model/config_timm.h"

#include "train/model/families.h"
#include <stdio.h>
#include <string.h>

#define ERF ACTIVATION_GELU
#define TANH ACTIVATION_GELU_TANH
static const TimmModel models[] = {
    {"vit_base_patch32_siglip_256", 256, 32, 768, 12, 64, 4, TANH},
    {"vit_base_patch16_siglip_224", 224, 16, 768, 12, 64, 4, ERF},
    {"vit_base_patch16_siglip_256", 256, 16, 768, 12, 64, 4, ERF},
    {"vit_base_patch16_siglip_384", 384, 16, 768, 12, 64, 4, ERF},
    {"vit_base_patch16_siglip_512", 512, 16, 768, 12, 64, 4, ERF},
    {"vit_large_patch16_siglip_256", 256, 16, 1024, 24, 64, 4, ERF},
    {"vit_large_patch16_siglip_384", 384, 16, 1024, 24, 64, 4, ERF},
    {"vit_large_patch16_siglip_512", 512, 16, 1024, 24, 64, 4, TANH},
    {"vit_so400m_patch14_siglip_224", 224, 14, 1152, 27, 72, 3.7362, ERF},
    {"vit_so400m_patch14_siglip_378", 378, 14, 1152, 27, 72, 3.7362, ERF},
    {"vit_so400m_patch14_siglip_384", 384, 14, 1152, 27, 72, 3.7362, ERF},
    {"vit_so400m_patch16_siglip_256", 256, 16, 1152, 27, 72, 3.7362, TANH},
    {"vit_so400m_patch16_siglip_384", 384, 16, 1152, 27, 72, 3.7362, TANH},
    {"vit_so400m_patch16_siglip_512", 512, 16, 1152, 27, 72, 3.7362, TANH},
    {"vit_giantopt_patch16_siglip_256", 256, 16, 1536, 40, 96, 4, TANH},
    {"vit_giantopt_patch16_siglip_384", 384, 16, 1536, 40, 96, 4, TANH},
};

const TimmModel *timm_find(const char *name) {
    for (size_t i = 0; i < COUNT(models); i++)
        if (!strcmp(models[i].name, name)) return &models[i];
    return NULL;
}

static bool same_blocks(const TimmModel *a, const TimmModel *b) {
    return a->width == b->width && a->layers == b->layers && a->head_width == b->head_width &&
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
    add(cfg, "norm_kwargs", json_pack("{s:f}", "eps", 1e-6));
    if (!m) return;
    add(cfg, "width", json_integer((json_int_t)m->width));
    add(cfg, "layers", json_integer((json_int_t)m->layers));
    add(cfg, "head_width", json_integer((json_int_t)m->head_width));
    add(cfg, "patch_size", json_integer((json_int_t)m->patch_size));
    add(cfg, "mlp_ratio", json_real(m->mlp_ratio));
    add(cfg, "act_kwargs",
        json_pack("{s:s}", "approximate", m->activation == TANH ? "tanh" : "none"));
}

void timm_tower(const JsonFields *r, ClipConfig *c) {
    static const char *const pools[] = {"map", NULL}, *const projections[] = {"none", NULL};
    TowerConfig *t = &c->image;
    c->timm = true;
    if (!json_object_get(r->object, "timm_pool")) fields_fail(r, "timm_pool", "is missing");
    if (!json_object_get(r->object, "timm_proj")) fields_fail(r, "timm_proj", "is missing");
    fields_word(r, "timm_pool", pools);
    fields_word(r, "timm_proj", projections);
    t->class_token = t->ln_pre = false;
    t->patch_bias = t->no_proj = true;
    t->pool = POOL_ATTENTION;
    t->pool_heads = t->heads;
    if (t->width != c->embed_dim)
        fields_fail(r, "timm_proj", "without a projection embed_dim must be the tower's width");
}
