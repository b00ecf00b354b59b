/* SPDX-License-Identifier: MIT */
/* Blocks of the BLOCKS types taken apart by plain code: code-book look-ups and bit fields are cheap one 8-byte word at a time;
 * signs, offsets and scales are left to the vector code (mul_blocks.inc).  A whole block of all rows is expanded before it is
 * read back in registers, so that the stores have reached the cache by then. */
#ifndef QUERN_MUL_EXPAND_H
#define QUERN_MUL_EXPAND_H

#include "quant/quant.h"

enum { EXPAND_GROUPS = QUANT_BLOCK_MAX / QUANT_GROUP };

struct mul_scratch {
    _Alignas(64) uint64_t
        e[EXPAND_GROUPS][4][TILE_ROWS]; /* weights 8 j .. 8 j + 7 of group g, row r, a byte each, first lowest */
    uint8_t sign[EXPAND_GROUPS][4]
                [TILE_ROWS]; /* bit i: weight 8 j + i is negative (IQ1: is shifted down; Q1_0: is +1) */
    uint8_t scale[EXPAND_GROUPS][2]
                 [TILE_ROWS]; /* integer factors of d per half; NVFP4: the scale itself as unsigned e4m3 */
    uint16_t d[TILE_ROWS]; /* f16 */
};

/* blocks: n_rows file blocks one after another, rows row0 .. row0 + n_rows - 1 of the scratch. */
typedef void expand_fn(const uint8_t *blocks, int row0, int n_rows, struct mul_scratch *s);
extern expand_fn mul_expand_IQ2_XXS, mul_expand_IQ2_XS, mul_expand_IQ2_S, mul_expand_IQ3_XXS, mul_expand_IQ3_S;
extern expand_fn mul_expand_IQ1_S, mul_expand_IQ1_M, mul_expand_TQ1_0, mul_expand_TQ2_0, mul_expand_NVFP4;
extern expand_fn mul_expand_Q1_0, mul_expand_Q2_0;

#endif
