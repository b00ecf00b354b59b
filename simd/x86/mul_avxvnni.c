/* SPDX-License-Identifier: MIT */
/* Matrix products with AVX-VNNI, the 256-bit dots of processors without AVX-512; all else is the avx2 level's.  Where the compiler is
 * given AVX-512 VNNI instead, the same dots come in its encoding: so the kernel checker runs this level on processors that lack it. */
#include "simd/x86/mul_avx2.h"

enum { WIDE_BIAS = 128, DOT_COLS = 2 };
#define MUL_WITHOUT_FLOAT

static ALWAYS_INLINE vi dot(vi s, vi w, const int8_t *a)
{
#ifdef __AVXVNNI__
    return _mm256_dpbusd_avx_epi32(s, w, v_set(load_4(a)));
#else
    return _mm256_dpbusd_epi32(s, w, v_set(load_4(a)));
#endif
}

static ALWAYS_INLINE void v_dots(vi *s, int n_cols, const vi *w, int n, const int8_t *const *a, int wmax)
{
    LANES_FOR (j, n)
        LANES_FOR (c, n_cols)
            s[c] = dot(s[c], w[j], a[c] + 4 * j);
}

#include "simd/mul.inc"
#include "simd/mul_types.inc"

#ifdef __AVXVNNI__
#define PEAK_DOT(s, w) _mm256_dpbusd_avx_epi32(s, w, w)
#else
#define PEAK_DOT(s, w) _mm256_dpbusd_epi32(s, w, w)
#endif
#define PEAK_OPS      64
#define PEAK_REGISTER "x"
#include "simd/peak.inc"

#ifndef FILL_MUL_AVXVNNI
#define FILL_MUL_AVXVNNI fill_mul_avxvnni
#endif
void FILL_MUL_AVXVNNI(struct simd_ops *ops);

void FILL_MUL_AVXVNNI(struct simd_ops *ops)
{
    mul_fill(ops, "avxvnni");
    peak_fill(ops);
}
