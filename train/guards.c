#include "train/guards.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double guard_limit(const RecentLosses *r, double factor) {
    size_t n = size_min((size_t)r->seen, RECENT_LOSSES);
    if (factor <= 0 || n < RECENT_LEAST) return INFINITY;
    double sorted[RECENT_LOSSES];
    memcpy(sorted, r->loss, n * sizeof *sorted);
    qsort(sorted, n, sizeof *sorted, compare);
    return factor * 0.5 * (sorted[(n - 1) / 2] + sorted[n / 2]);
}

void guard_remember(RecentLosses *r, double loss) { r->loss[r->seen++ % RECENT_LOSSES] = loss; }

/* Counts consecutive steps; true if a warning is due. */
static bool due(bool bad, uint64_t *row, uint64_t *told, uint64_t step) {
    *row = bad ? *row + 1 : 0;
    if (*row < WATCH_STEPS || (*told && step < *told + WATCH_QUIET)) return false;
    *told = step;
    return true;
}

void watch_step(Watch *w, uint64_t step, double logit_scale, double image_cosine,
                double text_cosine) {
    if (due(logit_scale < 1.001, &w->low, &w->told_low, step))
        log_warn("step %llu: the logit scale has stood at its lower bound 1 for %d steps: features "
                 "tell the pairs apart no longer; lower --lr, or start from --pretrained weights",
                 (unsigned long long)step, WATCH_STEPS);
    bool images = image_cosine > WATCH_COSINE, texts = text_cosine > WATCH_COSINE;
    if (due(images || texts, &w->alike, &w->told_alike, step))
        log_warn("step %llu: the %s features have been all alike for %d steps (mean cosine %.4f): "
                 "lower --lr or lengthen --warmup",
                 (unsigned long long)step, images ? "image" : "text", WATCH_STEPS,
                 images ? image_cosine : text_cosine);
}
