/* SPDX-License-Identifier: MIT */
/* The vocabulary of mul.inc for NEON with dot products: a register is a quarter of a line, 4 rows.  Shared by the neon and i8mm
 * levels, which differ in the dots alone.  Weights of all types fit signed bytes, so full-range ones need no bias. */
#ifndef QUERN_MUL_NEON_H
#define QUERN_MUL_NEON_H

#define LANES_NEON
#include "simd/lanes.h"
#include "simd/mul_vocabulary.h"

#include <arm_neon.h>

typedef int32x4_t vi;
typedef float32x4_t vf;

enum { W = 4, PARTS = 4, WIDE_BIAS = 0, BOOK_BIAS = 0, MAX_COLS = 16, MAX_SUMS = 16, DOT_COLS = 4 };

static ALWAYS_INLINE uint8x16_t v_u(vi x) { return vreinterpretq_u8_s32(x); }
static ALWAYS_INLINE vi v_i(uint8x16_t x) { return vreinterpretq_s32_u8(x); }

static ALWAYS_INLINE vi v_load(const void *p) { return v_i(vld1q_u8(p)); }
static ALWAYS_INLINE void v_store(void *p, vi x) { vst1q_u8(p, v_u(x)); }
static ALWAYS_INLINE vi v_bytes(int k) { return vreinterpretq_s32_s8(vdupq_n_s8((int8_t)k)); }
static ALWAYS_INLINE vi v_set(int32_t k) { return vdupq_n_s32(k); }
static ALWAYS_INLINE vi v_and(vi x, vi y) { return vandq_s32(x, y); }
static ALWAYS_INLINE vi v_or(vi x, vi y) { return vorrq_s32(x, y); }
static ALWAYS_INLINE vi v_xor(vi x, vi y) { return veorq_s32(x, y); }
static ALWAYS_INLINE vi v_add(vi x, vi y) { return vaddq_s32(x, y); }
static ALWAYS_INLINE vi v_sub(vi x, vi y) { return vsubq_s32(x, y); }
static ALWAYS_INLINE vi v_max(vi x, vi y) { return vmaxq_s32(x, y); }
static ALWAYS_INLINE vi v_addb(vi x, vi y) { return v_i(vaddq_u8(v_u(x), v_u(y))); }
static ALWAYS_INLINE vi v_subb(vi x, vi y) { return v_i(vsubq_u8(v_u(x), v_u(y))); }
static ALWAYS_INLINE vi v_mul16(vi x, vi y)
{
    return vreinterpretq_s32_s16(vmulq_s16(vreinterpretq_s16_s32(x), vreinterpretq_s16_s32(y)));
}
static ALWAYS_INLINE vi v_shl(vi x, int n) { return (vi)((uint32x4_t)x << (unsigned)n); }
static ALWAYS_INLINE vi v_shr(vi x, int n) { return (vi)((uint32x4_t)x >> (unsigned)n); }
static ALWAYS_INLINE vi v_half_line(const uint8_t *p, int k) { return v_shr(v_load(p + 16 * (k % 2)), k / 2 * 4); }
static ALWAYS_INLINE vi v_shrb(vi x, int n) { return (vi)(v_u(x) >> (unsigned)n); }
static ALWAYS_INLINE vi v_put(vi x, vi y, vi mask) { return v_i(vbslq_u8(v_u(mask), v_u(y), v_u(x))); }
/* Byte 4 part + l in the low byte of lane l, or (shifted by 24) the high one; an index past the table gives zero. */
static ALWAYS_INLINE vi v_four_bytes(const void *p, int part, int shift)
{
    static const uint32_t first[4] = {0, 1, 2, 3};
    uint32x4_t i = vaddq_u32(vld1q_u32(first), vdupq_n_u32((uint32_t)(4 * part)));
    i = (i << (unsigned)shift) | vdupq_n_u32(~(255u << shift));
    return v_i(vqtbl1q_u8(vld1q_u8(p), vreinterpretq_u8_u32(i)));
}
static ALWAYS_INLINE vi v_u8(const void *p, int part) { return v_four_bytes(p, part, 0); }
static ALWAYS_INLINE vi v_s8(const void *p, int part) { return vshrq_n_s32(v_four_bytes(p, part, 24), 24); }
static ALWAYS_INLINE vi v_table(const int8_t t[16]) { return vreinterpretq_s32_s8(vld1q_s8(t)); }
static ALWAYS_INLINE vi v_lut(vi t, vi x) { return v_i(vqtbl1q_u8(v_u(t), v_u(x))); }

static ALWAYS_INLINE vf f_set(float x) { return vdupq_n_f32(x); }
static ALWAYS_INLINE vf f_cvt(vi x) { return vcvtq_f32_s32(x); }
static ALWAYS_INLINE vf f_bits(vi x) { return vreinterpretq_f32_s32(x); }
static ALWAYS_INLINE vf f_mul(vf x, vf y) { return vmulq_f32(x, y); }
static ALWAYS_INLINE vf f_fma(vf x, vf y, vf z) { return vfmaq_f32(z, x, y); }
static ALWAYS_INLINE vf f_f16(const uint8_t *p) { return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(p))); }
static ALWAYS_INLINE vf f_load(const float *p) { return vld1q_f32(p); }
static ALWAYS_INLINE void f_store(float *p, vf x) { vst1q_f32(p, x); }

/* One column; register 2 o + h has octet o of rows 2 h and 2 h + 1, as code books leave it. */
static ALWAYS_INLINE void dots_octets(vi *s, const vi *w, int n, const int8_t *a)
{
    vi t[2] = {v_set(0), v_set(0)};
    LANES_FOR (o, n / 2) {
        int8x16_t x = vreinterpretq_s8_s64(vld1q_dup_s64((const int64_t *)(a + 8 * o)));
        LANES_FOR (h, 2)
            t[h] = vdotq_s32(t[h], vreinterpretq_s8_s32(w[2 * o + h]), x);
    }
    *s = v_add(*s, vpaddq_s32(t[0], t[1]));
}

/* Four lines against 16 activations: each line takes its own 4 of them. */
static ALWAYS_INLINE void v_dots(enum qn_type type, vi *s, int n_cols, const vi *w, int n, const int8_t *const *a)
{
    if (n_cols == 1 && type_book(type)) {
        dots_octets(s, w, n, a[0]);
        return;
    }
    LANES_FOR (i, n / 4)
        LANES_FOR (c, n_cols) {
            int8x16_t x = vld1q_s8(a[c] + 16 * i);
            s[c] = vdotq_laneq_s32(s[c], vreinterpretq_s8_s32(w[4 * i]), x, 0);
            s[c] = vdotq_laneq_s32(s[c], vreinterpretq_s8_s32(w[4 * i + 1]), x, 1);
            s[c] = vdotq_laneq_s32(s[c], vreinterpretq_s8_s32(w[4 * i + 2]), x, 2);
            s[c] = vdotq_laneq_s32(s[c], vreinterpretq_s8_s32(w[4 * i + 3]), x, 3);
        }
}

#define BOOK_INC "simd/arm/mul_book_neon.inc"

#endif
