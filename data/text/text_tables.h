/* text_tables: character data of the caption cleaner; tools/gen_text_tables.py generates the
 * tables. */
#pragma once
#include "kernels/base.h"

/* Bits of TextClass.flags; the order is the generator's. */
enum {
    TEXT_LETTER = 1 << 0,      /* \p{L} */
    TEXT_NUMBER = 1 << 1,      /* \p{N} */
    TEXT_SPACE = 1 << 2,       /* white space */
    TEXT_CASED = 1 << 3,       /* Cased and not Case_Ignorable (Unicode, section 3.13) */
    TEXT_IGNORABLE = 1 << 4,   /* Case_Ignorable */
    TEXT_LOWERS = 1 << 5,      /* differs from its lower case */
    TEXT_NFC_CHECK = 1 << 6,   /* its presence can make a text differ from its NFC */
    TEXT_C1 = 1 << 7,          /* U+0080 to U+009F */
    TEXT_LIGATURE = 1 << 8,    /* in text_ligatures */
    TEXT_WIDTH = 1 << 9,       /* full-width or half-width form */
    TEXT_QUOTE = 1 << 10,      /* curly quotation mark */
    TEXT_BREAK = 1 << 11,      /* a line break other than \n */
    TEXT_CONTROL = 1 << 12,    /* removed */
    TEXT_FIRST_OF_2 = 1 << 13, /* looks like the first of 2, 3, 4 bytes of UTF-8 … */
    TEXT_FIRST_OF_3 = 1 << 14,
    TEXT_FIRST_OF_4 = 1 << 15,
    TEXT_CONTINUATION = 1 << 16,        /* … or like a later one */
    TEXT_CONTINUATION_STRICT = 1 << 17, /* the same, rarely meant literally */
    TEXT_ENCODING_SHIFT = 18            /* bit 18 + e: encoding e has it */
};

/* Single-byte encodings in the order in which they are tried. Number 0 is Latin-1; the windows ones
 * are "sloppy": a byte without a character maps to the code point of the same number, and byte 1A
 * to U+FFFD. */
enum { TEXT_ENCODINGS = 10, TEXT_FIRST_SLOPPY = 1, TEXT_LAST_SLOPPY = 6, TEXT_MACROMAN = 8 };
/* Bytes 80 to FF of encodings 1 up. */
extern const uint16_t text_charmaps[TEXT_ENCODINGS - 1][128];

/* Rules of up to 7 neighbours: bit r of at[j] is set if the class may be at position j of rule r,
 * or if rule r has ended by then. ANDing at[j] of the class of character i + j over j leaves the
 * rules that match at i. */
enum { TEXT_CLASSES = 256, TEXT_RULE_LENGTH = 7 };
typedef struct TextClass {
    uint32_t flags;
    uint64_t at[TEXT_RULE_LENGTH];
} TextClass;
extern const TextClass text_classes[TEXT_CLASSES];
extern const uint32_t text_class_runs[];
extern const size_t text_class_run_count;
extern const uint64_t text_rules_anchored;                /* only at the start of a line */
extern const uint64_t text_rules_ended[TEXT_RULE_LENGTH]; /* of at most j elements */

typedef struct TextLigature {
    uint16_t from, to[3]; /* zeros at the end */
} TextLigature;
extern const TextLigature text_ligatures[];
extern const size_t text_ligature_count;

/* "name=text " entries, concatenated and sorted by name; `*` replaces `=` if the semicolon may be
 * missing; the second list holds the names in capitals whose text is not each character's
 * capital. */
extern const char text_entities[];
extern const char text_upper_entities[];

/* The class of every code point; text_cleaner_new of data/text/text.h fills it. */
extern uint8_t text_class_of[0x110000];
static inline const TextClass *text_class(uint32_t cp) { return &text_classes[text_class_of[cp]]; }
