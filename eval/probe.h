/* probe: a linear probe of frozen features: multinomial logistic regression, fitted by L-BFGS (Liu
 * & Nocedal 1989). */
#pragma once
#include "eval/rows.h"
#include "kernels/kernels.h"

/* Rows of features with their classes 0 … classes-1. */
typedef struct ProbeSet {
    size_t count, dim;
    float *x; /* [count,dim] */
    int *labels;
} ProbeSet;

typedef struct ProbeOptions {
    size_t max_iterations; /* 1000, as the CLIP paper */
    double tolerance;      /* stop if no component of the mean loss's gradient is larger, or if
                              f32 products show no descent direction */
} ProbeOptions;
#define PROBE_DEFAULTS                                                                             \
    { .max_iterations = 1000, .tolerance = 1e-7 }

typedef struct Probe {
    size_t classes, dim;
    double *w;        /* [classes, dim + 1]: the last one is the intercept */
    double objective; /* C Σ -ln p(label) + ½‖w‖², intercepts excluded */
    size_t iterations;
    bool converged; /* not ended by max_iterations */
} Probe;

/* Minimises the objective, as scikit-learn's LogisticRegression(C) does; with two classes, its
 * binary form (one vector w₁ - w₀: the penalty is ½‖w₁ - w₀‖²). start: initial weights, NULL: 0. */
void probe_fit(Probe *p, const Kernels *k, const ProbeSet *s, size_t classes, double C,
               const Probe *start, const ProbeOptions *o);
void probe_free(Probe *p);

typedef struct ProbeScore {
    double accuracy, mean_per_class; /* the latter: mean of each occurring class's recall */
} ProbeScore;
/* predicted[count] may be NULL. */
ProbeScore probe_score(const Kernels *k, const Probe *p, const ProbeSet *s, int *predicted);
/* The same from given predictions. */
ProbeScore probe_score_predictions(const int *predicted, const ProbeSet *s, size_t classes);

/* The C that is best on `val` by the CLIP paper's search (Radford et al. 2021, A.3): the best of
 * 1e-6, 1e-4, … 1e6, then its neighbours at repeatedly halved distance, down to eight steps a
 * decade; of equal accuracies the smallest C. *accuracy: its accuracy on val. */
double probe_select_c(const Kernels *k, const ProbeSet *train, const ProbeSet *val, size_t classes,
                      const ProbeOptions *o, double *accuracy);
