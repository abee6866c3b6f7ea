/* ptx_atom: atom and red. Lanes run in the order that CUDAEMU_ORDER selects. */
#include "tests/cuda_on_cpu/ptx_mem.h"
#include <string.h>

typedef enum Action { ADD, MIN, MAX, AND, OR, XOR, EXCH, CAS, INC, DEC, ACTIONS } Action;
static const char *const action_names[ACTIONS] = {"add", "min",  "max", "and", "or",
                                                  "xor", "exch", "cas", "inc", "dec"};

static uint64_t combine_integer(Action action, uint64_t old, uint64_t b, uint64_t c, bool sign,
                                int bytes) {
    int64_t so = bytes == 4 ? (int32_t)old : (int64_t)old,
            sb = bytes == 4 ? (int32_t)b : (int64_t)b;
    switch (action) {
    case ADD:
        return old + b;
    case MIN:
        return (sign ? so < sb : old < b) ? old : b;
    case MAX:
        return (sign ? so > sb : old > b) ? old : b;
    case AND:
        return old & b;
    case OR:
        return old | b;
    case XOR:
        return old ^ b;
    case EXCH:
        return b;
    case CAS:
        return old == b ? c : old;
    case INC:
        return old >= b ? 0 : old + 1;
    case DEC:
        return !old || old > b ? b : old - 1;
    case ACTIONS:
        break;
    }
    return old;
}
/* mode2: 0 integers, 1 f32, 2 f64, 3 two bf16 */
static uint64_t add_float(int type, uint64_t old, uint64_t b) {
    uint64_t out = 0;
    if (type == 1) {
        float x, y;
        memcpy(&x, &old, 4), memcpy(&y, &b, 4);
        x += y;
        memcpy(&out, &x, 4);
    } else if (type == 2) {
        double x, y;
        memcpy(&x, &old, 8), memcpy(&y, &b, 8);
        x += y;
        memcpy(&out, &x, 8);
    } else
        for (int h = 0; h < 32; h += 16)
            out |= (uint64_t)float_bf16(bf16_float((uint16_t)(old >> h)) +
                                        bf16_float((uint16_t)(b >> h)))
                   << h;
    return out;
}
static void atomic(Warp *w, Ins *i) {
    uint32_t turn[LANES];
    int first = i->dsts, bytes = i->size;
    emu_order(turn, LANES);
    for (int n = 0; n < LANES; n++) {
        int l = (int)turn[n];
        if (!(w->mask >> l & 1)) continue;
        unsigned char *at = mem_resolve_one(w, i, l, (Space)i->space, mem_address(w, i, first, l),
                                            (uint32_t)bytes, ATOMIC);
        uint64_t old = 0, b = 0, c = 0;
        memcpy(&old, at, (size_t)bytes);
        memcpy(&b, w->regs + i->o[first + 1] + l * bytes, (size_t)bytes);
        if (i->mode == CAS) memcpy(&c, w->regs + i->o[first + 2] + l * bytes, (size_t)bytes);
        uint64_t out = i->mode2 ? add_float(i->mode2, old, b)
                                : combine_integer((Action)i->mode, old, b, c, i->sign, bytes);
        memcpy(at, &out, (size_t)bytes);
        if (first) memcpy(w->regs + i->o[0] + l * bytes, &old, (size_t)bytes);
    }
}

bool decode_atom(Decoder *d, const Stmt *s, Words *words) {
    Words w = *words;
    bool returns = !strcmp(w.word[0], "atom");
    if (!returns && strcmp(w.word[0], "red")) return false;
    static const char *const hints[] = {"relaxed", "acquire", "release", "acq_rel",
                                        "gpu",     "sys",     "cta",     "noftz"};
    for (size_t h = 0; h < sizeof hints / sizeof *hints; h++) words_take(&w, hints[h]);
    Space space = words_take(&w, "global")        ? GLOBAL
                  : words_take(&w, "shared")      ? SHARED
                  : words_take(&w, "shared::cta") ? SHARED
                                                  : GENERIC;
    if (w.count != 3) return false;
    int action = 0;
    while (action < ACTIONS && strcmp(w.word[1], action_names[action])) action++;
    const char *type = w.word[2];
    int bytes = strstr(type, "64") ? 8 : 4;
    int kind = !strcmp(type, "f32")      ? 1
               : !strcmp(type, "f64")    ? 2
               : !strcmp(type, "bf16x2") ? 3
                                         : 0;
    bool known = kind || !strcmp(type + 1, "32") || !strcmp(type + 1, "64");
    if (action == ACTIONS || !known || (kind && action != ADD)) return false;
    if (s->count != 2 + returns + (action == CAS)) return false;
    Ins *i = decode_ins(d, s, atomic);
    i->mode = (uint8_t)action;
    i->mode2 = (uint8_t)kind;
    i->size = (uint8_t)bytes;
    i->sign = type[0] == 's';
    int a = 0;
    if (returns) decode_dst(d, s, &s->args[a++], bytes);
    decode_address(d, s, &s->args[a++], space);
    decode_src(d, s, &s->args[a++], bytes);
    if (action == CAS) decode_src(d, s, &s->args[a], bytes);
    return true;
}
