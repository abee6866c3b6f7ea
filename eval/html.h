/* html: self-contained pages: nothing is loaded from elsewhere, so that they can be sent on. What
 * comes from outside (keys, captions, names of classes) is written by html_text alone. */
#ifndef EVAL_HTML_H
#define EVAL_HTML_H
#include "data/io/writer.h"
#include <stdio.h>

typedef struct HtmlPage {
    FILE *out; /* for the page's own markup */
    Writer *file;
    char *bytes;
    size_t size;
} HtmlPage;

/* False: the file cannot be written. */
bool html_open(HtmlPage *p, const char *path, const char *title, Error *err);
/* The same text in the page, in an element or in a quoted attribute. */
void html_text(const HtmlPage *p, const char *text);
/* A JPEG inside the page; title: what the pointer shows over it. */
void html_picture(const HtmlPage *p, const uint8_t *jpeg, size_t size, const char *title);
/* The file appears as a whole; false: it could not be written. */
bool html_close(HtmlPage *p, Error *err);
#endif
