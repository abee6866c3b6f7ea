#include "eval/zeroshot_report.h"

#include <math.h>
#include <stdlib.h>

static const double z95 = 1.959963984540054; /* the normal's 97.5 % quantile */

Interval interval_wilson(size_t right, size_t n) {
    if (!n) return (Interval){0, 1};
    double N = (double)n, p = (double)right / N, z2 = z95 * z95;
    double middle = (p + z2 / (2 * N)) / (1 + z2 / N);
    double half = z95 / (1 + z2 / N) * sqrt(p * (1 - p) / N + z2 / (4 * N * N));
    return (Interval){right ? middle - half : 0, right < n ? middle + half : 1};
}

static int compare_cells(const void *a, const void *b) {
    const Cell *x = a, *y = b;
    if (x->truth != y->truth) return x->truth < y->truth ? -1 : 1;
    return (x->predicted > y->predicted) - (x->predicted < y->predicted);
}

static int compare_confusions(const void *a, const void *b) {
    const Cell *x = a, *y = b;
    if (x->images != y->images) return x->images > y->images ? -1 : 1;
    return compare_cells(a, b);
}

static int compare_recalls(const void *a, const void *b, void *context) {
    const ClassReport *all = context, *x = &all[*(const int *)a], *y = &all[*(const int *)b];
    /* right/images compared without rounding */
    double left = (double)x->right * (double)y->images,
           right = (double)y->right * (double)x->images;
    if (left < right || left > right) return left < right ? -1 : 1;
    if (x->images != y->images) return x->images > y->images ? -1 : 1;
    return *(const int *)a - *(const int *)b;
}

/* Counts equal (truth, predicted) pairs. */
static void count_cells(ZeroshotReport *r, const Predictions *p) {
    Cell *all = xcalloc(p->count, sizeof *all);
    for (size_t i = 0; i < p->count; i++) all[i] = (Cell){p->list[i].label, p->list[i].top[0], 1};
    if (p->count) qsort(all, p->count, sizeof *all, compare_cells);
    for (size_t i = 0; i < p->count; i++) {
        if (r->cell_count && !compare_cells(&all[r->cell_count - 1], &all[i]))
            all[r->cell_count - 1].images++;
        else
            all[r->cell_count++] = all[i];
    }
    r->cells = all;
    r->confusions = xcalloc(r->cell_count, sizeof *r->confusions);
    for (size_t i = 0; i < r->cell_count; i++)
        if (all[i].truth != all[i].predicted) r->confusions[r->confusion_count++] = all[i];
    if (r->confusion_count)
        qsort(r->confusions, r->confusion_count, sizeof *r->confusions, compare_confusions);
}

static void count_classes(ZeroshotReport *r, const Predictions *p) {
    for (size_t i = 0; i < p->count; i++) {
        const Prediction *q = &p->list[i];
        ClassReport *c = &r->of_class[q->label];
        c->images++;
        c->right += q->top[0] == q->label;
        for (size_t h = 0; h < ZEROSHOT_TOP; h++) c->right5 += q->top[h] == q->label;
    }
    for (size_t i = 0; i < r->classes; i++) r->of_class[i].confused = -1;
    for (size_t i = r->confusion_count; i-- > 0;) {
        ClassReport *c = &r->of_class[r->confusions[i].truth];
        c->confused = r->confusions[i].predicted;
        c->confused_images = r->confusions[i].images;
    }
}

static double fraction(size_t part, size_t n) { return n ? (double)part / (double)n : 0; }

void zeroshot_report(ZeroshotReport *r, const Predictions *p, size_t classes) {
    *r = (ZeroshotReport){.images = p->count, .classes = classes};
    r->of_class = xcalloc(classes, sizeof *r->of_class);
    r->worst_first = xcalloc(classes, sizeof *r->worst_first);
    count_cells(r, p);
    count_classes(r, p);
    size_t right = 0, right5 = 0;
    double sum = 0, variance = 0;
    for (size_t i = 0; i < classes; i++) {
        const ClassReport *c = &r->of_class[i];
        if (!c->images) continue;
        r->worst_first[r->occurring++] = (int)i;
        right += c->right;
        right5 += c->right5;
        sum += fraction(c->right, c->images);
        double n = (double)c->images + 4, q = ((double)c->right + 2) / n;
        variance += q * (1 - q) / n;
    }
    qsort_r(r->worst_first, r->occurring, sizeof *r->worst_first, compare_recalls, r->of_class);
    r->top1 = fraction(right, r->images);
    r->top5 = fraction(right5, r->images);
    r->top1_interval = interval_wilson(right, r->images);
    r->top5_interval = interval_wilson(right5, r->images);
    r->mean_interval = (Interval){0, 1};
    if (!r->occurring) return;
    double K = (double)r->occurring, half = z95 * sqrt(variance) / K;
    r->mean_per_class = sum / K;
    r->mean_interval.low = fmax(0, r->mean_per_class - half);
    r->mean_interval.high = fmin(1, r->mean_per_class + half);
}

void zeroshot_report_free(ZeroshotReport *r) {
    FREE_ALL(r->of_class, r->worst_first, r->cells, r->confusions);
}
