/* clipc ckpt diff: two checkpoints of any format, tensor by tensor, under open_clip's names. */
#include "tools/commands.h"
#include "tools/common.h"
#include "train/model/weights.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static double tolerance;
static int64_t top = 20;
static bool as_json;

static Option options[] = {
    FLOAT("tolerance", &tolerance, 0, 1e30,
          "relative difference up to which tensors count as equal"),
    INT("top", &top, 0, 1e6, "rows of the table, worst first"),
    FLAG("json", &as_json, "one JSON object instead of a table"),
};

static const Command command = {
    "ckpt diff",
    "Compares two checkpoints of any formats: exit code 0 when they hold the same, 1 when not.",
    "clipc ckpt diff A B [--tolerance X] [--json]",
    "  clipc ckpt diff b32/ ViT-B-32.pt --tolerance 1e-3\n",
    options,
    COUNT(options),
};

typedef struct Difference {
    const char *name;
    const char *what; /* NULL: the numbers below are set; otherwise the reason why not */
    double max;       /* of |a - b| */
    double relative;  /* ‖a - b‖ / ‖a‖ */
    size_t elements;
} Difference;

static bool is_float(const Weight *w) {
    for (int i = 0; i < 3; i++)
        if (w->part[i] && w->part[i]->dtype > DTYPE_BF16) return false;
    return true;
}

/* [] and [1] are the same shape, as in loading. */
static bool same_shape(const Weight *a, const Weight *b) {
    if (a->count == 1 && b->count == 1 && a->ndim <= 1 && b->ndim <= 1) return true;
    return a->ndim == b->ndim && !memcmp(a->shape, b->shape, (size_t)a->ndim * sizeof *a->shape);
}

static void compare_values(Difference *d, const Weight *a, const Weight *b) {
    enum { CHUNK = 1 << 14 };
    float *x = xmalloc(2 * CHUNK * sizeof *x), *y = x + CHUNK;
    double squares = 0, norm = 0;
    for (size_t first = 0; first < a->count; first += CHUNK) {
        size_t n = size_min(CHUNK, a->count - first);
        weight_read(a, first, n, x);
        weight_read(b, first, n, y);
        for (size_t i = 0; i < n; i++) {
            /* equal infinities and NaNs have no difference */
            bool same = x[i] == y[i] || (isnan(x[i]) && isnan(y[i]));
            double by = same ? 0 : fabs((double)x[i] - (double)y[i]);
            if (isnan(by)) by = INFINITY;
            d->max = fmax(d->max, by);
            squares += by * by;
            norm += isfinite(x[i]) ? (double)x[i] * (double)x[i] : 0;
        }
    }
    d->relative = squares > 0 ? sqrt(squares / norm) : 0;
    free(x);
}

static Difference compare(const Weight *a, const Weight *b) {
    Difference d = {.name = a->name, .elements = a->count, .max = INFINITY, .relative = INFINITY};
    if (!b) {
        d.what = "only in A";
    } else if (!same_shape(a, b)) {
        d.what = "another shape";
    } else if (!is_float(a) || !is_float(b)) {
        d.what = "not of floating point";
    } else {
        d.max = 0;
        compare_values(&d, a, b);
    }
    return d;
}

static int worst_first(const void *a, const void *b) {
    const Difference *x = a, *y = b;
    if (x->relative != y->relative) return x->relative < y->relative ? 1 : -1;
    return strcmp(x->name, y->name);
}

static size_t compare_all(Difference *d, const Weights *a, const Weights *b) {
    size_t n = 0;
    for (size_t i = 0; i < a->count; i++)
        d[n++] = compare(&a->list[i], weights_find(b, a->list[i].name));
    for (size_t i = 0; i < b->count; i++) {
        if (weights_find(a, b->list[i].name)) continue;
        d[n] = compare(&b->list[i], NULL);
        d[n++].what = "only in B";
    }
    if (n) qsort(d, n, sizeof *d, worst_first);
    return n;
}

static void print_rows(const Difference *d, size_t n, size_t different) {
    size_t rows = size_min(different, (size_t)top);
    if (rows) printf("%-56s %12s %12s %12s\n", "tensor", "elements", "max", "relative");
    for (size_t i = 0; i < rows; i++) {
        printf("%-56s %12zu ", d[i].name, d[i].elements);
        if (d[i].what)
            printf("%s\n", d[i].what);
        else
            printf("%12.3g %12.3g\n", d[i].max, d[i].relative);
    }
    if (rows < different) printf("… %zu more, no worse than these\n", different - rows);
    printf("%zu of %zu tensors differ\n", different, n);
}

static json_t *number(double x) { return isfinite(x) ? json_real(x) : json_null(); }

static void print_object(const Difference *d, size_t n, size_t different) {
    json_t *rows = json_array();
    for (size_t i = 0; i < n; i++) {
        json_t *row = json_pack("{s:o, s:I, s:o, s:o}", "name", json_text(d[i].name), "elements",
                                (json_int_t)d[i].elements, "max", number(d[i].max), "relative",
                                number(d[i].relative));
        if (d[i].what) json_object_set_new(row, "what", json_string(d[i].what));
        json_array_append_new(rows, row);
    }
    print_json(json_pack("{s:I, s:I, s:o}", "tensors", (json_int_t)n, "different",
                         (json_int_t)different, "differences", rows));
}

int cmd_ckpt_diff(int argc, char **argv) {
    static StringList paths;
    options_parse(&command, argc, argv, &paths);
    if (paths.count != 2) die_usage("clipc ckpt diff: give two PATHs");
    find_checkpoints(&paths);
    Weights w[2];
    Error err;
    for (int i = 0; i < 2; i++)
        if (!weights_open(&w[i], paths.items[i], &err)) die("%s", err.text);
    Difference *d = xcalloc(w[0].count + w[1].count + 1, sizeof *d);
    size_t n = compare_all(d, &w[0], &w[1]), different = 0;
    for (size_t i = 0; i < n; i++) different += d[i].relative > tolerance;
    if (as_json)
        print_object(d, n, different);
    else
        print_rows(d, n, different);
    free(d);
    for (int i = 0; i < 2; i++) weights_close(&w[i]);
    return different ? EXIT_ERROR : EXIT_OK;
}
