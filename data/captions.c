#include "data/captions.h"
#include "kernels/rng.h"
#include "data/io/utf8.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Indices of the draws of one sample. */
enum { DRAW_CAPTION = 1 << 20 };

/* ---- the text key ---- */

static bool add_key(CaptionKeys *k, const char *text, size_t n, Error *err) {
    if (k->count == CAPTION_KEYS_MAX) return error_set(err, "more than %d keys", CAPTION_KEYS_MAX);
    CaptionKey *key = &k->keys[k->count++];
    bool json = n > 5 && memcmp(text, "json.", 5) == 0;
    key->alternative = k->alternatives;
    key->extension = json ? xstrdup("json") : xasprintf("%.*s", (int)n, text);
    key->field = json ? xasprintf("%.*s", (int)n - 5, text + 5) : NULL;
    return true;
}

static void add_member(CaptionKeys *k, const char *mark, const char *extension) {
    char *longer =
        xasprintf("%s%s%s", k->members ? k->members : "", k->members ? mark : "", extension);
    free(k->members);
    k->members = longer;
}

/* "txt;caption:0.7" without its weight. */
static bool add_choice(CaptionKeys *k, const char *text, size_t n, Error *err) {
    size_t before = k->count;
    for (size_t at = 0; at < n;) {
        size_t part = at;
        while (part < n && text[part] != ';') part++;
        if (part > at && !add_key(k, text + at, part - at, err)) return false;
        at = part + 1;
    }
    if (k->count == before) return error_set(err, "an empty key");
    for (size_t i = before; i < k->count; i++)
        add_member(k, i == before ? "," : ";", k->keys[i].extension);
    k->alternatives++;
    return true;
}

bool caption_keys_parse(CaptionKeys *k, const char *text, Error *err) {
    memset(k, 0, sizeof *k);
    if (!text || !*text) return true;
    Error why;
    double sum = 0;
    for (const char *at = text;; at++) {
        size_t n = strcspn(at, ","), keys = strcspn(at, ",:");
        double weight = 1;
        char *end = NULL;
        if (keys < n) {
            weight = strtod(at + keys + 1, &end);
            if (end != at + n || n == keys + 1 || !isfinite(weight) || weight < 0)
                return error_set(err, "text key \"%s\": no weight at \"%s\"", text, at + keys);
        }
        if (!add_choice(k, at, keys, &why))
            return error_set(err, "text key \"%s\": %s (as in txt;caption or txt:0.7,json.alt:0.3)",
                             text, why.text);
        k->weights[k->alternatives - 1] = weight;
        sum += weight;
        at += n;
        if (!*at) break;
    }
    return sum > 0 || error_set(err, "text key \"%s\": all weights are 0", text);
}

void caption_keys_free(CaptionKeys *k) {
    for (size_t i = 0; i < k->count; i++) {
        FREE_ALL(k->keys[i].extension, k->keys[i].field);
    }
    free(k->members);
    memset(k, 0, sizeof *k);
}

void caption_order(const CaptionKeys *k, const uint64_t *draw, size_t order[CAPTION_KEYS_MAX]) {
    for (size_t i = 0; i < k->alternatives; i++) order[i] = i;
    if (!draw) return;
    for (size_t i = 0; i + 1 < k->alternatives; i++) {
        double sum = 0;
        for (size_t j = i; j < k->alternatives; j++) sum += k->weights[order[j]];
        double at = rng_uniform(*draw, RNG_CAPTION, i) * sum;
        size_t j = i;
        while (j + 1 < k->alternatives && at >= k->weights[order[j]]) at -= k->weights[order[j++]];
        size_t chosen = order[j];
        order[j] = order[i];
        order[i] = chosen;
    }
}

/* ---- one of several ---- */

static void join_lines(Sample *s, const char *const *texts, size_t n) {
    size_t size = 0, at = 0;
    for (size_t i = 0; i < n; i++) size += strlen(texts[i]) + 1;
    char *all = xmalloc(size + 1);
    for (size_t i = 0; i < n; i++) {
        if (string_is_blank(texts[i])) continue;
        if (at) all[at++] = '\n';
        size_t length = strlen(texts[i]);
        memcpy(all + at, texts[i], length);
        /* a line break within a caption would split it in two */
        for (size_t j = at; j < at + length; j++)
            if (all[j] == '\n' || all[j] == '\r') all[j] = ' ';
        at += length;
    }
    sample_set_text(s, all, at);
    free(all);
}

void captions_pick(Sample *s, CaptionPick pick, const uint64_t *draw, const char *const *texts,
                   size_t n) {
    if (pick == CAPTIONS_ALL && n > 1) {
        join_lines(s, texts, n);
        return;
    }
    size_t good = 0, first = 0;
    for (size_t i = n; i-- > 0;)
        if (!string_is_blank(texts[i])) {
            good++;
            first = i;
        }
    size_t at = first;
    if (pick == CAPTIONS_RANDOM && draw && good > 1)
        for (size_t left = rng_below(*draw, RNG_CAPTION, DRAW_CAPTION, good); left > 0; left--)
            while (string_is_blank(texts[++at])) {
            }
    sample_set_text(s, texts[at], strlen(texts[at]));
}

void captions_pick_line(Sample *s, CaptionPick pick, const uint64_t *draw, const char *text,
                        size_t n) {
    if (pick == CAPTIONS_WHOLE || pick == CAPTIONS_ALL || pick == CAPTIONS_LABEL) {
        sample_set_text(s, text, n);
        return;
    }
    char *copy = xmalloc(n + 1), *save;
    size_t count = 0;
    memcpy(copy, text, n);
    copy[n] = 0;
    const char **lines = xmalloc(size_mul(n / 2 + 1, sizeof *lines));
    for (char *line = strtok_r(copy, "\r\n", &save); line; line = strtok_r(NULL, "\r\n", &save))
        lines[count++] = line;
    if (count)
        captions_pick(s, pick, draw, lines, count);
    else
        sample_set_text(s, "", 0);
    FREE_ALL(lines, copy);
}

static bool pick_json(Sample *s, CaptionPick pick, const uint64_t *draw, const json_t *value) {
    if (json_is_string(value)) {
        sample_set_text(s, json_string_value(value), json_string_length(value));
        return true;
    }
    if (pick == CAPTIONS_LABEL && json_is_integer(value)) {
        char digits[24];
        int n = snprintf(digits, sizeof digits, "%lld", (long long)json_integer_value(value));
        sample_set_text(s, digits, (size_t)n);
        return true;
    }
    if (!json_is_array(value)) return false;
    size_t n = json_array_size(value), count = 0;
    const char **texts = xmalloc(size_mul(n + 1, sizeof *texts));
    for (size_t i = 0; i < n; i++) {
        const char *text = json_string_value(json_array_get(value, i));
        if (text && !string_is_blank(text)) texts[count++] = text;
    }
    if (count) captions_pick(s, pick, draw, texts, count);
    free(texts);
    return count > 0;
}

/* ---- from a sample's members ---- */

/* "a.b" is the field of that name; without one, field b of the object a. */
static const json_t *find_field(const json_t *object, const char *path) {
    const json_t *value = json_object_get(object, path);
    const char *dot = strchr(path, '.');
    if (value || !dot) return value;
    char *head = xasprintf("%.*s", (int)(dot - path), path);
    value = json_object_get(object, head);
    free(head);
    return value ? find_field(value, dot + 1) : NULL;
}

static bool take_field(Sample *s, const CaptionKey *key, CaptionPick pick, const uint64_t *draw,
                       const char *bytes, size_t n, Error *err) {
    json_error_t why;
    json_t *root = json_loadb(bytes, n, 0, &why);
    if (!root) return error_set(err, "bad JSON: %s", why.text);
    bool ok = pick_json(s, pick, draw, find_field(root, key->field));
    if (!ok) error_set(err, "its .json has no text \"%s\"", key->field);
    json_decref(root);
    return ok;
}

bool captions_take(Sample *s, const CaptionKeys *k, CaptionPick pick, const uint64_t *draw,
                   MemberReader read, void *context, Error *err) {
    size_t order[CAPTION_KEYS_MAX];
    error_set(err, "no caption");
    caption_order(k, draw, order);
    for (size_t c = 0; c < k->alternatives; c++)
        for (size_t i = 0; i < k->count; i++) {
            const CaptionKey *key = &k->keys[i];
            const char *bytes;
            size_t n;
            if (key->alternative != order[c]) continue;
            int there = read(context, key->extension, &bytes, &n, err);
            if (there < 0) return false;
            if (there == 0) continue;
            if (key->field) {
                if (!take_field(s, key, pick, draw, bytes, n, err)) continue;
            } else {
                captions_pick_line(s, pick, draw, bytes, n);
            }
            if (!text_is_blank(s->text, s->text_size)) return true;
            error_set(err, "an empty caption");
        }
    sample_set_text(s, "", 0);
    return false;
}
