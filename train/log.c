#include "train/log.h"

#include "data/io/crc32c.h"
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

struct TrainLog {
    char *metrics_path, *events_path;
    FILE *metrics, *events;
    uint64_t total_steps, every, first_step;
    bool terminal, line_open; /* line_open: the cursor stands on a live line */
    double started, shown;    /* clock of the first step; of the last line */
};

static _Noreturn void cannot_write(const char *path) {
    die("%s: %s: what this run reports would be lost", path, strerror(errno));
}

static void make_folder(const char *path) {
    if (mkdir(path, 0777) && errno != EEXIST) die("%s: %s", path, strerror(errno));
}

/* ---- metrics.jsonl ---- */

/* Cuts the file behind its last whole line of a step up to keep_step. */
static void cut_back(const char *path, uint64_t keep_step) {
    FILE *f = fopen(path, "rb");
    if (!f) return;
    char *line = NULL;
    size_t capacity = 0;
    off_t keep = 0, end = 0;
    for (ssize_t n; (n = getline(&line, &capacity, f)) > 0;) {
        unsigned long long step;
        end += n;
        if (line[n - 1] != '\n' || sscanf(line, "{\"step\": %llu", &step) != 1) continue;
        if (step > keep_step) break;
        keep = end;
    }
    free(line);
    fclose(f);
    if (truncate(path, keep)) cannot_write(path);
}

static void put_number(FILE *f, const char *name, double x) {
    if (isfinite(x))
        fprintf(f, ", \"%s\": %.9g", name, x);
    else
        fprintf(f, ", \"%s\": null", name);
}

static void write_metrics(TrainLog *l, const StepMetrics *m) {
    FILE *f = l->metrics;
    fprintf(f, "{\"step\": %llu, \"epoch\": %llu", (unsigned long long)m->step,
            (unsigned long long)m->epoch);
    put_number(f, "loss", m->loss);
    put_number(f, "logit_scale", m->logit_scale);
    put_number(f, "grad_norm", m->grad_norm);
    put_number(f, "lr", m->lr);
    put_number(f, "image_cosine", m->image_cosine);
    put_number(f, "text_cosine", m->text_cosine);
    put_number(f, "samples_per_s", m->samples_per_s);
    put_number(f, "data_wait", m->data_wait);
    fprintf(f, ", \"samples\": %llu, \"bad\": %llu, \"skipped\": %s}\n",
            (unsigned long long)m->samples, (unsigned long long)m->bad,
            m->skipped ? "true" : "false");
    if (fflush(f) || ferror(f)) cannot_write(l->metrics_path);
}

/* ---- TensorBoard: records of (length, crc, an Event in protobuf's wire format, crc) ---- */

/* CRC-32C, rotated and offset as TFRecord files mask it. */
static uint32_t masked_crc(const unsigned char *bytes, size_t n) {
    uint32_t crc = crc32c(0, bytes, n);
    return (crc >> 15 | crc << 17) + 0xa282ead8u;
}

typedef struct Message {
    unsigned char bytes[1024];
    size_t size;
} Message;

static void put_bytes(Message *m, const void *bytes, size_t n) {
    assert(n <= sizeof m->bytes - m->size);
    memcpy(m->bytes + m->size, bytes, n);
    m->size += n;
}

static void put_varint(Message *m, uint64_t x) {
    for (; x >= 128; x >>= 7) put_bytes(m, &(unsigned char){(unsigned char)(x | 128)}, 1);
    put_bytes(m, &(unsigned char){(unsigned char)x}, 1);
}

/* Wire types: 0 varint, 1 eight bytes, 2 length and bytes, 5 four bytes. */
static void put_tag(Message *m, unsigned field, unsigned wire_type) {
    put_varint(m, field << 3 | wire_type);
}

static void put_block(Message *m, unsigned field, const void *bytes, size_t n) {
    put_tag(m, field, 2);
    put_varint(m, n);
    put_bytes(m, bytes, n);
}

/* Fields of tensorflow.Event that are used here. */
enum { EVENT_WALL_TIME = 1, EVENT_STEP, EVENT_VERSION, EVENT_SUMMARY = 5, EVENT_SESSION_LOG = 7 };

static void start_event(Message *m, uint64_t step) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    double now = (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
    m->size = 0;
    put_tag(m, EVENT_WALL_TIME, 1);
    put_bytes(m, &now, sizeof now);
    put_tag(m, EVENT_STEP, 0);
    put_varint(m, step);
}

static void write_event(TrainLog *l, const Message *m) {
    unsigned char length[8];
    for (int i = 0; i < 8; i++) length[i] = (unsigned char)((uint64_t)m->size >> 8 * i);
    uint32_t head = masked_crc(length, sizeof length), body = masked_crc(m->bytes, m->size);
    fwrite(length, 1, sizeof length, l->events);
    fwrite(&head, sizeof head, 1, l->events);
    fwrite(m->bytes, 1, m->size, l->events);
    fwrite(&body, sizeof body, 1, l->events);
}

/* Summary { repeated Value { tag = 1, simple_value = 2 } value = 1 }. */
static void put_scalar(Message *summary, const char *tag, double x) {
    Message value = {.size = 0};
    put_block(&value, 1, tag, strlen(tag));
    put_tag(&value, 2, 5);
    put_bytes(&value, &(float){(float)x}, sizeof(float));
    put_block(summary, 1, value.bytes, value.size);
}

static void write_scalars(TrainLog *l, const StepMetrics *m) {
    Message event, summary = {.size = 0};
    put_scalar(&summary, "train/loss", m->loss);
    put_scalar(&summary, "train/logit_scale", m->logit_scale);
    put_scalar(&summary, "train/grad_norm", m->grad_norm);
    put_scalar(&summary, "train/lr", m->lr);
    put_scalar(&summary, "train/image_cosine", m->image_cosine);
    put_scalar(&summary, "train/text_cosine", m->text_cosine);
    put_scalar(&summary, "train/samples_per_s", m->samples_per_s);
    put_scalar(&summary, "train/data_wait", m->data_wait);
    put_scalar(&summary, "train/epoch", (double)m->epoch);
    start_event(&event, m->step);
    put_block(&event, EVENT_SUMMARY, summary.bytes, summary.size);
    write_event(l, &event);
    if (fflush(l->events) || ferror(l->events)) cannot_write(l->events_path);
}

/* The session start tells TensorBoard to drop what earlier files of a killed run say about this
 * step and those after it. */
static void open_events(TrainLog *l, const char *dir) {
    char host[64] = "host";
    gethostname(host, sizeof host - 1);
    /* the same second may see two starts of a run */
    for (int i = 0;; i++) {
        l->events_path = xasprintf("%s/tensorboard/events.out.tfevents.%010lld.%s.%ld.%d", dir,
                                   (long long)time(NULL), host, (long)getpid(), i);
        l->events = fopen(l->events_path, "wbx");
        if (l->events) break;
        if (errno != EEXIST) cannot_write(l->events_path);
        free(l->events_path);
    }
    Message m;
    static const char version[] = "brain.Event:2";
    start_event(&m, 0);
    put_block(&m, EVENT_VERSION, version, sizeof version - 1);
    write_event(l, &m);
    static const unsigned char start_status[] = {1 << 3, 1};
    start_event(&m, l->first_step);
    put_block(&m, EVENT_SESSION_LOG, start_status, sizeof start_status);
    write_event(l, &m);
    if (fflush(l->events)) cannot_write(l->events_path);
}

/* ---- the line for people ---- */

static const char *duration(char out[32], double seconds) {
    unsigned long long s = seconds > 0 ? (unsigned long long)(seconds + 0.5) : 0;
    if (s >= 24 * 3600)
        snprintf(out, 32, "%llud%02lluh", s / (24 * 3600), s / 3600 % 24);
    else
        snprintf(out, 32, "%llu:%02llu:%02llu", s / 3600, s / 60 % 60, s % 60);
    return out;
}

/* Plain lines come every `every` steps, and after a minute of silence; a terminal's live line is
 * redrawn at a readable pace in between. */
static void show(TrainLog *l, const StepMetrics *m) {
    const double now = clock_now();
    bool last = m->step >= l->total_steps, first = m->step == l->first_step;
    bool due = first || last || m->step % l->every == 0 || now - l->shown > 60;
    if (first) l->started = now;
    if (!due && !(l->terminal && now - l->shown > 0.25)) return;
    l->shown = now;
    double done = (double)(m->step - l->first_step);
    char left[32] = "?", bad[40] = "";
    if (!first) duration(left, (now - l->started) / done * (double)(l->total_steps - m->step));
    if (m->bad) snprintf(bad, sizeof bad, "  bad %llu", (unsigned long long)m->bad);
    fprintf(stderr,
            "%sstep %llu/%llu  epoch %llu  loss %.4f  scale %.2f  lr %.3g  %.*f samples/s  wait "
            "%.0f%%  ETA %s%s%s%s",
            l->terminal ? "\r\033[K" : "", (unsigned long long)m->step,
            (unsigned long long)l->total_steps, (unsigned long long)m->epoch, m->loss,
            m->logit_scale, m->lr, m->samples_per_s < 100 ? 1 : 0, m->samples_per_s,
            100 * m->data_wait, left, bad, m->skipped ? "  SKIPPED" : "",
            l->terminal && !due ? "" : "\n");
    fflush(stderr);
    l->line_open = l->terminal && !due;
}

/* ---- open, step, close ---- */

TrainLog *train_log_open(const char *dir, uint64_t keep_step, uint64_t total_steps,
                         uint64_t every) {
    TrainLog *l = xcalloc(1, sizeof *l);
    l->total_steps = total_steps;
    l->every = every ? every : 1;
    l->first_step = keep_step + 1;
    l->terminal = isatty(STDERR_FILENO);
    make_folder(dir);
    char *tensorboard = xasprintf("%s/tensorboard", dir);
    make_folder(tensorboard);
    free(tensorboard);
    l->metrics_path = xasprintf("%s/metrics.jsonl", dir);
    cut_back(l->metrics_path, keep_step);
    l->metrics = fopen(l->metrics_path, "ab");
    if (!l->metrics) cannot_write(l->metrics_path);
    open_events(l, dir);
    return l;
}

void train_log_step(TrainLog *l, const StepMetrics *m) {
    assert(m->step >= l->first_step);
    write_metrics(l, m);
    write_scalars(l, m);
    show(l, m);
}

void train_log_metrics(TrainLog *l, uint64_t step, const Metrics *m) {
    Message event, summary = {.size = 0};
    fprintf(l->metrics, "{\"step\": %llu", (unsigned long long)step);
    if (l->line_open) fputc('\n', stderr);
    l->line_open = false;
    fprintf(stderr, "step %llu measured:", (unsigned long long)step);
    for (size_t i = 0; i < m->count; i++) {
        put_number(l->metrics, m->list[i].name, m->list[i].value);
        fprintf(stderr, "  %s %.4f", m->list[i].name, m->list[i].value);
        summary.size = 0;
        put_scalar(&summary, m->list[i].name, m->list[i].value);
        start_event(&event, step);
        put_block(&event, EVENT_SUMMARY, summary.bytes, summary.size);
        write_event(l, &event);
    }
    fputs("}\n", l->metrics);
    fputc('\n', stderr);
    if (fflush(l->metrics) || ferror(l->metrics)) cannot_write(l->metrics_path);
    if (fflush(l->events) || ferror(l->events)) cannot_write(l->events_path);
}

void train_log_close(TrainLog *l) {
    if (!l) return;
    if (l->line_open) fputc('\n', stderr);
    if (fclose(l->metrics)) cannot_write(l->metrics_path);
    if (fclose(l->events)) cannot_write(l->events_path);
    free(l->metrics_path);
    free(l->events_path);
    free(l);
}
