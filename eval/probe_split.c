#include "eval/probe_split.h"

#include "kernels/rng.h"

#include <stdlib.h>
#include <string.h>

static ProbeSet set_new(size_t count, size_t dim) {
    ProbeSet s = {count, dim, NULL, NULL};
    s.x = xmalloc(size_mul(size_max(count, 1), dim * sizeof *s.x));
    s.labels = xmalloc(size_max(count, 1) * sizeof *s.labels);
    return s;
}

void probe_set_free(ProbeSet *s) {
    FREE_ALL(s->x, s->labels);
    *s = (ProbeSet){0};
}

static void put_row(ProbeSet *to, size_t at, const ProbeSet *from, size_t row) {
    memcpy(to->x + at * to->dim, from->x + row * from->dim, to->dim * sizeof *to->x);
    to->labels[at] = from->labels[row];
}

/* For each class (with n rows): the first train_of[n] drawn rows, then val_of. */
static void draw(const ProbeSet *all, size_t classes, const size_t *train_of, const size_t *val_of,
                 uint64_t seed, ProbeSet *train, ProbeSet *val) {
    size_t *start = xcalloc(classes + 1, sizeof *start), trains = 0, vals = 0, t = 0, v = 0;
    for (size_t i = 0; i < all->count; i++) start[all->labels[i] + 1]++;
    for (size_t c = 0; c < classes; c++) {
        trains += train_of[c];
        vals += val_of[c];
        start[c + 1] += start[c];
    }
    size_t *rows = xcalloc(all->count + 1, sizeof *rows), *at = xcalloc(classes, sizeof *at);
    for (size_t i = 0; i < all->count; i++) {
        size_t c = (size_t)all->labels[i];
        rows[start[c] + at[c]++] = i;
    }
    *train = set_new(trains, all->dim);
    *val = set_new(vals, all->dim);
    for (size_t c = 0; c < classes; c++) {
        size_t n = start[c + 1] - start[c];
        uint64_t *order = xcalloc(n + 1, sizeof *order);
        rng_permutation(rng_mix(seed, c), RNG_PROBE, order, n);
        for (size_t i = 0; i < train_of[c] + val_of[c]; i++) {
            if (i < train_of[c])
                put_row(train, t++, all, rows[start[c] + order[i]]);
            else
                put_row(val, v++, all, rows[start[c] + order[i]]);
        }
        free(order);
    }
    FREE_ALL(rows, at, start);
}

static size_t *count_classes(const ProbeSet *s, size_t classes) {
    size_t *n = xcalloc(classes, sizeof *n);
    for (size_t i = 0; i < s->count; i++) n[s->labels[i]]++;
    return n;
}

void probe_draw_shots(const ProbeSet *all, size_t classes, size_t shots, size_t more, uint64_t seed,
                      ProbeSet *train, ProbeSet *val) {
    size_t *n = count_classes(all, classes), *m = xcalloc(classes, sizeof *m);
    for (size_t c = 0; c < classes; c++) {
        size_t there = n[c];
        n[c] = size_min(shots, there);
        m[c] = size_min(more, there - n[c]);
    }
    draw(all, classes, n, m, seed, train, val);
    FREE_ALL(n, m);
}

void probe_hold_out(const ProbeSet *all, size_t classes, uint64_t seed, ProbeSet *train,
                    ProbeSet *val) {
    size_t *n = count_classes(all, classes), *m = xcalloc(classes, sizeof *m);
    for (size_t c = 0; c < classes; c++) {
        m[c] = n[c] < 2 ? 0 : size_max(n[c] / 5, 1);
        n[c] -= m[c];
    }
    draw(all, classes, n, m, seed, train, val);
    FREE_ALL(n, m);
}

ProbeSet probe_set_join(const ProbeSet *a, const ProbeSet *b) {
    ProbeSet s = set_new(a->count + b->count, a->dim);
    for (size_t i = 0; i < a->count; i++) put_row(&s, i, a, i);
    for (size_t i = 0; i < b->count; i++) put_row(&s, a->count + i, b, i);
    return s;
}
