/* bpe: CLIP's byte-pair vocabularies and context rule, a row of the tokenizer's table. Files have
 * open_clip's format: a header line, then one merge a line, of which the first 48,894 are used.
 * Ids: 256 bytes, 256 bytes at the end of a word, one for each merge, start, end. */
#pragma once
#include "data/text/tokenizer.h"

enum { BPE_MAX_MERGES = 49152 - 256 - 2, BPE_MAX_VOCAB = 512 + BPE_MAX_MERGES + 2 };
/* The alphabet of a vocabulary file: the code point that represents each byte. */
uint32_t bpe_byte_symbol(int byte);

extern const TokenizerKind bpe_kind;
