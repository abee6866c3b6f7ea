#include "train/options.h"
#include "data/io/folder.h"
#include "data/io/machine.h"
#include "data/io/resource.h"
#include "data/io/utf8.h"
#include "data/io/writer.h"
#include "data/sources.h"
#include "kernels/hash.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void string_list_add(StringList *l, const char *s) {
    if (!(l->count & (l->count - 1))) /* 0, or a power of 2: full */
        l->items = xrealloc(l->items, size_max(1, 2 * l->count) * sizeof *l->items);
    l->items[l->count++] = xstrdup(s);
}

void string_list_free(StringList *l) {
    for (size_t i = 0; i < l->count; i++) free(l->items[i]);
    free(l->items);
    *l = (StringList){0};
}

/* Values of options live until the program ends. They are never freed when replaced, since defaults
 * are literals and copies of the pointer may be anywhere. */
static StringList kept;
static const char *keep(const char *text) {
    string_list_add(&kept, text);
    return kept.items[kept.count - 1];
}

const Option *option_find(const Command *c, const char *name) {
    for (size_t i = 0; i < c->count; i++)
        if (!strcmp(c->options[i].name, name)) return &c->options[i];
    return NULL;
}

/* Levenshtein's; names longer than the row are not offered. */
size_t edit_distance(const char *a, const char *b) {
    size_t row[64], n = strlen(b);
    if (n >= COUNT(row)) return SIZE_MAX;
    for (size_t j = 0; j <= n; j++) row[j] = j;
    for (size_t i = 0; a[i]; i++) {
        size_t diagonal = row[0];
        row[0] = i + 1;
        for (size_t j = 0; j < n; j++) {
            size_t cost = diagonal + (a[i] != b[j]);
            diagonal = row[j + 1];
            row[j + 1] = size_min(cost, size_min(row[j], diagonal) + 1);
        }
    }
    return row[n];
}

static bool unknown_option(const Command *c, const char *name, Error *err) {
    const char *best = NULL;
    size_t least = SIZE_MAX;
    for (size_t i = 0; i < c->count; i++) {
        size_t d = edit_distance(name, c->options[i].name);
        if (d < least) least = d, best = c->options[i].name;
    }
    if (best && least <= strlen(name) / 2 + 1)
        return error_set(err, "unknown option '%.100s' (did you mean '%s'?)", name, best);
    return error_set(err, "unknown option '%.100s' (see clipc %s --help)", name, c->name);
}

static bool check_range(const Option *o, double v, Error *err) {
    if (isnan(v) || ((o->lo != 0 || o->hi != 0) && (v < o->lo || v > o->hi)))
        return error_set(err, "%s must lie between %g and %g, not %g", o->name, o->lo, o->hi, v);
    return true;
}

static bool set_steps(Option *o, const char *text, Error *err) {
    Steps s = {.count = 0};
    char *end = (char *)text;
    const char *share = strchr(text, ',') ? strchr(text, ',') + 1 : strchr(text, '%') ? text : NULL;
    bool good = true;
    if (share != text) {
        s.count = strtoll(text, &end, 10);
        good = end != text && !errno && (share ? *end == ',' && s.count > 0 : !*end);
        if (good && !check_range(o, (double)s.count, err)) return false;
    }
    if (share && good) {
        s.percent = strtod(share, &end);
        good = end != share && !strcmp(end, "%") && s.percent > 0 && s.percent <= 100;
    }
    if (!good)
        return error_set(err,
                         "%s must be a number of steps, a share of the run's (10%%) or both "
                         "(500,10%%: the smaller), not '%.100s'",
                         o->name, text);
    *(Steps *)o->value = s;
    return true;
}

void steps_settle(Steps *s, uint64_t total) {
    uint64_t share = (uint64_t)fmax(1, round((double)total * s->percent / 100));
    bool by_share = s->percent > 0 && (!s->count || share < (uint64_t)s->count);
    s->of_run = by_share ? share : (uint64_t)s->count;
}

static bool set_choice(Option *o, const char *text, Error *err) {
    size_t n = strlen(text), least = SIZE_MAX;
    int index = 0;
    char best[64] = "";
    for (const char *p = o->choices; *p; index++) {
        size_t len = strcspn(p, "|");
        if (len == n && !strncmp(p, text, n)) {
            *(int *)o->value = index;
            return true;
        }
        char word[64];
        snprintf(word, sizeof word, "%.*s", (int)len, p);
        size_t d = edit_distance(text, word);
        if (d < least) least = d, memcpy(best, word, sizeof best);
        p += len + (p[len] == '|');
    }
    if (is_near(text, least))
        return error_set(err, "%s must be one of %s, not '%s' (did you mean '%s'?)", o->name,
                         o->choices, text, best);
    return error_set(err, "%s must be one of %s, not '%.100s'", o->name, o->choices, text);
}

static bool set_value(Option *o, const char *text, OptionOrigin origin, Error *err) {
    char *end;
    errno = 0;
    switch (o->type) {
    case OPT_CONSENT:
        if (origin == GIVEN_BY_RECIPE)
            return error_set(err, "%s is for the command line: no recipe can allow it", o->name);
        __attribute__((fallthrough));
    case OPT_FLAG:
        if (!strcmp(text, "true") || !strcmp(text, "1"))
            *(bool *)o->value = true;
        else if (!strcmp(text, "false") || !strcmp(text, "0"))
            *(bool *)o->value = false;
        else
            return error_set(err, "%s must be true or false, not '%.100s'", o->name, text);
        break;
    case OPT_INT: {
        long long v = strtoll(text, &end, 10);
        if (end == text || *end || errno)
            return error_set(err, "%s must be a whole number, not '%.100s'", o->name, text);
        if (!check_range(o, (double)v, err)) return false;
        *(int64_t *)o->value = v;
        break;
    }
    case OPT_FLOAT: {
        double v = strtod(text, &end);
        if (end == text || *end)
            return error_set(err, "%s must be a number, not '%.100s'", o->name, text);
        if (!check_range(o, v, err)) return false;
        *(double *)o->value = v;
        break;
    }
    case OPT_STRING:
    case OPT_PATH:
    case OPT_DATA:
        *(const char **)o->value = keep(text);
        break;
    case OPT_STEPS:
        if (!set_steps(o, text, err)) return false;
        break;
    case OPT_CHOICE:
        if (!set_choice(o, text, err)) return false;
        break;
    case OPT_LIST:
        string_list_add(o->value, text);
        break;
    }
    o->given = origin;
    return true;
}

static char *trim(char *s) {
    while (isspace((unsigned char)*s)) s++;
    size_t n = strlen(s);
    while (n && isspace((unsigned char)s[n - 1])) s[--n] = 0;
    return s;
}

/* A comment starts at a # that begins the line or follows a blank, so that values may contain
 * one. */
static void cut_comment(char *s) {
    for (char *p = s; *p; p++)
        if (*p == '#' && (p == s || isspace((unsigned char)p[-1]))) {
            *p = 0;
            return;
        }
}

/* What stands for a character behind a backslash in a quoted value. */
static const char escapes[][2] = {{'"', '"'}, {'\\', '\\'}, {'n', '\n'}, {'r', '\r'}};

static void print_quoted(const char *s, FILE *out) {
    fputc('"', out);
    for (; *s; s++) {
        size_t i = 0;
        while (i < COUNT(escapes) && escapes[i][1] != *s) i++;
        if (i < COUNT(escapes)) fputc('\\', out);
        fputc(i < COUNT(escapes) ? escapes[i][0] : *s, out);
    }
    fputc('"', out);
}

/* The quote that ends the text in double quotes at s; NULL: there is none. */
static char *closing_quote(char *s) {
    char *end = s + 1;
    if (*s != '"') return NULL;
    while (*end && *end != '"') end += *end == '\\' && end[1] ? 2 : 1;
    return *end ? end : NULL;
}

/* Replaces text in double quotes, which ends at `end`, by what it means. */
static void unescape(char *s, const char *end) {
    char *to = s;
    for (const char *p = s + 1; p < end; p++) {
        *to = *p;
        for (size_t i = 0; *p == '\\' && i < COUNT(escapes); i++)
            if (escapes[i][0] == p[1]) {
                *to = escapes[i][1];
                p++;
                break;
            }
        to++;
    }
    *to = 0;
}

/* A value in double quotes with at most a comment after it, in place. False: it is none, s is
 * unchanged. */
static bool unquote(char *s) {
    char *end = closing_quote(s);
    size_t blanks = end ? strspn(end + 1, " \t\r\n") : 0;
    if (!end || (end[1] && !blanks) || (end[1 + blanks] && end[1 + blanks] != '#')) return false;
    unescape(s, end);
    return true;
}

/* The first item of *rest, in place: up to a blank, or in double quotes. NULL: none is left. */
static char *next_item(char **rest) {
    char *item = *rest + strspn(*rest, " \t"), *quote = closing_quote(item);
    if (!*item) return NULL;
    if (quote && quote[1] && !strchr(" \t", quote[1])) quote = NULL;
    char *end = quote ? quote + 1 : item + strcspn(item, " \t");
    *rest = end + (*end != 0);
    *end = 0;
    if (quote) unescape(item, quote);
    return item;
}

/* Name and value, in place; *value NULL: no '=' is on the line. */
static char *split_line(char *line, char **value) {
    char *equals = strchr(line, '=');
    *value = equals ? equals + 1 + strspn(equals + 1, " \t") : NULL;
    bool quoted = equals && !memchr(line, '#', (size_t)(equals - line)) && unquote(*value);
    if (!quoted) cut_comment(line);
    if (equals && line + strlen(line) > equals)
        *equals = 0;
    else
        *value = NULL;
    if (*value && !quoted) *value = trim(*value);
    return trim(line);
}

static char *found_beside(const void *folder, const char *path) {
    char *there = folder_path(folder, path);
    if (*path && *path != '/' && !machine_access(path, F_OK) && machine_access(there, F_OK))
        return there;
    free(there);
    return xstrdup(path);
}

/* A recipe's value, with its paths as the file `recipe` means them. */
static char *from_recipe(const Option *o, const char *text, const char *recipe) {
    if (o->type != OPT_PATH && o->type != OPT_DATA) return xstrdup(text);
    char *folder = xasprintf("%.*s.", (int)(path_base(recipe) - recipe), recipe),
         *value = o->type == OPT_PATH ? found_beside(folder, text)
                                      : sources_map(text, found_beside, folder);
    free(folder);
    return value;
}

static bool set_from_recipe(const Command *c, char *line, const char *recipe, Error *err) {
    char *value, *name = split_line(line, &value);
    if (!value && !*name) return true;
    if (!value) return error_set(err, "expected 'name = value', not '%.200s'", name);
    Option *o = (Option *)option_find(c, name);
    if (!o) return unknown_option(c, name, err);
    if (o->type != OPT_LIST) {
        char *meant = from_recipe(o, value, recipe);
        bool ok = set_value(o, meant, GIVEN_BY_RECIPE, err);
        free(meant);
        return ok;
    }
    for (char *item; (item = next_item(&value));)
        if (!set_value(o, item, GIVEN_BY_RECIPE, err)) return false;
    return true;
}

bool options_parse_recipe(const Command *c, FILE *f, const char *path, Error *err) {
    char *line = NULL;
    size_t capacity = 0;
    Error why;
    bool ok = true;
    ssize_t n;
    for (int number = 1; ok && (n = getline(&line, &capacity, f)) >= 0; number++) {
        char *from = line + (number == 1 ? text_mark(line, strlen(line)) : 0);
        ok = strlen(line) == (size_t)n ? set_from_recipe(c, from, path, &why)
                                       : error_set(&why, "a NUL byte: this is no text");
        if (!ok) error_set(err, "%.200s:%d: %.280s", path, number, why.text);
    }
    free(line);
    return ok;
}

void options_read_recipe(const Command *c, const char *path) {
    Error err;
    char *found = resource_find(path);
    if (!found) die("recipe %s: no such file (here, under $CLIPC_HOME or beside clipc)", path);
    FILE *f = fopen(found, "r");
    if (!f) die("recipe %s: %s", found, strerror(errno));
    if (!options_parse_recipe(c, f, found, &err)) die_usage("%s", err.text);
    if (!feof(f)) die("recipe %s: %s", found, strerror(errno));
    fclose(f);
    free(found);
}

static bool is_flag(const Option *o) { return o->type == OPT_FLAG || o->type == OPT_CONSENT; }

static void set_here(Option *o, const char *text, const char *where) {
    Error err;
    if (!set_value(o, text, GIVEN_ON_COMMAND_LINE, &err)) die_usage("%s: %s", where, err.text);
}

static bool is_option(const char *arg) { return arg[0] == '-' && arg[1] == '-'; }

/* Handles argv[*i] = --name[=value] and its values; advances *i past them. */
static void parse_one(const Command *c, int argc, char **argv, int *i) {
    char name[64], where[96];
    const char *arg = argv[(*i)++] + 2, *equals = strchr(arg, '=');
    size_t n = equals ? (size_t)(equals - arg) : strlen(arg);
    snprintf(name, sizeof name, "%.*s", (int)size_min(n, sizeof name - 1), arg);
    snprintf(where, sizeof where, "clipc %s", c->name);
    Option *o = (Option *)option_find(c, name);
    if (!o && !strncmp(name, "no-", 3)) {
        o = (Option *)option_find(c, name + 3);
        if (o && is_flag(o) && !equals) {
            set_here(o, "false", where);
            return;
        }
        o = NULL;
    }
    Error err;
    if (!o && !unknown_option(c, name, &err)) die_usage("%s: %s", where, err.text);
    if (equals) {
        set_here(o, equals + 1, where);
    } else if (is_flag(o)) {
        set_here(o, "true", where);
    } else if (*i >= argc) {
        die_usage("%s: --%s needs a value", where, name);
    } else if (o->type == OPT_LIST) {
        while (*i < argc && !is_option(argv[*i])) set_here(o, argv[(*i)++], where);
    } else {
        set_here(o, argv[(*i)++], where);
    }
    if (!strcmp(name, "config")) options_read_recipe(c, *(const char **)o->value);
}

/* As many digits as give the number back. */
static void print_number(double x, FILE *out) {
    char digits[40];
    for (int n = 9; n <= 17; n++) {
        snprintf(digits, sizeof digits, "%.*g", n, x);
        if (strtod(digits, NULL) == x) break;
    }
    fputs(digits, out);
}

static void print_steps(const Steps *s, FILE *out) {
    if (s->count || !(s->percent > 0))
        fprintf(out, "%lld%s", (long long)s->count, s->percent > 0 ? "," : "");
    if (!(s->percent > 0)) return;
    print_number(s->percent, out);
    fputc('%', out);
}

static void print_value(const Option *o, FILE *out) {
    switch (o->type) {
    case OPT_FLAG:
    case OPT_CONSENT:
        fputs(*(bool *)o->value ? "true" : "false", out);
        break;
    case OPT_INT:
        fprintf(out, "%lld", (long long)*(int64_t *)o->value);
        break;
    case OPT_FLOAT:
        print_number(*(double *)o->value, out);
        break;
    case OPT_STEPS:
        print_steps(o->value, out);
        break;
    case OPT_STRING:
    case OPT_PATH:
    case OPT_DATA:
        fputs(*(const char **)o->value ? *(const char **)o->value : "", out);
        break;
    case OPT_CHOICE: {
        const char *p = o->choices;
        for (int n = *(int *)o->value; n > 0; n--) p += strcspn(p, "|") + 1;
        fprintf(out, "%.*s", (int)strcspn(p, "|"), p);
        break;
    }
    case OPT_LIST: {
        const StringList *l = o->value;
        for (size_t i = 0; i < l->count; i++) {
            const char *item = l->items[i];
            if (i) fputc(' ', out);
            if (!*item || *item == '"' || strpbrk(item, " \t"))
                print_quoted(item, out);
            else
                fputs(item, out);
        }
        break;
    }
    }
}

static bool is_text(const Option *o) {
    return o->type == OPT_STRING || o->type == OPT_PATH || o->type == OPT_DATA;
}

static bool is_empty(const Option *o) {
    return (is_text(o) && !*(const char **)o->value) ||
           (o->type == OPT_LIST && !((StringList *)o->value)->count);
}

static void print_help(const Command *c, FILE *out) {
    static const char *const placeholders[] = {
        [OPT_FLAG] = "",       [OPT_CONSENT] = "",    [OPT_INT] = "N",     [OPT_FLOAT] = "X",
        [OPT_STRING] = "TEXT", [OPT_PATH] = "PATH",   [OPT_DATA] = "SPEC", [OPT_STEPS] = "",
        [OPT_CHOICE] = "",     [OPT_LIST] = "ITEM..."};
    fprintf(out, "%s\n\nusage: %s\n", c->summary, c->usage);
    if (c->count) fprintf(out, "\noptions (default in brackets):\n");
    for (size_t i = 0; i < c->count; i++) {
        const Option *o = &c->options[i];
        const char *what = o->choices ? o->choices : placeholders[o->type];
        int n = fprintf(out, "  --%s%s%s", o->name, *what ? " " : "", what);
        fprintf(out, "%*s%s", n < 34 ? 34 - n : 1, "", o->help);
        if (!is_empty(o) && !(is_flag(o) && !*(bool *)o->value)) {
            fputs(" [", out);
            print_value(o, out);
            fputc(']', out);
        }
        fputc('\n', out);
    }
    if (c->examples) fprintf(out, "\nexamples:\n%s", c->examples);
}

void options_parse(const Command *c, int argc, char **argv, StringList *operands) {
    for (int i = 1; i < argc; i++)
        if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) {
            print_help(c, stdout);
            exit(EXIT_OK);
        }
    bool only_operands = false;
    for (int i = 1; i < argc;) {
        if (!only_operands && !strcmp(argv[i], "--")) {
            only_operands = true;
            i++;
        } else if (!only_operands && is_option(argv[i])) {
            parse_one(c, argc, argv, &i);
        } else if (operands) {
            string_list_add(operands, argv[i++]);
        } else {
            die_usage("clipc %s: '%s' is no option (see clipc %s --help)", c->name, argv[i],
                      c->name);
        }
    }
}

static bool needs_quotes(const char *s) {
    size_t n = strlen(s);
    if (!n) return false;
    bool comment = *s == '#';
    for (size_t i = 1; i < n; i++) comment |= s[i] == '#' && isspace((unsigned char)s[i - 1]);
    return comment || *s == '"' || isspace((unsigned char)*s) || isspace((unsigned char)s[n - 1]) ||
           strpbrk(s, "\n\r");
}

static char *absolute(const void *context, const char *path) {
    (void)context;
    return path_absolute(path);
}

/* In a folder whose name would be read as a part of a specification, its paths stay. */
static char *absolute_data(const char *spec) {
    char *here = path_absolute(".");
    bool plain = !strpbrk(here, "{},") && !strstr(here, "::");
    free(here);
    return plain ? sources_map(spec, absolute, NULL) : xstrdup(spec);
}

char *option_record(const Option *o) {
    const char *text = is_text(o) ? *(const char **)o->value : NULL;
    if (text && o->type == OPT_DATA) return absolute_data(text);
    if (text && *text && o->type == OPT_PATH && machine_access(text, F_OK))
        return path_absolute(text);
    return option_text(o);
}

char *options_recipe(const Command *c) {
    char *text;
    size_t n;
    FILE *out = open_memstream(&text, &n);
    if (!out) die("out of memory");
    fprintf(out, "# every option of a run: clipc %s --config THIS_FILE\n", c->name);
    for (size_t i = 0; i < c->count; i++) {
        const Option *o = &c->options[i];
        if (!strcmp(o->name, "config") || o->type == OPT_CONSENT || is_empty(o)) continue;
        char *value = option_record(o);
        fprintf(out, "%s = ", o->name);
        if ((is_text(o) || o->type == OPT_LIST) && needs_quotes(value))
            print_quoted(value, out);
        else
            fputs(value, out);
        fputc('\n', out);
        free(value);
    }
    if (fclose(out)) die("out of memory");
    return text;
}

void options_write(const Command *c, const char *path) {
    Error err;
    char *text = options_recipe(c);
    if (!file_write_atomic(path, text, strlen(text), &err)) die("%s", err.text);
    free(text);
}

char *option_text(const Option *o) {
    char *text;
    size_t n;
    FILE *f = open_memstream(&text, &n);
    if (!f) die("out of memory");
    if (!is_empty(o)) print_value(o, f);
    if (fclose(f)) die("out of memory");
    return text;
}

uint64_t option_hash(const Option *o) {
    char *value = option_text(o), *text = xasprintf("%s %d %s", o->name, is_empty(o), value);
    uint64_t h = fnv_hash(FNV_START, text, strlen(text));
    FREE_ALL(value, text);
    return h;
}

NamedHash *options_hashes(const Command *c) {
    NamedHash *hashes = xcalloc(c->count, sizeof *hashes);
    for (size_t i = 0; i < c->count; i++) {
        const Option *o = &c->options[i];
        hashes[i] = (NamedHash){o->name, strcmp(o->name, "config") ? option_hash(o) : 0};
    }
    return hashes;
}
