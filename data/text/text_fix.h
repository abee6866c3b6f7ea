/* text_fix: repairs broken text as ftfy.fix_text does with its default settings: certain HTML
 * references, mojibake (UTF-8 once read as a single-byte encoding), C1 controls, ligatures, full
 * and half width, curly quotes, line breaks, terminal escapes, control characters, NFC. Source:
 * ftfy 6.3.1. */
#pragma once
#include "data/text/codepoints.h"

void text_fix(CodePoints *text);
