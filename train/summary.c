#include "train/summary.h"

#include "train/metrics_file.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The validations that are shown; references, NULL: not found. */
typedef struct Shown {
    json_t *before, *best, *after;
    uint64_t best_step; /* 0: none */
} Shown;

static void keep(json_t **place, json_t *line) {
    json_decref(*place);
    *place = json_incref(line);
}

/* A line without an epoch is a validation. */
static bool take_validation(void *arg, const char *text, size_t n, uint64_t end) {
    Shown *s = arg;
    json_t *line = json_loadb(text, n, 0, NULL);
    const json_t *number = json_object_get(line, "step");
    (void)end;
    if (json_is_integer(number) && !json_object_get(line, "epoch")) {
        uint64_t step = (uint64_t)json_integer_value(number);
        if (!step) keep(&s->before, line);
        if (step && step == s->best_step) keep(&s->best, line);
        if (step) keep(&s->after, line);
    }
    json_decref(line);
    return true;
}

static void cell(const json_t *line, const char *name) {
    const json_t *x = json_object_get(line, name);
    if (!line) return;
    if (json_is_number(x))
        fprintf(stderr, " %12.4f", json_number_value(x));
    else
        fprintf(stderr, " %12s", "-");
}

static void head(const json_t *line, const char *word) {
    if (line)
        fprintf(stderr, " %5s %6lld", word,
                (long long)json_integer_value(json_object_get(line, "step")));
}

void summary_print(const char *dir, const Best *best) {
    char *path = xasprintf("%s/metrics.jsonl", dir);
    Shown s = {.best_step = best ? best->step : 0};
    Error err;
    if (!metrics_each(path, take_validation, &s, &err)) log_warn("%s", err.text);
    if (s.before && s.after) {
        const char *name;
        json_t *value;
        fprintf(stderr, "%-54s", "measured at step");
        head(s.before, "start");
        head(s.best, "best");
        head(s.after, "end");
        fputc('\n', stderr);
        json_object_foreach(s.after, name, value) {
            if (!strcmp(name, "step") || !strcmp(name, "time")) continue;
            fprintf(stderr, "  %-52s", name);
            cell(s.before, name);
            cell(s.best, name);
            cell(s.after, name);
            fputc('\n', stderr);
        }
    }
    json_decref(s.before);
    json_decref(s.best);
    json_decref(s.after);
    free(path);
}
