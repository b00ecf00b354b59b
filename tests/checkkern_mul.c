/* SPDX-License-Identifier: MIT */
/* Kernel checker: matrix products of every type.  Each column count to 33 and some past the blocks of the drivers, row ranges
 * that cut tiles, index arrays, row widths as the type allows; weights are random bytes, with scales of all kinds put in, or
 * extremes against activations of +-127.  The C level is checked against quant_dot_ref() on the file's rows. */
#include "checkkern.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

enum fill {
    FILL_BYTES, /* random */
    FILL_PLAIN, /* random, scales of ordinary size */
    FILL_SPECIAL, /* random, scales zero, tiny, huge, infinite, NaN */
    FILL_LOW, /* every byte 0x80: all weights -128 where a byte is a weight */
    FILL_ONES, /* every bit set */
    FILL_ZEROS,
    FILLS
};

/* Where a block has its f16 fields; -1: none. */
static void f16_fields(enum qn_type type, int at[2])
{
    at[0] = 0;
    at[1] = -1;
    switch (type) {
    case QN_Q4_1:
    case QN_Q5_1:
    case QN_Q4_K:
    case QN_Q5_K:
        at[1] = 2;
        break;
    case QN_Q2_K:
        at[0] = 80;
        at[1] = 82;
        break;
    case QN_Q3_K:
        at[0] = 108;
        break;
    case QN_Q6_K:
        at[0] = 208;
        break;
    case QN_TQ1_0:
        at[0] = 52;
        break;
    case QN_TQ2_0:
        at[0] = 64;
        break;
    case QN_IQ1_M: /* scattered */
    case QN_MXFP4:
    case QN_NVFP4:
        at[0] = -1;
        break;
    default:
        break;
    }
}

static uint16_t some_f16(enum fill fill)
{
    static const uint16_t special[] = {0, 0x8000, 1, 0x83ff, 0x0400, 0x7bff, 0xfbff, 0x7c00, 0xfc00, 0x7e00, 0xfd01};
    if (fill == FILL_SPECIAL && kern_below(4) == 0)
        return special[kern_below(sizeof(special) / sizeof(special[0]))];
    return f32_to_f16(0.05f * kern_unit());
}

static void fill_float_row(enum qn_type type, uint8_t *p, int64_t cols, enum fill fill)
{
    static const enum kern_fill kind[FILLS] = {KERN_WIDE, KERN_PLAIN, KERN_SPECIAL, KERN_TINY, KERN_EQUAL, KERN_SMALL};
    for (int64_t k = 0; k < cols; k++) {
        float f;
        uint16_t h;
        kern_floats(&f, 1, kind[fill]);
        uint32_t u;
        memcpy(&u, &f, sizeof(u));
        h = type == QN_F16 ? f32_to_f16(f) : (uint16_t)(u >> 16);
        if (type == QN_F32)
            memcpy(p + 4 * k, &f, sizeof(f));
        else
            memcpy(p + 2 * k, &h, sizeof(h));
    }
}

static void fill_row(const struct quant_type *t, uint8_t *p, int64_t cols, enum fill fill)
{
    if (t->rule == RULE_FLOAT) {
        fill_float_row(t->id, p, cols, fill);
        return;
    }
    int at[2];
    f16_fields(t->id, at);
    for (int64_t b = 0; b < cols / t->block; b++, p += t->block_bytes) {
        for (int i = 0; i < t->block_bytes; i++)
            p[i] = fill == FILL_LOW ? 0x80 : fill == FILL_ONES ? 0xff : fill == FILL_ZEROS ? 0 : (uint8_t)kern_rand();
        for (int i = 0; i < 2 && fill != FILL_BYTES; i++)
            if (at[i] >= 0) {
                uint16_t h = some_f16(fill);
                memcpy(p + at[i], &h, sizeof(h));
            }
    }
}

/* One activation column; extreme ones are +127 and -127 only. */
static void fill_column(const struct quant_type *t, void *to, int64_t cols, enum fill fill)
{
    static float x[33024];
    kern_floats(x, (size_t)cols, fill == FILL_SPECIAL ? (enum kern_fill)kern_below(KERN_FILLS) : KERN_PLAIN);
    if (fill == FILL_LOW || fill == FILL_ONES)
        for (int64_t k = 0; k < cols; k++)
            x[k] = fill == FILL_ONES || kern_below(8) ? 1.0f : -1.0f;
    if (t->rule == RULE_FLOAT)
        memcpy(to, x, (size_t)cols * sizeof(float));
    else
        act_quantize_ref(x, cols, to);
}

struct mul_case {
    int rows, cols, n;
    int64_t r0, r1;
    bool indexed;
    enum fill fill;
};

static size_t column_bytes(const struct quant_type *t, int cols)
{
    return t->rule == RULE_FLOAT ? (size_t)cols * sizeof(float) : (size_t)cols / QUANT_GROUP * sizeof(struct act_group);
}

/* The matrix in its layout; *file gets the rows as a file has them. */
static struct mat make_mat(const struct quant_type *t, const struct mul_case *k, uint8_t **file)
{
    size_t row_bytes = quant_row_bytes(t, k->cols);
    uint8_t *rows = kern_mem(row_bytes * (size_t)k->rows, t->layout == LAYOUT_ROWS ? 2 : 1);
    for (int r = 0; r < k->rows; r++)
        fill_row(t, rows + row_bytes * (size_t)r, k->cols, k->fill);
    *file = rows;
    if (t->layout == LAYOUT_ROWS)
        return (struct mat){rows, t, k->rows, k->cols, row_bytes};
    size_t stride = pack_tile_bytes(t, k->cols);
    int tiles = (k->rows + TILE_ROWS - 1) / TILE_ROWS;
    uint8_t *data = kern_mem(stride * (size_t)tiles, 64);
    for (int i = 0; i < tiles; i++) {
        int n = k->rows - i * TILE_ROWS < TILE_ROWS ? k->rows - i * TILE_ROWS : TILE_ROWS;
        pack_tile(t, rows + row_bytes * (size_t)(i * TILE_ROWS), row_bytes, n, k->cols, data + stride * (size_t)i);
    }
    return (struct mat){data, t, k->rows, k->cols, stride};
}

static struct cols make_cols(const struct quant_type *t, const struct mul_case *k)
{
    size_t bytes = column_bytes(t, k->cols);
    int n = k->indexed ? k->n / 2 + 3 : k->n;
    size_t stride = bytes + 4 * (size_t)kern_below(4);
    uint8_t *base = kern_mem(n ? stride * (size_t)(n - 1) + bytes : 4, 4);
    int32_t *index = NULL;
    for (int c = 0; c < n; c++)
        fill_column(t, base + stride * (size_t)c, k->cols, k->fill);
    if (k->indexed) {
        index = kern_mem((size_t)k->n * sizeof(*index) + 4, 4);
        for (int c = 0; c < k->n; c++)
            index[c] = kern_below(n);
    }
    return (struct cols){base, stride, index, k->n};
}

/* What was there before stays between the columns' rows. */
static void check_gaps(const float *y, size_t rows, size_t ldy, int n, const struct mul_case *k)
{
    for (int c = 0; c < n; c++)
        for (size_t r = rows; r < ldy && c + 1 < n; r++)
            if (y[(size_t)c * ldy + r] != 7.0f) {
                kern_fail("%d columns, rows %d..%d: written past the rows", n, (int)k->r0, (int)k->r1);
                return;
            }
}

static void check_rows(const struct mat *w, const uint8_t *file, const struct cols *x, const float *y, size_t ldy,
                       const struct mul_case *k)
{
    for (int c = 0; c < x->n; c++) {
        const void *xc = (const uint8_t *)x->base + (size_t)(x->index ? x->index[c] : c) * x->stride;
        float ref[256];
        int rows = (int)(k->r1 - k->r0);
        for (int r = 0; r < rows; r++)
            ref[r] =
                quant_dot_ref(w->type, file + quant_row_bytes(w->type, w->cols) * (size_t)(k->r0 + r), w->cols, xc);
        kern_f32(ref, y + (size_t)c * ldy, (size_t)rows, "against quant_dot_ref: column %d of %d, cols %d, rows %d..%d",
                 c, x->n, k->cols, (int)k->r0, (int)k->r1);
    }
}

static void run_case(const struct quant_type *t, const struct mul_case *k)
{
    kern_reset();
    uint8_t *file;
    struct mat w = make_mat(t, k, &file);
    struct cols x = make_cols(t, k);
    size_t rows = (size_t)(k->r1 - k->r0), ldy = rows + (size_t)kern_below(3);
    size_t n_y = k->n ? ldy * (size_t)(k->n - 1) + rows : 1;
    struct kern_pair y = kern_pair(n_y * sizeof(float), 4);
    for (size_t i = 0; i < n_y; i++)
        ((float *)y.c)[i] = 7.0f;
    kern_same(y, n_y * sizeof(float));
    kern.c->mul[t->id](&w, k->r0, k->r1, &x, y.c, ldy);
    kern.now->mul[t->id](&w, k->r0, k->r1, &x, y.now, ldy);
    kern_f32(y.c, y.now, n_y, "cols %d, %d columns%s, rows %d..%d of %d, ldy %d, fill %d", k->cols, k->n,
             k->indexed ? " by index" : "", (int)k->r0, (int)k->r1, k->rows, (int)ldy, (int)k->fill);
    check_gaps(y.now, rows, ldy, k->n, k);
    if (kern.c == kern.now)
        check_rows(&w, file, &x, y.c, ldy, k);
}

static struct mul_case some_case(const struct quant_type *t, int cols, int n, int i)
{
    struct mul_case k = {.rows = 1 + kern_below(50), .cols = cols, .n = n, .indexed = i % 3 == 1, .fill = i % FILLS};
    int unit = t->layout == LAYOUT_ROWS ? 1 : TILE_ROWS;
    k.r0 = kern_below((k.rows + unit - 1) / unit) * unit;
    k.r1 = k.r0 + 1 + kern_below(k.rows - (int)k.r0);
    if (i % 4 == 0)
        k.r0 = 0, k.r1 = k.rows;
    return k;
}

static const int widths[] = {32, 64, 96, 128, 160, 256, 288, 512, 768, 2048};
static const int float_widths[] = {1, 2, 3, 7, 15, 16, 17, 31, 33, 64, 100, 259, 1024};
enum { N_WIDTH = sizeof(widths) / sizeof(widths[0]), N_FLOAT_WIDTH = sizeof(float_widths) / sizeof(float_widths[0]) };

static int some_width(const struct quant_type *t, int i)
{
    if (t->rule == RULE_FLOAT)
        return float_widths[i % N_FLOAT_WIDTH];
    while (widths[i % N_WIDTH] % t->block)
        i++;
    return widths[i % N_WIDTH];
}

/* ---- bench: hot, a tile range that stays in the cache; cold, weights of 96 MiB read from one end to the other */

enum { BENCH_COLS = 2048, BENCH_N = 16, BENCH_HOT_ROWS = 128 };
enum { BENCH_COLD_BYTES = 96 << 20 };

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static double bench_once(const struct mat *w, int64_t rows, const struct cols *x, float *y)
{
    double t = seconds();
    for (int64_t r = 0; r < rows; r += BENCH_HOT_ROWS) /* the same y again and again: stores are not the subject */
        kern.now->mul[w->type->id](w, r, rows - r < BENCH_HOT_ROWS ? rows : r + BENCH_HOT_ROWS, x, y, BENCH_HOT_ROWS);
    return seconds() - t;
}

static void bench_cold(const struct quant_type *t, const struct cols *all, float *y)
{
    static const int counts[] = {1, 4, 8, 16};
    static uint8_t *data;
    static uint8_t memory[BENCH_COLD_BYTES + 64];
    size_t row_bytes = quant_row_bytes(t, BENCH_COLS);
    if (!data) {
        data = memory + (64 - (uintptr_t)memory % 64);
        for (size_t i = 0; i + 8 <= BENCH_COLD_BYTES; i += 8)
            memcpy(data + i, &(uint64_t){kern_rand()}, 8);
    }
    struct mat w = {data, t, 0, BENCH_COLS, row_bytes};
    int per = t->layout == LAYOUT_ROWS ? 1 : TILE_ROWS;
    if (per > 1)
        w.stride = pack_tile_bytes(t, BENCH_COLS);
    w.rows = (int64_t)(BENCH_COLD_BYTES / w.stride) * per / BENCH_HOT_ROWS * BENCH_HOT_ROWS;
    for (int i = 0; i < 4; i++) {
        struct cols x = *all;
        x.n = counts[i];
        double best = 1e9;
        for (int rep = 0; rep < 3; rep++) {
            double s = bench_once(&w, w.rows, &x, y);
            best = s < best ? s : best;
        }
        double bytes = (double)w.stride * (double)(w.rows / per);
        printf("mul_%s M=%d cold %-26s %-8s %12.1f GB/s %8.1f GOP/s\n", t->name, x.n, "", kern.level,
               bytes / best * 1e-9, 2.0 * (double)w.rows * BENCH_COLS * x.n / best * 1e-9);
    }
}

static void bench_mul(const struct quant_type *t)
{
    static const int counts[] = {1, 2, 4, 8, 12, 16};
    struct mul_case k = {.rows = BENCH_HOT_ROWS, .cols = BENCH_COLS, .n = BENCH_N, .fill = FILL_PLAIN};
    uint8_t *file;
    struct mat w = make_mat(t, &k, &file);
    struct cols x = make_cols(t, &k);
    float *y = kern_mem((size_t)BENCH_HOT_ROWS * BENCH_N * sizeof(float), 64);
    for (int i = 0; i < 6; i++) {
        char what[64];
        x.n = counts[i];
        snprintf(what, sizeof(what), "M=%d, %d x %d", x.n, BENCH_HOT_ROWS, BENCH_COLS);
        KERN_BENCH(what, kern.now->mul[t->id](&w, 0, BENCH_HOT_ROWS, &x, y, BENCH_HOT_ROWS));
    }
    if (kern.now != kern.c)
        bench_cold(t, &x, y);
}

static void test_mul(int id)
{
    const struct quant_type *t = quant_type_find(id);
    if (kern.bench) {
        bench_mul(t);
        return;
    }
    int i = 0;
    for (int n = 0; n <= 33; n++, i++) {
        struct mul_case k = some_case(t, some_width(t, i), n, i);
        run_case(t, &k);
    }
    for (int w = 0; w < N_WIDTH + N_FLOAT_WIDTH; w++, i++) {
        int n = 1 + kern_below(6);
        struct mul_case k = some_case(t, some_width(t, w), n, kern_below(1000));
        run_case(t, &k);
    }
    static const int many[] = {48, 63, 64, 65, 128, 130};
    for (int j = 0; j < 6; j++, i++) {
        struct mul_case k = some_case(t, some_width(t, 2 * j), many[j], i);
        if (k.cols * many[j] > 40000)
            k.cols = t->block < 256 ? some_width(t, 1) : 256;
        run_case(t, &k);
    }
    static const int longer[][2] = {{16, 4352}, {13, 4864}, {7, 9472}, {2, 16640}, {1, 33024}};
    for (int j = 0; j < 5 && t->rule != RULE_FLOAT; j++, i++) { /* more than kernels take in one pass */
        struct mul_case k = some_case(t, longer[j][1], longer[j][0], i);
        run_case(t, &k);
    }
}

static const struct kern_test test[] = {
#define QUANT_TYPE(name, id, block, bytes, rule, layout) \
    {"mul_" #name, offsetof(struct simd_ops, mul) + (id) * sizeof(mul_fn *), test_mul, id},
#include "quant/types.def"
#undef QUANT_TYPE
};

const struct kern_family kern_mul_family = {"mul", test, sizeof(test) / sizeof(test[0])};
