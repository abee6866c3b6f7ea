/* The page of zeroshot_report.h. */
#include "data/image/thumbnail.h"
#include "eval/html.h"
#include "eval/zeroshot_report.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    LABELLED = 30,       /* classes of a matrix with names at its sides */
    PAIRS_SHOWN = 50,    /* lines of the table of confusions */
    PAIRS_PICTURED = 24, /* those shown with pictures */
    PICTURES = 6,        /* of a pair */
    SIDE = 96,           /* of a picture */
};

typedef struct Page {
    HtmlPage html;
    FILE *out; /* html.out */
    const ZeroshotReport *r;
    const Predictions *p;
    const ClassSet *s;
    Dataset *data;
    Image image;
    Sample sample;
    ResizeScratch *scratch;
} Page;

static void class_name(const Page *g, int class) { html_text(&g->html, g->s->classes[class]); }

/* ---- numbers ---- */

static void number_row(const Page *g, const char *name, double value, const Interval *i) {
    fprintf(g->out, "<tr><th>%s<td class=n>%.2f %%<td class=n>%.2f to %.2f %%\n", name, 100 * value,
            100 * i->low, 100 * i->high);
}

static void put_numbers(const Page *g) {
    const ZeroshotReport *r = g->r;
    fprintf(g->out,
            "<p>%zu images (%zu could not be read), %zu classes of which %zu occur, %zu "
            "templates.\n<table>\n<tr><th><th>accuracy<th>95 %% confidence\n",
            r->images, g->p->bad, r->classes, r->occurring, g->s->template_count);
    number_row(g, "top-1", r->top1, &r->top1_interval);
    number_row(g, "top-5", r->top5, &r->top5_interval);
    number_row(g, "mean per-class recall", r->mean_per_class, &r->mean_interval);
    fputs("</table>\n<p class=small>Intervals: Wilson's score; of the mean per-class recall "
          "normal, with two hits and two misses added to each class.\n",
          g->out);
}

/* ---- the matrix ---- */

/* Writes a string inside a script; characters that could end the script are escaped. */
static void script_string(FILE *out, const char *s) {
    json_t *string = json_string(s);
    char *quoted = json_dumps(string, JSON_ENCODE_ANY | JSON_ENSURE_ASCII);
    for (const char *c = quoted; *c; c++) {
        if (*c == '<')
            fputs("\\u003c", out);
        else
            fputc(*c, out);
    }
    free(quoted);
    json_decref(string);
}

static const char draw[] =
    "const c = document.getElementById('m'), g = c.getContext('2d'), n = names.length;\n"
    "const z = Math.max(1, Math.floor(640 / n));\n"
    "c.width = c.height = n * z;\n"
    "const rows = new Array(n).fill(0), at = new Map();\n"
    "for (const [t, p, k] of cells) { rows[t] += k; at.set(t * n + p, k); }\n"
    "for (const [t, p, k] of cells) {\n"
    "  const a = Math.sqrt(k / rows[t]);\n"
    "  g.fillStyle = t == p ? `rgba(26,127,75,${a})` : `rgba(190,40,30,${a})`;\n"
    "  g.fillRect(p * z, t * z, z, z);\n"
    "}\n"
    "c.onmousemove = e => {\n"
    "  const b = c.getBoundingClientRect(), f = c.width / b.width / z;\n"
    "  const p = Math.floor((e.clientX - b.left) * f), t = Math.floor((e.clientY - b.top) * f);\n"
    "  if (p < 0 || t < 0 || p >= n || t >= n) return;\n"
    "  document.getElementById('w').textContent =\n"
    "    `${names[t]} taken for ${names[p]}: ${at.get(t * n + p) || 0} of ${rows[t]}`;\n"
    "};\n";

/* Few classes: a table of counts with their names, which needs no script. */
static void put_table(const Page *g) {
    size_t n = g->r->classes, *count = xcalloc(n * n, sizeof *count);
    for (size_t i = 0; i < g->r->cell_count; i++)
        count[(size_t)g->r->cells[i].truth * n + (size_t)g->r->cells[i].predicted] =
            g->r->cells[i].images;
    fputs(
        "<h2>Confusion matrix</h2>\n<p class=small>A row is a true class, a column what was said; "
        "darker: a larger share of the row (green right, red wrong).\n<table class=m>\n<tr><th>",
        g->out);
    for (size_t p = 0; p < n; p++) {
        fputs("<th class=v>", g->out);
        class_name(g, (int)p);
    }
    for (size_t t = 0; t < n; t++) {
        size_t sum = 0;
        for (size_t p = 0; p < n; p++) sum += count[t * n + p];
        fputs("\n<tr><th>", g->out);
        class_name(g, (int)t);
        for (size_t p = 0; p < n; p++) {
            size_t k = count[t * n + p];
            if (k)
                fprintf(g->out, "<td class=n style=\"background:rgba(%s,%.2f)\">%zu",
                        t == p ? "26,127,75" : "190,40,30", sqrt((double)k / (double)sum), k);
            else
                fputs("<td>", g->out);
        }
    }
    fputs("\n</table>\n", g->out);
    free(count);
}

static void put_matrix(const Page *g) {
    if (g->r->classes <= LABELLED) {
        put_table(g);
        return;
    }
    fputs("<h2>Confusion matrix</h2>\n<p class=small>A row is a true class, a column what was "
          "said; darker: a larger share of the row (green right, red wrong). Point at a cell.\n"
          "<p><canvas id=m></canvas>\n<p id=w>&nbsp;</p>\n<noscript>(Drawn by a script inside this "
          "page; the tables below say the same.)</noscript>\n<script>\nconst names = [",
          g->out);
    for (size_t i = 0; i < g->r->classes; i++) {
        if (i) fputc(',', g->out);
        script_string(g->out, g->s->classes[i]);
    }
    fputs("];\nconst cells = [", g->out);
    for (size_t i = 0; i < g->r->cell_count; i++) {
        const Cell *c = &g->r->cells[i];
        fprintf(g->out, "%s[%d,%d,%zu]", i ? "," : "", c->truth, c->predicted, c->images);
    }
    fprintf(g->out, "];\n%s</script>\n", draw);
}

/* ---- confusions ---- */

/* False: the picture cannot be read now. */
static bool put_picture(Page *g, const Prediction *q) {
    uint8_t *jpeg;
    size_t size;
    Error err;
    if (!dataset_read(g->data, (size_t)q->sample, &g->sample, &err) ||
        !image_decode(&g->image, g->sample.image, g->sample.image_size, (size_t)image_max_pixels,
                      &err) ||
        !thumbnail_jpeg(&jpeg, &size, &g->image, SIDE, &g->scratch, &err))
        return false;
    html_picture(&g->html, jpeg, size, g->sample.key);
    free(jpeg);
    return true;
}

static void put_confusions(Page *g) {
    const ZeroshotReport *r = g->r;
    fputs("<h2>Most frequent confusions</h2>\n<table>\n<tr><th>class<th>taken for<th>images<th>of "
          "its images<th>some of them\n",
          g->out);
    for (size_t i = 0; i < size_min(PAIRS_SHOWN, r->confusion_count); i++) {
        const Cell *c = &r->confusions[i];
        fputs("<tr><td>", g->out);
        class_name(g, c->truth);
        fputs("<td>", g->out);
        class_name(g, c->predicted);
        fprintf(g->out, "<td class=n>%zu<td class=n>%.1f %%<td>", c->images,
                100.0 * (double)c->images / (double)r->of_class[c->truth].images);
        size_t shown = 0;
        for (size_t j = 0; i < PAIRS_PICTURED && j < g->p->count && shown < PICTURES; j++) {
            const Prediction *q = &g->p->list[j];
            if (q->label == c->truth && q->top[0] == c->predicted) shown += put_picture(g, q);
        }
        fputc('\n', g->out);
    }
    if (!r->confusion_count) fputs("<tr><td colspan=5>none\n", g->out);
    fputs("</table>\n", g->out);
}

/* ---- classes, templates ---- */

static void bar(FILE *out, double share) {
    fprintf(out, "<td class=n>%.1f %%<td><div class=bar style=\"width:%.0fpx\"></div>", 100 * share,
            120 * share);
}

static void put_classes(const Page *g) {
    fputs("<h2>Classes, worst first</h2>\n<table>\n<tr><th>class<th colspan=2>recall<th>among five"
          "<th>images<th>most often taken for\n",
          g->out);
    for (size_t i = 0; i < g->r->occurring; i++) {
        const ClassReport *c = &g->r->of_class[g->r->worst_first[i]];
        double n = (double)c->images;
        fputs("<tr><td>", g->out);
        class_name(g, g->r->worst_first[i]);
        bar(g->out, (double)c->right / n);
        fprintf(g->out, "<td class=n>%.1f %%<td class=n>%zu<td>", 100 * (double)c->right5 / n,
                c->images);
        if (c->confused >= 0) {
            class_name(g, c->confused);
            fprintf(g->out, " (%zu)", c->confused_images);
        }
        fputc('\n', g->out);
    }
    fputs("</table>\n", g->out);
}

static void put_templates(const Page *g) {
    if (!g->p->templates) return;
    fputs("<h2>Each template alone</h2>\n<table>\n<tr><th>template<th colspan=2>top-1<th>against "
          "the ensemble\n",
          g->out);
    for (size_t t = 0; t < g->p->templates; t++) {
        double share = g->r->images ? (double)g->p->right[t] / (double)g->r->images : 0;
        fputs("<tr><td>", g->out);
        html_text(&g->html, g->s->templates[t]);
        bar(g->out, share);
        fprintf(g->out, "<td class=n>%+.2f\n", 100 * (share - g->r->top1));
    }
    fputs("</table>\n", g->out);
}

bool zeroshot_write_html(const char *path, const char *title, const ZeroshotReport *r,
                         const Predictions *p, const ClassSet *s, Dataset *d, Error *err) {
    Page g = {.r = r, .p = p, .s = s, .data = d};
    if (!html_open(&g.html, path, title, err)) return false;
    g.out = g.html.out;
    fputs("<h1>", g.out);
    html_text(&g.html, title);
    fputs("</h1>\n", g.out);
    put_numbers(&g);
    put_matrix(&g);
    put_confusions(&g);
    put_classes(&g);
    put_templates(&g);
    image_free(&g.image);
    sample_free(&g.sample);
    resize_scratch_free(&g.scratch);
    return html_close(&g.html, err);
}
