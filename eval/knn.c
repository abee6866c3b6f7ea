#include "eval/knn.h"

#include "eval/search.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define TEMPERATURE 0.07
enum { QUERIES = 256 };

/* hits by falling score. */
static int vote_of(const Hit *hits, size_t n, const int *labels, double *votes, size_t classes,
                   KnnVote vote) {
    int best = labels[hits[0].row];
    memset(votes, 0, classes * sizeof *votes);
    for (size_t h = 0; h < n; h++) /* minus the highest, so that exp stays in range */
        votes[labels[hits[h].row]] +=
            vote == KNN_MAJORITY ? 1 : exp(((double)hits[h].score - hits[0].score) / TEMPERATURE);
    for (size_t h = 1; h < n; h++)
        if (votes[labels[hits[h].row]] > votes[best]) best = labels[hits[h].row];
    return best;
}

void knn_predict(int *predicted, const ProbeSet *train, const ProbeSet *test, size_t classes,
                 size_t k, KnnVote vote) {
    assert(train->count && k && train->dim == test->dim);
    k = size_min(k, train->count);
    Rows rows = rows_of_floats(train->x, train->count, train->dim);
    Hit *hits = xmalloc(size_mul(QUERIES, k * sizeof *hits));
    double *votes = xcalloc(classes, sizeof *votes);
    for (size_t first = 0; first < test->count; first += QUERIES) {
        size_t n = size_min(QUERIES, test->count - first);
        Search *s = search_new(k, test->x + first * test->dim, n, test->dim);
        search_add(s, &rows, 0, NULL);
        size_t found = search_finish(s, hits);
        for (size_t i = 0; i < n; i++)
            predicted[first + i] =
                vote_of(hits + i * k, found, train->labels, votes, classes, vote);
    }
    FREE_ALL(votes, hits);
}
