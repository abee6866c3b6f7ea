/* html: self-contained pages, which load nothing from elsewhere. External text (keys, captions,
 * names of classes) must be written by html_text. */
#pragma once
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
/* Writes text, escaped for an element or a quoted attribute. */
void html_text(const HtmlPage *p, const char *text);
/* Opens a link to a file by its absolute path, or with page > 0 to that page of a PDF; `</a>` ends
 * it. */
void html_link(const HtmlPage *p, const char *path, size_t page);
/* Embeds a JPEG; title: its tooltip. */
void html_picture(const HtmlPage *p, const uint8_t *jpeg, size_t size, const char *title);
/* Renames the file into place; false: it could not be written. */
bool html_close(HtmlPage *p, Error *err);
