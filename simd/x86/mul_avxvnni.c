/* SPDX-License-Identifier: MIT */
/* Matrix products with AVX-VNNI, the 256-bit dots of processors without AVX-512; all else is the avx2 level's.  Where the compiler is
 * given AVX-512 VNNI instead, the same dots come in its encoding: so the kernel checker runs this level on processors that lack it. */
#include "simd/x86/mul_avx2.h"

enum { WIDE_BIAS = 128, DOT_COLS = 2 };
#define MUL_WITHOUT_FLOAT

#ifdef __AVXVNNI__
#define DPBUSD _mm256_dpbusd_avx_epi32
#else
#define DPBUSD _mm256_dpbusd_epi32
#endif

static ALWAYS_INLINE void v_dots(enum qn_type type, vi *s, int n_cols, const vi *w, int n, const int8_t *const *a)
{
    LANES_FOR (j, n)
        LANES_FOR (c, n_cols)
            s[c] = DPBUSD(s[c], w[j], v_set(load_4(a[c] + 4 * j)));
}

#include "simd/mul.inc"
#include "simd/mul_types.inc"

#define PEAK_DOT(s, w) DPBUSD(s, w, w)
#define PEAK_OPS       64
#define PEAK_REGISTER  "x"
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
