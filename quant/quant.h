/* SPDX-License-Identifier: MIT */
/* Block formats of GGUF tensors: what the bytes mean, how a row is multiplied, and the layout that the kernels read.
 * Everything here is plain scalar C and is the specification: kernels in simd/ must give the same bits.
 * Nothing in this room allocates, locks, reads files or uses intrinsics. */
#ifndef QUERN_QUANT_H
#define QUERN_QUANT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Type numbers are GGUF's. */
enum qn_type {
#define QUANT_TYPE(name, id, block, bytes, rule, layout) QN_##name = id,
#include "quant/types.def"
#undef QUANT_TYPE
    QN_TYPE_LIMIT = 64 /* all ids are below: tables are indexed by id */
};

/* How output (row r, column c) is summed.  Over groups of 32 weights in ascending order, starting from acc = 0, with the
 * group's weights as integers w, activations as integers a with scale da (struct act_group), all sums of products exact:
 *
 *   ONE      acc = fmaf(d * da, (float)sum(w a), acc)
 *   MIN      as ONE, then acc = fmaf(m, dsum, acc)
 *   SUB      acc = fmaf(d * da, (float)(sub[0] * sum_0(w a) + sub[1] * sum_1(w a)), acc), sum_h over half h (16 weights)
 *   SUB_MIN  as SUB, then acc = fmaf(m[0], dsum16[0], acc), acc = fmaf(m[1], dsum16[1], acc)
 *   TWO      acc = fmaf(d[0] * da, (float)sum_0(w a), acc), then the same with d[1] and sum_1
 *   FLOAT    f32 activations; 16 partial sums, p[l] = fmaf(w[k], x[k], p[l]) for k = l, l + 16, ... ascending (k past the end
 *            as zeros), then p[l] += p[l + 8], + 4, + 2, + 1 (l < 8, 4, 2, 1)
 *
 * One rounding per operation written; d * da is rounded before the fma. */
enum quant_rule { RULE_FLOAT, RULE_ONE, RULE_MIN, RULE_SUB, RULE_SUB_MIN, RULE_TWO };

enum quant_layout { LAYOUT_ROWS, LAYOUT_TILES };

enum { QUANT_GROUP = 32, TILE_ROWS = 16, QUANT_BLOCK_MAX = 256, QUANT_BLOCK_BYTES_MAX = 256 };

/* 32 weights as the dot rule sees them: weight i is sub[i / 16] * d[i / 16] * w[i] + m[i / 16]. */
struct quant_group {
    int8_t w[QUANT_GROUP];
    int32_t sub[2]; /* integer sub-scales; 1 unless the rule is SUB or SUB_MIN */
    float d[2]; /* scale, exact products of the file's fields; both equal unless the rule is TWO */
    float m[2]; /* additive minimum (already negative where the format subtracts it); 0 without */
};

struct quant_type {
    const char *name; /* as GGUF tools write it, e.g. "Q4_K" */
    enum qn_type id;
    int block; /* weights a block; a row is a whole number of blocks */
    int block_bytes;
    enum quant_rule rule;
    enum quant_layout layout;
    /* Bit-exact values of n_blocks blocks: y[n_blocks * block]. */
    void (*decode)(const void *blocks, float *y, int64_t n_blocks);
    /* Group g (0 <= g < block / 32) of one block; NULL for rule FLOAT. */
    void (*group)(const void *block, int g, struct quant_group *out);
};

/* NULL when the id is not a known type. */
const struct quant_type *quant_type_find(int id);
const struct quant_type *quant_type_by_name(const char *name); /* case does not matter */

/* Bytes of a row of cols weights in the file's layout; cols must be a multiple of the block. */
static inline size_t quant_row_bytes(const struct quant_type *t, int64_t cols)
{
    return (size_t)(cols / t->block) * (size_t)t->block_bytes;
}

float f16_to_f32(uint16_t h);
uint16_t f32_to_f16(float f); /* round to nearest even; the caller clamps */
static inline float bf16_to_f32(uint16_t h)
{
    union {
        uint32_t u;
        float f;
    } v = {(uint32_t)h << 16};
    return v.f;
}

/* ---- activations */

/* 32 activations, one cache line.  amax = the largest |x| of the group, taken as an unsigned maximum of the bits without
 * sign; amax not finite: d is NaN, q zero; amax < 2^-100: d and q zero; else d = amax / 127, q = rint(x * (127 / amax)),
 * all in f32. */
struct act_group {
    int8_t q[QUANT_GROUP];
    float d;
    float dsum; /* d * (float)sum */
    float dsum16[2]; /* d * (float)sum16[h] */
    int32_t sum; /* of all q */
    int32_t sum16[2]; /* of q[0..15], q[16..31] */
    int32_t unused;
};
_Static_assert(sizeof(struct act_group) == 64, "an activation group is one cache line");

/* x[n] -> out[n / 32]; n is a multiple of 32.  The specification of simd's quantize. */
void act_quantize_ref(const float *x, int64_t n, struct act_group *out);

/* The dot rule on one row in the file's layout: x is act_group[cols / 32], or float[cols] for rule FLOAT. */
float quant_dot_ref(const struct quant_type *t, const void *row, int64_t cols, const void *x);

/* ---- the packed layout
 *
 * A tile is 16 rows, the same bytes on every machine, and is read from front to back.  It is a sequence of stretches: the fewest
 * blocks (1, 2 or 4) whose scales fill whole cache lines, and what is left at the end.  In a stretch come the scales of its blocks
 * in order, then the quants of its groups of 32 columns in order.  In a quants plane a 64-byte line holds 4 columns x 16 rows, byte
 * r * 4 + i for row r, so that a 32-bit lane is a row:
 *
 *   nibble plane, 256 bytes a group   line j = 0..3: low 4 bits = weight k = 8 j + i, high 4 bits = weight k = 8 j + 4 + i
 *   2-bit plane,  128 bytes a group   line j = 0..1: bits 2 u, 2 u + 1 = weight k = 16 j + 4 u + i, u = 0..3
 *   1-bit plane,   64 bytes a group   bit t = weight k = 4 t + i, t = 0..7
 *   byte plane,   512 bytes a group   line t = 0..7: weight k = 4 t + i
 *   byte lines of a block             4 bytes of each row's file block, named below
 *
 * Scales of a block are fields of all 16 rows: f16 or one byte of each row, or bits of the group's four octets of columns,
 * "high n": n words of 64 bits, in word k bit 4 r + o is bit 8 + k of the code-book index of octet o.
 *
 *   type                        quants of a group           scales of a block (each field for rows 0..15)
 *   Q4_0 IQ4_NL                 nibble                      d f16
 *   Q4_1                        nibble                      d f16, m f16
 *   Q5_0                        nibble, 1-bit (bit 4)       d f16
 *   Q5_1                        nibble, 1-bit (bit 4)       d f16, m f16
 *   Q8_0                        byte                        d f16
 *   MXFP4                       nibble                      e (one byte)
 *   NVFP4                       nibble                      4 x scale byte (of 16 columns each)
 *   Q1_0                        1-bit                       d f16
 *   Q2_0 TQ2_0                  2-bit                       d f16
 *   TQ1_0                       13 lines of a block: bytes  d f16
 *                               0..51
 *   IQ2_XXS                     lines: 4 indices; word of   d f16
 *                               sign codes and scale
 *   IQ2_XS                      lines: low bytes of the 4   d f16, 8 x the file's scales byte
 *                               words; their high bytes
 *   IQ2_S                       lines: 4 indices; 4 signs   d f16, 8 x the file's scales byte, 8 x high 2
 *   IQ3_XXS                     lines: indices of 0..15; of d f16
 *                               16..31; word as IQ2_XXS
 *   IQ3_S                       lines: indices of 0..15; of d f16, 4 x (scale_g | scale_g+1 << 4) for g = 0, 2, 4, 6,
 *                               16..31; 4 signs             8 x (high 1 of columns 0..15, of 16..31), o counting 4 columns
 *   IQ1_S                       line: 4 indices             d f16, 4 x (top 4 bits of word g | of word g+1 << 4), 8 x high 3
 *   IQ1_M                       line: 4 indices             d f16, 8 x 6 bits (the group's two scales) stored as in IQ4_XS,
 *                                                           8 x high 4, the last of them the signs of the shift
 *   Q4_K                        nibble                      d f16, dmin f16, 8 x (scale & 15 | min & 15 << 4) for sub-blocks
 *                                                           j = 0, 2, 4, 6, 1, 3, 5, 7, 4 x (scale_j >> 4 | min_j >> 4 << 2 |
 *                                                           scale_j+1 >> 4 << 4 | min_j+1 >> 4 << 6) for j = 0, 2, 4, 6
 *   Q5_K                        nibble, 1-bit (bit 4)       as Q4_K
 *   Q6_K                        nibble, 2-bit (bits 4, 5)   d f16, 16 x scale int8 (of 16 columns each)
 *   Q2_K                        2-bit                       d f16, dmin f16, 16 x the file's byte (scale | min << 4)
 *   Q3_K                        2-bit, 1-bit (bit 2)        d f16, 8 x (scale_h & 15 | scale_h+1 & 15 << 4) for h = 0, 4, 8, 12,
 *                                                           2, 6, 10, 14, 4 x (scale_h >> 4 | .. h+3 >> 4 << 6) for h = 0, 4, 8,
 *                                                           12; scales are the 6-bit fields as stored (value + 32)
 *   IQ4_XS                      nibble                      d f16, 4 x (scale_j & 15 | scale_j+1 & 15 << 4) for j = 0, 2, 4, 6,
 *                                                           2 x (high_j | high_j+1 << 2 | high_j+4 << 4 | high_j+5 << 6) for
 *                                                           j = 0, 2 with high = scale >> 4; stored value + 32
 *
 * So a type takes the bytes of its file blocks, no more. */

/* Version of this layout: packed weights in files carry it.  Raise it with every change of a packed byte of any type. */
enum { QUANT_LAYOUT = 3 };

/* Blocks of a stretch, from the bytes that the scales of a block take in a tile. */
static inline int quant_stretch(int scales_bytes)
{
    return scales_bytes % 64 == 0 ? 1 : scales_bytes % 32 == 0 ? 2 : 4;
}

/* A matrix as the kernels read it. */
struct mat {
    const uint8_t *data; /* ROWS: the rows; else tiles of 16 rows, 64-byte aligned; rows past the end are zero blocks */
    const struct quant_type *type;
    int64_t rows, cols;
    size_t stride; /* bytes from row to row (ROWS) or from tile to tile */
};

/* Bytes of one packed tile: 16 rows' bytes, rounded up to 64. */
size_t pack_tile_bytes(const struct quant_type *t, int64_t cols);
/* n_rows (1..16) file rows, row_bytes apart, to one tile; missing rows become zero bytes. */
void pack_tile(const struct quant_type *t, const uint8_t *rows, size_t row_bytes, int n_rows, int64_t cols,
               uint8_t *tile);
/* The inverse for one row (0..15) of a tile: its file blocks b0 .. b0 + n_blocks - 1. */
void unpack_blocks(const struct quant_type *t, const uint8_t *tile, int64_t cols, int row, int64_t b0, int64_t n_blocks,
                   uint8_t *blocks);
/* Row r of any matrix as floats: y[cols]. */
void mat_row(const struct mat *m, int64_t r, float *y);

#endif
