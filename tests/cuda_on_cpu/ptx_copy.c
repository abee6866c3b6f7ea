/* ptx_copy: cp.async. The destination reads as NaN from the issue until the wait that completes it,
 * so that tests detect a missing or too weak wait. */
#include "tests/cuda_on_cpu/ptx_mem.h"
#include <stdlib.h>
#include <string.h>

/* o: shared address, global address, bytes to read */
static void issue(Warp *w, Ins *i) {
    for (uint32_t m = w->mask; m; m &= m - 1) {
        int l = __builtin_ctz(m);
        uint64_t to = i->sign == 4 ? REG(uint32_t, w, i, 0)[l] : REG(uint64_t, w, i, 0)[l];
        to += i->target; /* the offset of the destination */
        uint64_t from = mem_address(w, i, 1, l);
        uint32_t read = i->mode ? REG(uint32_t, w, i, 2)[l] : i->size;
        if (read > i->size) ptx_fault(w, i, l, "cp.async reads %u of %u bytes", read, i->size);
        unsigned char *bytes = mem_resolve_one(w, i, l, SHARED, to, i->size, WRITE);
        if (read) mem_resolve_one(w, i, l, GLOBAL, from, i->size, READ);
        memset(bytes, 0xFF, i->size);
        if (w->copy_count == w->copy_capacity) {
            w->copy_capacity = w->copy_capacity * 2 + 64;
            w->copies = realloc(w->copies, w->copy_capacity * sizeof *w->copies);
        }
        w->copies[w->copy_count++] =
            (Copy){from, (uint32_t)to, i->size, read, w->copy_groups[l], (uint8_t)l, i};
    }
}
static void commit(Warp *w, Ins *i) {
    (void)i;
    EACH(w, w->copy_groups[l]++);
}
/* All but the latest `size` groups of each lane complete. */
static void wait_for(Warp *w, Ins *i) {
    uint32_t kept = 0;
    for (uint32_t c = 0; c < w->copy_count; c++) {
        Copy *copy = &w->copies[c];
        bool all = i->mode, mine = w->mask >> copy->lane & 1;
        if (!mine || (!all && copy->group + (uint32_t)i->offset >= w->copy_groups[copy->lane])) {
            w->copies[kept++] = *copy;
            continue;
        }
        unsigned char *to = w->block->shared + (copy->to - SHARED_START);
        if (copy->source_size) memcpy(to, mem_bytes(copy->from), copy->source_size);
        memset(to + copy->source_size, 0, copy->size - copy->source_size);
    }
    w->copy_count = kept;
}

bool decode_copy(Decoder *d, const Stmt *s, Words *words) {
    Words w = *words;
    if (strcmp(w.word[0], "cp") || !words_take(&w, "async")) return false;
    if (words_take(&w, "commit_group")) {
        decode_ins(d, s, commit);
    } else if (words_take(&w, "wait_all")) {
        decode_ins(d, s, wait_for)->mode = 1;
    } else if (words_take(&w, "wait_group")) {
        decode_ins(d, s, wait_for)->offset = (int64_t)s->args[0].value;
    } else {
        bool whole_lines = words_take(&w, "cg");
        if (!whole_lines && !words_take(&w, "ca")) return false;
        words_take(&w, "L2::64B"), words_take(&w, "L2::128B"), words_take(&w, "L2::256B");
        if (!words_take(&w, "shared::cta") && !words_take(&w, "shared")) return false;
        if (!words_take(&w, "global") || w.count != 1 || s->count < 3 || s->count > 4) return false;
        uint64_t size = s->args[2].value;
        if (size != 16 && (whole_lines || (size != 4 && size != 8)))
            decode_stop(d, s, "cp.async of this size does not exist");
        Ins *i = decode_ins(d, s, issue);
        i->size = (uint8_t)size;
        i->mode = s->count == 4;
        decode_address(d, s, &s->args[0], SHARED);
        i->sign = i->wide;
        i->target = (uint32_t)i->offset;
        i->offset = 0;
        decode_address(d, s, &s->args[1], GLOBAL);
        if (s->count == 4) decode_src(d, s, &s->args[3], 4);
    }
    return true;
}
