/* search_html: hits as a self-contained page. Called by tools/cmd_search.c. */
#ifndef TOOLS_SEARCH_HTML_H
#define TOOLS_SEARCH_HTML_H
#include "eval/collection.h"
#include <stdio.h>

FILE *search_html_open(const char *path); /* dies */
void search_html_heading(FILE *f, const char *text);
/* The picture's thumbnail, if the collection (may be NULL) has one, with a score and a key below.
 */
void search_html_hit(FILE *f, const Collection *c, size_t row, double score, const char *key);
void search_html_close(FILE *f, const char *path); /* dies where the page could not be written */
#endif
