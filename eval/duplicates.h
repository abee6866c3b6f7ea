/* duplicates: finds similar rows from all their products, a tile at a time. */
#pragma once
#include "eval/rows.h"
#include "kernels/kernels.h"

/* A part of an index: row i is number first + i; skip as in search_add. */
typedef struct RowsPart {
    const Rows *rows;
    size_t first;
    const uint64_t *skip;
} RowsPart;

/* group[i]: the lowest row of i's group. Rows whose score is at least `threshold` are in one group,
 * and so are rows that are linked through others. alike[i]: i's highest score with another row;
 * -infinity if none reaches the threshold. Returns the number of pairs that reach it. group, alike
 * [rows of all parts]. Memory: a tile, and 8 bytes a row. */
size_t duplicates_find(const Kernels *k, const RowsPart *parts, size_t count, double threshold,
                       uint32_t *group, float *alike);
