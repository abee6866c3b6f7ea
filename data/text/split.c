/* Splitting: one function for each SplitOp. */
#include "data/text/pipeline.h"
#include "data/text/codepoints.h"
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

static void add_word(TextSpans *w, size_t at, size_t n) {
    if (n == 0) return;
    if (w->n == w->room) {
        w->room = w->room * 2 + 64;
        w->at = xrealloc(w->at, size_mul(w->room, sizeof *w->at));
    }
    w->at[w->n++] = (TextSpan){at, n};
}

enum { LETTER = 1, NUMBER = 2, WHITE = 4, MARK = 8, OTHER = 16 };

static int class_of(uint32_t cp) {
    if (text_is_white(cp)) return WHITE;
    switch (utf8proc_category((utf8proc_int32_t)cp)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
        return LETTER;
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO:
        return NUMBER;
    case UTF8PROC_CATEGORY_PC:
    case UTF8PROC_CATEGORY_PD:
    case UTF8PROC_CATEGORY_PS:
    case UTF8PROC_CATEGORY_PE:
    case UTF8PROC_CATEGORY_PI:
    case UTF8PROC_CATEGORY_PF:
    case UTF8PROC_CATEGORY_PO:
        return MARK;
    default:
        return OTHER;
    }
}

/* The class of the character at s; n > 0. */
static int class_at(const char *s, size_t n, size_t *length) {
    unsigned char c = (unsigned char)*s;
    *length = 1;
    if (c < 128) {
        if ((unsigned char)((c | 32) - 'a') < 26) return LETTER;
        if ((unsigned char)(c - '0') < 10) return NUMBER;
        if (c == ' ' || (c >= 9 && c <= 13)) return WHITE;
        return c > ' ' && c < 127 ? MARK : OTHER;
    }
    uint32_t cp;
    *length = utf8_decode((const unsigned char *)s, n, &cp);
    return class_of(cp);
}

/* The end of the run of these classes that begins at i. */
static size_t run_end(const char *s, size_t n, size_t i, int classes, size_t *last) {
    size_t step;
    *last = i;
    while (i < n && class_at(s + i, n - i, &step) & classes) *last = i, i += step;
    return i;
}

/* A split of one word `w` of `in`: its words are added to `words`, as parts of `in`, or of `out` if
 * the step rewrites text. */
typedef struct Splitting {
    const Pipeline *p;
    const TextStep *step;
    const char *in;
    Chars *out;
    TextSpans *words;
    bool first; /* the word begins where the caption begins */
} Splitting;

/* Words are runs without white space; marks: each punctuation mark is one too. */
static void at_white(const Splitting *x, TextSpan w, bool marks) {
    size_t start = w.at, step;
    for (size_t i = w.at; i < w.at + w.n; i += step) {
        int c = class_at(x->in + i, w.at + w.n - i, &step);
        if (c != WHITE && !(marks && c == MARK)) continue;
        add_word(x->words, start, i - start);
        if (c != WHITE) add_word(x->words, i, step);
        start = i + step;
    }
    add_word(x->words, start, w.at + w.n - start);
}

static void split_white(const Splitting *x, TextSpan w) { at_white(x, w, false); }
static void split_bert(const Splitting *x, TextSpan w) { at_white(x, w, true); }

/* The length of 's 't 're 've 'm 'll 'd at s; 0: none of them. */
static size_t ending(const char *s, size_t n) {
    static const char *const endings[] = {"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"};
    for (size_t i = 0; i < COUNT(endings) && *s == '\''; i++) {
        size_t length = strlen(endings[i]);
        if (length <= n && memcmp(s, endings[i], length) == 0) return length;
    }
    return 0;
}

/* The end of GPT-2's word at i. */
static size_t gpt2_end(const char *s, size_t n, size_t i) {
    size_t step, last, end = i + ending(s + i, n - i);
    if (end > i) return end;
    size_t blank = s[i] == ' ' && i + 1 < n;
    int c = class_at(s + i + blank, n - i - blank, &step);
    if (c == WHITE) {
        end = run_end(s, n, i, WHITE, &last);
        return end == n || last == i ? end : last;
    }
    return run_end(s, n, i + blank, c & (LETTER | NUMBER) ? c : MARK | OTHER, &last);
}

static void split_gpt2(const Splitting *x, TextSpan w) {
    size_t start = x->out->n;
    if (x->step->flags & 1 && x->in[w.at] != ' ') chars_add(x->out, " ", 1);
    chars_add(x->out, x->in + w.at, w.n);
    const char *s = x->out->at + start;
    size_t n = x->out->n - start, end;
    for (size_t i = 0; i < n; i = end) {
        end = x->step->flags & 2 ? n : gpt2_end(s, n, i);
        add_word(x->words, start + i, end - i);
    }
}

static void split_clip(const Splitting *x, TextSpan w) {
    const char *s = x->in + w.at;
    size_t step, last;
    for (size_t i = 0, end; i < w.n; i = end) {
        int c = class_at(s + i, w.n - i, &step);
        end = i + ending(s + i, w.n - i);
        if (end == i)
            end = c & (WHITE | NUMBER)
                      ? i + step
                      : run_end(s, w.n, i, c & LETTER ? LETTER : MARK | OTHER, &last);
        if (c != WHITE) add_word(x->words, w.at + i, end - i);
    }
}

static void split_digits(const Splitting *x, TextSpan w) {
    size_t start = 0, step, last;
    const char *s = x->in + w.at;
    for (size_t i = 0; i < w.n;) {
        if (class_at(s + i, w.n - i, &step) != NUMBER) {
            i += step;
            continue;
        }
        size_t end = x->step->flags & 1 ? i + step : run_end(s, w.n, i, NUMBER, &last);
        add_word(x->words, w.at + start, i - start);
        add_word(x->words, w.at + i, end - i);
        start = i = end;
    }
    add_word(x->words, w.at + start, w.n - start);
}

/* Words between occurrences of a string; the occurrence is a word, or removed, or part of the
 * word before or after it unless that is an occurrence too. */
static void split_at(const Splitting *x, TextSpan w) {
    const char *at = x->p->strings + x->step->a.at, *s = x->in + w.at;
    size_t k = x->step->a.n, start = 0, i = 0;
    uint32_t join = x->step->flags;
    while (i + k <= w.n) {
        if (memcmp(s + i, at, k) != 0) {
            i++;
            continue;
        }
        bool before = join == JOIN_PREVIOUS && i > start;
        add_word(x->words, w.at + start, i - start + (before ? k : 0));
        bool after =
            join == JOIN_NEXT && i + k < w.n && (i + 2 * k > w.n || memcmp(s + i + k, at, k) != 0);
        if (!before && !after && join != JOIN_REMOVED) add_word(x->words, w.at + i, k);
        start = after ? i : i + k;
        i += k;
    }
    add_word(x->words, w.at + start, w.n - start);
}

static void split_metaspace(const Splitting *x, TextSpan w) {
    const char *mark = x->p->strings + x->step->a.at, *s = x->in + w.at;
    size_t k = x->step->a.n, start = x->out->n, word = start;
    uint32_t flags = x->step->flags;
    bool has = *s == ' ' || (w.n >= k && memcmp(s, mark, k) == 0);
    chars_reserve(x->out, w.n + k);
    if (!has && (flags & META_ALWAYS || (flags & META_FIRST && x->first)))
        chars_add(x->out, mark, k);
    for (size_t i = 0; i < w.n;) {
        bool blank = s[i] == ' ', marked = !blank && i + k <= w.n && memcmp(s + i, mark, k) == 0;
        if ((blank || marked) && flags & META_SPLIT) {
            add_word(x->words, word, x->out->n - word);
            word = x->out->n;
        }
        chars_add(x->out, blank || marked ? mark : s + i, blank || marked ? k : 1);
        i += marked ? k : 1;
    }
    add_word(x->words, word, x->out->n - word);
}

void split_words(const Pipeline *p, Chars *text, Chars *spare, TextSpans *words,
                 TextSpans *spare_words, bool first) {
    static const struct {
        void (*run)(const Splitting *, TextSpan);
        bool rewrites;
    } table[] = {[SPLIT_WHITE] = {split_white, false},       [SPLIT_BERT] = {split_bert, false},
                 [SPLIT_GPT2] = {split_gpt2, true},          [SPLIT_CLIP] = {split_clip, false},
                 [SPLIT_DIGITS] = {split_digits, false},     [SPLIT_AT] = {split_at, false},
                 [SPLIT_METASPACE] = {split_metaspace, true}};
    words->n = 0;
    add_word(words, 0, text->n);
    for (uint32_t i = 0; i < p->form.splits && words->n > 0; i++) {
        const TextStep *step = &p->form.split[i];
        spare->n = spare_words->n = 0;
        for (size_t k = 0; k < words->n; k++) {
            Splitting x = {p, step, text->at, spare, spare_words, first && words->at[k].at == 0};
            table[step->op].run(&x, words->at[k]);
        }
        TextSpans swap_words = *words;
        *words = *spare_words, *spare_words = swap_words;
        if (!table[step->op].rewrites) continue;
        Chars swap = *text;
        *text = *spare, *spare = swap;
    }
}
