#include "data/csv.h"
#include "data/io/utf8.h"

CsvReader csv_reader(char *bytes, size_t size, char separator) {
    return (CsvReader){bytes + text_mark(bytes, size), bytes + size, separator, 0, 0};
}

/* Parses one field and unquotes it in place. *last: it is the row's last. */
static bool next_field(CsvReader *r, CsvField *f, bool *last, Error *err) {
    char *from = r->at, *to = r->at;
    size_t line = r->line;
    f->text = to;
    if (from < r->end && *from == '"') {
        for (from++;; from++) {
            if (from >= r->end) {
                r->at = r->end;
                return error_set(err, "line %zu: a quote that is not closed", line);
            }
            if (*from == '"' && (from + 1 >= r->end || from[1] != '"')) break;
            from += *from == '"';
            r->line += *from == '\n';
            *to++ = *from;
        }
        from++;
    }
    /* outside quotes, and between a closing quote and the separator, everything is literal */
    while (from < r->end && *from != r->separator && *from != '\n') *to++ = *from++;
    *last = from >= r->end || *from == '\n';
    if (*last && from < r->end && to > f->text && from[-1] == '\r') to--;
    f->size = (size_t)(to - f->text);
    r->at = from < r->end ? from + 1 : r->end;
    *to = 0;
    return true;
}

bool csv_next(CsvReader *r, CsvField *fields, size_t max, size_t *count, Error *err) {
    err->text[0] = 0;
    while (r->at < r->end && (*r->at == '\n' || *r->at == '\r')) {
        r->line += *r->at == '\n';
        r->at++;
    }
    *count = 0;
    if (r->at >= r->end) return false;
    r->row = ++r->line;
    for (bool last = false; !last;) {
        CsvField f;
        if (!next_field(r, &f, &last, err)) return false;
        if (*count < max) fields[*count] = f;
        ++*count;
    }
    return true;
}
