/* SPDX-License-Identifier: MIT */
/* The lanes of lanes.h as four q registers, v[0] holds lanes 0..3.  Included by it alone. */
#ifndef QUERN_LANES_NEON_H
#define QUERN_LANES_NEON_H

#if !defined(__aarch64__) || !defined(__ARM_NEON)
#error "compile this file for AArch64 with NEON_CFLAGS"
#endif
#include <arm_neon.h>

typedef struct {
    float32x4_t a, b, c, d;
} lf;
typedef struct {
    int32x4_t a, b, c, d;
} li;
typedef struct {
    uint32x4_t a, b, c, d;
} lm; /* all bits of a lane set or clear */

enum { LANES_ACC = 4 };

typedef struct {
    float32x4_t a, b;
} lp;
enum { PART_LANES = 8 };
LANE_FN lp part_set(float x) { return (lp){vdupq_n_f32(x), vdupq_n_f32(x)}; }
LANE_FN lp part_load(const float *p) { return (lp){vld1q_f32(p), vld1q_f32(p + 4)}; }
LANE_FN void part_store(float *p, lp x)
{
    vst1q_f32(p, x.a);
    vst1q_f32(p + 4, x.b);
}
LANE_FN lp part_add(lp x, lp y) { return (lp){vaddq_f32(x.a, y.a), vaddq_f32(x.b, y.b)}; }
LANE_FN lp part_mul(lp x, lp y) { return (lp){vmulq_f32(x.a, y.a), vmulq_f32(x.b, y.b)}; }
LANE_FN lp part_fma(lp x, lp y, lp z) { return (lp){vfmaq_f32(z.a, x.a, y.a), vfmaq_f32(z.b, x.b, y.b)}; }

#define LANES_1(T, fn, x)    ((T){fn((x).a), fn((x).b), fn((x).c), fn((x).d)})
#define LANES_2(T, fn, x, y) ((T){fn((x).a, (y).a), fn((x).b, (y).b), fn((x).c, (y).c), fn((x).d, (y).d)})
#define LANES_3(T, fn, x, y, z) \
    ((T){fn((x).a, (y).a, (z).a), fn((x).b, (y).b, (z).b), fn((x).c, (y).c, (z).c), fn((x).d, (y).d, (z).d)})

LANE_FN lm lanes_below(int64_t n)
{
    static const uint32_t index[LANES] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    uint32x4_t c = vdupq_n_u32(n > LANES ? LANES : (uint32_t)n);
    return (lm){vcltq_u32(vld1q_u32(index), c), vcltq_u32(vld1q_u32(index + 4), c), vcltq_u32(vld1q_u32(index + 8), c),
                vcltq_u32(vld1q_u32(index + 12), c)};
}

LANE_FN lf lanes_set(float x)
{
    float32x4_t q = vdupq_n_f32(x);
    return (lf){q, q, q, q};
}
LANE_FN lf lanes_load(const float *p)
{
    return (lf){vld1q_f32(p), vld1q_f32(p + 4), vld1q_f32(p + 8), vld1q_f32(p + 12)};
}
LANE_FN void lanes_store(float *p, lf x)
{
    vst1q_f32(p, x.a);
    vst1q_f32(p + 4, x.b);
    vst1q_f32(p + 8, x.c);
    vst1q_f32(p + 12, x.d);
}
LANE_FN lf lanes_get(const float *p, int64_t n)
{
    if (n >= LANES)
        return lanes_load(p);
    float part[LANES] = {0};
    for (int l = 0; l < n; l++)
        part[l] = p[l];
    return lanes_load(part);
}
LANE_FN void lanes_put(float *p, lf x, int64_t n)
{
    if (n >= LANES) {
        lanes_store(p, x);
        return;
    }
    float part[LANES];
    lanes_store(part, x);
    for (int l = 0; l < n; l++)
        p[l] = part[l];
}

LANE_FN lf lanes_add(lf x, lf y) { return LANES_2(lf, vaddq_f32, x, y); }
LANE_FN lf lanes_sub(lf x, lf y) { return LANES_2(lf, vsubq_f32, x, y); }
LANE_FN lf lanes_mul(lf x, lf y) { return LANES_2(lf, vmulq_f32, x, y); }
LANE_FN lf lanes_div(lf x, lf y) { return LANES_2(lf, vdivq_f32, x, y); }
LANE_FN lf lanes_fma(lf x, lf y, lf z) { return LANES_3(lf, vfmaq_f32, z, x, y); }
LANE_FN lf lanes_neg(lf x) { return LANES_1(lf, vnegq_f32, x); }
LANE_FN lf lanes_abs(lf x) { return LANES_1(lf, vabsq_f32, x); }

LANE_FN lm lanes_gt(lf x, lf y) { return LANES_2(lm, vcgtq_f32, x, y); }
LANE_FN lf lanes_sel(lm m, lf x, lf y) { return LANES_3(lf, vbslq_f32, m, x, y); }
LANE_FN lf lanes_max(lf x, lf y) { return lanes_sel(lanes_gt(x, y), x, y); }
LANE_FN lf lanes_min(lf x, lf y) { return lanes_sel(lanes_gt(y, x), x, y); }
LANE_FN lm lanes_nan(lf x)
{
    lm same = LANES_2(lm, vceqq_f32, x, x);
    return LANES_1(lm, vmvnq_u32, same);
}

LANE_FN li lanes_as_i(lf x) { return LANES_1(li, vreinterpretq_s32_f32, x); }
LANE_FN lf lanes_as_f(li x) { return LANES_1(lf, vreinterpretq_f32_s32, x); }
LANE_FN li lanes_iadd(li x, li y) { return LANES_2(li, vaddq_s32, x, y); }
LANE_FN li lanes_imax(li x, li y) { return LANES_2(li, vmaxq_s32, x, y); }
LANE_FN li lanes_to_i(lf x) { return LANES_1(li, vcvtnq_s32_f32, x); }
LANE_FN li lanes_shl23(li x)
{
    return (li){vshlq_n_s32(x.a, 23), vshlq_n_s32(x.b, 23), vshlq_n_s32(x.c, 23), vshlq_n_s32(x.d, 23)};
}

LANE_FN float lanes_sum(lf x)
{
    float32x4_t q = vaddq_f32(vaddq_f32(x.a, x.c), vaddq_f32(x.b, x.d));
    return vpadds_f32(vadd_f32(vget_low_f32(q), vget_high_f32(q)));
}
LANE_FN float32x4_t lanes_max4(float32x4_t x, float32x4_t y) { return vbslq_f32(vcgtq_f32(x, y), x, y); }
LANE_FN float lanes_top(lf x)
{
    float32x4_t q = lanes_max4(lanes_max4(x.a, x.c), lanes_max4(x.b, x.d));
    q = lanes_max4(q, vextq_f32(q, q, 2));
    return vgetq_lane_f32(lanes_max4(q, vextq_f32(q, q, 1)), 0);
}
LANE_FN int32_t lanes_isum(li x) { return vaddvq_s32(vaddq_s32(vaddq_s32(x.a, x.b), vaddq_s32(x.c, x.d))); }
LANE_FN int32_t lanes_itop(li x) { return vmaxvq_s32(vmaxq_s32(vmaxq_s32(x.a, x.b), vmaxq_s32(x.c, x.d))); }

LANE_FN void lanes_load_pairs(const float *p, lf *even, lf *odd)
{
    float32x4x2_t a = vld2q_f32(p), b = vld2q_f32(p + 8), c = vld2q_f32(p + 16), d = vld2q_f32(p + 24);
    *even = (lf){a.val[0], b.val[0], c.val[0], d.val[0]};
    *odd = (lf){a.val[1], b.val[1], c.val[1], d.val[1]};
}
LANE_FN void lanes_store_pairs(float *p, lf even, lf odd)
{
    vst2q_f32(p, ((float32x4x2_t){{even.a, odd.a}}));
    vst2q_f32(p + 8, ((float32x4x2_t){{even.b, odd.b}}));
    vst2q_f32(p + 16, ((float32x4x2_t){{even.c, odd.c}}));
    vst2q_f32(p + 24, ((float32x4x2_t){{even.d, odd.d}}));
}

LANE_FN float32x4_t lanes_f16x4(uint16x4_t h) { return vcvt_f32_f16(vreinterpret_f16_u16(h)); }
LANE_FN uint16x8_t lanes_to_f16x8(float32x4_t lo, float32x4_t hi)
{
    return vreinterpretq_u16_f16(vcombine_f16(vcvt_f16_f32(lo), vcvt_f16_f32(hi)));
}
LANE_FN float32x4_t lanes_bf16x4(uint16x4_t h) { return vreinterpretq_f32_u32(vshll_n_u16(h, 16)); }
LANE_FN lf lanes_load_f16(const uint16_t *p)
{
    uint16x8_t a = vld1q_u16(p), b = vld1q_u16(p + 8);
    return (lf){lanes_f16x4(vget_low_u16(a)), lanes_f16x4(vget_high_u16(a)), lanes_f16x4(vget_low_u16(b)),
                lanes_f16x4(vget_high_u16(b))};
}
LANE_FN lf lanes_load_bf16(const uint16_t *p)
{
    uint16x8_t a = vld1q_u16(p), b = vld1q_u16(p + 8);
    return (lf){lanes_bf16x4(vget_low_u16(a)), lanes_bf16x4(vget_high_u16(a)), lanes_bf16x4(vget_low_u16(b)),
                lanes_bf16x4(vget_high_u16(b))};
}
LANE_FN void lanes_store_f16(uint16_t *p, lf x)
{
    vst1q_u16(p, lanes_to_f16x8(x.a, x.b));
    vst1q_u16(p + 8, lanes_to_f16x8(x.c, x.d));
}
LANE_FN void lanes_store_i8(int8_t *p, li x)
{
    int16x8_t a = vcombine_s16(vmovn_s32(x.a), vmovn_s32(x.b)), b = vcombine_s16(vmovn_s32(x.c), vmovn_s32(x.d));
    vst1q_s8(p, vcombine_s8(vmovn_s16(a), vmovn_s16(b)));
}

#endif
