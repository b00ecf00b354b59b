/* SPDX-License-Identifier: MIT */
/* Sizes of the KV cache's blocks, and where a position's codes lie in them.  The layouts stand in kv.h. */
#include "simd/kv.h"

#include <string.h>

const struct quant_type *kv_type(enum kv_kind k)
{
    static const enum qn_type type[KV_KINDS] = {QN_F16, QN_F32, QN_BF16, QN_Q8_0, QN_Q5_0, QN_Q4_0, QN_IQ4_NL};
    return quant_type_find((int)type[k]);
}

size_t kv_key_bytes(enum kv_kind k, int head_dim)
{
    const struct quant_type *t = kv_type(k);
    if (kv_quantized(k))
        return ATTN_BLOCK / TILE_ROWS * pack_tile_bytes(t, head_dim);
    return (size_t)(ATTN_BLOCK * head_dim) * (size_t)t->block_bytes;
}

size_t kv_group_bytes(enum kv_kind k) { return (size_t)(ATTN_BLOCK * kv_type(k)->block_bytes); }

size_t kv_value_bytes(enum kv_kind k, int head_dim)
{
    size_t block = kv_group_bytes(k);
    return kv_quantized(k) ? (size_t)(head_dim / QUANT_GROUP) * block : (size_t)head_dim * block;
}

/* The 8 words of a position in a group's lines: planes of nibbles and of fifth bits, or bytes. */
static void put_key_group(enum kv_kind k, uint8_t *line, const int8_t *q)
{
    uint32_t high = 0;
    for (int t = 0; t < QUANT_GROUP / 4; t++) {
        uint32_t four;
        memcpy(&four, q + 4 * t, sizeof four);
        if (k == KV_Q8_0) {
            memcpy(line + 64 * t, &four, sizeof four);
            continue;
        }
        high |= (four >> 4 & 0x01010101u) << t;
        four &= 0x0f0f0f0fu;
        uint32_t before;
        memcpy(&before, line + t / 2 * 64, sizeof before);
        four = t % 2 ? before | four << 4 : four;
        memcpy(line + t / 2 * 64, &four, sizeof four);
    }
    if (k == KV_Q5_0)
        memcpy(line + 256, &high, sizeof high);
}

void kv_put_key(enum kv_kind k, uint8_t *keys, int head_dim, int j, const int8_t *q, const uint16_t *d)
{
    const size_t lines = k == KV_Q8_0 ? 512 : k == KV_Q5_0 ? 320 : 256, scales = 2 * TILE_ROWS;
    const int stretch = quant_stretch((int)scales), groups = head_dim / QUANT_GROUP, row = j % TILE_ROWS;
    uint8_t *p = keys + (size_t)(j / TILE_ROWS) * pack_tile_bytes(kv_type(k), head_dim);
    for (int first = 0; first < groups; first += stretch) {
        int n = groups - first < stretch ? groups - first : stretch;
        for (int g = 0; g < n; g++)
            memcpy(p + (size_t)g * scales + 2 * row, &d[first + g], sizeof *d);
        p += (size_t)n * scales;
        for (int g = 0; g < n; g++, p += lines)
            put_key_group(k, p + 4 * row, q + QUANT_GROUP * (first + g));
    }
}

/* line, high: those of the four positions that this one belongs to, at its place among them. */
static void put_value_group(enum kv_kind k, uint8_t *line, uint8_t *high, const int8_t *q)
{
    for (int l = 0; l < 16; l++)
        if (k == KV_Q8_0) {
            line[4 * l] = (uint8_t)q[l];
            line[64 + 4 * l] = (uint8_t)q[16 + l];
        } else {
            line[4 * l] = (uint8_t)((q[l] & 15) | (q[16 + l] & 15) << 4);
        }
    for (int m = 0; k == KV_Q5_0 && m < 4; m++) {
        int bits = 0;
        for (int b = 0; b < 8; b++)
            bits |= (q[4 * b + m] >> 4 & 1) << b;
        high[4 * m] = (uint8_t)bits;
    }
}

void kv_put_value(enum kv_kind k, uint8_t *values, int head_dim, int j, const int8_t *q, const uint16_t *d)
{
    const int place = j % 4 == 1 ? 2 : j % 4 == 2 ? 1 : j % 4, lines = k == KV_Q8_0 ? 128 : 64;
    for (int g = 0; g < head_dim / QUANT_GROUP; g++, values += kv_group_bytes(k)) {
        uint8_t *high = values + 2 * ATTN_BLOCK, *line = high + (k == KV_Q5_0 ? 4 * ATTN_BLOCK : 0);
        memcpy(values + 2 * j, &d[g], sizeof *d);
        put_value_group(k, line + j / 4 * lines + place, high + j / 4 * 16 + place, q + QUANT_GROUP * g);
    }
}

/* What a position without anything is put from. */
static const int8_t no_codes[MAX_HEAD_DIM];
static const uint16_t no_scales[MAX_HEAD_DIM / QUANT_GROUP];

void kv_clear_keys(enum kv_kind k, uint8_t *keys, int head_dim, int from)
{
    size_t size = (size_t)kv_type(k)->block_bytes;
    for (int j = from; kv_quantized(k) && j < ATTN_BLOCK; j++)
        kv_put_key(k, keys, head_dim, j, no_codes, no_scales);
    for (int i = 0; !kv_quantized(k) && i < head_dim; i++)
        memset(keys + (size_t)(i * ATTN_BLOCK + from) * size, 0, (size_t)(ATTN_BLOCK - from) * size);
}

void kv_clear_values(enum kv_kind k, uint8_t *values, int head_dim, int from)
{
    size_t size = (size_t)kv_type(k)->block_bytes;
    for (int j = from; kv_quantized(k) && j < ATTN_BLOCK; j++)
        kv_put_value(k, values, head_dim, j, no_codes, no_scales);
    if (!kv_quantized(k))
        memset(values + (size_t)(from * head_dim) * size, 0, (size_t)((ATTN_BLOCK - from) * head_dim) * size);
}
