#include "eval/html.h"

#include "data/image/thumbnail.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

static const char head[] =
    "<!doctype html>\n<html lang=en>\n<meta charset=utf-8>\n<meta name=viewport "
    "content=\"width=device-width\">\n<style>\n"
    "body { font: 15px/1.4 sans-serif; margin: 2em auto; max-width: 70em; padding: 0 1em; }\n"
    "table { border-collapse: collapse; margin: 1em 0; }\n"
    "th { text-align: left; font-weight: 600; }\n"
    "th, td { padding: 2px 12px 2px 0; border-bottom: 1px solid #ddd; vertical-align: middle; }\n"
    ".n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }\n"
    ".small { color: #555; font-size: 13px; }\n"
    ".bar { background: #1a7f4b; height: 10px; }\n"
    "canvas { border: 1px solid #bbb; max-width: 100%; image-rendering: pixelated; }\n"
    ".m th { font-weight: normal; }\n"
    ".m td { border: 1px solid #eee; padding: 1px 5px; }\n"
    ".v { writing-mode: vertical-rl; transform: rotate(180deg); }\n"
    "td img { max-height: 96px; margin: 2px; vertical-align: middle; }\n"
    "section { display: flex; flex-wrap: wrap; gap: 12px; }\n"
    "figure { margin: 0; width: 150px; overflow-wrap: anywhere; }\n"
    "figure img { display: block; max-width: 150px; }\n</style>\n<title>";

bool html_open(HtmlPage *p, const char *path, const char *title, Error *err) {
    *p = (HtmlPage){.file = writer_open(path, 0, err)};
    if (!p->file) return false;
    p->out = open_memstream(&p->bytes, &p->size);
    if (!p->out) die("%s: out of memory", path);
    fputs(head, p->out);
    html_text(p, title);
    fputs("</title>\n", p->out);
    return true;
}

void html_text(const HtmlPage *p, const char *text) {
    static const char *const entities[256] = {
        ['&'] = "&amp;", ['<'] = "&lt;", ['>'] = "&gt;", ['"'] = "&quot;", ['\''] = "&#39;"};
    for (; *text; text++) {
        const char *entity = entities[(unsigned char)*text];
        if (entity)
            fputs(entity, p->out);
        else
            fputc(*text, p->out);
    }
}

void html_link(const HtmlPage *p, const char *path, size_t page) {
    fputs("<a href=\"file://", p->out);
    for (; *path; path++) {
        unsigned char c = (unsigned char)*path;
        bool plain = isascii(c) && (isalnum(c) || strchr("/-._~", c));
        fprintf(p->out, plain ? "%c" : "%%%02X", c);
    }
    if (page) fprintf(p->out, "#page=%zu", page);
    fputs("\">", p->out);
}

void html_picture(const HtmlPage *p, const uint8_t *jpeg, size_t size, const char *title) {
    char *base64 = base64_text(jpeg, size);
    fprintf(p->out, "<img src=\"data:image/jpeg;base64,%s\" alt=\"\" title=\"", base64);
    html_text(p, title);
    fputs("\">\n", p->out);
    free(base64);
}

bool html_close(HtmlPage *p, Error *err) {
    fputs("</html>\n", p->out);
    if (fclose(p->out)) die("a page for --html: out of memory");
    bool ok = writer_put(p->file, p->bytes, p->size, err);
    free(p->bytes);
    if (ok) return writer_commit(p->file, NULL, NULL, err);
    writer_abort(p->file);
    return false;
}
