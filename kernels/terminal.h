/* terminal: protects a terminal from control sequences in external text (keys, file names,
 * captions). Control characters are printed as \xNN: C0 except tab and line feed, DEL, C1
 * (ECMA-48), the latter as UTF-8 or as single bytes. */
#pragma once
#include <stddef.h>

/* Zero-initialised at the start of a text; carries a UTF-8 sequence across pieces. */
typedef struct TerminalText {
    int continuation; /* bytes that the sequence still needs */
    int held;         /* a first byte 0xC2 not written yet, or 0 */
} TerminalText;

enum { TERMINAL_GROWTH = 4 }; /* largest number of output bytes for an input byte */

/* Writes n bytes of text to out[TERMINAL_GROWTH * (n + 1)]; returns how many bytes out received. */
size_t terminal_escape(TerminalText *t, char *out, const char *text, size_t n);

/* Call once at the start of a program. If standard output is a terminal, all output to it is
 * escaped. At exit, output that could not be written (a full disk) is an error: one line, exit
 * 1. */
void terminal_guard(void);
