#include "data/skipped.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static SkippedKind *kind_of(Skipped *s, const char *what) {
    for (size_t i = 0; i < s->count; i++)
        if (strcmp(s->kinds[i].what, what) == 0) return &s->kinds[i];
    if (s->count == SKIPPED_KINDS) return &s->kinds[SKIPPED_KINDS - 1];
    SkippedKind *k = &s->kinds[s->count++];
    snprintf(k->what, sizeof k->what, "%s", s->count == SKIPPED_KINDS ? "others" : what);
    return k;
}

void skipped_add(Skipped *s, const char *what, const char *place) {
    SkippedKind *k = kind_of(s, what);
    if (place && k->count < SKIPPED_PLACES)
        snprintf(k->places[k->count], sizeof k->places[0], "%s", place);
    k->count++;
}

static int more_first(const void *a, const void *b) {
    const SkippedKind *x = a, *y = b;
    return x->count != y->count ? (x->count < y->count ? 1 : -1) : strcmp(x->what, y->what);
}

char *skipped_text(Skipped *s) {
    char *text;
    size_t bytes;
    FILE *f = open_memstream(&text, &bytes);
    if (!f) die("out of memory");
    qsort(s->kinds, s->count, sizeof *s->kinds, more_first);
    for (size_t i = 0; i < s->count; i++) {
        const SkippedKind *k = &s->kinds[i];
        size_t named = size_min(k->count, SKIPPED_PLACES);
        fprintf(f, "%s%zu %s", i ? ", " : "", k->count, k->what);
        for (size_t p = 0; p < named && *k->places[p]; p++)
            fprintf(f, "%s%s", p ? ", " : " (", k->places[p]);
        if (*k->places[0]) fputs(k->count > named ? ", ...)" : ")", f);
    }
    if (fclose(f)) die("out of memory");
    return text;
}
