#include "tools/search_html.h"

#include "data/image/thumbnail.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static void put_text(FILE *f, const char *s) {
    for (; *s; s++) {
        const char *entity = *s == '&' ? "&amp;" : *s == '<' ? "&lt;" : *s == '>' ? "&gt;" : NULL;
        if (entity)
            fputs(entity, f);
        else
            fputc(*s, f);
    }
}

FILE *search_html_open(const char *path) {
    FILE *f = fopen(path, "w");
    if (!f) die("%s: %s", path, strerror(errno));
    fputs("<!doctype html>\n<meta charset=\"utf-8\">\n<title>clipc search</title>\n<style>\n"
          "body { font: 14px sans-serif; margin: 2em; }\n"
          "section { display: flex; flex-wrap: wrap; gap: 12px; }\n"
          "figure { margin: 0; width: 150px; overflow-wrap: anywhere; }\n"
          "img { display: block; max-width: 150px; }\n</style>\n<section>\n",
          f);
    return f;
}

void search_html_heading(FILE *f, const char *text) {
    fputs("</section>\n<h2>", f);
    put_text(f, text);
    fputs("</h2>\n<section>\n", f);
}

void search_html_hit(FILE *f, const IndexFolder *x, size_t row, double score) {
    const uint8_t *jpeg;
    size_t size = 0;
    index_folder_thumb(x, row, &jpeg, &size);
    fputs("<figure>", f);
    if (size) {
        char *base64 = base64_text(jpeg, size);
        fprintf(f, "<img src=\"data:image/jpeg;base64,%s\" alt=\"\">", base64);
        free(base64);
    }
    fprintf(f, "<figcaption>%.4f ", score);
    put_text(f, index_folder_key(x, row));
    fputs("</figcaption></figure>\n", f);
}

void search_html_close(FILE *f, const char *path) {
    fputs("</section>\n", f);
    bool bad = ferror(f);
    if (fclose(f) || bad) die("%s: cannot be written: %s", path, strerror(errno));
}
