/* resize_passes: the two passes of resize.c, included once for NEON, or once for AVX2 and once for
 * AVX-512 (PASSES_WIDE is 1; it needs AVX512_VNNI and AVX512_VBMI as well). NAME(f) is f's name in
 * each. */
#if defined __aarch64__
static void NAME(cut_digits)(uint32_t *digits, const int32_t *w, int groups) {
    memcpy(digits, w, (size_t)groups * TAPS * sizeof *digits);
}

/* sum[4][4] += v · w */
static inline __attribute__((always_inline)) void NAME(add_tap)(int32x4_t sum[4], uint8x16_t v,
                                                                int32_t w) {
    int16x8_t low = vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(v)));
    int16x8_t high = vreinterpretq_s16_u16(vmovl_high_u8(v));
    sum[0] = vmlaq_n_s32(sum[0], vmovl_s16(vget_low_s16(low)), w);
    sum[1] = vmlaq_n_s32(sum[1], vmovl_high_s16(low), w);
    sum[2] = vmlaq_n_s32(sum[2], vmovl_s16(vget_low_s16(high)), w);
    sum[3] = vmlaq_n_s32(sum[3], vmovl_high_s16(high), w);
}

/* 16 lanes: Σ over groups, rounded and clipped. */
static inline __attribute__((always_inline)) Lanes NAME(dot)(const uint8_t *from, size_t stride,
                                                             const uint32_t *w, int groups) {
    int32x4_t sum[4];
    for (int i = 0; i < 4; i++) sum[i] = vdupq_n_s32(ROUNDING);
    for (int g = 0; g < groups; g++, w += DIGITS) {
        uint8x16x4_t v = vld4q_u8(from + (size_t)g * stride);
#pragma GCC unroll 4
        for (int k = 0; k < TAPS; k++) NAME(add_tap)(sum, v.val[k], (int32_t)w[k]);
    }
    for (int i = 0; i < 4; i++) sum[i] = vshrq_n_s32(sum[i], PRECISION);
    uint16x8_t low = vqmovun_high_s32(vqmovun_s32(sum[0]), sum[1]);
    uint16x8_t high = vqmovun_high_s32(vqmovun_s32(sum[2]), sum[3]);
    return (Lanes)vqmovn_high_u16(vqmovn_u16(low), high);
}

/* 4 pixels of 4 rows (16 bytes each are read) → one block. */
static inline void NAME(arrange)(uint8_t *block, const uint8_t *const row[4]) {
    static const uint8_t order[16] = {0, 3, 6, 9, 16, 19, 22, 25, 32, 35, 38, 41, 48, 51, 54, 57};
    uint8x16x4_t v;
    for (int i = 0; i < 4; i++) v.val[i] = vld1q_u8(row[i]);
    for (int c = 0; c < 3; c++)
        vst1q_u8(block + 16 * c, vqtbl4q_u8(v, vld1q_u8(order) + vdupq_n_u8((uint8_t)c)));
}
#elif PASSES_WIDE
/* w = (high · 256 + middle) · 256 + low, three signed bytes. */
static void NAME(cut_digits)(uint32_t *digits, const int32_t *w, int groups) {
    int8_t *d = (int8_t *)digits;
    for (int g = 0; g < groups; g++)
        for (int k = 0; k < TAPS; k++) {
            int32_t v = w[g * TAPS + k], rest = (v + 128) >> 8;
            d[(g * DIGITS + 0) * TAPS + k] = (int8_t)((rest + 128) >> 8);
            d[(g * DIGITS + 1) * TAPS + k] = (int8_t)rest;
            d[(g * DIGITS + 2) * TAPS + k] = (int8_t)v;
        }
}

/* 16 lanes: Σ over groups, rounded and clipped. Each digit has a separate sum, because a single
 * long chain of dependent instructions would fill the scheduler. */
static inline __attribute__((always_inline)) Lanes NAME(dot)(const uint8_t *from, size_t stride,
                                                             const uint32_t *w, int groups) {
    __m512i high = _mm512_setzero_si512(), middle = high, low = _mm512_set1_epi32(ROUNDING);
#pragma GCC unroll 8
    for (int g = 0; g < groups; g++, w += DIGITS) {
        __m512i v = _mm512_loadu_si512(from + (size_t)g * stride);
        high = _mm512_dpbusd_epi32(high, v, _mm512_set1_epi32((int)w[0]));
        middle = _mm512_dpbusd_epi32(middle, v, _mm512_set1_epi32((int)w[1]));
        low = _mm512_dpbusd_epi32(low, v, _mm512_set1_epi32((int)w[2]));
    }
    high = _mm512_add_epi32(_mm512_slli_epi32(high, 16), _mm512_slli_epi32(middle, 8));
    high = _mm512_srai_epi32(_mm512_add_epi32(high, low), PRECISION);
    return (Lanes)_mm512_cvtusepi32_epi8(_mm512_max_epi32(high, _mm512_setzero_si512()));
}

/* 4 pixels of 4 rows (16 bytes each are read) → one block. */
static inline void NAME(arrange)(uint8_t *block, const uint8_t *const row[4]) {
    const __m512i order = _mm512_set_epi8(
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 59, 56, 53, 50, 43, 40, 37, 34, 27, 24, 21,
        18, 11, 8, 5, 2, 58, 55, 52, 49, 42, 39, 36, 33, 26, 23, 20, 17, 10, 7, 4, 1, 57, 54, 51,
        48, 41, 38, 35, 32, 25, 22, 19, 16, 9, 6, 3, 0);
    __m512i v = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *)row[0]));
    v = _mm512_inserti32x4(v, _mm_loadu_si128((const __m128i *)row[1]), 1);
    v = _mm512_inserti32x4(v, _mm_loadu_si128((const __m128i *)row[2]), 2);
    v = _mm512_inserti32x4(v, _mm_loadu_si128((const __m128i *)row[3]), 3);
    _mm512_store_si512(block, _mm512_permutexvar_epi8(order, v));
}
#else
/* w = high · 2048 + low in 16 bits each, for the even and the odd taps of a group. */
static void NAME(cut_digits)(uint32_t *digits, const int32_t *w, int groups) {
    for (int g = 0; g < groups; g++, w += TAPS, digits += DIGITS)
        for (int odd = 0; odd < 2; odd++) {
            digits[odd] = (uint32_t)((w[odd] >> 11) & 0xffff) | (uint32_t)(w[odd + 2] >> 11) << 16;
            digits[2 + odd] = (uint32_t)(w[odd] & 2047) | (uint32_t)(w[odd + 2] & 2047) << 16;
        }
}

static inline __attribute__((always_inline)) __m256i NAME(dot8)(const uint8_t *from, size_t stride,
                                                                const uint32_t *w, int groups) {
    __m256i high = _mm256_set1_epi32(ROUNDING >> 11), low = _mm256_setzero_si256();
#pragma GCC unroll 8
    for (int g = 0; g < groups; g++, w += DIGITS) {
        __m256i v = _mm256_loadu_si256((const __m256i *)(from + (size_t)g * stride));
        __m256i even = _mm256_and_si256(v, _mm256_set1_epi32(0x00ff00ff));
        __m256i odd = _mm256_srli_epi16(v, 8);
        high = _mm256_add_epi32(high, _mm256_madd_epi16(even, _mm256_set1_epi32((int)w[0])));
        high = _mm256_add_epi32(high, _mm256_madd_epi16(odd, _mm256_set1_epi32((int)w[1])));
        low = _mm256_add_epi32(low, _mm256_madd_epi16(even, _mm256_set1_epi32((int)w[2])));
        low = _mm256_add_epi32(low, _mm256_madd_epi16(odd, _mm256_set1_epi32((int)w[3])));
    }
    return _mm256_srai_epi32(_mm256_add_epi32(_mm256_slli_epi32(high, 11), low), PRECISION);
}

/* 16 lanes: Σ over groups, rounded and clipped. */
static inline __attribute__((always_inline)) Lanes NAME(dot)(const uint8_t *from, size_t stride,
                                                             const uint32_t *w, int groups) {
    __m256i v = _mm256_packs_epi32(NAME(dot8)(from, stride, w, groups),
                                   NAME(dot8)(from + BLOCK / 2, stride, w, groups));
    v = _mm256_permute4x64_epi64(v, 0xd8);
    return (Lanes)_mm_packus_epi16(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
}

/* 4 pixels of 4 rows (16 bytes each are read) → one block. */
static inline void NAME(arrange)(uint8_t *block, const uint8_t *const row[4]) {
    const __m128i order = _mm_setr_epi8(0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11, -1, -1, -1, -1);
    __m128i r[4], *to = (__m128i *)block;
    for (int i = 0; i < 4; i++)
        r[i] = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)row[i]), order);
    __m128i rg0 = _mm_unpacklo_epi32(r[0], r[1]), rg1 = _mm_unpacklo_epi32(r[2], r[3]);
    __m128i b0 = _mm_unpackhi_epi32(r[0], r[1]), b1 = _mm_unpackhi_epi32(r[2], r[3]);
    _mm_store_si128(to, _mm_unpacklo_epi64(rg0, rg1));
    _mm_store_si128(to + 1, _mm_unpackhi_epi64(rg0, rg1));
    _mm_store_si128(to + 2, _mm_unpacklo_epi64(b0, b1));
}
#endif

static void NAME(axis_cut)(const Axis *a, int32_t *aligned) {
    for (int i = 0; i < a->count; i++) {
        memset(aligned, 0, (size_t)a->groups * TAPS * sizeof *aligned);
        memcpy(aligned + (a->lo[i] - a->first) % TAPS, a->weight + (size_t)i * (size_t)a->taps,
               (size_t)a->n[i] * sizeof *aligned);
        NAME(cut_digits)(a->digits + (size_t)i * (size_t)a->groups * DIGITS, aligned, a->groups);
    }
}

/* n ≤ 4 rows as blocks; row_bytes of a row may be read; the axis needs its first `range` pixels. */
static void NAME(fill_strip)(uint8_t *strip, const uint8_t *from, size_t stride, int n,
                             size_t row_bytes, int range) {
    const uint8_t *row[4];
    for (int i = 0; i < 4; i++) row[i] = from + (size_t)(i < n ? i : n - 1) * stride;
    size_t groups = div_up((size_t)range, TAPS), g = 0;
    for (; g < groups && 12 * g + 16 <= row_bytes; g++) {
        NAME(arrange)(strip + g * BLOCK, row);
        for (int i = 0; i < 4; i++) row[i] += 12;
    }
    for (; g < groups; g++) {
        uint8_t tail[4][16] = {{0}};
        const uint8_t *const tails[4] = {tail[0], tail[1], tail[2], tail[3]};
        for (int i = 0; i < 4; i++, row[i - 1] += 12)
            memcpy(tail[i], row[i], size_min(12, row_bytes - 12 * g));
        NAME(arrange)(strip + g * BLOCK, tails);
    }
}

/* Each result overwrites the 4 unused bytes of the previous one. */
static inline __attribute__((always_inline)) void
NAME(strip_to_quad)(uint8_t *to, const uint8_t *strip, const Axis *a, int groups) {
    const uint32_t *w = a->digits;
    for (int x = 0; x < a->count; x++, w += groups * DIGITS, to += 12) {
        const uint8_t *from = strip + (size_t)((a->lo[x] - a->first) / TAPS) * BLOCK;
        Lanes v = NAME(dot)(from, BLOCK, w, groups);
        memcpy(to, &v, sizeof v);
    }
}

static inline __attribute__((always_inline)) void
NAME(quads_to_row)(uint8_t *to, size_t row_bytes, const uint8_t *from, size_t stride,
                   const uint32_t *w, int groups) {
    enum { IN_REGISTERS = 8 };
    uint32_t copy[IN_REGISTERS * DIGITS]; /* a copy: stores to `to` cannot alias it */
    if (groups <= IN_REGISTERS) w = memcpy(copy, w, (size_t)groups * DIGITS * sizeof *copy);
    size_t i = 0;
    for (; i + 16 <= row_bytes; i += 16) {
        Lanes v = NAME(dot)(from + i * 4, stride, w, groups);
        memcpy(to + i, &v, sizeof v);
    }
    if (i < row_bytes) {
        Lanes last = NAME(dot)(from + i * 4, stride, w, groups);
        memcpy(to + i, &last, row_bytes - i);
    }
}

static void NAME(along_rows)(const Resampler *p, const uint8_t *from, size_t stride, int rows,
                             size_t row_bytes) {
    uint8_t *to = p->quads;
    for (int y = 0; y < rows; y += 4, to += p->quad_bytes, from += 4 * stride) {
        NAME(fill_strip)(p->strip, from, stride, rows - y, row_bytes, axis_range(&p->x));
#define CALL(n) NAME(strip_to_quad)(to, p->strip, &p->x, n)
        FOR_GROUPS(p->x.groups, CALL)
#undef CALL
    }
}

static void NAME(along_columns)(uint8_t *to, size_t to_stride, const Resampler *p,
                                size_t row_bytes) {
    const Axis *a = &p->y;
    const uint32_t *w = a->digits;
    for (int y = 0; y < a->count; y++, to += to_stride, w += a->groups * DIGITS) {
        const uint8_t *from = p->quads + (size_t)((a->lo[y] - a->first) / TAPS) * p->quad_bytes;
#define CALL(n) NAME(quads_to_row)(to, row_bytes, from, p->quad_bytes, w, n)
        FOR_GROUPS(a->groups, CALL)
#undef CALL
    }
}

static const Passes NAME(passes) = {NAME(axis_cut), NAME(along_rows), NAME(along_columns)};
