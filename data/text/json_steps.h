/* json_steps: the normalizer, pre_tokenizer and post_processor of a tokenizer.json. */
#pragma once
#include "data/text/pipeline.h"
#include <jansson.h>

/* A field that is true or false, or `missing`. */
static inline bool json_flag(json_t *object, const char *field, bool missing) {
    json_t *v = json_object_get(object, field);
    return json_is_boolean(v) ? json_is_true(v) : missing;
}
/* A field of the object that is not in the list " a b "; NULL: none. */
const char *json_unknown_field(json_t *object, const char *fields);

/* Adds their steps and ids to p, whose number of pieces is known. */
bool json_steps_read(Pipeline *p, json_t *root, Error *err);
