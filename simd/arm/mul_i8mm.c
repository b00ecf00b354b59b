/* SPDX-License-Identifier: MIT */
/* Matrix products with 8-bit matrix multiplication: two rows times two columns over 8 weights at once.  Lines 2 j and 2 j + 1 of a
 * group are zipped to rows of 8 weights; single columns use the dot products of the neon level. */
#include "simd/arm/mul_neon.h"

enum { DOT_STEP = 2 };
/* clang-format off */
#define TILE_COLS(M, t) M(t, 1) M(t, 2) M(t, 4) M(t, 6) M(t, 8)
/* clang-format on */
#define MUL_WITHOUT_FLOAT

/* Each two lines, rows 0..3: to rows 0 1 and rows 2 3 of 8 weights. */
static ALWAYS_INLINE void v_pair(vi w[8])
{
    LANES_FOR (j, 4) {
        vi x = w[2 * j], y = w[2 * j + 1];
        w[2 * j] = vzip1q_s32(x, y);
        w[2 * j + 1] = vzip2q_s32(x, y);
    }
}

/* Sums of two columns, low: rows 0 1 times columns 0 1, high: rows 2 3. */
static ALWAYS_INLINE void dots_pair(vi *s, const vi *w, int n, const int8_t *const *a)
{
    vi low = vzip1q_s32(s[0], s[1]), high = vzip2q_s32(s[0], s[1]);
    LANES_FOR (j, n / 2) {
        int8x16_t x = vcombine_s8(vld1_s8(a[0] + 8 * j), vld1_s8(a[1] + 8 * j));
        low = vmmlaq_s32(low, vreinterpretq_s8_s32(w[2 * j]), x);
        high = vmmlaq_s32(high, vreinterpretq_s8_s32(w[2 * j + 1]), x);
    }
    s[0] = vuzp1q_s32(low, high);
    s[1] = vuzp2q_s32(low, high);
}

static ALWAYS_INLINE void v_dots(vi *s, int n_cols, const vi *w, int n, const int8_t *const *a, int wmax)
{
    LANES_FOR (c, n_cols / 2)
        dots_pair(s + 2 * c, w, n, a + 2 * c);
    if (n_cols == 1)
        dots(s, 1, w, n, a);
}

#include "simd/mul.inc"
#include "simd/mul_types.inc"

#define PEAK_DOT(s, w) vmmlaq_s32(s, vreinterpretq_s8_s32(w), vreinterpretq_s8_s32(w))
#define PEAK_OPS       64
#define PEAK_REGISTER  "w"
#include "simd/peak.inc"

void fill_mul_i8mm(struct simd_ops *ops)
{
    mul_fill(ops, "i8mm");
    peak_fill(ops);
}
