/* clipc index list|remove|compact|check: lists and maintains an index folder. */
#include "data/io/string_map.h"
#include "eval/index_folder.h"
#include "tools/commands.h"
#include "tools/common.h"

#include <fnmatch.h>
#include <stdio.h>
#include <string.h>

static bool json, missing, dry_run, yes;
static StringList patterns;
static const char *from_file;

static const char *one_folder(const Command *c, const StringList *operands) {
    if (operands->count != 1) die_usage("clipc %s: name one index folder", c->name);
    return operands->items[0];
}

/* ---- list ---- */

static Option list_options[] = {
    FLAG("json", &json, "one JSON object on stdout: also model and sizes"),
};

static const Command list_command = {
    "index list",
    "The pictures of an index, a key a line.",
    "clipc index list DIR [--json]",
    "  clipc index list photos.index\n"
    "  clipc index list photos.index --json | head -c 300\n",
    list_options,
    COUNT(list_options),
};

int cmd_index_list(int argc, char **argv) {
    StringList operands = {0};
    IndexFolder x;
    options_parse(&list_command, argc, argv, &operands);
    index_folder_open(&x, one_folder(&list_command, &operands));
    json_t *keys = json_array();
    for (size_t i = 0; i < x.rows; i++) {
        if (index_folder_removed(&x, i)) continue;
        if (json)
            json_array_append_new(keys, json_text(index_folder_key(&x, i)));
        else
            puts(index_folder_key(&x, i));
    }
    if (json)
        print_json(json_pack(
            "{s:s, s:o, s:I, s:s, s:I, s:I, s:I, s:I, s:O}", "identity", x.identity, "checkpoint",
            json_text(x.checkpoint), "dim", (json_int_t)x.dim, "dtype", npy_type_names[x.type],
            "thumbnails", (json_int_t)x.thumb_side, "segments", (json_int_t)x.count, "pictures",
            (json_int_t)(x.rows - x.removed), "removed", (json_int_t)x.removed, "keys", keys));
    json_decref(keys);
    index_folder_close(&x);
    string_list_free(&operands);
    return EXIT_OK;
}

/* ---- remove ---- */

static Option remove_options[] = {
    LIST("match", &patterns, "PATTERN...", "keys that fit, as in the shell: 'a/*.png'"),
    STRING("from", &from_file, "FILE", "keys, one a line; - is stdin"),
    FLAG("missing", &missing, "pictures whose file is missing"),
    FLAG("dry-run", &dry_run, "only print the keys"),
    FLAG("yes", &yes, "even if it is more than a tenth of the index"),
};

static const Command remove_command = {
    "index remove",
    "Remove pictures from an index; the keys that went are printed. Files are not touched.",
    "clipc index remove DIR [KEY...] [--match PATTERN...] [--from FILE] [--missing] [--dry-run] "
    "[--yes]",
    "  clipc index remove photos.index photos/a.jpg photos/b.jpg\n"
    "  clipc index remove photos.index --match 'photos/2019/*' --dry-run\n"
    "  clipc index remove photos.index --missing\n",
    remove_options,
    COUNT(remove_options),
};

static bool file_is_there(const IndexFolder *x, const char *key) {
    char *path = index_folder_key_file(x, key);
    free(path);
    return path != NULL;
}

static bool fits_pattern(const char *key) {
    for (size_t p = 0; p < patterns.count; p++)
        if (!fnmatch(patterns.items[p], key, 0)) return true;
    return false;
}

/* [rows]: whether a row is one of the named pictures. A name is a key, or else the path of a file
 * from here; one that the index does not have ends the program. */
static bool *find_named(IndexFolder *x, const StringMap *names) {
    StringMap meant = {0};
    StringList meanings = {0};
    bool *named = xcalloc(x->rows + 1, sizeof *named),
         *found = xcalloc(names->count + 1, sizeof *found),
         *met = xcalloc(names->count + 1, sizeof *met); /* meanings, as `meant` numbers them */
    uint32_t *meaning_of = xcalloc(names->count + 1, sizeof *meaning_of);
    for (size_t i = 0; i < x->rows; i++) {
        uint32_t n = index_folder_removed(x, i) ? UINT32_MAX
                                                : string_map_find(names, index_folder_key(x, i));
        if (n != UINT32_MAX) named[i] = found[n] = true;
    }
    for (size_t n = 0; n < names->count; n++) {
        if (found[n]) continue;
        char *key = index_folder_make_key(x, names->strings[n]),
             *meaning = index_folder_meaning(x, key);
        string_list_add(&meanings, meaning);
        meaning_of[n] = string_map_put(&meant, meanings.items[meanings.count - 1], NULL);
        FREE_ALL(meaning, key);
    }
    for (size_t i = 0; meant.count && i < x->rows; i++) {
        if (index_folder_removed(x, i)) continue;
        char *meaning = index_folder_meaning(x, index_folder_key(x, i));
        uint32_t m = string_map_find(&meant, meaning);
        if (m != UINT32_MAX) named[i] = met[m] = true;
        free(meaning);
    }
    for (size_t n = 0; n < names->count; n++)
        if (!found[n] && !met[meaning_of[n]])
            die("%s has no '%s' (clipc index list shows what it has): nothing was removed",
                x->folder, names->strings[n]);
    string_map_free(&meant);
    string_list_free(&meanings);
    FREE_ALL(meaning_of, found, met);
    return named;
}

int cmd_index_remove(int argc, char **argv) {
    StringList operands = {0}, listed = {0};
    StringMap keys = {0};
    IndexFolder x;
    options_parse(&remove_command, argc, argv, &operands);
    if (!operands.count) die_usage("clipc index remove: name the index folder");
    if (operands.count == 1 && !patterns.count && !from_file && !missing)
        die_usage("clipc index remove: nothing to remove: keys, --match, --from or --missing");
    if (from_file) listed.items = read_lines(from_file, &listed.count);
    for (size_t i = 1; i < operands.count; i++) string_map_put(&keys, operands.items[i], NULL);
    for (size_t i = 0; i < listed.count; i++) string_map_put(&keys, listed.items[i], NULL);
    index_folder_open_locked(&x, operands.items[0]);
    size_t n = 0, gone = 0, by_name = operands.count - 1;
    size_t *rows = xcalloc(x.rows + 1, sizeof *rows);
    bool *named = find_named(&x, &keys);
    for (size_t i = 0; i < x.rows; i++) {
        if (index_folder_removed(&x, i)) continue;
        const char *key = index_folder_key(&x, i);
        if (named[i] || fits_pattern(key) || (missing && !file_is_there(&x, key))) rows[n++] = i;
    }
    if (!yes && !dry_run && n > by_name && 10 * n > x.rows - x.removed)
        die("%s: %zu of %zu pictures would be removed, more than a tenth: nothing was; --dry-run "
            "lists them, --yes removes them",
            x.folder, n, x.rows - x.removed);
    for (size_t i = 0; i < n; i++) {
        puts(index_folder_key(&x, rows[i]));
        if (!dry_run) index_folder_remove(&x, rows[i]), gone++;
    }
    if (gone) index_folder_commit(&x);
    log_info("%s: %zu %s, %zu left%s", x.folder, n, dry_run ? "would be removed" : "removed",
             x.rows - x.removed,
             2 * x.removed > x.rows ? "; clipc index compact gives the room back" : "");
    FREE_ALL(rows, named);
    string_map_free(&keys);
    if (listed.items) free_lines(listed.items, listed.count);
    index_folder_close(&x);
    string_list_free(&operands);
    return EXIT_OK;
}

/* ---- compact, check ---- */

static const Command compact_command = {
    "index compact",
    "Write an index's pictures into one segment and give back the room of removed ones.",
    "clipc index compact DIR",
    "  clipc index compact photos.index\n",
    NULL,
    0,
};

int cmd_index_compact(int argc, char **argv) {
    StringList operands = {0};
    IndexFolder x;
    options_parse(&compact_command, argc, argv, &operands);
    index_folder_open_locked(&x, one_folder(&compact_command, &operands));
    if (x.count > 1 || x.removed) index_folder_compact(&x);
    log_info("%s: %zu pictures in %zu segment%s", x.folder, x.rows, x.count,
             x.count == 1 ? "" : "s");
    index_folder_close(&x);
    string_list_free(&operands);
    return EXIT_OK;
}

static const Command check_command = {
    "index check",
    "Read every byte of an index and compare checksums; exit 1 if one is wrong.",
    "clipc index check DIR",
    "  clipc index check photos.index\n",
    NULL,
    0,
};

int cmd_index_check(int argc, char **argv) {
    StringList operands = {0};
    IndexFolder x;
    Error err;
    options_parse(&check_command, argc, argv, &operands);
    index_folder_open(&x, one_folder(&check_command, &operands));
    if (!index_folder_check(&x, &err)) die("%s", err.text);
    printf("%s: %zu pictures, %zu segments: sound\n", x.folder, x.rows - x.removed, x.count);
    index_folder_close(&x);
    string_list_free(&operands);
    return EXIT_OK;
}
