#include "tests/cuda_on_cpu/ptx.h"
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct RegRange {
    char prefix[64];
    int first, count, depth; /* count < 0: one register of exactly that name */
} RegRange;

typedef struct Parser {
    const char *text, *at;
    Module *module;
    Kernel *kernel;
    RegRange ranges[256];
    int range_count, depth;
    Variable **locals; /* of the function: shared, local, param */
    int *local_depth;
    int local_count, loc;
    int stmt_capacity, reg_capacity;
} Parser;

static void fail(const Parser *p, const char *at, const char *why) {
    int length = (int)strcspn(at, "\n");
    emu_stop("PTX of %s: %s: %.*s", p->kernel ? p->kernel->name : "module", why,
             length > 160 ? 160 : length, at);
}

static void skip(Parser *p) {
    for (;;) {
        while (isspace((unsigned char)*p->at)) p->at++;
        if (p->at[0] == '/' && p->at[1] == '/') {
            p->at += strcspn(p->at, "\n");
        } else if (p->at[0] == '/' && p->at[1] == '*') {
            const char *end = strstr(p->at, "*/");
            if (!end) fail(p, p->at, "open comment");
            p->at = end + 2;
        } else
            return;
    }
}
static bool accept(Parser *p, char c) {
    skip(p);
    if (*p->at != c) return false;
    p->at++;
    return true;
}
static void expect_char(Parser *p, char c) {
    if (!accept(p, c)) {
        char why[] = "expected ' '";
        why[10] = c;
        fail(p, p->at, why);
    }
}
static bool in_name(char c) { return isalnum((unsigned char)c) || (c && strchr("_$%.:", c)); }
/* A name with its dots; a "::" belongs to it, a single ':' ends it. */
static char *name(Parser *p) {
    skip(p);
    const char *s = p->at;
    while (in_name(*p->at)) {
        if (*p->at == ':') {
            if (p->at[1] != ':') break;
            p->at++;
        }
        p->at++;
    }
    if (p->at == s) fail(p, s, "expected a name");
    return strndup(s, (size_t)(p->at - s));
}
static uint64_t number(Parser *p, int *float_bits) {
    skip(p);
    bool minus = accept(p, '-');
    skip(p);
    const char *s = p->at;
    char *end;
    uint64_t v;
    *float_bits = 0;
    if (s[0] == '0' && (s[1] == 'f' || s[1] == 'F' || s[1] == 'd' || s[1] == 'D')) {
        *float_bits = tolower((unsigned char)s[1]) == 'f' ? 32 : 64;
        v = strtoull(s + 2, &end, 16);
    } else
        v = strtoull(s, &end, 0);
    if (end == s) fail(p, s, "expected a number");
    if (*end == 'U' || *end == 'u') end++;
    p->at = end;
    return minus ? -v : v;
}

/* ---- names ---- */
static int find_reg(const Parser *p, const char *n) {
    size_t length = strlen(n), digits = length;
    while (digits && isdigit((unsigned char)n[digits - 1])) digits--;
    for (int r = p->range_count; r-- > 0;) {
        const RegRange *g = &p->ranges[r];
        if (g->count < 0) {
            if (!strcmp(g->prefix, n)) return g->first;
        } else if (digits < length && strlen(g->prefix) == digits &&
                   !memcmp(g->prefix, n, digits)) {
            int k = atoi(n + digits);
            if (k < g->count) return g->first + k;
        }
    }
    return -1;
}
static Variable *find_variable(const Parser *p, const char *n) {
    for (int i = p->local_count; i-- > 0;)
        if (!strcmp(p->locals[i]->name, n)) return p->locals[i];
    for (int i = 0; i < p->module->variable_count; i++)
        if (!strcmp(p->module->variables[i]->name, n)) return p->module->variables[i];
    return NULL;
}

/* ---- declarations ---- */
static size_t type_size(const Parser *p, const char *t) {
    static const struct {
        const char *name;
        size_t size;
    } types[] = {{".pred", 1}, {".b8", 1},  {".u8", 1},    {".s8", 1},    {".b16", 2},
                 {".u16", 2},  {".s16", 2}, {".f16", 2},   {".bf16", 2},  {".b32", 4},
                 {".u32", 4},  {".s32", 4}, {".f32", 4},   {".b64", 8},   {".u64", 8},
                 {".s64", 8},  {".f64", 8}, {".f16x2", 4}, {".bf16x2", 4}};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (!strcmp(types[i].name, t)) return types[i].size;
    fail(p, t, "unknown type");
    return 0;
}

static void declare_regs(Parser *p) {
    char *type = name(p);
    size_t width = type_size(p, type);
    Kernel *k = p->kernel;
    do {
        char *n = name(p);
        int count = -1, bits;
        if (accept(p, '<')) {
            count = (int)number(p, &bits);
            expect_char(p, '>');
        }
        if (p->range_count == 256 || strlen(n) > 63) fail(p, n, "too many registers");
        RegRange *r = &p->ranges[p->range_count++];
        *r = (RegRange){.first = k->reg_count, .count = count, .depth = p->depth};
        strcpy(r->prefix, n);
        int add = count < 0 ? 1 : count;
        while (k->reg_count + add > p->reg_capacity) {
            p->reg_capacity = p->reg_capacity * 2 + 256;
            k->reg_width = realloc(k->reg_width, (size_t)p->reg_capacity);
        }
        memset(k->reg_width + k->reg_count, (int)width, (size_t)add);
        k->reg_count += add;
        free(n);
    } while (accept(p, ','));
    expect_char(p, ';');
    free(type);
}

/* "= { … }" or "= n" */
static void initialiser(Parser *p, Variable *v, size_t element) {
    v->init = calloc(1, v->size);
    size_t n = 0;
    int depth = 0, bits;
    do {
        while (accept(p, '{')) depth++;
        skip(p);
        if (*p->at != '}') {
            if (!isdigit((unsigned char)*p->at) && *p->at != '-')
                fail(p, p->at, "initialisers other than numbers are not supported");
            uint64_t value = number(p, &bits);
            if ((n + 1) * element > v->size) fail(p, p->at, "initialiser too long");
            memcpy(v->init + n++ * element, &value, element);
        }
        while (depth && accept(p, '}')) depth--;
    } while (accept(p, ','));
}

/* After ".shared" and its like: attributes, type, name, dimensions, initialiser. */
static Variable *declare(Parser *p, Space space, bool external) {
    Variable *v = calloc(1, sizeof *v);
    v->space = space;
    v->external = external;
    size_t vec = 1, element = 0;
    char *word = NULL;
    for (;;) {
        skip(p);
        if (*p->at != '.') break;
        word = name(p);
        int bits;
        if (!strcmp(word, ".align"))
            v->align = number(p, &bits);
        else if (!strcmp(word, ".v2") || !strcmp(word, ".v4"))
            vec = (size_t)(word[2] - '0');
        else if (!strcmp(word, ".ptr") || !strcmp(word, ".global") || !strcmp(word, ".shared") ||
                 !strcmp(word, ".const") || !strcmp(word, ".local"))
            ; /* the type that a pointer parameter points to */
        else
            element = type_size(p, word) * vec;
    }
    if (!element) fail(p, p->at, "declaration without a type");
    v->name = name(p);
    v->size = element;
    bool empty = false;
    while (accept(p, '[')) {
        int bits;
        if (accept(p, ']')) {
            empty = true;
            break;
        }
        v->size *= number(p, &bits);
        expect_char(p, ']');
    }
    if (empty) v->size = 0;
    if (!v->align) v->align = element;
    if (accept(p, '=')) initialiser(p, v, element / vec);
    return v;
}

static void keep_local(Parser *p, Variable *v) {
    p->locals = realloc(p->locals, (size_t)(p->local_count + 1) * sizeof *p->locals);
    p->local_depth = realloc(p->local_depth, (size_t)(p->local_count + 1) * sizeof(int));
    p->local_depth[p->local_count] = p->depth;
    p->locals[p->local_count++] = v;
}

static void loc_directive(Parser *p) {
    Loc l = {0};
    int n = (int)strcspn(p->at, "\n");
    char line[512];
    snprintf(line, sizeof line, "%.*s", n, p->at);
    p->at += n;
    sscanf(line, "%d %d", &l.file, &l.line);
    const char *in = strstr(line, "inlined_at");
    if (in) sscanf(in + 10, "%d %d", &l.outer_file, &l.outer_line);
    Module *m = p->module;
    m->locs = realloc(m->locs, (size_t)(m->loc_count + 1) * sizeof *m->locs);
    p->loc = m->loc_count;
    m->locs[m->loc_count++] = l;
}
static void file_directive(Parser *p) {
    int bits, n = (int)number(p, &bits);
    skip(p);
    const char *s = strchr(p->at, '"'), *e = s ? strchr(s + 1, '"') : NULL;
    if (!e || n < 0 || n > 100000) fail(p, p->at, "bad .file");
    Module *m = p->module;
    if (n >= m->file_count) {
        m->files = realloc(m->files, (size_t)(n + 1) * sizeof *m->files);
        while (m->file_count <= n) m->files[m->file_count++] = NULL;
    }
    m->files[n] = strndup(s + 1, (size_t)(e - s - 1));
    p->at += strcspn(p->at, "\n");
}

/* ---- statements ---- */
static Operand operand(Parser *p);
static Operand list(Parser *p, char close) {
    Operand o = {.kind = OPERAND_LIST, .reg = -1, .also = -1};
    if (accept(p, close)) return o;
    do {
        Operand e = operand(p);
        o.list = realloc(o.list, (size_t)(o.count + 1) * sizeof *o.list);
        o.list[o.count++] = e;
    } while (accept(p, ','));
    expect_char(p, close);
    return o;
}
/* a name and its meaning; "+offset" may follow */
static void named(Parser *p, Operand *o) {
    char *n = name(p);
    o->reg = find_reg(p, n);
    if (o->reg < 0) {
        o->variable = find_variable(p, n);
        o->name = n;
    } else
        free(n);
}
static Operand operand(Parser *p) {
    Operand o = {.kind = OPERAND_NAME, .reg = -1, .also = -1};
    int bits;
    if (accept(p, '{')) return list(p, '}');
    if (accept(p, '(')) return list(p, ')');
    o.negated = accept(p, '!');
    bool memory = accept(p, '[');
    skip(p);
    if (isdigit((unsigned char)*p->at) || *p->at == '-') {
        o.value = number(p, &o.float_bits);
        o.kind = OPERAND_IMM;
    } else {
        named(p, &o);
        if (accept(p, '+')) o.value = number(p, &bits);
        o.kind = o.reg >= 0 ? OPERAND_REG : OPERAND_NAME;
        if (accept(p, '|')) {
            Operand second = {.reg = -1};
            named(p, &second);
            o.also = second.reg;
        }
    }
    if (memory) {
        expect_char(p, ']');
        o.kind = OPERAND_MEM;
    }
    return o;
}

static Stmt *new_stmt(Parser *p) {
    Kernel *k = p->kernel;
    if (k->stmt_count == p->stmt_capacity) {
        p->stmt_capacity = p->stmt_capacity * 2 + 256;
        k->stmts = realloc(k->stmts, (size_t)p->stmt_capacity * sizeof *k->stmts);
    }
    Stmt *s = &k->stmts[k->stmt_count++];
    *s = (Stmt){.text = p->at, .guard = -1, .loc = p->loc};
    return s;
}
static void instruction(Parser *p) {
    skip(p);
    Stmt *s = new_stmt(p);
    if (accept(p, '@')) {
        s->guard_not = accept(p, '!');
        char *n = name(p);
        s->guard = find_reg(p, n);
        if (s->guard < 0) fail(p, n, "unknown predicate");
        free(n);
    }
    char *word = name(p);
    if (accept(p, ':')) {
        s->label = word;
        skip(p);
        if (strncmp(p->at, ".branchtargets", 14)) return;
        word = name(p);
    }
    s->op = word;
    skip(p);
    if (accept(p, ';')) return;
    do {
        Operand o = operand(p);
        s->args = realloc(s->args, (size_t)(s->count + 1) * sizeof *s->args);
        s->args[s->count++] = o;
    } while (accept(p, ','));
    expect_char(p, ';');
}

static void leave_scope(Parser *p) {
    while (p->range_count && p->ranges[p->range_count - 1].depth >= p->depth) p->range_count--;
    while (p->local_count && p->local_depth[p->local_count - 1] >= p->depth) p->local_count--;
    p->depth--;
}
static void body_directive(Parser *p) {
    const char *at = p->at;
    char *word = name(p);
    if (!strcmp(word, ".reg")) {
        declare_regs(p);
    } else if (!strcmp(word, ".loc")) {
        loc_directive(p);
    } else if (!strcmp(word, ".pragma")) {
        p->at += strcspn(p->at, ";") + 1;
    } else if (!strcmp(word, ".shared") || !strcmp(word, ".local") || !strcmp(word, ".param")) {
        Space space = word[1] == 's' ? SHARED : word[1] == 'l' ? LOCAL : PARAM;
        Variable *v = declare(p, space, false);
        if (space == LOCAL) {
            size_t *n = &p->kernel->local_bytes;
            v->address = (*n + v->align - 1) / v->align * v->align;
            *n = v->address + v->size;
        } else if (space == PARAM) /* only calls need them, and those are refused */
            v->address = (uint64_t)-1;
        keep_local(p, v);
        expect_char(p, ';');
    } else
        fail(p, at, "unknown directive");
    free(word);
}
static void body(Parser *p) {
    p->depth = 1;
    while (p->depth) {
        skip(p);
        if (!*p->at) fail(p, "end", "body without end");
        if (accept(p, '{'))
            p->depth++;
        else if (accept(p, '}'))
            leave_scope(p);
        else if (*p->at == '.')
            body_directive(p);
        else
            instruction(p);
    }
}

/* .entry and .func, from the name on */
static void function(Parser *p, bool is_function) {
    Kernel *k = p->kernel = calloc(1, sizeof *k);
    k->module = p->module;
    k->is_function = is_function;
    k->name = "function";
    p->range_count = p->local_count = p->stmt_capacity = p->reg_capacity = p->depth = 0;
    p->loc = -1;
    if (is_function && accept(p, '(')) p->at += strcspn(p->at, ")") + 1;
    k->name = name(p);
    if (accept(p, '(') && !accept(p, ')')) {
        do {
            skip(p);
            char *word = name(p);
            if (strcmp(word, ".param")) fail(p, word, "parameters other than .param");
            Variable *v = declare(p, PARAM, false);
            v->address = (k->param_bytes + v->align - 1) / v->align * v->align;
            k->param_bytes = v->address + v->size;
            keep_local(p, v);
            k->params = realloc(k->params, (size_t)(k->param_count + 1) * sizeof *k->params);
            k->params[k->param_count++] = *v;
        } while (accept(p, ','));
        expect_char(p, ')');
    }
    for (skip(p); *p->at == '.'; skip(p)) {
        char *word = name(p);
        int bits;
        if (!strcmp(word, ".noreturn")) continue;
        uint64_t n = number(p, &bits);
        while (accept(p, ',')) n *= number(p, &bits);
        if (!strcmp(word, ".maxntid") || !strcmp(word, ".reqntid"))
            k->max_threads = (unsigned)n;
        else if (strcmp(word, ".minnctapersm") && strcmp(word, ".maxnreg"))
            fail(p, word, "unknown performance directive");
    }
    Module *m = p->module;
    if (accept(p, '{')) {
        body(p);
        m->kernels = realloc(m->kernels, (size_t)(m->kernel_count + 1) * sizeof *m->kernels);
        m->kernels[m->kernel_count++] = k;
    } else
        expect_char(p, ';');
    p->kernel = NULL;
    p->local_count = 0;
}

static void module_variable(Parser *p, Space space, bool external) {
    Variable *v = declare(p, space, external);
    expect_char(p, ';');
    Module *m = p->module;
    m->variables = realloc(m->variables, (size_t)(m->variable_count + 1) * sizeof *m->variables);
    m->variables[m->variable_count++] = v;
    if (space == SHARED) return;
    if (external) fail(p, v->name, "variables of other objects are not supported");
    Buffer *b = mem_alloc(v->size);
    if (!b) emu_stop("no device memory for variable %s", v->name);
    b->permanent = true;
    v->address = b->start;
    /* device variables without an initialiser are zero */
    unsigned char *bytes = mem_bytes(b->start);
    memset(bytes, 0, v->size);
    if (v->init) memcpy(bytes, v->init, v->size);
}

Module *ptx_parse(const char *text) {
    Parser parser = {.text = text, .at = text, .module = calloc(1, sizeof(Module)), .loc = -1};
    Parser *p = &parser;
    bool external = false;
    int bits;
    for (skip(p); *p->at; skip(p)) {
        const char *at = p->at;
        char *word = name(p);
        bool qualifier = false;
        if (!strcmp(word, ".version") || !strcmp(word, ".address_size")) {
            number(p, &bits);
            if (word[1] == 'v' && accept(p, '.')) number(p, &bits);
        } else if (!strcmp(word, ".target")) {
            char *target = name(p);
            p->module->target = atoi(target + strcspn(target, "0123456789"));
            while (accept(p, ',')) name(p);
        } else if (!strcmp(word, ".visible") || !strcmp(word, ".weak") ||
                   !strcmp(word, ".extern") || !strcmp(word, ".common")) {
            external = external || !strcmp(word, ".extern");
            qualifier = true;
        } else if (!strcmp(word, ".shared"))
            module_variable(p, SHARED, external);
        else if (!strcmp(word, ".global"))
            module_variable(p, GLOBAL, external);
        else if (!strcmp(word, ".const"))
            module_variable(p, CONSTANT, external);
        else if (!strcmp(word, ".entry") || !strcmp(word, ".func"))
            function(p, word[1] == 'f');
        else if (!strcmp(word, ".file"))
            file_directive(p);
        else if (!strcmp(word, ".loc"))
            loc_directive(p);
        else if (!strcmp(word, ".section"))
            p->at += strcspn(p->at, "}") + 1;
        else if (!strcmp(word, ".pragma"))
            p->at += strcspn(p->at, ";") + 1;
        else
            fail(p, at, "unknown directive");
        if (!qualifier) external = false;
        free(word);
    }
    return p->module;
}

Kernel *ptx_kernel(Module *m, const char *n) {
    for (int i = 0; i < m->kernel_count; i++)
        if (!m->kernels[i]->is_function && !strcmp(m->kernels[i]->name, n)) return m->kernels[i];
    return NULL;
}
