/* Any JSON as the sizes.json of a folder that is packed into: refused as it is, or the entries of
 * other names stay. */
#include "data/io/file.h"
#include "data/pack_folder.h"
#include "tests/fuzz/work_folder.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

static json_t *read_back(const char *path, const uint8_t *bytes, size_t n, bool as_was) {
    Error err;
    uint8_t *left;
    size_t size;
    if (!file_read_all(path, &left, &size, SIZE_MAX / 2, &err)) abort();
    if (as_was && (size != n || (n && memcmp(left, bytes, n)))) abort();
    json_t *all = json_loadb((char *)left, size, 0, NULL);
    free(left);
    return all;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    static const char own[] = "t-000000.tar";
    char *path = work_file("sizes.json", bytes, n), *out = folder_path(work_folder(), "t");
    PackFolder f;
    PackState s;
    Error err = {""};
    bool going_on, ok = pack_folder_open(&f, out, 1, true, &going_on, &s, &err);
    json_t *before = read_back(path, bytes, n, true);
    if (ok != json_is_object(before) || (!ok && !*err.text)) abort();
    if (ok) {
        json_object_set_new(s.sizes, own, json_integer(3));
        if (!pack_folder_finish(&f, &s, false, &err)) abort();
        json_t *after = read_back(path, NULL, 0, false), *value;
        const char *key;
        if (json_integer_value(json_object_get(after, own)) != 3) abort();
        json_object_foreach(before, key, value) {
            if (strncmp(key, "t-", 2) && !json_equal(json_object_get(after, key), value)) abort();
        }
        json_decref(after);
    }
    json_decref(before);
    pack_state_free(&s);
    pack_folder_close(&f);
    FREE_ALL(path, out);
    return 0;
}
