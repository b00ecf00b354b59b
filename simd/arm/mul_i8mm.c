/* SPDX-License-Identifier: MIT */
/* Matrix products with 8-bit matrix multiplication: two rows times two columns over 8 weights at once.  Lines 2 j and 2 j + 1 of a
 * group are zipped to rows of 8 weights; single columns use the dot products of the neon level. */
#include "simd/arm/mul_neon.h"

enum { MAX_DIRECT = 1 };
#define DIRECT_COLS(M, t)  M(t, 1)
#define KIND_COLS(M, r, w) M(r, w, 2) M(r, w, 4) M(r, w, 6) M(r, w, 8)
#define PAIR_COLS
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

/* low: rows 0 1 times columns a b, high: rows 2 3. */
static ALWAYS_INLINE void v_dot2(vi *s, vi *t, const vi *w, int n, const int8_t *a, const int8_t *b)
{
    vi low = vzip1q_s32(*s, *t), high = vzip2q_s32(*s, *t);
    LANES_FOR (j, n / 2) {
        int8x16_t x = vcombine_s8(vld1_s8(a + 8 * j), vld1_s8(b + 8 * j));
        low = vmmlaq_s32(low, vreinterpretq_s8_s32(w[2 * j]), x);
        high = vmmlaq_s32(high, vreinterpretq_s8_s32(w[2 * j + 1]), x);
    }
    *s = vuzp1q_s32(low, high);
    *t = vuzp2q_s32(low, high);
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
