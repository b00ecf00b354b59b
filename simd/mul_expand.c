/* SPDX-License-Identifier: MIT */
/* Blocks to words, see mul_expand.h; the formats are described in quant/simple.c and quant/iquant.c.  Shared by all vector levels,
 * which run on little-endian machines.  Byte i of a code-book word is the magnitude of weight i of 8. */
#include "simd/mul_expand.h"
#include "quant/iquant_tables.h"
#include "simd/lanes.h"

#include <string.h>

static inline uint16_t get16(const uint8_t *p)
{
    uint16_t x;
    memcpy(&x, p, sizeof(x));
    return x;
}

static inline uint32_t get32(const uint8_t *p)
{
    uint32_t x;
    memcpy(&x, p, sizeof(x));
    return x;
}

static inline uint64_t get64(const uint8_t *p)
{
    uint64_t x;
    memcpy(&x, p, sizeof(x));
    return x;
}

/* The body sees p, the block of row r; its groups start at g0 of s. */
#define EXPAND(type, bytes) \
    static inline void expand_##type(const uint8_t *p, int r, int g0, struct mul_scratch *s); \
    void mul_expand_##type(const uint8_t *blocks, int row0, int n_rows, int g0, struct mul_scratch *s) \
    { \
        for (int r = 0; r < n_rows; r++) \
            expand_##type(blocks + (bytes)*r, row0 + r, g0, s); \
    } \
    static inline void expand_##type(const uint8_t *p, int r, int g0, struct mul_scratch *s)

/* word: four 7-bit sign codes and the scale, as stored. */
EXPAND(IQ2_XXS, 66)
{
    s->d[0][r] = get16(p);
    for (int g = 0; g < 8; g++) {
        uint64_t x = get64(p + 2 + 8 * g);
        LANES_FOR (j, 4)
            s->e[g][j][r] = iq2_xxs_grid[x >> 8 * j & 255];
        s->word[g][r] = (uint32_t)(x >> 32);
    }
}

/* word: four sign codes one after another; scale: as stored. */
EXPAND(IQ2_XS, 74)
{
    s->d[0][r] = get16(p);
    for (int g = 0; g < 8; g++) {
        uint64_t x = get64(p + 2 + 8 * g);
        LANES_FOR (j, 4)
            s->e[g][j][r] = iq2_xs_grid[x >> 16 * j & 511];
        x = x >> 9 & 0x007f007f007f007f;
        x = (x | x >> 9) & 0x00003fff00003fff;
        s->word[g][r] = (uint32_t)(x | x >> 18);
        s->scale[g][r] = p[66 + g];
    }
}

/* word: sign bits; scale: as stored. */
EXPAND(IQ2_S, 82)
{
    s->d[0][r] = get16(p);
    for (int g = 0; g < 8; g++) {
        unsigned low = get32(p + 2 + 4 * g), high = p[66 + g];
        LANES_FOR (j, 4)
            s->e[g][j][r] = iq2_s_grid[(low >> 8 * j & 255) | (high << (8 - 2 * j) & 0x300)];
        s->word[g][r] = get32(p + 34 + 4 * g);
        s->scale[g][r] = p[74 + g];
    }
}

/* word: as IQ2_XXS. */
EXPAND(IQ3_XXS, 98)
{
    s->d[0][r] = get16(p);
    for (int g = 0; g < 8; g++) {
        uint64_t x = get64(p + 2 + 8 * g);
        LANES_FOR (j, 4)
            s->e[g][j][r] = iq3_xxs_grid[x >> 16 * j & 255] | (uint64_t)iq3_xxs_grid[x >> (16 * j + 8) & 255] << 32;
        s->word[g][r] = get32(p + 66 + 4 * g);
    }
}

/* word: sign bits; scale: of groups 2 g and 2 g + 1, as stored. */
EXPAND(IQ3_S, 110)
{
    s->d[0][r] = get16(p);
    for (int g = 0; g < 8; g++) {
        uint64_t x = get64(p + 2 + 8 * g);
        unsigned high = p[66 + g];
        LANES_FOR (j, 4) {
            uint64_t a = iq3_s_grid[(x >> 16 * j & 255) | (high << (8 - 2 * j) & 256)];
            uint64_t b = iq3_s_grid[(x >> (16 * j + 8) & 255) | (high << (7 - 2 * j) & 256)];
            s->e[g][j][r] = a | b << 32;
        }
        s->word[g][r] = get32(p + 74 + 4 * g);
    }
    for (int i = 0; i < 4; i++)
        s->scale[i][r] = p[106 + i];
}

/* word: the 16 bits of high index bits, scale and direction, as stored. */
EXPAND(IQ1_S, 50)
{
    s->d[0][r] = get16(p);
    for (int g = 0; g < 8; g++) {
        unsigned low = get32(p + 2 + 4 * g), x = get16(p + 34 + 2 * g);
        LANES_FOR (j, 4)
            s->e[g][j][r] = iq1_grid8[(low >> 8 * j & 255) | (x >> 3 * j & 7) << 8];
        s->word[g][r] = x;
    }
}

/* word: low half the nibbles of high index bits and direction, high half the two 3-bit scales. */
EXPAND(IQ1_M, 56)
{
    uint64_t scales = get64(p + 48);
    s->d[0][r] =
        (uint16_t)((scales >> 12 & 15) | (scales >> 24 & 0xf0) | (scales >> 36 & 0xf00) | (scales >> 48 & 0xf000));
    for (int g = 0; g < 8; g++) {
        unsigned low = get32(p + 4 * g), high = get16(p + 32 + 2 * g);
        LANES_FOR (j, 4)
            s->e[g][j][r] = iq1_grid8[(low >> 8 * j & 255) | (high >> 4 * j & 7) << 8];
        s->word[g][r] = high | (uint32_t)(scales >> (16 * (g / 2) + 6 * (g % 2)) & 63) << 16;
    }
}
