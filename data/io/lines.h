/* lines: a file as blocks of whole lines, in memory that does not grow with the file or its longest
 * line. A byte order mark at the start is skipped. */
#pragma once
#include "kernels/base.h"
#include <stdio.h>

/* A longer line is cut to this many bytes, at the start of a UTF-8 character. */
enum { LINES_BLOCK = 1 << 20 };

typedef struct Lines {
    FILE *file;
    char *buffer;
    size_t have, taken; /* bytes in the buffer; bytes of the last block served */
    uint64_t from;      /* place of the last block served in the file */
    size_t cut;         /* lines that were cut so far */
    bool begun, skipping, ended;
} Lines;

void lines_open(Lines *l, FILE *file);
void lines_close(Lines *l); /* leaves the file open */
/* The next block: n > 0 bytes that end with a line feed, except perhaps at the end of the file;
 * valid until the next call. False at the end or if reading fails (see ferror). */
bool lines_next_block(Lines *l, const char **block, size_t *n);
/* Removes one line, without its line feed, from the front of a block. False: the block is empty. */
bool lines_take(const char **block, size_t *n, const char **line, size_t *line_n);
