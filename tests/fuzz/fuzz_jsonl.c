/* Any bytes as JSON Lines: refused, or every row has a path and a caption. */
#include "data/jsonl.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    DatasetOptions o = dataset_options_default();
    o.captions = n % 2 ? CAPTIONS_WHOLE : CAPTIONS_ALL;
    char *copy = xmalloc(n + 1);
    if (n) memcpy(copy, bytes, n);
    copy[n] = 0;
    Table t;
    Error err;
    Sample s = {.key = NULL};
    if (table_parse_jsonl(&t, copy, n, "x.jsonl", &o, &err))
        for (size_t i = 0; i < t.count; i++) {
            table_caption(&t, &t.rows[i], o.captions, NULL, &s);
            if (!*t.rows[i].name || !s.text_size) abort();
        }
    sample_free(&s);
    table_free(&t);
    return 0;
}
