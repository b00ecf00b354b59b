/* SPDX-License-Identifier: MIT */
/* Matrix products with NEON dot products. */
#include "simd/arm/mul_neon.h"

enum { MAX_DIRECT = 4, FLOAT_ROWS = 2, FLOAT_COLS = 3 };
#define DIRECT_COLS(M, t)  M(t, 1) M(t, 2) M(t, 4)
#define KIND_COLS(M, r, w) M(r, w, 1) M(r, w, 2) M(r, w, 4) M(r, w, 6) M(r, w, 8)

#include "simd/mul.inc"
#include "simd/mul_float.inc"
#include "simd/mul_types.inc"

#define PEAK_DOT(s, w) vdotq_s32(s, vreinterpretq_s8_s32(w), vreinterpretq_s8_s32(w))
#define PEAK_OPS       32
#define PEAK_REGISTER  "w"
#include "simd/peak.inc"

void fill_mul_neon(struct simd_ops *ops)
{
    mul_fill(ops, "neon");
    peak_fill(ops);
}
