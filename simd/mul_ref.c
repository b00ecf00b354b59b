/* SPDX-License-Identifier: MIT */
/* Matrix products in plain C: the specification of every mul kernel.  A tile row is taken back to file blocks, each block to
 * groups of exact integers, and the dot rule (quant.h) is applied per column.  Any type, no speed. */
#include "simd/mul.h"

#include <math.h>
#include <string.h>

enum { REF_COLS = 16 }; /* columns that share one unpacking */

static float ref_apply(enum quant_rule rule, const struct quant_group *g, const struct act_group *a, float acc)
{
    int32_t half[2];
    for (int h = 0; h < 2; h++) {
        int32_t sum = 0;
        for (int i = 16 * h; i < 16 * h + 16; i++)
            sum += g->w[i] * a->q[i];
        half[h] = sum;
    }
    switch (rule) {
    case RULE_TWO:
        acc = fmaf(g->d[0] * a->d, (float)half[0], acc);
        return fmaf(g->d[1] * a->d, (float)half[1], acc);
    case RULE_SUB:
    case RULE_SUB_MIN:
        acc = fmaf(g->d[0] * a->d, (float)(g->sub[0] * half[0] + g->sub[1] * half[1]), acc);
        if (rule == RULE_SUB)
            return acc;
        acc = fmaf(g->m[0], a->dsum16[0], acc);
        return fmaf(g->m[1], a->dsum16[1], acc);
    default:
        acc = fmaf(g->d[0] * a->d, (float)(half[0] + half[1]), acc);
        return rule == RULE_MIN ? fmaf(g->m[0], a->dsum, acc) : acc;
    }
}

/* Row `row` of a tile times n <= REF_COLS columns from c0 on. */
static void ref_row_int(const struct mat *w, const uint8_t *tile, int row, const struct cols *x, int c0, int n,
                        float acc[REF_COLS])
{
    const struct quant_type *t = w->type;
    int groups = t->block / QUANT_GROUP;
    uint8_t block[QUANT_BLOCK_BYTES_MAX];
    struct quant_group g;
    memset(acc, 0, REF_COLS * sizeof(*acc));
    for (int64_t b = 0; b < w->cols / t->block; b++) {
        unpack_blocks(t, tile, w->cols, row, b, 1, block);
        for (int i = 0; i < groups; i++) {
            t->group(block, i, &g);
            for (int c = 0; c < n; c++)
                acc[c] = ref_apply(t->rule, &g, (const struct act_group *)cols_at(x, c0 + c) + b * groups + i, acc[c]);
        }
    }
}

static void mul_tiles_ref(const struct mat *w, int64_t r0, int64_t r1, const struct cols *x, float *y, size_t ldy)
{
    float acc[REF_COLS];
    for (int64_t r = r0; r < r1; r++) {
        const uint8_t *tile = w->data + (size_t)(r / TILE_ROWS) * w->stride;
        for (int c0 = 0; c0 < x->n; c0 += REF_COLS) {
            int n = x->n - c0 < REF_COLS ? x->n - c0 : REF_COLS;
            ref_row_int(w, tile, (int)(r % TILE_ROWS), x, c0, n, acc);
            for (int c = 0; c < n; c++)
                y[(size_t)(c0 + c) * ldy + (size_t)(r - r0)] = acc[c];
        }
    }
}

static float ref_fold(float p[16])
{
    for (int n = 8; n > 0; n /= 2)
        for (int l = 0; l < n; l++)
            p[l] += p[l + n];
    return p[0];
}

/* One row of floats times n <= REF_COLS columns: 16 partial sums each, columns past the end as zeros. */
static void ref_row_float(const struct mat *w, const uint8_t *row, const struct cols *x, int c0, int n,
                          float acc[REF_COLS])
{
    float p[REF_COLS][16] = {{0}};
    for (int64_t k = 0; k < w->cols; k += 16) {
        int len = w->cols - k < 16 ? (int)(w->cols - k) : 16;
        float v[16] = {0};
        w->type->decode(row + (size_t)k * (size_t)w->type->block_bytes, v, len);
        for (int c = 0; c < n; c++) {
            const float *xc = (const float *)cols_at(x, c0 + c) + k;
            for (int l = 0; l < 16; l++)
                p[c][l] = fmaf(v[l], l < len ? xc[l] : 0.0f, p[c][l]);
        }
    }
    for (int c = 0; c < n; c++)
        acc[c] = ref_fold(p[c]);
}

static void mul_rows_ref(const struct mat *w, int64_t r0, int64_t r1, const struct cols *x, float *y, size_t ldy)
{
    float acc[REF_COLS];
    for (int64_t r = r0; r < r1; r++)
        for (int c0 = 0; c0 < x->n; c0 += REF_COLS) {
            int n = x->n - c0 < REF_COLS ? x->n - c0 : REF_COLS;
            ref_row_float(w, w->data + (size_t)r * w->stride, x, c0, n, acc);
            for (int c = 0; c < n; c++)
                y[(size_t)(c0 + c) * ldy + (size_t)(r - r0)] = acc[c];
        }
}

void fill_mul_c(struct simd_ops *ops)
{
#define QUANT_TYPE(name, id, block, bytes, rule, layout) \
    ops->mul[id] = LAYOUT_##layout == LAYOUT_ROWS ? mul_rows_ref : mul_tiles_ref; \
    ops->mul_level[id] = "c";
#include "quant/types.def"
#undef QUANT_TYPE
}
