#include "train/model/resnet.h"

#include <stdlib.h>
#include <string.h>

/* ---- shapes ---- */

/* *side: of the input; becomes that of the output. */
static ConvBlock block_at(const Params *p, const ConvNet *net, size_t i, size_t *side) {
    ResnetBlock shape = resnet_block(net, i ? i - 1 : SIZE_MAX);
    ConvBlock b = {.count = shape.count};
    size_t first = *side, at = first, last = shape.count - 1;
    b.in = first * first * shape.conv[0].in;
    for (size_t c = 0; c < shape.count; c++) {
        if (c == last && shape.pool > 1) {
            b.pool = (Windows){1, at, at, shape.pool, shape.pool, 0};
            b.pool_in = (Windows){1, first, first, shape.pool, shape.pool, 0};
            at = conv_side_after(&b.pool);
        }
        b.conv[c] = conv_layer_at(p, i, c, &shape.conv[c], at, true);
        at = conv_side_after(&b.conv[c].g);
    }
    if (shape.conv[BLOCK_CONVS].side) {
        size_t in = shape.pool > 1 ? conv_side_after(&b.pool_in) : first;
        b.conv[BLOCK_CONVS] = conv_layer_at(p, i, BLOCK_CONVS, &shape.conv[BLOCK_CONVS], in, true);
    }
    b.out = conv_elements(&b.conv[last]);
    *side = at;
    return b;
}

static bool has_beside(const ConvBlock *b) { return b->conv[BLOCK_CONVS].s.side > 0; }
static bool is_modified(const Resnet *r) { return r->config.conv.kind == CONV_MODIFIED; }
static size_t rows_of(const Resnet *r, size_t B) { return B * (r->image.grid + is_modified(r)); }

/* Fills r->block; returns the side of the last grid. */
static size_t make_blocks(Resnet *r, const Params *p) {
    const ConvNet *net = &r->config.conv;
    size_t side = r->image.side;
    r->blocks = 1 + r->config.layers;
    r->block = xcalloc(r->blocks, sizeof *r->block);
    for (size_t i = 0; i < r->blocks; i++) {
        r->block[i] = block_at(p, net, i, &side);
        if (i) continue;
        r->stem_pool = net->kind == CONV_MODIFIED ? (Windows){1, side, side, 2, 2, 0}
                                                  : (Windows){1, side, side, 3, 2, 1};
        side = conv_side_after(&r->stem_pool);
    }
    return side;
}

static Resnet *resnet(ImageTower *t) { return (Resnet *)t; }

static ImageTower *create(const Kernels *k, const ClipConfig *c, const Params *p,
                          const ClipOptions *o) {
    Resnet *r = xcalloc(1, sizeof *r);
    *r = (Resnet){.image = {.kind = &resnet_tower,
                            .max_B = clip_pictures(o),
                            .side = c->image_size,
                            .training = o->training && !o->frozen_image},
                  .k = k,
                  .p = p,
                  .sync = o->sync_norm && o->sync_norm->size > 1 ? o->sync_norm : NULL,
                  .config = c->image,
                  .E = c->embed_dim,
                  .checkpoint = o->grad_checkpointing};
    if (o->training && o->patch_dropout > 0)
        die("patch dropout: the image tower of %s has no patches: leave --force-patch-dropout out",
            c->name);
    memcpy(r->channel_mean, c->eval_transform.mean, sizeof r->channel_mean);
    memcpy(r->channel_std, c->eval_transform.std, sizeof r->channel_std);
    size_t side = make_blocks(r, p);
    r->image.grid = r->image.kept = side * side;
    r->kept.block = xcalloc(r->blocks, sizeof *r->kept.block);
    r->transient.block = xcalloc(r->blocks, sizeof *r->transient.block);
    size_t top = r->config.layers + 1, C = r->config.width;
    if (!r->config.no_proj) r->proj = layer_at(p, TOWER_IMAGE, top, ROLE_PROJECTION);
    if (!is_modified(r)) return &r->image;
    for (size_t i = 0; i < 3; i++)
        r->pool[i] = layer_at(p, TOWER_IMAGE, top, ROLE_POOL_Q + (ParamRole)i);
    r->positions = layer_at(p, TOWER_IMAGE, top, ROLE_POSITIONS).w;
    /* key and value are one product */
    assert(r->pool[2].w->offset == r->pool[1].w->offset + C * C &&
           r->pool[2].b->offset == r->pool[1].b->offset + C);
    return &r->image;
}

static void destroy(ImageTower *t) {
    Resnet *r = resnet(t);
    FREE_ALL(r->block, r->kept.block, r->transient.block, r);
}

/* ---- memory ---- */

static size_t most_channels(const Resnet *r) {
    size_t most = r->config.width;
    for (size_t i = 0; i < r->blocks; i++)
        for (size_t c = 0; c < CONV_PLACES; c++) most = size_max(most, r->block[i].conv[c].s.out);
    return most;
}

/* Elements of the largest array of a picture in any block. */
static size_t most_elements(const Resnet *r) {
    size_t most = r->image.grid * r->config.width;
    for (size_t i = 0; i < r->blocks; i++) {
        const ConvBlock *b = &r->block[i];
        if (i) most = size_max(most, b->in);
        for (size_t c = 0; c < CONV_PLACES; c++)
            if (b->conv[c].s.side) most = size_max(most, conv_elements(&b->conv[c]));
    }
    return most;
}

static act *take_acts(const Resnet *r, Arena *a, size_t elements) {
    return arena_take(a, size_mul(r->image.max_B, elements), r->k->act_size);
}

static void statistics_layout(const Resnet *r, ConvBlockStore *s, const ConvBlock *b, Arena *a) {
    for (size_t c = 0; c < CONV_PLACES; c++) {
        if (!b->conv[c].s.side) continue;
        s->conv[c].mean = arena_take(a, b->conv[c].s.out, r->k->acc_size);
        s->conv[c].rstd = arena_take(a, b->conv[c].s.out, r->k->acc_size);
    }
}

/* All that a block keeps but its output and statistics. */
static void inner_layout(const Resnet *r, ConvBlockStore *s, const ConvBlock *b, Arena *a) {
    size_t last = b->count - 1;
    for (size_t c = 0; c < b->count; c++) {
        s->conv[c].z = take_acts(r, a, conv_elements(&b->conv[c]));
        if (c < last) s->conv[c].y = take_acts(r, a, conv_elements(&b->conv[c]));
    }
    if (has_beside(b))
        s->conv[BLOCK_CONVS].z = take_acts(r, a, conv_elements(&b->conv[BLOCK_CONVS]));
    if (!b->pool.B) return;
    s->pooled = take_acts(r, a, window_count(&b->pool) * b->conv[last].s.in);
    s->pooled_in = take_acts(r, a, window_count(&b->pool_in) * b->conv[BLOCK_CONVS].s.in);
}

static void stem_layout(const Resnet *r, ResnetPass *s, Arena *a) {
    size_t n = window_count(&r->stem_pool) * r->config.conv.width;
    s->stem = take_acts(r, a, n);
    if (!is_modified(r)) s->from = arena_take(a, size_mul(r->image.max_B, n), 1);
}

static void head_store_layout(const Resnet *r, ResnetPass *s, Arena *a) {
    size_t C = r->config.width, T = r->image.grid + 1;
    s->o = take_acts(r, a, C);
    s->unit = arena_take(a, size_mul(r->image.max_B, r->E), r->k->acc_size);
    s->norm = arena_take(a, r->image.max_B, r->k->acc_size);
    if (!is_modified(r)) return;
    s->x = take_acts(r, a, T * C);
    s->q_in = take_acts(r, a, C);
    s->q = take_acts(r, a, C);
    s->kv = take_acts(r, a, T * 2 * C);
    s->lse = arena_take(a, size_mul(r->image.max_B, r->config.heads), r->k->acc_size);
}

static void layout_kept(ImageTower *t, Arena *a) {
    Resnet *r = resnet(t);
    ResnetPass *s = &r->kept;
    size_t C = r->config.width;
    for (int i = 0; i < 2; i++)
        r->start[i] = arena_take(a, r->image.max_B + 1, sizeof *r->start[i]);
    r->zeros = arena_take(a, C, r->k->acc_size);
    if (!r->image.training) return;
    s->pixels = take_acts(r, a, 3 * r->image.side * r->image.side);
    stem_layout(r, s, a);
    for (size_t i = 0; i < r->blocks; i++) {
        const ConvBlock *b = &r->block[i];
        statistics_layout(r, &s->block[i], b, a);
        s->block[i].conv[b->count - 1].y = take_acts(r, a, b->out);
        if (!r->checkpoint) inner_layout(r, &s->block[i], b, a);
    }
    head_store_layout(r, s, a);
}

static void pass_scratch(const Resnet *r, ResnetPass *s, Arena *a) {
    s->sums = arena_take(a, 2 * most_channels(r), r->k->acc_size);
    s->raw = arena_take(a, size_mul(r->image.max_B, r->E), r->k->acc_size);
    s->mean = take_acts(r, a, r->config.width);
}

static void kept_scratch(Resnet *r, Arena *a) {
    size_t most = most_elements(r), C = r->config.width, T = r->image.grid + 1;
    act **const gradients[] = {&r->kept.beside, &r->d, &r->d1, &r->d2};
    pass_scratch(r, &r->kept, a);
    for (size_t i = 0; i < COUNT(gradients); i++) *gradients[i] = take_acts(r, a, most);
    r->down = take_acts(r, a, C);
    r->dq = take_acts(r, a, C);
    r->dx = take_acts(r, a, T * C);
    r->dkv = take_acts(r, a, T * 2 * C);
    r->unused = arena_take(a, (T + 1) * C, r->k->acc_size);
    size_t mark = a->used, end = mark;
    for (size_t i = 0; i < r->blocks && r->checkpoint; i++) {
        a->used = mark;
        inner_layout(r, &r->kept.block[i], &r->block[i], a);
        end = size_max(end, a->used);
    }
    a->used = end;
}

/* Four buffers: the block's input, and three in turn. A normalisation writes over its input. */
static void transient_scratch(Resnet *r, Arena *a) {
    ResnetPass *s = &r->transient;
    size_t most = most_elements(r);
    act *buffer[4];
    pass_scratch(r, s, a);
    s->pixels = take_acts(r, a, 3 * r->image.side * r->image.side);
    for (size_t i = 0; i < COUNT(buffer); i++) buffer[i] = take_acts(r, a, most);
    stem_layout(r, s, a);
    size_t mark = a->used, end = mark;
    for (size_t i = 0; i < r->blocks; i++) {
        const ConvBlock *b = &r->block[i];
        ConvBlockStore *t = &s->block[i];
        a->used = mark;
        statistics_layout(r, t, b, a);
        end = size_max(end, a->used);
        /* buffer[0] holds the input; after the stem that is s->stem */
        act *out = buffer[3];
        for (size_t c = 0; c < b->count; c++)
            t->conv[c].z = t->conv[c].y = c + 1 == b->count ? out : buffer[1 + c % 2];
        t->conv[BLOCK_CONVS].z = t->conv[BLOCK_CONVS].y = buffer[1];
        t->pooled = b->pool.B ? buffer[1] : NULL;
        t->pooled_in = b->pool.B ? buffer[2] : NULL;
        buffer[3] = buffer[0];
        buffer[0] = out;
    }
    a->used = end;
    s->beside = buffer[1];
    head_store_layout(r, s, a);
}

static void layout_scratch(ImageTower *t, Arena *a) {
    Resnet *r = resnet(t);
    size_t mark = a->used, end = mark;
    if (r->image.training) {
        kept_scratch(r, a);
        end = a->used;
        a->used = mark;
    }
    transient_scratch(r, a);
    a->used = size_max(end, a->used);
}

static void start(ImageTower *t) {
    Resnet *r = resnet(t);
    const Device *d = r->k->device;
    int32_t *first = xmalloc((r->image.max_B + 1) * sizeof *first);
    for (size_t i = 0; i < 2; i++) {
        for (size_t b = 0; b <= r->image.max_B; b++) first[b] = (int32_t)(b * (r->image.grid + i));
        d->upload(r->start[i], first, (r->image.max_B + 1) * sizeof *first);
    }
    d->zero(r->zeros, r->config.width * r->k->acc_size);
    free(first);
}

/* ---- one block ---- */

static const act *input_of(const ConvBlock *b, const ConvBlockStore *s, size_t c, const act *x) {
    if (c + 1 == b->count && b->pool.B) return s->pooled;
    return c ? s->conv[c - 1].y : x;
}

static ConvPass conv_pass(const Resnet *r, const ResnetPass *pass) {
    return (ConvPass){r->k,           r->p,      r->sync, r->config.eps, r->batch, pass == &r->kept,
                      r->image.seq.B, pass->sums};
}

/* i = 0: the stem, without a residual. again: for backward, from the kept statistics. */
static void block_run(const Resnet *r, const ResnetPass *pass, size_t i, const act *x, bool again) {
    const ConvBlock *b = &r->block[i];
    const ConvBlockStore *s = &pass->block[i];
    size_t last = b->count - 1, B = r->image.seq.B;
    const ConvLayer *beside = &b->conv[BLOCK_CONVS];
    ConvPass w = conv_pass(r, pass);
    for (size_t c = 0; c <= last; c++) {
        if (c == last && b->pool.B)
            r->k->avg_pool_fwd(s->pooled, s->conv[c - 1].y, windows_of_batch(b->pool, B),
                               b->conv[c].s.in);
        conv_layer_fwd(&w, &b->conv[c], &s->conv[c], input_of(b, s, c, x));
        if (c < last) conv_norm_fwd(&w, &b->conv[c], &s->conv[c], NULL, true, again);
    }
    const act *residual = i ? x : NULL;
    if (has_beside(b)) {
        const act *in = x;
        if (b->pool.B) {
            r->k->avg_pool_fwd(s->pooled_in, x, windows_of_batch(b->pool_in, B), beside->s.in);
            in = s->pooled_in;
        }
        ConvStore t = s->conv[BLOCK_CONVS];
        conv_layer_fwd(&w, beside, &t, in);
        t.y = pass->beside;
        conv_norm_fwd(&w, beside, &t, NULL, false, again);
        residual = t.y;
    }
    conv_norm_fwd(&w, &b->conv[last], &s->conv[last], residual, true, again);
}

/* r->d: gradient of the block's output, becomes that of its input x, unless `lowest`. */
static void block_run_bwd(const Resnet *r, size_t i, const act *x, bool lowest) {
    const ConvBlock *b = &r->block[i];
    const ConvBlockStore *s = &r->kept.block[i];
    const ConvLayer *beside = &b->conv[BLOCK_CONVS];
    size_t last = b->count - 1, B = r->image.seq.B;
    act *d = r->d1, *free_one = r->d2;
    bool down = i && !lowest;
    ConvPass w = conv_pass(r, &r->kept);
    for (size_t c = last + 1; c-- > 0;) {
        conv_norm_bwd(&w, &b->conv[c], &s->conv[c], d, c == last ? r->d : d, true);
        bool wanted = c || down;
        conv_layer_bwd(&w, &b->conv[c], wanted ? free_one : NULL, d, input_of(b, s, c, x));
        if (!wanted) break;
        act *swap = d;
        d = free_one, free_one = swap;
        if (c < last || !b->pool.B) continue;
        r->k->avg_pool_bwd(free_one, d, windows_of_batch(b->pool, B), b->conv[c].s.in);
        swap = d;
        d = free_one, free_one = swap;
    }
    const act *through = r->d;
    if (has_beside(b)) {
        bool pooled = b->pool.B;
        /* free_one is not d unless d is the gradient of no input */
        conv_norm_bwd(&w, beside, &s->conv[BLOCK_CONVS], free_one, r->d, false);
        conv_layer_bwd(&w, beside, down ? r->d : NULL, free_one, pooled ? s->pooled_in : x);
        if (down && pooled) {
            r->k->avg_pool_bwd(free_one, r->d, windows_of_batch(b->pool_in, B), beside->s.in);
            through = free_one;
        }
    }
    if (down) r->k->add(r->d, d, through, B * b->in);
}

/* ---- after the last grid ---- */

static void attention_fwd(const Resnet *r, const ResnetPass *s, const act *grid) {
    const Kernels *k = r->k;
    const Params *p = r->p;
    size_t B = r->image.seq.B, C = r->config.width, rows = r->image.seq.rows, H = r->config.heads;
    k->mean_pool_fwd(s->mean, grid, r->start[0], B, 0, C);
    k->image_embed_fwd(s->x, grid, r->zeros, param_acc(p, r->positions), NULL, B, r->image.grid, C);
    k->scatter_add_rows(s->x, s->mean, r->start[1], B, C);
    k->gather_rows(s->q_in, s->x, r->start[1], B, C);
    k->linear_fwd(s->q, s->q_in, param_act(p, r->pool[0].w), param_act(p, r->pool[0].b), B, C, C);
    k->linear_fwd(s->kv, s->x, param_act(p, r->pool[1].w), param_act(p, r->pool[1].b), rows, 2 * C,
                  C);
    k->attention_pool_fwd(s->o, s->lse, s->q, s->kv, r->start[1], B, rows, H, C / H);
}

static void top_fwd(const Resnet *r, const ResnetPass *s, const act *grid) {
    const Params *p = r->p;
    size_t B = r->image.seq.B, C = r->config.width;
    if (is_modified(r))
        attention_fwd(r, s, grid);
    else
        r->k->mean_pool_fwd(s->o, grid, r->start[0], B, 0, C);
    if (r->config.no_proj)
        r->k->acc_from_act(s->raw, s->o, B * C);
    else
        r->k->project_fwd(s->raw, s->o, param_act(p, r->proj.w), true,
                          r->proj.b ? param_acc(p, r->proj.b) : NULL, B, C, r->E);
    r->k->l2norm_fwd(s->unit, s->norm, s->raw, B, r->E);
}

/* r->down [B,C]: gradient of the attention's output → r->d: of the grid. */
static void attention_bwd(const Resnet *r, const ResnetPass *s, bool below) {
    const Kernels *k = r->k;
    const Params *p = r->p;
    size_t B = r->image.seq.B, C = r->config.width, rows = r->image.seq.rows, H = r->config.heads;
    k->attention_pool_bwd(r->dq, r->dkv, r->down, s->o, s->lse, s->q, s->kv, r->start[1], B, rows,
                          H, C / H);
    linear_grad(p, r->pool[0], r->dq, s->q_in, B, C, C);
    linear_grad(p, r->pool[1], r->dkv, s->x, rows, 2 * C, C);
    if (!below && !r->positions->trainable) return;
    k->linear_bwd_input(r->dx, r->dkv, param_act(p, r->pool[1].w), rows, 2 * C, C);
    k->linear_bwd_input(r->down, r->dq, param_act(p, r->pool[0].w), B, C, C);
    k->scatter_add_rows(r->dx, r->down, r->start[1], B, C);
    acc *dpos = trainable_grad(p, r->positions);
    k->image_embed_bwd(r->d, r->unused, dpos ? dpos : acc_at(k, r->unused, C), r->dx, NULL, B,
                       r->image.grid, C);
    k->gather_rows(r->down, r->dx, r->start[1], B, C);
    k->mean_pool_bwd(r->d1, r->down, r->start[0], B, 0, C);
    k->add(r->d, r->d, r->d1, B * r->image.grid * C);
}

static void top_bwd(const Resnet *r, bool below) {
    const ResnetPass *s = &r->kept;
    const Params *p = r->p;
    size_t B = r->image.seq.B, C = r->config.width;
    r->k->l2norm_bwd(s->raw, s->raw, s->unit, s->norm, B, r->E);
    if (r->config.no_proj)
        r->k->act_from_acc(r->down, s->raw, B * C);
    else
        r->k->project_bwd(r->down, trainable_grad(p, r->proj.w), trainable_grad(p, r->proj.b),
                          s->raw, s->o, param_act(p, r->proj.w), true, B, C, r->E);
    if (r->on_pooled.call) r->on_pooled.call(r->on_pooled.context, r->down);
    if (is_modified(r))
        attention_bwd(r, s, below);
    else
        r->k->mean_pool_bwd(r->d, r->down, r->start[0], B, 0, C);
}

/* ---- the tower ---- */

static void load(ImageTower *t, const ClipBatch *b, bool keep) {
    Resnet *r = resnet(t);
    assert(b->pictures <= r->image.max_B && (!keep || r->image.training));
    r->image.seq = (Sequences){
        .B = b->pictures, .rows = rows_of(r, b->pictures), .max_T = r->image.grid + is_modified(r)};
    r->batch = r->image.learning && r->image.training;
    r->k->patches_u8((keep ? &r->kept : &r->transient)->pixels, b->pixels, NULL, r->channel_mean,
                     r->channel_std, b->pictures, r->image.side, 1, r->image.side * r->image.side);
}

static void fwd(ImageTower *t, bool keep) {
    Resnet *r = resnet(t);
    const ResnetPass *s = keep ? &r->kept : &r->transient;
    const act *x = s->pixels;
    for (size_t i = 0; i < r->blocks; i++) {
        const ConvBlock *b = &r->block[i];
        block_run(r, s, i, x, false);
        x = s->block[i].conv[b->count - 1].y;
        if (i) continue;
        Windows g = windows_of_batch(r->stem_pool, r->image.seq.B);
        if (is_modified(r))
            r->k->avg_pool_fwd(s->stem, x, g, r->config.conv.width);
        else
            r->k->max_pool_fwd(s->stem, s->from, x, g, r->config.conv.width);
        x = s->stem;
    }
    top_fwd(r, s, x);
}

static bool block_learns(const ConvBlock *b) {
    bool learns = false;
    for (size_t c = 0; c < CONV_PLACES; c++)
        if (b->conv[c].s.side) learns = learns || conv_layer_trains(&b->conv[c]);
    return learns;
}

static bool top_learns(const Resnet *r) {
    bool learns = layer_trains(r->proj) || (r->positions && r->positions->trainable);
    for (size_t i = 0; i < 3; i++) learns = learns || layer_trains(r->pool[i]);
    return learns;
}

/* The first block with a trainable tensor; r->blocks: none. */
static size_t lowest_block(const Resnet *r) {
    size_t i = 0;
    while (i < r->blocks && !block_learns(&r->block[i])) i++;
    return i;
}

static bool trains(const ImageTower *t) {
    const Resnet *r = (const Resnet *)t;
    return lowest_block(r) < r->blocks || top_learns(r);
}

static void bwd(ImageTower *t) {
    Resnet *r = resnet(t);
    const ResnetPass *s = &r->kept;
    size_t lowest = lowest_block(r);
    top_bwd(r, lowest < r->blocks);
    for (size_t i = r->blocks; i-- > lowest;) {
        const ConvBlock *b = &r->block[i];
        const act *x = i > 1 ? s->block[i - 1].conv[r->block[i - 1].count - 1].y
                       : i   ? s->stem
                             : s->pixels;
        if (r->checkpoint) block_run(r, s, i, x, true);
        if (i) {
            block_run_bwd(r, i, x, i == lowest);
        } else {
            Windows g = windows_of_batch(r->stem_pool, r->image.seq.B);
            Resnet turned = *r; /* the gradient is in another buffer */
            turned.d = r->d2, turned.d2 = r->d;
            if (is_modified(r))
                r->k->avg_pool_bwd(turned.d, r->d, g, r->config.conv.width);
            else
                r->k->max_pool_bwd(turned.d, r->d, s->from, g, r->config.conv.width);
            block_run_bwd(&turned, 0, x, true);
        }
        const Param *matrices[CONV_PLACES];
        size_t n = 0;
        for (size_t c = 0; c < CONV_PLACES; c++)
            if (b->conv[c].w) matrices[n++] = b->conv[c].w;
        gradients_ready(r->k, &r->ready, matrices, n);
    }
}

static TowerView view(ImageTower *t, bool keep) {
    Resnet *r = resnet(t);
    const ResnetPass *s = keep ? &r->kept : &r->transient;
    return (TowerView){&t->seq, s->unit, s->raw, s->o, r->E, &r->ready, &r->on_pooled};
}

/* Nothing is skipped. */
static double macs(const ClipConfig *c, bool full) {
    (void)full;
    Resnet r = {.image = {.side = c->image_size}, .config = c->image};
    size_t side = make_blocks(&r, NULL);
    double sum = 0, C = (double)c->image.width, T = (double)(side * side + 1);
    for (size_t i = 0; i < r.blocks; i++)
        for (size_t j = 0; j < CONV_PLACES; j++) {
            const ConvLayer *l = &r.block[i].conv[j];
            if (l->s.side)
                sum += (double)conv_elements(l) * (double)(l->s.in * l->s.side * l->s.side);
        }
    if (c->image.conv.kind == CONV_MODIFIED) sum += C * C + T * 2 * C * C + 2 * T * C;
    free(r.block);
    return c->image.no_proj ? sum : sum + C * (double)c->embed_dim;
}

const ImageTowerKind resnet_tower = {.create = create,
                                     .destroy = destroy,
                                     .layout_kept = layout_kept,
                                     .layout_scratch = layout_scratch,
                                     .start = start,
                                     .load = load,
                                     .fwd = fwd,
                                     .bwd = bwd,
                                     .trains = trains,
                                     .view = view,
                                     .macs = macs};
