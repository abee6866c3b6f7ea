#include "data/tensors/pickle.h"

#include "data/io/utf8.h"
#include <stdlib.h>
#include <string.h>

enum { MAX_BYTES = 4 << 20 }; /* the largest published models take half a megabyte */

/* Names that a file of tensors may contain, as "module name"; make() builds their values. */
typedef enum {
    MAKE_NOTHING, /* storage classes: only their name is used */
    MAKE_DICT,
    MAKE_TENSOR,
    MAKE_FIRST /* the first argument: a tensor as parameter, a typed list, a size */
} Make;

static const struct {
    const char *name;
    Make make;
} names[] = {
    {"collections OrderedDict", MAKE_DICT},
    {"torch._utils _rebuild_tensor_v2", MAKE_TENSOR},
    {"torch._utils _rebuild_tensor", MAKE_TENSOR},
    {"torch._utils _rebuild_parameter", MAKE_FIRST},
    {"torch Size", MAKE_FIRST},
    {"torch.jit._pickle build_intlist", MAKE_FIRST},
    {"torch.jit._pickle build_doublelist", MAKE_FIRST},
    {"torch.jit._pickle build_boollist", MAKE_FIRST},
    {"torch.jit._pickle build_tensorlist", MAKE_FIRST},
    {"torch.jit._pickle restore_type_tag", MAKE_FIRST},
    {"torch FloatStorage", MAKE_NOTHING},
    {"torch HalfStorage", MAKE_NOTHING},
    {"torch BFloat16Storage", MAKE_NOTHING},
    {"torch DoubleStorage", MAKE_NOTHING},
    {"torch LongStorage", MAKE_NOTHING},
    {"torch IntStorage", MAKE_NOTHING},
    {"torch ShortStorage", MAKE_NOTHING},
    {"torch CharStorage", MAKE_NOTHING},
    {"torch ByteStorage", MAKE_NOTHING},
    {"torch BoolStorage", MAKE_NOTHING},
};
static const char script_module[] = "__torch__";

typedef struct Reader {
    const unsigned char *at, *end;
    size_t size; /* of the pickle */
    PickleValue *all;
    PickleValue **stack;
    size_t height, room;
    size_t *marks;
    size_t mark_count, mark_room;
    PickleValue **memo;
    size_t memo_room, memo_count;
    size_t copied; /* items that were copied into a second value */
    Error *err;
} Reader;

/* error_set returns false; this form shows the compiler that the result of a failure is unused. */
#define FAIL(r, ...) (error_set((r)->err, __VA_ARGS__), false)

/* ---- bytes ---- */

static bool truncated(Reader *r) { return FAIL(r, "pickle: truncated"); }

static bool take_bytes(Reader *r, size_t n, const unsigned char **p) {
    if ((size_t)(r->end - r->at) < n) return truncated(r);
    *p = r->at;
    r->at += n;
    return true;
}

/* Little-endian, of n bytes. */
static bool take_size(Reader *r, size_t n, uint64_t *x) {
    const unsigned char *p;
    if (!take_bytes(r, n, &p)) return false;
    *x = 0;
    for (size_t i = 0; i < n; i++) *x |= (uint64_t)p[i] << 8 * i;
    return true;
}

static bool is_utf8(const unsigned char *s, size_t n) {
    for (size_t i = 0; i < n;) {
        uint32_t cp;
        size_t used = utf8_decode(s + i, n - i, &cp);
        if (cp == UTF8_INVALID) return false;
        i += used;
    }
    return true;
}

/* Reads up to a line feed, and skips it. */
static bool take_line(Reader *r, const unsigned char **line, size_t *n) {
    const unsigned char *feed = memchr(r->at, '\n', (size_t)(r->end - r->at));
    if (!feed) return truncated(r);
    *line = r->at;
    *n = (size_t)(feed - r->at);
    r->at = feed + 1;
    return true;
}

/* ---- values and the stack ---- */

static PickleValue *new_value(Reader *r, PickleKind kind) {
    PickleValue *v = xcalloc(1, sizeof *v);
    v->kind = kind;
    v->next = r->all;
    r->all = v;
    return v;
}

static void push(Reader *r, PickleValue *v) {
    if (r->height == r->room) {
        r->room = r->room ? 2 * r->room : 64;
        r->stack = xrealloc(r->stack, r->room * sizeof *r->stack);
    }
    r->stack[r->height++] = v;
}

static bool push_int(Reader *r, int64_t x) {
    PickleValue *v = new_value(r, PICKLE_INT);
    v->integer = x;
    push(r, v);
    return true;
}

static bool push_new(Reader *r, PickleKind kind) {
    push(r, new_value(r, kind));
    return true;
}

static bool push_text(Reader *r, const unsigned char *s, size_t n) {
    if (memchr(s, 0, n) || !is_utf8(s, n)) return FAIL(r, "pickle: a string is not UTF-8 text");
    PickleValue *v = new_value(r, PICKLE_STRING);
    v->text = xmalloc(n + 1);
    memcpy(v->text, s, n);
    v->text[n] = 0;
    push(r, v);
    return true;
}

/* The index of the first value above the last mark; without a mark nothing may be popped. */
static size_t floor_of(const Reader *r) { return r->mark_count ? r->marks[r->mark_count - 1] : 0; }

static bool pop(Reader *r, PickleValue **v) {
    if (r->height <= floor_of(r)) return FAIL(r, "pickle: it takes what is not there");
    *v = r->stack[--r->height];
    return true;
}

static bool top(Reader *r, PickleValue **v) {
    if (r->height <= floor_of(r)) return FAIL(r, "pickle: it takes what is not there");
    *v = r->stack[r->height - 1];
    return true;
}

static void mark(Reader *r) {
    if (r->mark_count == r->mark_room) {
        r->mark_room = r->mark_room ? 2 * r->mark_room : 16;
        r->marks = xrealloc(r->marks, r->mark_room * sizeof *r->marks);
    }
    r->marks[r->mark_count++] = r->height;
}

/* Pops the values above the last mark, and the mark: *n values at r->stack + r->height. */
static bool pop_mark(Reader *r, size_t *n) {
    if (!r->mark_count) return FAIL(r, "pickle: a mark is missing");
    size_t at = r->marks[--r->mark_count];
    *n = r->height - at;
    r->height = at;
    return true;
}

static void append(PickleValue *v, PickleValue *item) {
    if (v->count == v->room) {
        v->room = v->room ? 2 * v->room : 4;
        v->items = xrealloc(v->items, v->room * sizeof *v->items);
    }
    v->items[v->count++] = item;
}

/* The number of copied items is bounded by the pickle's bytes, so that shared values cannot
 * multiply. */
static bool may_copy(Reader *r, size_t n) {
    r->copied += n;
    return r->copied <= r->size || FAIL(r, "pickle: values that multiply");
}

static bool push_tuple(Reader *r, size_t n) {
    if (r->height < floor_of(r) + n) return FAIL(r, "pickle: it takes what is not there");
    PickleValue *v = new_value(r, PICKLE_TUPLE);
    r->height -= n;
    for (size_t i = 0; i < n; i++) append(v, r->stack[r->height + i]);
    push(r, v);
    return true;
}

static bool extend(Reader *r, PickleKind kind, size_t n) {
    PickleValue *to;
    if (!top(r, &to)) return false;
    if (to->kind != kind || (kind == PICKLE_DICT && n % 2))
        return FAIL(r, "pickle: entries for what is no %s",
                    kind == PICKLE_DICT ? "dictionary" : "list");
    for (size_t i = 0; i < n; i++) append(to, r->stack[r->height + i]);
    return true;
}

static bool memoize(Reader *r, uint64_t index) {
    PickleValue *v;
    if (!top(r, &v)) return false;
    if (index >= r->size)
        return FAIL(r, "pickle: a memo of number %llu cannot be right", (unsigned long long)index);
    if (index >= r->memo_room) {
        size_t room = size_max(index + 1, 2 * r->memo_room);
        r->memo = xrealloc(r->memo, room * sizeof *r->memo);
        memset(r->memo + r->memo_room, 0, (room - r->memo_room) * sizeof *r->memo);
        r->memo_room = room;
    }
    r->memo[index] = v;
    r->memo_count++;
    return true;
}

static bool recall(Reader *r, uint64_t index) {
    if (index >= r->memo_room || !r->memo[index])
        return FAIL(r, "pickle: memo %llu is empty", (unsigned long long)index);
    push(r, r->memo[index]);
    return true;
}

/* ---- names: nothing is imported, nothing called ---- */

static bool push_name(Reader *r, const unsigned char *module, size_t m, const unsigned char *name,
                      size_t n) {
    char full[256];
    if (m + n + 2 > sizeof full || !m || !n || memchr(module, 0, m) || memchr(name, 0, n) ||
        !is_utf8(module, m) || !is_utf8(name, n))
        return FAIL(r, "pickle: a name that is none");
    memcpy(full, module, m);
    full[m] = ' ';
    memcpy(full + m + 1, name, n);
    full[m + 1 + n] = 0;
    size_t s = sizeof script_module - 1;
    bool script = m >= s && !memcmp(full, script_module, s) && (full[s] == '.' || full[s] == ' ');
    bool known = script;
    for (size_t i = 0; i < COUNT(names) && !known; i++) known = !strcmp(names[i].name, full);
    if (!known) {
        full[m] = '.';
        return FAIL(r,
                    "refused: it names %.200s, which no file of tensors needs; save the "
                    "state_dict alone",
                    full);
    }
    PickleValue *v = new_value(r, PICKLE_NAME);
    v->text = xstrdup(full);
    push(r, v);
    return true;
}

static Make make_of(const PickleValue *v) {
    for (size_t i = 0; v->kind == PICKLE_NAME && i < COUNT(names); i++)
        if (!strcmp(names[i].name, v->text)) return names[i].make;
    return MAKE_NOTHING;
}

static bool is_script_name(const PickleValue *v) {
    return v->kind == PICKLE_NAME && !strncmp(v->text, script_module, sizeof script_module - 1);
}

static bool is_index(const PickleValue *v) { return v->kind == PICKLE_INT && v->integer >= 0; }

static bool is_shape(const PickleValue *v) {
    if (v->kind != PICKLE_TUPLE && v->kind != PICKLE_LIST) return false;
    for (size_t i = 0; i < v->count; i++)
        if (!is_index(v->items[i])) return false;
    return true;
}

static bool make_tensor(Reader *r, const PickleValue *args) {
    PickleValue *const *a = args->items;
    if (args->count < 4 || a[0]->kind != PICKLE_STORAGE || !is_index(a[1]) || !is_shape(a[2]) ||
        !is_shape(a[3]) || a[2]->count != a[3]->count)
        return FAIL(r, "pickle: a tensor is not described as it must be");
    size_t n = a[2]->count;
    if (!may_copy(r, 2 * n)) return false;
    PickleTensor *t = xmalloc(sizeof *t + 2 * n * sizeof *t->sizes);
    *t = (PickleTensor){.storage = a[0], .offset = (size_t)a[1]->integer, .ndim = n};
    for (size_t d = 0; d < n; d++) {
        t->sizes[d] = (size_t)a[2]->items[d]->integer;
        t->sizes[n + d] = (size_t)a[3]->items[d]->integer;
    }
    PickleValue *v = new_value(r, PICKLE_TENSOR);
    v->tensor = t;
    push(r, v);
    return true;
}

/* OrderedDict([(key, value), …]), as old writers store it. */
static bool make_dict(Reader *r, const PickleValue *args) {
    PickleValue *v = new_value(r, PICKLE_DICT);
    const PickleValue *pairs = args->count ? args->items[0] : NULL;
    if (pairs && !may_copy(r, 2 * pairs->count)) return false;
    for (size_t i = 0; pairs && i < pairs->count; i++) {
        const PickleValue *pair = pairs->items[i];
        bool two = (pair->kind == PICKLE_LIST || pair->kind == PICKLE_TUPLE) && pair->count == 2;
        if (pairs->kind != PICKLE_LIST || !two)
            return FAIL(r, "pickle: an OrderedDict is not made as it must be");
        append(v, pair->items[0]);
        append(v, pair->items[1]);
    }
    push(r, v);
    return true;
}

static bool refuse_call(Reader *r, const PickleValue *callee) {
    return FAIL(r, "refused: it calls %.200s, which no file of tensors needs",
                callee->kind == PICKLE_NAME ? callee->text : "what is no function");
}

static bool reduce(Reader *r) {
    PickleValue *args, *callee;
    if (!pop(r, &args) || !pop(r, &callee)) return false;
    Make make = make_of(callee);
    if (make == MAKE_NOTHING || args->kind != PICKLE_TUPLE) return refuse_call(r, callee);
    if (make == MAKE_TENSOR) return make_tensor(r, args);
    if (make == MAKE_DICT) return make_dict(r, args);
    if (!args->count) return refuse_call(r, callee);
    push(r, args->items[0]);
    return true;
}

/* A TorchScript module: build() sets its attributes. */
static bool new_object(Reader *r) {
    PickleValue *args, *class;
    if (!pop(r, &args) || !pop(r, &class)) return false;
    if (!is_script_name(class) || args->kind != PICKLE_TUPLE) return refuse_call(r, class);
    return push_new(r, PICKLE_OBJECT);
}

static bool build(Reader *r) {
    PickleValue *state, *object;
    if (!pop(r, &state) || !top(r, &object)) return false;
    /* a state dict's _metadata */
    if (object->kind == PICKLE_DICT && state->kind == PICKLE_DICT) return true;
    if (object->kind != PICKLE_OBJECT || state->kind != PICKLE_DICT)
        return FAIL(r, "pickle: attributes for what is no module");
    if (!may_copy(r, state->count)) return false;
    for (size_t i = 0; i < state->count; i++) append(object, state->items[i]);
    return true;
}

/* ('storage', class, key, place, elements): data stored outside the pickle. */
static bool persistent(Reader *r) {
    PickleValue *id;
    if (!pop(r, &id)) return false;
    PickleValue *const *a = id->items;
    if (id->kind != PICKLE_TUPLE || id->count < 5 || a[0]->kind != PICKLE_STRING ||
        strcmp(a[0]->text, "storage") || a[1]->kind != PICKLE_NAME ||
        make_of(a[1]) != MAKE_NOTHING || is_script_name(a[1]) || a[2]->kind != PICKLE_STRING ||
        !is_index(a[4]))
        return FAIL(r, "pickle: a storage is not described as it must be");
    PickleValue *v = new_value(r, PICKLE_STORAGE);
    v->text = xstrdup(a[2]->text);
    v->name = a[1]->text;
    v->integer = a[4]->integer;
    push(r, v);
    return true;
}

/* ---- opcodes ---- */

static bool push_long(Reader *r, size_t n) {
    const unsigned char *p;
    if (!take_bytes(r, n, &p)) return false;
    uint64_t x = n && p[n - 1] & 0x80 ? UINT64_MAX : 0;
    if (n > 8) return FAIL(r, "pickle: a whole number of %zu bytes", n);
    for (size_t i = 0; i < n; i++) x = (x & ~((uint64_t)255 << 8 * i)) | (uint64_t)p[i] << 8 * i;
    return push_int(r, (int64_t)x);
}

static bool push_float(Reader *r) {
    const unsigned char *p;
    if (!take_bytes(r, 8, &p)) return false;
    uint64_t bits = 0;
    for (int i = 0; i < 8; i++) bits = bits << 8 | p[i];
    PickleValue *v = new_value(r, PICKLE_FLOAT);
    memcpy(&v->number, &bits, 8);
    push(r, v);
    return true;
}

static bool push_string(Reader *r, size_t length_bytes) {
    uint64_t n;
    const unsigned char *s;
    return take_size(r, length_bytes, &n) && take_bytes(r, n, &s) && push_text(r, s, n);
}

static bool global(Reader *r) {
    const unsigned char *module, *name;
    size_t m, n;
    return take_line(r, &module, &m) && take_line(r, &name, &n) && push_name(r, module, m, name, n);
}

static bool stack_global(Reader *r) {
    PickleValue *name, *module;
    if (!pop(r, &name) || !pop(r, &module)) return false;
    if (name->kind != PICKLE_STRING || module->kind != PICKLE_STRING)
        return FAIL(r, "pickle: a name that is none");
    return push_name(r, (const unsigned char *)module->text, strlen(module->text),
                     (const unsigned char *)name->text, strlen(name->text));
}

static bool push_bool(Reader *r, bool x) {
    PickleValue *v = new_value(r, PICKLE_BOOL);
    v->integer = x;
    push(r, v);
    return true;
}

static bool sized_int(Reader *r, size_t n) {
    uint64_t x;
    if (!take_size(r, n, &x)) return false;
    return push_int(r, n == 4 ? (int64_t)(int32_t)(uint32_t)x : (int64_t)x);
}

/* The opcodes that carry an index or a length; the rest is in step(). */
static bool step_sized(Reader *r, unsigned char op) {
    uint64_t n;
    switch (op) {
    case 0x80:
        return take_size(r, 1, &n) && (n <= 4 || FAIL(r, "pickle: protocol %d", (int)n));
    case 0x95:
        return take_size(r, 8, &n); /* FRAME */
    case 'q':
        return take_size(r, 1, &n) && memoize(r, n);
    case 'r':
        return take_size(r, 4, &n) && memoize(r, n);
    case 0x94:
        return memoize(r, r->memo_count);
    case 'h':
        return take_size(r, 1, &n) && recall(r, n);
    case 'j':
        return take_size(r, 4, &n) && recall(r, n);
    case 'K':
        return sized_int(r, 1);
    case 'M':
        return sized_int(r, 2);
    case 'J':
        return sized_int(r, 4);
    case 0x8a:
        return take_size(r, 1, &n) && push_long(r, n);
    case 'X':
        return push_string(r, 4);
    case 0x8c:
        return push_string(r, 1);
    case 0x8d:
        return push_string(r, 8);
    default:
        return FAIL(r, "refused: opcode 0x%02x, which no file of tensors needs", op);
    }
}

static bool step(Reader *r, unsigned char op) {
    size_t n;
    PickleValue *v;
    switch (op) {
    case '(':
        mark(r);
        return true;
    case '0':
        return pop(r, &v);
    case '1':
        return pop_mark(r, &n);
    case '2':
        return top(r, &v) && (push(r, v), true);
    case 'N':
        return push_new(r, PICKLE_NONE);
    case 0x88:
        return push_bool(r, true);
    case 0x89:
        return push_bool(r, false);
    case 'G':
        return push_float(r);
    case '}':
        return push_new(r, PICKLE_DICT);
    case ']':
        return push_new(r, PICKLE_LIST);
    case ')':
        return push_new(r, PICKLE_TUPLE);
    case 't':
        if (!pop_mark(r, &n)) return false;
        r->height += n;
        return push_tuple(r, n);
    case 0x85:
        return push_tuple(r, 1);
    case 0x86:
        return push_tuple(r, 2);
    case 0x87:
        return push_tuple(r, 3);
    case 'a':
        return pop(r, &v) && extend(r, PICKLE_LIST, 1);
    case 'e':
        return pop_mark(r, &n) && extend(r, PICKLE_LIST, n);
    case 's':
        return pop(r, &v) && pop(r, &v) && extend(r, PICKLE_DICT, 2);
    case 'u':
        return pop_mark(r, &n) && extend(r, PICKLE_DICT, n);
    case 'c':
        return global(r);
    case 0x93:
        return stack_global(r);
    case 'R':
        return reduce(r);
    case 0x81:
        return new_object(r);
    case 'b':
        return build(r);
    case 'Q':
        return persistent(r);
    default:
        return step_sized(r, op);
    }
}

static bool run(Reader *r, PickleValue **root) {
    if (r->at == r->end || *r->at != 0x80) return FAIL(r, "pickle: not of protocol 2 to 4");
    for (const unsigned char *op; take_bytes(r, 1, &op);) {
        if (*op == '.') {
            return pop(r, root) &&
                   ((!r->height && !r->mark_count) || FAIL(r, "pickle: values left over"));
        }
        if (!step(r, *op)) return false;
    }
    return false;
}

bool pickle_parse(Pickle *p, const unsigned char *bytes, size_t n, Error *err) {
    *p = (Pickle){0};
    if (n > MAX_BYTES) return error_set(err, "pickle: %zu bytes are too many", n);
    Reader r = {.at = bytes, .end = bytes + n, .size = n, .err = err};
    bool ok = run(&r, &p->root);
    FREE_ALL(r.stack, r.marks, r.memo);
    p->all = r.all;
    if (!ok) pickle_free(p);
    return ok;
}

void pickle_free(Pickle *p) {
    for (PickleValue *v = p->all, *next; v; v = next) {
        next = v->next;
        if (v->kind == PICKLE_TENSOR) free(v->tensor);
        FREE_ALL(v->text, v->items, v);
    }
    *p = (Pickle){0};
}

const PickleValue *pickle_get(const PickleValue *dict, const char *key) {
    if (dict->kind != PICKLE_DICT && dict->kind != PICKLE_OBJECT) return NULL;
    for (size_t i = 0; i + 1 < dict->count; i += 2)
        if (dict->items[i]->kind == PICKLE_STRING && !strcmp(dict->items[i]->text, key))
            return dict->items[i + 1];
    return NULL;
}
