#include "train/model/clip.h"
#include "train/model/image_tower.h"
#include "train/model/text_tower.h"
#include "train/model/vit.h"

#include <stdlib.h>

/* A forward or backward pass that is repeated with the same sizes. */
typedef struct Recorded {
    bool text, keep, backward, learning;
    bool told; /* the gradient listener is called during the pass */
    size_t B, rows, max_T, views;
    Graph *graph;
} Recorded;

struct Clip {
    const Kernels *k;
    ImageTower *image;
    TextTower text;
    ProjectionHead head;
    bool images, texts; /* the towers that are open (Params.only) */
    size_t views;       /* of the last forward */
    Arena arena;
    bool image_kept, text_kept; /* a backward may follow */
    bool learning;
    Recorded *recorded;
    size_t recorded_count;
};

static TowerView image_view(const Clip *m, bool keep) {
    return m->image->kind->view(m->image, keep);
}

/* Starts from rows `views` from the end of the pooled rows, or their gradients. */
static act *view_rows(const Clip *m, const TowerView *v, act *rows) {
    return act_at(m->k, rows, (v->seq->B - m->views) * m->head.C);
}

/* After the gradients of the projected features, of which views have none. */
static void views_bwd(void *context, act *dpooled) {
    Clip *m = context;
    TowerView v = image_view(m, true);
    projection_head_bwd(&m->head, view_rows(m, &v, dpooled), view_rows(m, &v, v.pooled), m->views);
}

static void clip_init(Clip *m, const Kernels *k, const ClipConfig *c, const Params *p,
                      const ClipOptions *o) {
    m->k = k;
    m->images = p->only != TOWER_TEXT;
    m->texts = p->only != TOWER_IMAGE;
    m->image = image_tower_kind(c)->create(k, c, p, o);
    text_tower_init(&m->text, k, c, p, o);
    projection_head_init(&m->head, k, p, &o->head, c->image.width,
                         size_mul(o->max_batch, o->views));
    if (o->head.layers) *image_view(m, true).on_pooled = (PooledGradient){views_bwd, m};
}

/* The towers never run at the same time, so they share one scratch. */
static void clip_layout(Clip *m) {
    Arena *a = &m->arena;
    if (m->images) m->image->kind->layout_kept(m->image, a);
    if (m->texts) text_tower_layout_kept(&m->text, a);
    projection_head_layout(&m->head, a);
    size_t mark = a->used;
    if (m->images) m->image->kind->layout_scratch(m->image, a);
    size_t end = a->used;
    a->used = mark;
    if (m->texts) text_tower_layout_scratch(&m->text, a);
    a->used = size_max(end, a->used);
}

Clip *clip_new(const Kernels *k, const ClipConfig *c, Params *p, const ClipOptions *o) {
    Clip *m = xcalloc(1, sizeof *m);
    assert(o->max_batch > 0 && (!o->training || p->grad));
    clip_init(m, k, c, p, o);
    clip_layout(m);
    m->arena.size = m->arena.used;
    m->arena.used = 0;
    m->arena.base = k->device->alloc(m->arena.size);
    clip_layout(m);
    if (m->images) m->image->kind->start(m->image);
    return m;
}

void clip_free(Clip *m) {
    if (!m) return;
    for (size_t i = 0; i < m->recorded_count; i++) m->k->device->graph_free(m->recorded[i].graph);
    free(m->recorded);
    m->image->kind->destroy(m->image);
    text_tower_free(&m->text);
    m->k->device->release(m->arena.base);
    free(m);
}

void clip_on_gradients(Clip *m, const GradientsReady *ready) {
    GradientsReady listener = ready ? *ready : (GradientsReady){NULL, NULL};
    m->text.tower.ready = listener;
    *image_view(m, false).ready = listener;
}

void clip_learning(Clip *m, bool learning) {
    m->learning = learning;
    m->image->learning = learning;
}

void clip_tap_image(Clip *m, acc *to, size_t layer) {
    assert(m->image->kind->tap);
    m->image->kind->tap(m->image, to, layer);
}

bool clip_image_trains(const Clip *m) { return m->image->kind->trains(m->image); }
bool clip_text_trains(const Clip *m) { return text_tower_trains(&m->text); }

/* ---- passes ---- */

static void run_pass(Clip *m, const Recorded *r) {
    if (r->text && r->backward)
        text_tower_bwd(&m->text);
    else if (r->text)
        text_tower_fwd(&m->text, r->keep);
    else if (r->backward)
        m->image->kind->bwd(m->image);
    else {
        m->image->kind->fwd(m->image, r->keep);
        TowerView v = image_view(m, r->keep);
        projection_head_fwd(&m->head, view_rows(m, &v, v.pooled), m->views);
    }
}

/* Its index among the earlier passes. */
static Recorded *find_pass(Clip *m, const Recorded *r) {
    for (size_t i = 0; i < m->recorded_count; i++) {
        Recorded *q = &m->recorded[i];
        if (q->text == r->text && q->keep == r->keep && q->backward == r->backward &&
            q->told == r->told && q->learning == r->learning && q->B == r->B &&
            q->rows == r->rows && q->max_T == r->max_T && q->views == r->views)
            return q;
    }
    m->recorded = xrealloc(m->recorded, (m->recorded_count + 1) * sizeof *m->recorded);
    m->recorded[m->recorded_count] = *r;
    return &m->recorded[m->recorded_count++];
}

/* What callers use of either tower. */
static TowerView text_view(Clip *m, bool keep) {
    Tower *t = &m->text.tower;
    const TowerPass *s = keep ? &t->kept : &t->transient;
    return (TowerView){&m->text.seq, s->unit, s->raw, s->pooled, t->E, &t->ready, &t->on_pooled};
}

static void pass(Clip *m, bool text, bool keep, bool backward) {
    TowerView v = text ? text_view(m, keep) : image_view(m, keep);
    bool told = backward && v.ready->call;
    Recorded r = {text,     keep,        backward,     m->learning,         told,
                  v.seq->B, v.seq->rows, v.seq->max_T, text ? 0 : m->views, NULL};
    Recorded *q = find_pass(m, &r);
    if (!m->k->device->graph_begin(&q->graph)) return;
    run_pass(m, &r);
    m->k->device->graph_end(&q->graph);
}

static void give_features(const Clip *m, acc *features, const TowerView *v, size_t B) {
    m->k->device->copy(features, v->unit, B * v->E * m->k->acc_size);
}

/* Padding has no gradient. */
static void set_gradients(const Clip *m, const TowerView *v, const acc *dfeatures, size_t B,
                          size_t sequences) {
    const Kernels *k = m->k;
    size_t n = B * v->E;
    k->device->copy(v->raw, dfeatures, n * k->acc_size);
    k->device->zero(acc_at(k, v->raw, n), (sequences - B) * v->E * k->acc_size);
}

void clip_image_fwd(Clip *m, acc *features, const ClipBatch *b, bool keep) {
    if (!b->pictures) return;
    assert(m->images);
    m->image_kept = keep = keep && clip_image_trains(m);
    m->views = b->views;
    m->image->kind->load(m->image, b, keep);
    pass(m, false, keep, false);
    TowerView v = image_view(m, keep);
    give_features(m, features, &v, b->pictures - b->views);
}

void clip_view_features(const Clip *m, acc *features) {
    m->k->device->copy(features, m->head.unit, m->views * m->head.o.out * m->k->acc_size);
}

void clip_view_gradients(Clip *m, const acc *dfeatures) {
    m->k->device->copy(m->head.raw, dfeatures, m->views * m->head.o.out * m->k->acc_size);
}

void clip_image_bwd(Clip *m, const acc *dfeatures, size_t B) {
    if (!(B + m->views) || !clip_image_trains(m)) return;
    TowerView v = image_view(m, true);
    assert(m->image_kept && B + m->views + m->image->padding == v.seq->B);
    set_gradients(m, &v, dfeatures, B, v.seq->B);
    pass(m, false, true, true);
}

void clip_text_fwd(Clip *m, acc *features, const ClipBatch *b, bool keep) {
    keep = keep && clip_text_trains(m);
    size_t row = 0;
    assert(m->texts || !b->parts);
    for (size_t i = features || !b->parts ? 0 : b->parts - 1; i < b->parts; i++) {
        m->text_kept = keep && i + 1 == b->parts;
        text_tower_load(&m->text, &b->part[i]);
        pass(m, true, m->text_kept, false);
        TowerView v = text_view(m, m->text_kept);
        if (features) give_features(m, acc_at(m->k, features, row * v.E), &v, b->part[i].B);
        row += b->part[i].B;
    }
}

/* Of the part of the last forward, whose features' gradients are the last of the *end first ones.
 */
static void part_bwd(Clip *m, const acc *dfeatures, size_t *end) {
    TowerView v = text_view(m, true);
    size_t n = m->text.captions;
    assert(m->text_kept && n <= *end);
    *end -= n;
    set_gradients(m, &v, acc_at(m->k, dfeatures, *end * v.E), n, v.seq->B);
    pass(m, true, true, true);
}

void clip_text_bwd(Clip *m, const acc *dfeatures, size_t B, const ClipBatch *again) {
    if (!B || !clip_text_trains(m)) return;
    GradientsReady *ready = text_view(m, true).ready, told = *ready;
    ClipBatch before = again ? *again : (ClipBatch){.parts = 1};
    if (before.parts > 1) *ready = (GradientsReady){NULL, NULL};
    part_bwd(m, dfeatures, &B);
    while (--before.parts) {
        clip_text_fwd(m, NULL, &before, true);
        if (before.parts == 1) *ready = told; /* then gradients are complete */
        part_bwd(m, dfeatures, &B);
    }
    assert(!B);
}

void clip_plan(Clip *m, acc *features) {
    ClipShape c = clip_shape(m);
    size_t views = m->head.max_rows;
    TextPart captions = {.B = c.max_batch,
                         .rows = c.max_rows,
                         .sequences = c.max_batch + clip_text_padding(m, c.max_batch),
                         .max_T = c.context};
    ClipBatch most = {.pictures = c.pictures,
                      .views = views,
                      .image_rows = c.image_rows,
                      .part = &captions,
                      .parts = 1};
    /* only whether the address is NULL matters */
    if (c.kept) most.keep = (const int32_t *)features;
    clip_image_fwd(m, features, &most, false);
    clip_text_fwd(m, features, &most, false);
    clip_learning(m, true);
    if (m->image->training) {
        clip_image_fwd(m, features, &most, true);
        clip_image_bwd(m, features, c.pictures - views);
    }
    if (m->text.tower.training) {
        clip_text_fwd(m, features, &most, true);
        clip_text_bwd(m, features, c.max_batch, NULL);
    }
    clip_learning(m, false);
}

static size_t picture_bytes(const ImageTower *t) {
    return t->max_patches ? size_mul(t->max_patches, 3 * t->patch_size * t->patch_size)
                          : 3 * t->side * t->side;
}

ClipShape clip_shape(const Clip *m) {
    const ImageTower *image = m->image;
    const TextTower *t = &m->text;
    return (ClipShape){.max_batch = t->max_batch,
                       .pictures = image->max_B,
                       .pixels = m->images ? picture_bytes(image) : 0,
                       .max_patches = image->max_patches,
                       .image_padding = image->padding,
                       .image_rows = clip_image_rows(m, image->max_B * image->max_patches),
                       .kept = image->kept < image->grid ? image->kept : 0,
                       .context = t->context,
                       .max_rows = m->texts ? t->tower.max_rows : 0};
}

size_t clip_text_bucket(const Kernels *k, const ClipConfig *c, size_t batch) {
    return k->device->asynchronous ? round_up(div_up(batch * c->context_length, 256), 16) : 0;
}

size_t clip_pack_texts(const Clip *m, TextRows to, const int32_t *ids, const int32_t *start,
                       int32_t pad, size_t B) {
    return text_tower_pack(&m->text, to, ids, start, pad, B);
}

size_t clip_text_length(const Clip *m, const int32_t *ids, size_t n, int32_t pad) {
    return text_tower_length(&m->text, ids, n, pad);
}

size_t clip_text_padding(const Clip *m, size_t B) { return text_tower_padding(&m->text, B); }

size_t clip_text_rows(const Clip *m, size_t rows, size_t B) {
    return text_tower_rows(&m->text, rows, B);
}

size_t clip_image_rows(const Clip *m, size_t rows) {
    return m->image->max_patches ? padded_rows(rows, m->image->padding, m->image->bucket) : 0;
}

void clip_draw_patches(const Clip *m, int32_t *keep, const uint64_t *sample, uint64_t draw,
                       size_t B) {
    const ImageTower *t = m->image;
    for (size_t i = 0; i < B; i++)
        patch_dropout_draw(keep + i * t->kept, t->kept, t->grid, t->seed, sample[i], draw);
}

double clip_image_flops(const ClipConfig *c, bool full) {
    return 2 * image_tower_kind(c)->macs(c, full);
}

double clip_flops(const ClipConfig *c, size_t tokens, bool full) {
    double macs = image_tower_kind(c)->macs(c, full);
    double L = (double)(full || !tower_ends_at_pool(&c->text) ? c->context_length : tokens);
    double scores = full || !c->text.causal ? L * L : L * (L + 1) / 2;
    macs += tower_macs(&c->text, c->embed_dim, L, scores, !full && tower_pools_one(&c->text));
    return 2 * macs;
}
