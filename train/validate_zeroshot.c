/* Zero-shot accuracy on ImageNet or another labelled set, as open_clip's --imagenet-val: at the end
 * of every --zeroshot-frequency epochs and every --zeroshot-frequency-steps steps:
 * val/imagenet-zeroshot-val-top1, -top5, -mean_per_class_recall. */
#include "train/validate.h"

#include "data/io/resource.h"
#include "eval/zeroshot_report.h"
#include "train/ranks/agree.h"
#include "train/train_options.h"

#include <stdlib.h>

#define PREFIX "val/imagenet-zeroshot-val-"

typedef struct Task {
    ClassSet set;
    Dataset *data;
    Labels labels;
    Encoder *encoder;
} Task;

static bool task_wanted(void) { return train_options.imagenet_val != NULL; }

static bool task_due(const TrainState *s) {
    uint64_t steps = train_options.zeroshot_frequency_steps.of_run,
             epochs = (uint64_t)train_options.zeroshot_frequency;
    return (steps && s->step % steps == 0) ||
           (epochs && s->position == 0 && s->epoch % epochs == 0);
}

static char *classes_path(void) {
    const char *name = train_options.zeroshot_classes;
    char *path = class_set_find(name ? name : "imagenet");
    if (!path && name) die("--zeroshot-classes %s: no such file or set", name);
    if (!path)
        die("--imagenet-val: no class file: `make zeroshot-sets` fetches ImageNet's to "
            "build/zeroshot/imagenet.json, or name one with --zeroshot-classes");
    return path;
}

static void open_data(Task *t, const DatasetOptions *data) {
    DatasetOptions o = *data;
    Error err;
    o.of_recipe = option_of_recipe("imagenet-val");
    labels_dataset_options(&o, LABEL_KEYS, LABEL_COLUMN);
    t->data = dataset_open(train_options.imagenet_val, &o, &err);
    if (!t->data) die("--imagenet-val %s: %s", train_options.imagenet_val, err.text);
    labels_open(&t->labels, &t->set, t->data);
}

static void *task_prepare(const Comm *c, const DatasetOptions *data) {
    Task *t = xcalloc(1, sizeof *t);
    if (data) comm_rank0_begin(c);
    char *path = classes_path();
    Error err;
    if (!class_set_load(&t->set, path, &err)) die("%s", err.text);
    free(path);
    if (!data) return t;
    open_data(t, data);
    comm_rank0_end(c);
    agree_on(c, "--zeroshot-classes", class_set_hash(&t->set));
    agree_on(c, "--imagenet-val (samples)", dataset_count(t->data));
    return t;
}

static void task_open(void *self, const TrainView *v) {
    Task *t = self;
    t->encoder = encoder_of_model(v->k, v->config, v->state->p, v->uploads, v->tokenizer, v->batch);
}

static void task_plan(void *self, const TrainView *v) {
    Task *t = self;
    scorer_plan(v->k, t->set.count, v->config->embed_dim);
}

static const char *const names[] = {PREFIX "top1", PREFIX "top5", PREFIX "mean_per_class_recall",
                                    NULL};

static void task_run(void *self, const TrainView *v, Metrics *m) {
    Task *t = self;
    Classifier w;
    Predictions p;
    ZeroshotReport r;
    classifier_build(&w, t->encoder, v->comm, &t->set, false);
    zeroshot_predict(&p, t->encoder, v->comm, t->data, &t->labels, &w);
    if (!p.count)
        comm_die(v->comm, "--imagenet-val %s: no readable image", train_options.imagenet_val);
    zeroshot_report(&r, &p, t->set.count);
    const double values[] = {r.top1, r.top5, r.mean_per_class};
    for (size_t i = 0; i < COUNT(values); i++) metrics_add(m, names[i], values[i], false);
    zeroshot_report_free(&r);
    predictions_free(&p);
    classifier_free(&w);
}

static void task_close(void *self) {
    Task *t = self;
    encoder_close(t->encoder);
    if (t->data) {
        labels_free(&t->labels);
        dataset_close(t->data);
    }
    class_set_free(&t->set);
    free(t);
}

const Validator validate_zeroshot = {.wanted = task_wanted,
                                     .names = names,
                                     .prepare = task_prepare,
                                     .open = task_open,
                                     .plan = task_plan,
                                     .due = task_due,
                                     .run = task_run,
                                     .close = task_close};
