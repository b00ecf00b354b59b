/* SPDX-License-Identifier: MIT */
/* The K formats: super-blocks of 256 weights whose sub-blocks of 16 or 32 have small integer scales (and minima) under one
 * or two f16 factors.  Offsets are bytes into a block. */
#include "quant/blocks.h"

/* Scales (scale | min << 4) 0, two bits of weight 128 n + 32 u + i at bit 2 u of byte 16 + 32 n + i, d 80, dmin 82. */
void group_Q2_K(const void *block, int g, struct quant_group *out)
{
    const uint8_t *p = block, *qs = p + 16 + 32 * (g / 4);
    float d = load_f16(p + 80), dmin = load_f16(p + 82);
    group_scale(out, d, 0);
    for (int h = 0; h < 2; h++) {
        out->sub[h] = p[2 * g + h] & 15;
        out->m[h] = -(dmin * (float)(p[2 * g + h] >> 4));
    }
    for (int i = 0; i < QUANT_GROUP; i++)
        out->w[i] = (int8_t)(qs[i] >> 2 * (g % 4) & 3);
}

/* Third bits (clear: subtract 4) 0, bit g of byte i for group g; low two bits 32, as in Q2_K; scales 96; d 108. */
void group_Q3_K(const void *block, int g, struct quant_group *out)
{
    const uint8_t *p = block, *qs = p + 32 + 32 * (g / 4);
    group_scale(out, load_f16(p + 108), 0);
    for (int h = 0; h < 2; h++)
        out->sub[h] = q3_k_scale(p + 96, 2 * g + h) - 32;
    for (int i = 0; i < QUANT_GROUP; i++)
        out->w[i] = (int8_t)((qs[i] >> 2 * (g % 4) & 3) + (p[i] >> g & 1) * 4 - 4);
}

/* d 0, dmin 2, scales 4: the head of Q4_K and Q5_K. */
static void q4_k_head(const uint8_t *p, int g, struct quant_group *out)
{
    int scale, min;
    q4_k_scale(p + 4, g, &scale, &min);
    group_scale(out, load_f16(p) * (float)scale, -(load_f16(p + 2) * (float)min));
}

/* Nibbles 16: 32 bytes for each two groups, the even one low. */
void group_Q4_K(const void *block, int g, struct quant_group *out)
{
    const uint8_t *p = block, *qs = p + 16 + 32 * (g / 2);
    q4_k_head(p, g, out);
    for (int i = 0; i < QUANT_GROUP; i++)
        out->w[i] = (int8_t)(qs[i] >> 4 * (g % 2) & 15);
}

/* Fifth bits 16, bit g of byte i for group g; nibbles 48, as in Q4_K. */
void group_Q5_K(const void *block, int g, struct quant_group *out)
{
    const uint8_t *p = block, *qs = p + 48 + 32 * (g / 2);
    q4_k_head(p, g, out);
    for (int i = 0; i < QUANT_GROUP; i++)
        out->w[i] = (int8_t)((qs[i] >> 4 * (g % 2) & 15) | (p[16 + i] >> g & 1) << 4);
}

/* Nibbles 0: 64 bytes for each four groups, low ones groups 0 and 1, high ones 2 and 3; top two bits 128: 32 bytes for each
 * four groups, bits 2 u for group u; int8 scales 192; d 208. */
void group_Q6_K(const void *block, int g, struct quant_group *out)
{
    int u = g % 4;
    const uint8_t *p = block, *low = p + 64 * (g / 4) + 32 * (u % 2), *high = p + 128 + 32 * (g / 4);
    group_scale(out, load_f16(p + 208), 0);
    for (int h = 0; h < 2; h++)
        out->sub[h] = (int8_t)p[192 + 2 * g + h];
    for (int i = 0; i < QUANT_GROUP; i++)
        out->w[i] = (int8_t)(((low[i] >> 4 * (u / 2) & 15) | (high[i] >> 2 * u & 3) << 4) - 32);
}
