/* search: exact search for the k rows with the highest score for a query. One walk over the rows
 * serves many queries. */
#pragma once
#include "eval/rows.h"

typedef struct Hit {
    size_t row;
    float score;
} Hit;

/* A search over rows that come in parts. Scores are dot products in f32; their bits do not depend
 * on the number of queries, parts and threads. Memory: queries and threads × Q × k hits. */
typedef struct Search Search;
/* queries[Q,E] are copied. */
Search *search_new(size_t k, const float *queries, size_t Q, size_t E);
/* Row i of the part is row first + i of all. skip: a bit a row, set if it is skipped;
 * NULL: none is. */
void search_add(Search *s, const Rows *rows, size_t first, const uint64_t *skip);
/* hits[Q,k], each query's by falling score, ties by lower row; returns the number for each query
 * (k, or all rows if fewer were added). Frees s. */
size_t search_finish(Search *s, Hit *hits);

/* The best of given scores: hits[k], min(k, N) of them. */
size_t search_top_scores(Hit *hits, size_t k, const float *scores, size_t N);

static inline bool bit_of(const uint64_t *bits, size_t i) { return bits[i / 64] >> i % 64 & 1; }
