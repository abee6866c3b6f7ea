#include "train/model/tower.h"

#include <stdlib.h>

static Block block_of(const Tower *t, ParamTower tower, size_t layer, const TowerConfig *c) {
    Block b = {t->k, t->p, t->C, c->heads, c->mlp, c->eps, c->activation, c->causal, .ln_1 = {0}};
    b.rotary = c->rotary.theta > 0;
    b.gated = c->gated;
    b.post_norm = c->post_norm;
    if (c->ln_inner) b.ln_inner = layer_at(t->p, tower, layer, ROLE_LN_INNER);
    if (c->ln_mlp) b.ln_mlp = layer_at(t->p, tower, layer, ROLE_LN_MLP);
    assert(b.gated || !c->ln_mlp);
    assert(!b.post_norm || (!b.gated && !c->ln_inner));
    b.in_proj = layer_at(t->p, tower, layer, ROLE_IN_PROJ);
    b.out_proj = layer_at(t->p, tower, layer, ROLE_OUT_PROJ);
    b.ln_2 = layer_at(t->p, tower, layer, ROLE_LN_2);
    b.c_fc = layer_at(t->p, tower, layer, ROLE_C_FC);
    b.c_proj = layer_at(t->p, tower, layer, ROLE_C_PROJ);
    return b;
}

static bool has_attention_pool(const Tower *t) { return t->config.pool == POOL_ATTENTION; }

void tower_init(Tower *t, const Kernels *k, const Params *p, const TowerConfig *c,
                ParamTower tower) {
    size_t head = c->width / c->heads;
    if (c->pool == POOL_ATTENTION) head = size_max(head, c->width / c->pool_heads);
    if (k->widest_head && head > k->widest_head)
        die("the %s tower's heads are %zu wide, and attention on a GPU takes up to %zu: --device "
            "cpu takes any",
            tower == TOWER_TEXT ? "text" : "image", head, k->widest_head);
    t->k = k;
    t->p = p;
    t->config = *c;
    t->C = c->width;
    t->layers = c->layers;
    t->blocks = xcalloc(t->layers, sizeof *t->blocks);
    t->kept.layer = xcalloc(t->layers, sizeof *t->kept.layer);
    t->transient.layer = xcalloc(t->layers, sizeof *t->transient.layer);
    for (size_t i = 0; i < t->layers; i++) {
        t->blocks[i] = block_of(t, tower, i + 1, c);
        t->blocks[i].ln_1 = layer_at(p, tower, i + 1, ROLE_LN_1);
    }
    t->ln_final = layer_at(p, tower, t->layers, ROLE_LN_FINAL);
    if (has_attention_pool(t)) {
        TowerConfig pool = tower_pool_block(c);
        t->pool = block_of(t, tower, t->layers + 1, &pool);
        t->pool.ln_1 = t->ln_final;
        t->pool.probe = layer_at(p, tower, t->layers + 1, ROLE_PROBE).w;
    }
    assert(!c->no_proj || t->C == t->E);
    if (!c->no_proj) t->proj = layer_at(p, tower, t->layers + 1, ROLE_PROJECTION);
}

void tower_free(Tower *t) { FREE_ALL(t->blocks, t->kept.layer, t->transient.layer); }

static bool is_pooled(const Tower *t, size_t layer) { return t->prune && layer + 1 == t->layers; }

/* Returns true if the final LayerNorm reads every row instead of the pooled ones. */
static bool norms_all(const Tower *t) {
    return t->config.pool == POOL_MEAN && !t->config.norm_after_pool;
}

static void head_layout(const Tower *t, TowerPass *s, Arena *a, size_t rows, bool forward_only) {
    size_t n = norms_all(t) ? rows : t->max_B, sc = t->k->acc_size, ac = t->k->act_size;
    if (has_attention_pool(t)) {
        s->pool.x = arena_take(a, size_mul(rows, t->C), ac);
        block_store_layout(&s->pool, a, &t->pool, rows, t->max_B, true, forward_only);
    } else {
        s->x3 = arena_take(a, size_mul(n, t->C), ac);
        s->mean = arena_take(a, n, sc);
        s->rstd = arena_take(a, n, sc);
    }
    s->pooled = arena_take(a, size_mul(t->max_B, t->C), ac);
    s->unit = arena_take(a, size_mul(t->max_B, t->E), sc);
    s->norm = arena_take(a, t->max_B, sc);
}

void tower_layout_kept(Tower *t, Arena *a) {
    if (!t->training) return;
    for (size_t i = 0; i < t->layers; i++) {
        BlockStore *s = &t->kept.layer[i];
        s->x = arena_take(a, size_mul(t->kept_rows, t->C), t->k->act_size);
        if (i >= t->recomputed)
            block_store_layout(s, a, &t->blocks[i], t->kept_rows, t->max_B, is_pooled(t, i), false);
    }
    head_layout(t, &t->kept, a, t->kept_rows, false);
}

/* One store for the first n layers (in two shapes if the last block is pooled); x is separate. */
static void shared_stores(Tower *t, TowerPass *s, Arena *a, size_t n, size_t rows,
                          bool forward_only) {
    size_t mark = a->used, end = mark;
    for (size_t i = 0; i < n; i++) {
        BlockStore store;
        a->used = mark;
        block_store_layout(&store, a, &t->blocks[i], rows, t->max_B, is_pooled(t, i), forward_only);
        end = size_max(end, a->used);
        store.x = s->layer[i].x;
        s->layer[i] = store;
    }
    a->used = end;
}

static void pass_layout(Tower *t, TowerPass *s, Arena *a, size_t rows, bool keep) {
    size_t ac = t->k->act_size;
    s->raw = arena_take(a, size_mul(t->max_B, t->E), t->k->acc_size);
    s->scratch.y = arena_take(a, size_mul(rows, t->C), ac);
    s->scratch.branch = arena_take(a, size_mul(rows, t->C), ac);
    size_t mark = a->used;
    s->front = arena_take(a, keep ? 0 : t->front, 1);
    size_t front_end = a->used;
    a->used = mark;
    if (!keep) {
        act *x = arena_take(a, size_mul(rows, t->C), ac);
        for (size_t i = 0; i < t->layers; i++) s->layer[i].x = x;
        head_layout(t, s, a, rows, true);
    }
    shared_stores(t, s, a, keep ? t->recomputed : t->layers, rows, !keep);
    Block widest = *t->blocks;
    widest.mlp = size_max(widest.mlp, t->pool.mlp);
    block_scratch_layout(&s->scratch, a, &widest, rows, t->max_B, keep);
    a->used = size_max(front_end, a->used);
}

void tower_layout_scratch(Tower *t, Arena *a) {
    size_t mark = a->used, end = mark;
    if (t->training) {
        pass_layout(t, &t->kept, a, t->kept_rows, true);
        end = a->used;
        a->used = mark;
    }
    pass_layout(t, &t->transient, a, t->max_rows, false);
    a->used = size_max(end, a->used);
}

/* Where layer i's output is stored; NULL: it is the sum of x2 and the branch. */
static act *output_of(const Tower *t, const TowerPass *s, size_t i) {
    if (!t->k->residual_in_product) return NULL;
    if (i + 1 < t->layers) return s->layer[i + 1].x;
    if (has_attention_pool(t)) return s->pool.x;
    return t->prune || norms_all(t) ? s->x3 : s->scratch.y;
}

/* Pooling and final LayerNorm of the last block's output → s->pooled. */
static void pool_fwd(Tower *t, const TowerPass *s, const Sequences *seq) {
    const Kernels *k = t->k;
    const BlockScratch *w = &s->scratch;
    const act *whole = output_of(t, s, t->layers - 1), *x2 = s->layer[t->layers - 1].x2;
    const act *x = whole ? whole : x2, *branch = whole ? NULL : w->branch;
    size_t C = t->C, B = seq->B;
    if (has_attention_pool(t)) {
        block_pool_fwd(&t->pool, &s->pool, w, seq, branch ? x2 : NULL, branch ? NULL : s->pooled,
                       false);
        if (branch) k->add(s->pooled, s->pool.x2, branch, B * C);
    } else if (t->prune) {
        norm_fwd(t->p, t->ln_final, t->config.eps, s->pooled, s->mean, s->rstd, s->x3, x, branch, B,
                 C);
    } else if (norms_all(t)) {
        norm_fwd(t->p, t->ln_final, t->config.eps, w->y, s->mean, s->rstd, s->x3, x, branch,
                 seq->rows, C);
        k->mean_pool_fwd(s->pooled, w->y, seq->start, B, t->config.class_token, C);
    } else {
        if (branch) k->add(w->y, x2, branch, seq->rows * C);
        if (t->config.pool == POOL_MEAN)
            k->mean_pool_fwd(s->x3, w->y, seq->start, B, t->config.class_token, C);
        else
            k->gather_rows(s->x3, w->y, seq->pool, B, C);
        norm_fwd(t->p, t->ln_final, t->config.eps, s->pooled, s->mean, s->rstd, NULL, s->x3, NULL,
                 B, C);
    }
}

typedef struct Told {
    const GradientsReady *whom;
    size_t offset, size;
} Told;

static void tell(const void *context) {
    const Told *t = context;
    t->whom->call(t->whom->context, t->offset, t->size);
}

void gradients_ready(const Kernels *k, const GradientsReady *listener, const Param *const *matrices,
                     size_t n) {
    size_t first = SIZE_MAX, end = 0;
    for (size_t i = 0; i < n; i++) {
        const Param *w = matrices[i];
        if (!w->trainable) continue;
        first = size_min(first, w->offset);
        end = size_max(end, w->offset + w->size);
    }
    Told told = {listener, first, end - first};
    if (listener->call && end) k->device->graph_call(tell, &told, sizeof told);
}

void tower_ready(const Tower *t, const Param *const *matrices, size_t n) {
    gradients_ready(t->k, &t->ready, matrices, n);
}

static void block_ready(const Tower *t, const Block *b) {
    const Param *const matrices[] = {b->in_proj.w, b->out_proj.w, b->c_fc.w, b->c_proj.w, b->probe};
    tower_ready(t, matrices, b->probe ? COUNT(matrices) : COUNT(matrices) - 1);
}

/* scratch.gathered [B,C]: gradient of s->pooled → scratch.dpooled if pruned, else scratch.d. */
static void pool_bwd(Tower *t, const TowerPass *s, const Sequences *seq) {
    const Kernels *k = t->k;
    const BlockScratch *w = &s->scratch;
    size_t C = t->C, B = seq->B;
    if (has_attention_pool(t)) {
        k->device->copy(w->dpooled, w->gathered, B * C * k->act_size);
        block_pool_bwd(&t->pool, &s->pool, w, seq);
        block_ready(t, &t->pool);
        return;
    }
    if (norms_all(t)) {
        k->mean_pool_bwd(w->branch, w->gathered, seq->start, B, t->config.class_token, C);
        norm_bwd(t->p, t->ln_final, w->d, NULL, w->branch, NULL, s->x3, s->mean, s->rstd, seq->rows,
                 C);
        return;
    }
    norm_bwd(t->p, t->ln_final, w->dpooled, NULL, w->gathered, NULL, s->x3, s->mean, s->rstd, B, C);
    if (t->prune) return;
    if (t->config.pool == POOL_MEAN) {
        k->mean_pool_bwd(w->d, w->dpooled, seq->start, B, t->config.class_token, C);
    } else {
        k->device->zero(w->d, seq->rows * C * k->act_size);
        k->scatter_add_rows(w->d, w->dpooled, seq->pool, B, C);
    }
}

/* The block's output (NULL: x2 + branch), in buffers that nothing reads after it. */
static void tap_rows(const Tower *t, const BlockStore *store, const BlockScratch *w,
                     const Sequences *seq, const act *whole) {
    const Kernels *k = t->k;
    size_t n = seq->rows * t->C;
    if (!whole) k->add(w->y, store->x2, w->branch, n);
    const act *rows = whole ? whole : w->y;
    if (!t->tap.layer)
        norm_fwd(t->p, t->ln_final, t->config.eps, store->qkv, store->mean1, store->rstd1, NULL,
                 rows, NULL, seq->rows, t->C);
    k->acc_from_act(t->tap.to, t->tap.layer ? rows : store->qkv, n);
}

void tower_fwd(Tower *t, const Sequences *seq, bool keep) {
    const Kernels *k = t->k;
    const TowerPass *s = keep ? &t->kept : &t->transient;
    const act *x_in = NULL;
    for (size_t i = 0; i < t->layers; i++) {
        const BlockStore *store = &s->layer[i];
        act *whole = output_of(t, s, i);
        (is_pooled(t, i) ? block_pool_fwd : block_fwd)(&t->blocks[i], store, &s->scratch, seq, x_in,
                                                       whole, false);
        if (t->tap.to && !keep && i + 1 == (t->tap.layer ? t->tap.layer : t->layers))
            tap_rows(t, store, &s->scratch, seq, whole);
        x_in = whole ? NULL : store->x2;
    }
    pool_fwd(t, s, seq);
    if (t->config.no_proj)
        k->acc_from_act(s->raw, s->pooled, seq->B * t->E);
    else
        k->project_fwd(s->raw, s->pooled, param_act(t->p, t->proj.w), t->config.proj_bias,
                       t->proj.b ? param_acc(t->p, t->proj.b) : NULL, seq->B, t->C, t->E);
    k->l2norm_fwd(s->unit, s->norm, s->raw, seq->B, t->E);
}

bool tower_trains(const Tower *t) {
    for (size_t i = 0; i < t->layers; i++)
        if (block_trains(&t->blocks[i])) return true;
    return block_trains(&t->pool) || layer_trains(t->ln_final) || layer_trains(t->proj);
}

void tower_bwd(Tower *t, const Sequences *seq, bool embed_trains) {
    const Kernels *k = t->k;
    const TowerPass *s = &t->kept;
    if (!embed_trains && !tower_trains(t)) return;
    size_t lowest = 0;
    while (!embed_trains && lowest < t->layers && !block_trains(&t->blocks[lowest])) lowest++;

    k->l2norm_bwd(s->raw, s->raw, s->unit, s->norm, seq->B, t->E);
    if (t->config.no_proj)
        k->act_from_acc(s->scratch.gathered, s->raw, seq->B * t->E);
    else
        k->project_bwd(s->scratch.gathered, trainable_grad(t->p, t->proj.w),
                       trainable_grad(t->p, t->proj.b), s->raw, s->pooled,
                       param_act(t->p, t->proj.w), t->config.proj_bias, seq->B, t->C, t->E);
    if (t->on_pooled.call) t->on_pooled.call(t->on_pooled.context, s->scratch.gathered);
    if (lowest == t->layers && !layer_trains(t->ln_final) && !block_trains(&t->pool)) return;
    pool_bwd(t, s, seq);
    for (size_t i = t->layers; i-- > lowest;) {
        const Block *b = &t->blocks[i];
        const BlockStore *store = &s->layer[i];
        if (i < t->recomputed)
            (is_pooled(t, i) ? block_pool_fwd : block_fwd)(b, store, &s->scratch, seq, NULL, NULL,
                                                           true);
        (is_pooled(t, i) ? block_pool_bwd : block_bwd)(b, store, &s->scratch, seq);
        block_ready(t, b);
    }
}

static double mlp_macs(const TowerConfig *t) {
    return (t->gated ? 3 : 2) * (double)t->width * (double)t->mlp;
}

/* Multiply-adds of a block over T tokens of which one is used. */
static double pooled_block_macs(const TowerConfig *t, double T) {
    double C = (double)t->width;
    return T * 2 * C * C + 2 * C * C + mlp_macs(t) + 2 * T * C;
}

double tower_macs(const TowerConfig *t, size_t E, double T, double scores, bool pooled) {
    double C = (double)t->width, full = T * (4 * C * C + mlp_macs(t)) + 2 * scores * C;
    TowerConfig pool = tower_pool_block(t);
    double last = t->pool == POOL_ATTENTION ? full + pooled_block_macs(&pool, T)
                  : pooled                  ? pooled_block_macs(t, T)
                                            : full;
    double projection = t->no_proj ? 0 : C * (double)E;
    return (double)(t->layers - 1) * full + last + projection;
}
