/* Any text as a recipe (params.conf): refused, or values that are the same when they are written
 * and read again. */
#include "tests/fuzz/memory_file.h"
#include "train/options.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

static struct Values {
    bool flag, consent;
    int64_t number;
    double real, bounded;
    const char *text, *file, *data;
    int choice;
    StringList list;
} v;
static Option options[] = {
    FLAG("flag", &v.flag, ""),
    CONSENT("consent", &v.consent, ""),
    INT("number", &v.number, 0, 0, ""),
    FLOAT("real", &v.real, 0, 0, ""),
    FLOAT("bounded", &v.bounded, -1, 10, ""),
    STRING("text", &v.text, NULL, ""),
    PATH("file", &v.file, NULL, ""),
    DATA("data", &v.data, NULL, ""),
    LIST("list", &v.list, NULL, ""),
    {"choice", OPT_CHOICE, &v.choice, "one|two|three", 0, 0, "", NOT_GIVEN},
};
static const Command command = {.name = "fuzz", .options = options, .count = COUNT(options)};

static bool read_text(const char *bytes, size_t n, Error *err) {
    string_list_free(&v.list);
    v = (struct Values){.flag = false};
    FILE *f = fopen(memory_file((const uint8_t *)bytes, n), "r");
    if (!f) abort();
    bool ok = options_parse_recipe(&command, f, "recipe.conf", err);
    fclose(f);
    return ok;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    Error err = {""};
    if (!read_text((const char *)bytes, n, &err)) {
        if (!*err.text) abort();
        return 0;
    }
    if (v.consent) abort();
    char *text = options_recipe(&command);
    if (!read_text(text, strlen(text), &err)) abort();
    char *again = options_recipe(&command);
    if (strcmp(again, text)) abort();
    free(text);
    free(again);
    return 0;
}
