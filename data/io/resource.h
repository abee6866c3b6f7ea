/* resource: files that come with the program: configurations, recipes, vocabularies, class names.
 */
#pragma once
#include "kernels/base.h"

/* The file `name` (a relative path such as configs/models/X.json) under $CLIPC_HOME, in the
 * binary's folder or up to two folders above it, or in the install prefix's share/clipc; malloc'd,
 * NULL if there is none. */
char *resource_installed(const char *name);
/* The same, but first tries the path as given, which may be absolute. */
char *resource_find(const char *name);
