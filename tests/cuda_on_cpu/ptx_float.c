/* ptx_float: f32, f64 and bf16 arithmetic. One rounding an instruction: this file is compiled
 * without contraction. The .approx instructions are computed by libm, more exactly than on a GPU.
 */
#include "tests/cuda_on_cpu/ptx_ops.h"
#include <fenv.h>
#include <math.h>

static f32 as_f32(u32 v) {
    union {
        u32 u;
        f32 f;
    } x = {.u = v};
    return x.f;
}
static u32 f32_bits(f32 v) {
    union {
        f32 f;
        u32 u;
    } x = {.f = v};
    return x.u;
}
static f32 flush(f32 v) {
    u32 b = f32_bits(v);
    return (b & 0x7F800000u) ? v : as_f32(b & 0x80000000u);
}
static f32 clamp01(f32 v) { return v > 0 ? (v < 1 ? v : 1) : 0; }
/* the other operand when one is not a number; -0 is less than +0 */
static f32 fmin32(f32 a, f32 b) {
    if (a != a) return b == b ? b : as_f32(0x7FFFFFFF);
    if (b != b) return a;
    if (a == b) return as_f32(f32_bits(a) | (f32_bits(b) & 0x80000000u));
    return a < b ? a : b;
}
static f32 fmax32(f32 a, f32 b) {
    if (a != a) return b == b ? b : as_f32(0x7FFFFFFF);
    if (b != b) return a;
    if (a == b) return as_f32(f32_bits(a) & (f32_bits(b) | 0x7FFFFFFFu));
    return a > b ? a : b;
}

/* two bf16 in a word */
#define HALVES(e_low, e_high) ((u32)float_bf16(e_low) | (u32)float_bf16(e_high) << 16)
static f32 low(u32 v) { return as_f32(v << 16); }
static f32 high(u32 v) { return as_f32(v & 0xFFFF0000u); }
/* a*b + c rounded once to bf16: exact in f64, whereas a f32 sum could round twice */
static u16 fma_bf16(f32 a, f32 b, f32 c) {
    f64 exact = (f64)a * b + c;
    f32 r = (f32)exact;
    if (isfinite(r) && (f64)r != exact && !(f32_bits(r) & 0x7FFF) && (f32_bits(r) & 0x8000))
        r = nextafterf(r, exact > r ? INFINITY : -INFINITY);
    return float_bf16(r);
}
static u16 relu_bf16(u16 v) { return v & 0x8000 && (v & 0x7FFF) <= 0x7F80 ? 0 : v; }
static u32 fma_bf16x2(u32 a, u32 b, u32 c) {
    return fma_bf16(low(a), low(b), low(c)) | (u32)fma_bf16(high(a), high(b), high(c)) << 16;
}

#define OPS1(X)                                                                                    \
    X(ftz, "ftz", f32, f32, flush(a))                                                              \
    X(sat, "sat", f32, f32, clamp01(a))                                                            \
    X(neg_f32, "neg.f32", u32, u32, a ^ 0x80000000u)                                               \
    X(abs_f32, "abs.f32", u32, u32, a & 0x7FFFFFFFu)                                               \
    X(neg_f64, "neg.f64", f64, f64, -a)                                                            \
    X(abs_f64, "abs.f64", f64, f64, fabs(a))                                                       \
    X(rcp32, "rcp.rn.f32 rcp.approx.f32", f32, f32, 1 / a)                                         \
    X(rcp32_ftz, "rcp.approx.ftz.f32", f32, f32, flush(1 / flush(a)))                              \
    X(rcp64, "rcp.rn.f64", f64, f64, 1 / a)                                                        \
    X(rcp64_approx, "rcp.approx.ftz.f64", f64, f64, (f32)(1 / a))                                  \
    X(sqrt32, "sqrt.rn.f32 sqrt.approx.f32", f32, f32, sqrtf(a))                                   \
    X(sqrt32_ftz, "sqrt.approx.ftz.f32", f32, f32, sqrtf(flush(a)))                                \
    X(sqrt64, "sqrt.rn.f64", f64, f64, sqrt(a))                                                    \
    X(rsqrt32, "rsqrt.approx.f32", f32, f32, 1 / sqrtf(a))                                         \
    X(rsqrt32_ftz, "rsqrt.approx.ftz.f32", f32, f32, 1 / sqrtf(flush(a)))                          \
    X(rsqrt64, "rsqrt.approx.f64 rsqrt.approx.ftz.f64", f64, f64, 1 / sqrt(a))                     \
    X(ex2_, "ex2.approx.f32", f32, f32, exp2f(a))                                                  \
    X(ex2_ftz, "ex2.approx.ftz.f32", f32, f32, flush(exp2f(a)))                                    \
    X(lg2_, "lg2.approx.f32", f32, f32, log2f(a))                                                  \
    X(lg2_ftz, "lg2.approx.ftz.f32", f32, f32, log2f(flush(a)))                                    \
    X(sin_, "sin.approx.f32 sin.approx.ftz.f32", f32, f32, sinf(a))                                \
    X(cos_, "cos.approx.f32 cos.approx.ftz.f32", f32, f32, cosf(a))                                \
    X(tanh_, "tanh.approx.f32", f32, f32, tanhf(a))                                                \
    X(neg_bf16, "neg.bf16", u16, u16, a ^ 0x8000)                                                  \
    X(abs_bf16, "abs.bf16", u16, u16, a & 0x7FFF)                                                  \
    X(neg_bf16x2, "neg.bf16x2", u32, u32, a ^ 0x80008000u)                                         \
    X(abs_bf16x2, "abs.bf16x2", u32, u32, a & 0x7FFF7FFFu)                                         \
    X(tanh_bf16, "tanh.approx.bf16", u16, u16, float_bf16(tanhf(bf16_float(a))))                   \
    X(tanh_bf16x2, "tanh.approx.bf16x2", u32, u32, HALVES(tanhf(low(a)), tanhf(high(a))))          \
    X(ex2_bf16, "ex2.approx.ftz.bf16", u16, u16, float_bf16(exp2f(bf16_float(a))))                 \
    X(ex2_bf16x2, "ex2.approx.ftz.bf16x2", u32, u32, HALVES(exp2f(low(a)), exp2f(high(a))))

#define OPS2(X)                                                                                    \
    X(add_f32, "add.f32 add.rn.f32", f32, f32, f32, a + b)                                         \
    X(sub_f32, "sub.f32 sub.rn.f32", f32, f32, f32, a - b)                                         \
    X(mul_f32, "mul.f32 mul.rn.f32", f32, f32, f32, a *b)                                          \
    X(div_f32, "div.rn.f32 div.full.f32 div.approx.f32", f32, f32, f32, a / b)                     \
    X(min_f32, "min.f32", f32, f32, f32, fmin32(a, b))                                             \
    X(max_f32, "max.f32", f32, f32, f32, fmax32(a, b))                                             \
    X(copysign_f32, "copysign.f32", u32, u32, u32, (b & 0x7FFFFFFFu) | (a & 0x80000000u))          \
    X(add_f64, "add.f64 add.rn.f64", f64, f64, f64, a + b)                                         \
    X(sub_f64, "sub.f64 sub.rn.f64", f64, f64, f64, a - b)                                         \
    X(mul_f64, "mul.f64 mul.rn.f64", f64, f64, f64, a *b)                                          \
    X(div_f64, "div.rn.f64", f64, f64, f64, a / b)                                                 \
    X(min_f64, "min.f64", f64, f64, f64, fmin(a, b))                                               \
    X(max_f64, "max.f64", f64, f64, f64, fmax(a, b))                                               \
    X(copysign_f64, "copysign.f64", f64, f64, f64, copysign(b, a))                                 \
    X(add_bf16, "add.bf16 add.rn.bf16", u16, u16, u16, fma_bf16(bf16_float(a), 1, bf16_float(b)))  \
    X(sub_bf16, "sub.bf16 sub.rn.bf16", u16, u16, u16, fma_bf16(bf16_float(b), -1, bf16_float(a))) \
    X(mul_bf16, "mul.bf16 mul.rn.bf16", u16, u16, u16,                                             \
      fma_bf16(bf16_float(a), bf16_float(b), -0.0f))                                               \
    X(min_bf16, "min.bf16", u16, u16, u16, float_bf16(fmin32(bf16_float(a), bf16_float(b))))       \
    X(max_bf16, "max.bf16", u16, u16, u16, float_bf16(fmax32(bf16_float(a), bf16_float(b))))       \
    X(add_bf16x2, "add.bf16x2 add.rn.bf16x2", u32, u32, u32, fma_bf16x2(a, 0x3F803F80u, b))        \
    X(sub_bf16x2, "sub.bf16x2 sub.rn.bf16x2", u32, u32, u32, fma_bf16x2(b, 0xBF80BF80u, a))        \
    X(mul_bf16x2, "mul.bf16x2 mul.rn.bf16x2", u32, u32, u32, fma_bf16x2(a, b, 0x80008000u))        \
    X(min_bf16x2, "min.bf16x2", u32, u32, u32,                                                     \
      HALVES(fmin32(low(a), low(b)), fmin32(high(a), high(b))))                                    \
    X(max_bf16x2, "max.bf16x2", u32, u32, u32,                                                     \
      HALVES(fmax32(low(a), low(b)), fmax32(high(a), high(b))))

#define OPS3(X)                                                                                    \
    X(fma_f32, "fma.rn.f32", f32, f32, f32, f32, __builtin_fmaf(a, b, c))                          \
    X(fma_f64, "fma.rn.f64", f64, f64, f64, f64, __builtin_fma(a, b, c))                           \
    X(fma_rn_bf16, "fma.rn.bf16", u16, u16, u16, u16,                                              \
      fma_bf16(bf16_float(a), bf16_float(b), bf16_float(c)))                                       \
    X(fma_relu_bf16, "fma.rn.relu.bf16", u16, u16, u16, u16,                                       \
      relu_bf16(fma_bf16(bf16_float(a), bf16_float(b), bf16_float(c))))                            \
    X(fma_rn_bf16x2, "fma.rn.bf16x2", u32, u32, u32, u32, fma_bf16x2(a, b, c))

/* ordered comparisons are false and the u forms true when an operand is not a number */
#define COMPARE(X, T)                                                                              \
    X(eq_##T, "setp.eq." #T, T, a == b)                                                            \
    X(ne_##T, "setp.ne." #T, T, a<b || a> b)                                                       \
    X(lt_##T, "setp.lt." #T, T, a < b)                                                             \
    X(le_##T, "setp.le." #T, T, a <= b)                                                            \
    X(gt_##T, "setp.gt." #T, T, a > b)                                                             \
    X(ge_##T, "setp.ge." #T, T, a >= b)                                                            \
    X(equ_##T, "setp.equ." #T, T, !(a < b || a > b))                                               \
    X(neu_##T, "setp.neu." #T, T, a != b)                                                          \
    X(ltu_##T, "setp.ltu." #T, T, !(a >= b))                                                       \
    X(leu_##T, "setp.leu." #T, T, !(a > b))                                                        \
    X(gtu_##T, "setp.gtu." #T, T, !(a <= b))                                                       \
    X(geu_##T, "setp.geu." #T, T, !(a < b))                                                        \
    X(num_##T, "setp.num." #T, T, a == a && b == b)                                                \
    X(nan_##T, "setp.nan." #T, T, a != a || b != b)
#define OPSP(X)                                                                                    \
    COMPARE(X, f32)                                                                                \
    COMPARE(X, f64)

OPS1(FN1)
OPS2(FN2)
OPS3(FN3)
OPSP(FNP)

/* The same operations under the other rounding directions, switched once for all lanes; no load or
 * store moves across the calls. */
#define DIRECTED(X, suffix, direction)                                                             \
    X(add_f32_##suffix, "add." #suffix ".f32", 2, f32, direction, ra[l] + rb[l])                   \
    X(sub_f32_##suffix, "sub." #suffix ".f32", 2, f32, direction, ra[l] - rb[l])                   \
    X(mul_f32_##suffix, "mul." #suffix ".f32", 2, f32, direction, ra[l] * rb[l])                   \
    X(div_f32_##suffix, "div." #suffix ".f32", 2, f32, direction, ra[l] / rb[l])                   \
    X(fma_f32_##suffix, "fma." #suffix ".f32", 3, f32, direction,                                  \
      __builtin_fmaf(ra[l], rb[l], rc[l]))                                                         \
    X(add_f64_##suffix, "add." #suffix ".f64", 2, f64, direction, ra[l] + rb[l])                   \
    X(mul_f64_##suffix, "mul." #suffix ".f64", 2, f64, direction, ra[l] * rb[l])                   \
    X(fma_f64_##suffix, "fma." #suffix ".f64", 3, f64, direction,                                  \
      __builtin_fma(ra[l], rb[l], rc[l]))
#define OPSD(X)                                                                                    \
    DIRECTED(X, rz, FE_TOWARDZERO)                                                                 \
    DIRECTED(X, rm, FE_DOWNWARD)                                                                   \
    DIRECTED(X, rp, FE_UPWARD)
#define FND(fn, names, n, T, direction, e)                                                         \
    static void fn(Warp *w, Ins *i) {                                                              \
        T *rd = REG(T, w, i, 0);                                                                   \
        const T *ra = REG(T, w, i, 1), *rb = REG(T, w, i, 2), *rc = REG(T, w, i, n);               \
        (void)rc;                                                                                  \
        fesetround(direction);                                                                     \
        EACH(w, rd[l] = (e));                                                                      \
        fesetround(FE_TONEAREST);                                                                  \
    }
#define ROWD(fn, names, n, T, direction, e)                                                        \
    {names, fn, (n) + 1, {sizeof(T), sizeof(T), sizeof(T), (n) > 2 ? sizeof(T) : 0}},
OPSD(FND)

const Op ptx_float_ops[] = {OPS1(ROW1) OPS2(ROW2) OPS3(ROW3) OPSP(ROWP)
                                OPSD(ROWD){NULL, NULL, 0, {0}}};
