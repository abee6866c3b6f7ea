/* pdf: the pages of PDF files as pictures, counted and rendered by poppler's pdfinfo and pdftoppm,
 * one process a page, with limits of memory and time. */
#pragma once
#include "kernels/base.h"

enum { PDF_PAGES_MAX = 1 << 16 /* of one file */, PDF_DPI_LEAST = 10, PDF_DPI_MOST = 1200 };

extern int64_t pdf_dpi; /* pixels an inch of rendered pages; set by options before the first one */

bool pdf_is(const char *name); /* by its extension */
/* The number of pages, from 1. 0: err names the file and says why there is none: it is damaged or
 * encrypted, has none or more than PDF_PAGES_MAX, or pdfinfo is not installed. Thread-safe. */
size_t pdf_pages(const char *path, Error *err);
/* Page 1 … of a file as JPEG, malloc'd. False: err names file and page. Thread-safe. */
bool pdf_page(const char *path, size_t page, uint8_t **jpeg, size_t *size, Error *err);
/* "file.pdf#7": the key of a page; malloc'd. */
char *pdf_key(const char *path, size_t page);
/* The length of the path in a page's key, and the page; 0: it is no such key. */
size_t pdf_key_path(const char *key, size_t *page);
