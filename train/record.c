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
} rows[] = {
    {"model", MODEL},
    {"siglip", LOSS},
    {"objective", LOSS},
    {"shuffle", ORDER},
    {"shuffle-window", ORDER},
    {"dataset-resampled", ORDER},
    {"train-data-upsampling-factors", ORDER},
    {"train-num-samples", ORDER},
    {"epochs", SAID},
    {"max-steps", SAID},
    {"min-steps", SAID},
    {"lr", SAID},
    {"lr-layer-decay", SAID},
    {"lr-scheduler", SAID},
    {"warmup", SAID},
    {"epochs-cooldown", SAID},
    {"lr-cooldown-end", SAID},
    {"lr-cooldown-power", SAID},
    {"wd", SAID},
    {"wd-groups", SAID},
    {"beta1", SAID},
    {"beta2", SAID},
    {"eps", SAID},
    {"grad-clip-norm", SAID},
    {"moments", SAID},
    {"ema", SAID},
    {"precision", SAID},
    {"image-key", SAID},
    {"background", SAID},
    {"exif", SAID},
    {"text-key", SAID},
    {"json-text-key", SAID},
    {"captions", SAID},
    {"caption-template", SAID},
    {"train-transform", SAID},
    {"aug-scale", SAID},
    {"aug-ratio", SAID},
    {"color-jitter", SAID},
    {"color-jitter-prob", SAID},
    {"gray-scale-prob", SAID},
    {"view-scale", SAID},
    {"view-flip-prob", SAID},
    {"view-jitter", SAID},
    {"view-jitter-prob", SAID},
    {"view-gray-prob", SAID},
    {"view-blur-prob", SAID},
    {"view-blur-sigma", SAID},
    {"temperature", SAID},
    {"ssl-scale", SAID},
    {"force-patch-dropout", SAID},
    {"lock-image", SAID},
    {"lock-text", SAID},
    {"lock-image-unlocked-groups", SAID},
    {"lock-text-unlocked-layers", SAID},
    {"lock-text-freeze-layer-norm", SAID},
    {"lora-rank", SAID},
    {"lora-alpha", SAID},
    {"multi-positive", SAID},
    {"distill-pretrained", SAID},
    {"gather-dtype", SAID},
    {"spike-factor", SAID},
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

static void compare(Changes *x, const char *name, Kind kind) {
    char *was = record_value(x->was, name), *is = record_value(x->is, name);
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
    compare(&x, data_name, ORDER);
    compare(&x, batch_name, SAID);
    for (size_t i = 0; i < COUNT(rows); i++) compare(&x, rows[i].name, rows[i].kind);
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
