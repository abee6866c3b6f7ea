#include "tests/cuda_on_cpu/profile.h"
#include "tests/cuda_on_cpu/ptx.h"
#include "tests/cuda_on_cpu/ptx_regs.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct Decoder {
    Kernel *kernel;
    Ins **code;
    int count, capacity;
    uint32_t *pool, pool_left;
    uint32_t *label_at; /* by statement: index of its K_LABEL */
};

void decode_stop(const Decoder *d, const Stmt *s, const char *why) {
    int length = (int)strcspn(s->text, ";\n");
    emu_stop("kernel %s: %s: %.*s", d->kernel->name, why, length, s->text);
}

/* ---- building instructions ---- */
static Ins *new_ins(Decoder *d, const Stmt *s, Exec run, int at) {
    enum { CHUNK = 8192, MOST = 64 };
    if (d->count == d->capacity) {
        d->capacity = d->capacity * 2 + 256;
        d->code = realloc(d->code, (size_t)d->capacity * sizeof *d->code);
    }
    Ins *i = calloc(1, sizeof *i);
    i->run = run;
    i->stmt = (uint32_t)(s - d->kernel->stmts);
    i->guard = (uint32_t)(s->guard + 1);
    i->guard_xor = s->guard_not ? UINT32_MAX : 0;
    i->mask_operand = 0xFF;
    memmove(d->code + at + 1, d->code + at, (size_t)(d->count - at) * sizeof *d->code);
    d->code[at] = i;
    d->count++;
    if (at == d->count - 1) {
        if (d->pool_left < MOST) {
            d->pool = malloc(CHUNK * sizeof *d->pool);
            d->pool_left = CHUNK;
        }
        i->o = d->pool;
    } else /* operands of the last instruction are still being added */
        i->o = malloc(4 * sizeof *i->o);
    return i;
}
Ins *decode_ins(Decoder *d, const Stmt *s, Exec run) { return new_ins(d, s, run, d->count); }

static void add_operand(Decoder *d, uint32_t ref) {
    Ins *i = d->code[d->count - 1];
    i->o[i->count++] = ref;
    d->pool++;
    d->pool_left--;
}
Operand decode_temp(Decoder *d, int width) {
    Kernel *k = d->kernel;
    k->reg_width = realloc(k->reg_width, (size_t)k->reg_count + 1);
    k->reg_width[k->reg_count] = (uint8_t)width;
    return (Operand){.kind = OPERAND_REG, .reg = k->reg_count++, .also = -1};
}
int decode_width(const Decoder *d, const Operand *o) {
    if (o->kind == OPERAND_LIST) return o->count ? decode_width(d, &o->list[0]) : 0;
    return o->reg >= 0 ? d->kernel->reg_width[o->reg] : 0;
}

void decode_dst(Decoder *d, const Stmt *s, const Operand *o, int width) {
    if (o->kind == OPERAND_NAME && o->name && !strcmp(o->name, "_")) {
        Operand sink = decode_temp(d, width);
        add_operand(d, (uint32_t)sink.reg + 1);
    } else {
        if (o->kind != OPERAND_REG || o->also >= 0) decode_stop(d, s, "destination not supported");
        if (width && d->kernel->reg_width[o->reg] != width) decode_stop(d, s, "width differs");
        add_operand(d, (uint32_t)o->reg + 1);
    }
    d->code[d->count - 1]->dsts++;
}

static uint32_t preset(Decoder *d, int width, Special special, uint64_t value) {
    Kernel *k = d->kernel;
    if (width == 1)
        value = value ? UINT32_MAX : 0;
    else if (width < 8)
        value &= ((uint64_t)1 << width * 8) - 1;
    for (int p = 0; p < k->preset_count; p++) {
        const Preset *q = &k->presets[p];
        if (q->width == width && q->special == special && q->value == value)
            return PRESET_REF | (uint32_t)p;
    }
    k->presets = realloc(k->presets, (size_t)(k->preset_count + 1) * sizeof *k->presets);
    k->presets[k->preset_count] =
        (Preset){.width = (uint8_t)width, .special = (uint8_t)special, .value = value};
    return PRESET_REF | (uint32_t)k->preset_count++;
}

static Special special_register(const char *n) {
    static const char *const names[] = {"",
                                        "%tid.x",
                                        "%tid.y",
                                        "%tid.z",
                                        "%ntid.x",
                                        "%ntid.y",
                                        "%ntid.z",
                                        "%ctaid.x",
                                        "%ctaid.y",
                                        "%ctaid.z",
                                        "%nctaid.x",
                                        "%nctaid.y",
                                        "%nctaid.z",
                                        "%laneid",
                                        "%warpid",
                                        "%nwarpid",
                                        "%smid",
                                        "%nsmid",
                                        "%gridid",
                                        "%lanemask_eq",
                                        "%lanemask_lt",
                                        "%lanemask_le",
                                        "%lanemask_gt",
                                        "%lanemask_ge",
                                        "%dynamic_smem_size",
                                        "%total_smem_size"};
    for (int i = 1; i < (int)(sizeof names / sizeof *names); i++)
        if (!strcmp(n, names[i])) return (Special)i;
    return SPECIAL_NONE;
}

/* ~p, in front of the instruction whose operands are being added */
static void not_pred(Warp *w, Ins *i) {
    PRED(w, i, 0) = (PRED(w, i, 0) & ~w->mask) | (~PRED(w, i, 1) & w->mask);
}
static uint32_t negated(Decoder *d, const Stmt *s, int reg) {
    Operand t = decode_temp(d, 1);
    Ins *i = new_ins(d, s, not_pred, d->count - 1);
    i->guard = 0;
    i->o[0] = (uint32_t)t.reg + 1;
    i->o[1] = (uint32_t)reg + 1;
    i->count = 2, i->dsts = 1;
    return (uint32_t)t.reg + 1;
}

void decode_src(Decoder *d, const Stmt *s, const Operand *o, int width) {
    uint32_t ref = 0;
    if (o->kind == OPERAND_REG) {
        if (o->also >= 0 || o->value) decode_stop(d, s, "operand not supported");
        if (width && d->kernel->reg_width[o->reg] != width) decode_stop(d, s, "width differs");
        ref = o->negated ? negated(d, s, o->reg) : (uint32_t)o->reg + 1;
    } else if (o->kind == OPERAND_IMM) {
        if (o->float_bits && o->float_bits != width * 8)
            decode_stop(d, s, "constant of another type");
        ref = preset(d, width, SPECIAL_NONE, o->value);
    } else if (o->kind == OPERAND_NAME && o->variable) {
        ref = preset(d, width, SPECIAL_NONE, o->variable->address + o->value);
    } else if (o->kind == OPERAND_NAME && special_register(o->name)) {
        if (width != 4) decode_stop(d, s, "special register of another width");
        ref = preset(d, 4, special_register(o->name), 0);
    } else
        decode_stop(d, s, "operand not known");
    add_operand(d, ref);
}

void decode_address(Decoder *d, const Stmt *s, const Operand *o, Space space) {
    Ins *i = d->code[d->count - 1];
    if (o->kind != OPERAND_MEM) decode_stop(d, s, "address expected");
    i->space = (uint8_t)space;
    Operand base = *o;
    if (o->reg >= 0) {
        base.kind = OPERAND_REG;
        base.value = 0;
        i->offset = (int64_t)o->value;
        i->wide = (uint8_t)decode_width(d, &base);
        if (i->wide < 4) decode_stop(d, s, "address in a narrow register");
    } else {
        base.kind = o->variable ? OPERAND_NAME : OPERAND_IMM;
        if (!o->variable && o->name) decode_stop(d, s, "name not known");
        i->wide = space == SHARED ? 4 : 8;
    }
    decode_src(d, s, &base, i->wide);
}

/* ---- words of an opcode ---- */
static void words_split(Words *w, const char *op) {
    snprintf(w->text, sizeof w->text, "%s", op);
    w->count = 0;
    for (char *t = w->text; t && w->count < 24;) {
        w->word[w->count++] = t;
        t = strchr(t, '.');
        if (t) *t++ = 0;
    }
}
bool words_take(Words *w, const char *word) {
    for (int i = 0; i < w->count; i++) {
        if (strcmp(w->word[i], word)) continue;
        memmove(w->word + i, w->word + i + 1, (size_t)(w->count - i - 1) * sizeof *w->word);
        w->count--;
        return true;
    }
    return false;
}
static void words_join(const Words *w, char *out, size_t size) {
    out[0] = 0;
    for (int i = 0; i < w->count; i++)
        snprintf(out + strlen(out), size - strlen(out), "%s%s", i ? "." : "", w->word[i]);
}

/* ---- the instruction tables ---- */
enum { HASH = 4096 };
static struct {
    char *name;
    const Op *op;
} table[HASH];
static uint32_t hash(const char *s) {
    uint32_t h = 2166136261u;
    for (; *s; s++) h = (h ^ (unsigned char)*s) * 16777619u;
    return h % HASH;
}
static void table_add(const Op *ops) {
    for (; ops->names; ops++) {
        char *names = strdup(ops->names), *rest = names;
        for (char *n; (n = strsep(&rest, " "));) {
            uint32_t h = hash(n);
            while (table[h].name) h = (h + 1) % HASH;
            table[h].name = n;
            table[h].op = ops;
        }
    }
}
static const Op *table_find(const char *n) {
    static bool ready;
    if (!ready) {
        table_add(ptx_int_ops);
        table_add(ptx_float_ops);
        table_add(ptx_cvt_ops);
        ready = true;
    }
    for (uint32_t h = hash(n); table[h].name; h = (h + 1) % HASH)
        if (!strcmp(table[h].name, n)) return table[h].op;
    return NULL;
}

/* An instruction of the table with these operands. */
static void emit(Decoder *d, const Stmt *s, const Op *op, const Operand *args, int count) {
    if (count != op->count) decode_stop(d, s, "number of operands differs");
    decode_ins(d, s, op->run);
    decode_dst(d, s, &args[0], op->width[0]);
    for (int a = 1; a < count; a++) decode_src(d, s, &args[a], op->width[a]);
}
static void emit_named(Decoder *d, const Stmt *s, const char *n, Operand dst, Operand a,
                       Operand b) {
    Operand args[3] = {dst, a, b};
    const Op *op = table_find(n);
    emit(d, s, op, args, op->count);
}

/* .ftz and .sat of an instruction that is in the table without them: its float operands are flushed
 * before it, its result is flushed or clamped after it. */
static bool decode_modified(Decoder *d, const Stmt *s, Words w) {
    bool ftz = words_take(&w, "ftz"), sat = words_take(&w, "sat");
    char n[160];
    words_join(&w, n, sizeof n);
    const Op *op = ftz || sat ? table_find(n) : NULL;
    if (!op || s->count != op->count || strcmp(w.word[w.count - 1], "f32")) return false;
    Operand args[6];
    memcpy(args, s->args, (size_t)s->count * sizeof *args);
    for (int a = 1; ftz && a < s->count; a++) {
        if (op->width[a] != 4 || args[a].kind != OPERAND_REG) continue;
        Operand t = decode_temp(d, 4);
        emit_named(d, s, "ftz", t, args[a], t);
        args[a] = t;
    }
    emit(d, s, op, args, s->count);
    if (op->width[0] != 4) return true;
    if (ftz) emit_named(d, s, "ftz", args[0], args[0], args[0]);
    if (sat) emit_named(d, s, "sat", args[0], args[0], args[0]);
    return true;
}

/* setp with p|q and with .and, .or, .xor of a third predicate */
static bool decode_setp(Decoder *d, const Stmt *s, Words w) {
    if (strcmp(w.word[0], "setp") || s->count < 3) return false;
    const char *combine = words_take(&w, "and")   ? "and.pred"
                          : words_take(&w, "or")  ? "or.pred"
                          : words_take(&w, "xor") ? "xor.pred"
                                                  : NULL;
    if (!combine && s->args[0].also < 0) return false;
    char n[160];
    words_join(&w, n, sizeof n);
    const Op *op = table_find(n);
    if (!op || s->count != 3 + (combine != NULL)) return false;
    Operand t = decode_temp(d, 1), args[3] = {t, s->args[1], s->args[2]}, p = s->args[0], q = p;
    p.also = -1;
    emit(d, s, op, args, 3);
    if (combine)
        emit_named(d, s, combine, p, t, s->args[3]);
    else
        emit_named(d, s, "mov.pred", p, t, t);
    if (q.also >= 0) {
        q.reg = q.also, q.also = -1;
        emit_named(d, s, "not.pred", t, t, t);
        if (combine)
            emit_named(d, s, combine, q, t, s->args[3]);
        else
            emit_named(d, s, "mov.pred", q, t, t);
    }
    return true;
}

/* set: the comparison as a number, 1.0 or all ones; "set.lt.f32.f32" */
static bool decode_set(Decoder *d, const Stmt *s, const Words *w) {
    if (strcmp(w->word[0], "set") || s->count != 3 || w->count < 4) return false;
    const char *to = w->word[w->count - 2];
    bool real = !strcmp(to, "f32");
    if (!real && strcmp(to, "u32") && strcmp(to, "s32")) return false;
    Words compare = *w;
    char n[160];
    compare.word[0] = "setp";
    compare.word[w->count - 2] = compare.word[w->count - 1];
    compare.count--;
    words_join(&compare, n, sizeof n);
    const Op *op = table_find(n);
    if (!op) return false;
    Operand p = decode_temp(d, 1), compared[3] = {p, s->args[1], s->args[2]};
    emit(d, s, op, compared, 3);
    Operand yes = {.kind = OPERAND_IMM, .reg = -1, .also = -1}, no = yes;
    yes.value = real ? 0x3F800000u : UINT32_MAX;
    Operand chosen[4] = {s->args[0], yes, no, p};
    emit(d, s, table_find("selp.b32"), chosen, 4);
    return true;
}

/* ---- moves of vectors, clocks ---- */
static void pack(Warp *w, Ins *i) { /* o: one wide, then count - 1 narrow */
    uint32_t n = i->count - 1u, size = i->size;
    EACH(w, {
        uint64_t v = 0;
        for (uint32_t k = 0; k < n; k++) {
            uint64_t part = size == 2   ? REG(uint16_t, w, i, k + 1)[l]
                            : size == 4 ? REG(uint32_t, w, i, k + 1)[l]
                                        : 0;
            v |= part << (k * size * 8);
        }
        if (n * size == 8)
            REG(uint64_t, w, i, 0)[l] = v;
        else
            REG(uint32_t, w, i, 0)[l] = (uint32_t)v;
    });
}
static void unpack(Warp *w, Ins *i) { /* o: count - 1 narrow, then one wide */
    uint32_t n = i->count - 1u, size = i->size;
    EACH(w, {
        uint64_t v = n * size == 8 ? REG(uint64_t, w, i, n)[l] : REG(uint32_t, w, i, n)[l];
        for (uint32_t k = 0; k < n; k++) {
            if (size == 2)
                REG(uint16_t, w, i, k)[l] = (uint16_t)(v >> k * 16);
            else
                REG(uint32_t, w, i, k)[l] = (uint32_t)(v >> k * 32);
        }
    });
}
static void clock32(Warp *w, Ins *i) {
    uint32_t *r = REG(uint32_t, w, i, 0);
    EACH(w, r[l] = (uint32_t)w->block->steps);
}
static void clock64(Warp *w, Ins *i) {
    uint64_t *r = REG(uint64_t, w, i, 0);
    EACH(w, r[l] = w->block->steps);
}
static bool decode_mov(Decoder *d, const Stmt *s, const Words *w) {
    if (strcmp(w->word[0], "mov") || s->count != 2) return false;
    const Operand *to = &s->args[0], *from = &s->args[1];
    if (from->kind == OPERAND_LIST || to->kind == OPERAND_LIST) {
        bool packs = from->kind == OPERAND_LIST;
        const Operand *many = packs ? from : to, *one = packs ? to : from;
        int width = w->word[1] && !strcmp(w->word[1], "b64") ? 8 : 4;
        int part = many->count ? width / many->count : 0;
        if (w->count != 2 || part < 2 || part * many->count != width) return false;
        Ins *i = decode_ins(d, s, packs ? pack : unpack);
        i->size = (uint8_t)part;
        if (packs) decode_dst(d, s, one, width);
        for (int k = 0; k < many->count; k++)
            (packs ? decode_src : decode_dst)(d, s, &many->list[k], part);
        if (!packs) decode_src(d, s, one, width);
        return true;
    }
    const char *n = from->kind == OPERAND_NAME && from->name ? from->name : "";
    bool wide = !strcmp(n, "%clock64") || !strcmp(n, "%globaltimer");
    if (!wide && strcmp(n, "%clock")) return false;
    decode_ins(d, s, wide ? clock64 : clock32);
    decode_dst(d, s, to, wide ? 8 : 4);
    return true;
}

/* ---- control ---- */
static uint32_t target_of(const Decoder *d, const Stmt *s, const char *label) {
    const Kernel *k = d->kernel;
    for (int t = 0; label && t < k->stmt_count; t++)
        if (k->stmts[t].label && !strcmp(k->stmts[t].label, label)) return (uint32_t)t;
    decode_stop(d, s, "label not found");
}
/* Targets are statements here and become instructions when all are decoded. */
static bool decode_control(Decoder *d, const Stmt *s, Words *w) {
    const char *op = w->word[0];
    if (!strcmp(op, "bra")) {
        decode_ins(d, s, NULL)->kind = K_BRANCH;
        d->code[d->count - 1]->target = target_of(d, s, s->args[0].name);
    } else if (!strcmp(op, "brx")) {
        const Stmt *t = &d->kernel->stmts[target_of(d, s, s->args[1].name)];
        if (!t->op || strcmp(t->op, ".branchtargets")) decode_stop(d, s, "no branch targets");
        Ins *i = decode_ins(d, s, NULL);
        i->kind = K_SWITCH;
        i->more = malloc((size_t)(t->count + 1) * sizeof *i->more);
        i->more[0] = (uint32_t)t->count;
        for (int k = 0; k < t->count; k++) i->more[k + 1] = target_of(d, s, t->args[k].name);
        decode_src(d, s, &s->args[0], 4);
    } else if (!strcmp(op, "ret") || !strcmp(op, "exit")) {
        decode_ins(d, s, NULL)->kind = K_EXIT;
    } else if (strcmp(op, ".branchtargets") && strcmp(op, ""))
        return false;
    return true;
}

/* ---- kernels ---- */
static void find_shared(Kernel *k, const Operand *o, Variable **found, int *count,
                        Variable **dynamic) {
    for (int e = 0; e < o->count; e++) find_shared(k, &o->list[e], found, count, dynamic);
    Variable *v = o->variable;
    if (!v || v->space != SHARED) return;
    if (v->external) {
        if (!*dynamic) v->address = 0;
        *dynamic = v;
        return;
    }
    for (int i = 0; i < *count; i++)
        if (found[i] == v) return;
    if (*count == 256) emu_stop("kernel %s: too many shared variables", k->name);
    found[(*count)++] = v;
}
/* Places shared variables with gaps between them, so that too large an index is detected. */
static void lay_out_shared(Kernel *k) {
    Variable *found[256], *dynamic = NULL;
    int n = 0;
    for (int i = 0; i < k->stmt_count; i++)
        for (int a = 0; a < k->stmts[i].count; a++)
            find_shared(k, &k->stmts[i].args[a], found, &n, &dynamic);
    k->shared = calloc((size_t)n + 1, sizeof *k->shared);
    uint64_t at = SHARED_START;
    for (int i = 0; i < n; i++) {
        uint64_t align = found[i]->align > 16 ? found[i]->align : 16;
        at = (at + align - 1) / align * align;
        found[i]->address = at;
        k->shared[k->shared_count++] = (Buffer){at, found[i]->size, 0, true, false, NULL};
        k->shared_bytes += found[i]->size;
        at += found[i]->size + SHARED_GAP;
    }
    at = (at + 127) / 128 * 128;
    k->shared[k->shared_count++] = (Buffer){at, 0, 0, true, false, NULL};
    if (!dynamic) return;
    for (int i = 0; i < k->stmt_count; i++) /* it may have several names */
        for (int a = 0; a < k->stmts[i].count; a++) {
            Variable *v = k->stmts[i].args[a].variable;
            if (v && v->space == SHARED && v->external) v->address = at;
        }
}

static void decode_stmt(Decoder *d, const Stmt *s) {
    Words w;
    words_split(&w, s->op);
    if (decode_control(d, s, &w)) return;
    const Op *op = table_find(s->op);
    bool plain = op && op->count == s->count && s->args[0].also < 0;
    for (int a = 0; plain && a < s->count; a++) plain = s->args[a].kind != OPERAND_LIST;
    if (plain &&
        !(s->args[s->count - 1].kind == OPERAND_NAME && s->args[s->count - 1].name &&
          s->args[s->count - 1].name[0] == '%' && !special_register(s->args[s->count - 1].name))) {
        emit(d, s, op, s->args, s->count);
        return;
    }
    if (decode_mov(d, s, &w) || decode_setp(d, s, w) || decode_set(d, s, &w) ||
        decode_modified(d, s, w) || decode_cvt(d, s, &w) || decode_mem(d, s, &w) ||
        decode_copy(d, s, &w) || decode_atom(d, s, &w) || decode_warp(d, s, &w))
        return;
    decode_stop(d, s, "instruction not known to the interpreter");
}

void ptx_decode(Kernel *k) {
    if (k->code) return;
    Decoder decoder = {.kernel = k}, *d = &decoder;
    lay_out_shared(k);
    d->label_at = calloc((size_t)k->stmt_count + 1, sizeof *d->label_at);
    for (int i = 0; i < k->stmt_count; i++) {
        const Stmt *s = &k->stmts[i];
        if (s->label) {
            d->label_at[i] = (uint32_t)d->count;
            Ins *label = decode_ins(d, s, NULL);
            label->kind = K_LABEL;
            label->guard = 0;
        }
        if (s->op) decode_stmt(d, s);
    }
    if (!d->count || d->code[d->count - 1]->kind != K_EXIT || d->code[d->count - 1]->guard) {
        if (!k->stmt_count) emu_stop("kernel %s has no instruction", k->name);
        Ins *end = decode_ins(d, &k->stmts[k->stmt_count - 1], NULL);
        end->kind = K_EXIT;
        end->guard = 0;
    }
    Ins *code = calloc((size_t)d->count, sizeof *code);
    for (int i = 0; i < d->count; i++) {
        code[i] = *d->code[i];
        free(d->code[i]);
        if (code[i].kind == K_BRANCH) code[i].target = d->label_at[code[i].target];
        for (uint32_t t = 1; code[i].kind == K_SWITCH && t <= code[i].more[0]; t++)
            code[i].more[t] = d->label_at[code[i].more[t]];
    }
    k->code_count = (uint32_t)d->count;
    k->code = code;
    free(d->code);
    free(d->label_at);
    regs_assign(k);
    profile_decode(k);
}
