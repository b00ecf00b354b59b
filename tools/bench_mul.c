/* SPDX-License-Identifier: MIT */
/* Matrix products of every type for quern bench --kernels: with 1, 4, 8 and 16 columns; hot, a set of tiles that stays in the second-level
 * cache, and from memory, a matrix larger than all caches read from one end to the other in the pieces that the engine takes. */
#include "bench_bounds.h"
#include "bench_kernels.h"
#include "bench_limits.h"
#include "term.h"

#include "src/base.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { HOT_ROWS = 64, COLS = 2048, MAX_COLUMNS = 16, STRIDE = COLS / QUANT_GROUP + 1, REPEATS = 3 };
static const size_t LEAST_BYTES = (size_t)96 << 20, MOST_BYTES = (size_t)1 << 30;

struct product {
    const struct simd_ops *ops;
    struct mat w;
    struct act_group *act; /* [MAX_COLUMNS][STRIDE], an odd number of lines apart as in the engine */
    float *x; /* [MAX_COLUMNS][COLS] */
    float *y; /* [MAX_COLUMNS][HOT_ROWS] */
    uint8_t *memory; /* [memory_bytes] */
    size_t memory_bytes;
    int n; /* columns */
};

static struct cols columns_of(const struct product *p)
{
    if (p->w.type->rule == RULE_FLOAT)
        return (struct cols){.base = p->x, .stride = COLS * sizeof(float), .n = p->n};
    return (struct cols){.base = p->act, .stride = STRIDE * sizeof(struct act_group), .n = p->n};
}

/* All rows, in pieces: the same y again and again, since stores are not the subject. */
static void multiply(void *arg)
{
    struct product *p = arg;
    struct cols x = columns_of(p);
    for (int64_t r = 0; r < p->w.rows; r += HOT_ROWS)
        p->ops->mul[p->w.type->id](&p->w, r, r + HOT_ROWS, &x, p->y, HOT_ROWS);
}

/* ---- weights */

static bool good_scale(float v)
{
    v = fabsf(v);
    return v >= 0x1p-20f && v <= 0x1p10f;
}

/* A random block whose scales are such as weights have: neither infinite nor so small that products become denormal. */
static void random_block(const struct quant_type *type, uint8_t *block)
{
    struct quant_group g;
    for (bool good = false; !good;) {
        for (int i = 0; i < type->block_bytes; i++)
            block[i] = (uint8_t)(kernel_random() >> 24);
        good = true;
        for (int i = 0; good && type->group && i < type->block / QUANT_GROUP; i++) {
            type->group(block, i, &g);
            good = good_scale(g.d[0]) && good_scale(g.d[1]) && isfinite(g.m[0]) && isfinite(g.m[1]);
        }
    }
}

static void random_row(const struct quant_type *type, uint8_t *row)
{
    for (int c = 0; c < COLS; c += type->block) {
        uint8_t *block = row + (size_t)(c / type->block) * (size_t)type->block_bytes;
        float v = (float)((int)(kernel_random() >> 24) - 128) * 0x1p-7f;
        uint16_t half = f32_to_f16(v);
        uint32_t bits;
        memcpy(&bits, &v, sizeof bits);
        if (type->rule != RULE_FLOAT)
            random_block(type, block);
        else if (type->block_bytes == 4)
            memcpy(block, &v, 4);
        else if (type->id == QN_F16)
            memcpy(block, &half, 2);
        else
            memcpy(block, &(uint16_t){(uint16_t)(bits >> 16)}, 2);
    }
}

static int rows_of_stride(const struct quant_type *type) { return type->layout == LAYOUT_ROWS ? 1 : TILE_ROWS; }

/* HOT_ROWS rows, packed, at the beginning of the memory. */
static void make_weights(struct product *p, const struct quant_type *type)
{
    size_t row = quant_row_bytes(type, COLS);
    int per = rows_of_stride(type);
    uint8_t *rows = xmalloc(row * HOT_ROWS);
    p->w = (struct mat){.data = p->memory, .type = type, .rows = HOT_ROWS, .cols = COLS};
    p->w.stride = per == 1 ? row : pack_tile_bytes(type, COLS);
    for (int r = 0; r < HOT_ROWS; r++)
        random_row(type, rows + (size_t)r * row);
    for (int t = 0; t < HOT_ROWS / per; t++)
        if (per == 1)
            memcpy(p->memory + (size_t)t * row, rows + (size_t)t * row, row);
        else
            pack_tile(type, rows + (size_t)(t * per) * row, row, per, COLS, p->memory + (size_t)t * p->w.stride);
    free(rows);
}

/* The same rows again and again until the memory is full. */
static void fill_memory(struct product *p)
{
    size_t piece = p->w.stride * (size_t)(HOT_ROWS / rows_of_stride(p->w.type)), at = piece;
    for (; at + piece <= p->memory_bytes; at += piece)
        memcpy(p->memory + at, p->memory, piece);
    p->w.rows = (int64_t)(at / piece) * HOT_ROWS;
}

static double matrix_bytes(const struct product *p)
{
    return (double)p->w.stride * (double)p->w.rows / rows_of_stride(p->w.type);
}

/* ---- measuring */

/* Bytes a second of weights when a group takes this many cycles, but not more than memory gives; 0 where that is not known. */
static double bound(const struct product *p, const char *level, double cycles, bool streaming)
{
    double issue = cycles > 0 ? bound_bytes(p->w.type) / cycles * bound_rate(level) : 0;
    double read = streaming && issue > 0 ? bench_limits(1, level)->bytes_s : 0;
    return read > 0 && read < issue ? read : issue;
}

static void time_levels(struct levels *l, struct product *p, const char *name, bool streaming)
{
    double c_s = -1, slots = bound_slots(p->w.type, p->n), cycles = bound_cycles(p->w.type, p->n);
    for (int i = l->n - 1; i >= 0; i--) { /* C first since it is the measure; from memory it takes too long */
        bool is_c = i == l->n - 1;
        if (is_c && streaming && l->n > 1)
            continue;
        p->ops = &l->ops[i];
        double s = 1e30;
        for (int r = 0; r < (streaming ? 1 : REPEATS); r++) {
            double t = kernel_time(multiply, p);
            s = t < s ? t : s;
            if (is_c)
                break;
        }
        c_s = is_c && !streaming ? s : c_s;
        kernel_print(l, &(struct kernel_figure){.op = name,
                                                .level = l->names[i],
                                                .own = p->ops->mul_level[p->w.type->id],
                                                .data = streaming ? "memory" : "hot",
                                                .n = p->n,
                                                .bytes_s = matrix_bytes(p) / s,
                                                .bound_bytes_s = bound(p, l->names[i], slots, streaming),
                                                .pipes_bytes_s = bound(p, l->names[i], cycles, streaming),
                                                .times_c = c_s > 0 ? c_s / s : 0});
    }
}

static void time_type(struct levels *l, struct product *p, const struct quant_type *type)
{
    static const int counts[] = {1, 4, 8, 16};
    char name[40];
    snprintf(name, sizeof name, "mul %s", type->name);
    if (!kernel_wanted(l, name))
        return;
    for (int streaming = 0; streaming < 2; streaming++) {
        make_weights(p, type);
        if (streaming)
            fill_memory(p);
        for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
            p->n = counts[i];
            time_levels(l, p, name, streaming);
        }
    }
}

void kernel_products(struct levels *l)
{
    long cache = sysconf(_SC_LEVEL3_CACHE_SIZE);
    struct product p = {.memory_bytes = LEAST_BYTES};
    if (cache > 0 && 3 * (size_t)cache > LEAST_BYTES)
        p.memory_bytes = 3 * (size_t)cache < MOST_BYTES ? 3 * (size_t)cache : MOST_BYTES;
    p.x = kernel_floats(MAX_COLUMNS * COLS);
    p.y = xmalloc(MAX_COLUMNS * HOT_ROWS * sizeof *p.y);
    p.act = aligned_alloc(64, MAX_COLUMNS * STRIDE * sizeof *p.act);
    p.memory = mem_reserve(p.memory_bytes, true); /* huge pages, as weights lie in */
    if (!p.act || !p.memory)
        die("out of memory");
    for (int i = 0; i < MAX_COLUMNS; i++)
        act_quantize_ref(p.x + i * COLS, COLS, p.act + i * STRIDE);
    for (int id = 0; id < QN_TYPE_LIMIT; id++)
        if (quant_type_find(id))
            time_type(l, &p, quant_type_find(id));
    free(p.x);
    free(p.y);
    free(p.act);
    mem_release(p.memory, p.memory_bytes);
}
