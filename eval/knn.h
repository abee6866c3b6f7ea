/* knn: classification by the nearest features of a training set. */
#pragma once
#include "eval/probe.h"

#define KNN_VOTES(X) X(KNN_WEIGHTED, "weighted") X(KNN_MAJORITY, "majority")
typedef enum { KNN_VOTES(CHOICE_NAME) } KnnVote;

/* predicted[test->count]: the class with the most votes among the k rows of `train` with the
 * highest cosine, weighted by exp(cosine / 0.07) (Wu et al. 2018) or by 1; of equal sums the class
 * of the nearest such row. Rows have length 1. */
void knn_predict(int *predicted, const ProbeSet *train, const ProbeSet *test, size_t classes,
                 size_t k, KnnVote vote);
