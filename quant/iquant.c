/* SPDX-License-Identifier: MIT */
/* The IQ formats: weights come 4 or 8 at a time from a code book, with separate signs in the 2- and 3-bit formats.
 * Fractional factors of the formats ((s + 1/2) / 4 and the like) are kept as odd integers 2 s + 1 under a smaller scale,
 * which is exact.  Offsets are bytes into a block. */
#include "quant/blocks.h"
#include "quant/iquant_tables.h"

/* Eight weights: bytes of the grid entry, negated where the sign bit is set. */
static void put8(int8_t *w, uint64_t grid, uint8_t signs)
{
    for (int i = 0; i < 8; i++) {
        int v = (int)(grid >> 8 * i & 255);
        w[i] = (int8_t)(signs >> i & 1 ? -v : v);
    }
}

static uint64_t grid_pair(uint32_t a, uint32_t b) { return a | (uint64_t)b << 32; }

/* d 0; for each group, at 2 + 8 g: four grid indices, then a word of four 7-bit sign codes and a 4-bit scale. */
void group_IQ2_XXS(const void *block, int g, struct quant_group *out)
{
    const uint8_t *p = block, *qs = p + 2 + 8 * g;
    uint32_t word = load_u32(qs + 4);
    group_scale(out, load_f16(p) * (float)(2 * (word >> 28) + 1) * 0.125f, 0);
    for (int l = 0; l < 4; l++)
        put8(out->w + 8 * l, iq2_xxs_grid[qs[l]], iq_signs[word >> 7 * l & 127]);
}

/* Sub-scales of 16 weights: nibbles of a byte. */
static void iq2_scales(struct quant_group *out, float d, uint8_t scales)
{
    group_scale(out, d * 0.125f, 0);
    for (int h = 0; h < 2; h++)
        out->sub[h] = 2 * (scales >> 4 * h & 15) + 1;
}

/* d 0; words of grid index (9 bits) and sign code (7 bits) 2; scales 66. */
void group_IQ2_XS(const void *block, int g, struct quant_group *out)
{
    const uint8_t *p = block;
    iq2_scales(out, load_f16(p), p[66 + g]);
    for (int l = 0; l < 4; l++) {
        unsigned word = load_u16(p + 2 + 2 * (4 * g + l));
        put8(out->w + 8 * l, iq2_xs_grid[word & 511], iq_signs[word >> 9]);
    }
}

/* d 0; low 8 bits of grid indices 2; sign bits 34; high 2 bits of indices 66; scales 74. */
void group_IQ2_S(const void *block, int g, struct quant_group *out)
{
    const uint8_t *p = block;
    iq2_scales(out, load_f16(p), p[74 + g]);
    for (int l = 0; l < 4; l++) {
        unsigned index = p[2 + 4 * g + l] | (p[66 + g] >> 2 * l & 3u) << 8;
        put8(out->w + 8 * l, iq2_s_grid[index], p[34 + 4 * g + l]);
    }
}

/* d 0; grid indices, one for 4 weights, 2; words of four sign codes and a scale 66. */
void group_IQ3_XXS(const void *block, int g, struct quant_group *out)
{
    const uint8_t *p = block, *qs = p + 2 + 8 * g;
    uint32_t word = load_u32(p + 66 + 4 * g);
    group_scale(out, load_f16(p) * (float)(2 * (word >> 28) + 1) * 0.25f, 0);
    for (int l = 0; l < 4; l++) {
        uint64_t grid = grid_pair(iq3_xxs_grid[qs[2 * l]], iq3_xxs_grid[qs[2 * l + 1]]);
        put8(out->w + 8 * l, grid, iq_signs[word >> 7 * l & 127]);
    }
}

/* d 0; low 8 bits of grid indices 2; ninth bits 66; sign bits 74; scales, a nibble a group, 106. */
void group_IQ3_S(const void *block, int g, struct quant_group *out)
{
    const uint8_t *p = block, *qs = p + 2 + 8 * g;
    unsigned high = p[66 + g];
    int scale = p[106 + g / 2] >> 4 * (g % 2) & 15;
    group_scale(out, load_f16(p) * (float)(2 * scale + 1), 0);
    for (int l = 0; l < 4; l++) {
        unsigned a = qs[2 * l] | (high >> 2 * l & 1) << 8, b = qs[2 * l + 1] | (high >> (2 * l + 1) & 1) << 8;
        put8(out->w + 8 * l, grid_pair(iq3_s_grid[a], iq3_s_grid[b]), p[74 + 4 * g + l]);
    }
}

/* Eight ternary weights in eighths, shifted by one eighth up or down. */
static void put8_ternary(int8_t *w, uint64_t grid8, int delta)
{
    for (int i = 0; i < 8; i++)
        w[i] = (int8_t)((int8_t)(grid8 >> 8 * i & 255) + delta);
}

/* d 0; low 8 bits of grid indices 2; words 34: high 3 bits of four indices, 3-bit scale, sign of the shift. */
void group_IQ1_S(const void *block, int g, struct quant_group *out)
{
    const uint8_t *p = block;
    unsigned word = load_u16(p + 34 + 2 * g);
    group_scale(out, load_f16(p) * (float)(2 * (word >> 12 & 7) + 1) * 0.125f, 0);
    for (int l = 0; l < 4; l++) {
        unsigned index = p[2 + 4 * g + l] | (word >> 3 * l & 7) << 8;
        put8_ternary(out->w + 8 * l, iq1_grid8[index], word & 0x8000 ? -1 : 1);
    }
}

/* Low 8 bits of grid indices 0; nibbles 32: high 3 bits of the index, sign of the shift; words 48: four 3-bit scales of 16
 * weights, and in the top 4 bits a quarter of d, lowest first. */
void group_IQ1_M(const void *block, int g, struct quant_group *out)
{
    const uint8_t *p = block;
    unsigned d = 0, scales = load_u16(p + 48 + 2 * (g / 2));
    for (int i = 0; i < 4; i++)
        d |= (unsigned)(load_u16(p + 48 + 2 * i) >> 12) << 4 * i;
    group_scale(out, f16_to_f32((uint16_t)d) * 0.125f, 0);
    for (int h = 0; h < 2; h++)
        out->sub[h] = (int)(2 * (scales >> 3 * (2 * (g % 2) + h) & 7) + 1);
    for (int l = 0; l < 4; l++) {
        unsigned high = p[32 + 2 * g + l / 2] >> 4 * (l % 2) & 15u;
        put8_ternary(out->w + 8 * l, iq1_grid8[p[4 * g + l] | (high & 7) << 8], high & 8 ? -1 : 1);
    }
}

/* d 0; nibbles 2, low ones weights 0..15, high ones 16..31. */
void group_IQ4_NL(const void *block, int g, struct quant_group *out)
{
    const uint8_t *p = block;
    group_scale(out, load_f16(p), 0);
    for (int i = 0; i < 16; i++) {
        out->w[i] = iq4_values[p[2 + i] & 15];
        out->w[16 + i] = iq4_values[p[2 + i] >> 4];
    }
}

/* d 0; high 2 bits of scales 2; low nibbles of scales 4; weights of a group as in IQ4_NL 8 + 16 g. */
void group_IQ4_XS(const void *block, int g, struct quant_group *out)
{
    const uint8_t *p = block, *qs = p + 8 + 16 * g;
    group_scale(out, load_f16(p) * (float)(iq4_xs_scale(p, g) - 32), 0);
    for (int i = 0; i < 16; i++) {
        out->w[i] = iq4_values[qs[i] & 15];
        out->w[16 + i] = iq4_values[qs[i] >> 4];
    }
}
