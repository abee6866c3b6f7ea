/* text_fix: see the header. Every line of a caption is repaired separately until nothing
 * changes. */
#include "data/text/text_fix.h"
#include "data/text/text_html.h"
#include "data/text/text_tables.h"
#include <string.h>
#include <utf8proc.h>

/* A longer line is repaired in parts. */
enum { MAX_SEGMENT = 1000000 };
/* Limit on code points that are processed repeatedly for one caption. Hostile nesting (a million
 * &amp;amp;…) stops here; real text stays far below. */
enum { MAX_WORK = 1 << 24 };

static bool work_take(size_t *work, size_t n) {
    if (*work < n) return false;
    *work -= n;
    return true;
}

/* ---- mojibake: detection ---- */

static bool is_bad(const CodePoints *text) {
    for (size_t i = 0; i < text->count; i++) {
        uint64_t rules = text_class(text->at[i])->at[0];
        if (i != 0) rules &= ~text_rules_anchored;
        for (size_t j = 1; j < TEXT_RULE_LENGTH && rules != 0; j++)
            rules &= i + j < text->count ? text_class(text->at[i + j])->at[j] : text_rules_ended[j];
        if (rules != 0) return true;
    }
    return false;
}

/* ---- mojibake: bytes ---- */

typedef struct Bytes {
    uint8_t *at;
    size_t count;
} Bytes;

static uint8_t encode_one(uint32_t cp, int encoding) {
    if (cp < 0x80 || encoding == 0) return (uint8_t)cp;
    const uint16_t *map = text_charmaps[encoding - 1];
    for (int i = 0; i < 128; i++)
        if (map[i] == cp) return (uint8_t)(128 + i);
    assert(cp == CODEPOINT_REPLACEMENT);
    return 0x1A;
}

/* Sets of bytes, a letter each, of which the patterns below are made. */
static bool in_set(char set, uint8_t b) {
    switch (set) {
    case ' ':
        return b == ' ';
    case 'a':
        return b == 0xC2 || b == 0xC3 || b == 0xC5 || b == 0xCE || b == 0xD0 || b == 0xD9;
    case 'b':
        return b == 0xE2 || b == 0xE3;
    case 'c':
        return b >= 0xE0 && b <= 0xE3;
    case 'f':
        return b == 0xF0;
    case 'k':
        return b >= 0x80 && b <= 0xBF;
    case 'n':
        return b >= 0x80 && b <= 0xBF && b != 0x85 && b != 0xA0;
    case '2':
        return b >= 0xC2 && b <= 0xDF;
    case 'l':
        return b == 0xC2 || b == 0xC3;
    case '3':
        return b >= 0xE0 && b <= 0xEF;
    case '4':
        return b >= 0xF0 && b <= 0xF4;
    case 'e':
        return b == 0xED;
    case 'h':
        return b >= 0xA0 && b <= 0xAF;
    case 't':
        return b >= 0xB0 && b <= 0xBF;
    case 'x':
        return b == 0x1A;
    case '?':
        return b == '?';
    case 'y':
        return b == 0x1A || b == '?';
    case 'z':
        return b == 0x1A || (b >= 0x80 && b <= 0xBF);
    case 'w':
        return b == 0x1A || b == '?' || (b >= 0x80 && b <= 0xBF);
    default:
        assert(false);
        return false;
    }
}

/* The length of the first of the patterns that matches at p, 0 if none does. */
static size_t match_any(const char *const *patterns, size_t count, const uint8_t *p, size_t n) {
    for (size_t k = 0; k < count; k++) {
        size_t i = 0;
        while (patterns[k][i] != 0 && i < n && in_set(patterns[k][i], p[i])) i++;
        if (patterns[k][i] == 0) return i;
    }
    return 0;
}

/* "Ã la" was "à la" whose no-break space became a plain one. The space is also kept, except in the
 * Portuguese contractions. */
static bool is_a_grave_word(const uint8_t *p, size_t n) {
    static const char *const contractions[] = {" ", "quele", "quela", "quilo", "s "};
    if (n < 2 || p[0] != 0xC3 || p[1] != ' ') return false;
    for (size_t i = 0; i < COUNT(contractions); i++) {
        size_t length = strlen(contractions[i]);
        if (n - 2 >= length && memcmp(p + 2, contractions[i], length) == 0) return false;
    }
    return true;
}

/* Restores byte A0 where a space is within a sequence that would be UTF-8. `out` needs 1.5 times
 * the size. */
static void restore_a0(Bytes *b) {
    static const char *const altered[] = {"a ", "b n", "cn ", "f kk", "fk k", "fkk "};
    size_t extra = 0;
    for (size_t i = 0; i < b->count; i++) extra += is_a_grave_word(b->at + i, b->count - i);
    if (extra != 0) {
        uint8_t *copy = xmalloc(b->count);
        memcpy(copy, b->at, b->count);
        size_t out = 0;
        for (size_t i = 0; i < b->count; i++) {
            b->at[out++] = copy[i];
            if (!is_a_grave_word(copy + i, b->count - i)) continue;
            b->at[out++] = 0xA0;
            b->at[out++] = ' ';
            i++;
        }
        free(copy);
        b->count = out;
    }
    for (size_t i = 0; i < b->count;) {
        size_t length = match_any(altered, COUNT(altered), b->at + i, b->count - i);
        for (size_t j = i; j < i + length; j++)
            if (b->at[j] == ' ') b->at[j] = 0xA0;
        i += length ? length : 1;
    }
}

/* UTF-8 with lost bytes becomes the UTF-8 of U+FFFD. `out` has room for three times the size. */
static void replace_lossy(const Bytes *in, Bytes *out) {
    static const char *const lossy[] = {"2x",  "l?",   "ehyetw", "ehwety", "3yz",
                                        "3zy", "4yzz", "4zyz",   "4zzy",   "x"};
    out->count = 0;
    for (size_t i = 0; i < in->count;) {
        size_t length = match_any(lossy, COUNT(lossy), in->at + i, in->count - i);
        if (length == 0) {
            out->at[out->count++] = in->at[i++];
        } else {
            memcpy(out->at + out->count, "\xEF\xBF\xBD", 3);
            out->count += 3;
            i += length;
        }
    }
}

/* UTF-8, or with `variants` also pairs of encoded surrogates (CESU-8) and C0 80 for U+0000. A C0
 * before a final line feed also counts as the latter, as in ftfy. */
static bool decode(const Bytes *b, bool variants, CodePoints *out) {
    static const char *const surrogates[] = {"ehketk"};
    out->count = 0;
    codepoints_reserve(out, b->count);
    for (size_t i = 0; i < b->count;) {
        const uint8_t *p = b->at + i;
        size_t left = b->count - i;
        uint32_t cp;
        if (variants && p[0] == 0xC0 && left >= 2 &&
            (p[1] == 0x80 || (p[1] == '\n' && left == 2))) {
            cp = 0;
            i += 2;
        } else if (variants && match_any(surrogates, 1, p, left) != 0) {
            cp = 0x10000 + ((p[1] & 0x0Fu) << 16) + ((p[2] & 0x3Fu) << 10) + ((p[4] & 0x0Fu) << 6) +
                 (p[5] & 0x3Fu);
            i += 6;
        } else {
            i += utf8_decode(p, left, &cp);
            if (cp == UTF8_INVALID) return false;
        }
        out->at[out->count++] = cp;
    }
    return true;
}

/* Encodes the text as bytes of one encoding and decodes them as UTF-8 into `out`; false if that is
 * impossible. */
static bool recode(const CodePoints *text, int encoding, CodePoints *out) {
    size_t room = size_add(size_mul(text->count, 2), 8);
    Bytes b = {.at = xmalloc(room), .count = text->count}, lossless = {0};
    for (size_t i = 0; i < text->count; i++) b.at[i] = encode_one(text->at[i], encoding);
    if (encoding != TEXT_MACROMAN) restore_a0(&b);
    if (encoding >= TEXT_FIRST_SLOPPY && encoding <= TEXT_LAST_SLOPPY) {
        lossless.at = xmalloc(size_mul(b.count, 3) + 1);
        replace_lossy(&b, &lossless);
        free(b.at);
        b = lossless;
    }
    bool variants = memchr(b.at, 0xED, b.count) != NULL || memchr(b.at, 0xC0, b.count) != NULL;
    bool ok = decode(&b, variants, out);
    free(b.at);
    return ok;
}

/* ---- mojibake: the decision ---- */

static void fix_encoding(CodePoints *text, size_t *work);

/* The number of code points from i on that look like adjacent UTF-8 sequences. */
static size_t utf8_like(const CodePoints *text, size_t i) {
    size_t first = i;
    if (i > 0 && text_class(text->at[i - 1])->flags & TEXT_CONTINUATION_STRICT) return 0;
    while (i < text->count) {
        uint32_t flags = text_class(text->at[i])->flags;
        size_t length = 0, run = 0;
        while (run < 3 && i + 1 + run < text->count &&
               text_class(text->at[i + 1 + run])->flags & TEXT_CONTINUATION)
            run++;
        if (flags & TEXT_FIRST_OF_2 && run >= 1)
            length = 2;
        else if (flags & TEXT_FIRST_OF_3 && run >= 2)
            length = 3;
        else if (flags & TEXT_FIRST_OF_4 && run >= 3)
            length = 4;
        if (length == 0) break;
        i += length;
    }
    return i - first;
}

/* Repairs each part that looks like mojibake. True: something changed. */
static bool fix_parts(CodePoints *text, size_t *work) {
    CodePoints out = {0}, part = {0};
    for (size_t i = 0; i < text->count;) {
        size_t length = utf8_like(text, i);
        if (length == 0) {
            codepoints_push(&out, text->at[i++]);
            continue;
        }
        part.count = 0;
        codepoints_append(&part, text->at + i, length);
        if (length < text->count && is_bad(&part)) fix_encoding(&part, work);
        codepoints_append(&out, part.at, part.count);
        i += length;
    }
    bool changed = !codepoints_equal(&out, text);
    codepoints_swap(&out, text);
    codepoints_free(&out);
    codepoints_free(&part);
    return changed;
}

/* Converts Latin-1 that was meant as Windows-1252. With `all`, only if Windows-1252 has a character
 * for every C1 control. True: something changed. */
static bool fix_c1(CodePoints *text, bool all) {
    bool changed = false;
    for (size_t i = 0; all && i < text->count; i++) {
        uint32_t c = text->at[i];
        if (text_class(c)->flags & TEXT_C1 && text_charmaps[0][c - 0x80] == c) return false;
    }
    for (size_t i = 0; i < text->count; i++) {
        uint32_t c = text->at[i];
        if (text_class(c)->flags & TEXT_C1 && text_charmaps[0][c - 0x80] != c) {
            text->at[i] = text_charmaps[0][c - 0x80];
            changed = true;
        }
    }
    return changed;
}

/* One step. True: the text changed. */
static bool fix_encoding_once(CodePoints *text, size_t *work) {
    uint32_t common = ~0u;
    bool ascii = true;
    for (size_t i = 0; i < text->count; i++) {
        ascii &= text->at[i] < 0x80;
        common &= text_class(text->at[i])->flags;
    }
    if (ascii || !is_bad(text) || !work_take(work, text->count)) return false;
    CodePoints fixed = {0};
    for (int e = 0; e < TEXT_ENCODINGS; e++) {
        if (!(common >> TEXT_ENCODING_SHIFT & 1u << e) || !recode(text, e, &fixed)) continue;
        bool changed = !codepoints_equal(text, &fixed);
        codepoints_swap(text, &fixed);
        codepoints_free(&fixed);
        return changed;
    }
    codepoints_free(&fixed);
    if (fix_parts(text, work)) return true;
    bool latin1 = common >> TEXT_ENCODING_SHIFT & 1;
    if (latin1 && fix_c1(text, true)) return true;
    return fix_c1(text, false);
}

static void fix_encoding(CodePoints *text, size_t *work) {
    while (fix_encoding_once(text, work)) {
    }
}

/* ---- characters ---- */

static const uint16_t *find_ligature(uint32_t c) {
    for (size_t i = 0; i < text_ligature_count; i++)
        if (text_ligatures[i].from == c) return text_ligatures[i].to;
    return NULL;
}

static uint32_t uncurl(uint32_t c) {
    if (!(text_class(c)->flags & TEXT_QUOTE)) return c;
    return c >= 0x201C && c <= 0x201F ? '"' : '\'';
}

static void push_standard_width(CodePoints *out, uint32_t c) {
    utf8proc_int32_t parts[4];
    int last_class = 0;
    utf8proc_ssize_t n = utf8proc_decompose_char((utf8proc_int32_t)c, parts, COUNT(parts),
                                                 UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT, &last_class);
    assert(n > 0 && (size_t)n <= COUNT(parts));
    for (utf8proc_ssize_t i = 0; i < n; i++) codepoints_push(out, uncurl((uint32_t)parts[i]));
}

/* C1 controls, ligatures, widths, quotes, line breaks, in that order for each character. */
static void replace_characters(CodePoints *text) {
    CodePoints out = {0};
    codepoints_reserve(&out, text->count + 8);
    for (size_t i = 0; i < text->count; i++) {
        uint32_t c = text->at[i];
        if (text_class(c)->flags & TEXT_C1) c = text_charmaps[0][c - 0x80];
        uint32_t flags = text_class(c)->flags;
        if (flags & TEXT_LIGATURE) {
            const uint16_t *to = find_ligature(c);
            assert(to != NULL);
            for (size_t j = 0; j < 3 && to[j] != 0; j++) codepoints_push(&out, uncurl(to[j]));
        } else if (flags & TEXT_WIDTH) {
            push_standard_width(&out, c);
        } else if (flags & TEXT_BREAK) {
            if (c == '\r' && i + 1 < text->count && text->at[i + 1] == '\n') i++;
            codepoints_push(&out, '\n');
        } else {
            codepoints_push(&out, uncurl(c));
        }
    }
    codepoints_swap(text, &out);
    codepoints_free(&out);
}

/* The length of a terminal escape ("ESC [ digits and semicolons, letter") at i, or 0. */
static size_t escape_length(const CodePoints *text, size_t i) {
    if (text->at[i] != 0x1B || i + 1 >= text->count || text->at[i + 1] != '[') return 0;
    size_t j = i + 2;
    while (j < text->count &&
           (text->at[j] == ';' ||
            utf8proc_category((utf8proc_int32_t)text->at[j]) == UTF8PROC_CATEGORY_ND))
        j++;
    if (j == text->count || text->at[j] >= 0x80) return 0;
    uint32_t letter = text->at[j] | 32;
    return letter >= 'a' && letter <= 'z' ? j + 1 - i : 0;
}

static void remove_controls(CodePoints *text) {
    size_t out = 0;
    for (size_t i = 0; i < text->count;) {
        size_t escape = escape_length(text, i);
        if (escape == 0 && !(text_class(text->at[i])->flags & TEXT_CONTROL))
            text->at[out++] = text->at[i];
        i += escape ? escape : 1;
    }
    text->count = out;
}

static uint32_t all_flags(const CodePoints *text) {
    uint32_t flags = 0;
    for (size_t i = 0; i < text->count; i++) flags |= text_class(text->at[i])->flags;
    return flags;
}

/* ---- repair ---- */

static void fix_segment(CodePoints *text, bool unescape, size_t *work) {
    const uint32_t replaced = TEXT_C1 | TEXT_LIGATURE | TEXT_WIDTH | TEXT_QUOTE | TEXT_BREAK;
    CodePoints before = {0};
    while (work_take(work, text->count)) {
        before.count = 0;
        codepoints_append(&before, text->at, text->count);
        if (unescape) text_html_unescape_certain(text);
        fix_encoding(text, work);
        if (all_flags(text) & replaced) replace_characters(text);
        uint32_t flags = all_flags(text);
        if (flags & TEXT_CONTROL) remove_controls(text);
        if (flags & TEXT_NFC_CHECK) codepoints_nfc(text);
        if (codepoints_equal(&before, text)) break;
    }
    codepoints_free(&before);
}

void text_fix(CodePoints *text) {
    CodePoints segment = {0}, out = {0};
    size_t work = MAX_WORK;
    bool unescape = true;
    for (size_t i = 0; i < text->count;) {
        size_t end = i;
        bool line_end = false;
        while (!line_end && end < text->count && end - i < MAX_SEGMENT) {
            if (text->at[end] == '<') unescape = false;
            line_end = text->at[end++] == '\n';
        }
        segment.count = 0;
        codepoints_append(&segment, text->at + i, end - i);
        fix_segment(&segment, unescape, &work);
        codepoints_append(&out, segment.at, segment.count);
        i = end;
    }
    codepoints_swap(text, &out);
    codepoints_free(&out);
    codepoints_free(&segment);
}
