/* SPDX-License-Identifier: MIT */
/* The packed layout: 16 rows to a tile and back.  What the bytes of a tile mean is written in quant.h.
 * For the bit-field formats the stored bits of each weight, its code, go from one or two bit fields of the file's block to planes of
 * lines of 16 rows, or, of types whose weights are not bit fields, bytes of the block to lines; the rest of the block, its scales, are
 * the fields, ordered as the layout has them.  Packing only moves bits, so a block of zeros is zeros in a tile too.  It is compiled once for every type, with all widths and places known: loading a model waits
 * for it. */
#include "quant/blocks.h"

#include <assert.h>

/* Called with constants: shifts and steps are known in each place. */
#define ALWAYS_INLINE static inline __attribute__((always_inline))

enum { FIELDS_MAX = 40, WORDS = QUANT_GROUP / 4 };

/* `width` bits of every weight, from byte `at` of the block: each run of `run` bytes holds 8 / width runs of weights, the first in the
 * lowest bits.  A run is 1 byte, so that the weights' bits follow each other, or a multiple of 4. */
struct bits {
    uint8_t at, width, run;
};

/* Four bytes of each row to a line, `apart` from each other; of group g from byte at + step * g of the block.  TQ1_0, which has no
 * groups, counts lines instead. */
struct line {
    uint8_t at, step, apart;
};

/* How a type of layout TILES lies in a tile. */
struct tile_format {
    struct bits plane[2]; /* lowest bits of the code first; width 0: none */
    struct line line[3]; /* without planes; apart 0: none */
    uint8_t n_step; /* g < n_step */
    uint8_t n_half, n_byte, n_nibble; /* scale fields of a block: of two bytes, of one, of 4 bits (each in its byte) */
    uint8_t fields_at; /* where they lie in the block, as they are, unless: */
    void (*get_fields)(const uint8_t *block, uint8_t *fields);
    void (*put_fields)(const uint8_t *fields, uint8_t *block);
};

/* Without the nibbles, which come last. */
static inline int field_bytes(const struct tile_format *f) { return 2 * f->n_half + f->n_byte; }

static inline int line_count(const struct tile_format *f)
{
    return !!f->line[0].apart + !!f->line[1].apart + !!f->line[2].apart;
}

/* ---- codes
 *
 * Four codes at once, one a byte of a word, the first in the lowest: masked to the field, no bit leaves its byte. */

static inline uint32_t in_all_bytes(int bits) { return 0x01010101u * ((1u << bits) - 1); }

static inline uint32_t load_word(const uint8_t *p)
{
    uint32_t word;
    memcpy(&word, p, 4);
    return word;
}

/* The field of weights k .. k + 3, k a multiple of 4. */
ALWAYS_INLINE uint32_t take(const uint8_t *block, const struct bits *b, int k)
{
    int per_byte = 8 / b->width;
    const uint8_t *p = block + b->at;
    if (b->run == 1) {
        uint32_t four = p[k / per_byte] >> k % per_byte * b->width & ((1u << 4 * b->width) - 1);
        int up = 8 - b->width; /* from weight to weight, each to a byte of its own */
        return (four | four << up | four << 2 * up | four << 3 * up) & in_all_bytes(b->width);
    }
    return load_word(p + k / (b->run * per_byte) * b->run + k % b->run) >> k / b->run % per_byte * b->width &
           in_all_bytes(b->width);
}

/* Adds it to a block of zeros. */
ALWAYS_INLINE void give(uint8_t *block, const struct bits *b, int k, uint32_t codes)
{
    int per_byte = 8 / b->width;
    uint8_t *p = block + b->at;
    if (b->run == 1) {
        for (int i = 0; i < 4; i++)
            p[(k + i) / per_byte] |= (uint8_t)((codes >> 8 * i & 255) << (k + i) % per_byte * b->width);
        return;
    }
    p += k / (b->run * per_byte) * b->run + k % b->run;
    uint32_t word = load_word(p) | codes << k / b->run % per_byte * b->width;
    memcpy(p, &word, 4);
}

/* ---- lines */

ALWAYS_INLINE uint32_t take_line(const uint8_t *block, const struct line *l, int g)
{
    const uint8_t *p = block + l->at + l->step * g;
    if (l->apart == 1)
        return load_word(p);
    uint8_t four[4];
    for (int i = 0; i < 4; i++)
        four[i] = p[i * l->apart];
    return load_word(four);
}

static void give_line(uint8_t *block, const struct line *l, int g, const uint8_t *four)
{
    for (int i = 0; i < 4; i++)
        block[l->at + l->step * g + i * l->apart] = four[i];
}

/* ---- fields */

static void get_fields_Q2_K(const uint8_t *block, uint8_t *fields)
{
    memcpy(fields, block + 80, 4);
    memcpy(fields + 4, block, 16);
}

static void put_fields_Q2_K(const uint8_t *fields, uint8_t *block)
{
    memcpy(block + 80, fields, 4);
    memcpy(block, fields + 4, 16);
}

/* The file has scale h in nibble h / 8 of byte h % 8, its two high bits at bit 2 (h / 4) of byte 8 + h % 4. */
static void get_fields_Q3_K(const uint8_t *block, uint8_t *fields)
{
    const uint8_t *s = block + 96;
    memcpy(fields, block + 108, 2);
    for (int i = 0; i < 4; i++) {
        int at = 2 + i / 2 + i % 2 * 4; /* of group i; group i + 4 is two further on */
        fields[at] = (uint8_t)((s[2 * i] & 15) | s[2 * i + 1] << 4);
        fields[at + 2] = (uint8_t)(s[2 * i] >> 4 | (s[2 * i + 1] & 0xf0));
        fields[10 + i] = (uint8_t)((s[8] >> 2 * i & 3) | (s[9] >> 2 * i & 3) << 2 | (s[10] >> 2 * i & 3) << 4 |
                                   (s[11] >> 2 * i & 3) << 6);
    }
}

static void put_fields_Q3_K(const uint8_t *fields, uint8_t *block)
{
    uint8_t *s = block + 96;
    memcpy(block + 108, fields, 2);
    for (int i = 0; i < 4; i++) {
        int at = 2 + i / 2 + i % 2 * 4;
        s[2 * i] = (uint8_t)((fields[at] & 15) | fields[at + 2] << 4);
        s[2 * i + 1] = (uint8_t)(fields[at] >> 4 | (fields[at + 2] & 0xf0));
        s[8 + i] = (uint8_t)((fields[10] >> 2 * i & 3) | (fields[11] >> 2 * i & 3) << 2 |
                             (fields[12] >> 2 * i & 3) << 4 | (fields[13] >> 2 * i & 3) << 6);
    }
}

/* Q4_K and Q5_K: bytes 0-3 and 4-7 hold the first four scales and minima in their low 6 bits; of the last four, bytes 8-11 hold the
 * low 4 bits and the top 2 bits of bytes 0-7 the rest. */
static void get_fields_Q4_K(const uint8_t *block, uint8_t *fields)
{
    const uint8_t *s = block + 4;
    memcpy(fields, block, 4);
    uint32_t scale = load_word(s), min = load_word(s + 4), first = (scale & 0x0f0f0f0f) | (min & 0x0f0f0f0f) << 4;
    uint32_t last = load_word(s + 8); /* low nibbles of sub-blocks 4..7 */
    uint32_t high_first = (scale >> 4 & 0x03030303) | (min >> 2 & 0x0c0c0c0c); /* a nibble for each sub-block */
    uint32_t high_last = (scale >> 6 & 0x03030303) | (min >> 4 & 0x0c0c0c0c);
    for (int i = 0; i < 4; i++) {
        uint32_t low = i < 2 ? first >> 16 * i : last >> 16 * (i - 2);
        uint32_t high = i < 2 ? high_first >> 16 * i : high_last >> 16 * (i - 2);
        fields[4 + i] = (uint8_t)low;
        fields[8 + i] = (uint8_t)(low >> 8);
        fields[12 + i] = (uint8_t)(high | high >> 8 << 4);
    }
}

static void put_fields_Q4_K(const uint8_t *fields, uint8_t *block)
{
    uint8_t *s = block + 4;
    memcpy(block, fields, 4);
    for (int j = 0; j < 4; j++) {
        int at = 4 + j / 2 + j % 2 * 4; /* of sub-block j; j + 4 is two further on */
        int first = fields[12 + j / 2] >> 4 * (j % 2), last = fields[14 + j / 2] >> 4 * (j % 2);
        s[j] = (uint8_t)((fields[at] & 15) | (first & 3) << 4 | (last & 3) << 6);
        s[j + 4] = (uint8_t)(fields[at] >> 4 | (first >> 2 & 3) << 4 | (last >> 2 & 3) << 6);
        s[j + 8] = fields[at + 2];
    }
}

static void get_fields_Q6_K(const uint8_t *block, uint8_t *fields)
{
    memcpy(fields, block + 208, 2);
    memcpy(fields + 2, block + 192, 16);
}

static void put_fields_Q6_K(const uint8_t *fields, uint8_t *block)
{
    memcpy(block + 208, fields, 2);
    memcpy(block + 192, fields + 2, 16);
}

/* The nibbles of two bytes, the low ones in the first. */
ALWAYS_INLINE void swap_nibbles(uint8_t *to, const uint8_t *from)
{
    uint8_t first = from[0], second = from[1];
    to[0] = (uint8_t)((first & 15) | second << 4);
    to[1] = (uint8_t)(first >> 4 | (second & 0xf0));
}

/* The file has the high bits in front of the low ones. */
static void get_fields_IQ4_XS(const uint8_t *block, uint8_t *fields)
{
    memcpy(fields, block, 2);
    memcpy(fields + 2, block + 4, 4);
    swap_nibbles(fields + 6, block + 2);
}

static void put_fields_IQ4_XS(const uint8_t *fields, uint8_t *block)
{
    memcpy(block, fields, 2);
    memcpy(block + 4, fields + 2, 4);
    swap_nibbles(block + 2, fields + 6);
}

/* Bits of four indices, n of each, the first index lowest: bit k of all four to nibble k. */
ALWAYS_INLINE void get_high(unsigned bits, int n, uint8_t *nibbles)
{
    for (int k = 0; k < n; k++)
        nibbles[k] = (uint8_t)((bits >> k & 1) | (bits >> (n + k) & 1) << 1 | (bits >> (2 * n + k) & 1) << 2 |
                               (bits >> (3 * n + k) & 1) << 3);
}

static unsigned put_high(const uint8_t *nibbles, int n)
{
    unsigned bits = 0;
    for (int k = 0; k < n; k++)
        for (int o = 0; o < 4; o++)
            bits |= (nibbles[k] >> o & 1u) << (n * o + k);
    return bits;
}

static void put_u16(uint8_t *p, unsigned x)
{
    p[0] = (uint8_t)x;
    p[1] = (uint8_t)(x >> 8);
}

static void get_fields_IQ2_XS(const uint8_t *block, uint8_t *fields)
{
    memcpy(fields, block, 2);
    memcpy(fields + 2, block + 66, 8);
}

static void put_fields_IQ2_XS(const uint8_t *fields, uint8_t *block)
{
    memcpy(block, fields, 2);
    memcpy(block + 66, fields + 2, 8);
}

static void get_fields_IQ2_S(const uint8_t *block, uint8_t *fields)
{
    memcpy(fields, block, 2);
    memcpy(fields + 2, block + 74, 8);
    for (int g = 0; g < 8; g++)
        get_high(block[66 + g], 2, fields + 10 + 2 * g);
}

static void put_fields_IQ2_S(const uint8_t *fields, uint8_t *block)
{
    memcpy(block, fields, 2);
    memcpy(block + 74, fields + 2, 8);
    for (int g = 0; g < 8; g++)
        block[66 + g] = (uint8_t)put_high(fields + 10 + 2 * g, 2);
}

static void get_fields_IQ3_S(const uint8_t *block, uint8_t *fields)
{
    memcpy(fields, block, 2);
    memcpy(fields + 2, block + 106, 4);
    for (int g = 0; g < 8; g++) {
        fields[6 + 2 * g] = block[66 + g] & 15;
        fields[7 + 2 * g] = block[66 + g] >> 4;
    }
}

static void put_fields_IQ3_S(const uint8_t *fields, uint8_t *block)
{
    memcpy(block, fields, 2);
    memcpy(block + 106, fields + 2, 4);
    for (int g = 0; g < 8; g++)
        block[66 + g] = (uint8_t)(fields[6 + 2 * g] | fields[7 + 2 * g] << 4);
}

/* Words of four times 3 high bits, a 3-bit scale and the sign of the shift. */
static void get_fields_IQ1_S(const uint8_t *block, uint8_t *fields)
{
    memcpy(fields, block, 2);
    memset(fields + 2, 0, 4);
    for (int g = 0; g < 8; g++) {
        unsigned word = load_u16(block + 34 + 2 * g);
        fields[2 + g / 2] |= (uint8_t)(word >> 12 << 4 * (g % 2));
        get_high(word, 3, fields + 6 + 3 * g);
    }
}

static void put_fields_IQ1_S(const uint8_t *fields, uint8_t *block)
{
    memcpy(block, fields, 2);
    for (int g = 0; g < 8; g++)
        put_u16(block + 34 + 2 * g, put_high(fields + 6 + 3 * g, 3) | (fields[2 + g / 2] >> 4 * (g % 2) & 15u) << 12);
}

/* Words of two groups' scales, 6 bits each, and a quarter of d. */
static void get_fields_IQ1_M(const uint8_t *block, uint8_t *fields)
{
    unsigned d = 0;
    memset(fields + 2, 0, 6);
    for (int g = 0; g < 8; g++) {
        unsigned word = load_u16(block + 48 + 2 * (g / 2)), scales = word >> 6 * (g % 2) & 63;
        fields[2 + g / 2] |= (uint8_t)((scales & 15) << 4 * (g % 2));
        fields[6 + g / 2 % 2] |= (uint8_t)(scales >> 4 << (2 * (g % 2) + g / 4 * 4));
        d |= g % 2 ? 0 : word >> 12 << 2 * g;
        get_high(load_u16(block + 32 + 2 * g), 4, fields + 8 + 4 * g);
    }
    put_u16(fields, d);
}

static void put_fields_IQ1_M(const uint8_t *fields, uint8_t *block)
{
    unsigned d = load_u16(fields), words[4];
    for (int i = 0; i < 4; i++)
        words[i] = (d >> 4 * i & 15) << 12;
    for (int g = 0; g < 8; g++) {
        unsigned low = fields[2 + g / 2] >> 4 * (g % 2) & 15u,
                 high = fields[6 + g / 2 % 2] >> (2 * (g % 2) + g / 4 * 4) & 3u;
        words[g / 2] |= (low | high << 4) << 6 * (g % 2);
        put_u16(block + 32 + 2 * g, put_high(fields + 8 + 4 * g, 4));
    }
    for (int i = 0; i < 4; i++)
        put_u16(block + 48 + 2 * i, words[i]);
}

/* clang-format off */
#define PLANES(...)      .plane = {__VA_ARGS__}
#define LINES(n, ...)    .line = {__VA_ARGS__}, .n_step = n
#define FIELDS(a, b, c)  .n_half = a, .n_byte = b, .n_nibble = c
#define CODED(type)      .get_fields = get_fields_##type, .put_fields = put_fields_##type
static const struct tile_format tile_Q4_0 = {PLANES({2, 4, 16}), FIELDS(1, 0, 0), .fields_at = 0};
static const struct tile_format tile_Q4_1 = {PLANES({4, 4, 16}), FIELDS(2, 0, 0), .fields_at = 0};
static const struct tile_format tile_Q5_0 = {PLANES({6, 4, 16}, {2, 1, 1}), FIELDS(1, 0, 0), .fields_at = 0};
static const struct tile_format tile_Q5_1 = {PLANES({8, 4, 16}, {4, 1, 1}), FIELDS(2, 0, 0), .fields_at = 0};
static const struct tile_format tile_Q8_0 = {PLANES({2, 8, 32}), FIELDS(1, 0, 0), .fields_at = 0};
static const struct tile_format tile_IQ4_NL = {PLANES({2, 4, 16}), FIELDS(1, 0, 0), .fields_at = 0};
static const struct tile_format tile_MXFP4 = {PLANES({1, 4, 16}), FIELDS(0, 1, 0), .fields_at = 0};
static const struct tile_format tile_NVFP4 = {PLANES({4, 4, 8}), FIELDS(0, 4, 0), .fields_at = 0};
static const struct tile_format tile_Q1_0 = {PLANES({2, 1, 1}), FIELDS(1, 0, 0), .fields_at = 0};
static const struct tile_format tile_Q2_0 = {PLANES({2, 2, 1}), FIELDS(1, 0, 0), .fields_at = 0};
static const struct tile_format tile_TQ1_0 = {LINES(13, {0, 4, 1}), FIELDS(1, 0, 0), .fields_at = 52};
static const struct tile_format tile_TQ2_0 = {PLANES({0, 2, 32}), FIELDS(1, 0, 0), .fields_at = 64};
static const struct tile_format tile_Q2_K = {PLANES({16, 2, 32}), FIELDS(2, 16, 0), CODED(Q2_K)};
static const struct tile_format tile_Q3_K = {PLANES({32, 2, 32}, {0, 1, 32}), FIELDS(1, 12, 0), CODED(Q3_K)};
static const struct tile_format tile_Q4_K = {PLANES({16, 4, 32}), FIELDS(2, 12, 0), CODED(Q4_K)};
static const struct tile_format tile_Q5_K = {PLANES({48, 4, 32}, {16, 1, 32}), FIELDS(2, 12, 0), CODED(Q4_K)};
static const struct tile_format tile_Q6_K = {PLANES({0, 4, 64}, {128, 2, 32}), FIELDS(1, 16, 0), CODED(Q6_K)};
static const struct tile_format tile_IQ4_XS = {PLANES({8, 4, 16}), FIELDS(1, 6, 0), CODED(IQ4_XS)};
static const struct tile_format tile_IQ2_XXS = {LINES(8, {2, 8, 1}, {6, 8, 1}), FIELDS(1, 0, 0), .fields_at = 0};
static const struct tile_format tile_IQ2_XS = {LINES(8, {2, 8, 2}, {3, 8, 2}), FIELDS(1, 8, 0), CODED(IQ2_XS)};
static const struct tile_format tile_IQ2_S = {LINES(8, {2, 4, 1}, {34, 4, 1}), FIELDS(1, 8, 16), CODED(IQ2_S)};
static const struct tile_format tile_IQ3_XXS = {LINES(8, {2, 8, 1}, {6, 8, 1}, {66, 4, 1}), FIELDS(1, 0, 0), .fields_at = 0};
static const struct tile_format tile_IQ3_S = {LINES(8, {2, 8, 1}, {6, 8, 1}, {74, 4, 1}), FIELDS(1, 4, 16), CODED(IQ3_S)};
static const struct tile_format tile_IQ1_S = {LINES(8, {2, 4, 1}), FIELDS(1, 4, 24), CODED(IQ1_S)};
static const struct tile_format tile_IQ1_M = {LINES(8, {0, 4, 1}), FIELDS(1, 6, 32), CODED(IQ1_M)};
#undef PLANES
#undef LINES
#undef FIELDS
#undef CODED
/* clang-format on */

/* ---- planes */

/* One row's 32 codes in one plane of a group: bits [shift, shift + width) of four codes at a time, in all bytes of a word at
 * once, to the row's word in each of the plane's `width` lines. */
ALWAYS_INLINE void put_plane(uint8_t *lines, int row, const uint32_t *codes, int width)
{
#pragma GCC unroll 8
    for (int j = 0; j < width; j++) {
        uint32_t line = 0;
#pragma GCC unroll 8
        for (int u = 0; u < 8 / width; u++)
            line |= codes[8 / width * j + u] << width * u;
        memcpy(lines + 64 * j + 4 * row, &line, 4);
    }
}

ALWAYS_INLINE void get_plane(const uint8_t *lines, int row, uint32_t *codes, int width)
{
#pragma GCC unroll 8
    for (int j = 0; j < width; j++) {
        uint32_t line = load_word(lines + 64 * j + 4 * row);
#pragma GCC unroll 8
        for (int u = 0; u < 8 / width; u++)
            codes[8 / width * j + u] = line >> width * u & in_all_bytes(width);
    }
}

/* A block of a row in the tile: group 0 of its quants, and its scales. */
struct place {
    size_t quants, scales;
};

static inline int group_bytes(const struct tile_format *f) { return 64 * (f->plane[0].width + f->plane[1].width); }

static inline struct place place_block(const struct tile_format *f, int weights, int64_t cols, int64_t b)
{
    size_t quants = (size_t)(64 * line_count(f) * f->n_step + weights / QUANT_GROUP * group_bytes(f));
    size_t scales = (size_t)(TILE_ROWS * field_bytes(f) + TILE_ROWS / 2 * f->n_nibble);
    int64_t stretch = quant_stretch((int)scales), first = b / stretch * stretch;
    int64_t n = cols / weights - first < stretch ? cols / weights - first : stretch; /* blocks of this stretch */
    size_t start = (size_t)first * (scales + quants);
    return (struct place){start + (size_t)n * scales + (size_t)(b - first) * quants,
                          start + (size_t)(b - first) * scales};
}

ALWAYS_INLINE void put_block(const struct tile_format *f, int weights, const uint8_t *block, int row, uint8_t *quants,
                             uint8_t *scales)
{
    uint8_t fields[FIELDS_MAX];
    for (int g = 0; g < f->n_step; g++)
        for (int j = 0; j < line_count(f); j++) {
            uint32_t four = take_line(block, &f->line[j], g);
            memcpy(quants + 64 * (line_count(f) * g + j) + 4 * row, &four, 4);
        }
#pragma GCC unroll 8
    for (int g = 0; g < weights / QUANT_GROUP; g++, quants += group_bytes(f)) {
        uint8_t *lines = quants;
#pragma GCC unroll 2
        for (int p = 0; p < 2; p++) {
            if (!f->plane[p].width)
                continue;
            uint32_t codes[WORDS];
#pragma GCC unroll 8
            for (int i = 0; i < WORDS; i++)
                codes[i] = take(block, &f->plane[p], QUANT_GROUP * g + 4 * i);
            put_plane(lines, row, codes, f->plane[p].width);
            lines += 64 * f->plane[p].width;
        }
    }
    if (f->get_fields)
        f->get_fields(block, fields);
    else
        memcpy(fields, block + f->fields_at, (size_t)field_bytes(f));
    for (int i = 0; i < f->n_half; i++)
        memcpy(scales + 32 * i + 2 * row, fields + 2 * i, 2);
    for (int i = 0; i < f->n_byte; i++)
        scales[32 * f->n_half + 16 * i + row] = fields[2 * f->n_half + i];
    for (int i = 0; i < f->n_nibble; i++) { /* the even row first */
        uint8_t *p = scales + 16 * field_bytes(f) + 8 * i + row / 2;
        *p = row % 2 ? (uint8_t)(*p | fields[field_bytes(f) + i] << 4) : fields[field_bytes(f) + i];
    }
}

ALWAYS_INLINE void get_block(const struct tile_format *f, int weights, int bytes, const uint8_t *quants,
                             const uint8_t *scales, int row, uint8_t *block)
{
    uint8_t fields[FIELDS_MAX];
    memset(block, 0, (size_t)bytes);
    for (int g = 0; g < f->n_step; g++)
        for (int j = 0; j < line_count(f); j++)
            give_line(block, &f->line[j], g, quants + 64 * (line_count(f) * g + j) + 4 * row);
#pragma GCC unroll 8
    for (int g = 0; g < weights / QUANT_GROUP; g++) {
#pragma GCC unroll 2
        for (int p = 0; p < 2; quants += 64 * f->plane[p].width, p++) {
            if (!f->plane[p].width)
                continue;
            uint32_t codes[WORDS];
            get_plane(quants, row, codes, f->plane[p].width);
#pragma GCC unroll 8
            for (int i = 0; i < WORDS; i++)
                give(block, &f->plane[p], QUANT_GROUP * g + 4 * i, codes[i]);
        }
    }
    for (int i = 0; i < f->n_half; i++)
        memcpy(fields + 2 * i, scales + 32 * i + 2 * row, 2);
    for (int i = 0; i < f->n_byte; i++)
        fields[2 * f->n_half + i] = scales[32 * f->n_half + 16 * i + row];
    for (int i = 0; i < f->n_nibble; i++)
        fields[field_bytes(f) + i] = scales[16 * field_bytes(f) + 8 * i + row / 2] >> 4 * (row % 2) & 15;
    if (f->put_fields)
        f->put_fields(fields, block);
    else
        memcpy(block + f->fields_at, fields, (size_t)field_bytes(f));
}

/* ---- tiles */

size_t pack_tile_bytes(const struct quant_type *t, int64_t cols)
{
    return (TILE_ROWS * quant_row_bytes(t, cols) + 63) & ~(size_t)63;
}

/* Every 16-row piece of the tile is written by all rows before the next one, so that its lines are complete when they leave the
 * nearest cache. */
ALWAYS_INLINE void pack_rows(const struct tile_format *f, int weights, int bytes, const uint8_t *rows, size_t row_bytes,
                             int n_rows, int64_t cols, uint8_t *tile)
{
    for (int64_t b = 0; b < cols / weights; b++) {
        struct place at = place_block(f, weights, cols, b);
        for (int r = 0; r < n_rows; r++)
            put_block(f, weights, rows + (size_t)r * row_bytes + (size_t)b * (size_t)bytes, r, tile + at.quants,
                      tile + at.scales);
    }
}

ALWAYS_INLINE void unpack_row(const struct tile_format *f, int weights, int bytes, const uint8_t *tile, int64_t cols,
                              int row, int64_t b0, int64_t n_blocks, uint8_t *blocks)
{
    for (int64_t b = b0; b < b0 + n_blocks; b++, blocks += bytes) {
        struct place at = place_block(f, weights, cols, b);
        get_block(f, weights, bytes, tile + at.quants, tile + at.scales, row, blocks);
    }
}

/* Functions for every type, with its format as constants. */
struct tile_code {
    void (*pack)(const uint8_t *rows, size_t row_bytes, int n_rows, int64_t cols, uint8_t *tile);
    void (*unpack)(const uint8_t *tile, int64_t cols, int row, int64_t b0, int64_t n_blocks, uint8_t *blocks);
};
#define FORMAT_ROWS(name, block, bytes)
#define FORMAT_TILES(name, block, bytes) \
    static void pack_##name(const uint8_t *rows, size_t row_bytes, int n_rows, int64_t cols, uint8_t *tile) \
    { \
        pack_rows(&tile_##name, block, bytes, rows, row_bytes, n_rows, cols, tile); \
    } \
    static void unpack_##name(const uint8_t *tile, int64_t cols, int row, int64_t b0, int64_t n_blocks, \
                              uint8_t *blocks) \
    { \
        unpack_row(&tile_##name, block, bytes, tile, cols, row, b0, n_blocks, blocks); \
    }
#define QUANT_TYPE(name, id, block, bytes, rule, layout) FORMAT_##layout(name, block, bytes)
#include "quant/types.def"
#undef QUANT_TYPE
#undef FORMAT_TILES

static const struct tile_code coders[QN_TYPE_LIMIT] = {
#define FORMAT_TILES(name, block, bytes)                 [QN_##name] = {pack_##name, unpack_##name},
#define QUANT_TYPE(name, id, block, bytes, rule, layout) FORMAT_##layout(name, block, bytes)
#include "quant/types.def"
#undef QUANT_TYPE
};

void pack_tile(const struct quant_type *t, const uint8_t *rows, size_t row_bytes, int n_rows, int64_t cols,
               uint8_t *tile)
{
    assert(t->layout != LAYOUT_ROWS && n_rows >= 1 && n_rows <= TILE_ROWS && cols % t->block == 0);
    size_t written = n_rows == TILE_ROWS ? TILE_ROWS * quant_row_bytes(t, cols) : 0;
    memset(tile + written, 0, pack_tile_bytes(t, cols) - written);
    coders[t->id].pack(rows, row_bytes, n_rows, cols, tile);
}

void unpack_blocks(const struct quant_type *t, const uint8_t *tile, int64_t cols, int row, int64_t b0, int64_t n_blocks,
                   uint8_t *blocks)
{
    assert(t->layout != LAYOUT_ROWS && row >= 0 && row < TILE_ROWS);
    coders[t->id].unpack(tile, cols, row, b0, n_blocks, blocks);
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
