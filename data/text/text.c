/* text: see the header. Plain ASCII, the common case, needs no repairs and takes a separate
 * path. */
#include "data/text/text.h"
#include "data/text/codepoints.h"
#include "data/text/text_fix.h"
#include "data/text/text_html.h"
#include "data/text/text_tables.h"
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

struct TextCleaner {
    CodePoints points, lowered;
    char *out;
    size_t room;
};

uint8_t text_class_of[0x110000];
/* The kind of an ASCII byte in splitting. */
enum { BYTE_OTHER, BYTE_LETTER, BYTE_NUMBER, BYTE_GAP, BYTE_HIGH };
static uint8_t byte_kind[256];

static void init(void) {
    size_t first = 0;
    for (size_t i = 0; i < text_class_run_count; i++) {
        size_t length = text_class_runs[i] >> 8;
        memset(text_class_of + first, (int)(text_class_runs[i] & 255), length);
        first += length;
    }
    assert(first == COUNT(text_class_of));
    for (int b = 0; b < 256; b++) {
        uint32_t flags = text_class((uint32_t)b)->flags;
        byte_kind[b] = b >= 128              ? BYTE_HIGH
                       : flags & TEXT_LETTER ? BYTE_LETTER
                       : flags & TEXT_NUMBER ? BYTE_NUMBER
                       : flags & TEXT_SPACE  ? BYTE_GAP
                                             : BYTE_OTHER;
    }
    text_html_init();
}

TextCleaner *text_cleaner_new(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, init);
    return xcalloc(1, sizeof(TextCleaner));
}

void text_cleaner_free(TextCleaner *t) {
    if (t == NULL) return;
    codepoints_free(&t->points);
    codepoints_free(&t->lowered);
    FREE_ALL(t->out, t);
}

static void reserve_out(TextCleaner *t, size_t n) {
    size_t room = size_add(n, TEXT_PAD);
    if (room <= t->room) return;
    room = size_max(size_add(room, room / 2), 256);
    free(t->out);
    t->out = xmalloc(room);
    t->room = room;
}

/* What a rule makes of an ASCII character: 0: nothing. */
static uint32_t mapped(TextClean how, uint32_t c) {
    bool cut = how == TEXT_CLEAN_CANONICALIZE || how == TEXT_CLEAN_SIGLIP;
    if (!cut || c >= 128 || c <= ' ') return c;
    if (c == '_' && how == TEXT_CLEAN_CANONICALIZE) return ' ';
    bool kept = (c | 32) - 'a' < 26 || c - '0' < 10 || c == 0x7F;
    return kept ? c : 0;
}

/* Cleans in one pass. False (`out` is then undefined): a byte needs more work, because it is not
 * ASCII, an ampersand or a control character. */
static bool clean_ascii(TextClean how, const unsigned char *s, size_t n, char *out,
                        size_t *cleaned) {
    size_t k = 0;
    bool gap = false;
    for (size_t i = 0; i < n; i++) {
        uint32_t b = s[i];
        bool space = b == ' ' || b == '\t' || b == '\n' || b == '\f' || b == '\r';
        if (!space && (b < ' ' || b >= 0x7F || b == '&')) return false;
        if ((b = mapped(how, b)) == 0) continue;
        space = space || b == ' ';
        if (!space) {
            if (gap && k > 0) out[k++] = ' ';
            out[k++] = (char)(b - 'A' < 26 && how != TEXT_CLEAN_WHITESPACE ? b | 32 : b);
        }
        gap = space;
    }
    *cleaned = k;
    return true;
}

/* The same for LOWER, the common case, faster. */
static bool lower_ascii(const unsigned char *s, size_t n, char *out, size_t *cleaned) {
    unsigned odd = 0, blanks = 0;
    for (size_t i = 0; i < n; i++) {
        unsigned char b = s[i];
        odd |= (unsigned)(b >= 0x7F) | (unsigned)(b == '&') | (unsigned)(b < ' ');
        unsigned char lowered = (unsigned char)((unsigned char)(b - 'A') < 26 ? b | 32 : b);
        out[i] = (char)lowered;
    }
    for (size_t i = 1; i < n; i++) blanks |= (unsigned)(s[i] == ' ') & (unsigned)(s[i - 1] == ' ');
    bool tidy = n > 0 && !odd && !blanks && s[0] != ' ' && s[n - 1] != ' ';
    *cleaned = n;
    return tidy || clean_ascii(TEXT_CLEAN_LOWER, s, n, out, cleaned);
}

/* Removes white space at both ends, and replaces every other run by one blank. */
static void collapse(CodePoints *text) {
    size_t out = 0;
    bool gap = false;
    for (size_t i = 0; i < text->count; i++) {
        bool space = text_class(text->at[i])->flags & TEXT_SPACE;
        if (!space) {
            uint32_t c = text->at[i];
            if (gap && out > 0) text->at[out++] = ' ';
            text->at[out++] = c;
        }
        gap = space;
    }
    text->count = out;
}

/* Capital sigma at the end of a word becomes ς: ignoring case-ignorable characters, a cased letter
 * precedes it and none follows (Unicode, section 3.13, table 3-17). */
static bool is_final_sigma(const CodePoints *text, size_t i) {
    size_t j = i;
    while (j > 0 && text_class(text->at[j - 1])->flags & TEXT_IGNORABLE) j--;
    if (j == 0 || !(text_class(text->at[j - 1])->flags & TEXT_CASED)) return false;
    for (j = i + 1; j < text->count; j++) {
        uint32_t flags = text_class(text->at[j])->flags;
        if (!(flags & TEXT_IGNORABLE)) return !(flags & TEXT_CASED);
    }
    return true;
}

static void lower(const CodePoints *text, CodePoints *out) {
    out->count = 0;
    codepoints_reserve(out, text->count + 8);
    for (size_t i = 0; i < text->count; i++) {
        uint32_t c = text->at[i];
        if (!(text_class(c)->flags & TEXT_LOWERS)) {
            codepoints_push(out, c);
        } else if (c == 0x130) {
            codepoints_push(out, 'i');
            codepoints_push(out, 0x307);
        } else if (c == 0x3A3) {
            codepoints_push(out, is_final_sigma(text, i) ? 0x3C2 : 0x3C3);
        } else {
            codepoints_push(out, (uint32_t)utf8proc_tolower((utf8proc_int32_t)c));
        }
    }
}

static void map(TextClean how, CodePoints *text) {
    size_t n = 0;
    for (size_t i = 0; i < text->count; i++) {
        uint32_t c = mapped(how, text->at[i]);
        if (c != 0 || text->at[i] == 0) text->at[n++] = c;
    }
    text->count = n;
}

const char *text_clean(TextCleaner *t, TextClean how, const char *s, size_t n, size_t *cleaned) {
    const unsigned char *bytes = (const unsigned char *)s;
    reserve_out(t, n);
    if (!(how == TEXT_CLEAN_LOWER ? lower_ascii(bytes, n, t->out, cleaned)
                                  : clean_ascii(how, bytes, n, t->out, cleaned))) {
        t->points.count = 0;
        codepoints_from_utf8(&t->points, s, n);
        if (how != TEXT_CLEAN_SIGLIP) {
            text_fix(&t->points);
            text_html_unescape(&t->points);
            text_html_unescape(&t->points);
        }
        map(how, &t->points);
        collapse(&t->points);
        if (how == TEXT_CLEAN_WHITESPACE)
            codepoints_swap(&t->points, &t->lowered);
        else
            lower(&t->points, &t->lowered);
        reserve_out(t, size_mul(t->lowered.count, 4));
        size_t k = 0;
        for (size_t i = 0; i < t->lowered.count; i++)
            k += utf8_encode(t->lowered.at[i], t->out + k);
        *cleaned = k;
    }
    memset(t->out + *cleaned, 0, TEXT_PAD);
    return t->out;
}

/* ---- words ---- */

/* Returns true if the text begins with the literal. Matching ignores case, and "ſ" is a case of
 * "s". */
static size_t match_literal(const char *p, size_t n, const char *literal) {
    size_t i = 0;
    for (const char *c = literal; *c != 0; c++) {
        if (i < n && p[i] == *c)
            i++;
        else if (*c == 's' && i + 1 < n && memcmp(p + i, "ſ", 2) == 0)
            i += 2;
        else
            return 0;
    }
    return i;
}

static size_t match_any(const char *p, size_t n, const char *const *literals, size_t count) {
    for (size_t i = 0; i < count; i++) {
        size_t length = match_literal(p, n, literals[i]);
        if (length != 0) return length;
    }
    return 0;
}

/* A mark whose other case is a letter: a case-insensitive "neither letter nor number" rejects it,
 * so it is part of no word. */
#define YPOGEGRAMMENI 0x345

/* The kind and length of the character at p. */
static int kind_at(const char *p, size_t n, size_t *length) {
    int kind = byte_kind[(unsigned char)*p];
    *length = 1;
    if (kind != BYTE_HIGH) return kind;
    uint32_t cp;
    *length = utf8_decode((const unsigned char *)p, n, &cp);
    assert(cp != UTF8_INVALID);
    uint32_t flags = text_class(cp)->flags;
    return flags & TEXT_LETTER                         ? BYTE_LETTER
           : flags & TEXT_NUMBER                       ? BYTE_NUMBER
           : flags & TEXT_SPACE || cp == YPOGEGRAMMENI ? BYTE_GAP
                                                       : BYTE_OTHER;
}

/* The length of the word at p. */
static size_t word_at(const char *p, size_t n, int kind, size_t length) {
    static const char *const specials[] = {TEXT_START, TEXT_END};
    static const char *const endings[] = {"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"};
    size_t literal = 0;
    if (*p == '<') literal = match_any(p, n, specials, COUNT(specials));
    if (*p == '\'') literal = match_any(p, n, endings, COUNT(endings));
    if (literal != 0 || kind == BYTE_NUMBER) return size_max(literal, length);
    while (length < n) {
        size_t step;
        if (kind_at(p + length, n - length, &step) != kind) break;
        length += step;
    }
    return length;
}

bool text_next_word(const char **p, size_t *n, const char **word, size_t *length) {
    while (*n > 0) {
        size_t step;
        int kind = kind_at(*p, *n, &step);
        if (kind != BYTE_GAP) {
            *word = *p;
            *length = step = word_at(*p, *n, kind, step);
        }
        *p += step;
        *n -= step;
        if (kind != BYTE_GAP) return true;
    }
    return false;
}

bool text_is(const char *word, size_t length, const char *literal) {
    return length == strlen(literal) && memcmp(word, literal, length) == 0;
}
