/* ptx_ops: macros that turn a list of instructions into functions and table rows. A list names each
 * instruction once: X(function, "names", type of d, types of a, b, c, expression in a, b, c). */
#pragma once
#include "tests/cuda_on_cpu/ptx.h"

typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int16_t s16;
typedef int32_t s32;
typedef int64_t s64;
typedef float f32;
typedef double f64;

#define FN1(fn, names, TD, TA, e)                                                                  \
    static void fn(Warp *w, Ins *i) {                                                              \
        TD *rd = REG(TD, w, i, 0);                                                                 \
        const TA *ra = REG(TA, w, i, 1);                                                           \
        EACH(w, {                                                                                  \
            TA a = ra[l];                                                                          \
            rd[l] = (TD)(e);                                                                       \
        });                                                                                        \
    }
#define FN2(fn, names, TD, TA, TB, e)                                                              \
    static void fn(Warp *w, Ins *i) {                                                              \
        TD *rd = REG(TD, w, i, 0);                                                                 \
        const TA *ra = REG(TA, w, i, 1);                                                           \
        const TB *rb = REG(TB, w, i, 2);                                                           \
        EACH(w, {                                                                                  \
            TA a = ra[l];                                                                          \
            TB b = rb[l];                                                                          \
            rd[l] = (TD)(e);                                                                       \
        });                                                                                        \
    }
#define FN3(fn, names, TD, TA, TB, TC, e)                                                          \
    static void fn(Warp *w, Ins *i) {                                                              \
        TD *rd = REG(TD, w, i, 0);                                                                 \
        const TA *ra = REG(TA, w, i, 1);                                                           \
        const TB *rb = REG(TB, w, i, 2);                                                           \
        const TC *rc = REG(TC, w, i, 3);                                                           \
        EACH(w, {                                                                                  \
            TA a = ra[l];                                                                          \
            TB b = rb[l];                                                                          \
            TC c = rc[l];                                                                          \
            rd[l] = (TD)(e);                                                                       \
        });                                                                                        \
    }
/* comparison: a predicate of a and b */
#define FNP(fn, names, T, e)                                                                       \
    static void fn(Warp *w, Ins *i) {                                                              \
        const T *ra = REG(T, w, i, 1), *rb = REG(T, w, i, 2);                                      \
        u32 p = 0;                                                                                 \
        EACH(w, {                                                                                  \
            T a = ra[l];                                                                           \
            T b = rb[l];                                                                           \
            p |= (u32)(e) << l;                                                                    \
        });                                                                                        \
        PRED(w, i, 0) = (PRED(w, i, 0) & ~w->mask) | p;                                            \
    }
/* choice by predicate p: a or b */
#define FNS(fn, names, T)                                                                          \
    static void fn(Warp *w, Ins *i) {                                                              \
        T *rd = REG(T, w, i, 0);                                                                   \
        const T *ra = REG(T, w, i, 1), *rb = REG(T, w, i, 2);                                      \
        u32 p = PRED(w, i, 3);                                                                     \
        EACH(w, rd[l] = p >> l & 1 ? ra[l] : rb[l]);                                               \
    }
/* predicates: whole words */
#define FNB(fn, names, n, e)                                                                       \
    static void fn(Warp *w, Ins *i) {                                                              \
        u32 a = PRED(w, i, 1), b = PRED(w, i, (n) > 1 ? 2 : 1);                                    \
        (void)b;                                                                                   \
        PRED(w, i, 0) = (PRED(w, i, 0) & ~w->mask) | ((e)&w->mask);                                \
    }
#define ROW1(fn, names, TD, TA, e) {names, fn, 2, {sizeof(TD), sizeof(TA)}},
#define ROW2(fn, names, TD, TA, TB, e) {names, fn, 3, {sizeof(TD), sizeof(TA), sizeof(TB)}},
#define ROW3(fn, names, TD, TA, TB, TC, e)                                                         \
    {names, fn, 4, {sizeof(TD), sizeof(TA), sizeof(TB), sizeof(TC)}},
#define ROWP(fn, names, T, e) {names, fn, 3, {1, sizeof(T), sizeof(T)}},
#define ROWS(fn, names, T) {names, fn, 4, {sizeof(T), sizeof(T), sizeof(T), 1}},
#define ROWB(fn, names, n, e) {names, fn, (n) + 1, {1, 1, 1}},
