/* SPDX-License-Identifier: MIT */
/* The packed layout: tiles hold what quant.h says (read here by its formulas, one weight at a time), nothing is lost on
 * the way there and back, nothing outside the tile is touched. */
#include "quant/quant.h"
#include "quant/iquant_tables.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static uint32_t seed = 20260815;

static uint8_t random_byte(void)
{
    seed = seed * 1664525 + 1013904223;
    return (uint8_t)(seed >> 24);
}

/* Exactly n random bytes from malloc, so that the address sanitizer sees every step outside. */
static uint8_t *random_bytes(size_t n)
{
    uint8_t *p = malloc(n ? n : 1);
    assert_non_null(p);
    for (size_t i = 0; i < n; i++)
        p[i] = random_byte();
    return p;
}

/* The packed types one after another; NULL after the last. */
static const struct quant_type *next_packed(int *id)
{
    while (*id < QN_TYPE_LIMIT) {
        const struct quant_type *t = quant_type_find((*id)++);
        if (t && t->layout != LAYOUT_ROWS)
            return t;
    }
    return NULL;
}

static void round_trip(const struct quant_type *t, int64_t n_blocks, int n_rows)
{
    int64_t cols = n_blocks * t->block;
    size_t row_bytes = quant_row_bytes(t, cols), stride = row_bytes + (size_t)(n_rows % 3) * 5;
    size_t tile_bytes = pack_tile_bytes(t, cols);
    uint8_t *rows = random_bytes(stride * (size_t)(n_rows - 1) + row_bytes), *tile = random_bytes(tile_bytes);
    uint8_t *back = malloc(row_bytes), *zero = calloc(1, row_bytes);
    assert_true(back && zero);
    assert_int_equal(tile_bytes % 64, 0);
    assert_true(tile_bytes >= 16 * row_bytes && tile_bytes < 16 * row_bytes + 64);

    pack_tile(t, rows, stride, n_rows, cols, tile);
    for (size_t i = 16 * row_bytes; i < tile_bytes; i++)
        assert_int_equal(tile[i], 0);
    for (int r = 0; r < TILE_ROWS; r++) {
        const uint8_t *want = r < n_rows ? rows + (size_t)r * stride : zero;
        memset(back, 0xee, row_bytes);
        unpack_blocks(t, tile, cols, r, 0, n_blocks, back);
        if (memcmp(back, want, row_bytes))
            fail_msg("%s: %lld blocks, %d rows: row %d came back changed", t->name, (long long)n_blocks, n_rows, r);
        for (int64_t b0 = 0; b0 < n_blocks; b0++) { /* any run of blocks */
            int64_t n = 1 + (b0 + r) % (n_blocks - b0);
            uint8_t *part = malloc((size_t)(n * t->block_bytes));
            assert_non_null(part);
            unpack_blocks(t, tile, cols, r, b0, n, part);
            assert_memory_equal(part, want + b0 * t->block_bytes, (size_t)(n * t->block_bytes));
            free(part);
        }
    }
    free(rows);
    free(tile);
    free(back);
    free(zero);
}

static void test_round_trip(void **state)
{
    static const int64_t blocks[] = {1, 2, 3, 8, 13};
    const struct quant_type *t;
    for (int id = 0; (t = next_packed(&id));)
        for (size_t i = 0; i < sizeof blocks / sizeof *blocks; i++)
            for (int n_rows = 1; n_rows <= TILE_ROWS; n_rows++)
                round_trip(t, blocks[i], n_rows);
}

/* ---- quant.h's formulas, byte by byte */

static int nibble_at(const uint8_t *plane, int r, int k)
{
    int j = k / 8, high = k % 8 / 4, i = k % 4;
    return plane[64 * j + r * 4 + i] >> 4 * high & 15;
}

static int two_bits_at(const uint8_t *plane, int r, int k)
{
    int j = k / 16, u = k % 16 / 4, i = k % 4;
    return plane[64 * j + r * 4 + i] >> 2 * u & 3;
}

static int bit_at(const uint8_t *plane, int r, int k) { return plane[r * 4 + k % 4] >> k / 4 & 1; }

static int byte_at(const uint8_t *plane, int r, int k) { return (int8_t)plane[64 * (k / 4) + r * 4 + k % 4]; }

static float half_at(const uint8_t *field, int r)
{
    return f16_to_f32((uint16_t)(field[2 * r] | field[2 * r + 1] << 8));
}

static float e8m0_half(int e)
{
    union {
        uint32_t u;
        float f;
    } v = {e < 2 ? 0x200000u << e : (uint32_t)(e - 1) << 23};
    return v.f;
}

/* 4 bits of exponent, 3 of mantissa, bias 7, halved. */
static float e4m3_half(int e)
{
    int exponent = e >> 3 & 15;
    return e == 0x7f ? 0 : ldexpf((float)((e & 7) | (exponent ? 8 : 0)), (exponent ? exponent : 1) - 7 - 3 - 1);
}

static const int8_t iq4[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
static const int8_t fp4[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

/* Bytes of the quants of a group of 16 rows, and of the scales of a block of one row. */
static const struct {
    int group, scales;
} sizes[QN_TYPE_LIMIT] = {
    [QN_Q4_0] = {256, 2},
    [QN_IQ4_NL] = {256, 2},
    [QN_Q4_1] = {256, 2 + 2},
    [QN_Q5_0] = {256 + 64, 2},
    [QN_Q5_1] = {256 + 64, 2 + 2},
    [QN_Q8_0] = {512, 2},
    [QN_MXFP4] = {256, 1},
    [QN_Q4_K] = {256, 2 + 2 + 8 + 4},
    [QN_Q5_K] = {256 + 64, 2 + 2 + 8 + 4},
    [QN_Q6_K] = {256 + 128, 2 + 16},
    [QN_Q2_K] = {128, 2 + 2 + 16},
    [QN_Q3_K] = {128 + 64, 2 + 8 + 4},
    [QN_IQ4_XS] = {256, 2 + 4 + 2},
    [QN_NVFP4] = {256, 4},
    [QN_Q1_0] = {64, 2},
    [QN_Q2_0] = {128, 2},
    [QN_TQ2_0] = {128, 2},
    [QN_TQ1_0] = {13 * 64 / 8, 2},
    [QN_IQ2_XXS] = {2 * 64, 2},
    [QN_IQ2_XS] = {2 * 64, 2 + 8},
    [QN_IQ2_S] = {2 * 64, 2 + 8 + 8 * 2 / 2},
    [QN_IQ3_XXS] = {3 * 64, 2},
    [QN_IQ3_S] = {3 * 64, 2 + 4 + 8 * 2 / 2},
    [QN_IQ1_S] = {64, 2 + 4 + 8 * 3 / 2},
    [QN_IQ1_M] = {64, 2 + 6 + 8 * 4 / 2},
};

/* Byte i of the row's part of a block in byte lines. */
static int line_byte(const uint8_t *lines, int r, int i) { return lines[64 * (i / 4) + r * 4 + i % 4]; }

/* Weight k of a block of TQ1_0: five digits of base 3 a byte. */
static int ternary_at(const uint8_t *lines, int r, int k)
{
    static const int power[5] = {1, 3, 9, 27, 81};
    int byte = k < 160 ? k % 32 : k < 240 ? 32 + k % 16 : 48 + k % 4;
    int digit = k < 160 ? k / 32 : k < 240 ? (k - 160) / 16 : (k - 240) / 4;
    return ((line_byte(lines, r, byte) * power[digit] & 255) * 3 >> 8) - 1;
}

/* Bit 4 r + o of a word of 64. */
static int high_at(const uint8_t *word, int r, int o) { return word[r / 2] >> (4 * (r % 2) + o) & 1; }

static int high_bits_at(const uint8_t *words, int n, int r, int o)
{
    int x = 0;
    for (int i = 0; i < n; i++)
        x |= high_at(words + 8 * i, r, o) << (8 + i);
    return x;
}

/* Bit k % 8 of the 7-bit sign code of octet k / 8; bit 7 is the parity of the others. */
static int sign_of_code(int code, int bit) { return (bit == 7 ? __builtin_popcount((unsigned)code) : code >> bit) & 1; }

static int signed_by(int minus, int x) { return minus ? -x : x; }

/* Weight k of group g of the types with a code book; s: the block's scales. */
static int book_weight_at(const struct quant_type *t, const uint8_t *q, const uint8_t *s, int r, int g, int k)
{
    int o = k / 8, b = k % 8, quarter = k / 4;
    int index = line_byte(q, r, o), index4 = line_byte(q, r, quarter), second = line_byte(q, r, 4 + o), word = 0;
    for (int i = 0; i < 4; i++)
        word |= (int)((uint32_t)line_byte(q, r, (t->id == QN_IQ3_XXS ? 8 : 4) + i) << 8 * i);
    switch (t->id) {
    case QN_IQ2_XXS:
        return signed_by(sign_of_code(word >> 7 * o & 127, b), iq2_xxs_grid[index] >> 8 * b & 255);
    case QN_IQ2_XS:
        return signed_by(sign_of_code(second >> 1, b), iq2_xs_grid[index | (second & 1) << 8] >> 8 * b & 255);
    case QN_IQ2_S:
        index |= high_bits_at(s + 32 + 16 * 8 + 16 * g, 2, r, o);
        return signed_by(second >> b & 1, iq2_s_grid[index] >> 8 * b & 255);
    case QN_IQ3_XXS:
        return signed_by(sign_of_code(word >> 7 * o & 127, b), iq3_xxs_grid[index4] >> 8 * (k % 4) & 255);
    case QN_IQ3_S:
        index4 |= high_bits_at(s + 32 + 16 * 4 + 16 * g + 8 * (k / 16), 1, r, quarter % 4);
        return signed_by(line_byte(q, r, 8 + o) >> b & 1, iq3_s_grid[index4] >> 8 * (k % 4) & 255);
    case QN_IQ1_S:
        index |= high_bits_at(s + 32 + 16 * 4 + 24 * g, 3, r, o);
        return (int8_t)(iq1_grid8[index] >> 8 * b & 255) +
               signed_by(s[32 + 16 * (g / 2) + r] >> (4 * (g % 2) + 3) & 1, 1);
    default: /* IQ1_M */
        index |= high_bits_at(s + 32 + 16 * 6 + 32 * g, 3, r, o);
        return (int8_t)(iq1_grid8[index] >> 8 * b & 255) + signed_by(high_at(s + 32 + 16 * 6 + 32 * g + 24, r, o), 1);
    }
}

/* Weight k of group g of a block; q: the group's lines, of TQ1_0 the block's; s: the block's scales. */
static int weight_at(const struct quant_type *t, const uint8_t *q, const uint8_t *s, int r, int g, int k)
{
    switch (t->id) {
    case QN_Q4_0:
        return nibble_at(q, r, k) - 8;
    case QN_Q4_1:
    case QN_Q4_K:
        return nibble_at(q, r, k);
    case QN_Q5_0:
        return (nibble_at(q, r, k) | bit_at(q + 256, r, k) << 4) - 16;
    case QN_Q5_1:
    case QN_Q5_K:
        return nibble_at(q, r, k) | bit_at(q + 256, r, k) << 4;
    case QN_Q8_0:
        return byte_at(q, r, k);
    case QN_IQ4_NL:
    case QN_IQ4_XS:
        return iq4[nibble_at(q, r, k)];
    case QN_MXFP4:
    case QN_NVFP4:
        return fp4[nibble_at(q, r, k)];
    case QN_Q1_0:
        return bit_at(q, r, k) ? 1 : -1;
    case QN_Q2_0:
    case QN_TQ2_0:
        return two_bits_at(q, r, k) - 1;
    case QN_TQ1_0:
        return ternary_at(q, r, 32 * g + k);
    case QN_Q6_K:
        return (nibble_at(q, r, k) | two_bits_at(q + 256, r, k) << 4) - 32;
    case QN_Q2_K:
        return two_bits_at(q, r, k);
    case QN_Q3_K:
        return (two_bits_at(q, r, k) | bit_at(q + 128, r, k) << 2) - 4;
    default:
        return book_weight_at(t, q, s, r, g, k);
    }
}

/* Scales of group g of a block: q its lines, s the block's scales. */
static void scales_at(const struct quant_type *t, const uint8_t *q, const uint8_t *s, int r, int g,
                      struct quant_group *out)
{
    float d = t->id == QN_MXFP4 ? e8m0_half(s[r]) : t->id == QN_NVFP4 ? 0 : half_at(s, r);
    int low, high;
    out->sub[0] = out->sub[1] = 1;
    out->m[0] = out->m[1] = 0;
    switch (t->id) {
    case QN_Q4_1:
    case QN_Q5_1:
        out->m[0] = out->m[1] = half_at(s + 32, r);
        break;
    case QN_Q4_K:
    case QN_Q5_K:
        low = s[64 + 16 * (g / 2 + g % 2 * 4) + r];
        high = s[64 + 128 + 16 * (g / 2) + r] >> 4 * (g % 2);
        d *= (float)((low & 15) | (high & 3) << 4);
        out->m[0] = out->m[1] = -(half_at(s + 32, r) * (float)(low >> 4 | (high >> 2 & 3) << 4));
        break;
    case QN_Q6_K:
        for (int h = 0; h < 2; h++)
            out->sub[h] = (int8_t)s[32 + 16 * (2 * g + h) + r];
        break;
    case QN_Q2_K:
        for (int h = 0; h < 2; h++) {
            out->sub[h] = s[64 + 16 * (2 * g + h) + r] & 15;
            out->m[h] = -(half_at(s + 32, r) * (float)(s[64 + 16 * (2 * g + h) + r] >> 4));
        }
        break;
    case QN_Q3_K:
        low = s[32 + 16 * (g / 2 + g % 2 * 4) + r];
        high = s[32 + 128 + 16 * (g / 2) + r] >> 4 * (g % 2);
        out->sub[0] = ((low & 15) | (high & 3) << 4) - 32;
        out->sub[1] = (low >> 4 | (high >> 2 & 3) << 4) - 32;
        break;
    case QN_IQ2_XXS:
        d *= (float)(2 * (q[64 + 4 * r + 3] >> 4) + 1) * 0.125f;
        break;
    case QN_IQ3_XXS:
        d *= (float)(2 * (q[128 + 4 * r + 3] >> 4) + 1) * 0.25f;
        break;
    case QN_IQ3_S:
        d *= (float)(2 * (s[32 + 16 * (g / 2) + r] >> 4 * (g % 2) & 15) + 1);
        break;
    case QN_IQ1_S:
        d *= (float)(2 * (s[32 + 16 * (g / 2) + r] >> 4 * (g % 2) & 7) + 1) * 0.125f;
        break;
    case QN_IQ2_XS:
    case QN_IQ2_S:
        d *= 0.125f;
        for (int h = 0; h < 2; h++)
            out->sub[h] = 2 * (s[32 + 16 * g + r] >> 4 * h & 15) + 1;
        break;
    case QN_IQ1_M:
        low = s[32 + 16 * (g / 2) + r] >> 4 * (g % 2) & 15;
        high = s[32 + 64 + 16 * (g / 2 % 2) + r] >> (2 * (g % 2) + g / 4 * 4) & 3;
        d *= 0.125f;
        for (int h = 0; h < 2; h++)
            out->sub[h] = 2 * ((low | high << 4) >> 3 * h & 7) + 1;
        break;
    case QN_IQ4_XS:
        low = s[32 + 16 * (g / 2) + r] >> 4 * (g % 2) & 15;
        high = s[32 + 64 + 16 * (g / 2 % 2) + r] >> (2 * (g % 2) + g / 4 * 4) & 3;
        d *= (float)((low | high << 4) - 32);
        break;
    default:
        break;
    }
    out->d[0] = out->d[1] = d;
    for (int h = 0; h < 2 && t->id == QN_NVFP4; h++)
        out->d[h] = e4m3_half(s[16 * (2 * g + h) + r]);
}

/* Any NaN equals any other: its sign is not ours to choose. */
static bool same_group(const struct quant_group *a, const struct quant_group *b)
{
    for (int h = 0; h < 2; h++) {
        bool d = a->d[h] == b->d[h] || (isnan(a->d[h]) && isnan(b->d[h]));
        bool m = a->m[h] == b->m[h] || (isnan(a->m[h]) && isnan(b->m[h]));
        if (!d || !m || a->sub[h] != b->sub[h])
            return false;
    }
    return memcmp(a->w, b->w, sizeof a->w) == 0;
}

static void compare_tile(const struct quant_type *t, const uint8_t *rows, size_t row_bytes, int64_t cols,
                         const uint8_t *tile)
{
    int group_bytes = sizes[t->id].group, scale_bytes = sizes[t->id].scales, per_block = t->block / QUANT_GROUP;
    assert_int_equal(group_bytes * per_block / 16 + scale_bytes, t->block_bytes);
    int64_t n_blocks = cols / t->block, stretch = scale_bytes % 4 == 0 ? 1 : scale_bytes % 2 == 0 ? 2 : 4;
    for (int r = 0; r < TILE_ROWS; r++) {
        for (int64_t g = 0; g < cols / QUANT_GROUP; g++) {
            int64_t b = g / per_block, first = b / stretch * stretch, end = first + stretch;
            const uint8_t *start = tile + first * 16 * t->block_bytes, *s = start + (b - first) * 16 * scale_bytes;
            const uint8_t *q = start + ((end < n_blocks ? end : n_blocks) - first) * 16 * scale_bytes;
            q += ((t->id == QN_TQ1_0 ? b * per_block : g) - first * per_block) * group_bytes;
            struct quant_group want, got;
            t->group(rows + (size_t)r * row_bytes + b * t->block_bytes, (int)(g % per_block), &want);
            for (int k = 0; k < QUANT_GROUP; k++)
                got.w[k] = (int8_t)weight_at(t, q, s, r, (int)(g % per_block), k);
            scales_at(t, q, s, r, (int)(g % per_block), &got);
            if (!same_group(&got, &want))
                fail_msg("%s: row %d, group %lld of a tile is not what the rows hold", t->name, r, (long long)g);
        }
    }
}

/* Every packed type by the formulas. */
static void test_layout(void **state)
{
    const struct quant_type *t;
    for (int id = 0; (t = next_packed(&id));) {
        int64_t cols = 7 * t->block; /* a last stretch is cut */
        size_t row_bytes = quant_row_bytes(t, cols);
        uint8_t *rows = random_bytes(TILE_ROWS * row_bytes);
        uint8_t *tile =
            random_bytes(pack_tile_bytes(t, cols) + 1024); /* book_weight_at() looks at lines not all types have */
        pack_tile(t, rows, row_bytes, TILE_ROWS, cols, tile);
        compare_tile(t, rows, row_bytes, cols, tile);
        free(rows);
        free(tile);
    }
}

/* A few bytes pinned by hand, so that formulas and packer cannot be wrong together. */
static void test_layout_by_hand(void **state)
{
    const struct quant_type *t = quant_type_find(QN_Q4_0);
    uint8_t rows[16 * 18], tile[320];
    assert_int_equal(pack_tile_bytes(t, 32), 320);
    memset(rows, 0, sizeof rows);
    rows[2 * 18] = 0xcd; /* row 2: d, weight 5 (low nibble of byte 5) and weight 29 (high nibble of byte 13) */
    rows[2 * 18 + 1] = 0xab;
    rows[2 * 18 + 2 + 5] = 0x07;
    rows[2 * 18 + 2 + 13] = 0x90;
    pack_tile(t, rows, 18, 16, 32, tile);
    for (int i = 0; i < 320; i++) {
        int want = 0;
        if (i == 4) /* d of row 2 */
            want = 0xcd;
        if (i == 5)
            want = 0xab;
        if (i == 32 + 2 * 4 + 1) /* line 0, row 2: weight 5 = 4 + 1, high */
            want = 0x70;
        if (i == 32 + 3 * 64 + 2 * 4 + 1) /* line 3, row 2: weight 29 = 24 + 4 + 1, high */
            want = 0x90;
        assert_int_equal(tile[i], want);
    }
    assert_int_equal(pack_tile_bytes(quant_type_find(QN_MXFP4), 32), 320); /* 16 * 17 = 272 */
    assert_int_equal(pack_tile_bytes(quant_type_find(QN_Q4_K), 2048), 16 * 8 * 144);
    assert_int_equal(pack_tile_bytes(quant_type_find(QN_IQ1_S), 256), 832); /* 16 * 50 = 800 */
}

/* All packed bytes of all types, pinned for this QUANT_LAYOUT: files hold them. */
static void test_layout_version(void **state)
{
    static const uint64_t pinned = 0x1ac43d1cd6694dd1;
    const struct quant_type *t;
    uint64_t hash = 0xcbf29ce484222325, n = 0; /* FNV-1a */
    for (int id = 0; (t = next_packed(&id));) {
        int64_t cols = 2 * t->block;
        size_t row_bytes = quant_row_bytes(t, cols), tile_bytes = pack_tile_bytes(t, cols);
        uint8_t *rows = malloc(TILE_ROWS * row_bytes), *tile = malloc(tile_bytes);
        assert_true(rows && tile);
        for (size_t i = 0; i < TILE_ROWS * row_bytes; i++)
            rows[i] = (uint8_t)((++n * 0x9e3779b97f4a7c15) >> 56);
        pack_tile(t, rows, row_bytes, TILE_ROWS, cols, tile);
        for (size_t i = 0; i < tile_bytes; i++)
            hash = (hash ^ tile[i]) * 0x100000001b3;
        free(rows);
        free(tile);
    }
    if (hash != pinned)
        fail_msg("the packed bytes of some type have changed (now %016llx): raise QUANT_LAYOUT, now %d, and pin them",
                 (unsigned long long)hash, QUANT_LAYOUT);
}

static void compare_row(const struct mat *m, const uint8_t *file, int64_t r)
{
    size_t n = (size_t)m->cols;
    float *want = malloc(n * sizeof *want), *got = malloc(n * sizeof *got);
    assert_true(want && got);
    m->type->decode(file + (size_t)r * quant_row_bytes(m->type, m->cols), want, m->cols / m->type->block);
    mat_row(m, r, got);
    if (memcmp(want, got, n * sizeof *got))
        fail_msg("%s: row %lld differs from the file's", m->type->name, (long long)r);
    free(want);
    free(got);
}

/* Rows of a packed matrix of 37 rows: three tiles, the last of five rows. */
static void test_mat_row(void **state)
{
    enum { ROWS = 37 };
    for (int id = 0; id < QN_TYPE_LIMIT; id++) {
        const struct quant_type *t = quant_type_find(id);
        if (!t)
            continue;
        int64_t cols = t->block == 1 ? 45 : 2 * t->block;
        size_t row_bytes = quant_row_bytes(t, cols);
        uint8_t *file = random_bytes(ROWS * row_bytes), *data;
        struct mat m = {.type = t, .rows = ROWS, .cols = cols};
        if (t->layout == LAYOUT_ROWS) {
            data = malloc(ROWS * (row_bytes + 7)); /* rows may lie apart */
            assert_non_null(data);
            m.stride = row_bytes + 7;
            for (size_t r = 0; r < ROWS; r++)
                memcpy(data + r * m.stride, file + r * row_bytes, row_bytes);
        } else {
            m.stride = pack_tile_bytes(t, cols);
            data = malloc(3 * m.stride);
            assert_non_null(data);
            for (int r = 0; r < ROWS; r += TILE_ROWS)
                pack_tile(t, file + (size_t)r * row_bytes, row_bytes, ROWS - r < TILE_ROWS ? ROWS - r : TILE_ROWS, cols,
                          data + (size_t)(r / TILE_ROWS) * m.stride);
        }
        m.data = data;
        for (int64_t r = 0; r < ROWS; r++)
            compare_row(&m, file, r);
        free(file);
        free(data);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        {"pack/round_trip", test_round_trip, NULL, NULL, NULL},
        {"pack/layout", test_layout, NULL, NULL, NULL},
        {"pack/layout_by_hand", test_layout_by_hand, NULL, NULL, NULL},
        {"pack/layout_version", test_layout_version, NULL, NULL, NULL},
        {"pack/mat_row", test_mat_row, NULL, NULL, NULL},
    };
    return cmocka_run_group_tests_name("pack", tests, NULL, NULL);
}
