/* SPDX-License-Identifier: MIT */
/* Blocks of the BLOCKS types taken apart by plain code: code-book look-ups and gathering of the rows' fields, one 8-byte word at a
 * time; signs, bit fields and scales are left to the vector code (mul_blocks.inc).  Up to 256 columns of all rows are laid out
 * before any is read back in registers, so that the stores have reached the cache by then. */
#ifndef QUERN_MUL_EXPAND_H
#define QUERN_MUL_EXPAND_H

#include "quant/quant.h"

enum { EXPAND_GROUPS = QUANT_BLOCK_MAX / QUANT_GROUP };

/* Group by group, field by field, for rows 0..15.  What the fields hold is said at each type in mul_expand.c. */
struct mul_scratch {
    _Alignas(64) uint64_t e[EXPAND_GROUPS][4][TILE_ROWS];
    uint32_t word[EXPAND_GROUPS][TILE_ROWS];
    uint8_t scale[EXPAND_GROUPS][TILE_ROWS];
    uint16_t d[EXPAND_GROUPS][TILE_ROWS]; /* f16, at the first group of a block */
};

/* blocks: n_rows file blocks one after another, to rows row0 .. row0 + n_rows - 1 and groups g0 on of the scratch. */
typedef void expand_fn(const uint8_t *blocks, int row0, int n_rows, int g0, struct mul_scratch *s);
extern expand_fn mul_expand_IQ2_XXS, mul_expand_IQ2_XS, mul_expand_IQ2_S, mul_expand_IQ3_XXS, mul_expand_IQ3_S;
extern expand_fn mul_expand_IQ1_S, mul_expand_IQ1_M;

#endif
