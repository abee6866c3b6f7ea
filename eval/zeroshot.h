/* zeroshot: a classifier from class names and prompt templates, and its accuracy on a data set over
 * all ranks. For each class, every template's caption is encoded and normalised; their mean is
 * normalised again. Source: open_clip 3.3.0, open_clip/zero_shot_classifier.py. */
#pragma once
#include "eval/classes.h"
#include "eval/encoder.h"
#include "train/ranks/comm.h"

typedef struct Classifier {
    size_t classes, dim, templates;
    float *weights;   /* [classes,dim] */
    float *of_single; /* [templates,classes,dim] of each template alone, or NULL */
} Classifier;

/* Each rank encodes its share of the classes; then every rank receives all. */
void classifier_build(Classifier *w, Encoder *e, const Comm *c, const ClassSet *s,
                      bool each_template);
void classifier_free(Classifier *w);

enum { ZEROSHOT_TOP = 5 };

/* The prediction of one image: classes by falling score, ties by lower number; -1 past the last
 * class. */
typedef struct Prediction {
    uint64_t sample; /* its number in the data set */
    int32_t label, top[ZEROSHOT_TOP];
    float score; /* cosine of top[0] */
} Prediction;

typedef struct Predictions {
    Prediction *list; /* [count] of the readable samples, in stored order */
    size_t count, bad;
    bool finite;              /* no feature is NaN or infinite */
    size_t templates, *right; /* [templates] hits of each template alone; 0, NULL without them */
    double seconds;
} Predictions;

/* Each rank predicts its share, whole batches of the data set's order; then every rank receives all
 * predictions. Memory does not grow with the features. Exits with an error at a label that is no
 * class. */
void zeroshot_predict(Predictions *p, Encoder *e, const Comm *c, Dataset *d, const Labels *labels,
                      const Classifier *w);
void predictions_free(Predictions *p);

/* Scores of images[n,dim] (host) under weights[classes,dim] into top and score of list[n]. */
typedef struct Scorer Scorer;
Scorer *scorer_new(const Kernels *k, const float *weights, size_t classes, size_t dim);
void scorer_run(Scorer *s, const float *images, size_t n, Prediction *list);
void scorer_free(Scorer *s);
/* Between plan_begin and plan_end (kernels/device.h): runs the largest pass of a scorer. */
void scorer_plan(const Kernels *k, size_t classes, size_t dim);
