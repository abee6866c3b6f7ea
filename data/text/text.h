/* text: cleans a caption as open_clip's tokenizers do, and splits it into words as CLIP's does
 * before its merges. Source: open_clip 3.3.0, open_clip/tokenizer.py. */
#pragma once
#include "kernels/base.h"

typedef struct TextCleaner TextCleaner; /* the scratch memory of one thread */

TextCleaner *text_cleaner_new(void);
void text_cleaner_free(TextCleaner *t);

/* LOWER, WHITESPACE and CANONICALIZE repair the text (ftfy), unescape HTML twice and collapse white
 * space. CANONICALIZE makes blanks of underscores and removes other ASCII punctuation; it and LOWER
 * lower the case. SIGLIP, transformers' SiglipTokenizer, repairs nothing: it removes ASCII
 * punctuation, lowers the case and collapses white space. */
#define TEXT_CLEANS(X)                                                                             \
    X(TEXT_CLEAN_NONE, "none")                                                                     \
    X(TEXT_CLEAN_LOWER, "lower")                                                                   \
    X(TEXT_CLEAN_WHITESPACE, "whitespace")                                                         \
    X(TEXT_CLEAN_CANONICALIZE, "canonicalize") X(TEXT_CLEAN_SIGLIP, "siglip")
typedef enum { TEXT_CLEANS(CHOICE_NAME) } TextClean;

/* The cleaned caption as UTF-8, followed by at least TEXT_PAD readable bytes; valid until the next
 * call. `s` is UTF-8; invalid bytes become U+FFFD. `how` is not NONE. */
enum { TEXT_PAD = 16 };
const char *text_clean(TextCleaner *t, TextClean how, const char *s, size_t n, size_t *cleaned);

/* Removes the next word from the front of n bytes of cleaned text: a literal special token, 's 't
 * 're 've 'm 'll 'd, a run of letters, one number, or a run of other characters except blanks.
 * False: there is none. */
bool text_next_word(const char **p, size_t *n, const char **word, size_t *length);
bool text_is(const char *word, size_t length, const char *literal);
#define TEXT_START "<start_of_text>"
#define TEXT_END "<end_of_text>"
