/* options: a command's options as one table, which serves --name value, `name = value` in a recipe,
 * --help, and the record in a run folder. Every command of tools/ has such a table. */
#pragma once
#include "train/ranks/agree.h"

#include <stdio.h>
#include <string.h>

typedef enum {
    OPT_FLAG,    /* bool: --name, --no-name; name = true|false */
    OPT_CONSENT, /* bool: the same on the command line alone: no recipe sets it, none records it */
    OPT_INT,     /* int64_t within [lo, hi] */
    OPT_FLOAT,   /* double within [lo, hi] */
    OPT_STRING,  /* const char *, NULL allowed as default */
    OPT_PATH,    /* the same, of a file or folder, or another word where there is none */
    OPT_DATA,    /* the same, of a data specification (data/sources.h) */
    OPT_STEPS,   /* Steps: N, P% or N,P% with N within [lo, hi] */
    OPT_CHOICE,  /* int: index into the "a|b|c" of `choices` */
    OPT_LIST,    /* StringList: --name A B C up to the next option; repeating it adds */
} OptionType;

typedef enum { NOT_GIVEN, GIVEN_BY_RECIPE, GIVEN_ON_COMMAND_LINE } OptionOrigin;

typedef struct StringList {
    char **items;
    size_t count;
} StringList;

/* A number of steps or a share of a run's steps; of both, the smaller counts. */
typedef struct Steps {
    int64_t count;   /* 0 with a share: no limit */
    double percent;  /* 0: no share */
    uint64_t of_run; /* set by steps_settle */
} Steps;

/* Sets of_run for a run of `total` steps: a share is rounded and at least one step. */
void steps_settle(Steps *s, uint64_t total);

typedef struct Option {
    const char *name;
    OptionType type;
    void *value; /* holds the default before parsing */
    const char
        *choices;  /* OPT_CHOICE; otherwise the placeholder in --help ("FILE"), NULL: by type */
    double lo, hi; /* both 0: unlimited */
    const char *help;
    OptionOrigin given; /* set by parsing: the origin of the value */
} Option;

/* Rows of a table, by type; of: the placeholder. */
#define OPTION_ROW(name, type, value, of, lo, hi, help)                                            \
    { name, type, value, of, lo, hi, help, NOT_GIVEN }
#define FLAG(name, value, help) OPTION_ROW(name, OPT_FLAG, value, NULL, 0, 0, help)
#define CONSENT(name, value, help) OPTION_ROW(name, OPT_CONSENT, value, NULL, 0, 0, help)
#define INT(name, value, lo, hi, help) OPTION_ROW(name, OPT_INT, value, NULL, lo, hi, help)
#define INT_OF(name, value, of, lo, hi, help) OPTION_ROW(name, OPT_INT, value, of, lo, hi, help)
#define FLOAT(name, value, lo, hi, help) OPTION_ROW(name, OPT_FLOAT, value, NULL, lo, hi, help)
#define FLOAT_OF(name, value, of, lo, hi, help) OPTION_ROW(name, OPT_FLOAT, value, of, lo, hi, help)
#define STEPS(name, value, lo, hi, help)                                                           \
    OPTION_ROW(name, OPT_STEPS, value, "N|P%|N,P%", lo, hi, help)
#define STRING(name, value, of, help) OPTION_ROW(name, OPT_STRING, value, of, 0, 0, help)
#define PATH(name, value, of, help) OPTION_ROW(name, OPT_PATH, value, of, 0, 0, help)
#define DATA(name, value, of, help) OPTION_ROW(name, OPT_DATA, value, of, 0, 0, help)
#define CHOICE(name, value, words, help)                                                           \
    OPTION_ROW(name, OPT_CHOICE, value, CHOICES(words), 0, 0, help)
#define LIST(name, value, of, help) OPTION_ROW(name, OPT_LIST, value, of, 0, 0, help)

/* Rows for kernel_tuning (kernels/kernels.h). */
#define KERNEL_TF32_OPTION                                                                         \
    FLAG("tf32", &kernel_tuning.tf32, "fp32 on a GPU: products may round their inputs to TF32")
#define KERNEL_TUNING_OPTIONS                                                                      \
    KERNEL_TF32_OPTION, FLAG("autotune", &kernel_tuning.autotune,                                  \
                             "on a GPU: measure the ways to do each product in the first step")

typedef struct Command {
    const char *name;    /* "train", "data pack" */
    const char *summary; /* one line */
    const char *usage;   /* "clipc embed --checkpoint DIR …" */
    const char *examples;
    Option *options;
    size_t count;
} Command;

/* Parses argv[1..]. An option named "config" (OPT_STRING) is read as a recipe immediately, so later
 * options override it. --help prints and exits 0. Unknown name (with the nearest one), bad value,
 * operand although `operands` is NULL: die_usage. */
void options_parse(const Command *c, int argc, char **argv, StringList *operands);
/* A relative path of a recipe that exists only relative to the recipe's folder means that one.
 * `name = value` lines with # comments; lists separated by blanks. A value in double quotes is
 * taken as it is, with \" \\ \n \r for those characters. */
void options_read_recipe(const Command *c, const char *path);
/* The same for an open file. False: a line is no value; the lines before it are taken. */
bool options_parse_recipe(const Command *c, FILE *f, const char *path, Error *err);
/* Every option as a recipe that gives the same values in any folder, malloc'd: paths are absolute,
 * consents are skipped. */
char *options_recipe(const Command *c);
void options_write(const Command *c, const char *path);
/* Its value, malloc'd; "": none. */
char *option_text(const Option *o);
/* The same as a recipe has it: paths are absolute. */
char *option_record(const Option *o);
/* Hash of an option's name and value. */
uint64_t option_hash(const Option *o);
/* Hashes of every option, for ranks to compare; malloc'd [count]. A recipe's name is hashed as 0,
 * since only its contents must agree. */
NamedHash *options_hashes(const Command *c);
/* Edits that turn a into b, for "did you mean"; SIZE_MAX if b is very long. */
size_t edit_distance(const char *a, const char *b);
/* Returns true if a word so far from another is likely to be meant by it. */
static inline bool is_near(const char *word, size_t distance) {
    return distance <= strlen(word) / 2;
}
const Option *option_find(const Command *c, const char *name);
void string_list_add(StringList *l, const char *s);
void string_list_free(StringList *l); /* the list is empty afterwards */
