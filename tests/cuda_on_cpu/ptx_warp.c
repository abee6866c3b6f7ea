/* ptx_warp: operations across the lanes of a warp (shuffles, votes, ldmatrix, mma), barriers,
 * fences. Fragment layouts: PTX ISA, "Matrix fragments for mma.m16n8k16" and "ldmatrix". */
#include "tests/cuda_on_cpu/ptx_mem.h"
#include <stdlib.h>
#include <string.h>

/* ---- shuffles ---- */
static void shuffle(Warp *w, Ins *i) { /* d, [p], a, b, c, members */
    uint32_t from[LANES], inside = 0, k = i->dsts;
    memcpy(from, REG(uint32_t, w, i, k), sizeof from);
    const uint32_t *rb = REG(uint32_t, w, i, k + 1), *rc = REG(uint32_t, w, i, k + 2);
    uint32_t *d = REG(uint32_t, w, i, 0), members = w->mask;
    EACH(w, {
        uint32_t lane = (uint32_t)l, b = rb[l] & 31, segment = rc[l] >> 8 & 31;
        uint32_t most = (lane & segment) | (rc[l] & 31 & ~segment), j = lane;
        bool in = false;
        if (i->mode == 'u') j = lane - b, in = (int32_t)j >= (int32_t)most;
        if (i->mode == 'd') j = lane + b, in = j <= most;
        if (i->mode == 'b') j = lane ^ b, in = j <= most;
        if (i->mode == 'i') j = (lane & segment) | (b & ~segment), in = j <= most;
        if (!in) j = lane;
        if (!(members >> j & 1))
            ptx_fault(w, i, l, "shuffle from lane %u, which is not in the member mask %#x", j,
                      members);
        d[l] = from[j];
        inside |= (uint32_t)in << l;
    });
    if (i->dsts == 2) PRED(w, i, 1) = (PRED(w, i, 1) & ~members) | inside;
}

/* ---- votes, matches, reductions ---- */
static void vote(Warp *w, Ins *i) {
    uint32_t yes = PRED(w, i, 1) & w->mask, *d = REG(uint32_t, w, i, 0);
    if (i->mode == 'b') {
        EACH(w, d[l] = yes);
        return;
    }
    bool result = i->mode == 'l'   ? yes == w->mask
                  : i->mode == 'y' ? yes != 0
                                   : yes == 0 || yes == w->mask;
    PRED(w, i, 0) = (PRED(w, i, 0) & ~w->mask) | (result ? w->mask : 0);
}
static void match_any(Warp *w, Ins *i) {
    uint64_t v[LANES];
    EACH(w, v[l] = i->size == 8 ? REG(uint64_t, w, i, 1)[l] : REG(uint32_t, w, i, 1)[l]);
    EACH(w, {
        uint32_t same = 0;
        for (uint32_t m = w->mask; m; m &= m - 1)
            if (v[__builtin_ctz(m)] == v[l]) same |= m & -m;
        REG(uint32_t, w, i, 0)[l] = same;
    });
}
static void redux(Warp *w, Ins *i) {
    const uint32_t *a = REG(uint32_t, w, i, 1);
    uint32_t r = a[__builtin_ctz(w->mask)];
    for (uint32_t m = w->mask & (w->mask - 1); m; m &= m - 1) {
        uint32_t v = a[__builtin_ctz(m)];
        bool less = i->sign ? (int32_t)v < (int32_t)r : v < r;
        switch (i->mode) {
        case '+':
            r += v;
            break;
        case '<':
            r = less ? v : r;
            break;
        case '>':
            r = less ? r : v;
            break;
        case '&':
            r &= v;
            break;
        case '|':
            r |= v;
            break;
        default:
            r ^= v;
        }
    }
    uint32_t *d = REG(uint32_t, w, i, 0);
    EACH(w, d[l] = r);
}
static void active_mask(Warp *w, Ins *i) {
    uint32_t *d = REG(uint32_t, w, i, 0);
    EACH(w, d[l] = w->mask);
}
static void sync_warp(Warp *w, Ins *i) {
    (void)i;
    w->syncs++;
    EACH(w, w->sync[l] = w->syncs);
}

/* ---- matrices ---- */
static void load_matrix(Warp *w, Ins *i) { /* count registers, then the address */
    int count = i->vec;
    uint16_t element[4][8][8];
    if (w->mask != UINT32_MAX) ptx_fault(w, i, 0, "ldmatrix needs all 32 lanes");
    for (int l = 0; l < 8 * count; l++) {
        uint64_t a = mem_address(w, i, count, l);
        memcpy(element[l / 8][l % 8], mem_resolve_one(w, i, l, SHARED, a, 16, READ), 16);
    }
    for (int m = 0; m < count; m++) {
        uint32_t *d = REG(uint32_t, w, i, m);
        for (int l = 0; l < LANES; l++) {
            int r = l / 4, c = l % 4 * 2;
            d[l] = i->mode ? element[m][c][r] | (uint32_t)element[m][c + 1][r] << 16
                           : element[m][r][c] | (uint32_t)element[m][r][c + 1] << 16;
        }
    }
}

static float bits_float(uint32_t v) {
    float f;
    memcpy(&f, &v, 4);
    return f;
}
/* Element h of a register that holds two bf16 or one tf32 (whose low 13 bits do not count). */
static float element_of(const Ins *i, uint32_t v, int h) {
    if (i->size == 4) return bits_float(v & ~0x1FFFu);
    return bf16_float((uint16_t)(v >> h * 16));
}
/* D (16x8, f32) = A (16 x k) B (k x 8) + C. Products are exact; the sum runs over k in order. */
static void multiply(Warp *w, Ins *i) {
    float a[16][16], b[16][8], acc[16][8];
    if (w->mask != UINT32_MAX) ptx_fault(w, i, 0, "mma needs all 32 lanes");
    int pack = 4 / i->size, deep = i->vec, ra = deep / (pack * 4) * 2, rb = ra / 2;
    const uint32_t first_a = 4, first_b = first_a + (uint32_t)ra, first_c = first_b + (uint32_t)rb;
    for (int r = 0; r < ra; r++) {
        const uint32_t *v = REG(uint32_t, w, i, first_a + (uint32_t)r);
        for (int l = 0; l < LANES; l++)
            for (int h = 0; h < pack; h++)
                a[l / 4 + r % 2 * 8][l % 4 * pack + h + r / 2 * 4 * pack] = element_of(i, v[l], h);
    }
    for (int r = 0; r < rb; r++) {
        const uint32_t *v = REG(uint32_t, w, i, first_b + (uint32_t)r);
        for (int l = 0; l < LANES; l++)
            for (int h = 0; h < pack; h++)
                b[l % 4 * pack + h + r * 4 * pack][l / 4] = element_of(i, v[l], h);
    }
    for (int r = 0; r < 4; r++) {
        const float *v = REG(float, w, i, first_c + (uint32_t)r);
        for (int l = 0; l < LANES; l++) acc[l / 4 + r / 2 * 8][l % 4 * 2 + r % 2] = v[l];
    }
    for (int row = 0; row < 16; row++)
        for (int k = 0; k < deep; k++)
            for (int col = 0; col < 8; col++) acc[row][col] += a[row][k] * b[k][col];
    for (int r = 0; r < 4; r++) {
        float *v = REG(float, w, i, (uint32_t)r);
        for (int l = 0; l < LANES; l++) v[l] = acc[l / 4 + r / 2 * 8][l % 4 * 2 + r % 2];
    }
}

static void add_list(Decoder *d, const Stmt *s, const Operand *o, int count, bool dst) {
    if (o->kind != OPERAND_LIST || o->count != count)
        decode_stop(d, s, "number of registers differs");
    for (int r = 0; r < count; r++) (dst ? decode_dst : decode_src)(d, s, &o->list[r], 4);
}
static bool decode_matrix(Decoder *d, const Stmt *s, const char *op) {
    static const struct {
        const char *name;
        uint8_t size, deep;
    } shapes[] = {{"mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32", 2, 16},
                  {"mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32", 2, 8},
                  {"mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32", 4, 8},
                  {"mma.sync.aligned.m16n8k4.row.col.f32.tf32.tf32.f32", 4, 4}};
    for (size_t m = 0; m < sizeof shapes / sizeof *shapes; m++) {
        if (strcmp(op, shapes[m].name) || s->count != 4) continue;
        Ins *i = decode_ins(d, s, multiply);
        i->kind = K_WARP;
        i->size = shapes[m].size;
        i->vec = shapes[m].deep;
        int ra = shapes[m].deep / (4 / shapes[m].size * 4) * 2;
        add_list(d, s, &s->args[0], 4, true);
        add_list(d, s, &s->args[1], ra, false);
        if (ra == 2 && s->args[2].kind != OPERAND_LIST)
            decode_src(d, s, &s->args[2], 4);
        else
            add_list(d, s, &s->args[2], ra / 2, false);
        add_list(d, s, &s->args[3], 4, false);
        return true;
    }
    int count = 0;
    bool trans = strstr(op, ".trans") != NULL;
    for (int n = 1; n <= 4; n *= 2) {
        char name[80];
        for (int form = 0; form < 2; form++) {
            const char *space = form ? "shared::cta" : "shared";
            strcpy(name, "ldmatrix.sync.aligned.m8n8.x");
            char digit[] = {(char)('0' + n), 0};
            strcat(strcat(strcat(strcat(strcat(name, digit), trans ? ".trans." : "."), space), "."),
                   "b16");
            if (!strcmp(op, name)) count = n;
        }
    }
    if (!count || s->count != 2) return false;
    Ins *i = decode_ins(d, s, load_matrix);
    i->kind = K_WARP;
    i->vec = (uint8_t)count;
    i->mode = trans;
    if (count == 1 && s->args[0].kind == OPERAND_REG)
        decode_dst(d, s, &s->args[0], 4);
    else
        add_list(d, s, &s->args[0], count, true);
    decode_address(d, s, &s->args[1], SHARED);
    return true;
}

/* ---- barriers, fences, traps ---- */
static void fence(Warp *w, Ins *i) {
    (void)i;
    race_fence(w);
}
static void trap(Warp *w, Ins *i) { ptx_fault(w, i, __builtin_ctz(w->mask), "trap"); }
static void nothing(Warp *w, Ins *i) {
    (void)w;
    (void)i;
}

static bool decode_barrier(Decoder *d, const Stmt *s, const Words *words) {
    Words w = *words;
    bool old = !strcmp(w.word[0], "bar");
    if (!old && strcmp(w.word[0], "barrier")) return false;
    if (old && w.count == 3 && !strcmp(w.word[1], "warp") && !strcmp(w.word[2], "sync")) {
        Ins *i = decode_ins(d, s, sync_warp);
        i->kind = K_WARP;
        i->mask_operand = 0;
        decode_src(d, s, &s->args[0], 4);
        return true;
    }
    words_take(&w, "cta"), words_take(&w, "aligned");
    bool sync = words_take(&w, "sync"), red = words_take(&w, "red");
    if (!sync && !red) return false;
    char mode = 0;
    if (red) {
        mode = words_take(&w, "popc") ? 'p' : words_take(&w, "and") ? 'a' : 'o';
        if (mode == 'o' && !words_take(&w, "or")) return false;
        if (!words_take(&w, mode == 'p' ? "u32" : "pred")) return false;
    }
    int plain = s->count - (red ? 2 : 0);
    if (w.count != 1 || plain < 1 || plain > 2) return false;
    Ins *i = decode_ins(d, s, nothing);
    i->kind = K_BARRIER;
    i->mode = (uint8_t)mode;
    i->mode2 = plain == 2;
    int a = 0;
    if (red) decode_dst(d, s, &s->args[a++], mode == 'p' ? 4 : 1);
    for (int n = 0; n < plain; n++) decode_src(d, s, &s->args[a++], 4);
    if (red) decode_src(d, s, &s->args[a], 1);
    return true;
}

/* name.sync operations with a member mask as the last operand */
static Ins *with_members(Decoder *d, const Stmt *s, Exec run, char mode) {
    Ins *i = decode_ins(d, s, run);
    i->kind = K_WARP;
    i->mode = (uint8_t)mode;
    return i;
}
bool decode_warp(Decoder *d, const Stmt *s, Words *words) {
    const char *op = s->op, *first = words->word[0];
    if (decode_matrix(d, s, op) || decode_barrier(d, s, words)) return true;
    if (!strcmp(first, "membar") || !strcmp(first, "fence")) {
        decode_ins(d, s, fence);
        return true;
    }
    if (!strcmp(op, "trap")) {
        decode_ins(d, s, trap);
        return true;
    }
    if (!strcmp(first, "nanosleep") || !strcmp(op, "discard.global.L2")) {
        decode_ins(d, s, nothing);
        return true;
    }
    if (!strcmp(op, "activemask.b32")) {
        decode_ins(d, s, active_mask);
        decode_dst(d, s, &s->args[0], 4);
        return true;
    }
    if (!strncmp(op, "shfl.sync.", 10) && s->count == 5 && words->count == 4) {
        static const char *const kinds[] = {"up", "down", "bfly", "idx"};
        const char *kind = NULL;
        for (int k = 0; k < 4; k++)
            if (!strcmp(words->word[2], kinds[k])) kind = kinds[k];
        if (!kind || strcmp(words->word[3], "b32")) return false;
        Ins *i = with_members(d, s, shuffle, kind[0]);
        Operand to = s->args[0], p = to;
        to.also = -1;
        decode_dst(d, s, &to, 4);
        if (p.also >= 0) {
            p.reg = p.also, p.also = -1;
            decode_dst(d, s, &p, 1);
        }
        for (int a = 1; a < 5; a++) decode_src(d, s, &s->args[a], 4);
        i->mask_operand = (uint8_t)(i->count - 1);
        return true;
    }
    if (s->count != 3) return false;
    int from = 4, to = 4;
    Ins *i;
    if (!strcmp(op, "vote.sync.ballot.b32"))
        from = 1, i = with_members(d, s, vote, 'b');
    else if (!strcmp(op, "vote.sync.all.pred"))
        from = to = 1, i = with_members(d, s, vote, 'l');
    else if (!strcmp(op, "vote.sync.any.pred"))
        from = to = 1, i = with_members(d, s, vote, 'y');
    else if (!strcmp(op, "vote.sync.uni.pred"))
        from = to = 1, i = with_members(d, s, vote, 'n');
    else if (!strcmp(op, "match.any.sync.b32") || !strcmp(op, "match.any.sync.b64")) {
        from = strstr(op, "64") ? 8 : 4;
        i = with_members(d, s, match_any, 0);
        i->size = (uint8_t)from;
    } else if (!strncmp(op, "redux.sync.", 11) && words->count == 4) {
        static const char *const kinds[] = {"add", "min", "max", "and", "or", "xor"};
        int k = 0;
        while (k < 6 && strcmp(words->word[2], kinds[k])) k++;
        if (k == 6 || !strcmp(words->word[3], "f32")) return false;
        i = with_members(d, s, redux, "+<>&|^"[k]);
        i->sign = words->word[3][0] == 's';
    } else
        return false;
    i->mask_operand = 2;
    decode_dst(d, s, &s->args[0], to);
    decode_src(d, s, &s->args[1], from);
    decode_src(d, s, &s->args[2], 4);
    return true;
}
