/* SPDX-License-Identifier: MIT */
/* Block formats: decoded values bit for bit against reference data (a few blocks of each type in tests/data/quant, all of
 * them where QUERN_ORACLE points), the groups of the dot rule, the dot rule itself on cases worked out by hand, activations,
 * half floats. */
#include "quant/quant.h"
#include "testing.h"

#include <jansson.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static uint32_t bits_of(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

static float float_of(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

#define assert_same_float(a, b) assert_int_equal(bits_of(a), bits_of(b))

static uint8_t *read_file(const char *path, size_t *size)
{
    char *data = test_read(path, size);
    if (!data)
        fail_msg("%s: cannot be read", path);
    return (uint8_t *)data;
}

/* ---- decode and group against reference values */

/* Every group of the blocks: the fields obey the rule's form, and exact arithmetic on them, rounded once, is the value. */
static void compare_groups(const struct quant_type *t, const uint8_t *blocks, int64_t n_blocks, const float *want)
{
    bool has_min = t->rule == RULE_MIN || t->rule == RULE_SUB_MIN,
         has_sub = t->rule == RULE_SUB || t->rule == RULE_SUB_MIN;
    for (int64_t k = 0; k < n_blocks * t->block; k++) {
        struct quant_group q;
        int i = (int)(k % QUANT_GROUP), h = i / 16;
        t->group(blocks + k / t->block * t->block_bytes, (int)(k % t->block / QUANT_GROUP), &q);
        double value = (double)q.sub[h] * (double)q.d[h] * q.w[i] + (double)q.m[h];
        if ((double)want[k] != (double)(float)value)
            fail_msg("%s: weight %lld: group gives %a, want %a", t->name, (long long)k, value, (double)want[k]);
        if (!has_sub)
            assert_true(q.sub[0] == 1 && q.sub[1] == 1);
        if (!has_min)
            assert_true(bits_of(q.m[0]) == 0 && bits_of(q.m[1]) == 0);
        if (t->rule == RULE_MIN)
            assert_same_float(q.m[0], q.m[1]);
        if (t->rule != RULE_TWO)
            assert_same_float(q.d[0], q.d[1]);
    }
}

/* blocks of n bytes decode to want, bit for bit. */
static void compare_blocks(const struct quant_type *t, const char *kind, const uint8_t *blocks, size_t bytes,
                           const float *want, size_t want_bytes)
{
    int64_t n_blocks = (int64_t)(bytes / (size_t)t->block_bytes);
    size_t n = (size_t)(n_blocks * t->block);
    assert_int_equal(bytes % (size_t)t->block_bytes, 0);
    assert_int_equal(want_bytes, n * sizeof *want);
    float *y = malloc(n * sizeof *y);
    assert_non_null(y);
    t->decode(blocks, y, n_blocks);
    for (size_t i = 0; i < n; i++)
        if (bits_of(y[i]) != bits_of(want[i]))
            fail_msg("%s, %s blocks: value %zu is %08x, want %08x", t->name, kind, i, bits_of(y[i]), bits_of(want[i]));
    if (t->group)
        compare_groups(t, blocks, n_blocks, want);
    else
        assert_int_equal(t->rule, RULE_FLOAT);
    free(y);
}

/* One set of reference blocks of tests/data. */
struct block_set {
    const struct quant_type *type;
    char kind[16];
    size_t n_blocks; /* of the type: F16 and BF16, whose sets are blocks of 32 values, count each value */
    const uint8_t *blocks;
    float *values;
};

static struct {
    struct block_set set[2 * QN_TYPE_LIMIT];
    int n;
    uint8_t *data;
} goldens;

static int load_goldens(void **state)
{
    char name[16];
    size_t size, text_size, at = 0, n, bytes, value_bytes;
    goldens.data = read_file(test_data("quant/blocks.bin"), &size);
    char *text = (char *)read_file(test_data("quant/blocks.txt"), &text_size);
    struct block_set *g = goldens.set;
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n"), g++) {
        assert_true(g < goldens.set + 2 * QN_TYPE_LIMIT);
        assert_int_equal(sscanf(line, "%15s %15s %zu %zu %zu", name, g->kind, &n, &bytes, &value_bytes), 5);
        g->type = quant_type_by_name(name);
        if (!g->type)
            fail_msg("blocks.txt: unknown type %s", name);
        g->n_blocks = bytes / (size_t)g->type->block_bytes;
        assert_int_equal(value_bytes, g->n_blocks * (size_t)g->type->block * sizeof(float));
        assert_true(at + bytes + value_bytes <= size);
        g->blocks = goldens.data + at;
        g->values = malloc(value_bytes);
        assert_non_null(g->values);
        memcpy(g->values, goldens.data + at + bytes, value_bytes);
        at += bytes + value_bytes;
    }
    assert_int_equal(at, size);
    goldens.n = (int)(g - goldens.set);
    free(text);
    return 0;
}

static int free_goldens(void **state)
{
    for (int i = 0; i < goldens.n; i++)
        free(goldens.set[i].values);
    free(goldens.data);
    return 0;
}

static void test_decode_golden(void **state)
{
    int real[QN_TYPE_LIMIT] = {0}, random[QN_TYPE_LIMIT] = {0};
    for (int i = 0; i < goldens.n; i++) {
        const struct block_set *g = &goldens.set[i];
        size_t n = g->n_blocks * (size_t)g->type->block;
        compare_blocks(g->type, g->kind, g->blocks, g->n_blocks * (size_t)g->type->block_bytes, g->values, 4 * n);
        (strcmp(g->kind, "real") ? random : real)[g->type->id]++;
    }
    for (int id = 1; id < QN_TYPE_LIMIT; id++) {
        const struct quant_type *t = quant_type_find(id);
        if (t && (real[id] != 1 || random[id] != (t->rule != RULE_FLOAT)))
            fail_msg("%s: %d real and %d random sets of blocks", t->name, real[id], random[id]);
    }
}

static void compare_oracle(const struct quant_type *t, const char *kind, const char *raw, const char *f32,
                           size_t n_values)
{
    char name[64];
    size_t bytes, want_bytes;
    assert_true(raw && f32);
    snprintf(name, sizeof name, "quant/%s", raw);
    uint8_t *blocks = read_file(test_oracle(name), &bytes);
    snprintf(name, sizeof name, "quant/%s", f32);
    float *want = (float *)read_file(test_oracle(name), &want_bytes);
    assert_int_equal(want_bytes, 4 * n_values);
    compare_blocks(t, kind, blocks, bytes, want, want_bytes);
    free(blocks);
    free(want);
}

static void test_decode_oracle(void **state)
{
    const char *path = test_oracle("quant/index.json"), *name;
    if (!path)
        skip();
    json_error_t error;
    json_t *index = json_load_file(path, 0, &error), *info;
    if (!index)
        fail_msg("%s: %s", path, error.text);
    int n_sets = 0;
    json_object_foreach(index, name, info)
    {
        const struct quant_type *t = quant_type_by_name(name);
        if (!t)
            fail_msg("index.json: unknown type %s", name);
        int block = (int)json_integer_value(json_object_get(info, "block_size"));
        size_t n = (size_t)block * (size_t)json_integer_value(json_object_get(info, "n_blocks"));
        assert_int_equal(t->id, json_integer_value(json_object_get(info, "ggml_type")));
        assert_int_equal(block % t->block, 0);
        assert_int_equal(block / t->block * t->block_bytes, json_integer_value(json_object_get(info, "type_size")));
        compare_oracle(t, "real", json_string_value(json_object_get(info, "raw")),
                       json_string_value(json_object_get(info, "f32")), n);
        n_sets++;
        if (t->rule == RULE_FLOAT)
            continue;
        compare_oracle(t, "random", json_string_value(json_object_get(info, "rand_raw")),
                       json_string_value(json_object_get(info, "rand_f32")), n);
        n_sets++;
    }
    json_decref(index);
    assert_int_equal(n_sets, 52);
}

/* Scales that are not finite reach the values: nothing may turn them into numbers. */
static void test_decode_not_finite(void **state)
{
    static const struct {
        enum qn_type type;
        int at; /* of an f16 scale */
    } cases[] = {{QN_Q4_0, 0},    {QN_Q4_1, 0},  {QN_Q4_1, 2},   {QN_Q5_0, 0},    {QN_Q5_1, 0},   {QN_Q5_1, 2},
                 {QN_Q8_0, 0},    {QN_Q2_K, 80}, {QN_Q2_K, 82},  {QN_Q3_K, 108},  {QN_Q4_K, 0},   {QN_Q4_K, 2},
                 {QN_Q5_K, 0},    {QN_Q5_K, 2},  {QN_Q6_K, 208}, {QN_IQ2_XXS, 0}, {QN_IQ2_XS, 0}, {QN_IQ2_S, 0},
                 {QN_IQ3_XXS, 0}, {QN_IQ3_S, 0}, {QN_IQ1_S, 0},  {QN_IQ4_NL, 0},  {QN_IQ4_XS, 0}, {QN_TQ1_0, 52},
                 {QN_TQ2_0, 64},  {QN_Q1_0, 0},  {QN_Q2_0, 0}};
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        const struct quant_type *t = quant_type_find((int)cases[c].type);
        for (int sign = 0; sign < 2; sign++) {
            for (int nan = 0; nan < 2; nan++) {
                uint8_t block[QUANT_BLOCK_BYTES_MAX];
                float y[QUANT_BLOCK_MAX];
                struct act_group x[QUANT_BLOCK_MAX / QUANT_GROUP];
                float ones[QUANT_BLOCK_MAX];
                memset(block, 0x11, sizeof block);
                block[cases[c].at] = (uint8_t)nan;
                block[cases[c].at + 1] = (uint8_t)(0x7c | sign << 7);
                t->decode(block, y, 1);
                for (int k = 0; k < t->block; k++) {
                    ones[k] = 1;
                    if (isfinite(y[k]) || (nan && !isnan(y[k])))
                        fail_msg("%s: scale at %d: weight %d is %a", t->name, cases[c].at, k, (double)y[k]);
                }
                act_quantize_ref(ones, t->block, x);
                assert_false(isfinite(quant_dot_ref(t, block, t->block, x)));
            }
        }
    }
}

/* The exponents of the four-bit float formats at their ends; code 1 is half a unit, code 15 minus six. */
static void test_decode_exponents(void **state)
{
    static const struct {
        uint8_t e;
        float half;
    } mx[] = {{0, 0x1p-128f}, {1, 0x1p-127f},  {2, 0x1p-126f}, {127, 0.5f},
              {128, 1.0f},    {254, 0x1p126f}, {255, 0x1p127f}},
      nv[] = {{0, 0},       {1, 0x1p-10f}, {7, 0x7p-10f}, {8, 0x1p-7f}, {9, 0x9p-10f},
              {0x38, 0.5f}, {0x7e, 224},   {0x7f, 0},     {0xff, 240},  {0x81, 0x1p-10f}};
    float y[64];
    for (size_t c = 0; c < sizeof mx / sizeof *mx; c++) {
        uint8_t block[17] = {mx[c].e, 0xf1};
        quant_type_find(QN_MXFP4)->decode(block, y, 1);
        assert_same_float(y[0], mx[c].half);
        assert_same_float(y[16], -12 * mx[c].half);
        assert_same_float(y[1], 0.0f);
    }
    for (size_t c = 0; c < sizeof nv / sizeof *nv; c++) {
        uint8_t block[36] = {[2] = nv[c].e, [4 + 16] = 0xf1};
        quant_type_find(QN_NVFP4)->decode(block, y, 1);
        assert_same_float(y[32], nv[c].half);
        assert_same_float(y[40], -12 * nv[c].half);
    }
}

static void test_types_lookup(void **state)
{
    static const int ids[] = {0,  1,  2,  3,  6,  7,  8,  10, 11, 12, 13, 14, 16, 17,
                              18, 19, 20, 21, 22, 23, 29, 30, 34, 35, 39, 40, 41, 42};
    size_t n = 0;
    for (int id = -2; id < 200; id++) {
        const struct quant_type *t = quant_type_find(id);
        if (!t)
            continue;
        assert_true(n < sizeof ids / sizeof *ids);
        assert_int_equal(id, ids[n++]);
        assert_int_equal((int)t->id, id);
        assert_ptr_equal(quant_type_by_name(t->name), t);
        assert_non_null(t->decode);
        assert_true(t->block <= QUANT_BLOCK_MAX && t->block_bytes <= QUANT_BLOCK_BYTES_MAX);
        assert_true((t->rule == RULE_FLOAT) == (t->group == NULL));
        assert_true((t->rule == RULE_FLOAT) == (t->layout == LAYOUT_ROWS));
        if (t->group)
            assert_int_equal(t->block % QUANT_GROUP, 0);
    }
    assert_int_equal(n, sizeof ids / sizeof *ids);
    assert_ptr_equal(quant_type_by_name("q4_k"), quant_type_find(QN_Q4_K));
    assert_ptr_equal(quant_type_by_name("iQ2_xXs"), quant_type_find(QN_IQ2_XXS));
    assert_null(quant_type_by_name("Q4_"));
    assert_null(quant_type_by_name("Q4_KX"));
    assert_null(quant_type_by_name(""));
    assert_null(quant_type_find(-2147483647 - 1));
    assert_null(quant_type_find(2147483647));
    assert_int_equal(quant_row_bytes(quant_type_find(QN_Q6_K), 2048), 1680);
}

/* ---- half floats */

/* The value of a finite half from its definition. */
static double half_value(unsigned h)
{
    int exponent = (int)(h >> 10 & 31), mantissa = (int)(h & 0x3ff);
    double v = exponent ? ldexp(1024 + mantissa, exponent - 25) : ldexp(mantissa, -24);
    return h >> 15 ? -v : v;
}

static void test_f16_all(void **state)
{
    for (unsigned h = 0; h < 0x10000; h++) {
        float f = f16_to_f32((uint16_t)h);
        if ((h & 0x7fff) > 0x7c00) { /* NaN: payload kept, quiet */
            assert_int_equal(bits_of(f), (h & 0x8000) << 16 | 0x7fc00000 | (h & 0x3ff) << 13);
            assert_int_equal(f32_to_f16(f), h | 0x200);
            assert_int_equal(f32_to_f16(float_of((h & 0x8000) << 16 | 0x7f800000 | (h & 0x3ff) << 13)), h | 0x200);
            continue;
        }
        if ((h & 0x7fff) == 0x7c00)
            assert_int_equal(bits_of(f), (h & 0x8000) << 16 | 0x7f800000);
        else
            assert_int_equal(bits_of(f), bits_of((float)half_value(h)));
        assert_int_equal(f32_to_f16(f), h);
    }
}

/* Between neighbours: the exact middle goes to the even one, a hair to either side goes there. */
static void test_f16_rounding(void **state)
{
    for (unsigned h = 0; h < 0x7c00; h++) {
        double next = h == 0x7bff ? 65536.0 : half_value(h + 1);
        float middle = (float)((half_value(h) + next) / 2);
        for (unsigned sign = 0; sign < 0x10000; sign += 0x8000) {
            float s = sign ? -1.0f : 1.0f;
            assert_int_equal(f32_to_f16(s * middle), sign | (h & 1 ? h + 1 : h));
            assert_int_equal(f32_to_f16(s * nextafterf(middle, 0)), sign | h);
            assert_int_equal(f32_to_f16(s * nextafterf(middle, 1e9f)), sign | (h + 1));
        }
    }
    assert_int_equal(f32_to_f16(1e-45f), 0);
    assert_int_equal(f32_to_f16(-1e-45f), 0x8000);
    assert_int_equal(f32_to_f16(3.4e38f), 0x7c00);
    assert_int_equal(f32_to_f16(-65536.0f), 0xfc00);
    assert_int_equal(f32_to_f16(float_of(0x7f800001)), 0x7e00);
    assert_int_equal(f32_to_f16(float_of(0xff80dead)), 0xfe00 | 0x0dead >> 13);
    assert_same_float(bf16_to_f32(0x8000), -0.0f);
    assert_same_float(bf16_to_f32(0x3fc0), 1.5f);
}

/* ---- activations */

static struct act_group quantize_one(const float *x)
{
    struct act_group a;
    memset(&a, 0xa5, sizeof a);
    act_quantize_ref(x, QUANT_GROUP, &a);
    return a;
}

static void assert_zero_group(const struct act_group *a)
{
    struct act_group zero = {0};
    assert_memory_equal(a, &zero, sizeof zero);
}

static void test_act_scale(void **state)
{
    float x[QUANT_GROUP];
    for (int i = 0; i < QUANT_GROUP; i++)
        x[i] = (float)(i - 20);
    x[3] = -127;
    struct act_group a = quantize_one(x);
    assert_same_float(a.d, 1.0f);
    for (int i = 0; i < QUANT_GROUP; i++)
        assert_int_equal(a.q[i], i == 3 ? -127 : i - 20);
    assert_int_equal(a.sum16[0], -200 - 127 + 17); /* -20 .. -5 sum to -200, of which -17 went */
    assert_int_equal(a.sum16[1], 56); /* -4 .. 11 */
    assert_int_equal(a.sum, -254);
    assert_same_float(a.dsum, -254.0f);
    assert_same_float(a.dsum16[0], -310.0f);
    assert_same_float(a.dsum16[1], 56.0f);
    assert_int_equal(a.unused, 0);
}

/* amax 127: the quotient is x itself, so that halves show the rounding. */
static void test_act_ties(void **state)
{
    static const struct {
        float x;
        int q;
    } cases[] = {{0.5f, 0},     {1.5f, 2},     {2.5f, 2},       {-0.5f, 0},       {-1.5f, -2}, {-2.5f, -2},
                 {125.5f, 126}, {126.5f, 126}, {-126.5f, -126}, {0.49999997f, 0}, {-0.0f, 0},  {126.50001f, 127}};
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        float x[QUANT_GROUP] = {[17] = 127, [30] = cases[c].x};
        struct act_group a = quantize_one(x);
        assert_int_equal(a.q[30], cases[c].q);
        assert_int_equal(a.q[17], 127);
        assert_int_equal(a.sum16[1], 127 + cases[c].q);
        assert_int_equal(a.sum16[0], 0);
        assert_same_float(a.d, 1.0f);
    }
}

/* One rounding each for the scale, its inverse and the product; half of the values lie at the ties, where x / d and
 * x * (127 / amax) part. */
static void test_act_rounding(void **state)
{
    uint32_t seed = 1;
    for (int n = 0; n < 2000; n++) {
        float x[QUANT_GROUP], amax = 0;
        for (int i = 0; i < QUANT_GROUP; i++) {
            seed = seed * 1664525 + 1013904223;
            x[i] = ldexpf((float)(int32_t)seed, n % 200 - 120);
            amax = fmaxf(amax, fabsf(x[i]));
        }
        for (int i = 0; i < QUANT_GROUP; i += 2)
            if (fabsf(x[i]) < amax)
                x[i] = (float)(((double)(x[i] >= 0) - 0.5) * (double)(2 * (n + 3 * i) % 120 + 1) / 127 * (double)amax);
        struct act_group a = quantize_one(x);
        float d = (float)((double)amax / 127.0),
              inverse = (float)(127.0 / (double)amax); /* f64 quotients round the same */
        int32_t sum = 0;
        assert_same_float(a.d, d);
        for (int i = 0; i < QUANT_GROUP; i++) {
            float product = (float)((double)x[i] * (double)inverse);
            assert_int_equal(a.q[i], (int)nearbyint((double)product));
            sum += a.q[i];
        }
        assert_int_equal(a.sum, sum);
        assert_same_float(a.dsum, (float)((double)d * sum));
    }
}

static void test_act_small(void **state)
{
    float x[QUANT_GROUP] = {0};
    struct act_group a = quantize_one(x);
    assert_zero_group(&a);
    for (int i = 0; i < QUANT_GROUP; i++)
        x[i] = -0.0f;
    a = quantize_one(x);
    assert_zero_group(&a);
    x[5] = 1e-45f; /* denormal */
    a = quantize_one(x);
    assert_zero_group(&a);
    x[5] = -nextafterf(0x1p-100f, 0);
    a = quantize_one(x);
    assert_zero_group(&a);
    x[5] = -0x1p-100f;
    a = quantize_one(x);
    assert_same_float(a.d, 0x1p-100f / 127.0f);
    assert_int_equal(a.q[5], -127);
    assert_int_equal(a.sum, -127);
    x[5] = nextafterf(0x1p-100f, 1);
    a = quantize_one(x);
    assert_int_equal(a.q[5], 127);
    x[5] = 3.402823466e38f; /* the largest float, and denormals beside it */
    x[6] = 1e-45f;
    a = quantize_one(x);
    assert_int_equal(a.q[5], 127);
    assert_int_equal(a.q[6], 0);
    assert_true(isfinite(a.d));
}

static void test_act_not_finite(void **state)
{
    static const uint32_t bad[] = {0x7f800000, 0xff800000, 0x7fc00000, 0xffc00000, 0x7f800001, 0xffffffff};
    for (size_t c = 0; c < sizeof bad / sizeof *bad; c++) {
        for (int at = 0; at < QUANT_GROUP; at += 31) {
            float x[2 * QUANT_GROUP];
            struct act_group a[2];
            for (int i = 0; i < 2 * QUANT_GROUP; i++)
                x[i] = 127;
            x[at] = float_of(bad[c]);
            act_quantize_ref(x, 2 * QUANT_GROUP, a);
            assert_true(isnan(a[0].d) && isnan(a[0].dsum) && isnan(a[0].dsum16[0]) && isnan(a[0].dsum16[1]));
            assert_int_equal(a[0].sum, 0);
            for (int i = 0; i < QUANT_GROUP; i++)
                assert_int_equal(a[0].q[i], 0);
            assert_same_float(a[1].d, 1.0f); /* only that group */
            assert_int_equal(a[1].sum, 32 * 127);
        }
    }
}

/* ---- the dot rule */

static void put_half(uint8_t *p, float f)
{
    uint16_t h = f32_to_f16(f);
    p[0] = (uint8_t)h;
    p[1] = (uint8_t)(h >> 8);
}

/* Activations 1 .. 31, then 127: scale 1, q = x. */
static void count_up(struct act_group *a)
{
    float x[QUANT_GROUP];
    for (int i = 0; i < QUANT_GROUP; i++)
        x[i] = (float)(i + 1);
    x[31] = 127;
    act_quantize_ref(x, QUANT_GROUP, a);
    assert_int_equal(a->sum16[0], 136); /* 1 .. 16 */
    assert_int_equal(a->sum16[1], 360 + 127); /* 17 .. 31 */
}

static void test_dot_one_min(void **state)
{
    struct act_group a[2];
    uint8_t row[2 * 34];
    count_up(&a[0]);
    count_up(&a[1]);

    /* Q8_0: weights all 2, then all -1, scales 0.5 and 3: 623 - 1869 */
    memset(row, 2, 34);
    memset(row + 34, 0xff, 34);
    put_half(row, 0.5f);
    put_half(row + 34, 3.0f);
    assert_same_float(quant_dot_ref(quant_type_find(QN_Q8_0), row, 64, a), 623.0f - 1869.0f);

    /* Q4_1: weights 5 (0..15) and 9 (16..31), d 0.25, m -2: (5 * 136 + 9 * 487) / 4 - 2 * 623 */
    memset(row, 0x95, sizeof row);
    put_half(row, 0.25f);
    put_half(row + 2, -2.0f);
    assert_same_float(quant_dot_ref(quant_type_find(QN_Q4_1), row, 32, a), 1265.75f - 1246.0f);

    /* MXFP4: exponent 129 = 4, codes 7 = 6 (low) and 10 = -1 (high) */
    memset(row, 0xa7, sizeof row);
    row[0] = 129;
    assert_same_float(quant_dot_ref(quant_type_find(QN_MXFP4), row, 32, a), 4.0f * (6 * 136 - 487));
}

static void test_dot_sub(void **state)
{
    struct act_group a[8];
    uint8_t row[210];
    for (int g = 0; g < 8; g++)
        count_up(&a[g]);

    /* Q6_K, all codes 0 = -32, scales 1 .. 16 but the last -128, d 1: -32 * (136 * (1 + 3 + .. + 15) + 487 * (2 + 4 + .. + 14 - 128)) */
    memset(row, 0, sizeof row);
    for (int h = 0; h < 16; h++)
        row[192 + h] = (uint8_t)(h + 1);
    row[207] = 0x80;
    put_half(row + 208, 1.0f);
    assert_same_float(quant_dot_ref(quant_type_find(QN_Q6_K), row, 256, a), -32.0f * (136 * 64 + 487 * (56 - 128)));

    /* Q2_K, all codes 3, scale h (0..15), min 15 - h, d 0.5, dmin 2: even h are the first halves */
    memset(row, 0xff, sizeof row);
    for (int h = 0; h < 16; h++)
        row[h] = (uint8_t)(h | (15 - h) << 4);
    put_half(row + 80, 0.5f);
    put_half(row + 82, 2.0f);
    assert_same_float(quant_dot_ref(quant_type_find(QN_Q2_K), row, 256, a),
                      1.5f * (136 * 56 + 487 * 64) - 2.0f * (136 * 64 + 487 * 56));
}

static void test_dot_two(void **state)
{
    struct act_group a[2];
    uint8_t row[36];
    count_up(&a[0]);
    count_up(&a[1]);
    /* scales 1, 2, 0 and (NaN counts as zero) 0x7f; weights: low nibbles 2 = 1, high nibbles 0xc = -2 */
    memset(row, 0xc2, sizeof row);
    row[0] = 0x38;
    row[1] = 0x40;
    row[2] = 0;
    row[3] = 0x7f;
    /* 1 .. 8: 36, 9 .. 16: 100, 17 .. 24: 164, 25 .. 31 and 127: 323 */
    assert_same_float(quant_dot_ref(quant_type_find(QN_NVFP4), row, 64, a), 36 - 200 + 2 * (164 - 646.0f));
}

/* d * da is rounded, the product with the sum is not: with d = 1 + 2^-10 and da = 1 + 3 * 2^-23 the rounded scale is
 * s = 1 + 2^-10 + 3 * 2^-23 (the rest, 3 * 2^-33, is lost), and fmaf(s, n, acc) must round the whole once. */
static void test_dot_rounding(void **state)
{
    const struct quant_type *t = quant_type_find(QN_Q8_0);
    struct act_group a[2] = {{.q = {1}, .d = 0x1.000006p0f}, {.q = {127, 1}, .d = 0x1.000006p0f}};
    uint8_t row[68] = {0};
    put_half(row, -0x1.004p0f);
    put_half(row + 34, 0x1.004p0f);
    row[2] = 127; /* group 0: -127 s */
    row[36] = 1; /* group 1: (127 + 1) s */
    row[37] = 1;
    /* exact 127 s = 127.124... has 7 + 23 bits; rounding it first would leave an error in the difference */
    double s = 1 + 0x1p-10 + 3 * 0x1p-23;
    float acc = (float)(-127 * s), want = (float)(128 * s + (double)acc);
    assert_true((double)want != s); /* so that the rounding of the first group shows */
    assert_same_float(quant_dot_ref(t, row, 64, a), want);

    /* the same groups in the other order give other bits */
    struct act_group swapped[2] = {a[1], a[0]};
    uint8_t other[68];
    memcpy(other, row + 34, 34);
    memcpy(other + 34, row, 34);
    float first = (float)(128 * s);
    assert_same_float(quant_dot_ref(t, other, 64, swapped), (float)(-127 * s + (double)first));
    assert_true(bits_of((float)(-127 * s + (double)first)) != bits_of(want));
}

/* Rule TWO: four fma in a row, sums -382 and 382, whose products with the scale need more than 24 bits. */
static void test_dot_rounding_two(void **state)
{
    struct act_group a[2] = {{.q = {127, 127, 127, 1}, .d = 0x1.555556p0f}};
    memcpy(a[0].q + 16, a[0].q, 16);
    a[1] = a[0];
    uint8_t row[36];
    memset(row, 0x40, 4); /* 2, halved */
    for (int h = 0; h < 4; h++)
        memset(row + 4 + 8 * h, h % 2 ? 0x11 : 0x99, 8); /* 1 or -1 */
    double s = 0x1.555556p0, acc = 0;
    for (int h = 0; h < 4; h++)
        acc = (double)(float)((h % 2 ? 382 : -382) * s + acc);
    assert_true(acc != 0); /* it would be, with the products rounded first */
    assert_same_float(quant_dot_ref(quant_type_find(QN_NVFP4), row, 64, a), (float)acc);
}

static void test_dot_float(void **state)
{
    const struct quant_type *t = quant_type_find(QN_F32);
    float w[35], x[35];
    for (int k = 0; k < 35; k++)
        w[k] = x[k] = 0;
    assert_same_float(quant_dot_ref(t, w, 0, x), 0.0f);
    /* folded 0 + 8 first, then 4: nothing of the 1 is lost; in sequence it would be */
    w[0] = 1e8f;
    w[8] = -1e8f;
    w[4] = 1;
    x[0] = x[8] = x[4] = 1;
    assert_same_float(quant_dot_ref(t, w, 16, x), 1.0f);
    assert_same_float(quant_dot_ref(t, w, 9, x), 1.0f); /* any length */
    assert_same_float(quant_dot_ref(t, w, 5, x), 1e8f);
    /* lane 4 again 16 and 32 columns on: the sum of a lane is an fma chain */
    w[4] = 0x1.000002p0f;
    x[4] = 0x1.000002p0f; /* (1 + 2^-23)^2 = 1 + 2^-22 + 2^-46 */
    w[20] = -1;
    x[20] = 1;
    assert_same_float(quant_dot_ref(t, w, 21, x), 0x1p-22f);
    w[4] = -1;
    x[4] = 1;
    w[20] = x[20] = 0x1.000002p0f;
    assert_same_float(quant_dot_ref(t, w, 21, x), 0x1p-22f + 0x1p-46f);
    w[34] = 3; /* lane 2, past two whole rounds */
    x[34] = 7;
    assert_same_float(quant_dot_ref(t, w, 35, x), 21.0f + 0x1p-22f);
    /* products that underflow to -0 in every lane; the padding of a tail turns lanes into +0 */
    for (int k = 0; k < 35; k++) {
        w[k] = -1e-30f;
        x[k] = 1e-30f;
    }
    assert_same_float(quant_dot_ref(t, w, 32, x), -0.0f);
    assert_same_float(quant_dot_ref(t, w, 17, x), 0.0f);

    uint8_t half[6] = {0x00, 0x3c, 0x00, 0xc0, 0x01, 0x00}; /* 1, -2, 2^-24 */
    float y[3] = {3, 4, 0x1p24f};
    assert_same_float(quant_dot_ref(quant_type_find(QN_F16), half, 3, y), 3.0f - 8.0f + 1.0f);
    uint8_t brain[4] = {0x80, 0x3f, 0x00, 0xc0}; /* 1, -2 */
    assert_same_float(quant_dot_ref(quant_type_find(QN_BF16), brain, 2, y), 3.0f - 8.0f);
}

/* The activations of the two tests below, fixed, and exact in f32 on any machine; and the product with them. */
struct fixed {
    float x[4 * QUANT_BLOCK_MAX];
    struct act_group a[4 * QUANT_BLOCK_MAX / QUANT_GROUP];
    int64_t cols;
    float got;
};

static const struct fixed *fixed_dot(const struct block_set *g)
{
    static struct fixed f;
    uint32_t seed = 7;
    f.cols = (int64_t)g->n_blocks * g->type->block;
    assert_true(f.cols <= 4 * QUANT_BLOCK_MAX);
    for (int64_t k = 0; k < f.cols; k++) {
        seed = seed * 1664525 + 1013904223;
        f.x[k] = (float)((int32_t)seed / 256) * 0x1p-20f;
    }
    act_quantize_ref(f.x, f.cols, f.a);
    f.got = quant_dot_ref(g->type, g->blocks, f.cols, g->type->rule == RULE_FLOAT ? (const void *)f.x : f.a);
    return &f;
}

/* Every type: the product equals the sum over reference values and dequantized activations up to rounding. */
static void test_dot_golden(void **state)
{
    for (int i = 0; i < goldens.n; i++) {
        const struct block_set *g = &goldens.set[i];
        const struct quant_type *t = g->type;
        const struct fixed *f = fixed_dot(g);
        double got = (double)f->got, want = 0, size = 0;
        for (int64_t k = 0; k < f->cols; k++) {
            const struct act_group *a = &f->a[k / QUANT_GROUP];
            double v = t->rule == RULE_FLOAT ? (double)f->x[k] : (double)a->d * a->q[k % QUANT_GROUP];
            want += (double)g->values[k] * v;
            size += fabs((double)g->values[k] * v);
        }
        if (size > 3e38) /* random exponents of MXFP4 */
            continue;
        if (!(fabs(got - want) <= 1e-6 * size))
            fail_msg("%s, %s: %.9g, want %.9g (sum of magnitudes %g)", t->name, g->kind, got, want, size);
    }
}

/* The arithmetic of every type, pinned: the results' bits on the reference blocks, real then random.  They may change only
 * with the dot rule itself. */
static void test_dot_bits(void **state)
{
    static const uint32_t want[QN_TYPE_LIMIT][2] = {
        [QN_F16] = {0x4127f827, 0},
        [QN_Q4_0] = {0xc1ceadf3, 0xca9a57e5},
        [QN_Q4_1] = {0xc04ab0cc, 0x47c2e445},
        [QN_Q5_0] = {0xc0d01a98, 0x46d96265},
        [QN_Q5_1] = {0x41b49e67, 0x4711970e},
        [QN_Q8_0] = {0xbf536570, 0x4a2d9b5a},
        [QN_Q2_K] = {0xc22bba1f, 0x4b213bad},
        [QN_Q3_K] = {0xc1b29fa8, 0x4b402590},
        [QN_Q4_K] = {0xc0d44b53, 0x4ca5a260},
        [QN_Q5_K] = {0xc17b2d22, 0x4cf33330},
        [QN_Q6_K] = {0xc1836164, 0xc9e35921},
        [QN_IQ2_XXS] = {0xc0c78d7d, 0xc91803cb},
        [QN_IQ2_XS] = {0x40a4a5a3, 0xc5cf5bdb},
        [QN_IQ3_XXS] = {0x41acb0f4, 0x4a100f36},
        [QN_IQ1_S] = {0x41611b47, 0x4c02f469},
        [QN_IQ4_NL] = {0xc072355b, 0x4b47812f},
        [QN_IQ3_S] = {0x4099977a, 0xc7b5a098},
        [QN_IQ2_S] = {0x41352e51, 0x4ce2446f},
        [QN_IQ4_XS] = {0x4202efbf, 0xcc8848bf},
        [QN_IQ1_M] = {0x408d184f, 0xc6f071c7},
        [QN_BF16] = {0x40b5648a, 0},
        [QN_TQ1_0] = {0xc1778d2b, 0xc65c077b},
        [QN_TQ2_0] = {0x41207a61, 0x46689818},
        [QN_MXFP4] = {0x40236cc7, 0xfb3468d1},
        [QN_NVFP4] = {0xc102e60b, 0xc720f35e},
        [QN_Q1_0] = {0x4134600c, 0x48d3624f},
        [QN_Q2_0] = {0xbe34d1b4, 0x4973c72b},
    };
    bool same = true;
    for (int i = 0; i < goldens.n; i++) {
        const struct block_set *g = &goldens.set[i];
        const struct quant_type *t = g->type;
        float got = fixed_dot(g)->got;
        uint32_t expected = want[t->id][strcmp(g->kind, "real") != 0];
        if (bits_of(got) == expected)
            continue;
        print_error("%s, %s: %08x, want %08x\n", t->name, g->kind, bits_of(got), expected);
        same = false;
    }
    assert_true(same);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        {"types/lookup", test_types_lookup, NULL, NULL, NULL},
        {"decode/golden", test_decode_golden, NULL, NULL, NULL},
        {"decode/oracle", test_decode_oracle, NULL, NULL, NULL},
        {"decode/not_finite", test_decode_not_finite, NULL, NULL, NULL},
        {"decode/exponents", test_decode_exponents, NULL, NULL, NULL},
        {"f16/all", test_f16_all, NULL, NULL, NULL},
        {"f16/rounding", test_f16_rounding, NULL, NULL, NULL},
        {"act/scale", test_act_scale, NULL, NULL, NULL},
        {"act/ties", test_act_ties, NULL, NULL, NULL},
        {"act/rounding", test_act_rounding, NULL, NULL, NULL},
        {"act/small", test_act_small, NULL, NULL, NULL},
        {"act/not_finite", test_act_not_finite, NULL, NULL, NULL},
        {"dot/one_min", test_dot_one_min, NULL, NULL, NULL},
        {"dot/sub", test_dot_sub, NULL, NULL, NULL},
        {"dot/two", test_dot_two, NULL, NULL, NULL},
        {"dot/rounding", test_dot_rounding, NULL, NULL, NULL},
        {"dot/rounding_two", test_dot_rounding_two, NULL, NULL, NULL},
        {"dot/float", test_dot_float, NULL, NULL, NULL},
        {"dot/golden", test_dot_golden, NULL, NULL, NULL},
        {"dot/bits", test_dot_bits, NULL, NULL, NULL},
    };
    return cmocka_run_group_tests_name("quant", tests, load_goldens, free_goldens);
}
