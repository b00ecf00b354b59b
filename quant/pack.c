/* SPDX-License-Identifier: MIT */
/* The packed layout: 16 rows to a tile and back.  What the bytes of a tile mean is written in quant.h.
 * For the bit-field formats a file block is split into codes (the stored bits of each weight, one byte a weight) and fields
 * (scales, as the layout orders them); planes then spread the codes over lines of 16 rows.  Both steps only move bits, so a
 * block of zeros is zeros in a tile too. */
#include "quant/blocks.h"

#include <assert.h>

/* Called with constants: shifts and steps are known in each place. */
#define ALWAYS_INLINE static inline __attribute__((always_inline))

enum { FIELDS_MAX = 20 };

/* How a type of layout TILES lies in a tile. */
struct tile_format {
    uint8_t plane[2]; /* bits a weight of each quants plane, lowest bits of the code first; 0: none */
    uint8_t n_line; /* without planes: lines of a block that hold 4 bytes of each row as they are */
    uint8_t n_half, n_byte; /* scale fields of a block: two-byte ones, then one-byte ones */
    void (*split)(const struct tile_format *f, const uint8_t *block, uint8_t *codes, uint8_t *fields);
    void (*join)(const struct tile_format *f, const uint8_t *codes, const uint8_t *fields, uint8_t *block);
};

static int field_bytes(const struct tile_format *f) { return 2 * f->n_half + f->n_byte; }

/* ---- bit fields of n weights
 *
 * A field of `bits` bits of each weight: each run of `run` bytes (a multiple of 8) holds 8 / bits runs of weights, the first
 * in the lowest bits.  The bits are taken from, or added to, the codes at `shift`.  Eight bytes at once: masked to the field,
 * no bit leaves its byte, so that the byte order of the machine does not matter. */

static uint64_t in_all_bytes(int bits) { return 0x0101010101010101u * ((1u << bits) - 1); }

ALWAYS_INLINE void spread(const uint8_t *p, int n, int bits, int run, int shift, uint8_t *codes)
{
    int per_byte = 8 / bits;
    uint64_t mask = in_all_bytes(bits), from, to;
    for (int k = 0; k < n; k += 8) {
        memcpy(&from, p + k / (run * per_byte) * run + k % run, 8);
        memcpy(&to, codes + k, 8);
        to |= (from >> k / run % per_byte * bits & mask) << shift;
        memcpy(codes + k, &to, 8);
    }
}

ALWAYS_INLINE void gather(uint8_t *p, int n, int bits, int run, int shift, const uint8_t *codes)
{
    int per_byte = 8 / bits;
    uint64_t mask = in_all_bytes(bits), from, to;
    memset(p, 0, (size_t)(n / per_byte));
    for (int k = 0; k < n; k += 8) {
        uint8_t *at = p + k / (run * per_byte) * run + k % run;
        memcpy(&from, codes + k, 8);
        memcpy(&to, at, 8);
        to |= (from >> shift & mask) << k / run % per_byte * bits;
        memcpy(at, &to, 8);
    }
}

/* ---- blocks of 32: the fields, then fifth bits where there are any, then nibbles or bytes */

static void split_32(const struct tile_format *f, const uint8_t *block, uint8_t *codes, uint8_t *fields)
{
    memcpy(fields, block, (size_t)field_bytes(f));
    const uint8_t *qs = block + field_bytes(f);
    if (f->plane[0] == 8) {
        memcpy(codes, qs, 32);
        return;
    }
    if (f->plane[1]) {
        uint32_t high = load_u32(qs);
        for (int k = 0; k < 32; k++)
            codes[k] = (uint8_t)((high >> k & 1) << 4);
        qs += 4;
    }
    spread(qs, 32, 4, 16, 0, codes);
}

static void join_32(const struct tile_format *f, const uint8_t *codes, const uint8_t *fields, uint8_t *block)
{
    memcpy(block, fields, (size_t)field_bytes(f));
    uint8_t *qs = block + field_bytes(f);
    if (f->plane[0] == 8) {
        memcpy(qs, codes, 32);
        return;
    }
    if (f->plane[1]) {
        memset(qs, 0, 4);
        for (int k = 0; k < 32; k++)
            qs[k / 8] |= (uint8_t)((codes[k] >> 4 & 1) << k % 8);
        qs += 4;
    }
    gather(qs, 32, 4, 16, 0, codes);
}

/* Each 8 bytes two runs of 8 weights. */
static void split_NVFP4(const struct tile_format *f, const uint8_t *block, uint8_t *codes, uint8_t *fields)
{
    memcpy(fields, block, 4);
    spread(block + 4, 64, 4, 8, 0, codes);
}

static void join_NVFP4(const struct tile_format *f, const uint8_t *codes, const uint8_t *fields, uint8_t *block)
{
    memcpy(block, fields, 4);
    gather(block + 4, 64, 4, 8, 0, codes);
}

/* One or two bits of each weight, one weight after another: 128 or 64 of them. */
static void split_bits(const struct tile_format *f, const uint8_t *block, uint8_t *codes, uint8_t *fields)
{
    int bits = f->plane[0];
    memcpy(fields, block, 2);
    for (int k = 0; k < 128 / bits; k++)
        codes[k] = (uint8_t)(block[2 + k * bits / 8] >> k * bits % 8 & ((1 << bits) - 1));
}

static void join_bits(const struct tile_format *f, const uint8_t *codes, const uint8_t *fields, uint8_t *block)
{
    int bits = f->plane[0];
    memcpy(block, fields, 2);
    memset(block + 2, 0, 16);
    for (int k = 0; k < 128 / bits; k++)
        block[2 + k * bits / 8] |= (uint8_t)(codes[k] << k * bits % 8);
}

/* ---- blocks of 256 */

/* Scales of 6 bits, n of them: low nibbles two a byte, then the high 2 bits four a byte. */
static void put_scales6(uint8_t *fields, const uint8_t *scales, int n)
{
    memset(fields, 0, (size_t)(n / 2 + n / 4));
    for (int i = 0; i < n; i++) {
        fields[i / 2] |= (uint8_t)((scales[i] & 15) << 4 * (i % 2));
        fields[n / 2 + i / 4] |= (uint8_t)(scales[i] >> 4 << 2 * (i % 4));
    }
}

static void get_scales6(const uint8_t *fields, uint8_t *scales, int n)
{
    for (int i = 0; i < n; i++)
        scales[i] = (uint8_t)((fields[i / 2] >> 4 * (i % 2) & 15) | (fields[n / 2 + i / 4] >> 2 * (i % 4) & 3) << 4);
}

static void split_Q2_K(const struct tile_format *f, const uint8_t *block, uint8_t *codes, uint8_t *fields)
{
    spread(block + 16, 256, 2, 32, 0, codes);
    memcpy(fields, block + 80, 4);
    memcpy(fields + 4, block, 16);
}

static void join_Q2_K(const struct tile_format *f, const uint8_t *codes, const uint8_t *fields, uint8_t *block)
{
    gather(block + 16, 256, 2, 32, 0, codes);
    memcpy(block + 80, fields, 4);
    memcpy(block, fields + 4, 16);
}

static void split_Q3_K(const struct tile_format *f, const uint8_t *block, uint8_t *codes, uint8_t *fields)
{
    uint8_t scales[16];
    spread(block + 32, 256, 2, 32, 0, codes);
    spread(block, 256, 1, 32, 2, codes);
    memcpy(fields, block + 108, 2);
    for (int h = 0; h < 16; h++)
        scales[h] = (uint8_t)q3_k_scale(block + 96, h);
    put_scales6(fields + 2, scales, 16);
}

static void join_Q3_K(const struct tile_format *f, const uint8_t *codes, const uint8_t *fields, uint8_t *block)
{
    uint8_t scales[16];
    gather(block + 32, 256, 2, 32, 0, codes);
    gather(block, 256, 1, 32, 2, codes);
    memcpy(block + 108, fields, 2);
    get_scales6(fields + 2, scales, 16);
    memset(block + 96, 0, 12);
    for (int h = 0; h < 16; h++) {
        block[96 + h % 8] |= (uint8_t)((scales[h] & 15) << 4 * (h / 8));
        block[104 + h % 4] |= (uint8_t)(scales[h] >> 4 << 2 * (h / 4));
    }
}

/* Q4_K, and Q5_K with its fifth bits. */
static void split_Q4_K(const struct tile_format *f, const uint8_t *block, uint8_t *codes, uint8_t *fields)
{
    const uint8_t *qs = block + 16;
    uint8_t pairs[16]; /* scale, min of each sub-block */
    if (f->plane[1]) {
        spread(qs, 256, 1, 32, 4, codes);
        qs += 32;
    }
    spread(qs, 256, 4, 32, 0, codes);
    memcpy(fields, block, 4);
    for (int j = 0; j < 8; j++) {
        int scale, min;
        q4_k_scale(block + 4, j, &scale, &min);
        pairs[2 * j] = (uint8_t)scale;
        pairs[2 * j + 1] = (uint8_t)min;
    }
    put_scales6(fields + 4, pairs, 16);
}

static void join_Q4_K(const struct tile_format *f, const uint8_t *codes, const uint8_t *fields, uint8_t *block)
{
    uint8_t *qs = block + 16, *s = block + 4, pairs[16];
    if (f->plane[1]) {
        gather(qs, 256, 1, 32, 4, codes);
        qs += 32;
    }
    gather(qs, 256, 4, 32, 0, codes);
    memcpy(block, fields, 4);
    get_scales6(fields + 4, pairs, 16);
    for (int j = 0; j < 4; j++) {
        const uint8_t *a = pairs + 2 * j, *b = pairs + 2 * (j + 4);
        s[j] = (uint8_t)(a[0] | b[0] >> 4 << 6);
        s[j + 4] = (uint8_t)(a[1] | b[1] >> 4 << 6);
        s[j + 8] = (uint8_t)((b[0] & 15) | (b[1] & 15) << 4);
    }
}

static void split_Q6_K(const struct tile_format *f, const uint8_t *block, uint8_t *codes, uint8_t *fields)
{
    spread(block, 256, 4, 64, 0, codes);
    spread(block + 128, 256, 2, 32, 4, codes);
    memcpy(fields, block + 208, 2);
    memcpy(fields + 2, block + 192, 16);
}

static void join_Q6_K(const struct tile_format *f, const uint8_t *codes, const uint8_t *fields, uint8_t *block)
{
    gather(block, 256, 4, 64, 0, codes);
    gather(block + 128, 256, 2, 32, 4, codes);
    memcpy(block + 208, fields, 2);
    memcpy(block + 192, fields + 2, 16);
}

static void split_IQ4_XS(const struct tile_format *f, const uint8_t *block, uint8_t *codes, uint8_t *fields)
{
    uint8_t scales[8];
    spread(block + 8, 256, 4, 16, 0, codes);
    memcpy(fields, block, 2);
    for (int g = 0; g < 8; g++)
        scales[g] = (uint8_t)iq4_xs_scale(block, g);
    put_scales6(fields + 2, scales, 8);
}

static void join_IQ4_XS(const struct tile_format *f, const uint8_t *codes, const uint8_t *fields, uint8_t *block)
{
    uint8_t scales[8];
    gather(block + 8, 256, 4, 16, 0, codes);
    memcpy(block, fields, 2);
    get_scales6(fields + 2, scales, 8);
    memset(block + 2, 0, 6);
    for (int g = 0; g < 8; g++) {
        block[2 + g / 4] |= (uint8_t)(scales[g] >> 4 << 2 * (g % 4));
        block[4 + g / 2] |= (uint8_t)((scales[g] & 15) << 4 * (g % 2));
    }
}

static void split_TQ2_0(const struct tile_format *f, const uint8_t *block, uint8_t *codes, uint8_t *fields)
{
    spread(block, 256, 2, 32, 0, codes);
    memcpy(fields, block + 64, 2);
}

static void join_TQ2_0(const struct tile_format *f, const uint8_t *codes, const uint8_t *fields, uint8_t *block)
{
    gather(block, 256, 2, 32, 0, codes);
    memcpy(block + 64, fields, 2);
}

/* Five digits of base 3 in a byte cannot be told apart by bits: the bytes stay what they are. */
static void split_TQ1_0(const struct tile_format *f, const uint8_t *block, uint8_t *codes, uint8_t *fields)
{
    memcpy(codes, block, 52);
    memcpy(fields, block + 52, 2);
}

static void join_TQ1_0(const struct tile_format *f, const uint8_t *codes, const uint8_t *fields, uint8_t *block)
{
    memcpy(block, codes, 52);
    memcpy(block + 52, fields, 2);
}

/* clang-format off */
#define FORMAT(planes, lines, half, byte, name) \
    {.plane = planes, .n_line = lines, .n_half = half, .n_byte = byte, .split = split_##name, .join = join_##name}
#define P(...) {__VA_ARGS__}
static const struct tile_format tile_Q4_0 = FORMAT(P(4), 0, 1, 0, 32), tile_Q4_1 = FORMAT(P(4), 0, 2, 0, 32);
static const struct tile_format tile_Q5_0 = FORMAT(P(4, 1), 0, 1, 0, 32), tile_Q5_1 = FORMAT(P(4, 1), 0, 2, 0, 32);
static const struct tile_format tile_Q8_0 = FORMAT(P(8), 0, 1, 0, 32), tile_IQ4_NL = FORMAT(P(4), 0, 1, 0, 32);
static const struct tile_format tile_MXFP4 = FORMAT(P(4), 0, 0, 1, 32), tile_NVFP4 = FORMAT(P(4), 0, 0, 4, NVFP4);
static const struct tile_format tile_Q1_0 = FORMAT(P(1), 0, 1, 0, bits), tile_Q2_0 = FORMAT(P(2), 0, 1, 0, bits);
static const struct tile_format tile_Q2_K = FORMAT(P(2), 0, 2, 16, Q2_K), tile_Q3_K = FORMAT(P(2, 1), 0, 1, 12, Q3_K);
static const struct tile_format tile_Q4_K = FORMAT(P(4), 0, 2, 12, Q4_K), tile_Q5_K = FORMAT(P(4, 1), 0, 2, 12, Q4_K);
static const struct tile_format tile_Q6_K = FORMAT(P(4, 2), 0, 1, 16, Q6_K), tile_IQ4_XS = FORMAT(P(4), 0, 1, 6, IQ4_XS);
static const struct tile_format tile_TQ1_0 = FORMAT(P(0), 13, 1, 0, TQ1_0), tile_TQ2_0 = FORMAT(P(2), 0, 1, 0, TQ2_0);
/* clang-format on */

static const struct tile_format *const formats[QN_TYPE_LIMIT] = {
#define FORMAT_ROWS(name)
#define FORMAT_BLOCKS(name)
#define FORMAT_TILES(name)                               [QN_##name] = &tile_##name,
#define QUANT_TYPE(name, id, block, bytes, rule, layout) FORMAT_##layout(name)
#include "quant/types.def"
#undef QUANT_TYPE
};

/* ---- planes */

/* One row's 32 codes in one plane of a group: bits [shift, shift + width) of four codes at a time, in all bytes of a word at
 * once, to the row's word in each of the plane's `width` lines. */
ALWAYS_INLINE void put_plane(uint8_t *lines, int row, const uint8_t *codes, int width, int shift)
{
    uint32_t mask = 0x01010101u * ((1u << width) - 1);
    for (int j = 0; j < width; j++) {
        uint32_t line = 0;
        for (int u = 0; u < 8 / width; u++) {
            uint32_t four;
            memcpy(&four, codes + 4 * (8 / width * j + u), 4);
            line |= (four >> shift & mask) << width * u;
        }
        memcpy(lines + 64 * j + 4 * row, &line, 4);
    }
}

ALWAYS_INLINE void get_plane(const uint8_t *lines, int row, uint8_t *codes, int width, int shift)
{
    uint32_t mask = 0x01010101u * ((1u << width) - 1);
    for (int j = 0; j < width; j++) {
        uint32_t line, four;
        memcpy(&line, lines + 64 * j + 4 * row, 4);
        for (int u = 0; u < 8 / width; u++) {
            uint8_t *to = codes + 4 * (8 / width * j + u);
            memcpy(&four, to, 4);
            four |= (line >> width * u & mask) << shift;
            memcpy(to, &four, 4);
        }
    }
}

/* A block of a row in the tile: group 0 of its quants, and its scales. */
struct place {
    size_t quants, scales;
};

static int group_bytes(const struct tile_format *f) { return 64 * (f->plane[0] + f->plane[1]); }

static size_t quants_bytes(const struct quant_type *t, const struct tile_format *f)
{
    return (size_t)(64 * f->n_line + t->block / QUANT_GROUP * group_bytes(f));
}

static struct place place_block(const struct quant_type *t, const struct tile_format *f, int64_t cols, int64_t b)
{
    size_t quants = quants_bytes(t, f);
    return (struct place){(size_t)b * quants,
                          (size_t)(cols / t->block) * quants + (size_t)b * TILE_ROWS * (size_t)field_bytes(f)};
}

static void put_block(const struct quant_type *t, const struct tile_format *f, const uint8_t *block, int row,
                      uint8_t *quants, uint8_t *scales)
{
    uint8_t codes[QUANT_BLOCK_MAX], fields[FIELDS_MAX];
    memset(codes, 0, (size_t)t->block);
    f->split(f, block, codes, fields);
    for (int j = 0; j < f->n_line; j++)
        memcpy(quants + 64 * j + 4 * row, codes + 4 * j, 4);
    for (int k = 0; k < t->block && f->plane[0]; k += QUANT_GROUP, quants += group_bytes(f)) {
        switch (f->plane[0]) { /* constants, so that each case is unrolled */
        case 1:
            put_plane(quants, row, codes + k, 1, 0);
            break;
        case 2:
            put_plane(quants, row, codes + k, 2, 0);
            break;
        case 4:
            put_plane(quants, row, codes + k, 4, 0);
            break;
        default:
            put_plane(quants, row, codes + k, 8, 0);
            break;
        }
        if (f->plane[1])
            put_plane(quants + 64 * f->plane[0], row, codes + k, f->plane[1], f->plane[0]);
    }
    for (int i = 0; i < f->n_half; i++)
        memcpy(scales + 32 * i + 2 * row, fields + 2 * i, 2);
    for (int i = 0; i < f->n_byte; i++)
        scales[32 * f->n_half + 16 * i + row] = fields[2 * f->n_half + i];
}

static void get_block(const struct quant_type *t, const struct tile_format *f, const uint8_t *quants,
                      const uint8_t *scales, int row, uint8_t *block)
{
    uint8_t codes[QUANT_BLOCK_MAX], fields[FIELDS_MAX];
    memset(codes, 0, (size_t)t->block);
    for (int j = 0; j < f->n_line; j++)
        memcpy(codes + 4 * j, quants + 64 * j + 4 * row, 4);
    for (int k = 0; k < t->block && f->plane[0]; k += QUANT_GROUP, quants += group_bytes(f)) {
        get_plane(quants, row, codes + k, f->plane[0], 0);
        if (f->plane[1])
            get_plane(quants + 64 * f->plane[0], row, codes + k, f->plane[1], f->plane[0]);
    }
    for (int i = 0; i < f->n_half; i++)
        memcpy(fields + 2 * i, scales + 32 * i + 2 * row, 2);
    for (int i = 0; i < f->n_byte; i++)
        fields[2 * f->n_half + i] = scales[32 * f->n_half + 16 * i + row];
    f->join(f, codes, fields, block);
}

/* ---- tiles */

size_t pack_tile_bytes(const struct quant_type *t, int64_t cols)
{
    return (TILE_ROWS * quant_row_bytes(t, cols) + 63) & ~(size_t)63;
}

void pack_tile(const struct quant_type *t, const uint8_t *rows, size_t row_bytes, int n_rows, int64_t cols,
               uint8_t *tile)
{
    const struct tile_format *f = formats[t->id];
    size_t bytes = (size_t)t->block_bytes;
    assert(t->layout != LAYOUT_ROWS && n_rows >= 1 && n_rows <= TILE_ROWS && cols % t->block == 0);
    memset(tile, 0, pack_tile_bytes(t, cols));
    for (int r = 0; r < n_rows; r++) {
        const uint8_t *block = rows + (size_t)r * row_bytes;
        for (int64_t b = 0; b < cols / t->block; b++, block += bytes) {
            if (f) {
                struct place at = place_block(t, f, cols, b);
                put_block(t, f, block, r, tile + at.quants, tile + at.scales);
            } else {
                memcpy(tile + ((size_t)b * TILE_ROWS + (size_t)r) * bytes, block, bytes);
            }
        }
    }
}

void unpack_blocks(const struct quant_type *t, const uint8_t *tile, int64_t cols, int row, int64_t b0, int64_t n_blocks,
                   uint8_t *blocks)
{
    const struct tile_format *f = formats[t->id];
    size_t bytes = (size_t)t->block_bytes;
    assert(t->layout != LAYOUT_ROWS && row >= 0 && row < TILE_ROWS);
    for (int64_t b = b0; b < b0 + n_blocks; b++, blocks += bytes) {
        if (f) {
            struct place at = place_block(t, f, cols, b);
            get_block(t, f, tile + at.quants, tile + at.scales, row, blocks);
        } else {
            memcpy(blocks, tile + ((size_t)b * TILE_ROWS + (size_t)row) * bytes, bytes);
        }
    }
}

void mat_row(const struct mat *m, int64_t r, float *y)
{
    const struct quant_type *t = m->type;
    if (t->layout == LAYOUT_ROWS) {
        t->decode(m->data + (size_t)r * m->stride, y, m->cols / t->block);
        return;
    }
    const uint8_t *tile = m->data + (size_t)(r / TILE_ROWS) * m->stride;
    for (int64_t b = 0; b < m->cols / t->block; b++, y += t->block) {
        uint8_t block[QUANT_BLOCK_BYTES_MAX];
        unpack_blocks(t, tile, m->cols, (int)(r % TILE_ROWS), b, 1, block);
        t->decode(block, y, 1);
    }
}
