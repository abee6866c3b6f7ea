/* text_html: see the header. Rules: HTML Living Standard, section 13.2.5.72 on, as in Python's
 * html.unescape; for unambiguous references only, as in ftfy. */
#include "data/text/text_html.h"
#include "data/text/text_tables.h"
#include <string.h>
#include <utf8proc.h>

enum { MAX_NAMES = 4096, MAX_NAME = 32, MAX_CERTAIN_NAME = 24 };

typedef struct Reference {
    size_t length; /* code points from the & on; 0: none here */
    uint32_t to[3];
    size_t count;
} Reference;

static const char *names[MAX_NAMES];
static size_t name_count;

void text_html_init(void) {
    name_count = 0;
    for (const char *p = text_entities; *p != 0; p = strchr(p, ' ') + 1) {
        assert(name_count < MAX_NAMES);
        names[name_count++] = p;
    }
}

static bool is_alnum(uint32_t c) {
    return (c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z' && c < 128);
}

/* <0, 0, >0: `name` sorts before, at, after the entry. */
static int compare(const char *name, size_t n, const char *entry) {
    for (size_t i = 0; i < n; i++) {
        if (!is_alnum((unsigned char)entry[i])) return 1;
        if (name[i] != entry[i]) return (unsigned char)name[i] < (unsigned char)entry[i] ? -1 : 1;
    }
    return is_alnum((unsigned char)entry[n]) ? -1 : 0;
}

/* The entry's mark ('=' or '*') and the text after it; NULL: no such name. */
static const char *find_name(const char *name, size_t n) {
    size_t lo = 0, hi = name_count;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        int order = compare(name, n, names[mid]);
        if (order == 0) return names[mid] + n;
        if (order < 0)
            hi = mid;
        else
            lo = mid + 1;
    }
    return NULL;
}

static void take_text(Reference *r, const char *mark) {
    const char *text = mark + 1, *end = strchr(text, ' ');
    while (text < end) {
        assert(r->count < COUNT(r->to));
        text += utf8_decode((const unsigned char *)text, (size_t)(end - text), &r->to[r->count++]);
    }
}

static bool is_dropped(uint32_t n) {
    return (n >= 1 && n <= 8) || n == 0xB || (n >= 0xE && n <= 0x1F) || n == 0x7F ||
           (n >= 0xFDD0 && n <= 0xFDEF) || (n & 0xFFFE) == 0xFFFE;
}

static void take_number(Reference *r, uint32_t n) {
    r->count = 1;
    if (n == 0 || n > CODEPOINT_MAX || (n >= 0xD800 && n <= 0xDFFF))
        r->to[0] = CODEPOINT_REPLACEMENT;
    else if (n >= 0x80 && n <= 0x9F)
        r->to[0] = text_charmaps[0][n - 0x80];
    else if (is_dropped(n))
        r->count = 0;
    else
        r->to[0] = n;
}

/* &#123 and &#x7B, the semicolon optional. */
static Reference number_at(const uint32_t *p, size_t n) {
    Reference r = {0};
    bool hex = n > 2 && (p[2] | 32) == 'x';
    size_t i = hex ? 3 : 2, first = i;
    uint32_t value = 0;
    for (; i < n; i++) {
        uint32_t c = p[i], digit;
        if (c >= '0' && c <= '9')
            digit = c - '0';
        else if (hex && (c | 32) >= 'a' && (c | 32) <= 'f')
            digit = (c | 32) - 'a' + 10;
        else
            break;
        if (value <= CODEPOINT_MAX) value = value * (hex ? 16 : 10) + digit;
    }
    if (i == first) return r;
    if (i < n && p[i] == ';') i++;
    r.length = i;
    take_number(&r, value);
    return r;
}

/* The ASCII letters and digits from p on. */
static size_t name_at(const uint32_t *p, size_t n, size_t most, char *name) {
    size_t length = 0;
    for (; length < n && length < most && is_alnum(p[length]); length++)
        name[length] = (char)p[length];
    return length;
}

static Reference lenient_at(const uint32_t *p, size_t n) {
    if (n > 1 && p[1] == '#') return number_at(p, n);
    Reference r = {0};
    char name[MAX_NAME];
    size_t length = name_at(p + 1, n - 1, MAX_NAME, name);
    bool closed = 1 + length < n && p[1 + length] == ';';
    const char *mark = closed ? find_name(name, length) : NULL;
    r.length = 1 + length + 1;
    for (; mark == NULL && length >= 2; length--) {
        mark = find_name(name, length);
        if (mark != NULL && *mark != '*') mark = NULL;
        r.length = 1 + length;
    }
    if (mark == NULL) return (Reference){0};
    take_text(&r, mark);
    return r;
}

static bool has_lower(const char *name, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (name[i] >= 'a' && name[i] <= 'z') return true;
    return false;
}

/* Resolves a name in capitals that HTML does not define, by its lower-case form. */
static void take_upper(Reference *r, const char *name, size_t n) {
    char lower[MAX_CERTAIN_NAME];
    if (has_lower(name, n)) return;
    for (size_t prefix = n; prefix >= 2; prefix--) {
        const char *mark = find_name(name, prefix);
        if (mark != NULL && *mark == '*') return;
    }
    for (size_t i = 0; i < n; i++) lower[i] = (char)(name[i] > '9' ? name[i] | 32 : name[i]);
    const char *mark = find_name(lower, n);
    if (mark == NULL) return;
    for (const char *p = text_upper_entities; *p != 0; p = strchr(p, ' ') + 1) {
        if (compare(name, n, p) == 0) {
            take_text(r, p + n);
            return;
        }
    }
    take_text(r, mark);
    for (size_t i = 0; i < r->count; i++)
        r->to[i] = (uint32_t)utf8proc_toupper((utf8proc_int32_t)r->to[i]);
}

static Reference certain_at(const uint32_t *p, size_t n) {
    Reference r = {0}, none = {0};
    char name[MAX_CERTAIN_NAME];
    if (n > 1 && p[1] == '#') {
        size_t length = name_at(p + 2, n - 2, MAX_CERTAIN_NAME, name);
        if (length == 0 || 2 + length >= n || p[2 + length] != ';') return none;
        r = number_at(p, n);
        bool whole = r.length == 2 + length + 1, semicolon = r.count == 1 && r.to[0] == ';';
        return whole && !semicolon ? r : none;
    }
    size_t length = name_at(p + 1, n - 1, MAX_CERTAIN_NAME, name);
    if (length == 0 || 1 + length >= n || p[1 + length] != ';') return none;
    const char *mark = find_name(name, length);
    if (mark != NULL)
        take_text(&r, mark);
    else
        take_upper(&r, name, length);
    if (r.count == 0) return none;
    r.length = 1 + length + 1;
    return r;
}

static bool replace_all(CodePoints *text, Reference (*reference_at)(const uint32_t *, size_t)) {
    size_t first = 0;
    while (first < text->count && text->at[first] != '&') first++;
    if (first == text->count) return false;
    CodePoints out = {0};
    codepoints_reserve(&out, text->count + 8);
    bool changed = false;
    for (size_t i = 0; i < text->count;) {
        Reference r = {0};
        if (text->at[i] == '&') r = reference_at(text->at + i, text->count - i);
        if (r.length == 0) {
            codepoints_push(&out, text->at[i++]);
        } else {
            codepoints_append(&out, r.to, r.count);
            i += r.length;
            changed = true;
        }
    }
    codepoints_swap(text, &out);
    codepoints_free(&out);
    return changed;
}

bool text_html_unescape(CodePoints *text) { return replace_all(text, lenient_at); }
bool text_html_unescape_certain(CodePoints *text) { return replace_all(text, certain_at); }
