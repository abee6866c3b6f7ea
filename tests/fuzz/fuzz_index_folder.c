/* Any bytes as an index.json: refused, or written back as the same. Any bytes as a file of
 * thumbnails: every thumbnail found is inside it; as a file of keys: refused, or the keys are its
 * lines. */
#include "eval/index_folder.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

static void check_thumbs(const uint8_t *bytes, size_t n) {
    if (!n) return;
    size_t rows = bytes[0] % 16;
    for (size_t i = 0; i < 17; i++) {
        const uint8_t *at;
        size_t size;
        if (!index_folder_find_thumb(bytes, n, rows, i, &at, &size)) continue;
        if (at < bytes || at > bytes + n || size > (size_t)(bytes + n - at)) abort();
    }
}

static void check_keys(const uint8_t *bytes, size_t n) {
    const char *keys[16];
    size_t rows = n ? bytes[0] % (COUNT(keys) + 1) : 0, lines = 0;
    char *copy = xmalloc(n);
    if (n) memcpy(copy, bytes, n);
    for (size_t i = 0; i < n; i++) lines += bytes[i] == '\n';
    bool whole = lines == rows && (!n || bytes[n - 1] == '\n');
    if (index_folder_split_keys(copy, n, rows, keys) != whole) abort();
    for (size_t i = 0, at = 0; whole && i < rows; i++) {
        if (keys[i] != copy + at) abort();
        while (bytes[at++] != '\n') {
        }
    }
    free(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    IndexFolder c, again;
    Error err;
    check_thumbs(bytes, n);
    check_keys(bytes, n);
    if (!index_folder_parse(&c, (const char *)bytes, n, NULL, &err)) return 0;
    char *json = index_folder_to_json(&c);
    if (!index_folder_parse(&again, json, strlen(json), NULL, &err)) abort();
    if (again.rows != c.rows || again.removed != c.removed || again.count != c.count ||
        strcmp(again.identity, c.identity) != 0)
        abort();
    free(json);
    index_folder_close(&c);
    index_folder_close(&again);
    return 0;
}
