/* ptx_cvt: cvt. Common pairs of types are table entries; the others go through one function that
 * reads any type, rounds as specified and writes any type. */
#include "tests/cuda_on_cpu/ptx_ops.h"
#include <fenv.h>
#include <math.h>
#include <string.h>

static s32 f32_s32(f32 v) { /* towards zero, saturating, NaN gives 0 */
    if (v != v) return 0;
    return v >= 2147483648.0f ? INT32_MAX : v <= -2147483648.0f ? INT32_MIN : (s32)v;
}
static u32 f32_u32(f32 v) {
    if (!(v > 0)) return 0;
    return v >= 4294967296.0f ? UINT32_MAX : (u32)v;
}

float fp8_float(uint8_t v, bool e5m2) {
    int mantissa = e5m2 ? 2 : 3, bias = e5m2 ? 15 : 7;
    int e = (v & 0x7F) >> mantissa, m = v & ((1 << mantissa) - 1);
    float f = e ? ldexpf((float)((1 << mantissa) + m), e - bias - mantissa)
                : ldexpf((float)m, 1 - bias - mantissa);
    if (e5m2 && e == 31) f = m ? NAN : INFINITY;
    if (!e5m2 && (v & 0x7F) == 0x7F) f = NAN;
    return v & 0x80 ? -f : f;
}
uint8_t float_fp8(float f, bool e5m2) {
    int mantissa = e5m2 ? 2 : 3, bias = e5m2 ? 15 : 7, e;
    if (f != f) return 0x7F;
    uint8_t sign = signbit(f) ? 0x80 : 0;
    f = fabsf(f);
    float largest = e5m2 ? 57344 : 448;
    if (f >= largest) return (uint8_t)(sign | (e5m2 ? 0x7B : 0x7E));
    frexpf(f, &e); /* f in [2^(e-1), 2^e) */
    int step = (f == 0 || e < 2 - bias ? 2 - bias : e) - 1 - mantissa;
    int m = (int)rintf(ldexpf(f, -step)); /* the carry of a rounded mantissa raises the exponent */
    int code = m + ((step + mantissa + bias - 1) << mantissa);
    return (uint8_t)(sign | (code > (e5m2 ? 0x7B : 0x7E) ? (e5m2 ? 0x7B : 0x7E) : code));
}

#define OPS1(X)                                                                                    \
    X(s32_f32, "cvt.rn.f32.s32", f32, s32, a)                                                      \
    X(u32_f32, "cvt.rn.f32.u32", f32, u32, a)                                                      \
    X(s64_f32, "cvt.rn.f32.s64", f32, s64, a)                                                      \
    X(u64_f32, "cvt.rn.f32.u64", f32, u64, a)                                                      \
    X(s32_f64, "cvt.rn.f64.s32", f64, s32, a)                                                      \
    X(s64_f64, "cvt.rn.f64.s64", f64, s64, a)                                                      \
    X(u64_f64, "cvt.rn.f64.u64", f64, u64, a)                                                      \
    X(f32_f64, "cvt.f64.f32", f64, f32, a)                                                         \
    X(f64_f32, "cvt.rn.f32.f64", f32, f64, a)                                                      \
    X(rzi_s32, "cvt.rzi.s32.f32", s32, f32, f32_s32(a))                                            \
    X(rni_s32, "cvt.rni.s32.f32", s32, f32, f32_s32(rintf(a)))                                     \
    X(rzi_u32, "cvt.rzi.u32.f32", u32, f32, f32_u32(a))                                            \
    X(rni_u32, "cvt.rni.u32.f32", u32, f32, f32_u32(rintf(a)))                                     \
    X(rni_f32, "cvt.rni.f32.f32", f32, f32, rintf(a))                                              \
    X(rzi_f32, "cvt.rzi.f32.f32", f32, f32, truncf(a))                                             \
    X(rmi_f32, "cvt.rmi.f32.f32", f32, f32, floorf(a))                                             \
    X(rpi_f32, "cvt.rpi.f32.f32", f32, f32, ceilf(a))                                              \
    X(sat_f32, "cvt.sat.f32.f32", f32, f32, a > 0 ? (a < 1 ? a : 1) : 0)                           \
    X(u32_u64, "cvt.u64.u32 cvt.s64.u32", u64, u32, a)                                             \
    X(s32_s64, "cvt.s64.s32 cvt.u64.s32", s64, s32, a)                                             \
    X(u64_u32, "cvt.u32.u64 cvt.s32.u64 cvt.u32.s64 cvt.s32.s64", u32, u64, a)                     \
    X(u32_u32, "cvt.u32.u32 cvt.s32.s32 cvt.s32.u32 cvt.u32.s32", u32, u32, a)                     \
    X(u16_u32, "cvt.u32.u16 cvt.s32.u16", u32, u16, a)                                             \
    X(s16_s32, "cvt.s32.s16 cvt.u32.s16", s32, s16, a)                                             \
    X(u32_u16, "cvt.u16.u32 cvt.s16.u32 cvt.u16.s32", u16, u32, a)                                 \
    X(u16_u64, "cvt.u64.u16 cvt.s64.u16", u64, u16, a)                                             \
    X(u64_u16, "cvt.u16.u64", u16, u64, a)                                                         \
    X(bf16_f32, "cvt.f32.bf16", f32, u16, bf16_float(a))                                           \
    X(f32_bf16, "cvt.rn.bf16.f32", u16, f32, float_bf16(a))                                        \
    X(f32_tf32, "cvt.rna.tf32.f32", u32, u32,                                                      \
      (a & 0x7F800000u) == 0x7F800000u ? a : (a + 0x1000u) & ~0x1FFFu)
#define OPS2(X)                                                                                    \
    X(pack_bf16, "cvt.rn.bf16x2.f32", u32, f32, f32, (u32)float_bf16(a) << 16 | float_bf16(b))     \
    X(pack_bf16_relu, "cvt.rn.relu.bf16x2.f32", u32, f32, f32,                                     \
      (u32)float_bf16(a < 0 ? 0 : a) << 16 | float_bf16(b < 0 ? 0 : b))                            \
    X(pack_e4m3, "cvt.rn.satfinite.e4m3x2.f32", u16, f32, f32,                                     \
      (u16)(float_fp8(a, false) << 8 | float_fp8(b, false)))                                       \
    X(pack_e5m2, "cvt.rn.satfinite.e5m2x2.f32", u16, f32, f32,                                     \
      (u16)(float_fp8(a, true) << 8 | float_fp8(b, true)))

OPS1(FN1)
OPS2(FN2)
const Op ptx_cvt_ops[] = {OPS1(ROW1) OPS2(ROW2){NULL, NULL, 0, {0}}};

/* ---- the general form ---- */
typedef enum Type { U8, S8, U16, S16, U32, S32, U64, S64, F16, BF16, F32, F64, TYPES } Type;
static const char *const type_names[TYPES] = {"u8",  "s8",  "u16", "s16",  "u32", "s32",
                                              "u64", "s64", "f16", "bf16", "f32", "f64"};
static const uint8_t type_bytes[TYPES] = {1, 1, 2, 2, 4, 4, 8, 8, 2, 2, 4, 8};
static bool is_float(int t) { return t >= F16; }
static bool is_signed(int t) { return t == S8 || t == S16 || t == S32 || t == S64; }

static f64 half_double(u16 h) {
    int e = h >> 10 & 31, m = h & 1023;
    f64 v = e == 31 ? (m ? NAN : INFINITY) : e ? ldexp(1024 + m, e - 25) : ldexp(m, -24);
    return h & 0x8000 ? -v : v;
}
static u16 double_half(f64 v) {
    if (v != v) return 0x7FFF;
    u16 sign = signbit(v) ? 0x8000 : 0;
    v = fabs(v);
    if (v >= 65520) return sign | 0x7C00;
    int e;
    frexp(v, &e);
    int scale = e < -13 ? -24 : e - 11;
    u32 m = (u32)rint(ldexp(v, -scale));
    return scale == -24 ? (u16)(sign | m) : (u16)(sign + (((u32)(e + 14) << 10) + m - 1024));
}

typedef struct Value {
    u64 i; /* integers, sign-extended */
    f64 f;
} Value;
static Value read_value(const unsigned char *reg, int wide, int lane, int t) {
    Value v = {0};
    memcpy(&v.i, reg + lane * wide, (size_t)wide);
    int bits = type_bytes[t] * 8;
    if (bits < 64) v.i &= ((u64)1 << bits) - 1;
    if (is_signed(t) && bits < 64) v.i = (u64)((s64)(v.i << (64 - bits)) >> (64 - bits));
    if (t == F16) v.f = half_double((u16)v.i);
    if (t == BF16) v.f = bf16_float((u16)v.i);
    if (t == F32) {
        f32 f;
        memcpy(&f, &v.i, 4);
        v.f = f;
    }
    if (t == F64) memcpy(&v.f, &v.i, 8);
    return v;
}
static const int directions[] = {FE_TONEAREST, FE_TOWARDZERO, FE_DOWNWARD, FE_UPWARD};
static u64 to_integer(Value v, int from, int to, int round, bool sat) {
    int bits = type_bytes[to] * 8;
    s64 most = is_signed(to) ? (s64)(((u64)1 << (bits - 1)) - 1)
               : bits < 64   ? ((s64)1 << bits) - 1
                             : 0;
    s64 least = is_signed(to) ? -most - 1 : 0;
    if (!is_float(from)) {
        if (!sat || bits == 64) return v.i;
        if (!is_signed(from)) return v.i > (u64)most ? (u64)most : v.i;
        return (s64)v.i > most ? (u64)most : (s64)v.i < least ? (u64)least : v.i;
    }
    f64 r = round == 0 ? rint(v.f) : round == 1 ? trunc(v.f) : round == 2 ? floor(v.f) : ceil(v.f);
    if (r != r) return 0;
    if (to == U64) return r <= 0 ? 0 : r >= 0x1p64 ? UINT64_MAX : (u64)r;
    if (to == S64) return r >= 0x1p63 ? INT64_MAX : r <= -0x1p63 ? (u64)INT64_MIN : (u64)(s64)r;
    return r > (f64)most ? (u64)most : r < (f64)least ? (u64)least : (u64)(s64)r;
}
static u64 to_float(Value v, int from, int to, int round, bool integral, bool sat) {
    u64 out = 0;
    fesetround(directions[round]);
    volatile s64 si = (s64)v.i;
    volatile u64 ui = v.i;
    volatile f64 f = is_float(from) ? v.f : is_signed(from) ? (f64)si : (f64)ui;
    if (integral) f = rint(f);
    if (sat) f = f > 0 ? (f < 1 ? f : 1) : 0;
    volatile f32 narrow = is_float(from) ? (f32)f : is_signed(from) ? (f32)si : (f32)ui;
    fesetround(FE_TONEAREST);
    f64 full = f;
    f32 single = narrow;
    if (to == F64) memcpy(&out, &full, 8);
    if (to == F32) memcpy(&out, &single, 4);
    if (to == BF16) out = float_bf16(single);
    if (to == F16) out = double_half(full);
    return out;
}
static void convert(Warp *w, Ins *i) { /* mode: to | from << 4; mode2: round, 4 integral, 8 sat */
    int to = i->mode & 15, from = i->mode >> 4, round = i->mode2 & 3;
    bool integral = i->mode2 & 4, sat = i->mode2 & 8;
    unsigned char *d = w->regs + i->o[0];
    const unsigned char *a = w->regs + i->o[1];
    int wide = i->wide, source_wide = i->vec;
    EACH(w, {
        Value v = read_value(a, source_wide, l, from);
        u64 out = is_float(to) ? to_float(v, from, to, round, integral, sat)
                               : to_integer(v, from, to, round, sat);
        /* a wide register takes the value extended as its type says */
        int bits = type_bytes[to] * 8;
        if (bits < 64)
            out = is_signed(to) ? (u64)((s64)(out << (64 - bits)) >> (64 - bits))
                                : out & (((u64)1 << bits) - 1);
        memcpy(d + l * wide, &out, (size_t)wide);
    });
}

static int type_of(const char *n) {
    for (int t = 0; t < TYPES; t++)
        if (!strcmp(n, type_names[t])) return t;
    return TYPES;
}
bool decode_cvt(Decoder *d, const Stmt *s, Words *words) {
    Words w = *words;
    if (strcmp(w.word[0], "cvt") || s->count != 2 || w.count < 3) return false;
    int from = type_of(w.word[w.count - 1]), to = type_of(w.word[w.count - 2]);
    if (from == TYPES || to == TYPES) return false;
    w.count -= 2;
    static const char *const rounds[] = {"rn", "rz", "rm", "rp", "rni", "rzi", "rmi", "rpi"};
    int mode = 0;
    for (int r = 0; r < 8; r++)
        if (words_take(&w, rounds[r])) mode = r;
    if (words_take(&w, "sat")) mode |= 8;
    words_take(&w, "ftz");
    if (w.count != 1) return false;
    /* bf16 and f16 are only rounded to nearest here */
    if ((to == BF16 || to == F16) && (mode & 3)) return false;
    Ins *i = decode_ins(d, s, convert);
    i->mode = (uint8_t)(to | from << 4);
    i->mode2 = (uint8_t)mode;
    i->wide = (uint8_t)decode_width(d, &s->args[0]);
    int source = decode_width(d, &s->args[1]);
    i->vec = (uint8_t)(source ? source : type_bytes[from]);
    if (i->wide < type_bytes[to] || i->vec < type_bytes[from] || i->wide < 2 || i->vec < 2)
        decode_stop(d, s, "register too narrow");
    decode_dst(d, s, &s->args[0], i->wide);
    decode_src(d, s, &s->args[1], i->vec);
    return true;
}
