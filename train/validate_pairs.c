/* Held-out pairs: --val-data every --val-frequency steps: val/loss (mean over batches of the
 * training's size, weighted by their pairs), and recalls in both directions:
 * val/image_to_text_R@1, … , val/text_to_image_median_rank. */
#include "train/validate.h"

#include "eval/features.h"
#include "eval/score_tiles.h"
#include "train/train_options.h"

#include <stdlib.h>

typedef struct Pairs {
    Dataset *data;
    Encoder *encoder;
    Loss *loss;
    acc *images, *texts, *value; /* device: one batch, its loss */
} Pairs;

static bool pairs_wanted(void) {
    return train_options.val_data != NULL && train_options.objective != OBJECTIVE_SIMCLR;
}

static void *pairs_prepare(const Comm *c, const DatasetOptions *data) {
    Pairs *p = xcalloc(1, sizeof *p);
    p->data = validation_data(c, data);
    return p;
}

static void pairs_open(void *self, const TrainView *v) {
    Pairs *p = self;
    size_t bytes = size_mul(v->batch * v->config->embed_dim, v->k->acc_size);
    p->encoder = encoder_of_model(v->k, v->config, v->state->p, v->uploads, v->tokenizer, v->batch);
    p->loss = loss_new(v->k, comm_self(v->k), v->loss, v->batch, v->config->embed_dim,
                       logit_memory_of(&train_options, v->k));
    p->images = v->k->device->alloc(bytes);
    p->texts = v->k->device->alloc(bytes);
    p->value = v->k->device->alloc(v->k->acc_size);
}

static void pairs_close(void *self) {
    Pairs *p = self;
    const Kernels *k = encoder_kernels(p->encoder);
    k->device->release(p->images);
    k->device->release(p->texts);
    k->device->release(p->value);
    loss_free(p->loss);
    encoder_close(p->encoder);
    if (p->data) dataset_close(p->data);
    free(p);
}

/* The loss of n pairs. */
static void batch_loss(const Pairs *p, const TrainView *v, size_t n) {
    const Param *scale = params_at(v->state->p, TOWER_NONE, 0, ROLE_LOGIT_SCALE, false);
    const Param *bias = params_at(v->state->p, TOWER_NONE, 0, ROLE_LOGIT_BIAS, false);
    loss_run(p->loss, p->value, NULL, NULL, NULL, NULL, p->images, p->texts,
             param_acc(v->state->p, scale), bias ? param_acc(v->state->p, bias) : NULL, n);
}

static void pairs_plan(void *self, const TrainView *v) {
    batch_loss(self, v, v->batch);
    score_tiles_plan(v->k, v->config->embed_dim);
}

/* The mean weights each batch's loss by its pairs, since the loss depends on the batch size. */
static double mean_loss(const Pairs *p, const TrainView *v, const Features *f) {
    const Kernels *k = v->k;
    double sum = 0, value;
    for (size_t first = 0; first < f->count; first += v->batch) {
        size_t n = size_min(v->batch, f->count - first);
        k->acc_set_f32(p->images, f->images + first * f->dim, n * f->dim);
        k->acc_set_f32(p->texts, f->texts + first * f->dim, n * f->dim);
        batch_loss(p, v, n);
        k->device->sync();
        k->acc_get(&value, p->value, 1);
        sum += value * (double)n;
    }
    return sum / (double)f->count;
}

enum { LOSS, IMAGE_TO_TEXT, TEXT_TO_IMAGE = IMAGE_TO_TEXT + 5 };
static const char *const names[] = {"val/loss",
                                    "val/image_to_text_R@1",
                                    "val/image_to_text_R@5",
                                    "val/image_to_text_R@10",
                                    "val/image_to_text_mean_rank",
                                    "val/image_to_text_median_rank",
                                    "val/text_to_image_R@1",
                                    "val/text_to_image_R@5",
                                    "val/text_to_image_R@10",
                                    "val/text_to_image_mean_rank",
                                    "val/text_to_image_median_rank",
                                    NULL};

static void pairs_run(void *self, const TrainView *v, Metrics *m) {
    Pairs *p = self;
    Features f;
    features_of_dataset(&f, p->encoder, v->comm, p->data, true, true);
    if (!f.count) comm_die(v->comm, "--val-data %s: no readable pair", train_options.val_data);
    if (v->comm->rank == 0) {
        metrics_add(m, names[LOSS], mean_loss(p, v, &f), true);
        metrics_add_recall(m, names + IMAGE_TO_TEXT, v->k, f.images, f.texts, f.count, f.dim);
        metrics_add_recall(m, names + TEXT_TO_IMAGE, v->k, f.texts, f.images, f.count, f.dim);
    }
    features_free(&f);
}

const Validator validate_pairs = {.wanted = pairs_wanted,
                                  .names = names,
                                  .prepare = pairs_prepare,
                                  .open = pairs_open,
                                  .plan = pairs_plan,
                                  .due = validation_data_due,
                                  .run = pairs_run,
                                  .close = pairs_close};
