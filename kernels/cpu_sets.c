/* On x86 compiled for any CPU, unlike all other files, because it looks at the CPU before they run.
 */
#include "kernels/cpu_sets.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined __aarch64__
const char *const cpu_set_names[CPU_SETS] = {"neon"};

static bool has_neon(void) { return true; }
static bool (*const has[CPU_SETS])(void) = {has_neon};

bool cpu_set_bf16(CpuSet set) {
    (void)set;
    return false;
}
#else
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

const char *const cpu_set_names[CPU_SETS] = {"v3", "v4", "v4bf16", "amx"};

/* What x86-64-v3 has and not every compiler's __builtin_cpu_supports knows. */
static bool has_small_parts(void) {
    enum { MOVBE = 1 << 22, F16C = 1 << 29, LZCNT = 1 << 5 };
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & MOVBE) && (c & F16C) &&
           __get_cpuid(0x80000001, &a, &b, &c, &d) && (c & LZCNT);
}
static bool has_v3(void) {
    return has_small_parts() && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
}
static bool has_v4(void) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl");
}
static bool has_bf16(void) { return __builtin_cpu_supports("avx512bf16"); }
/* The kernel lets a process use the registers of tiles once it has asked for them. */
static bool has_amx(void) {
    enum { AMX_BF16 = 1 << 22, AMX_TILE = 1 << 24 };
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && d & AMX_BF16 && d & AMX_TILE &&
           !syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA);
}
static bool (*const has[CPU_SETS])(void) = {has_v3, has_v4, has_bf16, has_amx};

/* Nothing that is compiled for more than this file is called here. */
__attribute__((constructor)) static void refuse_old_cpu(void) {
    static const char line[] = "clipc: this CPU has no AVX2 with FMA, which clipc needs: use an "
                               "x86-64-v3 CPU (Intel from 2013 on, AMD from 2015 on)\n";
    __builtin_cpu_init();
    if (has_v3()) return;
    if (write(STDERR_FILENO, line, sizeof line - 1) < 0) _exit(EXIT_ERROR);
    _exit(EXIT_ERROR);
}

bool cpu_set_bf16(CpuSet set) { return set >= CPU_V4BF16; }
#endif

CpuSet cpu_set_best(void) {
    static atomic_int best;
    int set = atomic_load(&best);
    if (!set) {
        while (set + 1 < CPU_SETS && has[set + 1]()) set++;
        atomic_store(&best, set);
    }
    return (CpuSet)set;
}

bool cpu_set_find(CpuSet *set, const char *word, CpuSet best, Error *err) {
    char had[64] = "";
    for (int i = 0; i <= (int)best; i++) {
        if (!word ? i == (int)best : !strcmp(word, cpu_set_names[i])) {
            *set = (CpuSet)i;
            return true;
        }
        size_t n = strlen(had);
        snprintf(had + n, sizeof had - n, "%s%s", i ? ", " : "", cpu_set_names[i]);
    }
    for (int i = (int)best + 1; i < CPU_SETS; i++)
        if (!strcmp(word, cpu_set_names[i]))
            return error_set(err, "CLIPC_CPU=%s: this machine lacks it and has %s", word, had);
    return error_set(err, "CLIPC_CPU=%s is no instruction set: this machine has %s", word, had);
}

static const char *named_set(void) {
    const char *word = getenv("CLIPC_CPU");
    return word && *word ? word : NULL;
}

bool cpu_set_named(void) { return named_set() != NULL; }

static atomic_int chosen = -1;

CpuSet cpu_set(void) {
    int known = atomic_load_explicit(&chosen, memory_order_relaxed);
    if (known >= 0) return (CpuSet)known;
    CpuSet set;
    Error err;
    if (!cpu_set_find(&set, named_set(), cpu_set_best(), &err)) die("%s", err.text);
    atomic_store(&chosen, (int)set);
    return set;
}

void cpu_set_lower(CpuSet set) {
    assert(set <= cpu_set());
    atomic_store(&chosen, (int)set);
}
