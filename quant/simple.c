/* SPDX-License-Identifier: MIT */
/* Formats with one float scale a block and no super-block: plain floats, Q4_0 to Q8_0, four-bit floats, one-bit, two-bit and
 * ternary weights.  Block layouts are those of the GGUF format; offsets are bytes into a block. */
#include "quant/blocks.h"
#include "quant/iquant_tables.h"

/* ---- floats */

static float float_from_bits(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

/* A signalling NaN becomes quiet, as the hardware conversions do it. */
float f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = h >> 10 & 31, mantissa = h & 0x3ff;
    if (exponent == 31)
        return float_from_bits(sign | 0x7f800000 | mantissa << 13 | (mantissa ? 0x400000 : 0));
    if (exponent)
        return float_from_bits(sign | (exponent + 112) << 23 | mantissa << 13);
    float f = (float)mantissa * 0x1p-24f;
    return sign ? -f : f;
}

uint16_t f32_to_f16(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    uint32_t sign = u >> 16 & 0x8000, a = u & 0x7fffffff, exponent = a >> 23;
    if (a > 0x7f800000)
        return (uint16_t)(sign | 0x7e00 | (a >> 13 & 0x3ff));
    if (exponent >= 143) /* 2^16 and up */
        return (uint16_t)(sign | 0x7c00);
    if (exponent >= 113) { /* a carry out of the mantissa steps the exponent, up to infinity */
        uint32_t r = a - (112u << 23);
        return (uint16_t)(sign | (r + 0xfff + (r >> 13 & 1)) >> 13);
    }
    if (exponent < 102) /* below half of the smallest subnormal */
        return (uint16_t)sign;
    uint32_t shift = 126 - exponent, m = (a & 0x7fffff) | 0x800000;
    uint32_t h = m >> shift, rest = m & ((1u << shift) - 1), half = 1u << (shift - 1);
    return (uint16_t)(sign | (h + (rest > half || (rest == half && (h & 1)))));
}

void decode_F32(const void *blocks, float *y, int64_t n_blocks) { memcpy(y, blocks, (size_t)n_blocks * sizeof *y); }

void decode_F16(const void *blocks, float *y, int64_t n_blocks)
{
    const uint8_t *p = blocks;
    for (int64_t i = 0; i < n_blocks; i++)
        y[i] = load_f16(p + 2 * i);
}

void decode_BF16(const void *blocks, float *y, int64_t n_blocks)
{
    const uint8_t *p = blocks;
    for (int64_t i = 0; i < n_blocks; i++)
        y[i] = bf16_to_f32(load_u16(p + 2 * i));
}

/* ---- blocks of 32: low nibbles are weights 0..15, high ones 16..31 */

static int nibble(const uint8_t *qs, int i) { return i < 16 ? qs[i] & 15 : qs[i - 16] >> 4; }

void group_Q4_0(const void *block, int g, struct quant_group *out)
{
    const uint8_t *p = block;
    group_scale(out, load_f16(p), 0);
    for (int i = 0; i < QUANT_GROUP; i++)
        out->w[i] = (int8_t)(nibble(p + 2, i) - 8);
}

void group_Q4_1(const void *block, int g, struct quant_group *out)
{
    const uint8_t *p = block;
    group_scale(out, load_f16(p), load_f16(p + 2));
    for (int i = 0; i < QUANT_GROUP; i++)
        out->w[i] = (int8_t)nibble(p + 4, i);
}

/* Bit i of a 32-bit word is the fifth bit of weight i. */
void group_Q5_0(const void *block, int g, struct quant_group *out)
{
    const uint8_t *p = block;
    uint32_t high = load_u32(p + 2);
    group_scale(out, load_f16(p), 0);
    for (int i = 0; i < QUANT_GROUP; i++)
        out->w[i] = (int8_t)((nibble(p + 6, i) | (int)(high >> i & 1) << 4) - 16);
}

void group_Q5_1(const void *block, int g, struct quant_group *out)
{
    const uint8_t *p = block;
    uint32_t high = load_u32(p + 4);
    group_scale(out, load_f16(p), load_f16(p + 2));
    for (int i = 0; i < QUANT_GROUP; i++)
        out->w[i] = (int8_t)(nibble(p + 8, i) | (int)(high >> i & 1) << 4);
}

void group_Q8_0(const void *block, int g, struct quant_group *out)
{
    const uint8_t *p = block;
    group_scale(out, load_f16(p), 0);
    memcpy(out->w, p + 2, QUANT_GROUP);
}

/* ---- four-bit floats (e2m1): the code book holds doubled values, so the scale is halved */

/* 2^(e - 128), the block scale 2^(e - 127) halved. */
static float e8m0_half(uint8_t e) { return float_from_bits(e < 2 ? 0x200000u << e : (uint32_t)(e - 1) << 23); }

/* An unsigned float of 4 exponent and 3 mantissa bits, halved; 0x7f, its NaN, counts as zero; the top bit is ignored. */
static float ue4m3_half(uint8_t e)
{
    int exponent = e >> 3 & 15, mantissa = e & 7;
    if (e == 0x7f)
        return 0;
    if (!exponent)
        return (float)mantissa * 0x1p-10f;
    return (float)(8 + mantissa) * float_from_bits((uint32_t)(exponent + 127 - 11) << 23);
}

void group_MXFP4(const void *block, int g, struct quant_group *out)
{
    const uint8_t *p = block;
    group_scale(out, e8m0_half(p[0]), 0);
    for (int i = 0; i < QUANT_GROUP; i++)
        out->w[i] = fp4_values[nibble(p + 1, i)];
}

/* Four scales, then 8 bytes for each 16 weights: low nibbles are weights 0..7, high ones 8..15. */
void group_NVFP4(const void *block, int g, struct quant_group *out)
{
    const uint8_t *p = block;
    group_scale(out, 0, 0);
    for (int h = 0; h < 2; h++) {
        const uint8_t *qs = p + 4 + 8 * (2 * g + h);
        out->d[h] = ue4m3_half(p[2 * g + h]);
        for (int i = 0; i < 8; i++) {
            out->w[16 * h + i] = fp4_values[qs[i] & 15];
            out->w[16 * h + 8 + i] = fp4_values[qs[i] >> 4];
        }
    }
}

/* ---- one and two bits */

void group_Q1_0(const void *block, int g, struct quant_group *out)
{
    const uint8_t *p = block;
    uint32_t bits = load_u32(p + 2 + 4 * g);
    group_scale(out, load_f16(p), 0);
    for (int i = 0; i < QUANT_GROUP; i++)
        out->w[i] = bits >> i & 1 ? 1 : -1;
}

void group_Q2_0(const void *block, int g, struct quant_group *out)
{
    const uint8_t *p = block, *qs = p + 2 + 8 * g;
    group_scale(out, load_f16(p), 0);
    for (int i = 0; i < QUANT_GROUP; i++)
        out->w[i] = (int8_t)((qs[i / 4] >> 2 * (i % 4) & 3) - 1);
}

/* ---- ternary */

/* A byte holds five weights (the last four bytes four each) as a fraction of 256 in base 3; multiplying modulo 256 by 3^n
 * brings digit n to the top.  Weights 0..159 lie 32 apart in bytes 0..31, 160..239 16 apart in bytes 32..47, 240..255 4 apart. */
void group_TQ1_0(const void *block, int g, struct quant_group *out)
{
    static const uint8_t pow3[5] = {1, 3, 9, 27, 81};
    const uint8_t *p = block;
    group_scale(out, load_f16(p + 52), 0);
    for (int i = 0; i < QUANT_GROUP; i++) {
        int k = QUANT_GROUP * g + i, byte, digit;
        if (k < 160) {
            byte = k % 32;
            digit = k / 32;
        } else if (k < 240) {
            byte = 32 + k % 16;
            digit = (k - 160) / 16;
        } else {
            byte = 48 + k % 4;
            digit = (k - 240) / 4;
        }
        uint8_t fraction = (uint8_t)(p[byte] * pow3[digit]);
        out->w[i] = (int8_t)((fraction * 3 >> 8) - 1);
    }
}

void group_TQ2_0(const void *block, int g, struct quant_group *out)
{
    const uint8_t *p = block, *qs = p + 32 * (g / 4);
    group_scale(out, load_f16(p + 64), 0);
    for (int i = 0; i < QUANT_GROUP; i++)
        out->w[i] = (int8_t)((qs[i] >> 2 * (g % 4) & 3) - 1);
}
