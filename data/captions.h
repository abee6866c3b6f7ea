/* captions: which text of a sample is its caption: members and fields of .json, with probabilities,
 * and one of several captions.
 *
 * A text key (--text-key) is a list of alternatives separated by commas. An alternative is a list
 * of keys separated by semicolons, of which the first one that the sample has is used, and
 * optionally ":" and a weight (1). A key is an extension (txt) or a field of the .json (json.alt,
 * json.meta.title).
 *     txt;caption                   .txt, or else .caption
 *     txt:0.7,json.alt:0.3          .txt with probability 0.7, otherwise the field "alt"
 * The weight of an alternative that a sample lacks goes to the others. */
#pragma once
#include "data/sample.h"

enum { CAPTION_KEYS_MAX = 64 };

/* Treatment of pictures with several captions: the lines of a text file, the strings of a JSON
 * array, rows of a table with the same path. WHOLE: a text file and each row are one caption, of a
 * JSON array it is the first; FIRST: the first one that is not blank; RANDOM: one at random; ALL:
 * all of them, a line each. */
#define CAPTION_PICKS(X)                                                                           \
    X(CAPTIONS_WHOLE, "whole")                                                                     \
    X(CAPTIONS_FIRST, "first") X(CAPTIONS_RANDOM, "random") X(CAPTIONS_ALL, "all")
typedef enum {
    CAPTION_PICKS(CHOICE_NAME) /* options choose among these */
    CAPTIONS_LABEL,            /* the caption is a label: whole, and a JSON number serves as well */
} CaptionPick;

typedef struct CaptionKey {
    char *extension;
    char *field; /* of the .json; NULL: the member itself */
    size_t alternative;
} CaptionKey;

typedef struct CaptionKeys {
    CaptionKey keys[CAPTION_KEYS_MAX];
    size_t count, alternatives; /* 0: samples need no caption */
    double weights[CAPTION_KEYS_MAX];
    char *members; /* the extensions alone, as index_keys_new takes them */
} CaptionKeys;

/* text NULL or "": no caption is needed. After either, caption_keys_free. */
bool caption_keys_parse(CaptionKeys *k, const char *text, Error *err);
void caption_keys_free(CaptionKeys *k);
/* The order in which alternatives are tried: that of the text, or (draw not NULL) drawn at random
 * by their weights. A pure function of *draw. */
void caption_order(const CaptionKeys *k, const uint64_t *draw, size_t order[CAPTION_KEYS_MAX]);

/* Reads members of one sample: 1 with its bytes (valid until the next call), 0 if there is no such
 * member, -1 with err if it cannot be read. */
typedef int (*MemberReader)(void *context, const char *extension, const char **bytes, size_t *n,
                            Error *err);
/* Sets s->text to the caption that `draw` chooses (NULL: the first one). False: there is none that
 * is not blank; err names what the last one tried lacks. */
bool captions_take(Sample *s, const CaptionKeys *k, CaptionPick pick, const uint64_t *draw,
                   MemberReader read, void *context, Error *err);
/* Sets s->text to one of n > 0 captions. */
void captions_pick(Sample *s, CaptionPick pick, const uint64_t *draw, const char *const *texts,
                   size_t n);
/* Sets s->text to one of the lines of a text that is not blank. */
void captions_pick_line(Sample *s, CaptionPick pick, const uint64_t *draw, const char *text,
                        size_t n);
