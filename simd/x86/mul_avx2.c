/* SPDX-License-Identifier: MIT */
/* Matrix products with AVX2, FMA and F16C.  Products of bytes are summed in pairs of 16 bits, which never saturate: unsigned weights
 * are at most 127, or |w| <= 128 with the sign put on the activation, which is at most 127. */
#include "simd/x86/mul_avx2.h"

enum { WIDE_BIAS = 0, DOT_COLS = 1, FLOAT_ROWS = 2, FLOAT_COLS = 3 };

static ALWAYS_INLINE vi byte_products(vi w, const int8_t *a, bool wide)
{
    vi x = v_set(load_4(a));
    return wide ? _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w)) : _mm256_maddubs_epi16(w, x);
}

/* As many products as fit are summed in 16 bits: a pair is at most 254 wmax.  Columns side by side would need more registers. */
static ALWAYS_INLINE void v_dots(enum qn_type type, vi *s, int n_cols, const vi *w, int n, const int8_t *const *a)
{
    const int wmax = type_max(type), fit = 32767 / (254 * wmax);
    const int together = fit >= 8 ? 8 : fit >= 4 ? 4 : fit >= 2 ? 2 : 1;
    vi x = v_set(0);
    LANES_FOR (j, n) {
        vi p = byte_products(w[j], a[0] + 4 * j, wmax > 127);
        x = j % together ? _mm256_add_epi16(x, p) : p;
        if (j % together == together - 1 || j == n - 1)
            s[0] = v_add(s[0], _mm256_madd_epi16(x, _mm256_set1_epi16(1)));
    }
}
#include "simd/mul.inc"
#include "simd/mul_float.inc"
#include "simd/mul_types.inc"

/* As where many products fit 16 bits: their widening to 32 bits is left out. */
#define PEAK_DOT(s, w) _mm256_add_epi16(s, _mm256_maddubs_epi16(w, s))
#define PEAK_OPS       64
#define PEAK_REGISTER  "x"
#include "simd/peak.inc"

void fill_mul_avx2(struct simd_ops *ops)
{
    mul_fill(ops, "avx2");
    peak_fill(ops);
}
