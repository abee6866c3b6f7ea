#include "tests/cuda_on_cpu/ptx_regs.h"
#include <stdlib.h>
#include <string.h>

enum { CLASSES = 4, NO_SLOT = 0 };
static const uint32_t slot_bytes[CLASSES] = {256, 128, 64, 4};
static int class_of(uint8_t width) { return width == 8 ? 0 : width == 4 ? 1 : width == 2 ? 2 : 3; }

typedef struct Flow {
    uint32_t start, end; /* instructions */
    uint32_t next[2], next_count;
    const uint32_t *more; /* a switch's targets */
    uint64_t *use, *def, *in, *out;
} Flow;

static bool ends_block(const Ins *i) {
    return i->kind == K_BRANCH || i->kind == K_SWITCH || i->kind == K_EXIT;
}
static void set(uint64_t *bits, uint32_t r) { bits[r / 64] |= (uint64_t)1 << r % 64; }
static bool has(const uint64_t *bits, uint32_t r) { return bits[r / 64] >> r % 64 & 1; }

/* Calls fn for every register of an instruction: reads first. */
typedef void (*Visit)(void *ctx, uint32_t reg, bool write);
static void visit(const Ins *i, Visit fn, void *ctx) {
    if (i->guard && !(i->guard & PRESET_REF)) fn(ctx, i->guard - 1, false);
    for (uint32_t k = i->dsts; k < i->count; k++)
        if (i->o[k] && !(i->o[k] & PRESET_REF)) fn(ctx, i->o[k] - 1, false);
    /* under a guard the old value may stay, so it is read too */
    for (uint32_t k = 0; k < i->dsts; k++)
        if (i->guard) fn(ctx, i->o[k] - 1, false);
    for (uint32_t k = 0; k < i->dsts; k++) fn(ctx, i->o[k] - 1, true);
}

static void note_flow(void *ctx, uint32_t reg, bool write) {
    Flow *f = ctx;
    if (write)
        set(f->def, reg);
    else if (!has(f->def, reg))
        set(f->use, reg);
}

typedef struct Live {
    uint32_t first, last;
} Live;
typedef struct Lives {
    Live *of;
    uint32_t at;
} Lives;
static void touch(Live *l, uint32_t at) {
    if (at < l->first) l->first = at;
    if (at > l->last) l->last = at;
}
static void note_life(void *ctx, uint32_t reg, bool write) {
    (void)write;
    Lives *l = ctx;
    touch(&l->of[reg], l->at);
}

static Flow *flow_blocks(const Kernel *k, uint32_t *count, size_t words) {
    uint32_t n = 0, *block_of = calloc(k->code_count + 1, sizeof *block_of);
    for (uint32_t i = 0; i < k->code_count; i++) {
        if (i && (k->code[i].kind == K_LABEL || ends_block(&k->code[i - 1]))) n++;
        block_of[i] = n;
    }
    *count = n + 1;
    Flow *flow = calloc(*count, sizeof *flow);
    uint64_t *bits = calloc(*count * words * 4, sizeof *bits);
    for (uint32_t i = 0; i < k->code_count; i++) {
        Flow *f = &flow[block_of[i]];
        if (!i || block_of[i] != block_of[i - 1]) {
            f->start = i;
            f->use = bits + block_of[i] * words * 4;
            f->def = f->use + words, f->in = f->def + words, f->out = f->in + words;
        }
        f->end = i;
        visit(&k->code[i], note_flow, f);
        const Ins *ins = &k->code[i];
        bool last = i + 1 == k->code_count || block_of[i + 1] != block_of[i];
        if (!last) continue;
        if (ins->kind == K_BRANCH) f->next[f->next_count++] = block_of[ins->target];
        if (ins->kind == K_SWITCH) {
            f->more = ins->more;
            continue;
        }
        bool falls = !ends_block(ins) || ins->guard;
        if (falls && i + 1 < k->code_count) f->next[f->next_count++] = block_of[i + 1];
    }
    /* a switch's targets as blocks: more[0] is their number */
    for (uint32_t b = 0; b < *count; b++) {
        if (!flow[b].more) continue;
        uint32_t *blocks = malloc((flow[b].more[0] + 1) * sizeof *blocks);
        blocks[0] = flow[b].more[0];
        for (uint32_t t = 1; t <= blocks[0]; t++) blocks[t] = block_of[flow[b].more[t]];
        flow[b].more = blocks;
    }
    free(block_of);
    return flow;
}

static void merge(Flow *f, const Flow *next, size_t words) {
    for (size_t w = 0; w < words; w++) f->out[w] |= next->in[w];
}
static void solve(Flow *flow, uint32_t count, size_t words) {
    for (bool changed = true; changed;) {
        changed = false;
        for (uint32_t b = count; b-- > 0;) {
            Flow *f = &flow[b];
            for (uint32_t n = 0; n < f->next_count; n++) merge(f, &flow[f->next[n]], words);
            for (uint32_t t = 1; f->more && t <= f->more[0]; t++)
                merge(f, &flow[f->more[t]], words);
            for (size_t w = 0; w < words; w++) {
                uint64_t in = f->use[w] | (f->out[w] & ~f->def[w]);
                changed = changed || in != f->in[w];
                f->in[w] = in;
            }
        }
    }
}

static Live *live_ranges(const Kernel *k) {
    size_t words = (size_t)k->reg_count / 64 + 1;
    uint32_t count;
    Flow *flow = flow_blocks(k, &count, words);
    solve(flow, count, words);
    Lives lives = {.of = malloc(((size_t)k->reg_count + 1) * sizeof(Live))};
    for (int r = 0; r < k->reg_count; r++) lives.of[r] = (Live){UINT32_MAX, 0};
    for (uint32_t b = 0; b < count; b++) {
        for (uint32_t r = 0; r < (uint32_t)k->reg_count; r++) {
            if (has(flow[b].in, r)) touch(&lives.of[r], flow[b].start);
            if (has(flow[b].out, r)) touch(&lives.of[r], flow[b].end + 1);
        }
    }
    for (lives.at = 0; lives.at < k->code_count; lives.at++)
        visit(&k->code[lives.at], note_life, &lives);
    free(flow[0].use);
    for (uint32_t b = 0; b < count; b++) free((void *)(uintptr_t)flow[b].more);
    free(flow);
    return lives.of;
}

static const Live *sorted_by;
static int by_start(const void *a, const void *b) {
    uint32_t x = sorted_by[*(const uint32_t *)a].first, y = sorted_by[*(const uint32_t *)b].first;
    return x < y ? -1 : x > y;
}

/* Linear scan: slot[r] within the class of r; returns the number of slots of each class. */
static void scan(const Kernel *k, const Live *lives, uint32_t *slot, uint32_t used[CLASSES]) {
    uint32_t n = 0, *order = malloc(((size_t)k->reg_count + 1) * sizeof *order);
    for (int r = 0; r < k->reg_count; r++)
        if (lives[r].first != UINT32_MAX) order[n++] = (uint32_t)r;
    sorted_by = lives;
    qsort(order, n, sizeof *order, by_start);
    uint32_t *busy_until[CLASSES];
    for (int c = 0; c < CLASSES; c++) {
        busy_until[c] = malloc((n + 1) * sizeof **busy_until);
        used[c] = 0;
    }
    for (uint32_t i = 0; i < n; i++) {
        uint32_t r = order[i], s = 0;
        int c = class_of(k->reg_width[r]);
        while (s < used[c] && busy_until[c][s] > lives[r].first) s++;
        if (s == used[c]) used[c]++;
        busy_until[c][s] = lives[r].last;
        /* a value that is never read still needs a separate place for that instruction */
        if (lives[r].last == lives[r].first) busy_until[c][s] = lives[r].last + 1;
        slot[r] = s;
    }
    for (int c = 0; c < CLASSES; c++) free(busy_until[c]);
    free(order);
}

void regs_assign(Kernel *k) {
    Live *lives = live_ranges(k);
    uint32_t *slot = calloc((size_t)k->reg_count + 1, sizeof *slot), used[CLASSES];
    scan(k, lives, slot, used);
    uint32_t base[CLASSES], at = 256;
    for (int c = 0; c < CLASSES; c++) {
        base[c] = at;
        at += used[c] * slot_bytes[c];
        at = (at + 63) / 64 * 64;
        for (int p = 0; p < k->preset_count; p++) {
            if (class_of(k->presets[p].width) != c) continue;
            k->presets[p].at = at;
            at += slot_bytes[c];
        }
        at = (at + 63) / 64 * 64;
    }
    k->frame_bytes = at;
    for (uint32_t i = 0; i < k->code_count; i++) {
        Ins *ins = &k->code[i];
        for (uint32_t o = 0; o <= ins->count; o++) {
            uint32_t *ref = o == ins->count ? &ins->guard : &ins->o[o];
            if (!*ref) continue;
            if (*ref & PRESET_REF) {
                *ref = k->presets[*ref & ~PRESET_REF].at;
            } else {
                uint32_t r = *ref - 1;
                int c = class_of(k->reg_width[r]);
                *ref = base[c] + slot[r] * slot_bytes[c];
            }
        }
    }
    free(slot);
    free(lives);
}
