#include "tools/ckpt_sweep.h"

#include "data/io/progress.h"
#include "data/io/writer.h"
#include "eval/features.h"
#include "eval/retrieval.h"
#include "train/model/pretrained.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_ALPHAS = 1001 };

/* Recalls in percent, the two directions' means. */
typedef struct Point {
    double at1, at5, at10;
} Point;

typedef struct Curve {
    const SweepOptions *o;
    size_t count, sets, chosen;
    double alpha[MOST_ALPHAS];
    char **names;  /* [sets] short ones */
    Point *points; /* [count][sets] */
} Curve;

static size_t read_range(const char *text, double *alpha) {
    double from, to, step;
    int end = 0;
    if (sscanf(text, "%lf:%lf:%lf%n", &from, &to, &step, &end) != 3 || text[end] || !(from >= 0) ||
        !(to <= 1) || !(from <= to) || !(step >= 1e-3))
        die_usage("clipc ckpt mix: --sweep is FROM:TO:STEP within 0 and 1, as in 0:1:0.1; not '%s'",
                  text);
    size_t n = (size_t)floor((to - from) / step + 1e-6) + 1;
    /* 0.30000000000000004 would be no weight that --alpha 0.3 gives */
    for (size_t i = 0; i < n; i++) alpha[i] = round((from + (double)i * step) * 1e9) / 1e9;
    return n;
}

void sweep_check(const SweepOptions *o) {
    double alpha[MOST_ALPHAS];
    read_range(o->range, alpha);
    if (!o->data.count)
        die_usage("clipc ckpt mix: --sweep measures on --data: pairs to keep, then pairs to gain "
                  "on");
}

static void mix(Params *p, const Weights *a, const Weights *b, double alpha) {
    for (size_t i = 0; i < p->tensors; i++) {
        size_t n = p->list[i].size;
        Weight mixed = a->list[i];
        float *x = xmalloc(size_mul(2 * n, sizeof *x)), *y = x + n;
        weight_read(&a->list[i], 0, n, x);
        weight_read(&b->list[i], 0, n, y);
        for (size_t j = 0; j < n; j++)
            x[j] = (float)((1 - alpha) * (double)x[j] + alpha * (double)y[j]);
        mixed.own = x;
        weight_load(&mixed, p, p->master, &p->list[i]);
        free(x);
    }
    params_round(p);
}

static Point measure(Encoder *e, const char *spec, Dataset *d) {
    const Kernels *k = encoder_kernels(e);
    Features f;
    features_of_dataset(&f, e, comm_self(k), d, true, true);
    if (!f.count) die("--data %s: no readable pair", spec);
    size_t *to_text = xcalloc(2 * f.count, sizeof *to_text), *to_image = to_text + f.count;
    retrieval_ranks(k, to_text, f.images, f.texts, f.count, f.dim);
    retrieval_ranks(k, to_image, f.texts, f.images, f.count, f.dim);
    Recall t = retrieval_recall(to_text, f.count), i = retrieval_recall(to_image, f.count);
    features_free(&f);
    free(to_text);
    return (Point){50 * (t.at1 + i.at1), 50 * (t.at5 + i.at5), 50 * (t.at10 + i.at10)};
}

static const Point *point(const Curve *c, size_t i, size_t set) {
    return &c->points[i * c->sets + set];
}

static size_t choose(const Curve *c) {
    size_t best = 0, last = c->sets - 1;
    for (size_t i = 1; i < c->count; i++) {
        bool kept = true;
        for (size_t s = 0; s < last; s++)
            kept &= point(c, 0, s)->at10 - point(c, i, s)->at10 <= c->o->most_lost + 1e-9;
        if (kept && point(c, i, last)->at10 > point(c, best, last)->at10) best = i;
    }
    return best;
}

static const char *mark(const Curve *c, size_t i) {
    return i == c->chosen     ? "chosen"
           : c->alpha[i] <= 0 ? "before"
           : c->alpha[i] >= 1 ? "after"
                              : "";
}

static void print_table(const Curve *c) {
    printf("%-8s", "");
    for (size_t s = 0; s < c->sets; s++) printf("%s%24.24s", s ? "   " : "", c->names[s]);
    printf("\n%-8s", "alpha");
    for (size_t s = 0; s < c->sets; s++)
        printf("%s%8s%8s%8s", s ? "   " : "", "R@1", "R@5", "R@10");
    printf("\n");
    for (size_t i = 0; i < c->count; i++) {
        printf("%-8g", c->alpha[i]);
        for (size_t s = 0; s < c->sets; s++) {
            const Point *p = point(c, i, s);
            printf("%s%8.1f%8.1f%8.1f", s ? "   " : "", p->at1, p->at5, p->at10);
        }
        printf("%s%s\n", *mark(c, i) ? "   " : "", mark(c, i));
    }
}

static void print_object(const Curve *c) {
    json_t *rows = json_array();
    for (size_t i = 0; i < c->count; i++) {
        json_t *sets = json_array();
        for (size_t s = 0; s < c->sets; s++) {
            const Point *p = point(c, i, s);
            json_array_append_new(
                sets, json_pack("{s:o, s:f, s:f, s:f}", "data", json_text(c->o->data.items[s]),
                                "R@1", p->at1 / 100, "R@5", p->at5 / 100, "R@10", p->at10 / 100));
        }
        json_array_append_new(rows, json_pack("{s:f, s:o}", "alpha", c->alpha[i], "sets", sets));
    }
    print_json(json_pack("{s:f, s:o}", "alpha", c->alpha[c->chosen], "curve", rows));
}

/* ---- the plot ---- */

enum { LEFT = 70, TOP = 20, WIDE = 560, HIGH = 360 };

typedef struct Axis {
    double low, high;
} Axis;

static void widen(Axis *a, double x) {
    a->low = fmin(a->low, x);
    a->high = fmax(a->high, x);
}

static double at(const Axis *a, double x) {
    return a->high > a->low ? (x - a->low) / (a->high - a->low) : 0.5;
}

static void svg_text(FILE *f, double x, double y, const char *anchor, const char *text) {
    fprintf(f, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\">", x, y, anchor);
    for (const char *t = text; *t; t++) {
        if (*t == '<' || *t == '&')
            fprintf(f, "&#%d;", *t);
        else
            fputc(*t, f);
    }
    fputs("</text>\n", f);
}

static void svg_axes(FILE *f, const Curve *c, const Axis *x, const Axis *y) {
    char text[32];
    fprintf(f,
            "<rect x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\" fill=\"none\" stroke=\"#999\"/>\n",
            LEFT, TOP, WIDE, HIGH);
    for (int i = 0; i <= 4; i++) {
        double share = i / 4.0;
        snprintf(text, sizeof text, c->sets > 1 ? "%.1f" : "%.2f",
                 x->low + share * (x->high - x->low));
        svg_text(f, LEFT + share * WIDE, TOP + HIGH + 18, "middle", text);
        snprintf(text, sizeof text, "%.1f", y->low + share * (y->high - y->low));
        svg_text(f, LEFT - 6, TOP + HIGH - share * HIGH + 4, "end", text);
    }
    char *label =
        xasprintf("%s%s", c->sets > 1 ? c->names[0] : "alpha", c->sets > 1 ? ": recall@10, %" : "");
    svg_text(f, LEFT + WIDE / 2.0, TOP + HIGH + 40, "middle", label);
    free(label);
    label = xasprintf("%s: recall@10, %%", c->names[c->sets - 1]);
    svg_text(f, LEFT, TOP - 6, "start", label);
    free(label);
}

/* The first set's recall@10 (of a single set: alpha) against the last one's. */
static void write_plot(const Curve *c) {
    char *text, name[32];
    size_t n;
    FILE *f = open_memstream(&text, &n);
    if (!f) die("out of memory");
    Axis x = {INFINITY, -INFINITY}, y = x;
    double *at_x = xcalloc(c->count, sizeof *at_x);
    for (size_t i = 0; i < c->count; i++) {
        at_x[i] = c->sets > 1 ? point(c, i, 0)->at10 : c->alpha[i];
        widen(&x, at_x[i]);
        widen(&y, point(c, i, c->sets - 1)->at10);
    }
    fprintf(f,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" "
            "font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%%\" height=\"100%%\" "
            "fill=\"white\"/>\n",
            LEFT + WIDE + 30, TOP + HIGH + 56);
    svg_axes(f, c, &x, &y);
    fputs("<polyline fill=\"none\" stroke=\"#1f4e79\" points=\"", f);
    for (size_t i = 0; i < c->count; i++)
        fprintf(f, "%.1f,%.1f ", LEFT + at(&x, at_x[i]) * WIDE,
                TOP + HIGH - at(&y, point(c, i, c->sets - 1)->at10) * HIGH);
    fputs("\"/>\n", f);
    for (size_t i = 0; i < c->count; i++) {
        double px = LEFT + at(&x, at_x[i]) * WIDE,
               py = TOP + HIGH - at(&y, point(c, i, c->sets - 1)->at10) * HIGH;
        fprintf(f, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"%d\" fill=\"%s\"/>\n", px, py,
                i == c->chosen ? 6 : 4, i == c->chosen ? "#c00" : "#1f4e79");
        snprintf(name, sizeof name, "%g", c->alpha[i]);
        svg_text(f, px + 8, py - 6, "start", name);
    }
    fputs("</svg>\n", f);
    if (fclose(f)) die("out of memory");
    Error err;
    if (!file_write_atomic(c->o->plot, text, n, &err)) die("%s", err.text);
    FREE_ALL(text, at_x);
}

double sweep_run(const SweepOptions *o, const char *a, const char *b) {
    Curve c = {.o = o, .sets = o->data.count};
    c.count = read_range(o->range, c.alpha);
    c.points = xcalloc(c.count * c.sets, sizeof *c.points);
    c.names = xcalloc(c.sets, sizeof *c.names);
    Dataset **d = xcalloc(c.sets, sizeof *d);
    for (size_t s = 0; s < c.sets; s++) {
        c.names[s] = source_short_name(o->data.items[s]);
        d[s] = open_dataset("data", o->data.items[s], &o->dataset);
    }
    Encoder *e = encoder_open(&o->encoder);
    Params *p = encoder_params(e);
    Weights wa, wb;
    pretrained_open(&wa, a, encoder_config(e), p->list, p->tensors, p->only);
    pretrained_open(&wb, b, encoder_config(e), p->list, p->tensors, p->only);
    Progress progress = progress_start("sweep");
    for (size_t i = 0; i < c.count; i++) {
        mix(p, &wa, &wb, c.alpha[i]);
        for (size_t s = 0; s < c.sets; s++) {
            c.points[i * c.sets + s] = measure(e, o->data.items[s], d[s]);
            progress_show(&progress, i * c.sets + s + 1, c.count * c.sets, "");
        }
    }
    progress_end(&progress);
    c.chosen = choose(&c);
    if (o->json)
        print_object(&c);
    else
        print_table(&c);
    if (o->plot) write_plot(&c);
    double chosen = c.alpha[c.chosen];
    weights_close(&wa);
    weights_close(&wb);
    encoder_close(e);
    for (size_t s = 0; s < c.sets; s++) {
        free(c.names[s]);
        dataset_close(d[s]);
    }
    FREE_ALL(c.points, c.names, d);
    return chosen;
}
