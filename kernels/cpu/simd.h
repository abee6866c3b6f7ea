/* simd: vectors of VW floats over AVX-512, AVX2 with FMA or NEON, conversions to and from bf16, and
 * the elementary functions of the kernels. Private to the CPU backend. */
#pragma once
#if defined __aarch64__
#include <arm_neon.h>
#else
#include <immintrin.h>
#endif
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* ---- scalars ---- */
static inline float bf16_to_float(uint16_t h) {
    uint32_t u = (uint32_t)h << 16;
    float f;
    memcpy(&f, &u, 4);
    return f;
}
static inline uint16_t bf16_from_float(float f) {
    uint32_t u;
    memcpy(&u, &f, 4);
    if ((u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(u >> 16 | 0x40);
    return (uint16_t)((u + 0x7fffu + (u >> 16 & 1)) >> 16);
}

#if defined __AVX512F__ && defined __AVX512BW__ && defined __AVX512VL__ && defined __AVX512DQ__
/* ---- AVX-512 ---- */
#define VW 16
#define VREGISTERS 32
typedef __m512 vf;
typedef __mmask16 vm;

static inline vf vset(float x) { return _mm512_set1_ps(x); }
static inline vf vzero(void) { return _mm512_setzero_ps(); }
static inline vf vfma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
static inline vf vfnma(vf a, vf b, vf c) { return _mm512_fnmadd_ps(a, b, c); }
static inline vf vmax(vf a, vf b) { return _mm512_max_ps(a, b); }
static inline vf vmin(vf a, vf b) { return _mm512_min_ps(a, b); }
static inline vf vabs(vf a) { return _mm512_abs_ps(a); }
static inline vf vsqrt(vf a) { return _mm512_sqrt_ps(a); }
static inline float vsum(vf a) { return _mm512_reduce_add_ps(a); }
static inline float vmaxof(vf a) { return _mm512_reduce_max_ps(a); }
static inline vm vgt(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }
static inline vm vge(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ); }
static inline vf vselect(vm m, vf yes, vf no) { return _mm512_mask_blend_ps(m, no, yes); }
static inline vf vload(const float *p) { return _mm512_loadu_ps(p); }
static inline void vstore(float *p, vf v) { _mm512_storeu_ps(p, v); }
static inline __mmask16 vlanes(size_t k) { return (__mmask16)_bzhi_u32(0xffff, (unsigned)k); }
static inline vm vfirst(size_t k) { return k >= VW ? (vm)0xffff : vlanes(k); }
static inline vf f32_load(const float *p, size_t k) {
    return k >= VW ? _mm512_loadu_ps(p) : _mm512_maskz_loadu_ps(vlanes(k), p);
}
static inline void f32_store(float *p, vf v, size_t k) {
    if (k >= VW)
        _mm512_storeu_ps(p, v);
    else
        _mm512_mask_storeu_ps(p, vlanes(k), v);
}
/* Lanes 2j and 2j+1 exchanged. */
static inline vf vswap_pairs(vf a) { return _mm512_permute_ps(a, 0xb1); }
/* 1/a to about 1 ulp: the estimate and one Newton step. */
static inline vf vrcp(vf a) {
    vf r = _mm512_rcp14_ps(a);
    return vfma(vfnma(a, r, vset(1)), r, r);
}
static inline vf vround(vf a) {
    return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
/* a·2ⁿ for integers n within ±250. */
static inline vf vscale2(vf a, vf n) { return _mm512_scalef_ps(a, n); }
/* a = m·2ᵉ with m in [1, 2), for normal a > 0. */
static inline vf vexponent(vf a) { return _mm512_getexp_ps(a); }
static inline vf vmantissa(vf a) {
    return _mm512_getmant_ps(a, _MM_MANT_NORM_1_2, _MM_MANT_SIGN_src);
}

/* r[i][j] <-> r[j][i] */
static inline void vtranspose(vf r[16]) {
    vf t[16];
#pragma GCC unroll 8
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4) {
        r[i] = _mm512_shuffle_ps(t[i], t[i + 2], 0x44);
        r[i + 1] = _mm512_shuffle_ps(t[i], t[i + 2], 0xee);
        r[i + 2] = _mm512_shuffle_ps(t[i + 1], t[i + 3], 0x44);
        r[i + 3] = _mm512_shuffle_ps(t[i + 1], t[i + 3], 0xee);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        t[i] = _mm512_shuffle_f32x4(r[i], r[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_f32x4(r[i], r[i + 4], 0xdd);
        t[i + 8] = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0xdd);
    }
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
        r[i] = _mm512_shuffle_f32x4(t[i], t[i + 8], 0x88);
        r[i + 8] = _mm512_shuffle_f32x4(t[i], t[i + 8], 0xdd);
    }
}

static inline vf bf16_widen(__m256i h) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
}
static inline __m256i bf16_narrow(vf v) {
#if defined __AVX512BF16__
    return (__m256i)_mm512_cvtneps_pbh(v);
#else
    __m512i u = _mm512_castps_si512(v);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
    __m512i r = _mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    r = _mm512_mask_or_epi32(r, nan, u, _mm512_set1_epi32(0x400000));
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(r, 16));
#endif
}
static inline vf bf16_load(const uint16_t *p, size_t k) {
    return bf16_widen(k >= VW ? _mm256_loadu_si256((const __m256i *)p)
                              : _mm256_maskz_loadu_epi16(vlanes(k), p));
}
static inline void bf16_store(uint16_t *p, vf v, size_t k) {
    if (k >= VW)
        _mm256_storeu_si256((__m256i *)p, bf16_narrow(v));
    else
        _mm256_mask_storeu_epi16(p, vlanes(k), bf16_narrow(v));
}
static inline vf bf16_round(vf v) { return bf16_widen(bf16_narrow(v)); }

#elif defined __AVX2__ && defined __FMA__
/* ---- AVX2 ---- */
#define VW 8
#define VREGISTERS 16
typedef __m256 vf;
typedef __m256 vm;

static inline vf vset(float x) { return _mm256_set1_ps(x); }
static inline vf vzero(void) { return _mm256_setzero_ps(); }
static inline vf vfma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
static inline vf vfnma(vf a, vf b, vf c) { return _mm256_fnmadd_ps(a, b, c); }
static inline vf vmax(vf a, vf b) { return _mm256_max_ps(a, b); }
static inline vf vmin(vf a, vf b) { return _mm256_min_ps(a, b); }
static inline vf vabs(vf a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.f), a); }
static inline vf vsqrt(vf a) { return _mm256_sqrt_ps(a); }
static inline float vsum(vf a) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
static inline float vmaxof(vf a) {
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}
static inline vm vgt(vf a, vf b) { return _mm256_cmp_ps(a, b, _CMP_GT_OQ); }
static inline vm vge(vf a, vf b) { return _mm256_cmp_ps(a, b, _CMP_GE_OQ); }
static inline vf vselect(vm m, vf yes, vf no) { return _mm256_blendv_ps(no, yes, m); }
static inline vf vload(const float *p) { return _mm256_loadu_ps(p); }
static inline void vstore(float *p, vf v) { _mm256_storeu_ps(p, v); }
static inline __m256i vlanes(size_t k) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)(k < VW ? k : VW)),
                              _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
static inline vm vfirst(size_t k) { return _mm256_castsi256_ps(vlanes(k)); }
static inline vf f32_load(const float *p, size_t k) {
    return k >= VW ? _mm256_loadu_ps(p) : _mm256_maskload_ps(p, vlanes(k));
}
static inline void f32_store(float *p, vf v, size_t k) {
    if (k >= VW)
        _mm256_storeu_ps(p, v);
    else
        _mm256_maskstore_ps(p, vlanes(k), v);
}
static inline vf vswap_pairs(vf a) { return _mm256_permute_ps(a, 0xb1); }
static inline vf vrcp(vf a) { return _mm256_div_ps(vset(1), a); }
static inline vf vround(vf a) {
    return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
static inline vf vscale2(vf a, vf n) {
    /* two factors: 2ⁿ alone leaves the range of a float's exponent before the product does */
    __m256i i = _mm256_cvtps_epi32(n), h = _mm256_srai_epi32(i, 1);
    __m256i one = _mm256_set1_epi32(127);
    vf a1 = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(h, one), 23));
    vf a2 =
        _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(i, h), one), 23));
    return a * a1 * a2;
}
static inline vf vexponent(vf a) {
    __m256i e = _mm256_srli_epi32(_mm256_castps_si256(a), 23);
    return _mm256_cvtepi32_ps(_mm256_sub_epi32(e, _mm256_set1_epi32(127)));
}
static inline vf vmantissa(vf a) {
    __m256i m = _mm256_and_si256(_mm256_castps_si256(a), _mm256_set1_epi32(0x7fffff));
    return _mm256_castsi256_ps(_mm256_or_si256(m, _mm256_set1_epi32(0x3f800000)));
}

/* r[i][j] <-> r[j][i] */
static inline void vtranspose(vf r[8]) {
    vf t[8];
#pragma GCC unroll 4
    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
    }
#pragma GCC unroll 2
    for (int i = 0; i < 8; i += 4) {
        r[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
        r[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
        r[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
        r[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) t[i] = r[i], t[i + 4] = r[i + 4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        r[i] = _mm256_permute2f128_ps(t[i], t[i + 4], 0x20);
        r[i + 4] = _mm256_permute2f128_ps(t[i], t[i + 4], 0x31);
    }
}

static inline vf bf16_widen(__m128i h) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
}
static inline __m128i bf16_narrow(vf v) {
    __m256i u = _mm256_castps_si256(v);
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
    __m256i r = _mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    vf nan = _mm256_or_ps(v, _mm256_castsi256_ps(_mm256_set1_epi32(0x400000)));
    r = _mm256_castps_si256(
        vselect(_mm256_cmp_ps(v, v, _CMP_UNORD_Q), nan, _mm256_castsi256_ps(r)));
    r = _mm256_srli_epi32(r, 16);
    return _mm_packus_epi32(_mm256_castsi256_si128(r), _mm256_extracti128_si256(r, 1));
}
static inline vf bf16_load(const uint16_t *p, size_t k) {
    if (k >= VW) return bf16_widen(_mm_loadu_si128((const __m128i *)p));
    uint16_t t[VW] = {0};
    memcpy(t, p, k * sizeof *t);
    return bf16_widen(_mm_loadu_si128((const __m128i *)t));
}
static inline void bf16_store(uint16_t *p, vf v, size_t k) {
    if (k >= VW) {
        _mm_storeu_si128((__m128i *)p, bf16_narrow(v));
    } else {
        uint16_t t[VW];
        _mm_storeu_si128((__m128i *)t, bf16_narrow(v));
        memcpy(p, t, k * sizeof *t);
    }
}
static inline vf bf16_round(vf v) { return bf16_widen(bf16_narrow(v)); }

#elif defined __aarch64__
/* ---- NEON ---- */
#define VW 4
#define VREGISTERS 32
typedef float32x4_t vf;
typedef uint32x4_t vm;

static inline vf vset(float x) { return vdupq_n_f32(x); }
static inline vf vzero(void) { return vdupq_n_f32(0); }
static inline vf vfma(vf a, vf b, vf c) { return vfmaq_f32(c, a, b); }
static inline vf vfnma(vf a, vf b, vf c) { return vfmsq_f32(c, a, b); }
static inline vf vmax(vf a, vf b) { return vmaxq_f32(a, b); }
static inline vf vmin(vf a, vf b) { return vminq_f32(a, b); }
static inline vf vabs(vf a) { return vabsq_f32(a); }
static inline vf vsqrt(vf a) { return vsqrtq_f32(a); }
static inline float vsum(vf a) { return vaddvq_f32(a); }
static inline float vmaxof(vf a) { return vmaxvq_f32(a); }
static inline vm vgt(vf a, vf b) { return vcgtq_f32(a, b); }
static inline vm vge(vf a, vf b) { return vcgeq_f32(a, b); }
static inline vf vselect(vm m, vf yes, vf no) { return vbslq_f32(m, yes, no); }
static inline vf vload(const float *p) { return vld1q_f32(p); }
static inline void vstore(float *p, vf v) { vst1q_f32(p, v); }
static inline vm vfirst(size_t k) {
    return vcgtq_u32(vdupq_n_u32((uint32_t)(k < VW ? k : VW)), (uint32x4_t){0, 1, 2, 3});
}
static inline vf f32_load(const float *p, size_t k) {
    if (k >= VW) return vld1q_f32(p);
    float t[VW] = {0};
    memcpy(t, p, k * sizeof *t);
    return vld1q_f32(t);
}
static inline void f32_store(float *p, vf v, size_t k) {
    if (k >= VW) {
        vst1q_f32(p, v);
    } else {
        float t[VW];
        vst1q_f32(t, v);
        memcpy(p, t, k * sizeof *t);
    }
}
static inline vf vswap_pairs(vf a) { return vrev64q_f32(a); }
static inline vf vrcp(vf a) { return vset(1) / a; }
static inline vf vround(vf a) { return vrndnq_f32(a); }
static inline vf vscale2(vf a, vf n) {
    /* two factors: 2ⁿ alone leaves the range of a float's exponent before the product does */
    int32x4_t i = vcvtnq_s32_f32(n), h = vshrq_n_s32(i, 1), one = vdupq_n_s32(127);
    vf a1 = vreinterpretq_f32_s32(vshlq_n_s32(h + one, 23));
    vf a2 = vreinterpretq_f32_s32(vshlq_n_s32(i - h + one, 23));
    return a * a1 * a2;
}
static inline vf vexponent(vf a) {
    uint32x4_t e = vshrq_n_u32(vreinterpretq_u32_f32(a), 23);
    return vcvtq_f32_s32(vreinterpretq_s32_u32(e) - vdupq_n_s32(127));
}
static inline vf vmantissa(vf a) {
    uint32x4_t m = vreinterpretq_u32_f32(a) & vdupq_n_u32(0x7fffff);
    return vreinterpretq_f32_u32(m | vdupq_n_u32(0x3f800000));
}

/* r[i][j] <-> r[j][i] */
static inline void vtranspose(vf r[4]) {
    float32x4x2_t even = vzipq_f32(r[0], r[2]), odd = vzipq_f32(r[1], r[3]);
    float32x4x2_t low = vzipq_f32(even.val[0], odd.val[0]),
                  high = vzipq_f32(even.val[1], odd.val[1]);
    r[0] = low.val[0], r[1] = low.val[1], r[2] = high.val[0], r[3] = high.val[1];
}

static inline vf bf16_widen(uint16x4_t h) { return vreinterpretq_f32_u32(vshll_n_u16(h, 16)); }
static inline uint16x4_t bf16_narrow(vf v) {
    uint32x4_t u = vreinterpretq_u32_f32(v);
    uint32x4_t r = u + (vshrq_n_u32(u, 16) & vdupq_n_u32(1)) + vdupq_n_u32(0x7fff);
    r = vbslq_u32(vceqq_f32(v, v), r, u | vdupq_n_u32(0x400000));
    return vshrn_n_u32(r, 16);
}
static inline vf bf16_load(const uint16_t *p, size_t k) {
    if (k >= VW) return bf16_widen(vld1_u16(p));
    uint16_t t[VW] = {0};
    memcpy(t, p, k * sizeof *t);
    return bf16_widen(vld1_u16(t));
}
static inline void bf16_store(uint16_t *p, vf v, size_t k) {
    if (k >= VW) {
        vst1_u16(p, bf16_narrow(v));
    } else {
        uint16_t t[VW];
        vst1_u16(t, bf16_narrow(v));
        memcpy(p, t, k * sizeof *t);
    }
}
static inline vf bf16_round(vf v) { return bf16_widen(bf16_narrow(v)); }
#else
#error "the CPU backend needs AVX2 and FMA (x86-64-v3) or NEON (aarch64) at least"
#endif

/* ---- elementary functions ---- Coefficients: minimax fits of relative error by the Remez
 * exchange; errors are given with each. */

/* eˣ, relative error 1.2e-7; 0 instead of denormals, which are slow; inf above. r in [-½ln 2, ½ln
 * 2] by the two-word reduction of Cody & Waite; polynomial error 3e-9. */
static inline vf vexp(vf x) {
    const vf least = vset(-87.3f);
    vm none = vgt(least, x);
    x = vmax(least, vmin(vset(120), x)); /* this order keeps a NaN */
    vf n = vround(x * vset(1.44269504f));
    vf r = vfnma(n, vset(-2.12194440e-4f), vfnma(n, vset(0.693359375f), x));
    vf p = vset(0.001381446706f);
    p = vfma(p, r, vset(0.008368780411f));
    p = vfma(p, r, vset(0.04166839421f));
    p = vfma(p, r, vset(0.1666652011f));
    p = vfma(p, r, vset(0.4999999341f));
    return vselect(none, vzero(), vscale2(vfma(p * r, r, r + vset(1)), n));
}

/* The standard normal distribution Φ(x), absolute error 1.1e-7, and e^(-x²/2). Φ(-z) =
 * e^(-z²/2)·M(z) for z >= 0; Mills' ratio M is a polynomial in s = t - 1 = -0.23 z t, t =
 * 1/(1 + 0.23 z), relative error 5e-8 up to z = 14; beyond, e^(-z²/2) is 0 in a float. */
static inline vf vnormal(vf x, vf *bell) {
    vf a = vabs(x), z = vmin(vset(14), a),
       s = vset(-0.23f) * z * vrcp(vfma(z, vset(0.23f), vset(1)));
    vf e = vexp(vset(-0.5f) * a * a);
    vf p = vset(-0.07846724469f);
    p = vfma(p, s, vset(-0.3373248691f));
    p = vfma(p, s, vset(-0.4423160147f));
    p = vfma(p, s, vset(0.337230722f));
    p = vfma(p, s, vset(1.974312117f));
    p = vfma(p, s, vset(3.210338964f));
    p = vfma(p, s, vset(2.991215344f));
    p = vfma(p, s, vset(1.734527122f));
    p = vfma(p, s, vset(0.4999999762f));
    vf below = p * e;
    *bell = e;
    return vselect(vgt(vzero(), x), below, vset(1) - below);
}

/* 1/(1 + e⁻ˣ), through e^-|x|, which cannot overflow; *rest = 1/(1 + eˣ). */
static inline vf vsigmoids(vf x, vf *rest) {
    vf e = vexp(-vabs(x)), r = vrcp(vset(1) + e);
    vm positive = vge(x, vzero());
    *rest = vselect(positive, e * r, r);
    return vselect(positive, r, e * r);
}
static inline vf vsigmoid(vf x) {
    vf rest;
    return vsigmoids(x, &rest);
}

/* ln(1 + e) for e in [0, 1]: 2 artanh(e/(2+e)), relative error 1e-7. */
static inline vf vlog1p_unit(vf e) {
    vf s = e / (vset(2) + e), u = s * s;
    vf p = vset(0.2441306905f);
    p = vfma(p, u, vset(0.2139325038f));
    p = vfma(p, u, vset(0.2862072213f));
    p = vfma(p, u, vset(0.399986909f));
    p = vfma(p, u, vset(0.6666667931f));
    p = vfma(p, u, vset(2.0f));
    return p * s;
}
/* ln(x) for normal x > 0. */
static inline vf vlog(vf x) {
    return vfma(vexponent(x), vset(0.693147181f), vlog1p_unit(vmantissa(x) - vset(1)));
}
/* ---- GELU for results that are rounded to bf16 ---- Φ(-z) and the slope Φ(-z) - zφ(z) as cubics
 * about the quarters of z = |x|; absolute errors 1e-6 and 4e-6. Both are 0 from z = 5.6 on. */
#if VW == 16
typedef struct GeluCubics {
    float below[4][32], slope[4][32]; /* coefficient of fᵈ about n/4 */
} GeluCubics;

/* The cubic through the function's values at the four Chebyshev nodes of [-1/8, 1/8]. */
static inline void cubic_fit(float c[4][32], int n, const double at[4], double a, double b) {
    double even_a = (at[0] + at[1]) / 2, even_b = (at[2] + at[3]) / 2;
    double odd_a = (at[0] - at[1]) / (2 * a), odd_b = (at[2] - at[3]) / (2 * b);
    double c2 = (even_a - even_b) / (a * a - b * b), c3 = (odd_a - odd_b) / (a * a - b * b);
    c[0][n] = (float)(even_a - c2 * a * a);
    c[1][n] = (float)(odd_a - c3 * a * a);
    c[2][n] = (float)c2;
    c[3][n] = (float)c3;
}

static inline const GeluCubics *gelu_cubics(void) {
    static GeluCubics g;
    if (g.below[0][0] != 0) return &g;
    const double a = cos(M_PI / 8) / 8, b = cos(3 * M_PI / 8) / 8, node[4] = {a, -a, b, -b};
    for (int n = 22; n >= 0; n--) { /* below[0][0], the mark of a filled table, is written last */
        double below[4], slope[4];
        for (int i = 0; i < 4; i++) {
            double z = n / 4.0 + node[i];
            below[i] = 0.5 * erfc(z * M_SQRT1_2);
            slope[i] = below[i] - z * exp(-0.5 * z * z) / sqrt(2 * M_PI);
        }
        cubic_fit(g.slope, n, slope, a, b);
        cubic_fit(g.below, n, below, a, b);
    }
    return &g;
}

/* The coefficients in registers. */
typedef struct Cubic {
    vf low[4], high[4];
} Cubic;
static inline Cubic cubic_load(const float c[4][32]) {
    Cubic r;
    for (int d = 0; d < 4; d++) r.low[d] = vload(c[d]), r.high[d] = vload(c[d] + 16);
    return r;
}
/* At z: n, the nearest quarter, is in the lowest bits of z + 2²¹. */
static inline vf cubic_at(const Cubic *c, vf z) {
    const vf magic = vset(0x1p21f);
    vf shifted = z + magic, f = z - (shifted - magic);
    __m512i n = _mm512_castps_si512(shifted);
    vf p = _mm512_permutex2var_ps(c->low[3], n, c->high[3]);
    p = vfma(p, f, _mm512_permutex2var_ps(c->low[2], n, c->high[2]));
    p = vfma(p, f, _mm512_permutex2var_ps(c->low[1], n, c->high[1]));
    return vfma(p, f, _mm512_permutex2var_ps(c->low[0], n, c->high[0]));
}

static inline vf gelu_rough(const Cubic *below, vf x) {
    vf z = vabs(x);
    return vfnma(z, cubic_at(below, vmin(vset(7.75f), z)), vmax(vzero(), x));
}
static inline vf gelu_slope_rough(const Cubic *slope, vf x) {
    vf s = cubic_at(slope, vmin(vset(7.75f), vabs(x)));
    return vselect(vgt(vzero(), x), s, vset(1) - s);
}
#endif
