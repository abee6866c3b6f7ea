#include "tools/common.h"
#include "data/io/folder.h"
#include "data/io/machine.h"
#include "data/io/utf8.h"
#include "data/sources.h"
#include "data/text/tokenizer.h"

#include "eval/lists.h"
#include "train/model/pretrained.h"
#include "train/ranks/agree.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

Dataset *open_dataset(const char *option, const char *spec, const DatasetOptions *d) {
    Error err;
    if (!spec) die_usage("--%s is missing (shards, a CSV/TSV or a folder)", option);
    Dataset *set = dataset_open(spec, d, &err);
    if (!set) die("--%s %s: %s", option, spec, err.text);
    return set;
}

const Comm *open_comm(const Command *command, const CommOptions *co, const EncoderOptions *e) {
    const Comm *c = comm_open(co, kernels_open_device(e->device, e->precision));
    NamedHash *hashes = options_hashes(command);
    agree_on_start(c, hashes, command->count);
    free(hashes);
    return c;
}

void read_pictures_as(const Command *c, const IndexFolder *x) {
    static const char *const backgrounds[] = {BACKGROUNDS(CHOICE_WORD)};
    const PictureReading *r = &x->reading;
    const struct {
        const char *option;
        bool same;
    } rows[] = {{"background", image_background == r->background},
                {"exif", image_exif == r->exif},
                {"pdf-dpi", pdf_dpi == r->pdf_dpi}};
    if (!r->known) return;
    for (size_t i = 0; i < COUNT(rows); i++)
        if (option_find(c, rows[i].option)->given && !rows[i].same)
            die("%s was made with --background %s --%s --pdf-dpi %lld: leave out --%s, or make a "
                "new "
                "index",
                x->folder, backgrounds[r->background], r->exif ? "exif" : "no-exif",
                (long long)r->pdf_dpi, rows[i].option);
    image_background = r->background;
    image_exif = r->exif;
    pdf_dpi = r->pdf_dpi;
}

char *join_operands(const Command *c, const StringList *operands) {
    if (operands->count == 0)
        die_usage("clipc %s: no data named (shards, a CSV/TSV or a folder)", c->name);
    char *spec = xstrdup(operands->items[0]);
    for (size_t i = 1; i < operands->count; i++) {
        char *longer = xasprintf("%s::%s", spec, operands->items[i]);
        free(spec);
        spec = longer;
    }
    return spec;
}

Dataset *open_operands(const Command *c, const StringList *operands, const DatasetOptions *d) {
    Error err;
    char *spec = join_operands(c, operands);
    Dataset *set = dataset_open(spec, d, &err);
    if (!set) die("%s", err.text);
    free(spec);
    return set;
}

Tokenizer *open_tokenizer(const char *path) {
    Error err;
    char *found = path ? xstrdup(path) : tokenizer_default_path();
    Tokenizer *tokenizer = tokenizer_open(found, &err);
    if (!tokenizer) die("%s", err.text);
    free(found);
    return tokenizer;
}

char **read_lines(const char *path, size_t *count) {
    FILE *f = strcmp(path, "-") ? fopen(path, "r") : stdin;
    if (!f) die("%s: %s", path, strerror(errno));
    char **lines = NULL, *line = NULL;
    size_t n = 0, room = 0, capacity = 0;
    ssize_t length;
    while ((length = getline(&line, &capacity, f)) >= 0) {
        if (length && line[length - 1] == '\n') line[--length] = 0;
        if (length && line[length - 1] == '\r') line[--length] = 0;
        if (n == room) lines = xrealloc(lines, (room = room ? 2 * room : 64) * sizeof *lines);
        lines[n] = xstrdup(line + (n ? 0 : text_mark(line, (size_t)length)));
        n++;
    }
    if (!feof(f)) die("%s: %s", path, strerror(errno)); /* or no memory for a line */
    if (f != stdin) fclose(f);
    free(line);
    *count = n;
    return lines;
}

void free_lines(char **lines, size_t count) {
    for (size_t i = 0; i < count; i++) free(lines[i]);
    free(lines);
}

void expand_image_files(StringList *files) {
    StringList all = {0};
    Error err;
    for (size_t i = 0; i < files->count; i++) {
        const char *item = files->items[i];
        char **names;
        size_t count;
        bool at = *item == '@' && !machine_access(item, F_OK);
        if (!at && !ends_with(item, ".txt")) {
            string_list_add(&all, item);
            continue;
        }
        if (!sources_list(item + at, &names, &count, &err)) die("%s", err.text);
        for (size_t n = 0; n < count; n++) string_list_add(&all, names[n]);
        names_free(names, count);
    }
    string_list_free(files);
    *files = all;
}

void find_checkpoints(StringList *names) {
    for (size_t i = 0; i < names->count; i++) {
        char *found = pretrained_find(names->items[i]);
        free(names->items[i]);
        names->items[i] = found;
    }
}

float *embed_texts(Encoder *e, char *const *texts, size_t n) {
    return features_of_texts(e, comm_self(encoder_kernels(e)), texts, n);
}

enum { NAMED_FILES = 3 }; /* unreadable files that are named, so that a refusal stays short */

float *embed_image_files(Encoder *e, char *const *paths, size_t n) {
    bool *ok = xcalloc(n, sizeof *ok);
    float *out = features_of_files(e, comm_self(encoder_kernels(e)), paths, n, ok, NAMED_FILES);
    size_t good = 0;
    for (size_t i = 0; i < n; i++) good += ok[i];
    if (good != n)
        die("%zu of %zu image files could not be read: nothing was written", n - good, n);
    free(ok);
    return out;
}

json_t *json_text(const char *text) {
    json_t *s = json_string(text);
    if (s) return s;
    char *ascii = xstrdup(text);
    for (char *c = ascii; *c; c++)
        if (*c & 0x80) *c = '?';
    s = json_string(ascii);
    free(ascii);
    return s;
}

void print_json(json_t *object) {
    json_dumpf(object, stdout, JSON_REAL_PRECISION(9));
    putchar('\n');
    json_decref(object);
}
