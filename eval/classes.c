#include "eval/classes.h"

#include "data/index.h"
#include "data/io/file.h"
#include "data/io/machine.h"
#include "data/io/resource.h"
#include "data/io/utf8.h"
#include "kernels/hash.h"

#include <ctype.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct ClassName {
    char *name; /* normalised for comparison */
    int class;
} ClassName;

/* ---- the file ---- */

enum { CLASSES_MAX = 10 * 1000 * 1000 };

static bool string_array(char ***out, size_t *count, const json_t *root, const char *key,
                         Error *err) {
    const json_t *array = json_object_get(root, key);
    const size_t n = json_array_size(array);
    if (!n) return error_set(err, "\"%s\" must be a list of strings with at least one", key);
    if (n > CLASSES_MAX) return error_set(err, "%zu \"%s\"", n, key);
    for (size_t i = 0; i < n; i++)
        if (!json_is_string(json_array_get(array, i)))
            return error_set(err, "\"%s\"[%zu] is no string", key, i);
    *count = n;
    *out = xcalloc(n, sizeof **out);
    for (size_t i = 0; i < n; i++) (*out)[i] = xstrdup(json_string_value(json_array_get(array, i)));
    return true;
}

/* Lower case, '_' as a blank: "Red_Fox" and "red fox" are the same name. */
static char *comparable(const char *name) {
    char *out = xstrdup(name);
    for (char *c = out; *c; c++) *c = *c == '_' ? ' ' : (char)tolower((unsigned char)*c);
    return out;
}

static int compare_names(const void *a, const void *b) {
    const ClassName *x = a, *y = b;
    int order = strcmp(x->name, y->name);
    return order ? order : (x->class > y->class) - (x->class < y->class);
}

static ClassName *sorted_names(char *const *names, size_t n) {
    ClassName *out = xcalloc(n, sizeof *out);
    for (size_t i = 0; i < n; i++) out[i] = (ClassName){comparable(names[i]), (int)i};
    qsort(out, n, sizeof *out, compare_names);
    return out;
}

static const char *template_hole(const char *template, size_t *width) {
    const char *hole = strstr(template, "{}");
    *width = 2;
    if (!hole) hole = strstr(template, "{c}"), *width = 3;
    return hole;
}

char *class_set_find(const char *name) {
    char *found = machine_access(name, R_OK) ? xstrdup(name) : NULL;
    static const char *const folders[] = {"build/zeroshot", "zeroshot"};
    for (size_t i = 0; !found && i < COUNT(folders); i++) {
        char *path = xasprintf("%s/%s.json", folders[i], name);
        found = resource_find(path);
        free(path);
    }
    return found;
}

static void free_strings(char **strings, size_t n) {
    for (size_t i = 0; strings && i < n; i++) free(strings[i]);
    free(strings);
}

static void free_names(ClassName *names, size_t n) {
    for (size_t i = 0; names && i < n; i++) free(names[i].name);
    free(names);
}

void class_set_free(ClassSet *s) {
    free_strings(s->classes, s->count);
    free_strings(s->folders, s->count);
    free_strings(s->templates, s->template_count);
    free_names(s->by_name, s->count);
    free_names(s->by_folder, s->count);
    free(s->path);
    *s = (ClassSet){.count = 0};
}

static bool read_templates(ClassSet *s, const json_t *root, Error *err) {
    size_t width;
    if (!json_object_get(root, "templates")) {
        s->templates = xcalloc(s->template_count = 1, sizeof *s->templates);
        s->templates[0] = xstrdup("{}");
        return true;
    }
    if (!string_array(&s->templates, &s->template_count, root, "templates", err)) return false;
    for (size_t i = 0; i < s->template_count; i++)
        if (!template_hole(s->templates[i], &width))
            return error_set(err, "template \"%.200s\" has no {} for the class's name",
                             s->templates[i]);
    return true;
}

static bool read_folders(ClassSet *s, const json_t *root, Error *err) {
    size_t n;
    if (!json_object_get(root, "folders")) return true;
    if (!string_array(&s->folders, &n, root, "folders", err)) return false;
    if (n != s->count) {
        free_strings(s->folders, n);
        s->folders = NULL;
        return error_set(err, "%zu \"folders\" for %zu \"classes\": each class needs its own", n,
                         s->count);
    }
    s->by_folder = sorted_names(s->folders, n);
    for (size_t i = 1; i < n; i++)
        if (!strcmp(s->by_folder[i - 1].name, s->by_folder[i].name))
            return error_set(err, "folder \"%.200s\" stands for two classes", s->by_folder[i].name);
    return true;
}

bool class_set_load(ClassSet *s, const char *path, Error *err) {
    json_error_t why;
    Error inner;
    *s = (ClassSet){.path = xstrdup(path)};
    uint8_t *bytes = NULL;
    size_t size = 0;
    bool ok = file_read_all(path, &bytes, &size, (size_t)1 << 30, &inner);
    size_t mark = ok ? text_mark((const char *)bytes, size) : 0;
    json_t *root = ok ? json_loadb((const char *)bytes + mark, size - mark, 0, &why) : NULL;
    free(bytes);
    ok = ok && (root || error_set(&inner, "line %d: %s", why.line, why.text));
    ok = ok && string_array(&s->classes, &s->count, root, "classes", &inner) &&
         read_templates(s, root, &inner) && read_folders(s, root, &inner);
    json_decref(root);
    if (ok) {
        s->by_name = sorted_names(s->classes, s->count);
        return true;
    }
    class_set_free(s);
    return error_set(err, "%.200s: %.300s", path, inner.text);
}

static uint64_t hash_strings(uint64_t h, char *const *strings, size_t n) {
    for (size_t i = 0; strings && i < n; i++) h = fnv_hash(h, strings[i], strlen(strings[i]) + 1);
    return fnv_hash(h, &n, sizeof n);
}

uint64_t class_set_hash(const ClassSet *s) {
    uint64_t h = hash_strings(FNV_START, s->classes, s->count);
    h = hash_strings(h, s->folders, s->count);
    return hash_strings(h, s->templates, s->template_count);
}

char *class_caption_of(const ClassSet *s, size_t c, size_t t) {
    size_t width;
    const char *template = s->templates[t], *hole = template_hole(template, &width);
    return xasprintf("%.*s%s%s", (int)(hole - template), template, s->classes[c], hole + width);
}

/* ---- labels ---- */

enum { NOT_FOUND = -1, AMBIGUOUS = -2 };

static int find_name(const ClassName *names, size_t n, const char *label) {
    char *wanted = comparable(label);
    size_t lo = 0, hi = n;
    while (lo < hi) { /* the first that is not less */
        size_t mid = lo + (hi - lo) / 2;
        if (strcmp(names[mid].name, wanted) < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    int found = lo < n && !strcmp(names[lo].name, wanted) ? names[lo].class : NOT_FOUND;
    if (found >= 0 && lo + 1 < n && !strcmp(names[lo + 1].name, wanted)) found = AMBIGUOUS;
    free(wanted);
    return found;
}

static bool is_number(const char *label) {
    return *label && label[strspn(label, "0123456789")] == 0;
}

static int find_number(const ClassSet *s, const char *label) {
    if (!is_number(label) || strlen(label) > 18) return NOT_FOUND;
    unsigned long long i = strtoull(label, NULL, 10);
    return i < s->count ? (int)i : NOT_FOUND;
}

typedef enum { BY_FOLDER, BY_NAME, BY_NUMBER, WAYS } Way;

static int find_class(const ClassSet *s, Way way, const char *label) {
    switch (way) {
    case BY_FOLDER:
        return s->by_folder ? find_name(s->by_folder, s->count, label) : NOT_FOUND;
    case BY_NAME:
        return find_name(s->by_name, s->count, label);
    default:
        return find_number(s, label);
    }
}

bool class_set_map_folders(int *map, const char *const *folders, size_t n, const ClassSet *s,
                           Error *err) {
    static const char *const ways[WAYS] = {"\"folders\"", "name", "number"};
    size_t best = 0, missing = 0, numbers = 0;
    Way best_way = BY_NAME;
    for (Way way = BY_FOLDER; way < WAYS; way++) {
        size_t found = 0, first = n;
        for (size_t f = 0; f < n; f++) {
            map[f] = find_class(s, way, folders[f]);
            if (map[f] == AMBIGUOUS)
                return error_set(err,
                                 "class folder '%.200s': %.200s has that name more than once; give "
                                 "it \"folders\"",
                                 folders[f], s->path);
            if (map[f] >= 0)
                found++;
            else if (first == n)
                first = f;
        }
        if (found == n) return true;
        if (found > best || way == BY_FOLDER) best = found, best_way = way, missing = first;
    }
    for (size_t f = 0; f < n; f++) numbers += is_number(folders[f]);
    if (best)
        return error_set(err,
                         "class folder '%.150s' is none of the %zu classes of %.150s (%zu of %zu "
                         "folders were matched "
                         "by %s)",
                         folders[missing], s->count, s->path, best, n, ways[best_way]);
    if (n != s->count || numbers == n)
        return error_set(err,
                         "class folder '%.150s' is none of the %zu classes of %.150s (no folder "
                         "was matched: %zu "
                         "folders)",
                         folders[missing], s->count, s->path, n);
    for (size_t f = 0; f < n; f++) map[f] = (int)f;
    return true;
}

void labels_dataset_options(DatasetOptions *o, const char *keys, const char *column) {
    o->text_keys = keys;
    o->json_text_key = NULL;
    o->captions = CAPTIONS_LABEL;
    o->csv_caption_key = column;
    o->caption_template = NULL;
}

static bool is_synset(const char *label, size_t length) {
    return length == 9 && *label == 'n' && strspn(label + 1, "0123456789") >= 8;
}

/* The folders 0 to 999, each once; digits may be padded with zeros. */
static bool are_thousand(const char *const *folders, size_t n) {
    enum { IMAGENET = 1000 };
    bool met[IMAGENET] = {false};
    for (size_t i = 0; i < n; i++) {
        if (n != IMAGENET || !is_number(folders[i]) || strlen(folders[i]) > 18) return false;
        unsigned long long number = strtoull(folders[i], NULL, 10);
        if (number >= IMAGENET || met[number]) return false;
        met[number] = true;
    }
    return true;
}

/* The label of a sample that is a text, without blanks around it. */
static const char *label_text(const Sample *s, size_t *length) {
    const char *text = s->text ? s->text + strspn(s->text, " \t\r\n") : "";
    *length = strlen(text);
    while (*length && strchr(" \t\r\n", text[*length - 1])) --*length;
    return text;
}

bool labels_are_imagenet(Dataset *d) {
    const char *const *folders;
    size_t n = dataset_classes(d, &folders), synsets = 0, length;
    for (size_t i = 0; i < n; i++) synsets += is_synset(folders[i], strlen(folders[i]));
    if (n) return synsets == n || are_thousand(folders, n);
    Sample s = {0};
    Error err;
    const char *label = dataset_read(d, 0, &s, &err) ? label_text(&s, &length) : NULL;
    bool found = label && is_synset(label, length);
    sample_free(&s);
    return found;
}

void labels_open(Labels *l, const ClassSet *s, const Dataset *d) {
    const char *const *folders;
    size_t n = dataset_classes(d, &folders);
    *l = (Labels){.set = s};
    if (!n) return;
    l->folder = xcalloc(n, sizeof *l->folder);
    Error err;
    if (!class_set_map_folders(l->folder, folders, n, s, &err)) die("%s", err.text);
}

void labels_free(Labels *l) { free(l->folder); }

int labels_class(const Labels *l, const Sample *s, Error *err) {
    if (l->folder && s->label >= 0) return l->folder[s->label];
    size_t length;
    const char *text = label_text(s, &length);
    char *label = xasprintf("%.*s", (int)size_min(length, 1000), text);
    int found = NOT_FOUND;
    static const Way order[] = {BY_NUMBER, BY_FOLDER, BY_NAME};
    for (size_t i = 0; i < COUNT(order) && found == NOT_FOUND; i++)
        found = find_class(l->set, order[i], label);
    if (found == AMBIGUOUS)
        error_set(err, "%.200s: label \"%.60s\": %.120s has that name more than once", s->key,
                  label, l->set->path);
    else if (found < 0)
        error_set(err, "%.200s: label \"%.60s\" is none of the %zu classes of %.120s", s->key,
                  label, l->set->count, l->set->path);
    free(label);
    return found < 0 ? -1 : found;
}
