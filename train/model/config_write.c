/* A configuration as the text of open_clip_config.json. */
#include "train/model/config_timm.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void set_number(json_t *object, const char *field, double now, double missing) {
    json_t *old = json_object_get(object, field);
    double before = json_is_number(old) ? json_number_value(old) : missing;
    if (!(before == now)) json_object_set_new(object, field, json_real(now));
}

json_t *clip_config_triple(const float x[3]) {
    json_t *a = json_array();
    for (int i = 0; i < 3; i++) {
        char digits[32];
        for (int n = 1; n <= 9; n++) {
            snprintf(digits, sizeof digits, "%.*g", n, (double)x[i]);
            if (strtof(digits, NULL) == x[i]) break;
        }
        json_array_append_new(a, json_real(strtod(digits, NULL)));
    }
    return a;
}

char *clip_config_text(json_t *root) {
    char *text = json_dumps(root, JSON_INDENT(2) | JSON_REAL_PRECISION(16));
    assert(text);
    json_decref(root);
    char *with_newline = xasprintf("%s\n", text);
    free(text);
    return with_newline;
}

char *clip_config_to_json(const ClipConfig *c) {
    static const char *const resizes[] = {RESIZE_MODES(CHOICE_WORD)};
    static const char *const interpolations[] = {INTERPOLATIONS(CHOICE_WORD)};
    json_t *root = json_object(), *model = json_loads(c->json, 0, NULL), *pre = json_object();
    assert(root && model && pre);
    json_t *image = json_object_get(model, "vision_cfg");
    json_t *size = json_object_get(image, "image_size");
    if (!json_is_array(size) ||
        (size_t)json_integer_value(json_array_get(size, 0)) != c->image_size)
        json_object_set_new(image, "image_size", json_integer((json_int_t)c->image_size));
    const char *timm = json_string_value(json_object_get(image, "timm_model_name"));
    const TimmModel *resized = timm ? timm_of_size(timm, c->image_size) : NULL;
    if (resized) json_object_set_new(image, "timm_model_name", json_string(resized->name));
    /* fields that a run's options may change after the file is read */
    bool quick = c->image.activation == ACTIVATION_QUICK_GELU;
    if (json_is_true(json_object_get(model, "quick_gelu")) != quick)
        json_object_set_new(model, "quick_gelu", json_boolean(quick));
    set_number(image, "patch_dropout", c->patch_dropout, 0);
    set_number(model, "init_logit_scale", c->init_logit_scale, CLIP_LOGIT_SCALE);
    if (c->has_logit_bias)
        set_number(model, "init_logit_bias", c->init_logit_bias, NAN);
    else
        json_object_del(model, "init_logit_bias");
    const Transform *t = &c->eval_transform;
    json_object_set_new(pre, "size", json_integer((json_int_t)c->image_size));
    if (c->naflex) json_object_set_new(pre, "max_num_patches", json_integer(t->max_patches));
    json_object_set_new(pre, "mode", json_string("RGB"));
    json_object_set_new(pre, "mean", clip_config_triple(t->mean));
    json_object_set_new(pre, "std", clip_config_triple(t->std));
    json_object_set_new(pre, "interpolation", json_string(interpolations[t->interpolation]));
    json_object_set_new(pre, "resize_mode", json_string(resizes[t->resize_mode]));
    json_object_set_new(pre, "fill_color", json_integer(t->fill[0]));
    json_object_set_new(root, "model_cfg", model);
    json_object_set_new(root, "preprocess_cfg", pre);
    return clip_config_text(root);
}
