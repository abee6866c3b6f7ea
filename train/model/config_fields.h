/* config_fields: reads the fields of JSON objects, each once, so that those remain which no reader
 * knows. */
#pragma once
#include "kernels/base.h"

#include <jansson.h>

/* One JSON object being read. The first error is kept; later readers do nothing. */
typedef struct JsonFields {
    json_t *object;
    const char *where; /* "vision_cfg" */
    Error *err;
    bool *ok;
} JsonFields;

/* Fields of open_clip that this program supports only with their default: `fallback` is the
 * accepted value (null is accepted too). NULL: the field has no effect here, so any value is
 * accepted. */
typedef struct NeutralField {
    const char *name, *fallback;
} NeutralField;

/* Keeps the first error: "vision_cfg.width: what". */
void fields_fail(const JsonFields *r, const char *field, const char *what);
/* Removes the field from the object. NULL: absent or null. The caller owns a reference. */
json_t *fields_take(const JsonFields *r, const char *field);
double fields_number(const JsonFields *r, const char *field, double lo, double hi, double missing);
/* From 1 to hi; a pair of equal numbers is one. missing 0: the field is required. */
size_t fields_size(const JsonFields *r, const char *field, size_t hi, size_t missing);
bool fields_bool(const JsonFields *r, const char *field);
/* Index of the string in words (NULL-terminated); 0 if absent. */
int fields_word(const JsonFields *r, const char *field, const char *const *words);
/* Leaves x as it is if absent. */
void fields_triple(const JsonFields *r, const char *field, double lo, double hi, float x[3]);
void fields_neutral(const JsonFields *r, const NeutralField *f);
void fields_end(const JsonFields *r);
/* Readers of an object that is a field; *object is the caller's. optional: an empty object without
 * the field. */
JsonFields fields_object(const JsonFields *parent, const char *field, json_t **object);
JsonFields fields_optional(const JsonFields *parent, const char *field, json_t **object);
/* Arguments of a PyTorch module as an object; where: room for its name in messages. */
JsonFields fields_arguments(const JsonFields *parent, const char *field, json_t **object,
                            char where[48]);
