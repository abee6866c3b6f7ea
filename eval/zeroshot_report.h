/* zeroshot_report: predictions → accuracies with their intervals, classes, confusions; also as an
 * HTML page (zeroshot_html.c). */
#pragma once
#include "eval/zeroshot.h"

typedef struct Interval {
    double low, high;
} Interval;

/* Wilson's score interval of the proportion right/n at 95 %; 0 … 1 if n is 0. (E. B. Wilson,
 * Probable inference, the law of succession, and statistical inference, 1927.) */
Interval interval_wilson(size_t right, size_t n);

typedef struct ClassReport {
    size_t images, right, right5; /* right5: among the first five */
    int confused;                 /* the most frequent wrong prediction; -1: none */
    size_t confused_images;
} ClassReport;

/* Images of class `truth` predicted as class `predicted`. */
typedef struct Cell {
    int truth, predicted;
    size_t images;
} Cell;

typedef struct ZeroshotReport {
    size_t images, classes, occurring; /* occurring: classes that have an image */
    double top1, top5, mean_per_class; /* fractions; the last: mean recall of occurring classes */
    /* 95 %: Wilson's; of the mean: normal, each class's variance that of (right + 2) of (images +
     * 4), so that a class without a miss does not count as certain */
    Interval top1_interval, top5_interval, mean_interval;
    ClassReport *of_class; /* [classes] */
    int *worst_first; /* [occurring] by rising recall, then by falling images, then by number */
    Cell *cells;      /* [cell_count] of the confusion matrix that are not 0, row by row */
    size_t cell_count;
    Cell *confusions; /* [confusion_count] those off the diagonal, most images first */
    size_t confusion_count;
} ZeroshotReport;

void zeroshot_report(ZeroshotReport *r, const Predictions *p, size_t classes);
void zeroshot_report_free(ZeroshotReport *r);

/* One self-contained HTML page: the numbers, the confusion matrix, the classes, pictures of the
 * most frequent confusions (read from d again), templates. title: names the evaluated data. False:
 * err has the reason. */
bool zeroshot_write_html(const char *path, const char *title, const ZeroshotReport *r,
                         const Predictions *p, const ClassSet *s, Dataset *d, Error *err);
