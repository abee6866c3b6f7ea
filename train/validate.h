/* validate: measurements of a model while it trains. A table of Validators; each runs when it is
 * due, and one metric decides which step is the best and when to stop. */
#ifndef TRAIN_VALIDATE_H
#define TRAIN_VALIDATE_H
#include "data/text/tokenizer.h"
#include "data/dataset.h"
#include "train/checkpoint.h"
#include "train/loss.h"
#include "train/model/clip.h"

enum { METRICS_MOST = 64 };

typedef struct Metric {
    char name[METRIC_NAME]; /* "val/loss": key in metrics.jsonl, tag in TensorBoard */
    double value;
    bool lower_is_better;
} Metric;

typedef struct Metrics {
    size_t count;
    bool complete; /* every validator was asked */
    Metric list[METRICS_MOST];
} Metrics;

void metrics_add(Metrics *m, const char *name, double value, bool lower_is_better);
const Metric *metrics_find(const Metrics *m, const char *name); /* NULL when absent */

/* The run as a validator sees it, between two steps: the training's own model, whose forward passes
 * without `keep` (at most `batch` samples) are free to be used. */
typedef struct TrainView {
    const Kernels *k;
    const Comm *comm;
    const ClipConfig *config;
    OptimState *state;
    Clip *clip;
    const Tokenizer *tokenizer;
    size_t batch;
    LossKind loss;
    DatasetOptions dataset; /* as the training data are read */
    bool planning;          /* between plan_begin and plan_end (kernels.h): there are no data */
} TrainView;

/* One kind of measurement. All ranks call its functions at the same points; what rank 0 adds to the
 * metrics counts. */
typedef struct Validator {
    bool (*wanted)(void); /* by the options; the others are called only if so */
    /* Before the first step; dies on the user's mistakes. What it returns goes to plan, run and
     * close. While planning it takes what it takes of the device's memory, and opens no data. */
    void *(*open)(const TrainView *v);
    /* While planning, after all were opened: goes through what run takes, at most. */
    void (*plan)(void *self, const TrainView *v);
    /* s: the state after a step; position 0: an epoch has ended. Not asked after the last step,
     * which is always measured. */
    bool (*due)(const TrainState *s);
    void (*run)(void *self, const TrainView *v, Metrics *m);
    void (*close)(void *self);
} Validator;

enum { VALIDATORS = 2 };
extern const Validator validate_pairs, validate_zeroshot;
extern const Validator *const validators[VALIDATORS];

typedef struct Validation Validation;
/* Opens those that are wanted; NULL where none is. */
Validation *validation_open(const Validator *const *list, size_t count, const TrainView *v);
void validation_plan(Validation *v);
void validation_close(Validation *v);
bool validation_due(const Validation *v, const TrainState *s, bool last);
/* Runs what is due (last: all), and a second time with the weights' moving average where there is
 * one (metrics ema/…); false: nothing was. m holds the same on all ranks. */
bool validation_run(Validation *v, const TrainState *s, bool last, Metrics *m);

/* Updates `best` by the metric of that name (NULL: the first of m); a metric that was not measured
 * this time changes nothing. True: this step is the best so far. A value that is not finite is
 * never the best. */
bool best_update(Best *best, const Metrics *m, const char *name, uint64_t step);
#endif
