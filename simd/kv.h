/* SPDX-License-Identifier: MIT */
/* Types and layouts of the KV cache: what a block of ATTN_BLOCK positions of one KV head looks like, the same bytes on every machine.
 *
 * Float kinds: keys [head_dim][128], values [128][head_dim].
 * Quantized kinds have codes and an f16 scale for each 32 dimensions of a position, as the GGUF types of their names have:
 *   keys    a packed matrix (quant.h) of 128 rows, the positions, tiles pack_tile_bytes() apart: a lane is a position, and scores are
 *           that type's products of rows
 *   values  for each 32 dimensions: d f16 [128]; of KV_Q5_0 the fifth bits, 16 bytes for each four positions: dimension 16 h + 4 k + m
 *           is bit 4 h + k of byte 4 m + i; then for each four positions lines of 64 bytes, byte 4 l + i: of KV_Q8_0 dimensions l, then
 *           16 + l; else one line, dimension l in the low 4 bits and 16 + l in the high ones.
 *           i counts the four positions in the order 0 2 1 3, so that bytes at even and at odd places are neighbours 0 1 and 2 3.
 * No byte belongs to two positions. */
#ifndef QUERN_KV_H
#define QUERN_KV_H

#include "quant/quant.h"

enum { ATTN_BLOCK = 128 }; /* positions in a block of the KV cache */
enum { MAX_HEAD_DIM = 512 };
enum kv_kind { KV_F16, KV_F32, KV_BF16, KV_Q8_0, KV_Q5_0, KV_Q4_0, KV_IQ4_NL, KV_KINDS };

static inline bool kv_quantized(enum kv_kind k) { return k >= KV_Q8_0; }

/* The GGUF type of the same name. */
const struct quant_type *kv_type(enum kv_kind k);
/* Bytes of one block; head_dim is a multiple of 16 up to MAX_HEAD_DIM, of 32 for quantized kinds. */
size_t kv_key_bytes(enum kv_kind k, int head_dim);
size_t kv_value_bytes(enum kv_kind k, int head_dim);
/* Bytes of 32 dimensions of a block's values, quantized kinds. */
size_t kv_group_bytes(enum kv_kind k);

/* Quantized kinds: position j (0..127) of a block gets codes q[head_dim] and scales d[head_dim / 32], as simd's kv_encode makes them. */
void kv_put_key(enum kv_kind k, uint8_t *keys, int head_dim, int j, const int8_t *q, const uint16_t *d);
void kv_put_value(enum kv_kind k, uint8_t *values, int head_dim, int j, const int8_t *q, const uint16_t *d);

/* Positions from `from` on of a block become zero bytes. */
void kv_clear_keys(enum kv_kind k, uint8_t *keys, int head_dim, int from);
void kv_clear_values(enum kv_kind k, uint8_t *values, int head_dim, int from);

#endif
