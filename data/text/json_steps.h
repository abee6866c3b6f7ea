/* json_steps: the normalizer, pre_tokenizer and post_processor of a tokenizer.json. */
#pragma once
#include "data/text/pipeline.h"
#include <jansson.h>

/* Adds their steps and ids to p, whose number of pieces is known. */
bool json_steps_read(Pipeline *p, json_t *root, Error *err);
