/* ptx_mem: addresses, ld and st. */
#include "tests/cuda_on_cpu/ptx_mem.h"
#include <string.h>

/* ---- addresses ---- */
uint64_t mem_address(const Warp *w, const Ins *i, int k, int lane) {
    if (i->wide == 8) return REG(uint64_t, w, i, k)[lane] + (uint64_t)i->offset;
    return (uint32_t)(REG(uint32_t, w, i, k)[lane] + (uint32_t)i->offset);
}

static const char *verb(Access a) {
    return a == READ ? "read" : a == WRITE ? "write" : "atomic access";
}
static void check_aligned(const Warp *w, const Ins *i, int lane, uint64_t a, uint32_t bytes,
                          Access access) {
    if (a & (bytes - 1))
        ptx_fault(w, i, lane, "misaligned %s: %u bytes at address %#llx", verb(access), bytes,
                  (unsigned long long)a);
}
static void outside_shared(const Warp *w, const Ins *i, int lane, uint64_t a, uint32_t bytes,
                           Access access) {
    const Kernel *k = w->block->kernel;
    const Buffer *near = NULL;
    for (int v = 0; v < k->shared_count; v++)
        if (k->shared[v].start <= a && k->shared[v].size) near = &k->shared[v];
    if (!near)
        ptx_fault(w, i, lane, "%s of %u bytes outside shared memory: address %#llx", verb(access),
                  bytes, (unsigned long long)a);
    ptx_fault(w, i, lane, "%s of %u bytes at byte %llu of %s shared memory of %zu bytes",
              verb(access), bytes, (unsigned long long)(a - near->start),
              near == &k->shared[k->shared_count - 1] ? "dynamic" : "a variable in", near->size);
}
static const Buffer *find_shared(const Kernel *k, uint64_t a, uint32_t bytes) {
    for (int v = 0; v < k->shared_count; v++) {
        const Buffer *b = &k->shared[v];
        if (a - b->start < b->size && bytes <= b->size - (a - b->start)) return b;
    }
    return NULL;
}

unsigned char *mem_resolve_one(Warp *w, Ins *i, int lane, Space space, uint64_t a, uint32_t bytes,
                               Access access) {
    Block *b = w->block;
    if (space == GENERIC) {
        if (a - SHARED_WINDOW < WINDOW_SIZE)
            space = SHARED, a -= SHARED_WINDOW;
        else if (a - LOCAL_WINDOW < WINDOW_SIZE)
            space = LOCAL, a -= LOCAL_WINDOW;
        else
            space = GLOBAL;
    }
    check_aligned(w, i, lane, a, bytes, access);
    if (race_on && (space == SHARED || space == GLOBAL))
        race_access(w, i, lane, space, a, bytes, access != READ, access == ATOMIC);
    if (space == SHARED) {
        if (!find_shared(b->kernel, a, bytes)) outside_shared(w, i, lane, a, bytes, access);
        return b->shared + (a - SHARED_START);
    }
    if (space == LOCAL) {
        size_t size = b->kernel->local_bytes;
        if (a > size || bytes > size - a)
            ptx_fault(w, i, lane, "%s of %u bytes at byte %llu of local memory of %zu bytes",
                      verb(access), bytes, (unsigned long long)a, size);
        return w->local + (size_t)lane * size + a;
    }
    if (space == PARAM) {
        size_t size = b->kernel->param_bytes;
        if (access != READ || a > size || bytes > size - a)
            ptx_fault(w, i, lane, "%s of %u bytes at byte %llu of the parameters (%zu bytes)",
                      verb(access), bytes, (unsigned long long)a, size);
        return (unsigned char *)(uintptr_t)b->params + a;
    }
    const Buffer *hot = i->hot;
    if (!hot || !hot->live || a - hot->start >= hot->size) hot = mem_find(a);
    if (!hot || bytes > hot->size - (a - hot->start))
        ptx_fault(w, i, lane, "%s of %u bytes outside any buffer: %s", verb(access), bytes,
                  mem_describe(a));
    i->hot = hot;
    return mem_bytes(a);
}

/* All lanes in the buffer of the last access, aligned: the common case, without branches. */
static bool resolve_fast(Warp *w, Ins *i, int k, uint32_t bytes, Access access,
                         unsigned char *at[LANES]) {
    const Buffer *hot = i->hot;
    Block *b = w->block;
    uint64_t offset = (uint64_t)i->offset, wrong = 0;
    if (race_on || w->mask != (uint32_t)ALL_LANES) return false;
    if (i->space == SHARED && i->wide == 4) {
        const uint32_t *a = REG(uint32_t, w, i, k);
        uint32_t add = (uint32_t)offset, misaligned = 0, outside = 0;
        if (!hot) hot = i->hot = find_shared(b->kernel, a[0] + add, bytes);
        if (!hot || hot->size < bytes) return false;
        uint32_t start = (uint32_t)hot->start, last = (uint32_t)(hot->size - bytes);
        for (int l = 0; l < LANES; l++) {
            uint32_t x = a[l] + add;
            misaligned |= x;
            outside |= x - start > last;
        }
        if (outside || (misaligned & (bytes - 1))) return false;
        unsigned char *base = b->shared - SHARED_START;
        for (int l = 0; l < LANES; l++) at[l] = base + (uint32_t)(a[l] + add);
        return true;
    }
    if (i->space == PARAM || i->space == LOCAL) {
        bool local = i->space == LOCAL;
        uint64_t size = local ? b->kernel->local_bytes : b->kernel->param_bytes;
        if (i->wide != 8 || size < bytes || (!local && access != READ)) return false;
        const uint64_t *a = REG(uint64_t, w, i, k);
        uint64_t outside = 0, step = local ? size : 0;
        unsigned char *base = local ? w->local : (unsigned char *)(uintptr_t)b->params;
        for (int l = 0; l < LANES; l++) {
            wrong |= a[l] + offset;
            outside |= a[l] + offset > size - bytes;
        }
        if (outside || (wrong & (bytes - 1))) return false;
        for (int l = 0; l < LANES; l++) at[l] = base + step * (uint64_t)l + a[l] + offset;
        return true;
    }
    if (i->wide != 8 || !hot || !hot->live || hot->size < bytes) return false;
    if (i->space != GLOBAL && i->space != GENERIC) return false;
    if (!mem_is_device(hot->start)) return false;
    const uint64_t *a = REG(uint64_t, w, i, k);
    uint64_t start = hot->start - offset, last = hot->size - bytes, outside = 0;
    for (int l = 0; l < LANES; l++) {
        wrong |= a[l] + offset;
        outside |= a[l] - start > last;
    }
    if (outside || (wrong & (bytes - 1))) return false;
    unsigned char *base = (unsigned char *)mem_bytes(hot->start) - start;
    for (int l = 0; l < LANES; l++) at[l] = base + a[l];
    return true;
}
void mem_resolve(Warp *w, Ins *i, int k, uint32_t bytes, Access access, unsigned char *at[LANES]) {
    if (resolve_fast(w, i, k, bytes, access, at)) return;
    EACH(w,
         at[l] = mem_resolve_one(w, i, l, (Space)i->space, mem_address(w, i, k, l), bytes, access));
}

/* ---- ld and st ---- */
#define LOAD(fn, R, T)                                                                             \
    static void fn(Warp *w, Ins *i) {                                                              \
        unsigned char *at[LANES];                                                                  \
        uint32_t vec = i->vec;                                                                     \
        mem_resolve(w, i, (int)vec, (uint32_t)sizeof(T) * vec, READ, at);                          \
        for (uint32_t v = 0; v < vec; v++) {                                                       \
            R *d = REG(R, w, i, v);                                                                \
            EACH(w, d[l] = (R) * (const T *)(const void *)(at[l] + v * sizeof(T)));                \
        }                                                                                          \
    }
LOAD(ld_u8_2, uint16_t, uint8_t)
LOAD(ld_u8_4, uint32_t, uint8_t)
LOAD(ld_u8_8, uint64_t, uint8_t)
LOAD(ld_s8_2, uint16_t, int8_t)
LOAD(ld_s8_4, uint32_t, int8_t)
LOAD(ld_s8_8, uint64_t, int8_t)
LOAD(ld_u16_2, uint16_t, uint16_t)
LOAD(ld_u16_4, uint32_t, uint16_t)
LOAD(ld_u16_8, uint64_t, uint16_t)
LOAD(ld_s16_4, uint32_t, int16_t)
LOAD(ld_s16_8, uint64_t, int16_t)
LOAD(ld_u32_4, uint32_t, uint32_t)
LOAD(ld_u32_8, uint64_t, uint32_t)
LOAD(ld_s32_8, uint64_t, int32_t)
LOAD(ld_u64_8, uint64_t, uint64_t)

#define STORE(fn, R, T)                                                                            \
    static void fn(Warp *w, Ins *i) {                                                              \
        unsigned char *at[LANES];                                                                  \
        uint32_t vec = i->vec;                                                                     \
        mem_resolve(w, i, 0, (uint32_t)sizeof(T) * vec, WRITE, at);                                \
        for (uint32_t v = 0; v < vec; v++) {                                                       \
            const R *s = REG(R, w, i, v + 1);                                                      \
            EACH(w, *(T *)(void *)(at[l] + v * sizeof(T)) = (T)s[l]);                              \
        }                                                                                          \
    }
STORE(st_8_2, uint16_t, uint8_t)
STORE(st_8_4, uint32_t, uint8_t)
STORE(st_8_8, uint64_t, uint8_t)
STORE(st_16_2, uint16_t, uint16_t)
STORE(st_16_4, uint32_t, uint16_t)
STORE(st_16_8, uint64_t, uint16_t)
STORE(st_32_4, uint32_t, uint32_t)
STORE(st_32_8, uint64_t, uint32_t)
STORE(st_64_8, uint64_t, uint64_t)

static const struct {
    Exec run;
    uint8_t size, sign, wide;
} loads[] = {{ld_u8_2, 1, 0, 2},  {ld_u8_4, 1, 0, 4},  {ld_u8_8, 1, 0, 8},  {ld_s8_2, 1, 1, 2},
             {ld_s8_4, 1, 1, 4},  {ld_s8_8, 1, 1, 8},  {ld_u16_2, 2, 0, 2}, {ld_u16_2, 2, 1, 2},
             {ld_u16_4, 2, 0, 4}, {ld_u16_8, 2, 0, 8}, {ld_s16_4, 2, 1, 4}, {ld_s16_8, 2, 1, 8},
             {ld_u32_4, 4, 0, 4}, {ld_u32_4, 4, 1, 4}, {ld_u32_8, 4, 0, 8}, {ld_s32_8, 4, 1, 8},
             {ld_u64_8, 8, 0, 8}, {ld_u64_8, 8, 1, 8}},
  stores[] = {{st_8_2, 1, 0, 2},  {st_8_4, 1, 0, 4},  {st_8_8, 1, 0, 8},
              {st_16_2, 2, 0, 2}, {st_16_4, 2, 0, 4}, {st_16_8, 2, 0, 8},
              {st_32_4, 4, 0, 4}, {st_32_8, 4, 0, 8}, {st_64_8, 8, 0, 8}};

static Space take_space(Words *w) {
    if (words_take(w, "global")) return GLOBAL;
    if (words_take(w, "shared")) return SHARED;
    if (words_take(w, "shared::cta")) return SHARED;
    if (words_take(w, "local")) return LOCAL;
    if (words_take(w, "param")) return PARAM;
    if (words_take(w, "const")) return CONSTANT;
    return GENERIC;
}
/* How caches treat an access, and its ordering, change nothing here. */
static void drop_hints(Words *w) {
    static const char *const hints[] = {"volatile",
                                        "relaxed",
                                        "weak",
                                        "gpu",
                                        "sys",
                                        "cta",
                                        "nc",
                                        "ca",
                                        "cg",
                                        "cs",
                                        "cv",
                                        "lu",
                                        "wb",
                                        "wt",
                                        "L1::evict_first",
                                        "L1::evict_last",
                                        "L1::no_allocate",
                                        "L1::evict_normal",
                                        "L1::evict_unchanged",
                                        "L2::64B",
                                        "L2::128B",
                                        "L2::256B"};
    for (size_t h = 0; h < sizeof hints / sizeof *hints; h++) words_take(w, hints[h]);
}
static int size_of(const char *type, bool *is_signed) {
    *is_signed = type[0] == 's';
    if (!strchr("busf", type[0])) return 0;
    const char *digits = type + 1;
    if (!strcmp(type, "bf16")) return 2;
    return !strcmp(digits, "8")    ? 1
           : !strcmp(digits, "16") ? 2
           : !strcmp(digits, "32") ? 4
           : !strcmp(digits, "64") ? 8
                                   : 0;
}

static void prefetch(Warp *w, Ins *i) {
    (void)w;
    (void)i;
}

bool decode_mem(Decoder *d, const Stmt *s, Words *words) {
    Words w = *words;
    if (!strcmp(w.word[0], "prefetch") || !strcmp(w.word[0], "prefetchu")) {
        decode_ins(d, s, prefetch);
        return true;
    }
    bool load = !strcmp(w.word[0], "ld") || !strcmp(w.word[0], "ldu");
    if ((!load && strcmp(w.word[0], "st")) || s->count != 2) return false;
    Space space = take_space(&w);
    if (space == PARAM && !load) decode_stop(d, s, "device function calls are not interpreted");
    drop_hints(&w);
    int vec = words_take(&w, "v2") ? 2 : words_take(&w, "v4") ? 4 : 1;
    if (w.count != 2) return false;
    bool sign;
    int size = size_of(w.word[1], &sign);
    const Operand *address = &s->args[load ? 0 + 1 : 0], *value = &s->args[load ? 0 : 1];
    int wide = decode_width(d, value);
    if (!wide) wide = size < 2 ? 2 : size;
    if (!size || (value->kind == OPERAND_LIST ? value->count : 1) != vec) return false;
    Ins *i = NULL;
    size_t rows = load ? sizeof loads / sizeof *loads : sizeof stores / sizeof *stores;
    for (size_t r = 0; r < rows && !i; r++) {
        const __typeof__(loads[0]) *row = load ? &loads[r] : (const void *)&stores[r];
        if (row->size == size && row->wide == wide && (!load || row->sign == sign))
            i = decode_ins(d, s, row->run);
    }
    if (!i) decode_stop(d, s, "register too narrow");
    i->size = (uint8_t)size;
    i->vec = (uint8_t)vec;
    if (!load) decode_address(d, s, address, space);
    for (int v = 0; v < vec; v++) {
        const Operand *o = value->kind == OPERAND_LIST ? &value->list[v] : value;
        (load ? decode_dst : decode_src)(d, s, o, wide);
    }
    if (load) decode_address(d, s, address, space);
    /* only variables of device memory have constant addresses in the constant space */
    if (space == CONSTANT) i->space = GLOBAL;
    return true;
}
