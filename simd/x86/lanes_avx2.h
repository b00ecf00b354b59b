/* SPDX-License-Identifier: MIT */
/* The lanes of lanes.h as two ymm: lo holds lanes 0..7.  Included by it alone. */
#ifndef QUERN_LANES_AVX2_H
#define QUERN_LANES_AVX2_H

#if !defined(__AVX2__) || !defined(__FMA__) || !defined(__F16C__)
#error "compile this file with AVX2_CFLAGS"
#endif
#include <immintrin.h>

typedef struct {
    __m256 lo, hi;
} lf;
typedef struct {
    __m256i lo, hi;
} li;
typedef lf lm; /* all bits of a lane set or clear */

enum { LANES_ACC = 4 };

typedef __m256 lp;
enum { PART_LANES = 8 };
LANE_FN lp part_set(float x) { return _mm256_set1_ps(x); }
LANE_FN lp part_load(const float *p) { return _mm256_loadu_ps(p); }
LANE_FN void part_store(float *p, lp x) { _mm256_storeu_ps(p, x); }
LANE_FN lp part_add(lp x, lp y) { return _mm256_add_ps(x, y); }
LANE_FN lp part_mul(lp x, lp y) { return _mm256_mul_ps(x, y); }
LANE_FN lp part_fma(lp x, lp y, lp z) { return _mm256_fmadd_ps(x, y, z); }

LANE_FN lm lanes_below(int64_t n)
{
    const __m256i l = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    __m256i c = _mm256_set1_epi32(n > LANES ? LANES : (int)n);
    return (lm){_mm256_castsi256_ps(_mm256_cmpgt_epi32(c, l)),
                _mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_sub_epi32(c, _mm256_set1_epi32(8)), l))};
}

LANE_FN lf lanes_set(float a) { return (lf){_mm256_set1_ps(a), _mm256_set1_ps(a)}; }
LANE_FN lf lanes_load(const float *p) { return (lf){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
LANE_FN void lanes_store(float *p, lf a)
{
    _mm256_storeu_ps(p, a.lo);
    _mm256_storeu_ps(p + 8, a.hi);
}
LANE_FN lf lanes_get(const float *p, int64_t n)
{
    if (n >= LANES)
        return lanes_load(p);
    lm m = lanes_below(n); /* masked lanes are not touched */
    return (lf){_mm256_maskload_ps(p, _mm256_castps_si256(m.lo)), _mm256_maskload_ps(p + 8, _mm256_castps_si256(m.hi))};
}
LANE_FN void lanes_put(float *p, lf a, int64_t n)
{
    if (n >= LANES) {
        lanes_store(p, a);
        return;
    }
    lm m = lanes_below(n);
    _mm256_maskstore_ps(p, _mm256_castps_si256(m.lo), a.lo);
    _mm256_maskstore_ps(p + 8, _mm256_castps_si256(m.hi), a.hi);
}

LANE_FN lf lanes_add(lf a, lf b) { return (lf){_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)}; }
LANE_FN lf lanes_sub(lf a, lf b) { return (lf){_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)}; }
LANE_FN lf lanes_mul(lf a, lf b) { return (lf){_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)}; }
LANE_FN lf lanes_div(lf a, lf b) { return (lf){_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)}; }
LANE_FN lf lanes_fma(lf a, lf b, lf c)
{
    return (lf){_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}
/* vmaxps and vminps give b when unordered or equal. */
LANE_FN lf lanes_max(lf a, lf b) { return (lf){_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)}; }
LANE_FN lf lanes_min(lf a, lf b) { return (lf){_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)}; }
LANE_FN lf lanes_neg(lf a)
{
    const __m256 s = _mm256_set1_ps(-0.0f);
    return (lf){_mm256_xor_ps(a.lo, s), _mm256_xor_ps(a.hi, s)};
}
LANE_FN lf lanes_abs(lf a)
{
    const __m256 s = _mm256_set1_ps(-0.0f);
    return (lf){_mm256_andnot_ps(s, a.lo), _mm256_andnot_ps(s, a.hi)};
}

LANE_FN lm lanes_gt(lf a, lf b)
{
    return (lm){_mm256_cmp_ps(a.lo, b.lo, _CMP_GT_OQ), _mm256_cmp_ps(a.hi, b.hi, _CMP_GT_OQ)};
}
LANE_FN lm lanes_nan(lf a)
{
    return (lm){_mm256_cmp_ps(a.lo, a.lo, _CMP_UNORD_Q), _mm256_cmp_ps(a.hi, a.hi, _CMP_UNORD_Q)};
}
LANE_FN lf lanes_sel(lm m, lf a, lf b)
{
    return (lf){_mm256_blendv_ps(b.lo, a.lo, m.lo), _mm256_blendv_ps(b.hi, a.hi, m.hi)};
}

LANE_FN li lanes_as_i(lf a) { return (li){_mm256_castps_si256(a.lo), _mm256_castps_si256(a.hi)}; }
LANE_FN lf lanes_as_f(li a) { return (lf){_mm256_castsi256_ps(a.lo), _mm256_castsi256_ps(a.hi)}; }
LANE_FN li lanes_iadd(li a, li b) { return (li){_mm256_add_epi32(a.lo, b.lo), _mm256_add_epi32(a.hi, b.hi)}; }
LANE_FN li lanes_shl23(li a) { return (li){_mm256_slli_epi32(a.lo, 23), _mm256_slli_epi32(a.hi, 23)}; }
LANE_FN li lanes_imax(li a, li b) { return (li){_mm256_max_epi32(a.lo, b.lo), _mm256_max_epi32(a.hi, b.hi)}; }
LANE_FN li lanes_to_i(lf a) { return (li){_mm256_cvtps_epi32(a.lo), _mm256_cvtps_epi32(a.hi)}; }

LANE_FN float lanes_sum(lf a)
{
    __m256 s = _mm256_add_ps(a.lo, a.hi);
    __m128 q = _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
    q = _mm_add_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
}
LANE_FN float lanes_top(lf a)
{
    __m256 s = _mm256_max_ps(a.lo, a.hi);
    __m128 q = _mm_max_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
    q = _mm_max_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_max_ss(q, _mm_movehdup_ps(q)));
}
LANE_FN int32_t lanes_isum(li a)
{
    __m256i s = _mm256_add_epi32(a.lo, a.hi);
    __m128i q = _mm_add_epi32(_mm256_castsi256_si128(s), _mm256_extracti128_si256(s, 1));
    q = _mm_add_epi32(q, _mm_shuffle_epi32(q, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(q, _mm_shuffle_epi32(q, 0xb1)));
}
LANE_FN int32_t lanes_itop(li a)
{
    __m256i s = _mm256_max_epi32(a.lo, a.hi);
    __m128i q = _mm_max_epi32(_mm256_castsi256_si128(s), _mm256_extracti128_si256(s, 1));
    q = _mm_max_epi32(q, _mm_shuffle_epi32(q, 0x4e));
    return _mm_cvtsi128_si32(_mm_max_epi32(q, _mm_shuffle_epi32(q, 0xb1)));
}

/* 8 pairs: shuffle gives 0 2 8 10 | 4 6 12 14, the permutation of 64-bit parts 0 2 4 6 8 10 12 14. */
LANE_FN __m256 lanes_pairs_even(__m256 a, __m256 b)
{
    return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(_mm256_shuffle_ps(a, b, 0x88)), 0xd8));
}
LANE_FN __m256 lanes_pairs_odd(__m256 a, __m256 b)
{
    return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(_mm256_shuffle_ps(a, b, 0xdd)), 0xd8));
}
LANE_FN void lanes_load_pairs(const float *p, lf *even, lf *odd)
{
    lf a = lanes_load(p), b = lanes_load(p + LANES);
    *even = (lf){lanes_pairs_even(a.lo, a.hi), lanes_pairs_even(b.lo, b.hi)};
    *odd = (lf){lanes_pairs_odd(a.lo, a.hi), lanes_pairs_odd(b.lo, b.hi)};
}
/* unpack gives e0 o0 e1 o1 | e4 o4 e5 o5 and e2 o2 e3 o3 | e6 o6 e7 o7. */
LANE_FN void lanes_store_pairs8(float *p, __m256 even, __m256 odd)
{
    __m256 a = _mm256_unpacklo_ps(even, odd), b = _mm256_unpackhi_ps(even, odd);
    _mm256_storeu_ps(p, _mm256_permute2f128_ps(a, b, 0x20));
    _mm256_storeu_ps(p + 8, _mm256_permute2f128_ps(a, b, 0x31));
}
LANE_FN void lanes_store_pairs(float *p, lf even, lf odd)
{
    lanes_store_pairs8(p, even.lo, odd.lo);
    lanes_store_pairs8(p + LANES, even.hi, odd.hi);
}

LANE_FN lf lanes_load_f16(const uint16_t *p)
{
    return (lf){_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)),
                _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p + 8)))};
}
LANE_FN lf lanes_load_bf16(const uint16_t *p)
{
    __m256i a = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p));
    __m256i b = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(p + 8)));
    return (lf){_mm256_castsi256_ps(_mm256_slli_epi32(a, 16)), _mm256_castsi256_ps(_mm256_slli_epi32(b, 16))};
}
LANE_FN void lanes_store_f16(uint16_t *p, lf a)
{
    _mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph(a.lo, _MM_FROUND_TO_NEAREST_INT));
    _mm_storeu_si128((__m128i *)(p + 8), _mm256_cvtps_ph(a.hi, _MM_FROUND_TO_NEAREST_INT));
}
LANE_FN void lanes_store_i8(int8_t *p, li a)
{
    __m256i w = _mm256_packs_epi32(a.lo, a.hi); /* 0-3 8-11 | 4-7 12-15 */
    w = _mm256_permute4x64_epi64(w, 0xd8);
    _mm_storeu_si128((__m128i *)p, _mm_packs_epi16(_mm256_castsi256_si128(w), _mm256_extracti128_si256(w, 1)));
}

#endif
