/* jsonl: a table as JSON Lines, one object per line. */
#pragma once
#include "data/table.h"

/* The picture's path is the field csv_image_key; if a line lacks it, the first of filepath,
 * file_name, image, path. The caption is csv_caption_key, else title, caption, text: a string or an
 * array of strings. Paths are resolved as in a CSV. Lines without either are dropped; a line that
 * is not an object is an error. */
bool table_open_jsonl(Table *t, const char *path, const DatasetOptions *o, Error *err);
/* The same for bytes[0 … size], which it changes; bytes[size] is 0, and t frees them. */
bool table_parse_jsonl(Table *t, char *bytes, size_t size, const char *path,
                       const DatasetOptions *o, Error *err);
