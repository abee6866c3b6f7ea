/* pipeline_store: large tokenizers in the form that runs, kept in the user's cache: they are mapped
 * instead of parsed. docs/FORMATS.md, Vocabulary, has the format. */
#pragma once
#include "data/text/pipeline.h"
#include "kernels/hash.h"

/* Smaller files are parsed as fast. */
enum { PIPELINE_STORE_LEAST = 1 << 20 };

/* The stored form of the file of this hash; NULL: there is none that is whole and the user's own.
 */
Tokenizer *pipeline_store_open(const TokenizerKind *kind, Hash128 file);
/* Stores it if the cache can be written; says nothing if it cannot. Before pipeline_configure. */
void pipeline_store_write(const Tokenizer *t, Hash128 file);
