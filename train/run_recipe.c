#include "train/run_recipe.h"

#include "data/io/file.h"
#include "data/io/folder.h"
#include "data/io/machine.h"
#include "train/train_options.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { RECIPE_MAX = 1 << 20 };

/* Returns true for params-N.conf. */
static bool is_later(const char *name, uint64_t *step) {
    unsigned long long n;
    int end = 0;
    if (sscanf(name, "params-%18llu.conf%n", &n, &end) != 1 || !end || name[end]) return false;
    *step = n;
    return true;
}

void run_recipe_locate(void) {
    TrainOptions *o = &train_options;
    uint64_t step;
    const char *name = o->config ? path_base(o->config) : "";
    if (strcmp(name, "params.conf") && !is_later(name, &step)) return;
    char *path = path_absolute(o->config), *checkpoints = folder_beside(path, "checkpoints"),
         *dir = xasprintf("%.*s", (int)(path_base(path) - path - 1), path);
    char *slash = strrchr(dir, '/');
    if (slash && folder_is(checkpoints)) {
        if (option_of_recipe("name")) o->name = xstrdup(slash + 1);
        if (option_of_recipe("logs")) o->logs = xasprintf("%.*s", (int)(slash - dir), dir);
    }
    FREE_ALL(checkpoints, path, dir);
}

/* A checkpoint of the run itself is no part of its options; another run's is. */
static void forget_resume(bool resumed) {
    const char *resume = train_options.resume;
    if (resumed || (resume && !strcmp(resume, "latest"))) train_options.resume = NULL;
}

/* Left by a run that was killed while writing a recipe. */
static bool is_unfinished(const char *name) {
    return !strncmp(name, "params", 6) && strstr(name, ".conf.tmp.");
}

/* The recipe of the highest step up to `step`, malloc'd; those of higher steps are removed, and of
 * a run that begins all. */
static char *recipe_at(const char *dir, uint64_t step, bool begins) {
    char **names, *found = folder_path(dir, "params.conf");
    size_t count;
    uint64_t n, best = 0;
    Error err;
    if (!folder_list(dir, &names, &count, &err)) die("%s", err.text);
    for (size_t i = 0; i < count; i++) {
        const bool unfinished = is_unfinished(names[i]);
        if (!unfinished && !is_later(names[i], &n)) continue;
        char *path = folder_path(dir, names[i]);
        if (unfinished || begins || n > step) {
            unlink(path);
        } else if (n >= best) {
            free(found);
            found = xstrdup(path);
            best = n;
        }
        free(path);
    }
    names_free(names, count);
    return found;
}

static bool has_bytes(const char *path, const char *text) {
    uint8_t *bytes = NULL;
    size_t size;
    Error err;
    bool same = file_read_all(path, &bytes, &size, RECIPE_MAX, &err) && size == strlen(text) &&
                !memcmp(bytes, text, size);
    free(bytes);
    return same;
}

char *run_recipe_write(const char *dir, uint64_t step, bool resumed) {
    char *first = folder_path(dir, "params.conf");
    const char *resume = train_options.resume;
    bool begins = !resumed || !machine_access(first, F_OK);
    forget_resume(!begins);
    char *now = recipe_at(dir, step, begins), *text = options_recipe(&train_command);
    if (begins || !has_bytes(now, text)) {
        free(now);
        now = begins ? xstrdup(first)
                     : xasprintf("%s/params-%llu.conf", dir, (unsigned long long)step);
        options_write(&train_command, now);
    }
    train_options.resume = resume;
    FREE_ALL(text, first);
    return now;
}
