#include "train/model/uploads.h"

#include <stdlib.h>
#include <string.h>

enum { PLACES = 2, UNDER_WAY = 2 };

/* Layout of a batch's numbers, the same on host and device: kept patches [pictures,kept], or of
 * pictures of their own sizes and padding the row offsets and shapes; then, for captions and
 * padding of each part, row offsets, pooled rows, ids. */
typedef struct Staged {
    const Batch *batch;
    int32_t *numbers;
    TextPart *part; /* its addresses are the host's */
    size_t parts, image_rows;
} Staged;

typedef struct Place {
    uint8_t *pixels;
    int32_t *numbers;
    TextPart *part;
    Mark *filled, *used;
} Place;

struct Uploads {
    const Kernels *k;
    Clip *clip;
    ClipShape shape;
    size_t accum, places, max_parts;
    void *device;
    int32_t *host;
    TextPart *parts; /* [UNDER_WAY*accum+places, max_parts] */
    Place place[PLACES];
    Staged *staged; /* [UNDER_WAY, accum] */
    size_t next;    /* place */
    ClipBatch sent;
};

/* Numbers of a part: row offsets, pooled rows, ids. */
static size_t part_numbers(size_t sequences, size_t rows) { return 2 * sequences + 1 + rows; }

/* Captions of the largest of equal parts. */
static size_t part_size(size_t B, size_t parts) { return div_up(B, parts); }

/* Returns true if so many parts suffice for any captions. */
static bool parts_fit(const Uploads *f, size_t parts) {
    size_t B = part_size(f->shape.max_batch, parts);
    return clip_text_rows(f->clip, B * f->shape.context, B) <= f->shape.max_rows;
}

/* Those before the captions', of pictures of one size or of their own. */
static size_t image_numbers(const ClipShape *c, size_t pictures) {
    return c->max_patches ? 3 * (pictures + c->image_padding) + 1 : pictures * c->kept;
}

/* Of a batch in any number of parts. */
static size_t numbers_most(const Uploads *f) {
    const ClipShape *c = &f->shape;
    size_t most = 0;
    for (size_t n = 1; n <= f->max_parts; n *= 2) {
        size_t B = part_size(c->max_batch, n), sequences = B + clip_text_padding(f->clip, B);
        size_t rows = size_min(c->max_rows, clip_text_rows(f->clip, B * c->context, B));
        most = size_max(most, n * part_numbers(sequences, rows));
    }
    return image_numbers(c, c->pictures) + most;
}

/* Views of the batch, 0 or two of each sample; then all its pictures. */
static size_t views_of(const Batch *b) { return b->views ? 2 * b->size : 0; }
static size_t pictures_of(const Batch *b) { return (b->pixels ? b->size : 0) + views_of(b); }

static size_t before_captions(const Uploads *f, const Batch *b) {
    return image_numbers(&f->shape, pictures_of(b));
}

/* A synchronous device needs no second buffer. */
static size_t places_of(const Kernels *k) { return k->device->asynchronous ? PLACES : 1; }

/* Bytes of the pixels of a patch, and of all rows with their padding. */
static size_t patch_bytes(const ClipShape *c) { return c->pixels / size_max(1, c->max_patches); }
static size_t packed_bytes(const ClipShape *c) {
    return c->pixels ? size_mul(c->image_rows, patch_bytes(c)) : 0;
}

static void lay_out(Uploads *f, size_t numbers, Arena *a) {
    for (size_t i = 0; i < f->places; i++) {
        const ClipShape *c = &f->shape;
        f->place[i].pixels = arena_take(a, size_max(c->pictures * c->pixels, packed_bytes(c)), 1);
        f->place[i].numbers = arena_take(a, numbers, sizeof(int32_t));
    }
}

Uploads *uploads_new(const Kernels *k, Clip *m, size_t accum) {
    Uploads *f = xcalloc(1, sizeof *f);
    *f = (Uploads){
        .k = k, .clip = m, .shape = clip_shape(m), .accum = accum, .places = places_of(k)};
    for (f->max_parts = 1; f->shape.max_rows && !parts_fit(f, f->max_parts);) f->max_parts *= 2;
    size_t batches = size_mul(UNDER_WAY, accum), most = numbers_most(f);
    Arena a = {0};
    lay_out(f, most, &a);
    f->device = k->device->alloc(a.used);
    a = (Arena){.base = f->device, .size = a.used};
    lay_out(f, most, &a);
    f->parts = xcalloc(size_mul(batches + f->places, f->max_parts), sizeof *f->parts);
    for (size_t i = 0; i < f->places; i++) {
        f->place[i].part = f->parts + (batches + i) * f->max_parts;
        f->place[i].filled = k->device->mark_new();
        f->place[i].used = k->device->mark_new();
    }
    f->staged = xcalloc(batches, sizeof *f->staged);
    f->host = k->device->host_alloc(size_mul(size_mul(batches, most), sizeof(int32_t)));
    for (size_t i = 0; i < batches; i++) {
        f->staged[i].part = f->parts + i * f->max_parts;
        f->staged[i].numbers = f->host + i * most;
    }
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
    FREE_ALL(f->staged, f->parts, f);
}

/* start[0] is set: the padding's sequences, of about the same length. */
static void pad(int32_t *start, size_t rows, size_t padded, size_t padding) {
    for (size_t i = 0; i < padding; i++)
        start[i + 1] = (int32_t)(rows + (padded - rows) * (i + 1) / padding);
}

/* Row offsets, then shapes. */
static int32_t *shapes_of(const Uploads *f, int32_t *numbers, const Batch *b) {
    return numbers + pictures_of(b) + f->shape.image_padding + 1;
}

/* Rows of the pictures' patches; the padding's shapes are single lines. */
static void stage_shapes(const Uploads *f, Staged *s, const Batch *b) {
    int32_t *start = s->numbers, *shape = shapes_of(f, s->numbers, b);
    size_t B = b->size, rows = 0, padding = f->shape.image_padding;
    for (size_t i = 0; i < B; i++) {
        size_t n = (size_t)b->shape[2 * i] * (size_t)b->shape[2 * i + 1];
        assert(n && n <= f->shape.max_patches);
        start[i] = (int32_t)rows;
        rows += n;
    }
    start[B] = (int32_t)rows;
    memcpy(shape, b->shape, 2 * B * sizeof *shape);
    s->image_rows = clip_image_rows(f->clip, rows);
    pad(start + B, rows, s->image_rows, padding);
    for (size_t i = B; i < B + padding; i++) {
        shape[2 * i] = 1;
        shape[2 * i + 1] = start[i + 1] - start[i];
    }
}

/* B captions from the batch's `first` on, then the padding. */
static TextPart stage_part(const Uploads *f, int32_t *numbers, const Batch *b, size_t first,
                           size_t B) {
    size_t padding = clip_text_padding(f->clip, B), sequences = B + padding;
    TextRows to = {.start = numbers,
                   .pool = numbers + sequences + 1,
                   .ids = numbers + part_numbers(sequences, 0)};
    size_t rows = clip_pack_texts(f->clip, to, b->ids, b->start + first, b->pad, B);
    size_t padded = clip_text_rows(f->clip, rows, B);
    assert(padded <= f->shape.max_rows);
    for (size_t i = rows; i < padded; i++) to.ids[i] = 0;
    pad(to.start + B, rows, padded, padding);
    for (size_t i = 0; i < padding; i++) to.pool[B + i] = to.start[B + i + 1] - 1;
    return (TextPart){B, to.ids, to.start, to.pool, padded, sequences, f->shape.context};
}

/* Captions of part i of n. */
static size_t part_first(const Batch *b, size_t i, size_t n) { return b->size * i / n; }

/* Returns true if each of n parts of the batch has no more rows than the memory. */
static bool is_cut_enough(const Uploads *f, const Batch *b, size_t n) {
    for (size_t i = 0; n < f->max_parts && i < n; i++) {
        size_t first = part_first(b, i, n), end = part_first(b, i + 1, n), rows = 0;
        for (size_t j = first; j < end; j++)
            rows += clip_text_length(f->clip, b->ids + b->start[j],
                                     (size_t)(b->start[j + 1] - b->start[j]), b->pad);
        if (clip_text_rows(f->clip, rows, end - first) > f->shape.max_rows) return false;
    }
    return true;
}

/* In as few parts as the memory requires, of about the same number of captions. */
static void stage_captions(const Uploads *f, Staged *s, const Batch *b) {
    int32_t *numbers = s->numbers + before_captions(f, b);
    for (s->parts = 1; !is_cut_enough(f, b, s->parts);) s->parts = size_min(2 * s->parts, b->size);
    for (size_t i = 0; i < s->parts; i++) {
        size_t first = part_first(b, i, s->parts), end = part_first(b, i + 1, s->parts);
        s->part[i] = stage_part(f, numbers, b, first, end - first);
        numbers += part_numbers(s->part[i].sequences, s->part[i].rows);
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

static Staged *staged(const Uploads *f, uint64_t step, size_t j) {
    assert(j < f->accum);
    return &f->staged[step % UNDER_WAY * f->accum + j];
}

size_t uploads_parts(const Uploads *f, uint64_t step, size_t j) {
    return staged(f, step, j)->parts;
}

void uploads_stage(Uploads *f, uint64_t step, size_t j, const Batch *b) {
    Staged *s = staged(f, step, j);
    s->batch = b;
    s->parts = 0;
    if (drops(f, b)) stage_patches(f, s->numbers, b);
    if (b->shape) stage_shapes(f, s, b);
    if (b->ids && b->size) stage_captions(f, s, b);
}

/* The pictures' patches, one picture after the other. */
static void send_packed(const Uploads *f, uint8_t *to, const Staged *s) {
    const int32_t *start = s->numbers;
    size_t bytes = patch_bytes(&f->shape);
    for (size_t i = 0; i < s->batch->size; i++)
        f->k->device->upload_start(QUEUE_COPY, to + (size_t)start[i] * bytes,
                                   s->batch->pixels + i * f->shape.pixels,
                                   (size_t)(start[i + 1] - start[i]) * bytes);
}

const ClipBatch *uploads_send(Uploads *f, uint64_t step, size_t j, bool image, bool text) {
    const Kernels *k = f->k;
    const Staged *s = staged(f, step, j);
    const Batch *b = s->batch;
    Place *p = &f->place[f->next];
    bool shaped = image && b->shape;
    size_t parts = text ? s->parts : 0, end = before_captions(f, b);
    size_t from = drops(f, b) || shaped ? 0 : end;
    for (size_t i = 0; i < parts; i++) {
        p->part[i] = s->part[i];
        p->part[i].start = p->numbers + end;
        p->part[i].pool = p->numbers + (s->part[i].pool - s->numbers);
        p->part[i].ids = p->numbers + (s->part[i].ids - s->numbers);
        end += part_numbers(s->part[i].sequences, s->part[i].rows);
    }
    k->device->queue_wait(QUEUE_COPY, p->used);
    size_t views = image ? views_of(b) : 0, pictures = image ? pictures_of(b) : 0;
    size_t plain = (pictures - views) * f->shape.pixels;
    if (shaped)
        send_packed(f, p->pixels, s);
    else if (plain)
        k->device->upload_start(QUEUE_COPY, p->pixels, b->pixels, plain);
    if (views)
        k->device->upload_start(QUEUE_COPY, p->pixels + plain, b->views, views * f->shape.pixels);
    if (from < end)
        k->device->upload_start(QUEUE_COPY, p->numbers + from, s->numbers + from,
                                (end - from) * sizeof *p->numbers);
    k->device->mark_set(p->filled, QUEUE_COPY);
    k->device->queue_wait(QUEUE_COMPUTE, p->filled);
    f->sent = (ClipBatch){
        .pictures = pictures, .views = views, .part = parts ? p->part : NULL, .parts = parts};
    if (image) {
        f->sent.pixels = p->pixels;
        f->sent.keep = drops(f, b) ? p->numbers : NULL;
    }
    if (shaped) {
        f->sent.image_start = p->numbers;
        f->sent.image_shape = shapes_of(f, p->numbers, b);
        f->sent.image_rows = s->image_rows;
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
