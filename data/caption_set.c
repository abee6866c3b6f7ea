#include "data/caption_set.h"
#include "data/io/file.h"
#include "data/io/folder.h"
#include "data/io/string_map.h"
#include "data/io/utf8.h"
#include "data/sources.h"
#include "data/table.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#define JSON_BYTES_MAX ((size_t)1 << 30)

/* ---- building a set ---- */

typedef struct Growing {
    CaptionSet *s;
    size_t image_room, text_room, most;
    StringMap paths;
    size_t *captions; /* [image_room]: how many each has */
} Growing;

/* Returns the picture's index; takes ownership of `path`. */
static uint32_t add_image(Growing *g, char *path) {
    CaptionSet *s = g->s;
    bool added;
    uint32_t image = string_map_put(&g->paths, path, &added);
    if (!added) {
        free(path);
        return image;
    }
    if (s->image_count == g->image_room) {
        g->image_room = size_max(256, 2 * g->image_room);
        s->images = xrealloc(s->images, size_mul(g->image_room, sizeof *s->images));
        g->captions = xrealloc(g->captions, size_mul(g->image_room, sizeof *g->captions));
    }
    s->images[s->image_count++] = path;
    g->captions[image] = 0;
    return image;
}

static void add_text(Growing *g, uint32_t image, const char *text) {
    CaptionSet *s = g->s;
    if (g->most && g->captions[image] == g->most) return;
    if (s->text_count == g->text_room) {
        g->text_room = size_max(256, 2 * g->text_room);
        s->texts = xrealloc(s->texts, size_mul(g->text_room, sizeof *s->texts));
        s->image_of = xrealloc(s->image_of, size_mul(g->text_room, sizeof *s->image_of));
    }
    g->captions[image]++;
    s->image_of[s->text_count] = image;
    s->texts[s->text_count++] = xstrdup(text);
}

static void growing_free(Growing *g) {
    string_map_free(&g->paths);
    free(g->captions);
}

/* ---- Karpathy's JSON ---- */

static bool add_entry(Growing *g, size_t number, const json_t *entry, const CaptionSetOptions *o,
                      Error *err) {
    const char *split = json_string_value(json_object_get(entry, "split"));
    const char *folder = json_string_value(json_object_get(entry, "filepath"));
    const char *name = json_string_value(json_object_get(entry, "filename"));
    const json_t *sentences = json_object_get(entry, "sentences"), *sentence;
    if (!name || !*name) return error_set(err, "\"images\"[%zu] has no \"filename\"", number);
    if (!json_is_array(sentences))
        return error_set(err, "\"images\"[%zu] has no list \"sentences\"", number);
    if (o->split && (!split || strcmp(split, o->split) != 0)) return true;
    const char *root = o->root && *o->root ? o->root : ".";
    bool first = true;
    uint32_t image = 0;
    size_t i;
    json_array_foreach(sentences, i, sentence) {
        const char *raw = json_string_value(json_object_get(sentence, "raw"));
        if (!raw) return error_set(err, "\"images\"[%zu]: a sentence without \"raw\" text", number);
        if (string_is_blank(raw)) continue;
        if (first)
            image = add_image(g, folder && *folder ? xasprintf("%s/%s/%s", root, folder, name)
                                                   : xasprintf("%s/%s", root, name));
        first = false;
        add_text(g, image, raw);
    }
    g->s->dropped += first;
    return true;
}

/* Returns true if the list "a, b, c" has the name. */
static bool is_listed(const char *list, const char *name) {
    size_t n = strlen(name);
    for (const char *at = list; (at = strstr(at, name)); at += n)
        if ((at == list || at[-1] == ' ') && (!at[n] || at[n] == ',')) return true;
    return false;
}

/* The splits that occur, for a message. */
static void name_splits(const json_t *images, char *out, size_t room) {
    const json_t *entry;
    size_t i;
    *out = 0;
    json_array_foreach(images, i, entry) {
        const char *split = json_string_value(json_object_get(entry, "split"));
        size_t used = strlen(out);
        if (!split || !*split || strlen(split) + used + 3 > room || is_listed(out, split)) continue;
        snprintf(out + used, room - used, "%s%s", used ? ", " : "", split);
    }
}

bool caption_set_parse_karpathy(CaptionSet *s, const char *json, size_t bytes,
                                const CaptionSetOptions *o, Error *err) {
    *s = (CaptionSet){0};
    json_error_t why;
    size_t mark = text_mark(json, bytes);
    json_t *root = json_loadb(json + mark, bytes - mark, 0, &why);
    if (!root) return error_set(err, "line %d: %.160s", why.line, why.text);
    const json_t *images = json_object_get(root, "images"), *entry;
    Growing g = {.s = s, .most = o->most};
    size_t i;
    bool ok = json_is_array(images) || error_set(err, "no list \"images\" (Karpathy's layout)");
    json_array_foreach(images, i, entry) {
        if (!ok) break;
        ok = add_entry(&g, i, entry, o, err);
    }
    if (ok && !s->text_count) {
        char splits[128];
        name_splits(images, splits, sizeof splits);
        ok = error_set(err, "no caption in the split \"%.40s\"; there are: %s",
                       o->split ? o->split : "", *splits ? splits : "none");
    }
    growing_free(&g);
    json_decref(root);
    if (!ok) caption_set_free(s);
    return ok;
}

static bool load_karpathy(CaptionSet *s, const char *path, const CaptionSetOptions *o, Error *err) {
    uint8_t *bytes;
    size_t n;
    if (!file_read_all(path, &bytes, &n, JSON_BYTES_MAX, err)) return false;
    const char *slash = strrchr(path, '/');
    char *own = slash ? xasprintf("%.*s", (int)(slash - path), path) : xstrdup(".");
    CaptionSetOptions with_root = *o;
    if (!o->root) with_root.root = own;
    Error why;
    bool ok = caption_set_parse_karpathy(s, (const char *)bytes, n, &with_root, &why) ||
              error_set(err, "%.200s: %.300s", path, why.text);
    FREE_ALL(own, bytes);
    return ok;
}

/* ---- CSV ---- */

static bool load_csv(CaptionSet *s, const char *path, const CaptionSetOptions *o,
                     const DatasetOptions *csv, Error *err) {
    Table t;
    Growing g = {.s = s, .most = o->most};
    bool ok = table_open_csv(&t, path, csv, err);
    for (size_t i = 0; ok && i < t.count; i++) {
        const TableRow *r = &t.rows[i];
        bool rooted = o->root && r->name[0] != '/';
        char *file = rooted ? xasprintf("%s/%s", o->root, r->name) : table_path(r);
        add_text(&g, add_image(&g, file), r->text);
    }
    if (ok) s->dropped = t.dropped;
    if (ok && !s->text_count) ok = error_set(err, "%s: no row with a path and a caption", path);
    growing_free(&g);
    table_free(&t);
    if (!ok) caption_set_free(s);
    return ok;
}

bool caption_set_known(const char *path) {
    return ends_with(path, ".json") || ends_with(path, ".csv") || ends_with(path, ".tsv");
}

bool caption_set_load(CaptionSet *s, const char *path, const CaptionSetOptions *o,
                      const DatasetOptions *csv, Error *err) {
    *s = (CaptionSet){0};
    return ends_with(path, ".json") ? load_karpathy(s, path, o, err)
                                    : load_csv(s, path, o, csv, err);
}

void caption_set_keep(CaptionSet *s, const bool *keep) {
    uint32_t *moved = xcalloc(s->image_count + 1, sizeof *moved);
    size_t images = 0, texts = 0;
    for (size_t i = 0; i < s->image_count; i++) {
        moved[i] = (uint32_t)images;
        if (keep[i])
            s->images[images++] = s->images[i];
        else
            free(s->images[i]);
    }
    for (size_t j = 0; j < s->text_count; j++) {
        if (keep[s->image_of[j]]) {
            s->texts[texts] = s->texts[j];
            s->image_of[texts++] = moved[s->image_of[j]];
        } else {
            free(s->texts[j]);
        }
    }
    s->image_count = images;
    s->text_count = texts;
    free(moved);
}

void caption_set_free(CaptionSet *s) {
    for (size_t i = 0; i < s->image_count; i++) free(s->images[i]);
    for (size_t j = 0; j < s->text_count; j++) free(s->texts[j]);
    FREE_ALL(s->images, s->texts, s->image_of);
    *s = (CaptionSet){0};
}
