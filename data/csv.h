/* csv: rows of a CSV or TSV text in memory, with quoted fields (RFC 4180, any separator). */
#pragma once
#include "kernels/base.h"

typedef struct CsvReader {
    char *at, *end; /* *end must be writable */
    char separator;
    size_t line, row; /* lines read; the line at which the last row begins */
} CsvReader;

typedef struct CsvField {
    char *text; /* inside the reader's bytes, NUL after it */
    size_t size;
} CsvField;

/* Reads from bytes[0 … size], which it changes; bytes[size] must be writable. Skips a UTF-8 byte
 * order mark. */
CsvReader csv_reader(char *bytes, size_t size, char separator);
/* The next row that is not an empty line: the first `max` fields are stored in `fields`; *count is
 * the number of fields in the row. False at the end (err->text is empty) and if a quote is never
 * closed. */
bool csv_next(CsvReader *r, CsvField *fields, size_t max, size_t *count, Error *err);
