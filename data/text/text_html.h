/* text_html: HTML character references → characters. */
#pragma once
#include "data/text/codepoints.h"

/* Builds the index of names, once for the program. */
void text_html_init(void);
/* Replaces every reference with HTML5's leniency (no semicolon where allowed, numbers that mean
 * Windows-1252), as Python's html.unescape does. True: the text changed. */
bool text_html_unescape(CodePoints *text);
/* Only references that end in a semicolon, and names in capitals (&EACUTE;); ftfy's choice. */
bool text_html_unescape_certain(CodePoints *text);
