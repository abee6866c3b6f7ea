#include "eval/probe.h"

#include "data/io/progress.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { CHUNK_ROWS = 4096, HISTORY = 10, TRIALS = 20, STALE_STEPS = 20 };
#define DECREASE 1e-4 /* Wolfe's conditions */
#define CURVATURE 0.9
#define F32_NOISE 1e-6 /* relative error of the mean loss */
#define PROGRESS 1e-7  /* a step with less relative gain is stale */

/* ---- loss and gradient ---- */

typedef struct Problem {
    const Kernels *k;
    const ProbeSet *s;
    size_t classes, size; /* size: classes × (dim + 1) */
    double lambda;        /* of the mean loss: 1/(C·count) */
    acc *x, *w, *z, *dw;  /* [count,dim], [classes,dim], [CHUNK_ROWS,classes], [classes,dim] */
    float *host;          /* [CHUNK_ROWS,classes] */
    float *flat;          /* [classes,dim] */
    double *row_loss;     /* [CHUNK_ROWS] */
} Problem;

static void send_weights(const Problem *p, const double *w) {
    size_t E = p->s->dim;
    for (size_t c = 0; c < p->classes; c++)
        for (size_t j = 0; j < E; j++) p->flat[c * E + j] = (float)w[c * (E + 1) + j];
    p->k->acc_set_f32(p->w, p->flat, p->classes * E);
}

/* Logits of n rows without their intercepts into p->host. */
static void chunk_logits(const Problem *p, size_t first, size_t n) {
    size_t E = p->s->dim, K = p->classes;
    p->k->gemm(p->z, K, acc_at(p->k, p->x, first * E), E, false, p->w, E, true, n, K, E, false);
    p->k->acc_get_f32(p->host, p->z, n * K);
}

/* A row of logits → probabilities minus the one-hot label. Returns -ln p(label). */
static double softmax_row(float *z, const double *w, size_t K, size_t E, int label) {
    double most = -INFINITY, sum = 0;
    for (size_t c = 0; c < K; c++) {
        z[c] += (float)w[c * (E + 1) + E];
        most = fmax(most, z[c]);
    }
    double own = z[label];
    for (size_t c = 0; c < K; c++) {
        z[c] = expf(z[c] - (float)most);
        sum += z[c];
    }
    for (size_t c = 0; c < K; c++) z[c] = (float)(z[c] / sum);
    z[label] -= 1;
    return most + log(fmax(sum, 1)) - own;
}

/* Adds chunk's Gᵀ x to the gradient, G [n,classes] in p->host. */
static void add_gradient(const Problem *p, double *g, size_t first, size_t n) {
    size_t E = p->s->dim, K = p->classes;
    p->k->acc_set_f32(p->z, p->host, n * K);
    p->k->gemm(p->dw, E, p->z, K, true, acc_at(p->k, p->x, first * E), E, false, K, E, n, false);
    p->k->acc_get_f32(p->flat, p->dw, K * E);
#pragma omp parallel for
    for (size_t c = 0; c < K; c++) {
        double sum = 0;
        for (size_t j = 0; j < E; j++) g[c * (E + 1) + j] += p->flat[c * E + j];
        for (size_t i = 0; i < n; i++) sum += p->host[i * K + c];
        g[c * (E + 1) + E] += sum;
    }
}

/* Mean loss + λ/2 ‖w‖², and its gradient. */
static double evaluate(const Problem *p, const double *w, double *g) {
    size_t E = p->s->dim, K = p->classes, n = p->s->count;
    double loss = 0, norm = 0;
    memset(g, 0, p->size * sizeof *g);
    send_weights(p, w);
    for (size_t first = 0; first < n; first += CHUNK_ROWS) {
        size_t rows = size_min(CHUNK_ROWS, n - first);
        chunk_logits(p, first, rows);
#pragma omp parallel for
        for (size_t i = 0; i < rows; i++)
            p->row_loss[i] = softmax_row(p->host + i * K, w, K, E, p->s->labels[first + i]);
        for (size_t i = 0; i < rows; i++) loss += p->row_loss[i];
        add_gradient(p, g, first, rows);
    }
    for (size_t i = 0; i < p->size; i++) {
        bool intercept = i % (E + 1) == E;
        g[i] = g[i] / (double)n + (intercept ? 0 : p->lambda * w[i]);
        if (!intercept) norm += w[i] * w[i];
    }
    return loss / (double)n + 0.5 * p->lambda * norm;
}

static Problem problem_new(const Kernels *k, const ProbeSet *s, size_t classes, double C) {
    size_t E = s->dim;
    Problem p = {.k = k, .s = s, .classes = classes, .size = size_mul(classes, E + 1)};
    size_t chunk = size_min(CHUNK_ROWS, s->count);
    /* the softmax's two vectors w₁ = -w₀ have half the binary form's penalty */
    p.lambda = (classes == 2 ? 2 : 1) / (C * (double)s->count);
    p.x = k->device->alloc(size_mul(s->count * E, k->acc_size));
    k->acc_set_f32(p.x, s->x, s->count * E);
    p.w = k->device->alloc(size_mul(classes * E, k->acc_size));
    p.dw = k->device->alloc(size_mul(classes * E, k->acc_size));
    p.z = k->device->alloc(size_mul(chunk * classes, k->acc_size));
    p.host = xmalloc(size_mul(chunk, classes * sizeof *p.host));
    p.flat = xmalloc(size_mul(classes, E * sizeof *p.flat));
    p.row_loss = xcalloc(chunk, sizeof *p.row_loss);
    return p;
}

static void problem_free(Problem *p) {
    p->k->device->release(p->x);
    p->k->device->release(p->w);
    p->k->device->release(p->dw);
    p->k->device->release(p->z);
    FREE_ALL(p->host, p->flat, p->row_loss);
}

/* ---- L-BFGS ---- */

static double dot(const double *a, const double *b, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}

static double largest(const double *a, size_t n) {
    double most = 0;
    for (size_t i = 0; i < n; i++) most = fmax(most, fabs(a[i]));
    return most;
}

typedef struct Lbfgs {
    size_t n, held, last; /* pairs in s, y; the newest */
    double *s[HISTORY], *y[HISTORY], rho[HISTORY];
} Lbfgs;

/* d = -H g by the two-loop recursion. */
static void direction(const Lbfgs *l, double *d, const double *g) {
    double alpha[HISTORY] = {0};
    for (size_t i = 0; i < l->n; i++) d[i] = -g[i];
    for (size_t h = 0; h < l->held; h++) {
        size_t at = (l->last + HISTORY - h) % HISTORY;
        alpha[at] = l->rho[at] * dot(l->s[at], d, l->n);
        for (size_t i = 0; i < l->n; i++) d[i] -= alpha[at] * l->y[at][i];
    }
    if (l->held) {
        double scale = 1 / (l->rho[l->last] * dot(l->y[l->last], l->y[l->last], l->n));
        for (size_t i = 0; i < l->n; i++) d[i] *= scale;
    }
    for (size_t h = l->held; h-- > 0;) {
        size_t at = (l->last + HISTORY - h) % HISTORY;
        double beta = l->rho[at] * dot(l->y[at], d, l->n);
        for (size_t i = 0; i < l->n; i++) d[i] += (alpha[at] - beta) * l->s[at][i];
    }
}

static void remember(Lbfgs *l, const double *w, const double *w0, const double *g,
                     const double *g0) {
    size_t at = l->held ? (l->last + 1) % HISTORY : 0;
    double sy = 0;
    for (size_t i = 0; i < l->n; i++) {
        l->s[at][i] = w[i] - w0[i];
        l->y[at][i] = g[i] - g0[i];
        sy += l->s[at][i] * l->y[at][i];
    }
    if (!(sy > 0)) return; /* rounding: the problem is convex */
    l->rho[at] = 1 / sy;
    l->last = at;
    if (l->held < HISTORY) l->held++;
}

/* Finds a step along d that meets Wolfe's conditions, by bisection (Lewis & Overton 2013). If
 * values differ by less than the error of f32 products, slopes decide (Hager & Zhang 2005). *f
 * becomes its value; w_new, g_new are at that point. False: none is found. */
static bool line_search(const Problem *p, const double *w, const double *g, double *f,
                        const double *d, double first, double *w_new, double *g_new) {
    const double slope = dot(g, d, p->size);
    double lo = 0, hi = INFINITY, t = first;
    if (!(slope < 0)) return false;
    for (int trial = 0; trial < TRIALS; trial++) {
        for (size_t i = 0; i < p->size; i++) w_new[i] = w[i] + t * d[i];
        double value = evaluate(p, w_new, g_new), there = dot(g_new, d, p->size);
        bool lower = value <= *f + DECREASE * t * slope ||
                     (value <= *f + F32_NOISE * *f && there <= (2 * DECREASE - 1) * slope);
        if (!lower) {
            hi = t;
        } else if (there < CURVATURE * slope) {
            lo = t;
        } else {
            *f = value;
            return true;
        }
        t = isinf(hi) ? 2 * lo : 0.5 * (lo + hi);
    }
    return false;
}

void probe_fit(Probe *out, const Kernels *k, const ProbeSet *s, size_t classes, double C,
               const Probe *start, const ProbeOptions *o) {
    assert(s->count && classes > 1 && C > 0);
    Problem p = problem_new(k, s, classes, C);
    size_t n = p.size;
    Lbfgs l = {.n = n};
    for (size_t h = 0; h < HISTORY; h++) {
        l.s[h] = xcalloc(n, sizeof(double));
        l.y[h] = xcalloc(n, sizeof(double));
    }
    double *w = xcalloc(n, sizeof *w), *g = xcalloc(n, sizeof *g), *d = xcalloc(n, sizeof *d),
           *w_new = xcalloc(n, sizeof *w), *g_new = xcalloc(n, sizeof *g);
    if (start && start->w) memcpy(w, start->w, n * sizeof *w);
    double f = evaluate(&p, w, g);
    size_t steps = 0, stale = 0;
    bool done = largest(g, n) <= o->tolerance;
    while (!done && steps < o->max_iterations) {
        direction(&l, d, g);
        double first = l.held ? 1 : fmin(1, 1 / sqrt(dot(g, g, n))), before = f;
        if (!line_search(&p, w, g, &f, d, first, w_new, g_new)) {
            done = !l.held; /* once more along the gradient */
            l.held = 0;
            continue;
        }
        remember(&l, w_new, w, g_new, g);
        double *t = w;
        w = w_new;
        w_new = t;
        t = g;
        g = g_new;
        g_new = t;
        steps++;
        stale = f < before - PROGRESS * before ? 0 : stale + 1;
        done = largest(g, n) <= o->tolerance || stale == STALE_STEPS;
    }
    *out = (Probe){classes, s->dim, w, f * C * (double)s->count, steps, done};
    for (size_t h = 0; h < HISTORY; h++) {
        FREE_ALL(l.s[h], l.y[h]);
    }
    FREE_ALL(g, d, w_new, g_new);
    problem_free(&p);
}

void probe_free(Probe *p) {
    free(p->w);
    *p = (Probe){0};
}

/* ---- scores ---- */

ProbeScore probe_score_predictions(const int *predicted, const ProbeSet *s, size_t classes) {
    size_t *seen = xcalloc(classes, sizeof *seen), *right = xcalloc(classes, sizeof *right),
           all = 0, occurring = 0;
    ProbeScore score = {0};
    for (size_t i = 0; i < s->count; i++) {
        seen[s->labels[i]]++;
        right[s->labels[i]] += predicted[i] == s->labels[i];
        all += predicted[i] == s->labels[i];
    }
    for (size_t c = 0; c < classes; c++) {
        if (!seen[c]) continue;
        occurring++;
        score.mean_per_class += (double)right[c] / (double)seen[c];
    }
    score.accuracy = (double)all / (double)size_max(s->count, 1);
    score.mean_per_class /= (double)size_max(occurring, 1);
    FREE_ALL(seen, right);
    return score;
}

ProbeScore probe_score(const Kernels *k, const Probe *p, const ProbeSet *s, int *predicted) {
    int *own = predicted ? predicted : xcalloc(s->count, sizeof *own);
    Problem q = problem_new(k, s, p->classes, 1);
    size_t K = p->classes, E = p->dim;
    send_weights(&q, p->w);
    for (size_t first = 0; first < s->count; first += CHUNK_ROWS) {
        size_t rows = size_min(CHUNK_ROWS, s->count - first);
        chunk_logits(&q, first, rows);
        for (size_t i = 0; i < rows; i++) {
            double best = -INFINITY;
            for (size_t c = 0; c < K; c++) {
                double z = q.host[i * K + c] + p->w[c * (E + 1) + E];
                if (z > best) best = z, own[first + i] = (int)c;
            }
        }
    }
    problem_free(&q);
    ProbeScore score = probe_score_predictions(own, s, K);
    if (!predicted) free(own);
    return score;
}

/* ---- the search for C ---- */

enum { DECADES = 6, STEPS = 8, COARSE = 2 * STEPS }; /* eighths of a decade */

typedef struct Sweep {
    const Kernels *k;
    const ProbeSet *train, *val;
    size_t classes;
    const ProbeOptions *o;
    Probe last; /* start of the next fit */
    int best;   /* exponent in steps */
    double accuracy;
} Sweep;

static void try_exponent(Sweep *s, int exponent) {
    if (exponent < -DECADES * STEPS || exponent > DECADES * STEPS) return;
    Probe p;
    probe_fit(&p, s->k, s->train, s->classes, pow(10, (double)exponent / STEPS), &s->last, s->o);
    double accuracy = probe_score(s->k, &p, s->val, NULL).accuracy;
    probe_free(&s->last);
    s->last = p;
    if (accuracy > s->accuracy || (accuracy == s->accuracy && exponent < s->best)) {
        s->accuracy = accuracy;
        s->best = exponent;
    }
}

double probe_select_c(const Kernels *k, const ProbeSet *train, const ProbeSet *val, size_t classes,
                      const ProbeOptions *o, double *accuracy) {
    Sweep s = {k, train, val, classes, o, {0}, 0, -1};
    Progress progress = progress_start("choosing C");
    size_t done = 0, all = 2 * DECADES * STEPS / COARSE + 1;
    for (int step = COARSE / 2; step >= 1; step /= 2) all += 2;
    for (int e = -DECADES * STEPS; e <= DECADES * STEPS; e += COARSE) {
        try_exponent(&s, e);
        progress_show(&progress, ++done, all, "");
    }
    for (int step = COARSE / 2; step >= 1; step /= 2) {
        int middle = s.best;
        try_exponent(&s, middle - step);
        try_exponent(&s, middle + step);
        progress_show(&progress, done += 2, all, "");
    }
    progress_end(&progress);
    probe_free(&s.last);
    *accuracy = s.accuracy;
    return pow(10, (double)s.best / STEPS);
}
