#include "train/clip.h"
#include "train/text_tower.h"
#include "train/vit.h"

#include <stdlib.h>

struct Clip {
    const Kernels *k;
    Vit image;
    TextTower text;
    Arena arena;
    bool image_kept, text_kept; /* a backward may follow */
};

static void clip_init(Clip *m, const Kernels *k, const ClipConfig *c, const Params *p,
                      const ClipOptions *o) {
    m->k = k;
    vit_init(&m->image, k, c, p, o);
    text_tower_init(&m->text, k, c, p, o);
}

/* The towers never compute at the same time, so their scratch is one. */
static void clip_layout(Clip *m) {
    Arena *a = &m->arena;
    vit_layout_kept(&m->image, a);
    text_tower_layout_kept(&m->text, a);
    size_t mark = a->used;
    vit_layout_scratch(&m->image, a);
    size_t end = a->used;
    a->used = mark;
    text_tower_layout_scratch(&m->text, a);
    a->used = size_max(end, a->used);
}

Clip *clip_new(const Kernels *k, const ClipConfig *c, Params *p, const ClipOptions *o) {
    Clip *m = xcalloc(1, sizeof *m);
    assert(o->max_batch > 0 && (!o->training || p->grad));
    clip_init(m, k, c, p, o);
    clip_layout(m);
    m->arena.size = m->arena.used;
    m->arena.used = 0;
    m->arena.base = k->alloc(m->arena.size);
    clip_layout(m);
    return m;
}

void clip_free(Clip *m) {
    if (!m) return;
    vit_free(&m->image);
    text_tower_free(&m->text);
    m->k->release(m->arena.base);
    free(m);
}

size_t clip_activation_bytes(const Kernels *k, const ClipConfig *c, const ClipOptions *o) {
    Clip m = {0};
    clip_init(&m, k, c, NULL, o);
    clip_layout(&m);
    vit_free(&m.image);
    text_tower_free(&m.text);
    return m.arena.used;
}

void clip_on_gradients(Clip *m, const GradientsReady *ready) {
    m->image.tower.ready = m->text.tower.ready = *ready;
}

bool clip_image_trains(const Clip *m) { return vit_trains(&m->image); }
bool clip_text_trains(const Clip *m) { return text_tower_trains(&m->text); }

void clip_image_fwd(Clip *m, acc *features, const ClipImages *images, size_t B, bool keep) {
    keep = keep && clip_image_trains(m);
    m->image_kept = keep;
    vit_fwd(&m->image, features, images, B, keep);
}

void clip_image_bwd(Clip *m, const acc *dfeatures, size_t B) {
    if (!B || !clip_image_trains(m)) return;
    assert(m->image_kept && B == m->image.seq.B);
    vit_bwd(&m->image, dfeatures);
}

void clip_text_fwd_at(Clip *m, acc *features, const int32_t *ids, const int32_t *start,
                      const int32_t *pool, size_t B, bool keep) {
    keep = keep && clip_text_trains(m);
    m->text_kept = keep;
    text_tower_fwd(&m->text, features, ids, start, pool, B, keep);
}

void clip_text_fwd(Clip *m, acc *features, const int32_t *ids, const int32_t *start, size_t B,
                   bool keep) {
    clip_text_fwd_at(m, features, ids, start, NULL, B, keep);
}

void clip_text_bwd(Clip *m, const acc *dfeatures, size_t B) {
    if (!B || !clip_text_trains(m)) return;
    assert(m->text_kept && B == m->text.seq.B);
    text_tower_bwd(&m->text, dfeatures);
}

/* Multiply-adds of a stack over T tokens; pooled: the last block for one token only. */
static double stack_macs(const TowerConfig *t, double T, double scores, bool pooled) {
    double C = (double)t->width, mlp = (double)t->mlp;
    double full = T * (4 * C * C + 2 * C * mlp) + 2 * scores * C;
    double last = T * 2 * C * C + 2 * C * C + 2 * C * mlp + 2 * T * C;
    return pooled ? (double)(t->layers - 1) * full + last : (double)t->layers * full;
}

double clip_flops(const ClipConfig *c, size_t tokens, bool full) {
    double side = (double)(c->image_size / c->patch_size), n = side * side, T = n + 1;
    double patch = 3 * (double)(c->patch_size * c->patch_size), E = (double)c->embed_dim;
    double macs = n * patch * (double)c->image.width + (double)c->image.width * E;
    macs += stack_macs(&c->image, T, T * T, !full && c->pool == POOL_TOK);
    double L = full ? (double)c->context_length : (double)tokens;
    macs += stack_macs(&c->text, L, full ? L * L : L * (L + 1) / 2, !full);
    macs += (double)c->text.width * E;
    return 2 * macs;
}
