/* SPDX-License-Identifier: MIT */
/* Inside the quant room: what every block format declares, made from types.def, and loads of unaligned little-endian
 * fields.  A type with an integer dot rule gives group_NAME() and its decode follows from that; a type of rule FLOAT gives
 * decode_NAME(). */
#ifndef QUERN_QUANT_BLOCKS_H
#define QUERN_QUANT_BLOCKS_H

#include "quant/quant.h"

#include <string.h>

/* INT_RULE_x(text) is text when rule x multiplies integers, FLOAT_RULE_x(text) when it does not. */
#define INT_RULE_FLOAT(x)
#define INT_RULE_ONE(x)     x
#define INT_RULE_MIN(x)     x
#define INT_RULE_SUB(x)     x
#define INT_RULE_SUB_MIN(x) x
#define INT_RULE_TWO(x)     x
#define FLOAT_RULE_FLOAT(x) x
#define FLOAT_RULE_ONE(x)
#define FLOAT_RULE_MIN(x)
#define FLOAT_RULE_SUB(x)
#define FLOAT_RULE_SUB_MIN(x)
#define FLOAT_RULE_TWO(x)

#define QUANT_TYPE(name_, id_, block_, bytes_, rule_, layout_) \
    FLOAT_RULE_##rule_(void decode_##name_(const void *blocks, float *y, int64_t n_blocks);) \
        INT_RULE_##rule_(void group_##name_(const void *block, int g, struct quant_group *out);)
#include "quant/types.def"
#undef QUANT_TYPE

static inline uint16_t load_u16(const uint8_t *p) { return (uint16_t)(p[0] | p[1] << 8); }

static inline uint32_t load_u32(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static inline float load_f16(const uint8_t *p) { return f16_to_f32(load_u16(p)); }

/* One scale (and minimum) for all 32 weights. */
static inline void group_scale(struct quant_group *out, float d, float m)
{
    out->sub[0] = out->sub[1] = 1;
    out->d[0] = out->d[1] = d;
    out->m[0] = out->m[1] = m;
}

/* The 6-bit scale and minimum j (0..7) of Q4_K and Q5_K: bytes 0-3 and 4-7 hold the first four scales and minima in their
 * low 6 bits; of the last four, bytes 8-11 hold the low 4 bits and the top 2 bits of bytes 0-7 the rest. */
static inline void q4_k_scale(const uint8_t *s, int j, int *scale, int *min)
{
    if (j < 4) {
        *scale = s[j] & 63;
        *min = s[j + 4] & 63;
    } else {
        *scale = (s[j + 4] & 15) | s[j - 4] >> 6 << 4;
        *min = s[j + 4] >> 4 | s[j] >> 6 << 4;
    }
}

/* The 6-bit scale h (0..15) of Q3_K as stored (value + 32). */
static inline int q3_k_scale(const uint8_t *s, int h)
{
    return (s[h % 8] >> 4 * (h / 8) & 15) | (s[8 + h % 4] >> 2 * (h / 4) & 3) << 4;
}

/* The 6-bit scale g (0..7) of an IQ4_XS block as stored (value + 32). */
static inline int iq4_xs_scale(const uint8_t *block, int g)
{
    return (block[4 + g / 2] >> 4 * (g & 1) & 15) | (load_u16(block + 2) >> 2 * g & 3) << 4;
}

#endif
