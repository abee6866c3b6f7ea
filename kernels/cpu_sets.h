/* cpu_sets: the instruction sets that kernels/cpu is compiled for, and the one that this process
 * uses. Each set includes those before it, so a machine has a first part of the list. */
#pragma once
#include "kernels/base.h"

typedef enum CpuSet {
#if defined __aarch64__
    CPU_NEON, /* armv8-a */
#else
    CPU_V3,     /* x86-64-v3: AVX2 and FMA */
    CPU_V4,     /* x86-64-v4: AVX-512 */
    CPU_V4BF16, /* and products of bf16 */
    CPU_AMX,    /* and products of tiles of bf16 */
#endif
    CPU_SETS
} CpuSet;
extern const char *const cpu_set_names[CPU_SETS];

/* Returns true if the kernels of this set multiply bf16 by instructions. */
bool cpu_set_bf16(CpuSet set);

/* The last set that this machine has. */
CpuSet cpu_set_best(void);
/* The set called `word` on a machine whose last one is `best`; NULL: that one. */
bool cpu_set_find(CpuSet *set, const char *word, CpuSet best, Error *err);
/* The set of this process: what CLIPC_CPU in the environment names, else the last one; exits with
 * an error if that cannot be. The same at every call, except after cpu_set_lower. */
CpuSet cpu_set(void);
/* True if CLIPC_CPU names it. */
bool cpu_set_named(void);
/* From here on an earlier set than cpu_set() is used. Kernels that are open keep theirs: call it
 * before the first product, and open them again. */
void cpu_set_lower(CpuSet set);
