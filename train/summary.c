#include "train/summary.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The validations that are shown; references, NULL: not found. */
typedef struct Shown {
    json_t *before, *best, *after;
} Shown;

static void keep(json_t **place, json_t *line) {
    json_decref(*place);
    *place = json_incref(line);
}

/* A line without an epoch is a validation. */
static void take_validations(Shown *s, FILE *f, uint64_t best) {
    char *text = NULL;
    size_t capacity = 0;
    while (getline(&text, &capacity, f) > 0) {
        json_t *line = json_loads(text, 0, NULL);
        const json_t *step = json_object_get(line, "step");
        if (json_is_integer(step) && !json_object_get(line, "epoch")) {
            uint64_t n = (uint64_t)json_integer_value(step);
            if (!n) keep(&s->before, line);
            if (n && n == best) keep(&s->best, line);
            if (n) keep(&s->after, line);
        }
        json_decref(line);
    }
    free(text);
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
    FILE *f = fopen(path, "rb");
    Shown s = {.before = NULL};
    if (f) {
        take_validations(&s, f, best ? best->step : 0);
        fclose(f);
    }
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
