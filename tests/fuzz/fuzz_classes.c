/* Any JSON as a class file of zero-shot: refused, or classes with a caption under every template.
 */
#include "eval/classes.h"
#include "tests/fuzz/memory_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    ClassSet s;
    Error err;
    if (!class_set_load(&s, memory_file(bytes, n), &err)) {
        if (!*err.text || s.path) abort();
        return 0;
    }
    if (!s.count || !s.template_count) abort();
    for (size_t c = 0; c < s.count && c < 8; c++)
        for (size_t t = 0; t < s.template_count && t < 8; t++) free(class_caption_of(&s, c, t));
    class_set_hash(&s);
    for (size_t c = 0; c < s.count && c < 8; c++) {
        const char *folder = s.folders ? s.folders[c] : s.classes[c];
        int map;
        bool found = class_set_map_folders(&map, &folder, 1, &s, &err);
        if (found ? map < 0 || (size_t)map >= s.count : s.folders != NULL) abort();
    }
    class_set_free(&s);
    return 0;
}
