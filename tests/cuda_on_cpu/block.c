/* block: runs grids. Blocks run one after another, and warps of a block take turns. The lanes of a
 * warp run together while they are at the same instruction. After a divergent branch the lanes with
 * the lowest position run first, so that they join again at the labels. With CUDAEMU_LANES=alone
 * each lane runs as far as possible before the next one starts. */
#include "tests/cuda_on_cpu/profile.h"
#include "tests/cuda_on_cpu/ptx.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- reports ---- */
void ptx_where(const Kernel *k, const Stmt *s, char *out, size_t size) {
    const Module *m = k->module;
    out[0] = 0;
    if (s->loc < 0) return;
    const Loc *l = &m->locs[s->loc];
    const char *file = l->file < m->file_count && m->files[l->file] ? m->files[l->file] : "?";
    size_t n = (size_t)snprintf(out, size, " at %s:%d", file, l->line);
    if (l->outer_line && n < size) {
        file = l->outer_file < m->file_count && m->files[l->outer_file] ? m->files[l->outer_file]
                                                                        : "?";
        snprintf(out + n, size - n, " (inlined at %s:%d)", file, l->outer_line);
    }
}
static void thread_index(const Block *b, uint32_t t, Dim *id) {
    id->x = t % b->dim.x, id->y = t / b->dim.x % b->dim.y, id->z = t / b->dim.x / b->dim.y;
}
void ptx_fault(const Warp *w, const Ins *i, int lane, const char *fmt, ...) {
    const Block *b = w->block;
    const Stmt *s = &b->kernel->stmts[i->stmt];
    char what[512], where[512];
    va_list args;
    va_start(args, fmt);
    vsnprintf(what, sizeof what, fmt, args);
    va_end(args);
    ptx_where(b->kernel, s, where, sizeof where);
    Dim t;
    thread_index(b, w->index * LANES + (uint32_t)lane, &t);
    emu_stop("%s\n  kernel %s, block (%u,%u,%u), thread (%u,%u,%u)%s\n  %.*s", what,
             b->kernel->name, b->id.x, b->id.y, b->id.z, t.x, t.y, t.z, where,
             (int)strcspn(s->text, ";\n"), s->text);
}

/* ---- warps ---- */
static uint32_t lanes_at(const Warp *w, uint32_t of, uint32_t pc) {
    uint32_t m = 0;
    for (; of; of &= of - 1) {
        int l = __builtin_ctz(of);
        if (w->pc[l] == pc) m |= 1u << l;
    }
    return m;
}
static void set_pc(Warp *w, uint32_t lanes, uint32_t pc) {
    for (; lanes; lanes &= lanes - 1) w->pc[__builtin_ctz(lanes)] = pc;
}
static uint32_t member_mask(const Warp *w, const Ins *i, int lane) {
    return i->mask_operand == 0xFF ? w->exists : REG(uint32_t, w, i, i->mask_operand)[lane];
}

static const char *lane_list(uint32_t lanes) {
    static char text[64];
    int first = __builtin_ctz(lanes);
    if (!(lanes & (lanes - 1)))
        snprintf(text, sizeof text, "lane %d", first);
    else
        snprintf(text, sizeof text, "lanes %#x", lanes);
    return text;
}

/* Returns true if two lanes of one member mask may meet here; __syncwarp may be reached in several
 * places. */
static bool compatible(const Warp *w, int a, int b) {
    const Ins *x = &w->block->kernel->code[w->pc[a]], *y = &w->block->kernel->code[w->pc[b]];
    return w->members[a] == w->members[b] && x->run == y->run && (x == y || !x->dsts);
}
/* Runs a collective that all members have reached. */
static void try_collective(Warp *w, int lane) {
    Ins *i = &w->block->kernel->code[w->pc[lane]];
    uint32_t m = w->members[lane];
    if (m & w->exited)
        ptx_fault(w, i, lane, "%s of the member mask %#x left the kernel before",
                  lane_list(m & w->exited), m);
    if (m & ~w->in_warp_op) return;
    for (uint32_t r = m; r; r &= r - 1)
        if (!compatible(w, lane, __builtin_ctz(r))) return;
    w->mask = m;
    i->run(w, i);
    w->in_warp_op &= ~m;
    w->running |= m;
    for (uint32_t r = m; r; r &= r - 1) w->pc[__builtin_ctz(r)]++;
}

/* Selects the lanes that run next and their position; false: none can. */
static bool pick(Warp *w, uint32_t *active, uint32_t *pc, uint32_t *limit) {
    for (uint32_t m = w->in_warp_op; m; m &= m - 1) {
        int l = __builtin_ctz(m);
        if (w->in_warp_op >> l & 1) try_collective(w, l);
    }
    if (!w->running) return false;
    *limit = UINT32_MAX;
    if (emu_options()->alone) {
        uint32_t m = w->running;
        int l = __builtin_ctz(m);
        if (emu_options()->order == 1) l = 31 - __builtin_clz(m);
        if (emu_options()->order == 2)
            for (uint32_t skip = emu_random((uint32_t)__builtin_popcount(m)) + 1; skip; skip--) {
                l = __builtin_ctz(m);
                m &= m - 1;
            }
        *active = 1u << l;
        *pc = w->pc[l];
        return true;
    }
    uint32_t least = UINT32_MAX;
    for (uint32_t m = w->running; m; m &= m - 1) {
        uint32_t p = w->pc[__builtin_ctz(m)];
        if (p < least) least = p;
    }
    *pc = least;
    *active = lanes_at(w, w->running, least);
    for (uint32_t m = w->running & ~*active; m; m &= m - 1) {
        uint32_t p = w->pc[__builtin_ctz(m)];
        if (p < *limit) *limit = p;
    }
    return true;
}

/* Lanes `m` of the active ones reach a collective. True: it has run for all of them. */
static bool meet(Warp *w, Ins *i, uint32_t m, uint32_t active, uint32_t pc) {
    int first = __builtin_ctz(m);
    uint32_t members = member_mask(w, i, first);
    bool uniform = true;
    for (uint32_t r = m; r; r &= r - 1) {
        int l = __builtin_ctz(r);
        uint32_t mine = member_mask(w, i, l);
        if (!(mine >> l & 1))
            ptx_fault(w, i, l, "lane %d is not in its own member mask %#x", l, mine);
        w->members[l] = mine;
        uniform = uniform && mine == members;
    }
    if (uniform && m == members && m == active) {
        w->mask = m;
        i->run(w, i);
        return true;
    }
    set_pc(w, active, pc + 1);
    set_pc(w, m, pc);
    w->running &= ~m;
    w->in_warp_op |= m;
    return false;
}

static void reach_barrier(Warp *w, const Ins *i, uint32_t m, uint32_t active, uint32_t pc) {
    set_pc(w, active, pc + 1);
    set_pc(w, m, pc);
    for (uint32_t r = m; r; r &= r - 1) {
        int l = __builtin_ctz(r);
        uint32_t id = REG(uint32_t, w, i, i->dsts)[l];
        if (id >= MAX_BARRIERS) ptx_fault(w, i, l, "barrier %u does not exist", id);
        w->barrier_id[l] = (uint8_t)id;
        w->barrier_count[l] = i->mode2 ? REG(uint32_t, w, i, i->dsts + 1)[l] : 0;
    }
    w->running &= ~m;
    w->in_barrier |= m;
}

/* Runs the active lanes until they wait, leave, part, or may meet others. */
static void run_lanes(Warp *w, uint32_t active, uint32_t pc, uint32_t limit) {
    Ins *code = w->block->kernel->code;
    uint64_t steps = w->block->steps, most = emu_options()->steps;
    bool profiled = w->block->kernel->profile;
    for (;; pc++) {
        Ins *i = &code[pc];
        uint32_t m = active;
        if (i->guard) m &= *(uint32_t *)(void *)(w->regs + i->guard) ^ i->guard_xor;
        if (++steps > most)
            ptx_fault(w, i, __builtin_ctz(active), "endless: %llu steps",
                      (unsigned long long)steps);
        if (i->kind == K_PLAIN) {
            if (!m) continue;
            w->mask = m;
            i->run(w, i);
            continue;
        }
        if (i->kind == K_LABEL) {
            if (pc < limit) continue;
            set_pc(w, active, pc);
            break;
        }
        if (profiled) profile_control(w, i, active);
        if (!m) continue;
        if (i->kind == K_BRANCH && m == active) {
            pc = i->target - 1;
            continue;
        }
        if (i->kind == K_WARP && meet(w, i, m, active, pc)) continue;
        if (i->kind == K_BRANCH) {
            set_pc(w, active, pc + 1);
            set_pc(w, m, i->target);
        } else if (i->kind == K_SWITCH) {
            set_pc(w, active, pc + 1);
            for (uint32_t r = m; r; r &= r - 1) {
                int l = __builtin_ctz(r);
                uint32_t choice = REG(uint32_t, w, i, 0)[l];
                if (choice >= i->more[0]) ptx_fault(w, i, l, "branch index %u too large", choice);
                w->pc[l] = i->more[choice + 1];
            }
        } else if (i->kind == K_EXIT) {
            set_pc(w, active, pc + 1);
            w->running &= ~m;
            w->exited |= m;
        } else if (i->kind == K_BARRIER)
            reach_barrier(w, i, m, active, pc);
        break;
    }
    w->block->steps = steps;
}
static void run_warp(Warp *w) {
    uint32_t active, pc, limit;
    while (pick(w, &active, &pc, &limit)) run_lanes(w, active, pc, limit);
}

/* ---- barriers ---- */
static void stuck(Block *b) {
    for (uint32_t n = 0; n < b->warp_count; n++) {
        Warp *w = &b->warps[n];
        if (!w->in_warp_op) continue;
        int l = __builtin_ctz(w->in_warp_op);
        uint32_t members = w->members[l], missing = members & ~w->in_warp_op;
        const Ins *i = &b->kernel->code[w->pc[l]];
        if (missing)
            ptx_fault(w, i, l, "%s of the member mask %#x never come: they wait elsewhere",
                      lane_list(missing), members);
        while (compatible(w, l, __builtin_ctz(members))) members &= members - 1;
        int other = __builtin_ctz(members);
        ptx_fault(w, i, l,
                  "lanes of a member mask wait for each other in different instructions or with "
                  "different masks: %#x here, %#x in lane %d",
                  w->members[l], w->members[other], other);
    }
    uint32_t waiting = 0, gone = 0;
    const Warp *at = NULL;
    for (uint32_t n = 0; n < b->warp_count; n++) {
        const Warp *w = &b->warps[n];
        waiting += (uint32_t)__builtin_popcount(w->in_barrier);
        gone += (uint32_t)__builtin_popcount(w->exited);
        if (w->in_barrier && !at) at = w;
    }
    int l = __builtin_ctz(at->in_barrier);
    ptx_fault(at, &b->kernel->code[at->pc[l]], l,
              "%u threads wait at a barrier that %u others never reach (%u left the kernel)",
              waiting, b->threads - waiting, gone);
}

/* __syncthreads_count, _and, _or: a reduction over the block, written to every thread */
static void reduce_predicate(Block *b, const Ins *i, uint32_t pc) {
    uint32_t count = 0;
    for (uint32_t n = 0; n < b->warp_count; n++) {
        Warp *w = &b->warps[n];
        uint32_t at = lanes_at(w, w->in_barrier, pc);
        count += (uint32_t)__builtin_popcount(PRED(w, i, i->count - 1) & at);
    }
    for (uint32_t n = 0; n < b->warp_count; n++) {
        Warp *w = &b->warps[n];
        uint32_t at = w->mask = lanes_at(w, w->in_barrier, pc);
        bool yes = i->mode == 'a' ? count == b->threads : count > 0;
        if (i->mode == 'p')
            EACH(w, REG(uint32_t, w, i, 0)[l] = count);
        else
            PRED(w, i, 0) = (PRED(w, i, 0) & ~at) | (yes ? at : 0);
    }
}

/* Releases barrier `id` if enough threads have arrived. */
static bool try_barrier(Block *b, uint32_t id) {
    uint32_t arrived = 0, needed = 0, pc = UINT32_MAX;
    const Warp *first = NULL;
    for (uint32_t n = 0; n < b->warp_count; n++) {
        Warp *w = &b->warps[n];
        for (uint32_t m = w->in_barrier; m; m &= m - 1) {
            int l = __builtin_ctz(m);
            if (w->barrier_id[l] != id) continue;
            arrived++;
            const Ins *i = &b->kernel->code[w->pc[l]];
            if (!first) {
                first = w;
                pc = w->pc[l];
                needed = w->barrier_count[l] ? w->barrier_count[l] : b->threads;
            } else if (w->pc[l] != pc && !w->barrier_count[l])
                ptx_fault(w, i, l,
                          "divergent barrier: other threads of the block wait at another "
                          "barrier instruction");
        }
    }
    if (!first || arrived < needed) return false;
    const Ins *i = &b->kernel->code[pc];
    if (i->mode) reduce_predicate(b, i, pc);
    for (uint32_t n = 0; n < b->warp_count; n++) {
        Warp *w = &b->warps[n];
        for (uint32_t m = w->in_barrier; m; m &= m - 1) {
            int l = __builtin_ctz(m);
            if (w->barrier_id[l] != id) continue;
            w->pc[l]++;
            w->in_barrier &= ~(1u << l);
            w->running |= 1u << l;
        }
    }
    b->epoch++;
    return true;
}

static void run_block(Block *b, uint32_t *order) {
    for (;;) {
        emu_order(order, b->warp_count);
        uint32_t left = 0;
        for (uint32_t n = 0; n < b->warp_count; n++) {
            Warp *w = &b->warps[order[n]];
            run_warp(w);
            left |= w->exists & ~w->exited;
        }
        if (!left) return;
        bool released = false;
        for (uint32_t id = 0; id < MAX_BARRIERS; id++) released = try_barrier(b, id) || released;
        if (!released) stuck(b);
    }
}

/* ---- grids ---- */
static uint64_t special_value(const Block *b, const Warp *w, const Preset *p, uint32_t lane) {
    Dim t;
    thread_index(b, w->index * LANES + lane, &t);
    uint32_t bit = 1u << lane;
    switch ((Special)p->special) {
    case SPECIAL_NONE:
        return p->value;
    case TID_X:
        return t.x;
    case TID_Y:
        return t.y;
    case TID_Z:
        return t.z;
    case NTID_X:
        return b->dim.x;
    case NTID_Y:
        return b->dim.y;
    case NTID_Z:
        return b->dim.z;
    case CTAID_X:
        return b->id.x;
    case CTAID_Y:
        return b->id.y;
    case CTAID_Z:
        return b->id.z;
    case NCTAID_X:
        return b->grid.x;
    case NCTAID_Y:
        return b->grid.y;
    case NCTAID_Z:
        return b->grid.z;
    case LANE_ID:
        return lane;
    case WARP_ID:
        return w->index;
    case NWARP_ID:
        return b->warp_count;
    case SM_ID:
        return 0;
    case NSM_ID:
        return 1;
    case GRID_ID:
        return 0;
    case LANEMASK_EQ:
        return bit;
    case LANEMASK_LT:
        return bit - 1;
    case LANEMASK_LE:
        return bit | (bit - 1);
    case LANEMASK_GT:
        return ~(bit | (bit - 1));
    case LANEMASK_GE:
        return ~(bit - 1);
    case DYNAMIC_SMEM:
        return b->dynamic_bytes;
    case TOTAL_SMEM:
        return b->kernel->shared_bytes + b->dynamic_bytes;
    }
    return 0;
}
static void fill_preset(const Block *b, Warp *w, const Preset *p) {
    if (p->width == 1) {
        memcpy(w->regs + p->at, &p->value, 4);
        return;
    }
    for (uint32_t l = 0; l < LANES; l++) {
        uint64_t v = special_value(b, w, p, l);
        memcpy(w->regs + p->at + l * p->width, &v, p->width);
    }
}

static void start_block(Block *b) {
    memset(b->shared, 0xFF, b->shared_bytes);
    for (uint32_t n = 0; n < b->warp_count; n++) {
        Warp *w = &b->warps[n];
        w->running = w->exists;
        w->exited = w->in_warp_op = w->in_barrier = 0;
        w->copy_count = 0;
        memset(w->pc, 0, sizeof w->pc);
        memset(w->sync, 0, sizeof w->sync);
        w->syncs = 0;
        memset(w->copy_groups, 0, sizeof w->copy_groups);
        memset(w->local, 0xFF, b->kernel->local_bytes * LANES);
        for (int p = 0; p < b->kernel->preset_count; p++) {
            const Preset *q = &b->kernel->presets[p];
            if (q->special >= CTAID_X && q->special <= CTAID_Z) fill_preset(b, w, q);
        }
    }
    b->epoch = 0;
    b->steps = 0;
}

void block_launch(Kernel *k, Dim grid, Dim dim, size_t dynamic_bytes, const unsigned char *params) {
    ptx_decode(k);
    Buffer *dynamic = &k->shared[k->shared_count - 1];
    dynamic->size = dynamic_bytes;
    Block block = {.kernel = k,
                   .grid = grid,
                   .dim = dim,
                   .params = params,
                   .threads = dim.x * dim.y * dim.z,
                   .dynamic_bytes = dynamic_bytes};
    Block *b = &block;
    b->warp_count = (b->threads + LANES - 1) / LANES;
    b->shared_bytes = dynamic->start + dynamic_bytes - SHARED_START;
    b->shared = aligned_alloc(128, (b->shared_bytes + 255) / 128 * 128);
    b->warps = calloc(b->warp_count, sizeof *b->warps);
    /* frames of equal page offset would share cache sets */
    size_t frame = (size_t)k->frame_bytes + 576, local = k->local_bytes * LANES;
    unsigned char *frames = aligned_alloc(64, (b->warp_count * frame + 127) / 64 * 64);
    unsigned char *locals = aligned_alloc(64, (b->warp_count * local + 127) / 64 * 64);
    memset(frames, 0xFF, b->warp_count * frame);
    for (uint32_t n = 0; n < b->warp_count; n++) {
        Warp *w = &b->warps[n];
        uint32_t here = b->threads - n * LANES;
        w->block = b;
        w->index = n;
        w->exists = here >= LANES ? UINT32_MAX : (1u << here) - 1;
        w->regs = frames + n * frame;
        w->local = locals + n * local;
        for (int p = 0; p < k->preset_count; p++) fill_preset(b, w, &k->presets[p]);
    }
    race_launch(b);
    uint32_t blocks = grid.x * grid.y * grid.z, warp_order[MAX_THREADS / LANES];
    profile_begin(k, blocks, b->warp_count);
    bool shuffled = emu_options()->order != 0;
    uint32_t *order = shuffled ? malloc(blocks * sizeof *order) : NULL;
    if (shuffled) emu_order(order, blocks);
    for (uint32_t n = 0; n < blocks; n++) {
        uint32_t at = shuffled ? order[n] : n;
        b->linear = at;
        b->id = (Dim){at % grid.x, at / grid.x % grid.y, at / grid.x / grid.y};
        start_block(b);
        run_block(b, warp_order);
    }
    profile_end(k);
    for (uint32_t n = 0; n < b->warp_count; n++) free(b->warps[n].copies);
    free(order);
    free(locals);
    free(frames);
    free(b->warps);
    free(b->shared);
}
