/* tokenizer: captions to token ids and back. A Tokenizer is one vocabulary: read-only, shared by
 * threads, each of which encodes through a TokenizerCache. A TokenizerKind is a row of the table: a
 * format of vocabularies and its context rule, which are CLIP's (data/text/bpe.h) or another
 * model's. */
#pragma once
#include "data/text/text.h"

typedef struct TokenizerKind TokenizerKind;

/* First member of a kind's struct. */
typedef struct Tokenizer {
    const TokenizerKind *kind;
    size_t vocab_size;
    int32_t start, end; /* the first id before and the last one after a caption's own; -1: none */
    int32_t pad;        /* fills a context after them */
    size_t added;       /* number of ids that encode adds to a caption's own */
} Tokenizer;

/* Scratch memory and the ids of words; bounded. First member of a kind's struct. */
typedef struct TokenizerCache {
    const Tokenizer *tokenizer;
} TokenizerCache;

/* What a model's configuration says of its tokenizer (open_clip's tokenizer_kwargs). Captions of
 * CLIP's kind are always cleaned as LOWER. */
typedef struct TokenizerRules {
    TextClean clean;
    bool strip_sep; /* the separator's id becomes 0 */
} TokenizerRules;

/* A vocabulary file, plain or gzipped; its content selects the kind. A tokenizer_config.json beside
 * it is followed, except by CLIP's kind. NULL: err has the reason. */
Tokenizer *tokenizer_open(const char *path, Error *err);
Tokenizer *tokenizer_open_rules(const char *path, const TokenizerRules *rules, Error *err);
Tokenizer *tokenizer_open_bytes(const void *bytes, size_t n, Error *err);
void tokenizer_close(Tokenizer *t);
/* The name of a vocabulary file in a checkpoint's folder, by its content: "vocab.bpe". */
const char *tokenizer_file_name(const char *path);
#define TOKENIZER_CONFIG "tokenizer_config.json"
/* Equal for equal vocabularies, however their files are packed. */
uint64_t tokenizer_identity(const Tokenizer *t);

/* The vocabulary to use if none is named: $CLIPC_VOCAB, $CLIPC_HOME/build/vocab/…, near the binary,
 * the install prefix; malloc'd. find: NULL if there is none; default: exits with an error that says
 * what to do. */
char *tokenizer_find_path(void);
char *tokenizer_default_path(void);
enum { TOKENIZER_DEFAULT_SIZE = 49408 }; /* its vocab_size, CLIP's */

TokenizerCache *tokenizer_cache_new(const Tokenizer *t);
void tokenizer_cache_free(TokenizerCache *c);

/* Writes the ids that the model reads for a caption into ids[context]; returns their number. Text
 * is UTF-8; invalid bytes become U+FFFD. */
size_t tokenizer_encode(TokenizerCache *c, const char *text, size_t bytes, size_t context,
                        int32_t *ids);
/* ids (all below vocab_size) to valid UTF-8, malloc'd: start and end as their literals. */
char *tokenizer_decode(const Tokenizer *t, const int32_t *ids, size_t n);
/* A symbol in UTF-8 as in the vocabulary's file; malloc'd. */
char *tokenizer_symbol_text(const Tokenizer *t, int32_t id);
/* Of CLIP's kind: the vocabulary's file with `header` as its first line, without a line feed at the
 * end; malloc'd. NULL: of another kind. */
char *tokenizer_file_text(const Tokenizer *t, const char *header);

/* The functions above for one kind. */
struct TokenizerKind {
    const char *name, *file; /* file: its name in a checkpoint's folder */
    /* True if an unpacked file is of this kind; NULL: takes every file that no earlier row takes.
     */
    bool (*matches)(const char *text, size_t n);
    Tokenizer *(*load)(char *text, size_t n, Error *err); /* may overwrite the text */
    /* Follows the rules and a tokenizer_config.json (NULL: none); NULL: the kind has no settings.
     */
    bool (*configure)(Tokenizer *t, const TokenizerRules *rules, const char *config, size_t n,
                      Error *err);
    void (*free)(Tokenizer *t);
    TokenizerCache *(*cache_new)(const Tokenizer *t);
    void (*cache_free)(TokenizerCache *c);
    size_t (*encode)(TokenizerCache *c, const char *text, size_t bytes, size_t context,
                     int32_t *ids);
    char *(*decode)(const Tokenizer *t, const int32_t *ids, size_t n);
    char *(*symbol_text)(const Tokenizer *t, int32_t id);
    char *(*file_text)(const Tokenizer *t, const char *header); /* may be NULL */
    uint64_t (*identity)(const Tokenizer *t);                   /* NULL: a hash of file_text */
};
