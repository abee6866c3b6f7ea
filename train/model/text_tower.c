#include "train/model/text_tower.h"

#include <stdlib.h>
#include <string.h>

void text_tower_init(TextTower *t, const Kernels *k, const ClipConfig *c, const Params *p,
                     const ClipOptions *o) {
    size_t B = o->max_batch;
    size_t rows = o->max_text_rows ? o->max_text_rows : size_mul(B, c->context_length);
    memset(t, 0, sizeof *t);
    t->context = c->context_length;
    t->vocab = c->vocab_size;
    t->max_batch = B;
    t->bucket = c->context_length > 1 ? size_max(1, o->text_bucket) : 1;
    /* so many sequences of at least one row each can hold bucket - 1 rows more */
    if (t->bucket > 1) t->padding = div_up(t->bucket - 1, t->context - 1);
    rows = text_tower_rows(t, rows);
    t->tower = (Tower){.E = c->embed_dim,
                       .prune = tower_pools_one(&c->text) && !o->full_compute,
                       .training = o->training && !o->frozen_text,
                       .checkpoint = o->grad_checkpointing,
                       .max_B = B + t->padding,
                       .kept_rows = rows,
                       .max_rows = rows};
    tower_init(&t->tower, k, p, &c->text, TOWER_TEXT);
    if (!p) return;
    t->embed = (Layer){layer_at(p, TOWER_TEXT, 0, ROLE_TOKENS).w,
                       layer_at(p, TOWER_TEXT, 0, ROLE_POSITIONS).w};
    t->host_pool = xcalloc(B, sizeof *t->host_pool);
}

size_t text_tower_rows(const TextTower *t, size_t rows) {
    return round_up(size_add(rows, t->padding), t->bucket);
}

void text_tower_free(TextTower *t) {
    tower_free(&t->tower);
    free(t->host_pool);
}

void text_tower_layout_kept(TextTower *t, Arena *a) {
    t->ids = arena_take(a, t->tower.max_rows, sizeof *t->ids);
    t->start = arena_take(a, t->tower.max_B + 1, sizeof *t->start);
    t->pool = arena_take(a, t->tower.max_B, sizeof *t->pool);
    tower_layout_kept(&t->tower, a);
}

void text_tower_layout_scratch(TextTower *t, Arena *a) { tower_layout_scratch(&t->tower, a); }

void text_tower_load(TextTower *t, const int32_t *ids, const int32_t *start, const int32_t *pool,
                     size_t B) {
    const Tower *w = &t->tower;
    const Kernels *k = w->k;
    size_t rows = (size_t)start[B], max_T = 0;
    assert(B <= t->max_batch && rows <= w->max_rows && start[0] == 0);
    for (size_t i = 0; i < B; i++) {
        assert(start[i + 1] > start[i] && (size_t)(start[i + 1] - start[i]) <= t->context);
        max_T = size_max(max_T, (size_t)(start[i + 1] - start[i]));
        t->host_pool[i] = pool ? pool[i] : start[i + 1] - 1;
        assert(t->host_pool[i] == start[i + 1] - 1 || !w->prune);
    }
    for (size_t i = 0; i < rows; i++) assert(ids[i] >= 0 && (size_t)ids[i] < t->vocab);
    k->device->upload(t->ids, ids, rows * sizeof *ids);
    k->device->upload(t->start, start, (B + 1) * sizeof *start);
    k->device->upload(t->pool, t->host_pool, B * sizeof *t->host_pool);
    t->seq = (Sequences){t->start, t->pool, B, rows, max_T};
    t->captions = B;
}

void text_tower_load_sent(TextTower *t, const ClipBatch *sent) {
    const Kernels *k = t->tower.k;
    size_t n = sent->sequences;
    assert(n <= t->tower.max_B && sent->rows <= t->tower.max_rows);
    k->device->copy(t->ids, sent->ids, sent->rows * sizeof *t->ids);
    k->device->copy(t->start, sent->start, (n + 1) * sizeof *t->start);
    k->device->copy(t->pool, sent->pool, n * sizeof *t->pool);
    t->seq = (Sequences){t->start, t->pool, n, sent->rows, sent->max_T};
    t->captions = sent->B;
}

static void padding_begin(const TextTower *t) {
    if (t->captions < t->seq.B) t->tower.k->fp8_padding(t->start, t->captions, t->seq.B);
}
static void padding_end(const TextTower *t) {
    if (t->captions < t->seq.B) t->tower.k->fp8_padding(NULL, 0, 0);
}

void text_tower_fwd(TextTower *t, bool keep) {
    Tower *w = &t->tower;
    const TowerPass *pass = keep ? &w->kept : &w->transient;
    assert(!keep || w->training);
    w->k->text_embed_fwd(pass->layer[0].x, t->ids, t->start, param_acc(w->p, t->embed.w),
                         param_acc(w->p, t->embed.b), t->seq.B, t->seq.rows, w->C);
    padding_begin(t);
    tower_fwd(w, &t->seq, keep);
    padding_end(t);
}

bool text_tower_trains(const TextTower *t) {
    return layer_trains(t->embed) || tower_trains(&t->tower);
}

void text_tower_bwd(TextTower *t) {
    Tower *w = &t->tower;
    padding_begin(t);
    tower_bwd(w, &t->seq, layer_trains(t->embed));
    padding_end(t);
    if (!layer_trains(t->embed)) return;
    w->k->text_embed_bwd(param_grad(w->p, t->embed.w), param_grad(w->p, t->embed.b),
                         w->kept.scratch.d, t->ids, t->start, t->seq.B, t->seq.rows, w->C);
    tower_ready(w, &t->embed.w, 1);
}
