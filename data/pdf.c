#include "data/pdf.h"

#include "data/io/folder.h"
#include "data/io/pipe.h"
#include "data/sample.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Of one page, or of counting: far more than a page needs that people made. */
static const ProgramLimits limits = {.memory = (size_t)1 << 30, .cpu_seconds = 60, .seconds = 120};
enum { INFO_BYTES_MAX = 1 << 20 };

int64_t pdf_dpi = 100;

bool pdf_is(const char *name) { return has_extension(name, "pdf"); }

/* Reads to the end: malloc'd, with a NUL after it, freed if it fails. */
static bool read_output(Pipe *p, size_t most, uint8_t **bytes, size_t *size, Error *err) {
    size_t capacity = 1 << 16, got = 0;
    *size = 0;
    *bytes = xmalloc(capacity);
    do {
        *size += got;
        if (*size == capacity - 1) *bytes = xrealloc(*bytes, capacity *= 2);
        if (*size > most) {
            free(*bytes);
            return error_set(err, "more than %zu bytes", most);
        }
        if (!pipe_read(p, *bytes + *size, capacity - 1 - *size, &got, err)) {
            free(*bytes);
            return false;
        }
    } while (got);
    (*bytes)[*size] = 0;
    return true;
}

/* The output of a program of poppler: malloc'd, also if it failed, then with its messages. */
static bool run(const char *const *argv, size_t most, uint8_t **bytes, size_t *size, Error *err) {
    Error why;
    *bytes = NULL;
    *size = 0;
    Pipe *p = pipe_start_program(argv, limits, &why);
    if (!p)
        return errno == ENOENT ? error_set(err, "%s of poppler-utils is not installed", argv[0])
                               : error_set(err, "%s", why.text);
    bool ok = read_output(p, most, bytes, size, &why);
    if (!ok) *bytes = NULL, *size = 0;
    ok = ok && pipe_finish(p, &why);
    pipe_close(p);
    return ok || error_set(err, "%s: %s", argv[0], why.text);
}

/* The last line of a program's messages, which says why it gave up, or what `why` has. */
static const char *reason(uint8_t *output, size_t size, const Error *why) {
    char *text = (char *)output;
    while (size && (text[size - 1] == '\n' || text[size - 1] == ' ')) text[--size] = 0;
    if (!output || !size || memchr(text, 0, size)) return why->text;
    const char *line = strrchr(text, '\n');
    return line ? line + 1 : text;
}

/* A name that no program takes for an option; malloc'd. */
static char *plain_name(const char *path) {
    return xasprintf("%s%s", *path == '/' ? "" : "./", path);
}

size_t pdf_pages(const char *path, Error *err) {
    uint8_t *output;
    size_t size;
    Error why;
    char *name = plain_name(path);
    const char *const argv[] = {"pdfinfo", name, NULL};
    bool ok = run(argv, INFO_BYTES_MAX, &output, &size, &why);
    free(name);
    if (!ok) {
        error_set(err, "%.300s: %.150s", path, reason(output, size, &why));
        free(output);
        return 0;
    }
    static const char field[] = "\nPages:";
    const char *at = !strncmp((char *)output, field + 1, strlen(field + 1))
                         ? (char *)output - 1
                         : strstr((char *)output, field);
    unsigned long long n = at ? strtoull(at + strlen(field), NULL, 10) : 0;
    free(output);
    if (!n) error_set(err, "%.300s: pdfinfo finds no page in it", path);
    if (n <= PDF_PAGES_MAX) return (size_t)n;
    error_set(err, "%.300s: %llu pages, at most %d are read: cut it", path, n, PDF_PAGES_MAX);
    return 0;
}

bool pdf_page(const char *path, size_t page, uint8_t **jpeg, size_t *size, Error *err) {
    char number[24], dpi[24], *name = plain_name(path);
    Error why;
    snprintf(number, sizeof number, "%zu", page);
    snprintf(dpi, sizeof dpi, "%lld", (long long)pdf_dpi);
    const char *const argv[] = {"pdftoppm", "-q",    "-f",       number,       "-l", number, "-r",
                                dpi,        "-jpeg", "-jpegopt", "quality=95", name, NULL};
    bool ok = run(argv, SAMPLE_IMAGE_MAX, jpeg, size, &why);
    free(name);
    /* a message comes before the picture, which then is of something else */
    if (ok && *size > 2 && !memcmp(*jpeg, "\xff\xd8", 2)) return true;
    if (ok) error_set(&why, "pdftoppm: no picture");
    if (*jpeg) (*jpeg)[strcspn((char *)*jpeg, "\n\xff")] = 0;
    error_set(err, "%.300s#%zu: %.150s", path, page,
              reason(*jpeg, *jpeg ? strlen((char *)*jpeg) : 0, &why));
    free(*jpeg);
    *jpeg = NULL;
    return false;
}

char *pdf_key(const char *path, size_t page) { return xasprintf("%s#%zu", path, page); }

size_t pdf_key_path(const char *key, size_t *page) {
    const char *mark = strrchr(key, '#');
    size_t n = mark ? (size_t)(mark - key) : 0, digits = mark ? strspn(mark + 1, "0123456789") : 0;
    if (!digits || digits > 9 || mark[1 + digits]) return 0;
    char *path = xasprintf("%.*s", (int)n, key);
    bool is = pdf_is(path);
    free(path);
    *page = (size_t)strtoul(mark + 1, NULL, 10);
    return is ? n : 0;
}
