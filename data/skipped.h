/* skipped: what a data source does not use, counted by kind, with the places of the first ones. */
#pragma once
#include "kernels/base.h"

enum { SKIPPED_KINDS = 12, SKIPPED_PLACES = 5 };

typedef struct SkippedKind {
    char what[40];
    size_t count;
    char places[SKIPPED_PLACES][64]; /* of the first ones; "": none given */
} SkippedKind;

typedef struct Skipped {
    SkippedKind kinds[SKIPPED_KINDS]; /* the last one takes whatever has no room */
    size_t count;
} Skipped;

/* place: a line's number, a name; NULL: none. */
void skipped_add(Skipped *s, const char *what, const char *place);
/* "12 without caption (3, 5, …), 3 .gif", the most frequent kind first, in s->kinds too; malloc'd,
 * "" if there is none. */
char *skipped_text(Skipped *s);
