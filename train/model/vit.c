#include "train/model/vit.h"
#include "kernels/rng.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static Vit *vit(ImageTower *t) { return (Vit *)t; }

static size_t patch_elements(const Vit *v) { return 3 * v->image.patch_size * v->image.patch_size; }
/* Packed rows that are given their positions at once. */
enum { POSITIONS_AT_ONCE = 4096 };

static ImageTower *create(const Kernels *k, const ClipConfig *c, const Params *p,
                          const ClipOptions *o) {
    size_t side = c->image_size / c->patch_size, grid = side * side, B = clip_pictures(o);
    size_t most = c->naflex ? clip_most_patches(c) : grid, bucket = 1;
    if (c->naflex && most > 1 && k->device->asynchronous)
        bucket = round_up(div_up(size_mul(B, most), 64), 16);
    size_t padding = padding_sequences(B, bucket, most);
    size_t max_rows = padded_rows(size_mul(B, most + c->image.class_token), padding, bucket);
    Vit *v = xcalloc(1, sizeof *v);
    assert(c->image.pool == POOL_MEAN || c->image.pool == POOL_ATTENTION ||
           (c->image.pool == POOL_CLASS && c->image.class_token));
    v->image = (ImageTower){.kind = &vit_tower,
                            .max_B = B,
                            .side = c->image_size,
                            .grid = grid,
                            .kept = grid,
                            .patch_size = c->patch_size,
                            .max_patches = c->naflex ? most : 0,
                            .padding = padding,
                            .bucket = bucket,
                            .seed = o->seed,
                            .training = o->training && !o->frozen_image};
    bool stem = c->image.stem;
    assert(!c->naflex || (c->image.pool == POOL_ATTENTION && !c->image.class_token &&
                          !c->image.ln_pre && !c->image.rotary.theta && !stem && !o->views));
    if (o->training && o->patch_dropout > 0 && stem)
        die("patch dropout: the convolutional stem of %s computes whole pictures: leave "
            "--force-patch-dropout out",
            c->name);
    if (o->training && o->patch_dropout > 0 && !c->naflex)
        v->image.kept = size_max(1, (size_t)((double)grid * (1 - o->patch_dropout)));
    memcpy(v->mean, c->eval_transform.mean, sizeof v->mean);
    memcpy(v->std, c->eval_transform.std, sizeof v->std);
    size_t patches = c->naflex ? max_rows : size_mul(B, grid);
    size_t front = size_mul(patches, patch_elements(v)) * k->act_size;
    size_t kept_rows = size_mul(B, v->image.kept + c->image.class_token);
    if (stem) {
        Arena sizes = {.base = NULL};
        ConvStemStore store;
        v->stem = conv_stem_at(k, p, &c->image, c->image_size, o->sync_norm);
        conv_stem_store_layout(&v->stem, &store, &sizes, B, false);
        front = sizes.used;
    }
    v->tower = (Tower){.E = c->embed_dim,
                       .prune = tower_pools_one(&c->image) && !o->full_compute && !o->image_rows,
                       .training = v->image.training,
                       .recomputed = clip_recomputed(o, c->image.layers),
                       .max_B = B + padding,
                       .kept_rows = c->naflex ? max_rows : kept_rows,
                       .max_rows = max_rows,
                       .front = front};
    tower_init(&v->tower, k, p, &c->image, TOWER_IMAGE);
    /* the pooled block turns no query */
    assert(!c->image.rotary.theta || !v->tower.prune || c->image.class_token);
    if (!stem) v->conv1 = layer_at(p, TOWER_IMAGE, 0, ROLE_PATCHES);
    if (c->image.ln_pre) v->ln_pre = layer_at(p, TOWER_IMAGE, 0, ROLE_LN_PRE);
    v->class_embedding = params_at(p, TOWER_IMAGE, 0, ROLE_CLASS, false);
    v->positional_embedding = layer_at(p, TOWER_IMAGE, 0, ROLE_POSITIONS).w;
    return &v->image;
}

static void destroy(ImageTower *t) {
    tower_free(&vit(t)->tower);
    free(t);
}

static void layout_kept(ImageTower *image, Arena *a) {
    Vit *v = vit(image);
    Tower *t = &v->tower;
    size_t B = t->max_B;
    bool naflex = v->image.max_patches > 0;
    if (naflex) v->shape = arena_take(a, 2 * B, sizeof *v->shape);
    for (int i = 0; i < 2; i++) {
        v->start[i] = arena_take(a, B + 1, sizeof *v->start[i]);
        v->pool[i] = arena_take(a, B, sizeof *v->pool[i]);
    }
    v->keep = arena_take(a, size_mul(B, v->image.kept), sizeof *v->keep);
    if (t->config.rotary.theta > 0)
        v->turns =
            arena_take(a, size_mul(v->image.grid, 2 * t->C / t->config.heads), t->k->acc_size);
    if (t->config.stem) conv_stem_layout(&v->stem, a, B, t->training);
    if (t->config.stem && t->training)
        conv_stem_store_layout(&v->stem, &v->kept.stem, a, B, true);
    else if (t->training)
        v->kept.patches =
            arena_take(a, size_mul(naflex ? t->kept_rows : B * v->image.kept, patch_elements(v)),
                       t->k->act_size);
    if (t->config.no_class_position) {
        size_t n = size_mul(1 + v->image.grid, t->C);
        v->positions = arena_take(a, n, t->k->acc_size);
        if (t->training) v->dpositions = arena_take(a, n, t->k->acc_size);
    }
    if (t->training && t->config.ln_pre) {
        v->kept.x0 = arena_take(a, size_mul(t->kept_rows, t->C), t->k->act_size);
        v->kept.mean = arena_take(a, t->kept_rows, t->k->acc_size);
        v->kept.rstd = arena_take(a, t->kept_rows, t->k->acc_size);
    }
    tower_layout_kept(t, a);
}

static void layout_scratch(ImageTower *image, Arena *a) {
    Vit *v = vit(image);
    Tower *t = &v->tower;
    size_t mark = a->used;
    if (t->config.ln_pre) {
        v->transient.mean = arena_take(a, t->max_rows, t->k->acc_size);
        v->transient.rstd = arena_take(a, t->max_rows, t->k->acc_size);
    }
    if (v->image.max_patches) {
        size_t n = size_min(POSITIONS_AT_ONCE, t->max_rows);
        v->weights = arena_take(a, size_mul(n, v->image.grid), t->k->acc_size);
        v->row_positions = arena_take(a, size_mul(n, t->C), t->k->acc_size);
    }
    tower_layout_scratch(t, a);
    if (!a->base) return;
    assert(a->used > mark);
    if (t->config.ln_pre) v->transient.x0 = t->transient.scratch.y;
    v->transient.patches = (act *)t->transient.front;
    Arena front = {t->transient.front, t->front, 0};
    if (t->config.stem)
        conv_stem_store_layout(&v->stem, &v->transient.stem, &front, t->max_B, false);
}

void patch_dropout_draw(int32_t *keep, size_t n, size_t grid, uint64_t seed, uint64_t sample,
                        uint64_t draw) {
    uint64_t s = rng_mix(rng_mix(seed, sample), draw);
    size_t taken = 0;
    for (size_t g = 0; taken < n; g++)
        if (rng_below(s, RNG_PATCH_DROPOUT, g, grid - g) < n - taken) keep[taken++] = (int32_t)g;
}

/* The table of rotate_heads. */
static void turns_start(Vit *v) {
    const Rotary *r = &v->tower.config.rotary;
    size_t side = v->image.side / v->image.patch_size, D = v->tower.C / v->tower.config.heads,
           n = D / 4;
    assert(D % 4 == 0);
    double *table = xmalloc(v->image.grid * 2 * D * sizeof *table);
    for (size_t at = 0; at < v->image.grid; at++)
        for (size_t pair = 0; pair < D / 2; pair++) {
            bool column = (pair < n) == r->x_first;
            double i = (double)(column ? at % side : at / side) + r->offset;
            double frequency = pow(r->theta, -(double)(pair % n) / (double)n);
            double angle = i * r->reference / (double)side * frequency;
            double *cosines = table + at * 2 * D + 2 * pair, *sines = cosines + D;
            cosines[0] = cosines[1] = cos(angle);
            sines[1] = sin(angle);
            sines[0] = -sines[1];
        }
    v->tower.k->acc_set(v->turns, table, v->image.grid * 2 * D);
    free(table);
}

static void start(ImageTower *image) {
    Vit *v = vit(image);
    const Kernels *k = v->tower.k;
    size_t B = v->tower.max_B;
    int32_t *first = xmalloc((B + 1) * sizeof *first);
    bool probed = v->tower.config.pool == POOL_ATTENTION;
    for (int dropped = 0; dropped < 2; dropped++) {
        size_t T = (dropped ? v->image.kept : v->image.grid) + v->tower.config.class_token;
        for (size_t i = 0; i <= B; i++) first[i] = (int32_t)(i * T);
        k->device->upload(v->start[dropped], first, (B + 1) * sizeof *first);
        if (probed)
            k->device->zero(v->pool[dropped], B * sizeof *first);
        else
            k->device->upload(v->pool[dropped], first, B * sizeof *first);
    }
    free(first);
    if (v->turns) turns_start(v);
    if (v->tower.config.stem) conv_stem_start(&v->stem);
    if (v->positions) k->device->zero(v->positions, v->tower.C * k->acc_size);
}

/* Pictures of their own sizes, packed; each patch comes as a picture of one patch. */
static void load_packed(Vit *v, const ClipBatch *b, bool keep) {
    const Kernels *k = v->tower.k;
    size_t B = b->pictures + v->image.padding, rows = b->image_rows;
    assert(B <= v->tower.max_B && rows <= v->tower.max_rows && (!keep || v->tower.training));
    k->device->copy(v->start[0], b->image_start, (B + 1) * sizeof *v->start[0]);
    k->device->copy(v->shape, b->image_shape, 2 * B * sizeof *v->shape);
    v->n = 0;
    v->image.seq = (Sequences){.start = v->start[0],
                               .pool = v->pool[0],
                               .B = B,
                               .rows = rows,
                               .max_T = v->image.max_patches};
    k->patches_u8(keep ? v->kept.patches : v->transient.patches, b->pixels, NULL, v->mean, v->std,
                  rows, v->image.patch_size, v->image.patch_size, 1);
}

static void load(ImageTower *image, const ClipBatch *b, bool keep) {
    Vit *v = vit(image);
    Tower *t = &v->tower;
    v->pictures = b->pictures;
    if (v->image.max_patches) {
        load_packed(v, b, keep);
        return;
    }
    size_t n = v->image.kept, B = b->pictures;
    bool dropped = n < v->image.grid && b->keep;
    assert(B <= t->max_B);
    if (dropped) t->k->device->copy(v->keep, b->keep, B * n * sizeof *v->keep);
    v->n = dropped ? n : v->image.grid;
    size_t T = v->n + t->config.class_token;
    v->image.seq =
        (Sequences){v->start[dropped],        v->pool[dropped],     B, B * T, T, v->turns,
                    dropped ? v->keep : NULL, t->config.class_token};
    assert(!keep || (t->training && v->n == v->image.kept));
    const VitPass *s = keep ? &v->kept : &v->transient;
    if (t->config.stem) {
        size_t P = v->stem.conv[0].s.side, side = v->image.side / P;
        t->k->patches_u8(s->stem.patches, b->pixels, NULL, v->mean, v->std, B, v->image.side, P,
                         side * side);
        return;
    }
    t->k->patches_u8(keep ? v->kept.patches : v->transient.patches, b->pixels,
                     dropped ? v->keep : NULL, v->mean, v->std, B, v->image.side,
                     v->image.patch_size, v->n);
}

/* [rows of a whole picture,C] */
static const acc *position_table(const Vit *v) {
    const Kernels *k = v->tower.k;
    const acc *own = param_acc(v->tower.p, v->positional_embedding);
    if (!v->positions) return own;
    k->device->copy(acc_at(k, v->positions, v->tower.C), own,
                    v->image.grid * v->tower.C * k->acc_size);
    return v->positions;
}

/* x[rows,C] = tok + the positions, each picture's interpolated for its grid. */
static void positions_fwd(const Vit *v, act *x, const act *tok) {
    const Tower *t = &v->tower;
    const Kernels *k = t->k;
    const Sequences *seq = &v->image.seq;
    size_t C = t->C, side = v->image.side / v->image.patch_size, grid = v->image.grid;
    const acc *table = param_acc(t->p, v->positional_embedding);
    for (size_t at = 0; at < seq->rows; at += POSITIONS_AT_ONCE) {
        size_t n = size_min(POSITIONS_AT_ONCE, seq->rows - at);
        k->grid_weights(v->weights, seq->start, v->shape, seq->B, at, n, side);
        k->gemm(v->row_positions, C, v->weights, grid, false, table, C, false, n, C, grid, false);
        k->image_embed_fwd(act_at(k, x, at * C), act_at(k, tok, at * C), NULL, v->row_positions,
                           NULL, 1, n, C);
    }
}

/* Adds the gradient of the positions; dx[rows,C]. */
static void positions_bwd(const Vit *v, const act *dx) {
    const Tower *t = &v->tower;
    const Kernels *k = t->k;
    const Sequences *seq = &v->image.seq;
    size_t C = t->C, side = v->image.side / v->image.patch_size, grid = v->image.grid;
    acc *table = param_grad(t->p, v->positional_embedding);
    for (size_t at = 0; at < seq->rows; at += POSITIONS_AT_ONCE) {
        size_t n = size_min(POSITIONS_AT_ONCE, seq->rows - at);
        k->grid_weights(v->weights, seq->start, v->shape, seq->B, at, n, side);
        k->acc_from_act(v->row_positions, act_at(k, dx, at * C), n * C);
        k->gemm(table, C, v->weights, grid, true, v->row_positions, C, false, grid, C, n, true);
    }
}

static void padding_begin(const Vit *v) {
    const Sequences *seq = &v->image.seq;
    if (v->pictures < seq->B) v->tower.k->fp8_padding(seq->start, v->pictures, seq->B);
}
static void padding_end(const Vit *v) {
    if (v->pictures < v->image.seq.B) v->tower.k->fp8_padding(NULL, 0, 0);
}

static void fwd(ImageTower *image, bool keep) {
    Vit *v = vit(image);
    Tower *t = &v->tower;
    const Params *p = t->p;
    const VitPass *s = keep ? &v->kept : &v->transient;
    const TowerPass *pass = keep ? &t->kept : &t->transient;
    size_t B = v->image.seq.B, patches = v->image.seq.rows - B * t->config.class_token;
    act *tok = pass->scratch.branch, *x = pass->layer[0].x;
    padding_begin(v);
    if (t->config.stem)
        conv_stem_fwd(&v->stem, &s->stem, tok, B, v->image.learning && t->training, keep);
    else
        t->k->linear_fwd(tok, s->patches, param_act(p, v->conv1.w),
                         v->conv1.b ? param_act(p, v->conv1.b) : NULL, patches, t->C,
                         patch_elements(v));
    if (v->image.max_patches)
        positions_fwd(v, x, tok);
    else
        t->k->image_embed_fwd(
            s->x0 ? s->x0 : x, tok, v->class_embedding ? param_acc(p, v->class_embedding) : NULL,
            position_table(v), v->n < v->image.grid ? v->keep : NULL, B, v->n, t->C);
    if (s->x0)
        norm_fwd(p, v->ln_pre, t->config.eps, x, s->mean, s->rstd, NULL, s->x0, NULL,
                 v->image.seq.rows, t->C);
    tower_fwd(t, &v->image.seq, keep);
    padding_end(v);
}

static bool patches_train(const Vit *v) {
    return v->tower.config.stem ? conv_stem_trains(&v->stem) : layer_trains(v->conv1);
}

static bool embed_trains(const Vit *v) {
    return patches_train(v) || layer_trains(v->ln_pre) ||
           (v->class_embedding && v->class_embedding->trainable) ||
           v->positional_embedding->trainable;
}

static bool trains(const ImageTower *image) {
    const Vit *v = (const Vit *)image;
    return embed_trains(v) || tower_trains(&v->tower);
}

static void bwd(ImageTower *image) {
    Vit *v = vit(image);
    Tower *t = &v->tower;
    const Params *p = t->p;
    const BlockScratch *w = &t->kept.scratch;
    size_t B = v->image.seq.B;
    padding_begin(v);
    tower_bwd(t, &v->image.seq, embed_trains(v));
    padding_end(v);
    if (!embed_trains(v)) return;
    if (v->image.max_patches) {
        if (v->positional_embedding->trainable) positions_bwd(v, w->d);
        linear_grad(p, v->conv1, w->d, v->kept.patches, v->image.seq.rows, t->C, patch_elements(v));
        return;
    }
    if (v->kept.x0)
        norm_bwd(p, v->ln_pre, w->d, NULL, w->d, NULL, v->kept.x0, v->kept.mean, v->kept.rstd,
                 v->image.seq.rows, t->C);
    if (!patches_train(v) && !v->positional_embedding->trainable) return;
    act *dtok = w->branch;
    size_t n = v->image.grid * t->C;
    acc *own = param_grad(p, v->positional_embedding), *dpos = v->dpositions ? v->dpositions : own;
    if (v->dpositions) t->k->device->zero(dpos, (n + t->C) * t->k->acc_size);
    t->k->image_embed_bwd(dtok, v->class_embedding ? param_grad(p, v->class_embedding) : NULL, dpos,
                          w->d, v->n < v->image.grid ? v->keep : NULL, B, v->n, t->C);
    if (v->dpositions) t->k->axpy(own, 1, acc_at(t->k, dpos, t->C), n);
    if (t->config.stem)
        conv_stem_bwd(&v->stem, &v->kept.stem, dtok, B, v->image.learning);
    else
        linear_grad(p, v->conv1, dtok, v->kept.patches, B * v->n, t->C, patch_elements(v));
}

static TowerView view(ImageTower *image, bool keep) {
    Tower *t = &vit(image)->tower;
    const TowerPass *s = keep ? &t->kept : &t->transient;
    return (TowerView){&image->seq, s->unit, s->raw, s->pooled, t->E, &t->ready, &t->on_pooled};
}

static void tap(ImageTower *image, acc *to, size_t layer) {
    Tower *t = &vit(image)->tower;
    assert(layer <= t->layers && (!t->prune || (layer && layer < t->layers)));
    t->tap = (TowerTap){to, layer};
}

static double macs(const ClipConfig *c, bool full) {
    double n = (double)clip_most_patches(c), T = n + c->image.class_token;
    double patches = n * 3 * (double)(c->patch_size * c->patch_size);
    double embedding =
        c->image.stem ? conv_stem_macs(&c->image, c->image_size) : patches * (double)c->image.width;
    return embedding +
           tower_macs(&c->image, c->embed_dim, T, T * T, !full && tower_pools_one(&c->image));
}

const ImageTowerKind vit_tower = {.create = create,
                                  .destroy = destroy,
                                  .layout_kept = layout_kept,
                                  .layout_scratch = layout_scratch,
                                  .start = start,
                                  .load = load,
                                  .fwd = fwd,
                                  .bwd = bwd,
                                  .trains = trains,
                                  .view = view,
                                  .tap = tap,
                                  .macs = macs};
