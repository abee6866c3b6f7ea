/* Normalising: one function for each NormalOp. Charsmap: Darts double array, as sentencepiece
 * stores it: u32 size of the units in bytes, the units, then strings that end with NUL. */
#include "data/text/pipeline.h"
#include "data/text/codepoints.h"
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#define SPACE_MARK "\xE2\x96\x81" /* U+2581 */

/* Bounds for hostile rules: bytes that replace one character, bytes of a text between two steps. */
enum { LONGEST_RULE = 255, LONGEST_TEXT = 1 << 24 };

void chars_reserve(Chars *c, size_t more) {
    size_t need = size_add(c->n, more);
    if (need <= c->room) return;
    c->room = size_add(need, need / 2 + 64);
    c->at = xrealloc(c->at, c->room);
}

void chars_add(Chars *c, const char *s, size_t n) {
    if (n == 0) return;
    chars_reserve(c, n);
    memcpy(c->at + c->n, s, n);
    c->n += n;
}

static void add_point(Chars *c, uint32_t cp) {
    chars_reserve(c, 4);
    c->n += utf8_encode(cp, c->at + c->n);
}

/* ---- charsmap ---- */

typedef struct Charsmap {
    const char *units, *strings;
    size_t count, size; /* units; bytes of strings */
} Charsmap;

static Charsmap charsmap_of(const char *bytes, size_t n) {
    uint32_t size;
    if (n == 0) return (Charsmap){0};
    memcpy(&size, bytes, 4);
    return (Charsmap){bytes + 4, bytes + 4 + size, size / 4, n - 4 - size};
}

bool charsmap_check(const char *bytes, size_t n, Error *err) {
    uint32_t size;
    if (n == 0) return true;
    if (n < 5) return error_set(err, "its charsmap of %zu bytes is too short", n);
    memcpy(&size, bytes, 4);
    if (size % 4 != 0 || size < 4 || size >= n - 4)
        return error_set(err, "the trie of its charsmap has %u of %zu bytes", size, n - 4);
    if (bytes[n - 1] != 0) return error_set(err, "the strings of its charsmap have no end");
    for (const char *s = bytes + 4 + size, *end; s < bytes + n; s = end + 1)
        if ((end = memchr(s, 0, (size_t)(bytes + n - s))) - s > LONGEST_RULE)
            return error_set(err, "a string of its charsmap has %zu bytes", (size_t)(end - s));
    return true;
}

static uint32_t unit_at(const Charsmap *m, size_t i) {
    uint32_t unit = 0;
    if (i < m->count) memcpy(&unit, m->units + 4 * i, 4);
    return unit;
}

static size_t offset_of(uint32_t unit) { return (unit >> 10) << ((unit & 1u << 9) >> 6); }

/* Follows one byte from *at, which begins as offset_of(unit 0). False: no rule goes on so. */
static bool charsmap_step(const Charsmap *m, size_t *at, uint8_t byte, uint32_t *unit) {
    *at ^= byte;
    if (*at >= m->count) return false;
    *unit = unit_at(m, *at);
    if ((*unit & (1u << 31 | 0xFF)) != byte) return false;
    *at ^= offset_of(*unit);
    return true;
}

/* The replacement of a rule at the front of a text, NUL-terminated, or NULL: of the longest, or if
 * `shortest` of the shortest one. */
static const char *charsmap_match(const Charsmap *m, const char *s, size_t n, bool shortest,
                                  size_t *length) {
    const char *found = NULL;
    if (m->count == 0) return NULL;
    size_t at = offset_of(unit_at(m, 0));
    uint32_t unit;
    for (size_t i = 0; i < n && charsmap_step(m, &at, (uint8_t)s[i], &unit); i++) {
        if (!(unit >> 8 & 1)) continue;
        uint32_t value = unit_at(m, at) & ~(1u << 31);
        if (value >= m->size) continue;
        found = m->strings + value;
        *length = i + 1;
        if (shortest) break;
    }
    return found;
}

void normalize_prepare(Pipeline *p) {
    const PipelineForm *f = &p->form;
    for (uint32_t k = 0; k < f->normals; k++) {
        const TextStep *s = &f->normal[k];
        if (s->op != NORMAL_SENTENCEPIECE && s->op != NORMAL_CHARSMAP) continue;
        Charsmap m = charsmap_of(p->strings + s->a.at, s->a.n);
        for (uint8_t c = 0; c < 128; c++) {
            size_t at = m.count ? offset_of(unit_at(&m, 0)) : 0;
            uint32_t unit, next_unit;
            p->plain[c] = c != '\r' && trie_step(&p->trie[TRIE_USER], 0, c) == 0;
            if (m.count == 0 || !charsmap_step(&m, &at, c, &unit)) continue;
            if (unit >> 8 & 1) p->plain[c] = false;
            for (uint8_t next = 0; next < 128; next++) {
                size_t then = at;
                if (charsmap_step(&m, &then, next, &next_unit)) p->plain[c] = false;
            }
        }
        return; /* one at most, as the readers of files see to */
    }
}

/* ---- sentencepiece ---- */

/* What replaces the front of the text, *from and its length; *length bytes of it are used up. */
static size_t spm_prefix(const Pipeline *p, const Charsmap *m, const char *s, size_t n,
                         size_t *length, const char **from) {
    *from = s;
    if (p->trie[TRIE_USER].nodes > 1 && trie_longest(&p->trie[TRIE_USER], s, n, length) >= 0)
        return *length;
    const char *rule = charsmap_match(m, s, n, false, length);
    if (rule != NULL) {
        *from = rule;
        return strlen(rule);
    }
    uint32_t cp;
    *length = utf8_decode((const unsigned char *)s, n, &cp);
    if (cp != UTF8_INVALID) return *length;
    *length = 1;
    *from = "\xEF\xBF\xBD";
    return 3;
}

static void run_sentencepiece(const Pipeline *p, const TextStep *step, const Chars *in,
                              Chars *out) {
    Charsmap m = charsmap_of(p->strings + step->a.at, step->a.n);
    const char *space = step->flags & SPM_ESCAPE ? SPACE_MARK : " ", *s = in->at;
    size_t space_n = strlen(space), n = in->n, i = 0, length;
    bool tidy = step->flags & SPM_TIDY, gap = tidy;
    const char *from;
    while (tidy && i < n && spm_prefix(p, &m, s + i, n - i, &length, &from) == 1 && *from == ' ')
        i += length;
    if (i == n) return;
    chars_reserve(out, n + 2 * space_n);
    if (step->flags & SPM_PREFIX && !(step->flags & SPM_SUFFIX)) chars_add(out, space, space_n);
    while (i < n) {
        unsigned char c = (unsigned char)s[i];
        if (c < 128 && c != ' ' && p->plain[c] && (i + 1 == n || (unsigned char)s[i + 1] < 128)) {
            chars_put(out, (char)c);
            gap = false;
            i++;
            continue;
        }
        size_t put = spm_prefix(p, &m, s + i, n - i, &length, &from);
        for (; gap && put > 0 && *from == ' '; put--) from++;
        for (size_t k = 0; k < put; k++)
            if (from[k] == ' ')
                chars_add(out, space, space_n);
            else
                chars_add(out, from + k, 1);
        if (put > 0) gap = from[put - 1] == ' ';
        if (!tidy) gap = false;
        i += length;
    }
    while (tidy && out->n >= space_n && memcmp(out->at + out->n - space_n, space, space_n) == 0)
        out->n -= space_n;
    if (step->flags & SPM_PREFIX && step->flags & SPM_SUFFIX) chars_add(out, space, space_n);
}

/* ---- the library tokenizers ---- */

/* The length of the grapheme at s, valid UTF-8. */
static size_t grapheme(const char *s, size_t n) {
    uint32_t cp, next;
    utf8proc_int32_t state = 0;
    size_t length = utf8_decode((const unsigned char *)s, n, &cp);
    while (length < n) {
        size_t step = utf8_decode((const unsigned char *)s + length, n - length, &next);
        if (utf8proc_grapheme_break_stateful((utf8proc_int32_t)cp, (utf8proc_int32_t)next, &state))
            break;
        length += step;
        cp = next;
    }
    return length;
}

/* Replaces a whole grapheme of at most five bytes by the shortest rule at its front, else each
 * character alone: what that library does, whatever rules are meant. */
static void run_charsmap(const Pipeline *p, const TextStep *step, const Chars *in, Chars *out) {
    Charsmap m = charsmap_of(p->strings + step->a.at, step->a.n);
    const char *s = in->at;
    size_t n = in->n, length, used;
    for (size_t i = 0; i < n; i += length) {
        unsigned char c = (unsigned char)s[i];
        length = 1;
        if (c < 128 && p->plain[c] && (i + 1 == n || (unsigned char)s[i + 1] < 128)) {
            chars_put(out, (char)c);
            continue;
        }
        length = grapheme(s + i, n - i);
        const char *rule = length < 6 ? charsmap_match(&m, s + i, length, true, &used) : NULL;
        if (rule != NULL) {
            chars_add(out, rule, strlen(rule));
            continue;
        }
        for (size_t k = 0, one; k < length; k += one) {
            uint32_t cp;
            one = utf8_decode((const unsigned char *)s + i + k, length - k, &cp);
            rule = charsmap_match(&m, s + i + k, one, true, &used);
            chars_add(out, rule ? rule : s + i + k, rule ? strlen(rule) : one);
        }
    }
}

static void run_form(const Pipeline *p, const TextStep *step, const Chars *in, Chars *out) {
    (void)p;
    unsigned options = UTF8PROC_STABLE;
    options |= step->flags & FORM_COMPOSE ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE;
    if (step->flags & FORM_COMPAT) options |= UTF8PROC_COMPAT;
    utf8proc_uint8_t *made = NULL;
    utf8proc_ssize_t n = utf8proc_map((const utf8proc_uint8_t *)in->at, (utf8proc_ssize_t)in->n,
                                      &made, (utf8proc_option_t)options);
    if (n < 0) die("utf8proc: %s", utf8proc_errmsg(n));
    chars_add(out, (const char *)made, (size_t)n);
    free(made);
}

/* Calls each code point of a text. */
#define EACH_POINT(in, cp)                                                                         \
    for (size_t at_ = 0, step_; at_ < (in)->n; at_ += step_)                                       \
        if ((step_ = utf8_decode((const unsigned char *)(in)->at + at_, (in)->n - at_, &(cp))), 1)

static void add_lower(Chars *out, uint32_t cp) {
    if (cp == 0x130)
        chars_add(out, "i\xCC\x87", 3);
    else
        add_point(out, (uint32_t)utf8proc_tolower((utf8proc_int32_t)cp));
}

static void run_lower(const Pipeline *p, const TextStep *step, const Chars *in, Chars *out) {
    (void)p, (void)step;
    uint32_t cp;
    EACH_POINT(in, cp) add_lower(out, cp);
}

static void drop_marks(const Chars *in, Chars *out, bool all) {
    uint32_t cp;
    EACH_POINT(in, cp) {
        utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);
        bool mark = c == UTF8PROC_CATEGORY_MN ||
                    (all && (c == UTF8PROC_CATEGORY_MC || c == UTF8PROC_CATEGORY_ME));
        if (!mark) add_point(out, cp);
    }
}

static void run_strip_accents(const Pipeline *p, const TextStep *step, const Chars *in,
                              Chars *out) {
    (void)p, (void)step;
    drop_marks(in, out, true);
}

bool text_is_white(uint32_t cp) {
    return (cp >= 9 && cp <= 13) || cp == ' ' || cp == 0x85 || cp == 0xA0 || cp == 0x1680 ||
           (cp >= 0x2000 && cp <= 0x200A) || cp == 0x2028 || cp == 0x2029 || cp == 0x202F ||
           cp == 0x205F || cp == 0x3000;
}

static void run_strip(const Pipeline *p, const TextStep *step, const Chars *in, Chars *out) {
    (void)p;
    size_t first = in->n, last = 0;
    uint32_t cp;
    EACH_POINT(in, cp) {
        if (text_is_white(cp)) continue;
        first = size_min(first, at_);
        last = at_ + step_;
    }
    if (!(step->flags & 1)) first = 0;
    if (!(step->flags & 2)) last = in->n;
    if (first < last) chars_add(out, in->at + first, last - first);
}

static void run_replace(const Pipeline *p, const TextStep *step, const Chars *in, Chars *out) {
    const char *a = p->strings + step->a.at, *b = p->strings + step->b.at;
    size_t n = step->a.n;
    for (size_t i = 0; i < in->n;) {
        const char *next = memchr(in->at + i, (unsigned char)*a, in->n - i);
        size_t end = next ? (size_t)(next - in->at) : in->n;
        chars_add(out, in->at + i, end - i);
        i = end;
        while (end + n <= in->n && memcmp(in->at + end, a, n) == 0) {
            end += n;
            if (!(step->flags & 1)) break;
        }
        if (end > i + (step->flags & 1 ? n : 0)) {
            chars_add(out, b, step->b.n);
            i = end;
        } else if (i < in->n) {
            chars_put(out, in->at[i++]);
        }
    }
}

static void run_spaces(const Pipeline *p, const TextStep *step, const Chars *in, Chars *out) {
    bool gap = false;
    uint32_t cp;
    EACH_POINT(in, cp) {
        bool white = text_is_white(cp);
        if (!white)
            chars_add(out, in->at + at_, step_);
        else if (!gap)
            chars_add(out, p->strings + step->b.at, step->b.n);
        gap = white;
    }
}

static void run_prepend(const Pipeline *p, const TextStep *step, const Chars *in, Chars *out) {
    if (in->n > 0) chars_add(out, p->strings + step->a.at, step->a.n);
    chars_add(out, in->at, in->n);
}

static bool is_chinese(uint32_t c) {
    static const uint32_t ranges[][2] = {{0x4E00, 0x9FFF},   {0x3400, 0x4DBF},   {0x20000, 0x2A6DF},
                                         {0x2A700, 0x2B73F}, {0x2B740, 0x2B81F}, {0x2B920, 0x2CEAF},
                                         {0xF900, 0xFAFF},   {0x2F800, 0x2FA1F}};
    for (size_t i = 0; i < COUNT(ranges); i++)
        if (c >= ranges[i][0] && c <= ranges[i][1]) return true;
    return false;
}

static bool is_other(uint32_t cp) {
    utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);
    return c == UTF8PROC_CATEGORY_CC || c == UTF8PROC_CATEGORY_CF || c == UTF8PROC_CATEGORY_CO;
}

static void bert_ascii(const TextStep *step, const Chars *in, Chars *out) {
    chars_reserve(out, in->n);
    for (size_t i = 0; i < in->n; i++) {
        unsigned char c = (unsigned char)in->at[i];
        if (step->flags & BERT_CLEAN) {
            if (c == '\t' || c == '\n' || c == '\r') c = ' ';
            if (c < ' ' || c == 0x7F) continue;
        }
        if (step->flags & BERT_LOWER && (unsigned char)(c - 'A') < 26) c |= 32;
        out->at[out->n++] = (char)c;
    }
}

static bool is_ascii(const char *s, size_t n) {
    unsigned high = 0;
    for (size_t i = 0; i < n; i++) high |= (unsigned char)s[i];
    return high < 128;
}

/* Cleans a code point; returns what it becomes, or UTF8_INVALID if it is removed. */
static uint32_t bert_cleaned(uint32_t cp) {
    if (cp == '\t' || cp == '\n' || cp == '\r') return ' ';
    if (cp == 0xFFFD || is_other(cp)) return UTF8_INVALID;
    return text_is_white(cp) ? ' ' : cp;
}

/* Adds a code point without its accents. False: a part that is left has a combining class, so the
 * order of the whole text's parts may change. */
static bool bert_add(const TextStep *step, uint32_t cp, Chars *out) {
    utf8proc_int32_t parts[8] = {(utf8proc_int32_t)cp};
    int last_class = 0;
    utf8proc_ssize_t n = 1;
    if (cp >= 0xC0 && step->flags & BERT_ACCENTS)
        n = utf8proc_decompose_char((utf8proc_int32_t)cp, parts, COUNT(parts), UTF8PROC_DECOMPOSE,
                                    &last_class);
    assert(n > 0 && (size_t)n <= COUNT(parts));
    for (utf8proc_ssize_t i = 0; i < n; i++) {
        if (cp >= 0xC0 && step->flags & BERT_ACCENTS) {
            const utf8proc_property_t *q = utf8proc_get_property(parts[i]);
            if (q->category == UTF8PROC_CATEGORY_MN) continue;
            if (q->combining_class != 0) return false;
        }
        if (step->flags & BERT_LOWER)
            add_lower(out, (uint32_t)parts[i]);
        else
            add_point(out, (uint32_t)parts[i]);
    }
    return true;
}

static void run_bert(const Pipeline *p, const TextStep *step, const Chars *in, Chars *out) {
    static const TextStep nfd = {.op = NORMAL_FORM};
    if (is_ascii(in->at, in->n)) {
        bert_ascii(step, in, out);
        return;
    }
    Chars clean = {0}, ordered = {0};
    bool simple = true;
    uint32_t cp;
    EACH_POINT(in, cp) {
        if (step->flags & BERT_CLEAN && (cp = bert_cleaned(cp)) == UTF8_INVALID) continue;
        bool alone = step->flags & BERT_CHINESE && is_chinese(cp);
        if (alone) chars_put(out, ' ');
        simple = simple && bert_add(step, cp, out);
        if (alone) chars_put(out, ' ');
    }
    if (simple) return;
    EACH_POINT(in, cp) {
        if (step->flags & BERT_CLEAN && (cp = bert_cleaned(cp)) == UTF8_INVALID) continue;
        bool alone = step->flags & BERT_CHINESE && is_chinese(cp);
        if (alone) chars_put(&clean, ' ');
        add_point(&clean, cp);
        if (alone) chars_put(&clean, ' ');
    }
    run_form(p, &nfd, &clean, &ordered);
    clean.n = out->n = 0;
    drop_marks(&ordered, &clean, false);
    if (step->flags & BERT_LOWER)
        run_lower(p, step, &clean, out);
    else
        chars_add(out, clean.at, clean.n);
    FREE_ALL(clean.at, ordered.at);
}

void normalize(const Pipeline *p, Chars *text, Chars *spare) {
    static void (*const run[])(const Pipeline *, const TextStep *, const Chars *,
                               Chars *) = {[NORMAL_SENTENCEPIECE] = run_sentencepiece,
                                           [NORMAL_CHARSMAP] = run_charsmap,
                                           [NORMAL_FORM] = run_form,
                                           [NORMAL_LOWER] = run_lower,
                                           [NORMAL_STRIP_ACCENTS] = run_strip_accents,
                                           [NORMAL_STRIP] = run_strip,
                                           [NORMAL_REPLACE] = run_replace,
                                           [NORMAL_SPACES] = run_spaces,
                                           [NORMAL_PREPEND] = run_prepend,
                                           [NORMAL_BERT] = run_bert};
    for (uint32_t i = 0; i < p->form.normals && text->n > 0; i++) {
        spare->n = 0;
        run[p->form.normal[i].op](p, &p->form.normal[i], text, spare);
        Chars swap = *text;
        *text = *spare, *spare = swap;
        if (text->n <= LONGEST_TEXT) continue;
        for (text->n = LONGEST_TEXT; (text->at[text->n] & 0xC0) == 0x80;) text->n--;
    }
}
