#include "train/validate.h"

#include "eval/retrieval.h"
#include "train/model/lora.h"
#include "train/train_options.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const Validator *const validators[VALIDATORS] = {&validate_pairs, &validate_views,
                                                 &validate_zeroshot};

typedef struct Opened {
    const Validator *what;
    void *self;
} Opened;

struct Validation {
    TrainView view;
    Opened *list;
    size_t count;
};

void metrics_add(Metrics *m, const char *name, double value, bool lower_is_better) {
    assert(m->count < METRICS_MOST && strlen(name) < METRIC_NAME);
    Metric *x = &m->list[m->count++];
    *x = (Metric){.value = value, .lower_is_better = lower_is_better};
    snprintf(x->name, sizeof x->name, "%s", name);
}

void metrics_add_recall(Metrics *m, const char *const names[5], const Kernels *k,
                        const float *queries, const float *keys, size_t n, size_t dim) {
    size_t *ranks = xcalloc(n, sizeof *ranks);
    retrieval_ranks(k, ranks, queries, keys, n, dim);
    Recall r = retrieval_recall(ranks, n);
    const double values[] = {r.at1, r.at5, r.at10, r.mean_rank, r.median_rank};
    for (size_t i = 0; i < COUNT(values); i++) metrics_add(m, names[i], values[i], i > 2);
    free(ranks);
}

Dataset *validation_data(const Comm *c, const DatasetOptions *data) {
    if (!data) return NULL;
    DatasetOptions o = *data;
    Error err;
    o.of_recipe = option_of_recipe("val-data");
    comm_rank0_begin(c);
    Dataset *d = dataset_open(train_options.val_data, &o, &err);
    if (!d) die("--val-data %s: %s", train_options.val_data, err.text);
    comm_rank0_end(c);
    return d;
}

bool validation_data_due(const TrainState *s) {
    return s->step % train_options.val_frequency.of_run == 0;
}

const Metric *metrics_find(const Metrics *m, const char *name) {
    for (size_t i = 0; i < m->count; i++)
        if (!strcmp(m->list[i].name, name)) return &m->list[i];
    return NULL;
}

static bool is_measured(const char *name) {
    if (train_options.ema > 0 && !strncmp(name, "ema/", 4)) name += 4;
    for (size_t i = 0; i < VALIDATORS; i++)
        for (const char *const *n = validators[i]->names; *n && validators[i]->wanted(); n++)
            if (!strcmp(*n, name)) return true;
    return false;
}

void validation_check_options(void) {
    const char *name = train_options.best_metric, *best = NULL;
    size_t least = SIZE_MAX;
    for (size_t i = 0; i < VALIDATORS; i++)
        for (const char *const *n = validators[i]->names; *n && validators[i]->wanted(); n++) {
            size_t d = name ? edit_distance(name, *n) : 0;
            if (d < least) least = d, best = *n;
        }
    if ((name || train_options.early_stopping_patience) && !best)
        die_usage("clipc train: --best-metric and --early-stopping-patience need a validation "
                  "(--val-data)");
    if (name && !is_measured(name))
        die_usage("clipc train: --best-metric %s: no such metric is measured (did you mean '%s'?)",
                  name, best);
}

Validation *validation_prepare(const Validator *const *list, size_t count, const Comm *c,
                               const DatasetOptions *data) {
    Validation *v = xcalloc(1, sizeof *v);
    v->list = xcalloc(count + 1, sizeof *v->list);
    for (size_t i = 0; i < count; i++)
        if (list[i]->wanted()) v->list[v->count++].what = list[i];
    for (size_t i = 0; i < v->count; i++) v->list[i].self = v->list[i].what->prepare(c, data);
    if (v->count) return v;
    validation_close(v);
    return NULL;
}

void validation_open(Validation *v, const TrainView *view) {
    if (!v) return;
    v->view = *view;
    for (size_t i = 0; i < v->count; i++) v->list[i].what->open(v->list[i].self, &v->view);
}

void validation_plan(Validation *v) {
    for (size_t i = 0; v && i < v->count; i++) v->list[i].what->plan(v->list[i].self, &v->view);
}

void validation_close(Validation *v) {
    if (!v) return;
    for (size_t i = 0; i < v->count; i++) v->list[i].what->close(v->list[i].self);
    FREE_ALL(v->list, v);
}

bool validation_due(const Validation *v, const TrainState *s, bool last) {
    for (size_t i = 0; v && i < v->count; i++)
        if (last || v->list[i].what->due(s)) return true;
    return false;
}

/* Replaces the masters by their moving average, and back. The (zero) gradients' block keeps the
 * masters meanwhile, so that their address stays the same. */
static void swap_average(const TrainView *v, bool back) {
    Params *p = v->state->p;
    size_t bytes = p->learning * v->k->acc_size;
    v->k->device->copy(back ? p->master : p->grad, back ? p->grad : p->master, bytes);
    if (back)
        v->k->device->zero(p->grad, bytes);
    else
        v->k->device->copy(p->master, v->state->ema, bytes);
    params_round(p);
    lora_merge(p);
}

/* Runs one validator with the average's weights; its metrics are named ema/…. */
static void run_average(const Opened *o, const TrainView *v, Metrics *m) {
    size_t first = m->count;
    swap_average(v, false);
    o->what->run(o->self, v, m);
    swap_average(v, true);
    for (size_t i = first; i < m->count; i++) {
        char name[METRIC_NAME + 4];
        snprintf(name, sizeof name, "ema/%s", m->list[i].name);
        assert(strlen(name) < METRIC_NAME);
        memcpy(m->list[i].name, name, METRIC_NAME);
    }
}

bool validation_run(Validation *v, const TrainState *s, bool last, Metrics *m) {
    bool any = false;
    memset(m, 0, sizeof *m);
    m->complete = true;
    for (size_t i = 0; v && i < v->count; i++) {
        const Opened *o = &v->list[i];
        if (last || o->what->due(s)) {
            o->what->run(o->self, &v->view, m);
            if (v->view.state->ema) run_average(o, &v->view, m);
            any = true;
        } else {
            m->complete = false;
        }
    }
    if (any) v->view.comm->broadcast_bytes(m, sizeof *m, 0);
    return any;
}

bool best_update(Best *best, const Metrics *m, const char *name, uint64_t step) {
    const Metric *x = name ? metrics_find(m, name) : m->count ? m->list : NULL;
    if (!x || (!name && *best->metric && strcmp(best->metric, x->name))) return false;
    if (strcmp(best->metric, x->name)) {
        *best = (Best){.metric = "", .step = 0};
        memcpy(best->metric, x->name, sizeof best->metric);
    }
    bool better =
        isfinite(x->value) &&
        (!best->step || (x->lower_is_better ? x->value < best->value : x->value > best->value));
    if (!better) {
        best->stale++;
        return false;
    }
    best->value = x->value;
    best->step = step;
    best->stale = 0;
    return true;
}
