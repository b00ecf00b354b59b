/* SPDX-License-Identifier: MIT */
/* Blocks to 8-byte words of weights, see mul_expand.h; the formats are described in quant/simple.c and quant/iquant.c.  Shared by
 * all vector levels, which run on little-endian machines. */
#include "simd/mul_expand.h"
#include "quant/iquant_tables.h"

#include <string.h>

/* Shift counts become constants. */
#ifdef __clang__
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 8")
#endif

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

/* The body sees p, the block of row r, and s. */
#define EXPAND(type, bytes) \
    static inline void expand_##type(const uint8_t *p, int r, struct mul_scratch *s); \
    void mul_expand_##type(const uint8_t *blocks, int row0, int n_rows, struct mul_scratch *s) \
    { \
        for (int r = 0; r < n_rows; r++) \
            expand_##type(blocks + (bytes)*r, row0 + r, s); \
    } \
    static inline void expand_##type(const uint8_t *p, int r, struct mul_scratch *s)

EXPAND(IQ2_XXS, 66)
{
    s->d[r] = get16(p);
    for (int g = 0; g < 8; g++) {
        uint64_t x = get64(p + 2 + 8 * g);
        UNROLL for (int j = 0; j < 4; j++)
        {
            s->e[g][j][r] = iq2_xxs_grid[x >> 8 * j & 255];
            s->sign[g][j][r] = iq_signs[x >> (32 + 7 * j) & 127];
        }
        s->scale[g][0][r] = (uint8_t)(x >> 59 | 1);
    }
}

static inline void put_nibble_scales(int r, int g, unsigned x, struct mul_scratch *s)
{
    s->scale[g][0][r] = (uint8_t)(2 * (x & 15) + 1);
    s->scale[g][1][r] = (uint8_t)(x >> 3 | 1);
}

EXPAND(IQ2_XS, 74)
{
    s->d[r] = get16(p);
    for (int g = 0; g < 8; g++) {
        UNROLL for (int j = 0; j < 4; j++)
        {
            unsigned x = get16(p + 2 + 8 * g + 2 * j);
            s->e[g][j][r] = iq2_xs_grid[x & 511];
            s->sign[g][j][r] = iq_signs[x >> 9];
        }
        put_nibble_scales(r, g, p[66 + g], s);
    }
}

EXPAND(IQ2_S, 82)
{
    s->d[r] = get16(p);
    for (int g = 0; g < 8; g++) {
        unsigned high = p[66 + g];
        UNROLL for (int j = 0; j < 4; j++)
        {
            s->e[g][j][r] = iq2_s_grid[p[2 + 4 * g + j] | (high << (8 - 2 * j) & 0x300)];
            s->sign[g][j][r] = p[34 + 4 * g + j];
        }
        put_nibble_scales(r, g, p[74 + g], s);
    }
}

EXPAND(IQ3_XXS, 98)
{
    s->d[r] = get16(p);
    for (int g = 0; g < 8; g++) {
        const uint8_t *q = p + 2 + 8 * g;
        uint32_t x = get32(p + 66 + 4 * g);
        UNROLL for (int j = 0; j < 4; j++)
        {
            s->e[g][j][r] = iq3_xxs_grid[q[2 * j]] | (uint64_t)iq3_xxs_grid[q[2 * j + 1]] << 32;
            s->sign[g][j][r] = iq_signs[x >> 7 * j & 127];
        }
        s->scale[g][0][r] = (uint8_t)(x >> 27 | 1);
    }
}

EXPAND(IQ3_S, 110)
{
    s->d[r] = get16(p);
    for (int g = 0; g < 8; g++) {
        const uint8_t *q = p + 2 + 8 * g;
        unsigned high = p[66 + g];
        UNROLL for (int j = 0; j < 4; j++)
        {
            uint64_t a = iq3_s_grid[q[2 * j] | (high << (8 - 2 * j) & 256)];
            uint64_t b = iq3_s_grid[q[2 * j + 1] | (high << (7 - 2 * j) & 256)];
            s->e[g][j][r] = a | b << 32;
            s->sign[g][j][r] = p[74 + 4 * g + j];
        }
        s->scale[g][0][r] = (uint8_t)(2 * (p[106 + g / 2] >> 4 * (g % 2) & 15) + 1);
    }
}

EXPAND(IQ1_S, 50)
{
    s->d[r] = get16(p);
    for (int g = 0; g < 8; g++) {
        unsigned x = get16(p + 34 + 2 * g);
        uint8_t down = (uint8_t) - (x >> 15);
        UNROLL for (int j = 0; j < 4; j++)
        {
            s->e[g][j][r] = iq1_grid8[p[2 + 4 * g + j] | (x >> 3 * j & 7) << 8];
            s->sign[g][j][r] = down;
        }
        s->scale[g][0][r] = (uint8_t)((x >> 11 & 14) | 1);
    }
}

EXPAND(IQ1_M, 56)
{
    uint64_t scales = get64(p + 48);
    s->d[r] =
        (uint16_t)((scales >> 12 & 15) | (scales >> 24 & 0xf0) | (scales >> 36 & 0xf00) | (scales >> 48 & 0xf000));
    for (int g = 0; g < 8; g++) {
        unsigned high = get16(p + 32 + 2 * g);
        UNROLL for (int j = 0; j < 4; j++)
        {
            s->e[g][j][r] = iq1_grid8[p[4 * g + j] | (high >> 4 * j & 7) << 8];
            s->sign[g][j][r] = (uint8_t) - (high >> (4 * j + 3) & 1);
        }
        unsigned x = (unsigned)(scales >> (16 * (g / 2) + 6 * (g % 2)));
        s->scale[g][0][r] = (uint8_t)(2 * (x & 7) + 1);
        s->scale[g][1][r] = (uint8_t)(2 * (x >> 3 & 7) + 1);
    }
}

/* Only the bytes: digits are taken out in registers. */
EXPAND(TQ1_0, 54)
{
    s->d[r] = get16(p + 52);
    UNROLL for (int j = 0; j < 4; j++)
    {
        uint64_t x = get64(p + 8 * j), y = get64(p + 32 + 8 * (j % 2));
        for (int g = 0; g < 5; g++)
            s->e[g][j][r] = x;
        for (int g = 5; g < 8; g++)
            s->e[g][j][r] = y;
    }
    s->e[7][2][r] = s->e[7][3][r] = get32(p + 48) * 0x100000001;
}

EXPAND(TQ2_0, 66)
{
    s->d[r] = get16(p + 64);
    for (int h = 0; h < 2; h++)
        UNROLL for (int j = 0; j < 4; j++)
        {
            uint64_t x = get64(p + 32 * h + 8 * j);
            UNROLL for (int u = 0; u < 4; u++) s->e[4 * h + u][j][r] = x >> 2 * u & 0x0303030303030303;
        }
}

EXPAND(NVFP4, 36)
{
    for (int h = 0; h < 4; h++) {
        uint64_t x = get64(p + 4 + 8 * h);
        s->e[h / 2][2 * (h % 2)][r] = x & 0x0f0f0f0f0f0f0f0f;
        s->e[h / 2][2 * (h % 2) + 1][r] = x >> 4 & 0x0f0f0f0f0f0f0f0f;
        s->scale[h / 2][h % 2][r] = p[h] == 0x7f ? 0 : p[h] & 0x7f;
    }
}

EXPAND(Q1_0, 18)
{
    s->d[r] = get16(p);
    for (int g = 0; g < 4; g++)
        UNROLL for (int j = 0; j < 4; j++) s->sign[g][j][r] = p[2 + 4 * g + j];
}

EXPAND(Q2_0, 18)
{
    s->d[r] = get16(p);
    for (int g = 0; g < 2; g++)
        UNROLL for (int j = 0; j < 4; j++)
        {
            uint64_t x = get16(p + 2 + 8 * g + 2 * j);
            x = (x | x << 24) & 0x000000ff000000ff;
            x = (x | x << 12) & 0x000f000f000f000f;
            s->e[g][j][r] = (x | x << 6) & 0x0303030303030303;
        }
}
