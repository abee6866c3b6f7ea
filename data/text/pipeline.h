/* pipeline: a tokenizer as data: clean, normalise, split, model, frame. Files of several formats
 * are read into a Pipeline (data/text/spm_file.c, tokenizer_json.c, wordpiece_file.c); one program
 * runs them all. Sources: Kudo and Richardson 2018; Kudo 2018, section 3; Sennrich et al. 2016;
 * Song et al. 2021 (WordPiece); the libraries sentencepiece 0.2.3 and tokenizers 0.23. */
#pragma once
#include "data/text/tokenizer.h"
#include "data/text/trie.h"

/* A part of the block of strings. */
typedef struct Str {
    uint32_t at, n;
} Str;

typedef enum {
    NORMAL_SENTENCEPIECE, /* a: charsmap; flags: SPM_… */
    NORMAL_CHARSMAP,      /* a: charsmap, applied to graphemes as the library tokenizers does */
    NORMAL_FORM,          /* flags: FORM_… */
    NORMAL_LOWER,
    NORMAL_STRIP_ACCENTS,
    NORMAL_STRIP,   /* flags: 1 left, 2 right */
    NORMAL_REPLACE, /* a by b; flags: 1 runs of at least two of the character a */
    NORMAL_SPACES,  /* runs of white space by b */
    NORMAL_PREPEND, /* a, unless the text is empty */
    NORMAL_BERT     /* flags: BERT_… */
} NormalOp;
enum { SPM_PREFIX = 1, SPM_TIDY = 2, SPM_ESCAPE = 4, SPM_SUFFIX = 8 };
enum { FORM_COMPOSE = 1, FORM_COMPAT = 2 };
enum { BERT_CLEAN = 1, BERT_CHINESE = 2, BERT_ACCENTS = 4, BERT_LOWER = 8 };

typedef enum {
    SPLIT_WHITE,     /* at white space, which is removed */
    SPLIT_BERT,      /* the same, and punctuation marks are words */
    SPLIT_GPT2,      /* GPT-2's regular expression; flags: 1 a blank first, 2 no expression */
    SPLIT_CLIP,      /* CLIP's */
    SPLIT_DIGITS,    /* flags: 1 each digit alone */
    SPLIT_AT,        /* at the string a; flags: JOIN_… */
    SPLIT_METASPACE, /* blanks become a; flags: META_… */
} SplitOp;
enum { JOIN_NONE, JOIN_REMOVED, JOIN_PREVIOUS, JOIN_NEXT };
enum { META_SPLIT = 1, META_FIRST = 2, META_ALWAYS = 4 };

typedef struct TextStep {
    uint32_t op, flags;
    Str a, b;
} TextStep;

/* A token found in the text before anything else. */
typedef struct AddedToken {
    Str text;
    int32_t id;
    uint32_t flags; /* ADDED_… */
} AddedToken;
enum { ADDED_LEFT = 1, ADDED_RIGHT = 2, ADDED_NORMALIZED = 4, ADDED_SPECIAL = 8 };

typedef enum { MODEL_UNIGRAM, MODEL_BPE, MODEL_WORDPIECE } TokenModel;
typedef enum { CUT_NONE, CUT_BEFORE_SPACE, CUT_AFTER_SPACE } Cut;
typedef enum { DECODE_SPACES, DECODE_BYTES, DECODE_WORDPIECE } Decoding;

enum { STEPS_MAX = 16, FRAME_MAX = 8 };

/* All that arrays do not hold; plain data. */
typedef struct PipelineForm {
    TokenModel model;
    uint32_t pieces; /* ids below have a string */
    TextClean clean;
    TextStep normal[STEPS_MAX], split[STEPS_MAX];
    uint32_t normals, splits;
    int32_t before[FRAME_MAX], after[FRAME_MAX]; /* the ids around a caption's own */
    uint32_t befores, afters;
    int32_t unk, pad, zeroed; /* -1: none. zeroed: replaced by 0 in a caption's ids */
    bool byte_fallback, byte_level, ignore_merges;
    bool merge_text; /* BPE: two symbols merge if their text is a piece; else by the list */
    bool single;     /* sums of scores are rounded to f32 */
    bool fuse_unk;   /* unknown symbols that follow each other in a word are one */
    double unk_score;
    Cut cut;                      /* where words may be cut further without a change of their ids */
    Str word_prefix, word_suffix; /* WordPiece and BPE: of later symbols; of the last one */
    uint32_t max_chars;           /* WordPiece: longer words are unknown */
    Decoding decoding;
    int32_t byte_ids[256];
    uint64_t identity;
} PipelineForm;

typedef struct MergePair {
    uint32_t left, right; /* left UINT32_MAX: a free slot */
    uint32_t rank, id;
} MergePair;
static inline size_t merge_hash(uint32_t left, uint32_t right) {
    return (size_t)((((uint64_t)left << 32 | right) * 0x9E3779B97F4A7C15u) >> 32);
}

/* The arrays, each one block of bytes; a trie is three. */
enum { TRIE_PIECES, TRIE_RAW, TRIE_NORMALIZED, TRIE_USER, TRIES };
typedef enum {
    BLOCK_STRINGS,
    BLOCK_STARTS, /* u32 [pieces + 1]: the pieces' strings in BLOCK_STRINGS */
    BLOCK_SCORES, /* f64 [pieces]; BPE with merge_text: the ranks */
    BLOCK_PAIRS,  /* hash table, a power of two */
    BLOCK_ADDED,
    BLOCK_TRIES,
    BLOCKS = BLOCK_TRIES + 3 * TRIES
} PipelineBlock;

typedef struct Pipeline {
    Tokenizer base;
    PipelineForm form;
    void *block[BLOCKS];
    size_t size[BLOCKS];
    void *map; /* the blocks are parts of a mapped file; NULL: each is malloc'd */
    size_t map_size, strings_room;
    /* views of the blocks */
    const char *strings;
    const uint32_t *starts;
    const double *scores;
    const MergePair *pairs;
    size_t pair_mask;
    const AddedToken *added;
    size_t added_count;
    Trie trie[TRIES]; /* pieces; added tokens in raw, in normalised text; user-defined symbols */
    bool begins[TRIES][256]; /* the first bytes of the keys of each */
    bool plain[128];         /* a character that the charsmap keeps if an ASCII one follows */
} Pipeline;

Pipeline *pipeline_new(const TokenizerKind *kind);
/* Appends a string to BLOCK_STRINGS. */
Str pipeline_add_string(Pipeline *p, const char *s, size_t n);
bool pipeline_add_step(TextStep *steps, uint32_t *count, TextStep step, Error *err);
/* Sorts keys into trie number i. */
bool pipeline_add_trie(Pipeline *p, size_t i, TrieKey *keys, size_t n, Error *err);
/* Clears *before if a piece has a space mark after another character, *after if it has another
 * character after a space mark: then words cannot be cut there. */
void pipeline_cuts(const char *piece, size_t n, bool *before, bool *after);
/* Views and the fields of Tokenizer, after form and blocks are complete. */
void pipeline_finish(Pipeline *p);
/* The tokenizer of a file text[n] that was read into p; not ok: frees p and returns NULL. */
Tokenizer *pipeline_loaded(Pipeline *p, bool ok, const char *text, size_t n);
void pipeline_free(Tokenizer *t);

TokenizerCache *pipeline_cache_new(const Tokenizer *t);
void pipeline_cache_free(TokenizerCache *c);
size_t pipeline_encode(TokenizerCache *c, const char *text, size_t bytes, size_t context,
                       int32_t *ids);
char *pipeline_decode(const Tokenizer *t, const int32_t *ids, size_t n);
char *pipeline_symbol_text(const Tokenizer *t, int32_t id);
uint64_t pipeline_identity(const Tokenizer *t);
bool pipeline_configure(Tokenizer *t, const TokenizerRules *rules, const char *config, size_t n,
                        Error *err);

/* ---- parts ---- */

typedef struct Chars {
    char *at;
    size_t n, room;
} Chars;
void chars_reserve(Chars *c, size_t more);
void chars_add(Chars *c, const char *s, size_t n);
static inline void chars_put(Chars *c, char x) {
    if (c->n == c->room) chars_reserve(c, 1);
    c->at[c->n++] = x;
}

/* Runs the steps of normalising; the result is in *text or in a buffer of it. */
void normalize(const Pipeline *p, Chars *text, Chars *spare);
/* White_Space of Unicode. */
bool text_is_white(uint32_t cp);
/* Checks a precompiled charsmap. */
bool charsmap_check(const char *bytes, size_t n, Error *err);
/* Fills p->plain. */
void normalize_prepare(Pipeline *p);

typedef struct TextSpan {
    size_t at, n;
} TextSpan;
typedef struct TextSpans {
    TextSpan *at;
    size_t n, room;
} TextSpans;
/* Splits a text into words; `first`: it begins where the caption begins. Steps may change the
 * text. */
void split_words(const Pipeline *p, Chars *text, Chars *spare, TextSpans *words,
                 TextSpans *spare_words, bool first);

typedef struct TokenWork TokenWork; /* scratch memory of the models */
TokenWork *token_work_new(void);
void token_work_free(TokenWork *w);
/* The ids of a word or of a part of one, valid until the next call. *sum: of the scores before the
 * part, on return with its own. *steady: the ids are the same after every sum above -STEADY_SUM,
 * and the sum grows by their scores. */
#define STEADY_SUM 4096.0
const int32_t *model_word(const Pipeline *p, TokenWork *w, const char *word, size_t n, double *sum,
                          bool *steady, size_t *count);
static inline double score_add(const PipelineForm *f, double sum, double score) {
    return f->single ? (double)((float)sum + (float)score) : sum + score;
}

/* A row of the table: what differs between the formats is how a file is read. */
#define PIPELINE_KIND(NAME, FILE_NAME, MATCHES, LOAD)                                              \
    {                                                                                              \
        .name = NAME, .file = FILE_NAME, .matches = MATCHES, .load = LOAD,                         \
        .configure = pipeline_configure, .free = pipeline_free, .cache_new = pipeline_cache_new,   \
        .cache_free = pipeline_cache_free, .encode = pipeline_encode, .decode = pipeline_decode,   \
        .symbol_text = pipeline_symbol_text, .identity = pipeline_identity                         \
    }
extern const TokenizerKind spm_kind, json_kind, wordpiece_kind;
