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

/* group[i]: the centre of i's group, its lowest row. A row that is at least `threshold` alike a
 * centre is in its group (of several centres, the lowest); another one is a centre itself. So all
 * members resemble their centre: pictures that are linked only through others are apart. alike[i]:
 * i's score with its centre, a centre's highest with a member; -infinity in a group of one. Returns
 * the number of pairs that reach it. group, alike [rows of all parts]. Memory: a tile and its
 * pairs, and 8 bytes a row. */
size_t duplicates_find(const Kernels *k, const RowsPart *parts, size_t count, double threshold,
                       uint32_t *group, float *alike);
