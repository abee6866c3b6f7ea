#include "train/model/text_tower.h"

#include <string.h>

void text_tower_init(TextTower *t, const Kernels *k, const ClipConfig *c, const Params *p,
                     const ClipOptions *o) {
    size_t B = o->max_batch, rows = size_mul(B, c->context_length);
    memset(t, 0, sizeof *t);
    t->context = c->context_length;
    t->vocab = c->vocab_size;
    t->cut = tower_ends_at_pool(&c->text) && !o->full_compute;
    t->max_batch = B;
    if (t->cut && o->max_text_rows) rows = size_min(rows, size_max(o->max_text_rows, t->context));
    t->bucket = t->cut && t->context > 1 ? size_max(1, o->text_bucket) : 1;
    rows = size_max(text_tower_rows(t, rows, B), text_tower_rows(t, t->context, 1));
    t->tower = (Tower){.E = c->embed_dim,
                       .prune = tower_pools_one(&c->text) && !o->full_compute,
                       .training = o->training && !o->frozen_text,
                       .recomputed = clip_recomputed(o, c->text.layers),
                       .max_B = B + text_tower_padding(t, B),
                       .kept_rows = rows,
                       .max_rows = rows};
    tower_init(&t->tower, k, p, &c->text, TOWER_TEXT);
    t->embed = (Layer){layer_at(p, TOWER_TEXT, 0, ROLE_TOKENS).w,
                       layer_at(p, TOWER_TEXT, 0, ROLE_POSITIONS).w};
}

size_t text_tower_padding(const TextTower *t, size_t B) {
    return padding_sequences(B, t->bucket, t->context);
}

size_t text_tower_rows(const TextTower *t, size_t rows, size_t B) {
    return padded_rows(rows, text_tower_padding(t, B), t->bucket);
}

void text_tower_free(TextTower *t) { tower_free(&t->tower); }

void text_tower_layout_kept(TextTower *t, Arena *a) {
    t->rows.ids = arena_take(a, t->tower.max_rows, sizeof *t->rows.ids);
    t->rows.start = arena_take(a, t->tower.max_B + 1, sizeof *t->rows.start);
    t->rows.pool = arena_take(a, t->tower.max_B, sizeof *t->rows.pool);
    tower_layout_kept(&t->tower, a);
}

void text_tower_layout_scratch(TextTower *t, Arena *a) { tower_layout_scratch(&t->tower, a); }

/* The first position of a context's end token: of its largest id, or of the tower's pool_id (0 if
 * there is none). A caption may also hold it as a literal; n, the first padding, if that is it. */
static size_t end_token(const TextTower *t, const int32_t *ids, size_t n, int32_t pad) {
    size_t best = 0;
    if (t->tower.config.pool == POOL_ID) {
        while (best < n && ids[best] != t->tower.config.pool_id) best++;
        return best < n || (n < t->context && pad == t->tower.config.pool_id) ? best : 0;
    }
    for (size_t i = 1; i < n; i++)
        if (ids[i] > ids[best]) best = i;
    return n < t->context && pad > ids[best] ? n : best;
}

size_t text_tower_length(const TextTower *t, const int32_t *ids, size_t n, int32_t pad) {
    return t->cut ? size_min(n, end_token(t, ids, n, pad) + 1) : n;
}

size_t text_tower_pack(const TextTower *t, TextRows to, const int32_t *ids, const int32_t *start,
                       int32_t pad, size_t B) {
    size_t rows = 0;
    assert(B <= t->max_batch);
    for (size_t b = 0; b < B; b++) {
        const int32_t *caption = ids + start[b];
        assert(start[b + 1] > start[b] && (size_t)(start[b + 1] - start[b]) <= t->context);
        size_t n = (size_t)(start[b + 1] - start[b]), end = end_token(t, caption, n, pad);
        size_t T = t->cut ? end + 1 : t->context;
        assert(rows + T <= t->tower.max_rows);
        to.start[b] = (int32_t)rows;
        size_t pool = t->tower.config.pool == POOL_LAST ? T - 1 : end;
        to.pool[b] = (int32_t)(rows + pool);
        for (size_t i = 0; i < T; i++) {
            int32_t id = i < n ? caption[i] : pad;
            assert(id >= 0 && (size_t)id < t->vocab);
            to.ids[rows + i] = id;
        }
        rows += T;
    }
    to.start[B] = (int32_t)rows;
    return rows;
}

void text_tower_load(TextTower *t, const TextPart *b) {
    const Kernels *k = t->tower.k;
    size_t n = b->sequences;
    assert(n <= t->tower.max_B && b->rows <= t->tower.max_rows);
    k->device->copy(t->rows.ids, b->ids, b->rows * sizeof *t->rows.ids);
    k->device->copy(t->rows.start, b->start, (n + 1) * sizeof *t->rows.start);
    k->device->copy(t->rows.pool, b->pool, n * sizeof *t->rows.pool);
    t->seq = (Sequences){
        .start = t->rows.start, .pool = t->rows.pool, .B = n, .rows = b->rows, .max_T = b->max_T};
    t->captions = b->B;
}

static void padding_begin(const TextTower *t) {
    if (t->captions < t->seq.B) t->tower.k->fp8_padding(t->rows.start, t->captions, t->seq.B);
}
static void padding_end(const TextTower *t) {
    if (t->captions < t->seq.B) t->tower.k->fp8_padding(NULL, 0, 0);
}

void text_tower_fwd(TextTower *t, bool keep) {
    Tower *w = &t->tower;
    const TowerPass *pass = keep ? &w->kept : &w->transient;
    assert(!keep || w->training);
    w->k->text_embed_fwd(pass->layer[0].x, t->rows.ids, t->rows.start, param_acc(w->p, t->embed.w),
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
                         w->kept.scratch.d, t->rows.ids, t->rows.start, t->seq.B, t->seq.rows,
                         w->C);
    tower_ready(w, &t->embed.w, 1);
}
