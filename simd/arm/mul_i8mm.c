/* SPDX-License-Identifier: MIT */
/* Matrix products with 8-bit matrix multiplication for two columns and more; single columns use the dot products of the neon level,
 * which multiply one column as fast. */
#include "simd/arm/mul_neon.h"

#define PAIRS_INC "simd/arm/mul_pairs.inc"
/* clang-format off */
#define TILE_COLS(M, t) M(t, 1) M(t, 2) M(t, 4) M(t, 6) M(t, 8) M(t, 10) M(t, 12) M(t, 14) M(t, 16)
/* clang-format on */
#define MUL_WITHOUT_FLOAT

/* Octets for all but single columns. */
static ALWAYS_INLINE void v_arrange(enum qn_type type, int n, vi w[8])
{
    if (n > 1 && !type_book(type))
        LANES_FOR (o, 4) {
            vi x = w[2 * o], y = w[2 * o + 1];
            w[2 * o] = vzip1q_s32(x, y);
            w[2 * o + 1] = vzip2q_s32(x, y);
        }
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
