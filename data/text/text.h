/* text: cleans a caption and splits it into words, as CLIP's tokenizer does before its merges:
 * repair (ftfy), HTML unescape twice, white space collapsed, lower case (open_clip's clean
 * "lower"). Source: open_clip 3.3.0, open_clip/tokenizer.py. */
#ifndef DATA_TEXT_TEXT_H
#define DATA_TEXT_TEXT_H
#include "kernels/base.h"

typedef struct TextCleaner TextCleaner; /* the scratch memory of one thread */

TextCleaner *text_cleaner_new(void);
void text_cleaner_free(TextCleaner *t);

/* The cleaned caption as UTF-8, followed by at least TEXT_PAD readable bytes; valid until the next
 * call. `s` is UTF-8; invalid bytes become U+FFFD. */
enum { TEXT_PAD = 16 };
const char *text_clean(TextCleaner *t, const char *s, size_t n, size_t *cleaned);

/* Removes the next word from the front of n bytes of cleaned text: a literal special token, 's 't
 * 're 've 'm 'll 'd, a run of letters, one number, or a run of other characters except blanks.
 * False: there is none. */
bool text_next_word(const char **p, size_t *n, const char **word, size_t *length);
bool text_is(const char *word, size_t length, const char *literal);
#define TEXT_START "<start_of_text>"
#define TEXT_END "<end_of_text>"
#endif
