/* cpu: private header of the fast CPU backend: OpenMP over rows and blocks, SIMD inside, oneDNN for
 * the large products. Every file of this folder is compiled for each instruction set (CPU_SET is
 * its word; kernels/cpu_sets.h), with ACT_F32 (activations f32) and with ACT_BF16 (activations
 * bf16); acc is float in both. FN(slot) is the name of a slot's function in this build.
 *
 * Parallel loops have fixed partitions. A sum across partitions uses an array of partial sums that
 * is added in index order, so the bits do not depend on which thread ran which part. */
#pragma once
#include "kernels/kernels.h"
#include "kernels/cpu/simd.h"

#define CPU_NAME_(type, set, slot) cpu_##type##_##set##_##slot
#define CPU_NAME(type, set, slot) CPU_NAME_(type, set, slot)
#if defined ACT_BF16
#define FN(slot) CPU_NAME(bf16, CPU_SET, slot)
#elif defined ACT_F32
#define FN(slot) CPU_NAME(f32, CPU_SET, slot)
#else
#error "compile with ACT_F32 or ACT_BF16"
#endif

/* Device memory is host memory, so the element types are complete inside this folder (and only
 * here). */
#if defined ACT_BF16
typedef uint16_t elem;
#else
typedef float elem;
#endif
struct act {
    elem v;
};
struct acc {
    float v;
};

#define X(slot) KERNEL_TYPE(slot) FN(slot);
KERNEL_LIST(X)
#undef X
extern const Kernels FN(kernels);

/* Blocks of scratch memory, owned by the backend: grown when a larger one is requested (contents
 * are lost) and never freed. There is one block for each use, so that uses do not conflict. */
enum ScratchUse {
    SCRATCH_DNNL,
    SCRATCH_LINEAR,
    SCRATCH_WIDE,
    SCRATCH_BIAS,
    SCRATCH_PACKED,
    SCRATCH_PIECES,
    SCRATCH_LEFT,
    SCRATCH_PADDED,
    SCRATCH_WEIGHTS,
    SCRATCH_PARTIAL,
    SCRATCH_THREADS,
    SCRATCH_COUNT
};
void *FN(scratch)(enum ScratchUse use, size_t bytes);

typedef enum Element { ELEMENT_ACT, ELEMENT_F32 } Element;

/* Adds parts[chunks][n] in chunk order onto sum[n]. */
void FN(add_partials)(float *sum, const float *parts, size_t chunks, size_t n);

/* y[n] = f(x). */
void FN(activation_row)(act *y, const act *x, size_t n, Activation f);

/* Below this many elements a parallel region costs more than it saves. */
#define SERIAL_BELOW 16384

#if defined ACT_BF16
static inline float act_value(act a) { return bf16_to_float(a.v); }
static inline act act_from_float(float f) { return (act){bf16_from_float(f)}; }
static inline vf act_round(vf v) { return bf16_round(v); }
#define elem_load bf16_load
#define elem_store bf16_store
#else
static inline float act_value(act a) { return a.v; }
static inline act act_from_float(float f) { return (act){f}; }
static inline vf act_round(vf v) { return v; }
#define elem_load f32_load
#define elem_store f32_store
#endif

/* A vector at p: k lanes are loaded or stored (k >= VW: all); the others are 0 and not accessed. */
static inline vf act_load(const act *p, size_t k) { return elem_load(&p->v, k); }
static inline void act_store(act *p, vf v, size_t k) { elem_store(&p->v, v, k); }
static inline vf acc_load(const acc *p, size_t k) { return f32_load(&p->v, k); }
static inline void acc_store(acc *p, vf v, size_t k) { f32_store(&p->v, v, k); }

/* QuickGELU and GELU by tanh are v·σ(u), since ½(1 + tanh(u/2)) = σ(u). Returns u; *w = v·u'(v).
 * The cube of a large v would overflow: at |v| = 12 σ is 0 or 1 already. */
static inline vf sigmoid_input(vf v, Activation f, vf *w) {
    if (f == ACTIVATION_QUICK_GELU) return *w = v * vset(1.702f);
    vf x = vmax(vset(-12), vmin(vset(12), v)), k = x * vset(1.59576912f); /* 2√(2/π) */
    vf cube = x * x * vset(0.044715f);
    *w = vfma(k * cube, vset(3), k);
    return vfma(k, cube, k);
}

/* If act is bf16, GELU is less accurate; forward and backward give the same y in both cases. */
#if defined ACT_BF16 && VW == 16
#define GELU_ROUGH
#endif

/* Distance at which loops over long arrays prefetch in software, because the hardware's prefetcher
 * stops at the end of a page. */
#define AHEAD_BYTES 2048
static inline void ahead(const act *p) { __builtin_prefetch(p + AHEAD_BYTES / sizeof *p); }
static inline void ahead_to_write(act *p) { __builtin_prefetch(p + AHEAD_BYTES / sizeof *p, 1); }

/* Rows of a chunk if `rows` rows are cut into at most `chunks` chunks of at least `least` rows. */
static inline size_t chunk_rows(size_t rows, size_t chunks, size_t least) {
    return size_max(least, div_up(rows, chunks));
}
