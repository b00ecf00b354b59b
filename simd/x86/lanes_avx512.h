/* SPDX-License-Identifier: MIT */
/* The lanes of lanes.h as one zmm.  Included by it alone. */
#ifndef QUERN_LANES_AVX512_H
#define QUERN_LANES_AVX512_H

#if !defined(__AVX512F__) || !defined(__AVX512BW__) || !defined(__AVX512DQ__) || !defined(__AVX512VL__)
#error "compile this file with AVX512_CFLAGS"
#endif
#include <immintrin.h>

typedef __m512 lf;
typedef __m512i li;
typedef __mmask16 lm;

enum { LANES_ACC = 16 };

LANE_FN lm lanes_below(int64_t n) { return n >= LANES ? (lm)0xffff : (lm)((1u << n) - 1); }

LANE_FN lf lanes_set(float a) { return _mm512_set1_ps(a); }
LANE_FN lf lanes_load(const float *p) { return _mm512_loadu_ps(p); }
LANE_FN void lanes_store(float *p, lf a) { _mm512_storeu_ps(p, a); }
LANE_FN lf lanes_get(const float *p, int64_t n)
{
    return n >= LANES ? _mm512_loadu_ps(p) : _mm512_maskz_loadu_ps(lanes_below(n), p);
}
LANE_FN void lanes_put(float *p, lf a, int64_t n)
{
    if (n >= LANES)
        _mm512_storeu_ps(p, a);
    else
        _mm512_mask_storeu_ps(p, lanes_below(n), a);
}

LANE_FN lf lanes_add(lf a, lf b) { return _mm512_add_ps(a, b); }
LANE_FN lf lanes_sub(lf a, lf b) { return _mm512_sub_ps(a, b); }
LANE_FN lf lanes_mul(lf a, lf b) { return _mm512_mul_ps(a, b); }
LANE_FN lf lanes_div(lf a, lf b) { return _mm512_div_ps(a, b); }
LANE_FN lf lanes_fma(lf a, lf b, lf c) { return _mm512_fmadd_ps(a, b, c); }
LANE_FN lf lanes_max(lf a, lf b) { return _mm512_max_ps(a, b); } /* gives b when unordered or equal */
LANE_FN lf lanes_min(lf a, lf b) { return _mm512_min_ps(a, b); }
LANE_FN lf lanes_neg(lf a) { return _mm512_xor_ps(a, _mm512_set1_ps(-0.0f)); }
LANE_FN lf lanes_abs(lf a) { return _mm512_andnot_ps(_mm512_set1_ps(-0.0f), a); }

LANE_FN lm lanes_gt(lf a, lf b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }
LANE_FN lm lanes_nan(lf a) { return _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q); }
LANE_FN lf lanes_sel(lm m, lf a, lf b) { return _mm512_mask_blend_ps(m, b, a); }

LANE_FN li lanes_as_i(lf a) { return _mm512_castps_si512(a); }
LANE_FN lf lanes_as_f(li a) { return _mm512_castsi512_ps(a); }
LANE_FN li lanes_iadd(li a, li b) { return _mm512_add_epi32(a, b); }
LANE_FN li lanes_shl23(li a) { return _mm512_slli_epi32(a, 23); }
LANE_FN li lanes_imax(li a, li b) { return _mm512_max_epi32(a, b); }
LANE_FN li lanes_to_i(lf a) { return _mm512_cvtps_epi32(a); }

LANE_FN float lanes_sum(lf a)
{
    __m256 s = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m128 q = _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
    q = _mm_add_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
}
LANE_FN float lanes_top(lf a)
{
    __m256 s = _mm256_max_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m128 q = _mm_max_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
    q = _mm_max_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_max_ss(q, _mm_movehdup_ps(q)));
}
LANE_FN int32_t lanes_isum(li a) { return _mm512_reduce_add_epi32(a); }
LANE_FN int32_t lanes_itop(li a) { return _mm512_reduce_max_epi32(a); }

LANE_FN void lanes_load_pairs(const float *p, lf *even, lf *odd)
{
    const li e = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    lf a = lanes_load(p), b = lanes_load(p + LANES);
    *even = _mm512_permutex2var_ps(a, e, b);
    *odd = _mm512_permutex2var_ps(a, _mm512_or_si512(e, _mm512_set1_epi32(1)), b);
}
LANE_FN void lanes_store_pairs(float *p, lf even, lf odd)
{
    const li lo = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    lanes_store(p, _mm512_permutex2var_ps(even, lo, odd));
    lanes_store(p + LANES, _mm512_permutex2var_ps(even, _mm512_or_si512(lo, _mm512_set1_epi32(8)), odd));
}

LANE_FN lf lanes_load_f16(const uint16_t *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p)); }
LANE_FN lf lanes_load_bf16(const uint16_t *p)
{
    __m512i u = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(u, 16));
}
LANE_FN void lanes_store_f16(uint16_t *p, lf a)
{
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
LANE_FN void lanes_store_i8(int8_t *p, li a) { _mm_storeu_si128((__m128i *)p, _mm512_cvtepi32_epi8(a)); }

#endif
