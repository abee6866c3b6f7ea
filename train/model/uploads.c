#include "train/model/uploads.h"

#include <stdlib.h>

enum { PLACES = 2, UNDER_WAY = 2 };

/* Layout of a batch's data, the same on host and device: kept patches [B,kept], then, for captions
 * and padding, row offsets, pooled rows, ids. */
typedef struct Numbers {
    int32_t *keep;
    TextRows text;
} Numbers;

typedef struct Staged {
    const Batch *batch;
    Numbers at;
    size_t rows, sequences;
} Staged;

typedef struct Place {
    uint8_t *pixels;
    Numbers at;
    Mark *filled, *used;
} Place;

struct Uploads {
    const Kernels *k;
    Clip *clip;
    ClipShape shape;
    size_t accum, places;
    void *device;
    int32_t *host;
    Place place[PLACES];
    Staged *staged; /* [UNDER_WAY, accum] */
    size_t next;    /* place */
    ClipBatch sent;
};

static size_t numbers_most(const ClipShape *c) {
    size_t sequences = c->max_batch + c->padding;
    return c->pictures * c->kept + 2 * sequences + 1 + c->max_rows;
}

/* Views of the batch, 0 or two of each sample; then all its pictures. */
static size_t views_of(const Batch *b) { return b->views ? 2 * b->size : 0; }
static size_t pictures_of(const Batch *b) { return (b->pixels ? b->size : 0) + views_of(b); }

static Numbers numbers_at(int32_t *p, const ClipShape *c, const Batch *b) {
    Numbers n;
    size_t B = b->size;
    n.keep = p;
    n.text.start = n.keep + pictures_of(b) * c->kept;
    n.text.pool = n.text.start + B + c->padding + 1;
    n.text.ids = n.text.pool + B + c->padding;
    return n;
}

/* A synchronous device needs no second buffer. */
static size_t places_of(const Kernels *k) { return k->device->asynchronous ? PLACES : 1; }

static void lay_out(Place *place, size_t places, const ClipShape *c, Arena *a) {
    for (size_t i = 0; i < places; i++) {
        place[i].pixels = arena_take(a, c->pictures, c->pixels);
        place[i].at.keep = arena_take(a, numbers_most(c), sizeof(int32_t));
    }
}

Uploads *uploads_new(const Kernels *k, Clip *m, size_t accum) {
    Uploads *f = xcalloc(1, sizeof *f);
    *f = (Uploads){
        .k = k, .clip = m, .shape = clip_shape(m), .accum = accum, .places = places_of(k)};
    Arena a = {0};
    lay_out(f->place, f->places, &f->shape, &a);
    f->device = k->device->alloc(a.used);
    a = (Arena){.base = f->device, .size = a.used};
    lay_out(f->place, f->places, &f->shape, &a);
    for (size_t i = 0; i < f->places; i++) {
        f->place[i].filled = k->device->mark_new();
        f->place[i].used = k->device->mark_new();
    }
    size_t batches = size_mul(UNDER_WAY, accum), most = numbers_most(&f->shape);
    f->staged = xcalloc(batches, sizeof *f->staged);
    f->host = k->device->host_alloc(size_mul(size_mul(batches, most), sizeof(int32_t)));
    for (size_t i = 0; i < batches; i++) f->staged[i].at.keep = f->host + i * most;
    return f;
}

void uploads_free(Uploads *f) {
    if (!f) return;
    for (size_t i = 0; i < f->places; i++) {
        f->k->device->mark_free(f->place[i].filled);
        f->k->device->mark_free(f->place[i].used);
    }
    f->k->device->release(f->device);
    f->k->device->host_release(f->host);
    FREE_ALL(f->staged, f);
}

/* Captions, then the padding: a fixed number of sequences of about the same length. */
static void stage_captions(const Uploads *f, Staged *s, const Batch *b) {
    const ClipShape *c = &f->shape;
    TextRows to = s->at.text;
    size_t B = b->size, rows = clip_pack_texts(f->clip, to, b->ids, b->start, b->pad, B);
    s->sequences = B + c->padding;
    s->rows = clip_text_rows(f->clip, rows);
    assert(s->rows <= c->max_rows);
    for (size_t i = rows; i < s->rows; i++) to.ids[i] = 0;
    for (size_t i = 0; i < c->padding; i++) {
        size_t end = rows + (s->rows - rows) * (i + 1) / c->padding;
        to.start[B + i + 1] = (int32_t)end;
        to.pool[B + i] = (int32_t)end - 1;
    }
}

static bool drops(const Uploads *f, const Batch *b) { return f->shape.kept && b->sample; }

/* The pictures, the first views, the second views: each with draws of its own. */
static void stage_patches(const Uploads *f, int32_t *keep, const Batch *b) {
    enum { VIEW_DRAWS = 48 }; /* bits: epochs are fewer */
    size_t sets = pictures_of(b) / size_max(b->size, 1), first = b->pixels ? 0 : 1;
    for (size_t i = 0; i < sets; i++)
        clip_draw_patches(f->clip, keep + i * b->size * f->shape.kept, b->sample,
                          b->epoch + ((uint64_t)(first + i) << VIEW_DRAWS), b->size);
}

void uploads_stage(Uploads *f, uint64_t step, size_t j, const Batch *b) {
    assert(j < f->accum);
    Staged *s = &f->staged[step % UNDER_WAY * f->accum + j];
    s->batch = b;
    s->at = numbers_at(s->at.keep, &f->shape, b);
    if (drops(f, b)) stage_patches(f, s->at.keep, b);
    if (b->ids) stage_captions(f, s, b);
}

const ClipBatch *uploads_send(Uploads *f, uint64_t step, size_t j, bool image, bool text) {
    const Kernels *k = f->k;
    const Staged *s = &f->staged[step % UNDER_WAY * f->accum + j];
    const Batch *b = s->batch;
    Place *p = &f->place[f->next];
    Numbers to = p->at = numbers_at(p->at.keep, &f->shape, b);
    const int32_t *from = drops(f, b) ? s->at.keep : s->at.text.start,
                  *end = text ? s->at.text.ids + s->rows : s->at.text.start;
    k->device->queue_wait(QUEUE_COPY, p->used);
    size_t views = image ? views_of(b) : 0, pictures = image ? pictures_of(b) : 0;
    size_t plain = (pictures - views) * f->shape.pixels;
    if (plain) k->device->upload_start(QUEUE_COPY, p->pixels, b->pixels, plain);
    if (views)
        k->device->upload_start(QUEUE_COPY, p->pixels + plain, b->views, views * f->shape.pixels);
    if (from < end)
        k->device->upload_start(QUEUE_COPY, to.keep + (from - s->at.keep), from,
                                (size_t)(end - from) * sizeof *from);
    k->device->mark_set(p->filled, QUEUE_COPY);
    k->device->queue_wait(QUEUE_COMPUTE, p->filled);
    f->sent = (ClipBatch){.B = b->size, .pictures = pictures, .views = views};
    if (image) {
        f->sent.pixels = p->pixels;
        f->sent.keep = drops(f, b) ? to.keep : NULL;
    }
    if (text) {
        f->sent.ids = to.text.ids;
        f->sent.start = to.text.start;
        f->sent.pool = to.text.pool;
        f->sent.rows = s->rows;
        f->sent.sequences = s->sequences;
        f->sent.max_T = f->shape.context;
    }
    return &f->sent;
}

void uploads_done(Uploads *f) {
    f->k->device->mark_set(f->place[f->next].used, QUEUE_COMPUTE);
    f->next = (f->next + 1) % f->places;
}

void uploads_features(Uploads *f, const Batch *b, acc *images, acc *texts) {
    uploads_stage(f, 0, 0, b);
    const ClipBatch *sent = uploads_send(f, 0, 0, images != NULL, texts != NULL);
    if (images) clip_image_fwd(f->clip, images, sent, false);
    if (texts) clip_text_fwd(f->clip, texts, sent, false);
    uploads_done(f);
}
