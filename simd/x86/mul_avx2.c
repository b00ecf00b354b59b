/* SPDX-License-Identifier: MIT */
/* Matrix products with AVX2, FMA and F16C.  Products of bytes are summed in pairs of 16 bits, which never saturate: unsigned weights
 * are at most 127, or |w| <= 128 with the sign put on the activation, which is at most 127. */
#include "simd/x86/mul_avx2.h"

enum { WIDE_BIAS = 0, DOT_COLS = 4, FLOAT_ROWS = 2, FLOAT_COLS = 3 };
#define DOT_COLS_OF(type) (type_max(type) == WIDE ? DOT_COLS : 1)

/* As many products as fit are summed in 16 bits: a pair is at most 254 wmax.  Columns side by side would need more registers. */
static ALWAYS_INLINE void dots_unsigned(int wmax, vi *s, const vi *w, int n, const int8_t *a)
{
    const int fit = 32767 / (254 * wmax), together = fit >= 8 ? 8 : fit >= 4 ? 4 : fit >= 2 ? 2 : 1;
    vi x = v_set(0);
    LANES_FOR (j, n) {
        vi p = _mm256_maddubs_epi16(w[j], v_set(load_4(a + 4 * j)));
        x = j % together ? _mm256_add_epi16(x, p) : p;
        if (j % together == together - 1 || j == n - 1)
            *s = v_add(*s, _mm256_madd_epi16(x, _mm256_set1_epi16(1)));
    }
}

/* Columns share the magnitudes.  Of more than one the sums are made in this order: as a tree, which they would become, they need more
 * registers than there are. */
static ALWAYS_INLINE void dots_signed(vi *s, int n_cols, const vi *w, int n, const int8_t *const *a)
{
    LANES_FOR (j, n) {
        vi magnitude = _mm256_abs_epi8(w[j]);
        LANES_FOR (c, n_cols) {
            vi p = _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(v_set(load_4(a[c] + 4 * j)), w[j]));
            s[c] = v_add(s[c], _mm256_madd_epi16(p, _mm256_set1_epi16(1)));
            if (n_cols > 1)
                IN_REGISTER(s[c]);
        }
    }
}

static ALWAYS_INLINE void v_dots(enum qn_type type, vi *s, int n_cols, const vi *w, int n, const int8_t *const *a)
{
    if (type_max(type) == WIDE)
        dots_signed(s, n_cols, w, n, a);
    else
        dots_unsigned(type_max(type), s, w, n, a[0]);
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
