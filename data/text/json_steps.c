/* The steps of a tokenizer.json: normalizers, pre-tokenizers, post-processors. One row for each
 * type of the library tokenizers that is supported, with its fields; other types and other fields
 * are refused by name. */
#include "data/text/json_steps.h"
#include <stdlib.h>
#include <string.h>

typedef struct StepReader {
    Pipeline *p;
    json_t *object;
    const char *type;
    Error *err;
} StepReader;

typedef struct StepType {
    const char *type, *fields; /* separated by blanks, with one at either end */
    bool (*read)(const StepReader *r);
} StepType;

static bool refuse(const StepReader *r, const char *field, const char *what) {
    return error_set(r->err, "%s.%s: %s", r->type, field, what);
}

static const char *string_of(const StepReader *r, const char *field) {
    const char *s = json_string_value(json_object_get(r->object, field));
    return s ? s : "";
}

enum { LONGEST_STRING = 64 };

static Str add_text(const StepReader *r, const char *s) {
    return pipeline_add_string(r->p, s, strlen(s));
}

static bool add_normal(const StepReader *r, TextStep step) {
    return pipeline_add_step(r->p->form.normal, &r->p->form.normals, step, r->err);
}

static bool add_split(const StepReader *r, TextStep step) {
    return pipeline_add_step(r->p->form.split, &r->p->form.splits, step, r->err);
}

/* ---- normalizers ---- */

static bool read_plain(const StepReader *r) {
    static const struct {
        const char *type;
        TextStep step;
    } rows[] = {{"Lowercase", {.op = NORMAL_LOWER}},
                {"StripAccents", {.op = NORMAL_STRIP_ACCENTS}},
                {"NFD", {.op = NORMAL_FORM}},
                {"NFC", {.op = NORMAL_FORM, .flags = FORM_COMPOSE}},
                {"NFKD", {.op = NORMAL_FORM, .flags = FORM_COMPAT}},
                {"NFKC", {.op = NORMAL_FORM, .flags = FORM_COMPAT | FORM_COMPOSE}}};
    size_t i = 0;
    while (strcmp(rows[i].type, r->type) != 0) i++;
    return add_normal(r, rows[i].step);
}

static bool read_strip(const StepReader *r) {
    uint32_t flags = (json_flag(r->object, "strip_left", true) ? 1 : 0) |
                     (json_flag(r->object, "strip_right", true) ? 2 : 0);
    return add_normal(r, (TextStep){.op = NORMAL_STRIP, .flags = flags});
}

static bool read_replace(const StepReader *r) {
    json_t *pattern = json_object_get(r->object, "pattern");
    const char *plain = json_string_value(json_object_get(pattern, "String"));
    const char *regex = json_string_value(json_object_get(pattern, "Regex"));
    TextStep step = {.op = NORMAL_REPLACE};
    if (regex != NULL && strcmp(regex, " {2,}") == 0)
        plain = " ", step.flags = 1;
    else if (regex != NULL && strcmp(regex, "\\s+") == 0)
        plain = " ", step.op = NORMAL_SPACES;
    if (plain == NULL || *plain == 0)
        return refuse(r, "pattern", "only a string, \" {2,}\" and \"\\s+\" are supported");
    const char *content = string_of(r, "content");
    if (strlen(content) > LONGEST_STRING) return refuse(r, "content", "is too long");
    step.a = add_text(r, plain);
    step.b = add_text(r, content);
    return add_normal(r, step);
}

static bool read_prepend(const StepReader *r) {
    return add_normal(r,
                      (TextStep){.op = NORMAL_PREPEND, .a = add_text(r, string_of(r, "prepend"))});
}

static bool read_bert(const StepReader *r) {
    bool lower = json_flag(r->object, "lowercase", true);
    uint32_t flags = (json_flag(r->object, "clean_text", true) ? BERT_CLEAN : 0) |
                     (json_flag(r->object, "handle_chinese_chars", true) ? BERT_CHINESE : 0) |
                     (json_flag(r->object, "strip_accents", lower) ? BERT_ACCENTS : 0) |
                     (lower ? BERT_LOWER : 0);
    return add_normal(r, (TextStep){.op = NORMAL_BERT, .flags = flags});
}

/* Decodes base64 in place; returns the number of bytes, or SIZE_MAX. */
static size_t base64(char *s) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    size_t n = 0;
    uint32_t bits = 0, have = 0;
    for (const char *c = s; *c != 0 && *c != '='; c++) {
        const char *digit = memchr(digits, *c, 64);
        if (digit == NULL) return SIZE_MAX;
        bits = (bits << 6 | (uint32_t)(digit - digits)) & 0xFFFFFF;
        have += 6;
        if (have < 8) continue;
        have -= 8;
        s[n++] = (char)(bits >> have);
    }
    return n;
}

static bool read_precompiled(const StepReader *r) {
    for (uint32_t i = 0; i < r->p->form.normals; i++)
        if (r->p->form.normal[i].op == NORMAL_CHARSMAP)
            return refuse(r, "precompiled_charsmap", "only one is supported");
    char *bytes = xstrdup(string_of(r, "precompiled_charsmap"));
    size_t n = base64(bytes);
    Error why;
    bool ok = n != SIZE_MAX ? charsmap_check(bytes, n, &why) : error_set(&why, "it is no base64");
    if (ok) {
        TextStep step = {.op = NORMAL_CHARSMAP, .a = pipeline_add_string(r->p, bytes, n)};
        ok = add_normal(r, step);
    } else {
        refuse(r, "precompiled_charsmap", why.text);
    }
    free(bytes);
    return ok;
}

/* ---- pre-tokenizers ---- */

static bool read_white(const StepReader *r) { return add_split(r, (TextStep){.op = SPLIT_WHITE}); }
static bool read_bert_split(const StepReader *r) {
    return add_split(r, (TextStep){.op = SPLIT_BERT});
}

static bool read_byte_level(const StepReader *r) {
    uint32_t flags = (json_flag(r->object, "add_prefix_space", true) ? 1 : 0) |
                     (json_flag(r->object, "use_regex", true) ? 0 : 2);
    r->p->form.byte_level = true;
    return add_split(r, (TextStep){.op = SPLIT_GPT2, .flags = flags});
}

static bool read_metaspace(const StepReader *r) {
    const char *scheme = string_of(r, "prepend_scheme"), *mark = string_of(r, "replacement");
    bool prefix = json_flag(r->object, "add_prefix_space", true);
    if (*mark == 0) return refuse(r, "replacement", "is missing");
    uint32_t flags = json_flag(r->object, "split", true) ? META_SPLIT : 0;
    if (strcmp(scheme, "first") == 0)
        flags |= META_FIRST;
    else if (strcmp(scheme, "always") == 0 || (*scheme == 0 && prefix))
        flags |= META_ALWAYS;
    else if (*scheme != 0 && strcmp(scheme, "never") != 0)
        return refuse(r, "prepend_scheme", "only first, always and never are supported");
    return add_split(r, (TextStep){.op = SPLIT_METASPACE, .flags = flags, .a = add_text(r, mark)});
}

static bool read_digits(const StepReader *r) {
    return add_split(r, (TextStep){.op = SPLIT_DIGITS,
                                   .flags = json_flag(r->object, "individual_digits", false)});
}

#define GPT2_PATTERN                                                                               \
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
#define CLIP_PATTERN "'s|'t|'re|'ve|'m|'ll|'d|[\\p{L}]+|[\\p{N}]|[^\\s\\p{L}\\p{N}]+"

static bool read_split(const StepReader *r) {
    static const char *const behaviors[] = {"Isolated", "Removed", "MergedWithPrevious",
                                            "MergedWithNext", NULL};
    json_t *pattern = json_object_get(r->object, "pattern");
    const char *plain = json_string_value(json_object_get(pattern, "String"));
    const char *regex = json_string_value(json_object_get(pattern, "Regex"));
    const char *behavior = string_of(r, "behavior");
    bool invert = json_flag(r->object, "invert", false);
    uint32_t join = 0;
    while (behaviors[join] != NULL && strcmp(behaviors[join], behavior) != 0) join++;
    if (behaviors[join] == NULL) return refuse(r, "behavior", "is not supported");
    if (plain != NULL && *plain != 0 && !invert)
        return add_split(r, (TextStep){.op = SPLIT_AT, .flags = join, .a = add_text(r, plain)});
    bool words = (join == JOIN_REMOVED && invert) || (join == JOIN_NONE && !invert);
    if (regex != NULL && strcmp(regex, GPT2_PATTERN) == 0 && words)
        return add_split(r, (TextStep){.op = SPLIT_GPT2});
    if (regex != NULL && strcmp(regex, CLIP_PATTERN) == 0 && join == JOIN_REMOVED && invert)
        return add_split(r, (TextStep){.op = SPLIT_CLIP});
    return refuse(r, "pattern", "only strings and the patterns of GPT-2 and CLIP are supported");
}

/* ---- post-processors ---- */

static bool add_framing(const StepReader *r, bool after, json_t *id) {
    PipelineForm *f = &r->p->form;
    uint32_t *count = after ? &f->afters : &f->befores;
    if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) >= f->pieces)
        return refuse(r, "special_tokens", "an id that the vocabulary does not have");
    if (*count == FRAME_MAX) return refuse(r, "single", "too many special tokens");
    (after ? f->after : f->before)[(*count)++] = (int32_t)json_integer_value(id);
    return true;
}

static bool read_template(const StepReader *r) {
    json_t *single = json_object_get(r->object, "single"), *part, *id;
    json_t *specials = json_object_get(r->object, "special_tokens");
    bool after = false;
    size_t i, k;
    json_array_foreach(single, i, part) {
        json_t *special = json_object_get(part, "SpecialToken");
        const char *name = json_string_value(json_object_get(special, "id"));
        if (special == NULL && (after || json_object_get(part, "Sequence") == NULL))
            return refuse(r, "single", "expected special tokens around one sequence");
        if (special == NULL) {
            after = true;
            continue;
        }
        json_t *ids = json_object_get(json_object_get(specials, name ? name : ""), "ids");
        if (json_array_size(ids) == 0)
            return refuse(r, "special_tokens", "one of single is missing");
        json_array_foreach(ids, k, id) if (!add_framing(r, after, id)) return false;
    }
    return after || refuse(r, "single", "has no sequence");
}

static bool read_pair(const StepReader *r) {
    return add_framing(r, false, json_array_get(json_object_get(r->object, "cls"), 1)) &&
           add_framing(r, true, json_array_get(json_object_get(r->object, "sep"), 1));
}

static bool read_nothing(const StepReader *r) {
    (void)r;
    return true;
}

/* ---- tables ---- */

#define NO_FIELDS " "
static const StepType normalizers[] = {
    {"Lowercase", NO_FIELDS, read_plain},
    {"StripAccents", NO_FIELDS, read_plain},
    {"NFD", NO_FIELDS, read_plain},
    {"NFC", NO_FIELDS, read_plain},
    {"NFKD", NO_FIELDS, read_plain},
    {"NFKC", NO_FIELDS, read_plain},
    {"Strip", " strip_left strip_right ", read_strip},
    {"Replace", " pattern content ", read_replace},
    {"Prepend", " prepend ", read_prepend},
    {"Precompiled", " precompiled_charsmap ", read_precompiled},
    {"BertNormalizer", " clean_text handle_chinese_chars strip_accents lowercase ", read_bert},
    {NULL, NULL, NULL}};

static const StepType pre_tokenizers[] = {
    {"WhitespaceSplit", NO_FIELDS, read_white},
    {"BertPreTokenizer", NO_FIELDS, read_bert_split},
    {"ByteLevel", " add_prefix_space trim_offsets use_regex ", read_byte_level},
    {"Metaspace", " replacement str_rep add_prefix_space prepend_scheme split ", read_metaspace},
    {"Split", " pattern behavior invert ", read_split},
    {"Digits", " individual_digits ", read_digits},
    {NULL, NULL, NULL}};

static const StepType post_processors[] = {
    {"TemplateProcessing", " single pair special_tokens ", read_template},
    {"BertProcessing", " sep cls ", read_pair},
    {"RobertaProcessing", " sep cls trim_offsets add_prefix_space ", read_pair},
    {"ByteLevel", " add_prefix_space trim_offsets use_regex ", read_nothing},
    {NULL, NULL, NULL}};

static const struct {
    const char *section, *list; /* list: the field of a Sequence */
    const StepType *types;
} sections[] = {{"normalizer", "normalizers", normalizers},
                {"pre_tokenizer", "pretokenizers", pre_tokenizers},
                {"post_processor", "processors", post_processors}};

const char *json_unknown_field(json_t *object, const char *fields) {
    const char *key;
    json_t *value;
    json_object_foreach(object, key, value) {
        char *padded = xasprintf(" %s ", key);
        bool known = !strchr(key, ' ') && strstr(fields, padded);
        free(padded);
        if (!known) return key;
    }
    return NULL;
}

static bool known_fields(const StepReader *r, const char *fields) {
    char *all = xasprintf(" type%s", fields);
    const char *key = json_unknown_field(r->object, all);
    free(all);
    return !key || error_set(r->err, "%s.%.60s: this field is not supported", r->type, key);
}

/* One object, or the objects of a Sequence in it. */
static bool read_object(Pipeline *p, size_t section, json_t *object, bool inner, Error *err) {
    const char *type = json_string_value(json_object_get(object, "type"));
    const char *name = sections[section].section;
    if (type == NULL) return error_set(err, "%s: its type is missing", name);
    if (strcmp(type, "Sequence") == 0 && !inner) {
        json_t *list = json_object_get(object, sections[section].list), *one;
        size_t i;
        if (!json_is_array(list)) return error_set(err, "%s: expected a list of steps", name);
        json_array_foreach(list, i, one) if (!read_object(p, section, one, true, err)) return false;
        return true;
    }
    const StepType *t = sections[section].types;
    while (t->type != NULL && strcmp(t->type, type) != 0) t++;
    if (t->type == NULL) return error_set(err, "%s: the type %.60s is not supported", name, type);
    StepReader r = {p, object, t->type, err};
    return known_fields(&r, t->fields) && t->read(&r);
}

bool json_steps_read(Pipeline *p, json_t *root, Error *err) {
    for (size_t i = 0; i < COUNT(sections); i++) {
        json_t *object = json_object_get(root, sections[i].section);
        if (object != NULL && !json_is_null(object) && !read_object(p, i, object, false, err))
            return false;
    }
    return true;
}
