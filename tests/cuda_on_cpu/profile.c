#include "tests/cuda_on_cpu/profile.h"
#include "tests/cuda_on_cpu/ptx_mem.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SECTOR = 32, BANKS = 32, WORD = 4 };
/* A place is reported if it uses this many times the minimum, and if this share of its kernel's
 * units is unnecessary. */
#define BAD 1.1
#define BAD_SHARE 0.01

static const char *const class_names[CLASSES] = {
    "load",    "store",    "cp.async", "shared",  "ldmatrix", "mma",     "special", "float",
    "integer", "division", "convert",  "shuffle", "branch",   "barrier", "atomic",  "other"};

/* An instruction of a kernel. */
typedef struct Site {
    Exec run;
    uint8_t class;
    bool counts; /* counted: one of the instructions of a statement */
    uint64_t count, lanes;
    Traffic global, shared;
} Site;
struct Profile {
    Kernel *kernel;
    Site *sites;
    uint64_t launches, blocks, warps, read, written; /* sectors, once a launch */
    Profile *next;
};
static Profile *first, **last = &first;
static pid_t owner;

/* ---- sectors that a launch has touched: chunks of memory by a hash of their number ---- */
enum { CHUNK_SECTORS = 4096, CHUNK_WORDS = CHUNK_SECTORS / 64 };
typedef struct Chunk {
    uint64_t number;               /* 0: free; device memory never starts at address 0 */
    uint64_t bits[2][CHUNK_WORDS]; /* read, written */
} Chunk;
static Chunk **chunks;
static size_t chunk_count, chunk_capacity;

static Chunk *chunk_of(uint64_t number) {
    static Chunk *hot;
    if (hot && hot->number == number) return hot;
    if (2 * chunk_count >= chunk_capacity) {
        size_t old = chunk_capacity;
        Chunk **before = chunks;
        chunk_capacity = old * 2 + 256;
        chunks = calloc(chunk_capacity, sizeof *chunks);
        for (size_t i = 0; i < old; i++) {
            if (!before[i]) continue;
            size_t at = before[i]->number % chunk_capacity;
            while (chunks[at]) at = (at + 1) % chunk_capacity;
            chunks[at] = before[i];
        }
        free(before);
    }
    size_t at = number % chunk_capacity;
    while (chunks[at] && chunks[at]->number != number) at = (at + 1) % chunk_capacity;
    if (!chunks[at]) {
        chunks[at] = calloc(1, sizeof **chunks);
        chunks[at]->number = number;
        chunk_count++;
    }
    return hot = chunks[at];
}
static void touch(uint64_t sector, bool write) {
    Chunk *c = chunk_of(sector / CHUNK_SECTORS);
    uint64_t bit = sector % CHUNK_SECTORS;
    c->bits[write][bit / 64] |= (uint64_t)1 << bit % 64;
}
/* Adds up and clears the touched sectors. */
static void collect(uint64_t *read, uint64_t *written) {
    for (size_t i = 0; i < chunk_capacity; i++) {
        Chunk *c = chunks[i];
        for (int w = 0; c && w < CHUNK_WORDS; w++) {
            *read += (uint64_t)__builtin_popcountll(c->bits[0][w]);
            *written += (uint64_t)__builtin_popcountll(c->bits[1][w]);
        }
        if (c) memset(c->bits, 0, sizeof c->bits);
    }
}

/* ---- requests ---- */
typedef struct Request {
    uint64_t at[LANES];
    uint32_t mask, bytes; /* a lane */
} Request;

static void count_global(Traffic *t, const Request *r, bool write) {
    uint64_t sector[LANES];
    uint32_t used[LANES], n = 0, bytes = 0;
    for (uint32_t m = r->mask; m; m &= m - 1) {
        uint64_t a = r->at[__builtin_ctz(m)], s = a / SECTOR;
        uint32_t mine = (uint32_t)((((uint64_t)1 << r->bytes) - 1) << a % SECTOR), k = n;
        /* neighbours mostly share a sector */
        while (k > 0 && sector[k - 1] != s) k--;
        if (!k) {
            sector[n] = s;
            used[n++] = 0;
            k = n;
            touch(s, write);
        }
        used[k - 1] |= mine;
    }
    for (uint32_t k = 0; k < n; k++) bytes += (uint32_t)__builtin_popcount(used[k]);
    t->requests++;
    t->bytes += bytes;
    t->units += n;
    t->least += (bytes + SECTOR - 1) / SECTOR;
}

/* Wavefronts of the lanes of one phase: the most words of one bank. */
static uint32_t wavefronts(const Request *r, uint32_t lanes) {
    uint64_t words[BANKS][LANES];
    uint32_t count[BANKS] = {0}, most = 0;
    for (uint32_t m = lanes; m; m &= m - 1) {
        uint64_t a = r->at[__builtin_ctz(m)];
        for (uint64_t w = a / WORD; w <= (a + r->bytes - 1) / WORD; w++) {
            uint32_t b = w % BANKS, k = 0;
            while (k < count[b] && words[b][k] != w) k++;
            if (k == count[b]) words[b][count[b]++] = w;
            if (count[b] > most) most = count[b];
        }
    }
    return most;
}
static void count_shared(Traffic *t, const Request *r) {
    uint32_t step = r->bytes <= 4 ? LANES : r->bytes == 8 ? LANES / 2 : LANES / 4;
    t->requests++;
    t->bytes += r->bytes * (uint32_t)__builtin_popcount(r->mask);
    for (uint32_t l = 0; l < LANES; l += step) {
        uint32_t lanes = r->mask & (uint32_t)((((uint64_t)1 << step) - 1) << l);
        if (!lanes) continue;
        t->units += wavefronts(r, lanes);
        t->least++;
    }
}

static Space space_of(const Ins *i, uint64_t a) {
    if (i->space != GENERIC) return (Space)i->space;
    if (a - SHARED_WINDOW < WINDOW_SIZE) return SHARED;
    return a - LOCAL_WINDOW < WINDOW_SIZE ? LOCAL : GLOBAL;
}
/* Called before it runs, since a load may overwrite its address register. */
static void count_memory(Warp *w, Ins *i, Site *s) {
    Request r = {.mask = w->mask, .bytes = (uint32_t)i->size * (i->vec ? i->vec : 1)};
    if (s->class == CLASS_LDMATRIX) {
        r.mask = (uint32_t)(((uint64_t)1 << 8 * i->vec) - 1);
        r.bytes = 16;
    }
    if (s->class == CLASS_COPY) { /* shared address, global address, bytes to read */
        Request to = {.mask = w->mask, .bytes = i->size};
        for (uint32_t m = w->mask; m; m &= m - 1) {
            int l = __builtin_ctz(m);
            to.at[l] = i->sign == 4 ? REG(uint32_t, w, i, 0)[l] : REG(uint64_t, w, i, 0)[l];
            to.at[l] += i->target;
            r.at[l] = mem_address(w, i, 1, l);
            if (i->mode && !REG(uint32_t, w, i, 2)[l]) r.mask &= ~(1u << l);
        }
        count_shared(&s->shared, &to);
        if (r.mask) count_global(&s->global, &r, false);
        return;
    }
    for (uint32_t m = r.mask; m; m &= m - 1) {
        int l = __builtin_ctz(m);
        r.at[l] = mem_address(w, i, i->dsts, l);
    }
    Space space = space_of(i, r.at[__builtin_ctz(r.mask)]);
    if (space == GLOBAL)
        count_global(&s->global, &r, s->class == CLASS_STORE);
    else if (space == SHARED && s->class != CLASS_ATOMIC)
        count_shared(&s->shared, &r);
}

static void counted(Warp *w, Ins *i) {
    Site *s = &w->block->kernel->profile->sites[i - w->block->kernel->code];
    if (s->counts) {
        s->count++;
        s->lanes += (uint64_t)__builtin_popcount(w->mask);
        if (s->class <= CLASS_LDMATRIX || s->class == CLASS_ATOMIC) count_memory(w, i, s);
    }
    s->run(w, i);
}
void profile_control(const Warp *w, const Ins *i, uint32_t lanes) {
    Profile *p = w->block->kernel->profile;
    if (!p || i->kind == K_WARP || i->kind == K_LABEL) return;
    Site *s = &p->sites[i - w->block->kernel->code];
    s->count++;
    s->lanes += (uint64_t)__builtin_popcount(lanes);
}

/* ---- classes ---- */
/* By the first word of an opcode. */
static const struct {
    const char *words;
    Class class;
} word_classes[] = {
    {" ld ldu ", CLASS_LOAD},
    {" st ", CLASS_STORE},
    {" cp ", CLASS_COPY},
    {" ldmatrix ", CLASS_LDMATRIX},
    {" mma ", CLASS_MMA},
    {" ex2 lg2 rcp rsqrt sqrt sin cos tanh ", CLASS_SPECIAL},
    {" div rem ", CLASS_DIVISION},
    {" cvt ", CLASS_CONVERT},
    {" shfl vote match redux activemask ", CLASS_SHUFFLE},
    {" bra brx ret exit ", CLASS_BRANCH},
    {" bar barrier membar fence ", CLASS_BARRIER},
    {" atom red ", CLASS_ATOMIC},
    {" mov cvta prefetch prefetchu nanosleep discard ", CLASS_OTHER},
};
static Class class_of(const char *op, const Ins *i) {
    char word[24];
    snprintf(word, sizeof word, " %.*s ", (int)strcspn(op, "."), op);
    bool real = strstr(op, ".f32") || strstr(op, ".f64") || strstr(op, "f16");
    Class c = real ? CLASS_FLOAT : CLASS_INTEGER;
    for (size_t n = 0; n < sizeof word_classes / sizeof *word_classes; n++)
        if (strstr(word_classes[n].words, word)) c = word_classes[n].class;
    if (c == CLASS_DIVISION && real) return CLASS_SPECIAL;
    if (c == CLASS_COPY && i->count == 0) return CLASS_BARRIER; /* of copies */
    if ((c == CLASS_LOAD || c == CLASS_STORE) && i->space != GLOBAL && i->space != GENERIC)
        return i->space == SHARED ? CLASS_SHARED : CLASS_OTHER;
    return c;
}

/* ---- reports ---- */
void profile_name(char *out, size_t size, const char *name) {
    char *end;
    unsigned long n = 0;
    snprintf(out, size, "%s", name);
    if (strncmp(name, "_Z", 2) || !(n = strtoul(name + 2, &end, 10)) || n >= strlen(end)) return;
    size_t at = (size_t)snprintf(out, size, "%.*s", (int)n, end);
    const char *p = end + n;
    if (*p++ != 'I') return;
    for (char open = '<'; *p && *p != 'E' && at < size; open = ',') {
        int used;
        if (*p == 'L') {
            used = (int)strcspn(p + 2, "E");
            at += (size_t)snprintf(out + at, size - at, "%c%.*s", open, used, p + 2);
            p += used + 3;
        } else {
            used = (int)strtol(p, &end, 10);
            at += (size_t)snprintf(out + at, size - at, "%c%.*s", open, used, end);
            p = end + used;
            if (used <= 0) break;
        }
    }
    if (at < size) snprintf(out + at, size - at, ">");
}

typedef struct Sums {
    uint64_t count[CLASSES], instructions, lanes;
    Traffic read, write, shared;
} Sums;
static void traffic_add(Traffic *sum, const Traffic *t) {
    sum->requests += t->requests;
    sum->bytes += t->bytes;
    sum->units += t->units;
    sum->least += t->least;
}
static Sums sums_of(const Profile *p) {
    Sums s = {0};
    for (uint32_t n = 0; n < p->kernel->code_count; n++) {
        const Site *site = &p->sites[n];
        s.count[site->class] += site->count;
        s.instructions += site->count;
        s.lanes += site->lanes;
        traffic_add(site->class == CLASS_STORE ? &s.write : &s.read, &site->global);
        traffic_add(&s.shared, &site->shared);
    }
    return s;
}
static double ratio(const Traffic *t) { return t->least ? (double)t->units / (double)t->least : 1; }

static bool is_bad(const Traffic *t, const Traffic *all) {
    return ratio(t) > BAD && (double)(t->units - t->least) > BAD_SHARE * (double)all->units;
}
static void print_bad(const Profile *p, const Sums *sums) {
    for (uint32_t n = 0; n < p->kernel->code_count; n++) {
        const Site *s = &p->sites[n];
        const Stmt *stmt = &p->kernel->stmts[p->kernel->code[n].stmt];
        const Traffic *all = s->class == CLASS_STORE ? &sums->write : &sums->read;
        const Traffic *bad = is_bad(&s->global, all)             ? &s->global
                             : is_bad(&s->shared, &sums->shared) ? &s->shared
                                                                 : NULL;
        if (!bad) continue;
        char where[512];
        ptx_where(p->kernel, stmt, where, sizeof where);
        fprintf(stderr, "  %.2f times the least, %llu %s of %llu requests%s: %.*s\n", ratio(bad),
                (unsigned long long)bad->units, bad == &s->global ? "sectors" : "wavefronts",
                (unsigned long long)bad->requests, where, (int)strcspn(stmt->text, ";\n"),
                stmt->text);
    }
}
static void print_table(void) {
    char name[64];
    fprintf(stderr,
            "cudaemu: profile: counts of what was executed, not times\n"
            "%-26s %8s %8s %9s %11s %6s %10s %10s %6s %6s %10s %6s\n",
            "kernel", "launches", "blocks", "warps", "instr", "lanes", "read kB", "write kB",
            "read/", "write/", "wavefronts", "shared/");
    for (const Profile *p = first; p; p = p->next) {
        if (!p->launches) continue;
        Sums s = sums_of(p);
        profile_name(name, sizeof name, p->kernel->name);
        fprintf(stderr,
                "%-26s %8llu %8llu %9llu %11llu %6.2f %10.1f %10.1f %6.3f %6.3f %10llu %6.3f\n",
                name, (unsigned long long)p->launches, (unsigned long long)p->blocks,
                (unsigned long long)p->warps, (unsigned long long)s.instructions,
                (double)s.lanes / (double)s.instructions, 1e-3 * SECTOR * (double)p->read,
                1e-3 * SECTOR * (double)p->written, ratio(&s.read), ratio(&s.write),
                (unsigned long long)s.shared.units, ratio(&s.shared));
        print_bad(p, &s);
    }
    fprintf(stderr, "\n%-26s", "kernel, instructions");
    for (int c = 0; c < CLASSES; c++) fprintf(stderr, " %9s", class_names[c]);
    for (const Profile *p = first; p; p = p->next) {
        if (!p->launches) continue;
        Sums s = sums_of(p);
        profile_name(name, sizeof name, p->kernel->name);
        fprintf(stderr, "\n%-26s", name);
        for (int c = 0; c < CLASSES; c++) fprintf(stderr, " %9llu", (unsigned long long)s.count[c]);
    }
    fputc('\n', stderr);
}

static void json_traffic(FILE *f, const char *name, const Traffic *t) {
    fprintf(f, ", \"%s\": {\"requests\": %llu, \"bytes\": %llu, \"units\": %llu, \"least\": %llu}",
            name, (unsigned long long)t->requests, (unsigned long long)t->bytes,
            (unsigned long long)t->units, (unsigned long long)t->least);
}
/* A line a kernel. */
static void print_json(const char *path) {
    FILE *f = fopen(path, "a");
    if (!f) {
        emu_warn("CUDAEMU_PROFILE: cannot write %s", path);
        return;
    }
    char name[64];
    for (const Profile *p = first; p; p = p->next) {
        if (!p->launches) continue;
        Sums s = sums_of(p);
        profile_name(name, sizeof name, p->kernel->name);
        fprintf(f,
                "{\"kernel\": \"%s\", \"launches\": %llu, \"blocks\": %llu, \"warps\": %llu, "
                "\"instructions\": %llu, \"lanes\": %llu, \"sectors_read\": %llu, "
                "\"sectors_written\": %llu",
                name, (unsigned long long)p->launches, (unsigned long long)p->blocks,
                (unsigned long long)p->warps, (unsigned long long)s.instructions,
                (unsigned long long)s.lanes, (unsigned long long)p->read,
                (unsigned long long)p->written);
        json_traffic(f, "read", &s.read);
        json_traffic(f, "write", &s.write);
        json_traffic(f, "shared_memory", &s.shared);
        for (int c = 0; c < CLASSES; c++)
            fprintf(f, ", \"%s\": %llu", class_names[c], (unsigned long long)s.count[c]);
        fputs("}\n", f);
    }
    fclose(f);
}
static void print_all(void) {
    if (owner != getpid()) return;
    const char *to = emu_options()->profile;
    if (strcmp(to, "1"))
        print_json(to);
    else
        print_table();
}

/* ---- kernels ---- */
void profile_decode(Kernel *k) {
    if (!emu_options()->profile) return;
    if (!first) atexit(print_all);
    owner = getpid();
    Profile *p = calloc(1, sizeof *p);
    p->kernel = k;
    p->sites = calloc(k->code_count, sizeof *p->sites);
    for (uint32_t n = 0; n < k->code_count; n++) {
        Ins *i = &k->code[n];
        Site *s = &p->sites[n];
        s->counts = i->kind != K_LABEL && (n + 1 == k->code_count || i[1].stmt != i->stmt);
        s->run = i->run;
        if (k->stmts[i->stmt].op) s->class = class_of(k->stmts[i->stmt].op, i);
        if (i->run) i->run = counted;
    }
    k->profile = p;
    *last = p;
    last = &p->next;
}
void profile_begin(Kernel *k, uint64_t blocks, uint64_t warps) {
    if (!k->profile) return;
    k->profile->launches++;
    k->profile->blocks += blocks;
    k->profile->warps += blocks * warps;
}
void profile_end(Kernel *k) {
    if (k->profile) collect(&k->profile->read, &k->profile->written);
}
