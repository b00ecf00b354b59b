/* SPDX-License-Identifier: MIT */
/* The vocabulary of attn_values.inc for NEON: dots of bytes, with weights as 128 a + b; of four positions come the four a, then the
 * four b, in the order of the line.  Included by it alone. */
#ifndef QUERN_VALUES_NEON_H
#define QUERN_VALUES_NEON_H

typedef struct {
    int8x16_t a, b, c, d;
} vbytes;
typedef vbytes vline;
typedef struct {
    li a, b;
} vsum;

enum { VALUES_HALVES = 1, VALUES_ROWS = 3 };

LANE_FN vbytes values_load(const uint8_t *p)
{
    const int8_t *q = (const int8_t *)p;
    return (vbytes){vld1q_s8(q), vld1q_s8(q + 16), vld1q_s8(q + 32), vld1q_s8(q + 48)};
}
LANE_FN int8x16_t values_lookup(const uint8_t *p, int half, int8x16_t table)
{
    uint8x16_t x = vld1q_u8(p);
    return vqtbl1q_s8(table, half ? vshrq_n_u8(x, 4) : vandq_u8(x, vdupq_n_u8(15)));
}
LANE_FN vbytes values_nibbles(const uint8_t *p, int half, const int8_t table[16])
{
    int8x16_t t = vld1q_s8(table);
    return (vbytes){values_lookup(p, half, t), values_lookup(p + 16, half, t), values_lookup(p + 32, half, t),
                    values_lookup(p + 48, half, t)};
}
LANE_FN int8x16_t values_bit(int8x16_t x, uint8x16_t high, int bit)
{
    uint8x16_t set = vtstq_u8(high, vdupq_n_u8((uint8_t)(1 << bit)));
    return vaddq_s8(x, vreinterpretq_s8_u8(vandq_u8(set, vdupq_n_u8(16))));
}
/* A quarter of the line takes its own bit of each byte. */
LANE_FN vbytes values_fifth(vbytes x, const uint8_t *high, int half)
{
    uint8x16_t h = vld1q_u8(high);
    return (vbytes){values_bit(x.a, h, 4 * half), values_bit(x.b, h, 4 * half + 1), values_bit(x.c, h, 4 * half + 2),
                    values_bit(x.d, h, 4 * half + 3)};
}
LANE_FN vline values_open(vbytes x) { return x; }

LANE_FN vsum values_none(void)
{
    li none = lanes_as_i(lanes_zero());
    return (vsum){none, none};
}
LANE_FN vsum values_dot(vsum s, vline x, const uint8_t *w)
{
    int8x8_t k = vld1_s8((const int8_t *)w);
    s.a = (li){vdotq_lane_s32(s.a.a, x.a, k, 0), vdotq_lane_s32(s.a.b, x.b, k, 0), vdotq_lane_s32(s.a.c, x.c, k, 0),
               vdotq_lane_s32(s.a.d, x.d, k, 0)};
    s.b = (li){vdotq_lane_s32(s.b.a, x.a, k, 1), vdotq_lane_s32(s.b.b, x.b, k, 1), vdotq_lane_s32(s.b.c, x.c, k, 1),
               vdotq_lane_s32(s.b.d, x.d, k, 1)};
    return s;
}
LANE_FN float32x4_t values_both(int32x4_t a, int32x4_t b) { return vcvtq_f32_s32(vaddq_s32(vshlq_n_s32(a, 7), b)); }
LANE_FN lf values_total(vsum s)
{
    return (lf){values_both(s.a.a, s.b.a), values_both(s.a.b, s.b.b), values_both(s.a.c, s.b.c),
                values_both(s.a.d, s.b.d)};
}
LANE_FN void values_weights(uint8_t *w, li q)
{
    static const uint8_t line[16] = {0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15};
    int16x8_t x = vcombine_s16(vmovn_s32(q.a), vmovn_s32(q.b)), y = vcombine_s16(vmovn_s32(q.c), vmovn_s32(q.d));
    int8x16_t a = vcombine_s8(vmovn_s16(vshrq_n_s16(x, 7)), vmovn_s16(vshrq_n_s16(y, 7)));
    const int16x8_t low = vdupq_n_s16(127);
    int8x16_t b = vcombine_s8(vmovn_s16(vandq_s16(x, low)), vmovn_s16(vandq_s16(y, low)));
    uint8x16_t order = vld1q_u8(line);
    int32x4_t fours_a = vreinterpretq_s32_s8(vqtbl1q_s8(a, order));
    int32x4_t fours_b = vreinterpretq_s32_s8(vqtbl1q_s8(b, order));
    vst1q_s8((int8_t *)w, vreinterpretq_s8_s32(vzip1q_s32(fours_a, fours_b)));
    vst1q_s8((int8_t *)w + 16, vreinterpretq_s8_s32(vzip2q_s32(fours_a, fours_b)));
}

#endif
