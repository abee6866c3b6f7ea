/* validate: measurements of a model during training. In a table of Validators each runs when it is
 * due; one metric decides which step is the best and when to stop. */
#pragma once
#include "data/text/tokenizer.h"
#include "data/dataset.h"
#include "train/checkpoint.h"
#include "train/model/uploads.h"
#include "train/loss.h"

enum { METRICS_MOST = 64 };

typedef struct Metric {
    char name[METRIC_NAME]; /* "val/loss": key in metrics.jsonl, tag in TensorBoard */
    double value;
    bool lower_is_better;
} Metric;

typedef struct Metrics {
    size_t count;
    bool complete; /* every validator has run */
    Metric list[METRICS_MOST];
} Metrics;

void metrics_add(Metrics *m, const char *name, double value, bool lower_is_better);
/* Recalls of row i of keys[n,dim] by row i of queries: R@1, R@5, R@10, mean and median rank. */
void metrics_add_recall(Metrics *m, const char *const names[5], const Kernels *k,
                        const float *queries, const float *keys, size_t n, size_t dim);
const Metric *metrics_find(const Metrics *m, const char *name); /* NULL if absent */

/* The run as seen by a validator, between two steps: the model in training, whose forward passes
 * without `keep` (at most `batch` samples) may be used. */
typedef struct TrainView {
    const Kernels *k;
    const Comm *comm;
    const ClipConfig *config;
    OptimState *state;
    Clip *clip;
    Uploads *uploads;
    const Tokenizer *tokenizer;
    size_t batch;
    LossKind loss;
} TrainView;

/* One kind of measurement. All ranks call its functions at the same points; only rank 0's metrics
 * are used. */
typedef struct Validator {
    bool (*wanted)(void);     /* reads the options; the others are called only if it is true */
    const char *const *names; /* of its metrics; ends with NULL */
    /* Called before there is a model; opens the data and exits on user errors. data: options of the
     * training data; NULL in a dry run: no data are opened. Its result is passed to the others. */
    void *(*prepare)(const Comm *c, const DatasetOptions *data);
    /* Called before the first step: takes the device memory. */
    void (*open)(void *self, const TrainView *v);
    /* In a dry run, after all are opened: takes the largest memory of run. */
    void (*plan)(void *self, const TrainView *v);
    /* s: the state after a step; position 0: an epoch has ended. Not called after the last step,
     * which is always measured. */
    bool (*due)(const TrainState *s);
    void (*run)(void *self, const TrainView *v, Metrics *m);
    void (*close)(void *self);
} Validator;

enum { VALIDATORS = 3 };
extern const Validator validate_pairs, validate_views, validate_zeroshot;
extern const Validator *const validators[VALIDATORS];

/* For the validators of --val-data: opens it (data NULL: NULL), and says when it is measured. */
Dataset *validation_data(const Comm *c, const DatasetOptions *data);
bool validation_data_due(const TrainState *s);

/* Refuses options that name no metric of the wanted validators, or need one. */
void validation_check_options(void);

typedef struct Validation Validation;
/* Prepares the wanted validators; NULL if there is none. */
Validation *validation_prepare(const Validator *const *list, size_t count, const Comm *c,
                               const DatasetOptions *data);
void validation_open(Validation *v, const TrainView *view);
void validation_plan(Validation *v);
void validation_close(Validation *v);
bool validation_due(const Validation *v, const TrainState *s, bool last);
/* Runs the validators that are due (last: all), and again with the weights' moving average if there
 * is one (metrics ema/…). False: none was due. m is the same on all ranks. */
bool validation_run(Validation *v, const TrainState *s, bool last, Metrics *m);

/* Updates `best` by the metric of that name (NULL: the first of m); a metric that was not measured
 * changes nothing. True: this step is the best so far. A value that is not finite is never the
 * best. */
bool best_update(Best *best, const Metrics *m, const char *name, uint64_t step);
