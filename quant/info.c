/* SPDX-License-Identifier: MIT */
/* The table of types, made from types.def, decoding, and the reference of the dot rule.
 * The products of a format's fields are exact in f32, so that (d * sub) * w, then + m where the rule has a minimum, gives
 * the reference decoders' bits, signed zeros included. */
#include "quant/blocks.h"

#include <math.h>

static bool rule_has_min(enum quant_rule rule) { return rule == RULE_MIN || rule == RULE_SUB_MIN; }

typedef void group_fn(const void *block, int g, struct quant_group *out);

static inline void decode_groups(group_fn *group, int block, int block_bytes, bool has_min, const uint8_t *p, float *y,
                                 int64_t n_blocks)
{
    for (int64_t b = 0; b < n_blocks; b++, p += block_bytes) {
        for (int g = 0; g < block / QUANT_GROUP; g++, y += QUANT_GROUP) {
            struct quant_group q;
            group(p, g, &q);
            for (int i = 0; i < QUANT_GROUP; i++) {
                int h = i / 16;
                float v = q.d[h] * (float)q.sub[h] * (float)q.w[i];
                y[i] = has_min ? v + q.m[h] : v;
            }
        }
    }
}

#define QUANT_TYPE(name_, id_, block_, bytes_, rule_, layout_) \
    INT_RULE_##rule_(static void decode_##name_(const void *blocks, float *y, int64_t n_blocks) { \
        decode_groups(group_##name_, block_, bytes_, rule_has_min(RULE_##rule_), blocks, y, n_blocks); \
    })
#include "quant/types.def"
#undef QUANT_TYPE

static const struct quant_type types[QN_TYPE_LIMIT] = {
#define QUANT_TYPE(name_, id_, block_, bytes_, rule_, layout_) \
    [id_] = {.name = #name_, \
             .id = QN_##name_, \
             .block = block_, \
             .block_bytes = bytes_, \
             .rule = RULE_##rule_, \
             .layout = LAYOUT_##layout_, \
             .decode = decode_##name_, \
             INT_RULE_##rule_(.group = group_##name_)},
#include "quant/types.def"
#undef QUANT_TYPE
};

const struct quant_type *quant_type_find(int id)
{
    return id >= 0 && id < QN_TYPE_LIMIT && types[id].name ? &types[id] : NULL;
}

/* ASCII only: type names must not depend on the locale. */
static bool name_equal(const char *a, const char *b)
{
    for (;; a++, b++) {
        int x = *a >= 'a' && *a <= 'z' ? *a - 32 : *a;
        int y = *b >= 'a' && *b <= 'z' ? *b - 32 : *b;
        if (x != y)
            return false;
        if (!x)
            return true;
    }
}

const struct quant_type *quant_type_by_name(const char *name)
{
    for (int id = 0; id < QN_TYPE_LIMIT; id++)
        if (types[id].name && name_equal(types[id].name, name))
            return &types[id];
    return NULL;
}

/* ---- the dot rule */

static float dot_float(const struct quant_type *t, const uint8_t *row, int64_t cols, const float *x)
{
    float p[16] = {0};
    for (int64_t k = 0; k < cols; k += 16) {
        float w[16] = {0}, a[16] = {0};
        int n = cols - k < 16 ? (int)(cols - k) : 16;
        t->decode(row + (size_t)k * (size_t)t->block_bytes, w, n);
        memcpy(a, x + k, (size_t)n * sizeof *a);
        for (int l = 0; l < 16; l++)
            p[l] = fmaf(w[l], a[l], p[l]);
    }
    for (int n = 8; n > 0; n /= 2)
        for (int l = 0; l < n; l++)
            p[l] += p[l + n];
    return p[0];
}

static float dot_group(enum quant_rule rule, const struct quant_group *w, const struct act_group *a, float acc)
{
    int32_t sum[2] = {0, 0};
    for (int i = 0; i < QUANT_GROUP; i++)
        sum[i / 16] += w->w[i] * a->q[i];
    if (rule == RULE_TWO) {
        acc = fmaf(w->d[0] * a->d, (float)sum[0], acc);
        return fmaf(w->d[1] * a->d, (float)sum[1], acc);
    }
    acc = fmaf(w->d[0] * a->d, (float)(w->sub[0] * sum[0] + w->sub[1] * sum[1]), acc);
    if (rule == RULE_MIN)
        return fmaf(w->m[0], a->dsum, acc);
    if (rule == RULE_SUB_MIN) {
        acc = fmaf(w->m[0], a->dsum16[0], acc);
        return fmaf(w->m[1], a->dsum16[1], acc);
    }
    return acc;
}

float quant_dot_ref(const struct quant_type *t, const void *row, int64_t cols, const void *x)
{
    if (t->rule == RULE_FLOAT)
        return dot_float(t, row, cols, x);
    const uint8_t *block = row;
    const struct act_group *a = x;
    float acc = 0;
    for (int64_t b = 0; b < cols / t->block; b++, block += t->block_bytes) {
        for (int g = 0; g < t->block / QUANT_GROUP; g++) {
            struct quant_group w;
            t->group(block, g, &w);
            acc = dot_group(t->rule, &w, a++, acc);
        }
    }
    return acc;
}
