/* search_html: hits as a self-contained page. */
#ifndef TOOLS_SEARCH_HTML_H
#define TOOLS_SEARCH_HTML_H
#include "eval/index_folder.h"
#include <stdio.h>

FILE *search_html_open(const char *path); /* dies */
void search_html_heading(FILE *f, const char *text);
/* The picture's thumbnail, if it has one, with a score and its key below. */
void search_html_hit(FILE *f, const IndexFolder *x, size_t row, double score);
void search_html_close(FILE *f, const char *path); /* dies where the page could not be written */
#endif
