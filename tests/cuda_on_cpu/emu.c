#include "tests/cuda_on_cpu/emu.h"
#include <cuda_runtime_api.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PAGE = 4096 };
#define RESERVED ((size_t)1 << 38)

static struct {
    bool ready;
    pid_t pid;
    int file;
    unsigned char *device, *bytes; /* the same pages, mapped without and with access */
    size_t next, used;
    Buffer **live; /* by address */
    size_t count, capacity;
    Buffer **freed;
    size_t freed_count;
    uint64_t serial;
} mem;

typedef struct Pin {
    const unsigned char *start;
    size_t size;
    bool own;
} Pin;
static Pin *pins;
static size_t pin_count;
static uint64_t random_state;

static long env_number(const char *name, long otherwise) {
    const char *s = getenv(name);
    if (!s || !*s) return otherwise;
    char *end;
    long value = strtol(s, &end, 10);
    if (*end) emu_stop("%s=%s is not a number", name, s);
    return value;
}

const EmuOptions *emu_options(void) {
    static EmuOptions o;
    static bool ready;
    if (ready) return &o;
    const char *lanes = getenv("CUDAEMU_LANES");
    if (lanes && strcmp(lanes, "alone") && strcmp(lanes, "together"))
        emu_stop("CUDAEMU_LANES=%s: alone or together", lanes);
    o = (EmuOptions){.order = (int)env_number("CUDAEMU_ORDER", 0),
                     .async = (int)env_number("CUDAEMU_ASYNC", 0),
                     .arch = (int)env_number("CUDAEMU_ARCH", 80),
                     .devices = (int)env_number("CUDAEMU_DEVICES", 1),
                     .driver = (int)env_number("CUDAEMU_DRIVER", CUDART_VERSION),
                     .alone = lanes && !strcmp(lanes, "alone"),
                     .race = env_number("CUDAEMU_RACE", 0) != 0,
                     .leaks = env_number("CUDAEMU_LEAKS", 0) != 0,
                     .bgrad = env_number("CUDAEMU_BGRAD", 1) != 0,
                     .strict = env_number("CUDAEMU_STRICT", 0) != 0,
                     .quiet = env_number("CUDAEMU_QUIET", 0) != 0,
                     .allocations = env_number("CUDAEMU_ALLOCATIONS", 0) != 0,
                     .memory = (size_t)env_number("CUDAEMU_MEMORY", 4096) << 20,
                     .nccl = (size_t)env_number("CUDAEMU_NCCL", 4) << 20,
                     .steps = (uint64_t)env_number("CUDAEMU_STEPS", 2000000000),
                     .timeout = (double)env_number("CUDAEMU_TIMEOUT", 20)};
    if (o.order < 0 || o.order > 2 || o.async < 0 || o.async > 2)
        emu_stop("CUDAEMU_ORDER and CUDAEMU_ASYNC are 0, 1 or 2");
    const char *profile = getenv("CUDAEMU_PROFILE");
    if (profile && *profile && strcmp(profile, "0")) o.profile = profile;
    random_state = (uint64_t)env_number("CUDAEMU_SEED", 1);
    ready = true;
    return &o;
}

static void say(const char *fmt, va_list args) {
    char line[2048];
    int n = snprintf(line, sizeof line, "cudaemu: ");
    vsnprintf(line + n, sizeof line - (size_t)n - 1, fmt, args);
    strcat(line, "\n");
    fflush(stdout);
    fputs(line, stderr);
    fflush(stderr);
}
void emu_stop(const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    say(fmt, args);
    va_end(args);
    _exit(EMU_EXIT);
}
void emu_warn(const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    say(fmt, args);
    va_end(args);
}

uint32_t emu_random(uint32_t n) {
    emu_options();
    uint64_t z = random_state += 0x9E3779B97F4A7C15u; /* SplitMix64 */
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return (uint32_t)(((z ^ (z >> 31)) >> 32) * n >> 32);
}
void emu_order(uint32_t *index, uint32_t n) {
    int order = emu_options()->order;
    for (uint32_t i = 0; i < n; i++) index[i] = order == 1 ? n - 1 - i : i;
    if (order != 2) return;
    for (uint32_t i = n; i > 1; i--) {
        uint32_t j = emu_random(i), t = index[i - 1];
        index[i - 1] = index[j];
        index[j] = t;
    }
}

/* ---- device memory ---- */
bool mem_is_device(uint64_t address) {
    return mem.ready && address - (uint64_t)(uintptr_t)mem.device < RESERVED;
}

static void host_touched(int sig, siginfo_t *info, void *context) {
    (void)context;
    uint64_t at = (uint64_t)(uintptr_t)info->si_addr;
    if (mem_is_device(at)) emu_stop("host code touches device memory: %s", mem_describe(at));
    signal(sig, SIG_DFL);
}

static void check_leaks(void) {
    if (mem.pid != getpid()) return;
    size_t count = 0;
    const Buffer *first = NULL;
    for (size_t i = mem.count; i-- > 0;)
        if (!mem.live[i]->permanent) first = mem.live[i], count++;
    if (!count) return;
    emu_stop("%zu device buffers are still allocated at exit, first: number %llu, %zu bytes", count,
             (unsigned long long)first->serial, first->size);
}

static void mem_open(void) {
    if (mem.ready) {
        if (mem.pid != getpid()) emu_stop("CUDA was used before fork() and after it in the child");
        return;
    }
    mem.file = memfd_create("cudaemu", MFD_CLOEXEC);
    if (mem.file < 0 || ftruncate(mem.file, RESERVED)) emu_stop("cannot reserve device memory");
    int flags = MAP_SHARED | MAP_NORESERVE;
    mem.device = mmap(NULL, RESERVED, PROT_NONE, flags, mem.file, 0);
    mem.bytes = mmap(NULL, RESERVED, PROT_READ | PROT_WRITE, flags, mem.file, 0);
    if (mem.device == MAP_FAILED || mem.bytes == MAP_FAILED) emu_stop("cannot map device memory");
    mem.pid = getpid();
    mem.next = PAGE;
    mem.ready = true;
    struct sigaction act = {.sa_sigaction = host_touched, .sa_flags = SA_SIGINFO};
    sigaction(SIGSEGV, &act, NULL);
    sigaction(SIGBUS, &act, NULL);
    if (emu_options()->leaks) atexit(check_leaks);
}

/* The number of live buffers that start at or below the address. */
static size_t rank_of(uint64_t address) {
    size_t lo = 0, hi = mem.count;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (mem.live[mid]->start <= address)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

Buffer *mem_alloc(size_t bytes) {
    mem_open();
    if (bytes > emu_options()->memory - mem.used) return NULL;
    /* Addresses are aligned to exactly 256 bytes, as on real devices. */
    size_t at = mem.next + 256 * (1 + mem.serial % 13);
    size_t end = (at + bytes + 2 * PAGE - 1) / PAGE * PAGE;
    if (end > RESERVED) emu_stop("out of device addresses: %zu bytes were allocated in all", at);
    mem.next = end;
    mem.used += bytes;
    Buffer *b = calloc(1, sizeof *b);
    *b = (Buffer){(uint64_t)(uintptr_t)mem.device + at, bytes, ++mem.serial, true, false, NULL};
    if (mem.count == mem.capacity) {
        mem.capacity = mem.capacity * 2 + 64;
        mem.live = realloc(mem.live, mem.capacity * sizeof *mem.live);
    }
    mem.live[mem.count++] = b;
    memset(mem.bytes + at, 0xFF, bytes);
    return b;
}

bool mem_free(const void *device) {
    mem_open();
    uint64_t address = (uint64_t)(uintptr_t)device;
    size_t i = rank_of(address);
    if (!i || mem.live[i - 1]->start != address) return false;
    Buffer *b = mem.live[i - 1];
    memmove(mem.live + i - 1, mem.live + i, (mem.count - i) * sizeof *mem.live);
    mem.count--;
    mem.used -= b->size;
    b->live = false;
    free(b->shadow);
    b->shadow = NULL;
    mem.freed = realloc(mem.freed, (mem.freed_count + 1) * sizeof *mem.freed);
    mem.freed[mem.freed_count++] = b;
    size_t at = b->start - (uint64_t)(uintptr_t)mem.device;
    madvise(mem.bytes + at / PAGE * PAGE, at % PAGE + b->size, MADV_REMOVE);
    return true;
}

const Buffer *mem_find(uint64_t address) {
    size_t i = rank_of(address);
    if (!i) return NULL;
    const Buffer *b = mem.live[i - 1];
    return address - b->start < b->size ? b : NULL;
}
void *mem_bytes(uint64_t address) { return mem.bytes + (address - (uintptr_t)mem.device); }
size_t mem_used(void) { return mem.used; }

const char *mem_describe(uint64_t address) {
    static char text[256];
    if (!mem_is_device(address)) {
        snprintf(text, sizeof text, "%#llx is %s", (unsigned long long)address,
                 address < 65536 ? "a null pointer" : "host memory or no memory");
        return text;
    }
    for (size_t i = mem.freed_count; i-- > 0;) {
        const Buffer *b = mem.freed[i];
        if (address - b->start >= b->size) continue;
        snprintf(text, sizeof text, "byte %llu of freed buffer %llu (%zu bytes)",
                 (unsigned long long)(address - b->start), (unsigned long long)b->serial, b->size);
        return text;
    }
    size_t i = rank_of(address);
    const Buffer *below = i ? mem.live[i - 1] : NULL;
    const Buffer *above = i < mem.count ? mem.live[i] : NULL;
    if (above && (!below || above->start - address < address - (below->start + below->size)))
        snprintf(text, sizeof text, "%llu bytes before buffer %llu (%zu bytes)",
                 (unsigned long long)(above->start - address), (unsigned long long)above->serial,
                 above->size);
    else if (below && address - below->start < below->size)
        snprintf(text, sizeof text, "byte %llu of buffer %llu (%zu bytes)",
                 (unsigned long long)(address - below->start), (unsigned long long)below->serial,
                 below->size);
    else if (below)
        snprintf(text, sizeof text, "%llu bytes past the end of buffer %llu (%zu bytes)",
                 (unsigned long long)(address - below->start - below->size),
                 (unsigned long long)below->serial, below->size);
    else
        snprintf(text, sizeof text, "%#llx lies in no buffer", (unsigned long long)address);
    return text;
}

void *mem_range(const void *device, size_t bytes, const char *what) {
    uint64_t at = (uint64_t)(uintptr_t)device;
    const Buffer *b = mem_is_device(at) ? mem_find(at) : NULL;
    if (!b) emu_stop("%s: %s", what, mem_describe(at));
    if (bytes > b->size - (at - b->start))
        emu_stop("%s: %zu bytes from byte %llu of buffer %llu, which has %zu", what, bytes,
                 (unsigned long long)(at - b->start), (unsigned long long)b->serial, b->size);
    return mem_bytes(at);
}

/* ---- pinned host memory ---- */
void mem_pin_range(const void *host, size_t bytes) {
    pins = realloc(pins, (pin_count + 1) * sizeof *pins);
    pins[pin_count++] = (Pin){host, bytes, false};
}
void *mem_pin(size_t bytes) {
    void *p =
        mmap(NULL, bytes + !bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) return NULL;
    memset(p, 0xFF, bytes);
    mem_pin_range(p, bytes);
    pins[pin_count - 1].own = true;
    return p;
}
static bool drop_pin(const void *host, bool own) {
    for (size_t i = 0; i < pin_count; i++) {
        if (pins[i].start != host || pins[i].own != own) continue;
        if (own) munmap((void *)(uintptr_t)host, pins[i].size + !pins[i].size);
        pins[i] = pins[--pin_count];
        return true;
    }
    return false;
}
bool mem_unpin(void *host) { return drop_pin(host, true); }
bool mem_unpin_range(const void *host) { return drop_pin(host, false); }
bool mem_is_pinned(const void *host) {
    for (size_t i = 0; i < pin_count; i++)
        if ((size_t)((const unsigned char *)host - pins[i].start) < pins[i].size) return true;
    return false;
}
