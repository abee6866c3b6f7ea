#include "train/step.h"

#include "kernels/hash.h"
#include "train/model/fp8.h"
#include "train/shard.h"

#include <math.h>
#include <stdlib.h>

/* The report of a step: one transfer of REPORT acc. */
enum {
    REPORT_LOSS,
    REPORT_SQUARES,
    REPORT_SCALE,
    REPORT_IMAGES, /* ‖Σ features‖² */
    REPORT_TEXTS,
    REPORT_VIEWS, /* the share of the views' loss */
    REPORTS,
    UNDER_WAY = 2
};

struct Step {
    const Kernels *k;
    const Comm *comm;
    Clip *clip;
    OptimState *state;
    const Params *p;
    Optim *optim;
    Loss *loss;       /* NULL: no loss of pairs */
    Loss *views_loss; /* NULL: no views */
    ViewsLoss views_of;
    Uploads *uploads;
    Graph *loss_graph, *update_graph;
    size_t loss_rows; /* of loss_graph */
    bool limited;     /* step_limit_loss was called */
    const Param *logit_scale, *logit_bias;
    size_t batch_size, accum, E;
    acc *block; /* one allocation, divided below */
    acc *report, *images, *texts, *dimages, *dtexts;
    acc *views, *dviews; /* [2n,dim]: two of each micro-batch after the other (loss_run_views) */
    acc *log_temperature;
    /* results in flight: of step number n at n % UNDER_WAY */
    char *host;
    Mark *done[UNDER_WAY];
    uint64_t started, taken;
    /* gradients over ranks; ready: complete elements of each bucket; SENT: being reduced */
    size_t *ready;
    StepExtras x;
    uint64_t *group; /* [n] soft targets: equal if the captions are */
    acc *ones, *sum; /* [n], [E] */
    size_t rows;     /* samples of the last step */
};
static const size_t SENT = SIZE_MAX;

static void send_bucket(Step *s, size_t i) {
    Bucket b = shard_bucket(s->state, i);
    acc *grad = acc_at(s->k, s->p->grad, b.offset);
    s->ready[i] = SENT;
    if (is_sharded(s->state))
        s->comm->reduce_scatter_start(acc_at(s->k, s->p->grad, b.slice), grad, b.length);
    else
        s->comm->all_reduce_start(grad, b.size);
}

static void on_ready(void *context, size_t offset, size_t size) {
    Step *s = context;
    for (size_t at = offset, end = offset + size; at < end;) {
        size_t i = at / s->state->bucket;
        Bucket b = shard_bucket(s->state, i);
        size_t n = size_min(end, b.offset + b.size) - at;
        assert(s->ready[i] != SENT);
        s->ready[i] += n;
        at += n;
        if (s->ready[i] == b.size) send_bucket(s, i);
    }
}

static void reduce_rest(Step *s) {
    size_t n = shard_buckets(s->state);
    for (size_t i = 0; i < n; i++)
        if (s->ready[i] != SENT) send_bucket(s, i);
    s->comm->wait();
    for (size_t i = 0; i < n; i++) s->ready[i] = 0;
}

Step *step_new(const Kernels *k, const Comm *comm, Clip *m, OptimState *state, Optim *o,
               LossKind kind, size_t batch_size, size_t accum, size_t embed_dim,
               size_t logit_memory, const ViewsLoss *given) {
    Step *s = xcalloc(1, sizeof *s);
    size_t n = size_mul(batch_size, accum), elems = size_mul(n, embed_dim);
    const Params *p = state->p;
    const ViewsLoss none = {0}, *views = given ? given : &none;
    assert(accum > 0);
    *s = (Step){.k = k,
                .comm = comm,
                .clip = m,
                .state = state,
                .p = p,
                .optim = o,
                .loss = views->alone ? NULL : loss_new(k, comm, kind, n, embed_dim, logit_memory),
                .views_of = *views,
                .logit_scale = params_at(p, TOWER_NONE, 0, ROLE_LOGIT_SCALE, false),
                .logit_bias = params_at(p, TOWER_NONE, 0, ROLE_LOGIT_BIAS, false),
                .batch_size = batch_size,
                .accum = accum,
                .E = embed_dim};
    assert(s->logit_scale);
    size_t view_elems = size_mul(2 * n, views->dim);
    if (views->dim) s->views_loss = loss_new(k, comm, LOSS_NTXENT, 2 * n, views->dim, logit_memory);
    s->ones = k->device->alloc(2 * n * k->acc_size);
    s->sum = k->device->alloc(size_max(embed_dim, views->dim) * k->acc_size);
    double *ones = xmalloc(2 * n * sizeof *ones);
    for (size_t i = 0; i < 2 * n; i++) ones[i] = 1;
    k->acc_set(s->ones, ones, 2 * n);
    free(ones);
    if (comm->size > 1) {
        assert(state->comm == comm);
        s->ready = xcalloc(shard_buckets(state), sizeof *s->ready);
    }
    s->uploads = uploads_new(k, m, accum);
    s->host = k->device->host_alloc(UNDER_WAY * REPORTS * k->acc_size);
    for (size_t i = 0; i < UNDER_WAY; i++) s->done[i] = k->device->mark_new();
    /* 16 elements keep what follows the report 64-byte aligned. */
    size_t all = size_add(32, size_add(size_mul(4, elems), size_mul(2, view_elems)));
    s->block = k->device->alloc(size_mul(all, k->acc_size));
    s->report = s->block;
    s->images = acc_at(k, s->block, 16);
    s->texts = acc_at(k, s->images, elems);
    s->dimages = acc_at(k, s->texts, elems);
    s->dtexts = acc_at(k, s->dimages, elems);
    s->log_temperature = acc_at(k, s->dtexts, elems);
    s->views = acc_at(k, s->log_temperature, 16);
    s->dviews = acc_at(k, s->views, view_elems);
    double inverse = views->dim ? -log(views->temperature) : 0;
    k->acc_set(s->log_temperature, &inverse, 1);
    return s;
}

Uploads *step_uploads(Step *s) { return s->uploads; }

void step_gather_bf16(Step *s) {
    if (s->loss) loss_gather_bf16(s->loss);
    if (s->views_loss) loss_gather_bf16(s->views_loss);
}

void step_free(Step *s) {
    if (!s) return;
    s->k->device->sync();
    loss_free(s->loss);
    loss_free(s->views_loss);
    uploads_free(s->uploads);
    s->k->device->graph_free(s->loss_graph);
    s->k->device->graph_free(s->update_graph);
    for (size_t i = 0; i < UNDER_WAY; i++) s->k->device->mark_free(s->done[i]);
    s->k->device->host_release(s->host);
    s->k->device->release(s->block);
    s->k->device->release(s->ones);
    s->k->device->release(s->sum);
    FREE_ALL(s->group, s->ready, s);
}

void step_extend(Step *s, const StepExtras *x) {
    s->x = *x;
    if (!x->teacher && !x->multi_positive) return;
    loss_allow_soft(s->loss, x->teacher ? teacher_dim(x->teacher) : 0);
    s->group = xcalloc(s->batch_size * s->accum, sizeof *s->group);
}

static void forget(Step *s, Graph **g) {
    s->k->device->graph_free(*g);
    *g = NULL;
}

void step_limit_loss(Step *s, double most) {
    if (!s->limited) forget(s, &s->update_graph); /* the captured update ignores the loss */
    s->limited = true;
    optim_limit(s->optim, acc_at(s->k, s->report, REPORT_LOSS), most);
}

/* Pairs belong together if their class labels are equal or, without labels, their tokens are. */
static uint64_t group_of(const Step *s, const Batch *b, size_t i) {
    if (b->label && b->label[i] >= 0) return (uint64_t)b->label[i];
    const int32_t *ids = b->ids + b->start[i];
    size_t n = clip_text_length(s->clip, ids, (size_t)(b->start[i + 1] - b->start[i]), b->pad);
    return fnv_hash(FNV_START, ids, n * sizeof *ids);
}

/* Sets the groups of pairs. */
static void group(Step *s, const Batch *b, size_t row) {
    size_t first = (size_t)s->comm->rank * s->batch_size * s->accum + row;
    for (size_t i = 0; s->group && i < b->size; i++)
        s->group[row + i] = s->x.multi_positive ? group_of(s, b, i) : first + i;
}

static SoftTargets soft_targets(const Step *s) {
    SoftTargets t = {.group = s->group};
    if (!s->x.teacher) return t;
    t.teacher_images = teacher_images(s->x.teacher);
    t.teacher_texts = teacher_texts(s->x.teacher);
    t.teacher_log_scale = teacher_log_scale(s->x.teacher);
    return t;
}

static void from_cache(Step *s, const FeatureCache *c, acc *features, const Batch *b, size_t row) {
    feature_cache_get(c, s->k, acc_at(s->k, features, row * s->E), b->sample, b->size);
}

/* What a forward computes; send: the texts' features are then complete and gathered. */
typedef struct Forward {
    bool image, text, keep, send; /* text, if there are pairs */
    bool again;                   /* only for a backward: of texts, what has to be kept */
    Teacher *teacher;             /* or NULL */
} Forward;

static acc *view_rows(const Step *s, acc *views, size_t row) {
    return acc_at(s->k, views, 2 * row * s->views_of.dim);
}

/* Computes the features of micro-batch j, and the teacher's, into the rows from `row` on. Texts
 * come first, so that they travel between ranks while the image tower runs. */
static void forward(Step *s, size_t j, const Batch *b, size_t row, Forward f) {
    bool image = f.image && !s->x.images, text = f.text && s->loss && !s->x.texts;
    const ClipBatch *sent = NULL;
    if (image || text || f.teacher)
        sent = uploads_send(s->uploads, s->started, j, image || f.teacher, text || f.teacher);
    if (f.text && s->x.texts) from_cache(s, s->x.texts, s->texts, b, row);
    acc *texts = f.again ? NULL : acc_at(s->k, s->texts, row * s->E);
    if (text) clip_text_fwd(s->clip, texts, sent, f.keep);
    if (f.send && s->loss) loss_send_texts(s->loss, s->texts, row + b->size);
    if (f.image && s->x.images) from_cache(s, s->x.images, s->images, b, row);
    if (image) clip_image_fwd(s->clip, acc_at(s->k, s->images, row * s->E), sent, f.keep);
    if (s->views_loss) {
        clip_view_features(s->clip, view_rows(s, s->views, row));
        if (f.send) loss_send_views(s->views_loss, s->views, s->batch_size, 2 * (row + b->size));
    }
    if (f.teacher) teacher_forward(f.teacher, sent, row);
    if (sent) uploads_done(s->uploads);
}

/* Captions in parts are sent again: all but the last part run forward again. */
static void text_backward(Step *s, size_t j, const Batch *b, size_t row) {
    const ClipBatch *again = NULL;
    if (uploads_parts(s->uploads, s->started, j) > 1 && clip_text_trains(s->clip))
        again = uploads_send(s->uploads, s->started, j, false, true);
    clip_text_bwd(s->clip, acc_at(s->k, s->dtexts, row * s->E), b->size, again);
    if (again) uploads_done(s->uploads);
}

/* last: complete gradients are sent. */
static void backward(Step *s, size_t j, const Batch *b, size_t row, bool last) {
    if (last && s->comm->size > 1) clip_on_gradients(s->clip, &(GradientsReady){on_ready, s});
    if (s->loss) text_backward(s, j, b, row);
    if (s->views_loss) clip_view_gradients(s->clip, view_rows(s, s->dviews, row));
    clip_image_bwd(s->clip, acc_at(s->k, s->dimages, row * s->E), s->loss ? b->size : 0);
    clip_on_gradients(s->clip, NULL);
}

/* *square (device) = ‖Σ of n rows‖². */
static void square_of_sum(const Step *s, acc *square, const acc *rows, size_t n, size_t E) {
    s->k->gemm(s->sum, E, s->ones, n, false, rows, E, false, 1, E, n, false);
    s->k->gemm(square, 1, s->sum, E, false, s->sum, E, true, 1, 1, E, false);
}

/* Mean cosine between distinct vectors of n unit vectors, from ‖Σ‖². */
static double mean_cosine(double square, double n) {
    return n < 2 ? 0 : (square - n) / (n * (n - 1));
}

/* The loss of n pairs, whose texts were sent. */
static void run_pairs(Step *s, size_t n) {
    const Kernels *k = s->k;
    const Params *p = s->p;
    square_of_sum(s, acc_at(k, s->report, REPORT_IMAGES), s->images, n, s->E);
    square_of_sum(s, acc_at(k, s->report, REPORT_TEXTS), s->texts, n, s->E);
    SoftTargets targets = soft_targets(s);
    if (s->group) loss_soften(s->loss, &targets);
    acc *dbias = s->logit_bias ? param_grad(p, s->logit_bias) : NULL;
    loss_run(s->loss, s->report, s->dimages, s->dtexts, param_grad(p, s->logit_scale), dbias,
             s->images, NULL, param_acc(p, s->logit_scale),
             dbias ? param_acc(p, s->logit_bias) : NULL, n);
}

/* The loss of the views of n samples, which were sent; added to that of the pairs. */
static void run_views(Step *s, size_t n) {
    const Kernels *k = s->k;
    acc *loss = acc_at(k, s->report, REPORT_VIEWS);
    loss_run_views(s->views_loss, loss, s->dviews, s->log_temperature, s->views_of.share, 2 * n);
    if (!s->loss) {
        square_of_sum(s, acc_at(k, s->report, REPORT_IMAGES), s->views, 2 * n, s->views_of.dim);
        k->device->zero(s->report, k->acc_size);
    }
    k->axpy(s->report, 1, loss, 1);
}

/* Runs the losses of n samples; captured if the host takes no part. */
static void run_losses(Step *s, size_t n) {
    bool recorded = !s->group;
    if (n != s->loss_rows) forget(s, &s->loss_graph);
    s->loss_rows = n;
    if (recorded && !s->k->device->graph_begin(&s->loss_graph)) return;
    if (s->loss) run_pairs(s, n);
    if (s->views_loss) run_views(s, n);
    if (recorded) s->k->device->graph_end(&s->loss_graph);
}

static void gradients(Step *s, Batch *const *batches) {
    size_t n = 0, last_row = 0, last = s->accum - 1;
    fp8_begin(s->p);
    clip_learning(s->clip, true);
    for (size_t j = 0; j < s->accum; j++) uploads_stage(s->uploads, s->started, j, batches[j]);
    /* The last micro-batch's activations are still valid when the loss is known: only they are not
     * recomputed. */
    for (size_t j = 0; j < s->accum; j++) {
        assert(batches[j]->size <= s->batch_size);
        assert(!s->views_loss || batches[j]->size == s->batch_size);
        forward(s, j, batches[j], n,
                (Forward){.image = true,
                          .text = true,
                          .keep = j == last,
                          .send = j == last,
                          .teacher = s->x.teacher});
        group(s, batches[j], n);
        last_row = n;
        n += batches[j]->size;
    }
    s->rows = n;
    run_losses(s, n);
    backward(s, last, batches[last], last_row, last == 0);
    size_t row = 0;
    for (size_t j = 0; j < last; j++) {
        Forward again = {.image = clip_image_trains(s->clip),
                         .text = clip_text_trains(s->clip),
                         .keep = true,
                         .again = true};
        forward(s, j, batches[j], row, again);
        backward(s, j, batches[j], row, j + 1 == last);
        row += batches[j]->size;
    }
    clip_learning(s->clip, false);
    if (s->comm->size > 1) reduce_rest(s);
}

/* The same scales on all ranks. */
static void update_scales(Step *s) {
    Params *p = s->state->p;
    if (p->fp8 && s->comm->size > 1) s->comm->all_reduce_max(p->fp8, p->fp8_factors);
    fp8_step(p);
}

/* Running statistics are rank 0's, so that all ranks validate and resume with the same ones. */
static void share_statistics(const Step *s) {
    const Params *p = s->state->p;
    if (p->statistics_size && s->comm->size > 1)
        s->comm->broadcast(acc_at(s->k, p->frozen, p->statistics - p->learning), p->statistics_size,
                           0);
}

static void update(Step *s) {
    const Kernels *k = s->k;
    if (!k->device->graph_begin(&s->update_graph)) return;
    k->device->copy(acc_at(k, s->report, REPORT_SCALE), param_acc(s->p, s->logit_scale),
                    k->acc_size);
    optim_update(s->optim);
    k->device->copy(acc_at(k, s->report, REPORT_SQUARES), optim_squares(s->optim), k->acc_size);
    k->device->graph_end(&s->update_graph);
}

void step_plan(Step *s) {
    clip_plan(s->clip, s->images);
    if (s->x.teacher) teacher_plan(s->x.teacher);
    size_t n = s->batch_size * s->accum;
    if (s->loss) loss_send_texts(s->loss, s->texts, n);
    if (s->views_loss) loss_send_views(s->views_loss, s->views, s->batch_size, 2 * n);
    run_losses(s, n);
    update(s);
}

double step_gradients(Step *s, Batch *const *batches) {
    double loss;
    gradients(s, batches);
    s->k->device->sync();
    s->k->acc_get(&loss, acc_at(s->k, s->report, REPORT_LOSS), 1);
    return loss;
}

void step_start(Step *s, Batch *const *batches, double lr, uint64_t t) {
    const Kernels *k = s->k;
    size_t place = s->started % UNDER_WAY;
    assert(s->started - s->taken < UNDER_WAY);
    optim_set(s->optim, lr, t);
    gradients(s, batches);
    update(s);
    update_scales(s);
    share_statistics(s);
    k->device->download_start(QUEUE_COMPUTE, s->host + place * REPORTS * k->acc_size, s->report,
                              REPORTS * k->acc_size);
    k->device->mark_set(s->done[place], QUEUE_COMPUTE);
    s->started++;
}

StepResult step_result(Step *s) {
    const Kernels *k = s->k;
    size_t place = s->taken % UNDER_WAY;
    assert(s->taken < s->started);
    k->device->mark_wait(s->done[place]);
    s->taken++;
    const char *report = s->host + place * REPORTS * k->acc_size;
    double n = (double)s->rows, views = s->views_loss ? s->views_of.share : 0;
    StepResult r = {.loss = acc_value(k, report, REPORT_LOSS),
                    .grad_norm = sqrt(acc_value(k, report, REPORT_SQUARES)),
                    .logit_scale = exp(acc_value(k, report, REPORT_SCALE)),
                    .views_loss = views > 0 ? acc_value(k, report, REPORT_VIEWS) / views : 0,
                    .image_cosine =
                        mean_cosine(acc_value(k, report, REPORT_IMAGES), s->loss ? n : 2 * n)};
    if (s->loss) r.text_cosine = mean_cosine(acc_value(k, report, REPORT_TEXTS), n);
    r.skipped = !isfinite(r.grad_norm);
    return r;
}

StepResult step_run(Step *s, Batch *const *batches, double lr, uint64_t t) {
    assert(s->started == s->taken);
    step_start(s, batches, lr, t);
    return step_result(s);
}
