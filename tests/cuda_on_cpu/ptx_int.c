/* ptx_int: integer, bit, predicate and move instructions. */
#include "tests/cuda_on_cpu/ptx_ops.h"

static u32 shl32(u32 a, u32 n) { return n > 31 ? 0 : a << n; }
static u64 shl64(u64 a, u32 n) { return n > 63 ? 0 : a << n; }
static u32 shr32(u32 a, u32 n) { return n > 31 ? 0 : a >> n; }
static u64 shr64(u64 a, u32 n) { return n > 63 ? 0 : a >> n; }
static s32 sar32(s32 a, u32 n) { return a >> (n > 31 ? 31 : n); }
static s64 sar64(s64 a, u32 n) { return a >> (n > 63 ? 63 : n); }
static u64 low_bits(u32 n) { return n > 63 ? ~(u64)0 : ((u64)1 << n) - 1; }

static u64 bfe_unsigned(u64 a, u32 pos, u32 len, u32 width) {
    pos &= 255, len &= 255;
    if (!len || pos >= width) return 0;
    return (a >> pos) & low_bits(len);
}
static s64 bfe_signed(s64 a, u32 pos, u32 len, u32 width) {
    pos &= 255, len &= 255;
    if (!len) return 0;
    u32 top = pos + len - 1 > width - 1 ? width - 1 : pos + len - 1;
    u64 sign = (u64)a >> top & 1, v = pos >= width ? 0 : (u64)a >> pos;
    u32 have = pos >= width ? 0 : top - pos + 1;
    return (s64)((v & low_bits(have)) | (sign ? ~low_bits(have) : 0));
}
static u64 bfi_any(u64 a, u64 b, u32 pos, u32 len, u32 width) {
    pos &= 255, len &= 255;
    if (pos >= width) return b;
    u64 mask = low_bits(len) << pos;
    return (b & ~mask) | ((a << pos) & mask);
}
static u32 prmt_any(u32 a, u32 b, u32 selector) {
    u64 all = (u64)b << 32 | a;
    u32 out = 0;
    for (int k = 0; k < 4; k++) {
        u32 s = selector >> k * 4 & 15, byte = all >> (s & 7) * 8 & 255;
        if (s & 8) byte = byte & 128 ? 255 : 0;
        out |= byte << k * 8;
    }
    return out;
}
static u32 funnel_left(u32 a, u32 b, u32 n) { return (u32)((((u64)b << 32 | a) << n) >> 32); }
static u32 funnel_right(u32 a, u32 b, u32 n) { return (u32)(((u64)b << 32 | a) >> n); }
static u32 reverse_bits(u32 a) {
    u32 r = 0;
    for (int k = 0; k < 32; k++) r |= (a >> k & 1) << (31 - k);
    return r;
}
static u32 top_bit(u32 a) { return a ? 31u - (u32)__builtin_clz(a) : UINT32_MAX; }

/* Division by zero gives all ones on the device, and the remainder is the dividend. */
#define UNSIGNED_DIV(a, b) ((b) ? (a) / (b) : ~((a)&0))
#define UNSIGNED_REM(a, b) ((b) ? (a) % (b) : (a))
static s32 div32(s32 a, s32 b) { return b == -1 ? (s32)(0u - (u32)a) : b ? a / b : -1; }
static s32 rem32(s32 a, s32 b) { return b == -1 ? 0 : b ? a % b : a; }
static s64 div64(s64 a, s64 b) { return b == -1 ? (s64)(0u - (u64)a) : b ? a / b : -1; }
static s64 rem64(s64 a, s64 b) { return b == -1 ? 0 : b ? a % b : a; }

#define OPS1(X)                                                                                    \
    X(mov16, "mov.u16 mov.s16 mov.b16", u16, u16, a)                                               \
    X(mov32, "mov.u32 mov.s32 mov.b32 mov.f32", u32, u32, a)                                       \
    X(mov64,                                                                                       \
      "mov.u64 mov.s64 mov.b64 mov.f64 cvta.to.global.u64 cvta.global.u64 "                        \
      "cvta.to.const.u64 cvta.const.u64",                                                          \
      u64, u64, a)                                                                                 \
    X(to_shared, "cvta.to.shared.u64", u64, u64, a - SHARED_WINDOW)                                \
    X(from_shared, "cvta.shared.u64", u64, u64, a + SHARED_WINDOW)                                 \
    X(to_local, "cvta.to.local.u64", u64, u64, a - LOCAL_WINDOW)                                   \
    X(from_local, "cvta.local.u64", u64, u64, a + LOCAL_WINDOW)                                    \
    X(neg16, "neg.s16", u16, u16, 0u - a)                                                          \
    X(neg32, "neg.s32", u32, u32, 0u - a)                                                          \
    X(neg64, "neg.s64", u64, u64, 0u - a)                                                          \
    X(abs16, "abs.s16", u16, s16, a < 0 ? 0u - (u32)a : (u32)a)                                    \
    X(abs32, "abs.s32", u32, s32, a < 0 ? 0u - (u32)a : (u32)a)                                    \
    X(abs64, "abs.s64", u64, s64, a < 0 ? 0u - (u64)a : (u64)a)                                    \
    X(not16, "not.b16", u16, u16, ~a)                                                              \
    X(not32, "not.b32", u32, u32, ~a)                                                              \
    X(not64, "not.b64", u64, u64, ~a)                                                              \
    X(cnot32, "cnot.b32", u32, u32, !a)                                                            \
    X(popc32, "popc.b32", u32, u32, __builtin_popcount(a))                                         \
    X(popc64, "popc.b64", u32, u64, __builtin_popcountll(a))                                       \
    X(clz32, "clz.b32", u32, u32, a ? __builtin_clz(a) : 32)                                       \
    X(clz64, "clz.b64", u32, u64, a ? __builtin_clzll(a) : 64)                                     \
    X(brev32, "brev.b32", u32, u32, reverse_bits(a))                                               \
    X(brev64, "brev.b64", u64, u64,                                                                \
      (u64)reverse_bits((u32)a) << 32 | reverse_bits((u32)(a >> 32)))                              \
    X(bfind_shift, "bfind.shiftamt.u32", u32, u32, a ? 31 - top_bit(a) : UINT32_MAX)               \
    X(bfind32, "bfind.u32", u32, u32, top_bit(a))                                                  \
    X(bfind_s32, "bfind.s32", u32, s32, top_bit((u32)(a < 0 ? ~a : a)))

#define OPS2(X)                                                                                    \
    X(add16, "add.u16 add.s16", u16, u16, u16, a + b)                                              \
    X(add32, "add.u32 add.s32", u32, u32, u32, a + b)                                              \
    X(add64, "add.u64 add.s64", u64, u64, u64, a + b)                                              \
    X(sub16, "sub.u16 sub.s16", u16, u16, u16, a - b)                                              \
    X(sub32, "sub.u32 sub.s32", u32, u32, u32, a - b)                                              \
    X(sub64, "sub.u64 sub.s64", u64, u64, u64, a - b)                                              \
    X(mul16, "mul.lo.u16 mul.lo.s16", u16, u16, u16, (u32)a *b)                                    \
    X(mul32, "mul.lo.u32 mul.lo.s32", u32, u32, u32, a *b)                                         \
    X(mul64, "mul.lo.u64 mul.lo.s64", u64, u64, u64, a *b)                                         \
    X(mulw_u16, "mul.wide.u16", u32, u16, u16, (u32)a *b)                                          \
    X(mulw_s16, "mul.wide.s16", s32, s16, s16, (s32)a *b)                                          \
    X(mulw_u32, "mul.wide.u32", u64, u32, u32, (u64)a *b)                                          \
    X(mulw_s32, "mul.wide.s32", s64, s32, s32, (s64)a *b)                                          \
    X(mulh_u32, "mul.hi.u32", u32, u32, u32, (u64)a *b >> 32)                                      \
    X(mulh_s32, "mul.hi.s32", s32, s32, s32, (s64)a *b >> 32)                                      \
    X(mulh_u64, "mul.hi.u64", u64, u64, u64, (unsigned __int128)a *b >> 64)                        \
    X(mulh_s64, "mul.hi.s64", s64, s64, s64, (__int128)a *b >> 64)                                 \
    X(div_u16, "div.u16", u16, u16, u16, b ? a / b : 0xFFFF)                                       \
    X(div_u32, "div.u32", u32, u32, u32, UNSIGNED_DIV(a, b))                                       \
    X(div_u64, "div.u64", u64, u64, u64, UNSIGNED_DIV(a, b))                                       \
    X(div_s32, "div.s32", s32, s32, s32, div32(a, b))                                              \
    X(div_s64, "div.s64", s64, s64, s64, div64(a, b))                                              \
    X(rem_u16, "rem.u16", u16, u16, u16, UNSIGNED_REM(a, b))                                       \
    X(rem_u32, "rem.u32", u32, u32, u32, UNSIGNED_REM(a, b))                                       \
    X(rem_u64, "rem.u64", u64, u64, u64, UNSIGNED_REM(a, b))                                       \
    X(rem_s32, "rem.s32", s32, s32, s32, rem32(a, b))                                              \
    X(rem_s64, "rem.s64", s64, s64, s64, rem64(a, b))                                              \
    X(min_u16, "min.u16", u16, u16, u16, a < b ? a : b)                                            \
    X(min_s16, "min.s16", s16, s16, s16, a < b ? a : b)                                            \
    X(min_u32, "min.u32", u32, u32, u32, a < b ? a : b)                                            \
    X(min_s32, "min.s32", s32, s32, s32, a < b ? a : b)                                            \
    X(min_u64, "min.u64", u64, u64, u64, a < b ? a : b)                                            \
    X(min_s64, "min.s64", s64, s64, s64, a < b ? a : b)                                            \
    X(max_u16, "max.u16", u16, u16, u16, a > b ? a : b)                                            \
    X(max_s16, "max.s16", s16, s16, s16, a > b ? a : b)                                            \
    X(max_u32, "max.u32", u32, u32, u32, a > b ? a : b)                                            \
    X(max_s32, "max.s32", s32, s32, s32, a > b ? a : b)                                            \
    X(max_u64, "max.u64", u64, u64, u64, a > b ? a : b)                                            \
    X(max_s64, "max.s64", s64, s64, s64, a > b ? a : b)                                            \
    X(and16, "and.b16", u16, u16, u16, a &b)                                                       \
    X(and32, "and.b32", u32, u32, u32, a &b)                                                       \
    X(and64, "and.b64", u64, u64, u64, a &b)                                                       \
    X(or16, "or.b16", u16, u16, u16, a | b)                                                        \
    X(or32, "or.b32", u32, u32, u32, a | b)                                                        \
    X(or64, "or.b64", u64, u64, u64, a | b)                                                        \
    X(xor16, "xor.b16", u16, u16, u16, a ^ b)                                                      \
    X(xor32, "xor.b32", u32, u32, u32, a ^ b)                                                      \
    X(xor64, "xor.b64", u64, u64, u64, a ^ b)                                                      \
    X(shl_16, "shl.b16", u16, u16, u32, b > 15 ? 0 : (u32)a << b)                                  \
    X(shl_32, "shl.b32", u32, u32, u32, shl32(a, b))                                               \
    X(shl_64, "shl.b64", u64, u64, u32, shl64(a, b))                                               \
    X(shr_u16, "shr.u16 shr.b16", u16, u16, u32, b > 15 ? 0 : a >> b)                              \
    X(shr_s16, "shr.s16", s16, s16, u32, a >> (b > 15 ? 15 : b))                                   \
    X(shr_u32, "shr.u32 shr.b32", u32, u32, u32, shr32(a, b))                                      \
    X(shr_u64, "shr.u64 shr.b64", u64, u64, u32, shr64(a, b))                                      \
    X(shr_s32, "shr.s32", s32, s32, u32, sar32(a, b))                                              \
    X(shr_s64, "shr.s64", s64, s64, u32, sar64(a, b))

#define OPS3(X)                                                                                    \
    X(mad16, "mad.lo.u16 mad.lo.s16", u16, u16, u16, u16, (u32)a *b + c)                           \
    X(mad32, "mad.lo.u32 mad.lo.s32", u32, u32, u32, u32, a *b + c)                                \
    X(mad64, "mad.lo.u64 mad.lo.s64", u64, u64, u64, u64, a *b + c)                                \
    X(madw_u16, "mad.wide.u16", u32, u16, u16, u32, (u32)a *b + c)                                 \
    X(madw_s16, "mad.wide.s16", u32, s16, s16, u32, (u32)((s32)a * b) + c)                         \
    X(madw_u32, "mad.wide.u32", u64, u32, u32, u64, (u64)a *b + c)                                 \
    X(madw_s32, "mad.wide.s32", u64, s32, s32, u64, (u64)((s64)a * b) + c)                         \
    X(madh_u32, "mad.hi.u32", u32, u32, u32, u32, (u32)((u64)a * b >> 32) + c)                     \
    X(madh_s32, "mad.hi.s32", u32, s32, s32, u32, (u32)((s64)a * b >> 32) + c)                     \
    X(sad_u32, "sad.u32", u32, u32, u32, u32, c + (a > b ? a - b : b - a))                         \
    X(bfe_u32, "bfe.u32", u32, u32, u32, u32, bfe_unsigned(a, b, c, 32))                           \
    X(bfe_u64, "bfe.u64", u64, u64, u32, u32, bfe_unsigned(a, b, c, 64))                           \
    X(bfe_s32, "bfe.s32", s32, s32, u32, u32, bfe_signed(a, b, c, 32))                             \
    X(bfe_s64, "bfe.s64", s64, s64, u32, u32, bfe_signed(a, b, c, 64))                             \
    X(prmt, "prmt.b32", u32, u32, u32, u32, prmt_any(a, b, c))                                     \
    X(shf_lw, "shf.l.wrap.b32", u32, u32, u32, u32, funnel_left(a, b, c & 31))                     \
    X(shf_lc, "shf.l.clamp.b32", u32, u32, u32, u32, funnel_left(a, b, c > 32 ? 32 : c))           \
    X(shf_rw, "shf.r.wrap.b32", u32, u32, u32, u32, funnel_right(a, b, c & 31))                    \
    X(shf_rc, "shf.r.clamp.b32", u32, u32, u32, u32, funnel_right(a, b, c > 32 ? 32 : c))

#define COMPARE(X, T, name)                                                                        \
    X(eq_##T, "setp.eq." name, T, a == b)                                                          \
    X(ne_##T, "setp.ne." name, T, a != b)                                                          \
    X(lt_##T, "setp.lt." name, T, a < b)                                                           \
    X(le_##T, "setp.le." name, T, a <= b)                                                          \
    X(gt_##T, "setp.gt." name, T, a > b)                                                           \
    X(ge_##T, "setp.ge." name, T, a >= b)
#define OPSP(X)                                                                                    \
    COMPARE(X, s16, "s16")                                                                         \
    COMPARE(X, u16, "u16")                                                                         \
    COMPARE(X, s32, "s32")                                                                         \
    COMPARE(X, u32, "u32")                                                                         \
    COMPARE(X, s64, "s64")                                                                         \
    COMPARE(X, u64, "u64")                                                                         \
    X(lo32, "setp.lo.u32", u32, a < b)                                                             \
    X(ls32, "setp.ls.u32", u32, a <= b)                                                            \
    X(hi32, "setp.hi.u32", u32, a > b)                                                             \
    X(hs32, "setp.hs.u32", u32, a >= b)                                                            \
    X(beq16, "setp.eq.b16", u16, a == b)                                                           \
    X(bne16, "setp.ne.b16", u16, a != b)                                                           \
    X(beq32, "setp.eq.b32", u32, a == b)                                                           \
    X(bne32, "setp.ne.b32", u32, a != b)                                                           \
    X(beq64, "setp.eq.b64", u64, a == b)                                                           \
    X(bne64, "setp.ne.b64", u64, a != b)
#define OPSS(X)                                                                                    \
    X(sel16, "selp.u16 selp.s16 selp.b16", u16)                                                    \
    X(sel32, "selp.u32 selp.s32 selp.b32 selp.f32", u32)                                           \
    X(sel64, "selp.u64 selp.s64 selp.b64 selp.f64", u64)
#define OPSB(X)                                                                                    \
    X(mov_pred, "mov.pred", 1, a)                                                                  \
    X(not_pred, "not.pred", 1, ~a)                                                                 \
    X(and_pred, "and.pred", 2, a &b)                                                               \
    X(or_pred, "or.pred", 2, a | b)                                                                \
    X(xor_pred, "xor.pred", 2, a ^ b)

OPS1(FN1)
OPS2(FN2)
OPS3(FN3)
OPSP(FNP)
OPSS(FNS)
OPSB(FNB)

/* four operands */
static void bfi32(Warp *w, Ins *i) {
    const u32 *a = REG(u32, w, i, 1), *b = REG(u32, w, i, 2);
    const u32 *pos = REG(u32, w, i, 3), *len = REG(u32, w, i, 4);
    u32 *d = REG(u32, w, i, 0);
    EACH(w, d[l] = (u32)bfi_any(a[l], b[l], pos[l], len[l], 32));
}
static void bfi64(Warp *w, Ins *i) {
    const u64 *a = REG(u64, w, i, 1), *b = REG(u64, w, i, 2);
    const u32 *pos = REG(u32, w, i, 3), *len = REG(u32, w, i, 4);
    u64 *d = REG(u64, w, i, 0);
    EACH(w, d[l] = bfi_any(a[l], b[l], pos[l], len[l], 64));
}
static void lop3(Warp *w, Ins *i) {
    const u32 *ra = REG(u32, w, i, 1), *rb = REG(u32, w, i, 2), *rc = REG(u32, w, i, 3);
    u32 *d = REG(u32, w, i, 0), table = REG(u32, w, i, 4)[0];
    EACH(w, {
        u32 a = ra[l], b = rb[l], c = rc[l], r = 0;
        if (table & 1) r |= ~a & ~b & ~c;
        if (table & 2) r |= ~a & ~b & c;
        if (table & 4) r |= ~a & b & ~c;
        if (table & 8) r |= ~a & b & c;
        if (table & 16) r |= a & ~b & ~c;
        if (table & 32) r |= a & ~b & c;
        if (table & 64) r |= a & b & ~c;
        if (table & 128) r |= a & b & c;
        d[l] = r;
    });
}

/* With carry: .cc sets the carry, the c forms add it. Borrow of a subtraction: carry as well. */
#define CARRY(fn, T, wide, use, setting, first, sign)                                              \
    static void fn(Warp *w, Ins *i) {                                                              \
        const T *a = REG(T, w, i, 1), *b = REG(T, w, i, 2);                                        \
        T *d = REG(T, w, i, 0);                                                                    \
        u32 in = w->carry;                                                                         \
        EACH(w, {                                                                                  \
            wide r = (wide)a[l] sign(wide) b[l] sign(wide)((use) ? in >> l & 1 : 0);               \
            d[l] = (T)r;                                                                           \
            if (setting) w->carry = (w->carry & ~(1u << l)) | (u32)(r >> first & 1) << l;          \
        });                                                                                        \
    }
CARRY(add_cc32, u32, u64, 0, 1, 32, +)
CARRY(addc32, u32, u64, 1, 0, 32, +)
CARRY(addc_cc32, u32, u64, 1, 1, 32, +)
CARRY(sub_cc32, u32, u64, 0, 1, 32, -)
CARRY(subc32, u32, u64, 1, 0, 32, -)
CARRY(subc_cc32, u32, u64, 1, 1, 32, -)
CARRY(add_cc64, u64, unsigned __int128, 0, 1, 64, +)
CARRY(addc64, u64, unsigned __int128, 1, 0, 64, +)
CARRY(addc_cc64, u64, unsigned __int128, 1, 1, 64, +)
CARRY(sub_cc64, u64, unsigned __int128, 0, 1, 64, -)
CARRY(subc64, u64, unsigned __int128, 1, 0, 64, -)

const Op ptx_int_ops[] = {OPS1(ROW1) OPS2(ROW2) OPS3(ROW3) OPSP(ROWP) OPSS(ROWS)
                              OPSB(ROWB){"bfi.b32", bfi32, 5, {4, 4, 4, 4, 4}},
                          {"bfi.b64", bfi64, 5, {8, 8, 8, 4, 4}},
                          {"lop3.b32", lop3, 5, {4, 4, 4, 4, 4}},
                          {"add.cc.u32 add.cc.s32", add_cc32, 3, {4, 4, 4}},
                          {"addc.u32 addc.s32", addc32, 3, {4, 4, 4}},
                          {"addc.cc.u32 addc.cc.s32", addc_cc32, 3, {4, 4, 4}},
                          {"sub.cc.u32 sub.cc.s32", sub_cc32, 3, {4, 4, 4}},
                          {"subc.u32 subc.s32", subc32, 3, {4, 4, 4}},
                          {"subc.cc.u32 subc.cc.s32", subc_cc32, 3, {4, 4, 4}},
                          {"add.cc.u64 add.cc.s64", add_cc64, 3, {8, 8, 8}},
                          {"addc.u64 addc.s64", addc64, 3, {8, 8, 8}},
                          {"addc.cc.u64 addc.cc.s64", addc_cc64, 3, {8, 8, 8}},
                          {"sub.cc.u64 sub.cc.s64", sub_cc64, 3, {8, 8, 8}},
                          {"subc.u64 subc.s64", subc64, 3, {8, 8, 8}},
                          {NULL, NULL, 0, {0}}};
