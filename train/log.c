#include "train/log.h"

#include "data/io/folder.h"
#include "data/io/progress.h"
#include "train/metrics_file.h"
#include "train/tensorboard.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct TrainLog {
    char *metrics_path;
    FILE *metrics;
    Tensorboard *tensorboard;
    uint64_t total_steps, every, first_step;
    bool terminal;
    double started, shown; /* clock of the first step; of the last line */
};

static _Noreturn void lost(const char *why) { die("%s: what this run reports would be lost", why); }

static _Noreturn void cannot_write(const char *path) {
    Error err;
    error_set(&err, "%s: %s", path, strerror(errno));
    lost(err.text);
}

/* ---- metrics.jsonl ---- */

static void put_number(FILE *f, const char *name, double x) {
    if (isfinite(x))
        fprintf(f, ", \"%s\": %.9g", name, x);
    else
        fprintf(f, ", \"%s\": null", name);
}

/* Every line ends with the time at which it was written. */
static void end_line(TrainLog *l) {
    fprintf(l->metrics, ", \"time\": %.3f}\n", wall_time());
    if (fflush(l->metrics) || ferror(l->metrics)) cannot_write(l->metrics_path);
}

/* Tags in TensorBoard; metrics.jsonl has the names without the prefix. */
enum { PREFIX = sizeof "train/" - 1 };

static void write_step(TrainLog *l, const StepMetrics *m) {
    const Scalar all[] = {
        {"train/views_loss", m->views_loss}, /* only with views */
        {"train/loss", m->loss},
        {"train/logit_scale", m->logit_scale},
        {"train/grad_norm", m->grad_norm},
        {"train/lr", m->lr},
        {"train/image_cosine", m->image_cosine},
        {"train/text_cosine", m->text_cosine},
        {"train/samples_per_s", m->samples_per_s},
        {"train/data_wait", m->data_wait},
        {"train/epoch", (double)m->epoch}, /* last, because it is an integer in metrics.jsonl */
    };
    size_t absent = m->views_loss > 0 ? 0 : 1, count = COUNT(all) - absent;
    const Scalar *list = all + absent;
    FILE *f = l->metrics;
    fprintf(f, "{\"step\": %llu, \"epoch\": %llu", (unsigned long long)m->step,
            (unsigned long long)m->epoch);
    for (size_t i = 0; i + 1 < count; i++) put_number(f, list[i].tag + PREFIX, list[i].value);
    fprintf(f, ", \"samples\": %llu, \"bad\": %llu, \"skipped\": %s",
            (unsigned long long)m->samples, (unsigned long long)m->bad,
            m->skipped ? "true" : "false");
    end_line(l);
    tensorboard_write(l->tensorboard, m->step, list, count);
}

/* ---- the progress line ---- */

/* Plain lines are printed every `every` steps, and after a minute without one; in between a
 * terminal's live line is redrawn at a readable rate. */
static void show(TrainLog *l, const StepMetrics *m) {
    const double now = clock_now();
    bool last = m->step >= l->total_steps, first = m->step == l->first_step;
    bool due = first || last || m->step % l->every == 0 || now - l->shown > 60;
    if (first) l->started = now;
    if (!due && !(l->terminal && now - l->shown > 0.25)) return;
    l->shown = now;
    double done = (double)(m->step - l->first_step);
    char left[32] = "?", bad[40] = "", line[256];
    if (!first) duration_text(left, (now - l->started) / done * (double)(l->total_steps - m->step));
    if (m->bad) snprintf(bad, sizeof bad, "  bad %llu", (unsigned long long)m->bad);
    snprintf(line, sizeof line,
             "step %llu/%llu  epoch %llu  loss %.4f  scale %.2f  lr %.3g  %.*f samples/s  wait "
             "%.0f%%  ETA %s%s%s",
             (unsigned long long)m->step, (unsigned long long)l->total_steps,
             (unsigned long long)m->epoch, m->loss, m->logit_scale, m->lr,
             m->samples_per_s < 100 ? 1 : 0, m->samples_per_s, 100 * m->data_wait, left, bad,
             m->skipped ? "  SKIPPED" : "");
    if (l->terminal) log_live("%s", due ? "" : line);
    if (!due) return;
    fputs(line, stderr); /* whole, because it is kept */
    if (l->terminal)
        log_live_end();
    else
        fputc('\n', stderr);
}

/* ---- open, step, close ---- */

TrainLog *train_log_open(const char *dir, uint64_t keep_step, uint64_t total_steps,
                         uint64_t every) {
    TrainLog *l = xcalloc(1, sizeof *l);
    l->total_steps = total_steps;
    l->every = every ? every : 1;
    l->first_step = keep_step + 1;
    l->terminal = isatty(STDERR_FILENO);
    char *tensorboard = xasprintf("%s/tensorboard", dir);
    folder_make_or_die(tensorboard);
    l->metrics_path = xasprintf("%s/metrics.jsonl", dir);
    Error err;
    if (!metrics_cut(l->metrics_path, keep_step, &err)) lost(err.text);
    l->metrics = fopen(l->metrics_path, "ab");
    if (!l->metrics) cannot_write(l->metrics_path);
    l->tensorboard = tensorboard_open(tensorboard, l->first_step);
    free(tensorboard);
    return l;
}

void train_log_step(TrainLog *l, const StepMetrics *m) {
    assert(m->step >= l->first_step);
    write_step(l, m);
    show(l, m);
}

void train_log_metrics(TrainLog *l, uint64_t step, const Metrics *m) {
    log_live_end();
    fprintf(stderr, "step %llu measured:", (unsigned long long)step);
    for (size_t i = 0; i < m->count; i++)
        fprintf(stderr, "  %s %.4f", m->list[i].name, m->list[i].value);
    fputc('\n', stderr);
    fprintf(l->metrics, "{\"step\": %llu", (unsigned long long)step);
    for (size_t i = 0; i < m->count; i++) {
        put_number(l->metrics, m->list[i].name, m->list[i].value);
        tensorboard_write(l->tensorboard, step, &(Scalar){m->list[i].name, m->list[i].value}, 1);
    }
    end_line(l);
}

void train_log_close(TrainLog *l) {
    if (!l) return;
    log_live_end();
    if (fclose(l->metrics)) cannot_write(l->metrics_path);
    tensorboard_close(l->tensorboard);
    FREE_ALL(l->metrics_path, l);
}
