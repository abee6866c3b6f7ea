#include "train/teacher.h"

#include "train/model/pretrained.h"

#include <stdlib.h>
#include <string.h>

struct Teacher {
    const Kernels *k;
    ClipConfig config;
    Params *params;
    Clip *clip;
    acc *images, *texts; /* [rows,E] */
};

static void check_inputs(const ClipConfig *t, const ClipConfig *s, const char *path) {
    const Transform *a = &t->eval_transform, *b = &s->eval_transform;
    bool shapes =
        t->naflex == s->naflex &&
        (!s->naflex || (t->patch_size == s->patch_size && a->max_patches == b->max_patches));
    if (!shapes || t->image_size != s->image_size || memcmp(a->mean, b->mean, sizeof a->mean) ||
        memcmp(a->std, b->std, sizeof a->std))
        die("--distill-pretrained %s: the teacher sees pictures of %zu pixels, another shape or "
            "another "
            "normalisation, the student %zu: both get the same ones",
            path, t->image_size, s->image_size);
    if (t->context_length != s->context_length || t->vocab_size != s->vocab_size)
        die("--distill-pretrained %s: the teacher reads %zu tokens of a vocabulary of %zu, the "
            "student %zu of %zu: both get the same ones",
            path, t->context_length, t->vocab_size, s->context_length, s->vocab_size);
    if (tower_ends_at_pool(&t->text) != tower_ends_at_pool(&s->text))
        die("--distill-pretrained %s: one of teacher and student reads captions up to the end "
            "token, the other whole contexts: both get the same ones",
            path);
}

/* Batches have the shape that the student's have. */
static ClipOptions clip_options(const ClipOptions *student) {
    return (ClipOptions){.max_batch = student->max_batch,
                         .max_text_rows = student->max_text_rows,
                         .text_bucket = student->text_bucket};
}

Teacher *teacher_new(const Kernels *k, const char *model, const char *pretrained,
                     const ClipConfig *student, const ClipOptions *o, size_t rows) {
    Teacher *t = xcalloc(1, sizeof *t);
    t->k = k;
    pretrained_config(&t->config, pretrained, model);
    check_inputs(&t->config, student, pretrained);
    t->params = params_new(k, &t->config);
    ClipOptions own = clip_options(o);
    t->clip = clip_new(k, &t->config, t->params, &own);
    size_t bytes = size_mul(size_mul(rows, t->config.embed_dim), k->acc_size);
    t->images = k->device->alloc(bytes);
    t->texts = k->device->alloc(bytes);
    return t;
}

void teacher_load(Teacher *t, const char *pretrained) {
    pretrained_load(pretrained, t->params, &t->config);
    log_info("teacher %s: %zu parameters", pretrained, params_elements(t->params));
}

void teacher_plan(const Teacher *t) { clip_plan(t->clip, t->images); }

void teacher_free(Teacher *t) {
    if (!t) return;
    t->k->device->release(t->images);
    t->k->device->release(t->texts);
    clip_free(t->clip);
    params_free(t->params);
    clip_config_free(&t->config);
    free(t);
}

size_t teacher_dim(const Teacher *t) { return t->config.embed_dim; }
const acc *teacher_images(const Teacher *t) { return t->images; }
const acc *teacher_texts(const Teacher *t) { return t->texts; }
const acc *teacher_log_scale(const Teacher *t) {
    return param_acc(t->params, params_at(t->params, TOWER_NONE, 0, ROLE_LOGIT_SCALE, false));
}

void teacher_forward(Teacher *t, const ClipBatch *b, size_t row) {
    size_t at = row * t->config.embed_dim;
    clip_image_fwd(t->clip, acc_at(t->k, t->images, at), b, false);
    clip_text_fwd(t->clip, acc_at(t->k, t->texts, at), b, false);
}
