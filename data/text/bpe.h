/* bpe: CLIP's byte-pair tokenizer (spec: clean, split, merge). A Bpe is read-only after loading;
 * every thread has its own cache. */
#ifndef DATA_TEXT_BPE_H
#define DATA_TEXT_BPE_H
#include "kernels/base.h"

enum { BPE_MAX_MERGES = 49152 - 256 - 2, BPE_MAX_VOCAB = 512 + BPE_MAX_MERGES + 2 };
/* The alphabet of a vocabulary file: the code point that stands for each byte. */
uint32_t bpe_byte_symbol(int byte);

typedef struct Bpe Bpe;
typedef struct BpeCache BpeCache; /* word → ids; bounded; one a thread */

/* A vocabulary file as open_clip's (gzip or plain text: a header line, then one merge a line, of
 * which the first 48,894 count). Ids: 256 bytes, the same at the end of a word, a merge a line,
 * start, end. NULL: err says why. */
Bpe *bpe_load(const char *path, Error *err);
Bpe *bpe_load_bytes(const void *bytes, size_t n, Error *err);
/* The vocabulary to use when none is named: --vocab, $CLIPC_VOCAB, $CLIPC_HOME/build/vocab/…,
 * beside the binary, the install prefix. Dies with what to do (make setup) when there is none. */
char *bpe_default_path(void);
/* The same, but NULL where there is none. */
char *bpe_find_path(void);
void bpe_free(Bpe *bpe);
size_t bpe_vocab_size(const Bpe *bpe); /* 49408 for CLIP's own */
int32_t bpe_start_id(const Bpe *bpe);  /* 49406 */
int32_t bpe_end_id(const Bpe *bpe);    /* 49407 */

BpeCache *bpe_cache_new(const Bpe *bpe);
void bpe_cache_free(BpeCache *cache);

/* Start token, the caption's ids, end token, cut to `context` (the last one then is the end token).
 * ids must hold `context`. Returns how many. Text is UTF-8; invalid bytes become U+FFFD. */
size_t bpe_encode(const Bpe *bpe, BpeCache *cache, const char *text, size_t bytes, size_t context,
                  int32_t *ids);
/* ids (all below the vocabulary's size) → text, malloc'd: start and end tokens as their literals, a
 * blank after each word, U+FFFD for what is not UTF-8 and for U+0000. */
char *bpe_decode(const Bpe *bpe, const int32_t *ids, size_t n);
/* How many of n ids the text tower has to see: up to and including the first position of the
 * largest id. */
size_t bpe_pooled_length(const int32_t *ids, size_t n);
/* A symbol as the vocabulary's file writes it, UTF-8 in its alphabet; malloc'd. */
char *bpe_symbol_text(const Bpe *bpe, int32_t id);
/* The file that gives this vocabulary: `header`, then a merge a line, without a line feed at the
 * end; malloc'd. */
char *bpe_file_text(const Bpe *bpe, const char *header);
/* Learns a vocabulary of at most `merges` merges from captions (one a line) and writes it in the
 * same format, gzipped where the name ends in .gz. The most frequent pair is merged first, of
 * equally frequent ones the one whose left, then right part has the lower id; pairs seen once are
 * not merged.
 */
bool bpe_train(const char *captions_path, size_t merges, const char *out_path, Error *err);
#endif
