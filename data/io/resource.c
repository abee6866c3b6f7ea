#include "data/io/resource.h"
#include "data/io/machine.h"

#include <libgen.h>
#include <limits.h>
#include <stdlib.h>
#include <unistd.h>

static char *readable(char *path) {
    if (machine_access(path, R_OK)) return path;
    free(path);
    return NULL;
}

char *resource_installed(const char *name) {
    const char *home = getenv("CLIPC_HOME");
    char *path = home && *home ? readable(xasprintf("%s/%s", home, name)) : NULL;
    char exe[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
    if (path || n < 0) return path;
    exe[n] = 0;
    const char *dir = dirname(exe);
    /* build/clipc, build/FLAVOUR/clipc and bin/clipc of an install prefix */
    static const char *const beside[] = {".", "..", "../..", "../share/clipc"};
    for (size_t i = 0; !path && i < COUNT(beside); i++)
        path = readable(xasprintf("%s/%s/%s", dir, beside[i], name));
    return path;
}

char *resource_find(const char *name) {
    if (machine_access(name, R_OK)) return xstrdup(name);
    return *name == '/' ? NULL : resource_installed(name);
}
