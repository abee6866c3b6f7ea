#include "train/record.h"

#include "train/train_options.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The effect of a change on the run that resumes. */
typedef enum {
    SAID,  /* it is logged, and the run resumes */
    ORDER, /* the order of samples: the rest of an epoch would be of other samples */
    LOSS,  /* another run */
    MODEL, /* only another name of the same architecture */
} Kind;

static const struct {
    const char *name; /* of an option */
    Kind kind;
    const char *before; /* its value in runs whose record lacks it; NULL: not known */
} rows[] = {
    {"model", MODEL, NULL},
    {"siglip", LOSS, NULL},
    {"objective", LOSS, NULL},
    {"optimizer", LOSS, "adamw"},
    {"shuffle", ORDER, NULL},
    {"shuffle-window", ORDER, NULL},
    {"dataset-resampled", ORDER, NULL},
    {"train-data-upsampling-factors", ORDER, NULL},
    {"train-num-samples", ORDER, NULL},
    {"epochs", SAID, NULL},
    {"max-steps", SAID, NULL},
    {"min-steps", SAID, NULL},
    {"lr", SAID, NULL},
    {"lr-layer-decay", SAID, NULL},
    {"lr-scheduler", SAID, NULL},
    {"warmup", SAID, NULL},
    {"epochs-cooldown", SAID, NULL},
    {"lr-cooldown-end", SAID, NULL},
    {"lr-cooldown-power", SAID, NULL},
    {"wd", SAID, NULL},
    {"wd-groups", SAID, NULL},
    {"beta1", SAID, NULL},
    {"beta2", SAID, NULL},
    {"eps", SAID, NULL},
    {"grad-clip-norm", SAID, NULL},
    {"moments", SAID, NULL},
    {"ema", SAID, NULL},
    {"precision", SAID, NULL},
    {"image-key", SAID, NULL},
    {"background", SAID, NULL},
    {"exif", SAID, NULL},
    {"text-key", SAID, NULL},
    {"json-text-key", SAID, NULL},
    {"captions", SAID, NULL},
    {"caption-template", SAID, NULL},
    {"train-transform", SAID, NULL},
    {"aug-scale", SAID, NULL},
    {"aug-ratio", SAID, NULL},
    {"color-jitter", SAID, NULL},
    {"color-jitter-prob", SAID, NULL},
    {"gray-scale-prob", SAID, NULL},
    {"view-scale", SAID, NULL},
    {"view-flip-prob", SAID, NULL},
    {"view-jitter", SAID, NULL},
    {"view-jitter-prob", SAID, NULL},
    {"view-gray-prob", SAID, NULL},
    {"view-blur-prob", SAID, NULL},
    {"view-blur-sigma", SAID, NULL},
    {"temperature", SAID, NULL},
    {"ssl-scale", SAID, NULL},
    {"force-patch-dropout", SAID, NULL},
    {"lock-image", SAID, NULL},
    {"lock-text", SAID, NULL},
    {"lock-image-unlocked-groups", SAID, NULL},
    {"lock-text-unlocked-layers", SAID, NULL},
    {"lock-text-freeze-layer-norm", SAID, NULL},
    {"lora-rank", SAID, NULL},
    {"lora-alpha", SAID, NULL},
    {"multi-positive", SAID, NULL},
    {"distill-pretrained", SAID, NULL},
    {"gather-dtype", SAID, NULL},
    {"spike-factor", SAID, NULL},
};

static const char data_name[] = "data", batch_name[] = "global-batch";

static void put(FILE *f, const char *name, const char *value) {
    fprintf(f, "%s=", name);
    for (; *value; value++) fputc(*value == '\n' ? ' ' : *value, f);
    fputc('\n', f);
}

static uint64_t total_steps(const RecordFacts *f) {
    return f->sched->total + (uint64_t)f->sched->shift;
}

static char *record_text(const RecordFacts *f) {
    char *text, facts[96];
    size_t n;
    FILE *out = open_memstream(&text, &n);
    if (!out) die("out of memory");
    for (size_t i = 0; i < COUNT(rows); i++) {
        char *value = option_record(option_find(&train_command, rows[i].name));
        put(out, rows[i].name, value);
        free(value);
    }
    snprintf(facts, sizeof facts, "%zu", f->global_batch);
    put(out, batch_name, facts);
    snprintf(facts, sizeof facts, "%llu", (unsigned long long)total_steps(f));
    put(out, "total-steps", facts);
    if (dataset_feed(f->data)) /* its shards are not known */
        snprintf(facts, sizeof facts, "a stream, shuffled in a buffer of %lld",
                 (long long)train_options.shuffle_buffer);
    else
        snprintf(facts, sizeof facts, "%zu samples in %zu shards (%08x)", dataset_count(f->data),
                 dataset_shards(f->data), (unsigned)(f->data_hash ^ f->data_hash >> 32));
    put(out, data_name, facts);
    if (fclose(out)) die("out of memory");
    return text;
}

/* malloc'd; NULL: the record has none. */
static char *record_value(const char *record, const char *name) {
    size_t n = strlen(name);
    for (const char *line = record; *line; line += strcspn(line, "\n"), line += *line == '\n')
        if (!strncmp(line, name, n) && line[n] == '=')
            return xasprintf("%.*s", (int)strcspn(line + n + 1, "\n"), line + n + 1);
    return NULL;
}

char *record_option(const char *checkpoint, const char *name) {
    char *record = checkpoint_load_record(checkpoint);
    char *value = record ? record_value(record, name) : NULL;
    free(record);
    return value;
}

static bool same_model(const char *name, const ClipConfig *c) {
    ClipConfig m;
    clip_config_load(&m, name);
    bool same = tower_same(&m.image, &c->image) && tower_same(&m.text, &c->text) &&
                m.embed_dim == c->embed_dim && m.image_size == c->image_size &&
                m.patch_size == c->patch_size && m.context_length == c->context_length &&
                m.vocab_size == c->vocab_size;
    clip_config_free(&m);
    return same;
}

typedef struct Changes {
    const char *was, *is, *from;
    const ClipConfig *config;
    bool within;
    FILE *said;
    char *refused; /* the first reason */
} Changes;

static void compare(Changes *x, const char *name, Kind kind, const char *before) {
    char *was = record_value(x->was, name), *is = record_value(x->is, name);
    if (!was && before) was = xstrdup(before);
    bool changed = was && is && strcmp(was, is);
    if (changed && kind == MODEL) {
        if (*is && !x->refused && !same_model(is, x->config))
            x->refused = xasprintf("--model %s is another architecture than that of %s: leave "
                                   "--model out, or start a run with --pretrained",
                                   is, x->from);
    } else if (changed && kind == LOSS && !x->refused) {
        x->refused = xasprintf("%s was trained with %s=%s, now it is %s: give what the run began "
                               "with, or start a run with --pretrained instead of --resume",
                               x->from, name, was, is);
    } else if (changed && kind == ORDER && x->within && !x->refused) {
        x->refused = xasprintf("%s stands within an epoch, and %s is '%s', before '%s': the rest "
                               "of the epoch would have other samples; resume an epoch's "
                               "checkpoint (--resume .../epoch_N), or change nothing",
                               x->from, name, is, was);
    } else if (changed) {
        fprintf(x->said, "%s %s %s (before: %s)", ftell(x->said) ? "," : "", name,
                *is ? is : "none", *was ? was : "none");
    }
    FREE_ALL(was, is);
}

/* The reason why the run cannot resume, malloc'd; NULL: it can, and changes are logged. */
static char *compare_all(const char *was, const char *is, const char *from, const RecordFacts *f) {
    char *said;
    size_t n;
    /* samples drawn with replacement have no order that could be kept */
    bool within = f->state->position != 0 && !train_options.dataset_resampled;
    Changes x = {was, is, from, f->config, within, open_memstream(&said, &n), NULL};
    if (!x.said) die("out of memory");
    compare(&x, data_name, ORDER, NULL);
    compare(&x, batch_name, SAID, NULL);
    for (size_t i = 0; i < COUNT(rows); i++)
        compare(&x, rows[i].name, rows[i].kind, rows[i].before);
    if (fclose(x.said)) die("out of memory");
    if (n && !x.refused) log_info("changed since %s:%s", from, said);
    free(said);
    return x.refused;
}

char *record_begin(const Comm *comm, const char *resume, const RecordFacts *f) {
    bool first = comm->rank == 0;
    char *is = first ? record_text(f) : NULL;
    char *was = first && resume ? checkpoint_load_record(resume) : NULL;
    char *why = comm_string(comm, was ? compare_all(was, is, resume, f) : NULL);
    if (why) comm_die(comm, "%s", why);
    char *total = was ? record_value(was, "total-steps") : NULL;
    if (total && strtoull(total, NULL, 10) != total_steps(f))
        log_info("the schedule ends at step %llu (before: %s); the next step's learning rate is "
                 "%.3g",
                 (unsigned long long)total_steps(f), total, sched_lr(f->sched, f->state->step));
    FREE_ALL(total, was);
    if (first && f->state->step < total_steps(f) && f->sched->warmup >= f->sched->total)
        log_warn("--warmup %llu covers all %llu steps: the learning rate never reaches %g",
                 (unsigned long long)f->sched->warmup, (unsigned long long)f->sched->total,
                 f->sched->base);
    return is;
}
