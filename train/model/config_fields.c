#include "train/model/config_fields.h"

#include "train/model/families.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void fields_fail(const JsonFields *r, const char *field, const char *what) {
    if (*r->ok) error_set(r->err, "%s.%s: %s", r->where, field, what);
    *r->ok = false;
}

/* Removes the field from the object, so that unread fields remain. NULL: absent or null. The caller
 * owns a reference. */
json_t *fields_take(const JsonFields *r, const char *field) {
    json_t *v = json_incref(json_object_get(r->object, field));
    json_object_del(r->object, field);
    if (v && json_is_null(v)) v = NULL;
    return v;
}

double fields_number(const JsonFields *r, const char *field, double lo, double hi, double missing) {
    json_t *v = fields_take(r, field);
    if (!v) return missing;
    double x = json_is_number(v) ? json_number_value(v) : NAN;
    json_decref(v);
    if (x >= lo && x <= hi) return x;
    char what[96];
    snprintf(what, sizeof what, "expected a number from %g to %g", lo, hi);
    fields_fail(r, field, what);
    return missing;
}

/* missing 0: the field is required. */
size_t fields_size(const JsonFields *r, const char *field, size_t hi, size_t missing) {
    json_t *v = fields_take(r, field);
    if (!v) {
        if (!missing) fields_fail(r, field, "is missing");
        return missing;
    }
    json_t *one = v;
    /* a square written as a pair */
    if (json_is_array(v) && json_array_size(v) == 2 &&
        json_equal(json_array_get(v, 0), json_array_get(v, 1)))
        one = json_array_get(v, 0);
    json_int_t x = json_is_integer(one) ? json_integer_value(one) : 0;
    json_decref(v);
    if (x >= 1 && (json_int_t)hi >= x) return (size_t)x;
    char what[96];
    snprintf(what, sizeof what, "expected a whole number from 1 to %zu", hi);
    fields_fail(r, field, what);
    return missing;
}

bool fields_bool(const JsonFields *r, const char *field) {
    json_t *v = fields_take(r, field);
    if (v && !json_is_boolean(v)) fields_fail(r, field, "expected true or false");
    bool x = v && json_is_true(v);
    json_decref(v);
    return x;
}

/* Index of the string in words (NULL-terminated); 0 if absent. */
int fields_word(const JsonFields *r, const char *field, const char *const *words) {
    json_t *v = fields_take(r, field);
    if (!v) return 0;
    int found = -1;
    for (int i = 0; words[i] && json_is_string(v); i++)
        if (!strcmp(json_string_value(v), words[i])) found = i;
    json_decref(v);
    if (found >= 0) return found;
    char what[128];
    int n = snprintf(what, sizeof what, "only");
    for (int i = 0; words[i]; i++)
        n += snprintf(what + n, sizeof what - (size_t)n, "%s \"%s\"",
                      i == 0         ? ""
                      : words[i + 1] ? ","
                                     : " and",
                      words[i]);
    snprintf(what + n, sizeof what - (size_t)n, " are supported");
    fields_fail(r, field, what);
    return 0;
}

void fields_triple(const JsonFields *r, const char *field, double lo, double hi, float x[3]) {
    json_t *v = fields_take(r, field);
    if (!v) return;
    bool good = json_is_array(v) && json_array_size(v) == 3;
    for (size_t i = 0; i < 3 && good; i++) {
        json_t *e = json_array_get(v, i);
        double value = json_is_number(e) ? json_number_value(e) : NAN;
        good = value >= lo && value <= hi;
        x[i] = (float)value;
    }
    json_decref(v);
    if (!good) fields_fail(r, field, "expected three numbers in range");
}

void fields_neutral(const JsonFields *r, const NeutralField *f) {
    for (; f->name; f++) {
        json_t *v = fields_take(r, f->name);
        if (!v) continue;
        json_t *want = f->fallback ? json_loads(f->fallback, JSON_DECODE_ANY, NULL) : NULL;
        if (f->fallback && !json_equal(v, want)) {
            const char *family = family_of(f->name, json_string_value(v));
            char *text = json_dumps(v, JSON_COMPACT | JSON_ENCODE_ANY), what[160];
            snprintf(what, sizeof what, "%.60s is not supported (%s%s)", text ? text : "this",
                     family ? "" : "only ", family ? family : f->fallback);
            fields_fail(r, f->name, what);
            free(text);
        }
        json_decref(want);
        json_decref(v);
    }
}

void fields_end(const JsonFields *r) {
    const char *field = json_object_iter_key(json_object_iter(r->object));
    if (!field) return;
    char shown[80];
    snprintf(shown, sizeof shown, "%.64s", field);
    const char *family = family_of(shown, NULL);
    char what[96];
    snprintf(what, sizeof what, "this field is not supported%s%s%s", family ? " (" : "",
             family ? family : "", family ? ")" : "");
    fields_fail(r, shown, what);
}

/* Without the field an empty object. */
JsonFields fields_optional(const JsonFields *parent, const char *field, json_t **object) {
    *object = fields_take(parent, field);
    if (*object && !json_is_object(*object)) {
        fields_fail(parent, field, "expected an object");
        json_decref(*object);
        *object = NULL;
    }
    if (!*object) *object = json_object();
    return (JsonFields){*object, field, parent->err, parent->ok};
}

JsonFields fields_object(const JsonFields *parent, const char *field, json_t **object) {
    json_t *v = json_object_get(parent->object, field);
    if (!v || json_is_null(v)) fields_fail(parent, field, "is missing");
    return fields_optional(parent, field, object);
}

/* Arguments of a PyTorch module as an object; where: room for its name in messages. */
JsonFields fields_arguments(const JsonFields *parent, const char *field, json_t **object,
                            char where[48]) {
    JsonFields r = fields_optional(parent, field, object);
    snprintf(where, 48, "%s.%s", parent->where, field);
    r.where = where;
    return r;
}
