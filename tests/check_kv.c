/* SPDX-License-Identifier: MIT */
/* Quantized keys and values: what kv.h and simd.h say about codes, layouts and attention, spelt out once more in the most literal
 * way; and whole models, whose bits may not depend on threads, cutting, company or level with any type either. */
#include "eval.h"
#include "ggufedit.h"
#include "hashmodel.h"
#include "simd/simd.h"
#include "testing.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { MOST = 512, GROUPS = MOST / QUANT_GROUP };

static const enum kv_kind kinds[] = {KV_Q8_0, KV_Q5_0, KV_Q4_0, KV_IQ4_NL};
enum { N_KINDS = sizeof kinds / sizeof *kinds };

static float unit(uint64_t i) { return (float)(int64_t)hash_splitmix64(i) * 0x1p-63f; }

static void fill(float *x, int n, uint64_t seed)
{
    for (int i = 0; i < n; i++)
        x[i] = unit(seed * 1000003 + (uint64_t)i) * (1.0f + 3.0f * unit((uint64_t)i) * unit((uint64_t)i));
}

/* The C level and the best one of this machine. */
static void two_levels(struct simd_ops ops[2])
{
    assert_true(simd_init(&ops[0], "c"));
    assert_true(simd_init(&ops[1], "auto"));
}

/* The integer a code stands for, as the type of that name decodes it. */
static int integer(enum kv_kind k, int code)
{
    static const int book[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
    switch (k) {
    case KV_Q5_0:
        assert_in_range(code, 0, 31);
        return code - 16;
    case KV_Q4_0:
        assert_in_range(code, 0, 15);
        return code - 8;
    case KV_IQ4_NL:
        assert_in_range(code, 0, 15);
        return book[code];
    default:
        assert_true(code >= -127 && code <= 127);
        return code;
    }
}

/* ---- rotation */

static void test_rotation(void **state)
{
    (void)state;
    struct simd_ops ops[2];
    two_levels(ops);
    for (int i = 0; i < 2; i++)
        for (int n = 32; n <= MOST; n += 32) {
            float x[MOST], y[MOST];
            int size = n & -n;
            fill(x, n, (uint64_t)n);
            memcpy(y, x, sizeof y);
            ops[i].rotate(y, n);
            for (int d = 0; d < n; d++) {
                double sum = 0;
                for (int k = 0; k < size; k++)
                    sum += (__builtin_popcount((unsigned)(d % size & k)) % 2 ? -1.0 : 1.0) *
                           (double)x[d / size * size + k];
                assert_true(fabs(sum / sqrt(size) - (double)y[d]) <= 2e-6);
            }
            ops[i].rotate(y, n);
            for (int d = 0; d < n; d++)
                assert_true(fabsf(x[d] - y[d]) <= 2e-6f);
        }
}

/* ---- codes */

/* Mean squared error of random values, in units of their mean square, for a type: what a plain scale from the largest gives. */
static const double plain_error[N_KINDS] = {4e-5, 2.2e-3, 9.5e-3, 8e-3};

static void test_codes(void **state)
{
    (void)state;
    struct simd_ops ops[2];
    two_levels(ops);
    for (int i = 0; i < 2; i++)
        for (int k = 0; k < N_KINDS; k++) {
            double error = 0, square = 0;
            for (uint64_t c = 0; c < 50; c++) {
                float x[MOST];
                int8_t q[MOST];
                uint16_t d[GROUPS];
                fill(x, MOST, 99 + c);
                ops[i].kv_encode(kinds[k], x, MOST, q, d);
                for (int j = 0; j < MOST; j++) {
                    float scale = f16_to_f32(d[j / 32]), y = scale * (float)integer(kinds[k], q[j]);
                    for (int other = -1; other <= 1; other += 2) { /* the neighbours are no nearer */
                        int code = q[j] + other, first = kinds[k] == KV_Q8_0 ? -127 : 0;
                        int last = kinds[k] == KV_Q8_0 ? 127 : kinds[k] == KV_Q5_0 ? 31 : 15;
                        if (code >= first && code <= last)
                            assert_true(fabsf(x[j] - y) <=
                                        fabsf(x[j] - scale * (float)integer(kinds[k], code)) + 1e-5f * fabsf(scale));
                    }
                    error += (double)((x[j] - y) * (x[j] - y));
                    square += (double)(x[j] * x[j]);
                }
            }
            print_message("%s, %s: mean squared error %.3e\n", ops[i].name, kv_type(kinds[k])->name, error / square);
            assert_true(error / square < plain_error[k]);
        }
}

/* Groups of zeros, of tiny, huge and impossible values. */
static void test_extremes(void **state)
{
    (void)state;
    static const float special[] = {0.0f, 0x1p-140f, 1e-30f, 1e-9f, 7e4f, 1e9f, 3e38f, INFINITY, -INFINITY, NAN};
    struct simd_ops ops[2];
    two_levels(ops);
    for (int i = 0; i < 2; i++)
        for (int k = 0; k < N_KINDS; k++)
            for (size_t s = 0; s < sizeof special / sizeof *special; s++) {
                float x[32] = {0};
                int8_t q[32];
                uint16_t d;
                x[5] = special[s];
                x[9] = -0.5f * special[s];
                ops[i].kv_encode(kinds[k], x, 32, q, &d);
                float scale = f16_to_f32(d), y = scale * (float)integer(kinds[k], q[5]);
                if (!isfinite(special[s]))
                    assert_true(isnan(scale));
                else if (special[s] > 0x1p-13f && special[s] < 4e5f)
                    assert_true(fabsf(y - special[s]) <= 0.13f * special[s]);
                else
                    assert_true(isfinite(y) && fabsf(y) <= 1.2f * special[s] + 1e-7f);
            }
}

/* ---- layouts */

struct block {
    int dim;
    enum kv_kind kind;
    int8_t q[ATTN_BLOCK][MOST];
    uint16_t d[ATTN_BLOCK][GROUPS];
    _Alignas(64) uint8_t k[ATTN_BLOCK * MOST * 34 / 32], v[ATTN_BLOCK * MOST * 34 / 32];
};

static void block_fill(struct block *b, const struct simd_ops *ops, enum kv_kind kind, int dim)
{
    float x[MOST];
    memset(b, 0, sizeof *b);
    b->kind = kind;
    b->dim = dim;
    assert_true(kv_key_bytes(kind, dim) <= sizeof b->k && kv_value_bytes(kind, dim) <= sizeof b->v);
    for (int at = 0; at < ATTN_BLOCK; at++) {
        int j = at * 37 % ATTN_BLOCK; /* any order gives the same bytes */
        fill(x, dim, 7000 + (uint64_t)j);
        ops->kv_encode(kind, x, dim, b->q[j], b->d[j]);
        kv_put_key(kind, b->k, dim, j, b->q[j], b->d[j]);
        kv_put_value(kind, b->v, dim, j, b->q[j], b->d[j]);
    }
}

/* A row of the packed matrix decodes to what was stored. */
static void check_keys(const struct block *b)
{
    const struct quant_type *t = kv_type(b->kind);
    struct mat m = {.data = b->k, .type = t, .rows = ATTN_BLOCK, .cols = b->dim, .stride = pack_tile_bytes(t, b->dim)};
    for (int j = 0; j < ATTN_BLOCK; j++) {
        float y[MOST];
        mat_row(&m, j, y);
        for (int d = 0; d < b->dim; d++)
            assert_true(y[d] == f16_to_f32(b->d[j][d / 32]) * (float)integer(b->kind, b->q[j][d]));
    }
}

/* The code of dimension d of position j as kv.h says where it is. */
static int value_code(const struct block *b, int j, int d)
{
    static const int place[4] = {0, 2, 1, 3};
    const uint8_t *p = b->v + (size_t)(d / 32) * kv_group_bytes(b->kind) + 256;
    int h = d % 32 / 16, l = d % 16, i = place[j % 4];
    if (b->kind == KV_Q8_0)
        return (int8_t)p[j / 4 * 128 + 64 * h + 4 * l + i];
    int high = 0;
    if (b->kind == KV_Q5_0) {
        high = p[j / 4 * 16 + 4 * (l % 4) + i] >> (4 * h + l / 4) & 1;
        p += 512;
    }
    return (p[j / 4 * 64 + 4 * l + i] >> 4 * h & 15) | high << 4;
}

static void test_layouts(void **state)
{
    (void)state;
    static struct block b;
    struct simd_ops ops;
    assert_true(simd_init(&ops, "auto"));
    for (int k = 0; k < N_KINDS; k++)
        for (int dim = 32; dim <= 512; dim += dim < 128 ? 32 : 128) {
            block_fill(&b, &ops, kinds[k], dim);
            check_keys(&b);
            for (int j = 0; j < ATTN_BLOCK; j++)
                for (int d = 0; d < dim; d++) {
                    uint16_t scale;
                    memcpy(&scale, b.v + (size_t)(d / 32) * kv_group_bytes(b.kind) + 2 * j, 2);
                    assert_int_equal(scale, b.d[j][d / 32]);
                    assert_int_equal(value_code(&b, j, d), b.q[j][d]);
                }
        }
}

/* ---- attention: the sums of simd.h over the codes */

static void plain_values(const struct block *b, const float *p, int n, float *o)
{
    for (int g = 0; g < b->dim / 32; g++) {
        float x[ATTN_BLOCK], t = 0;
        for (int j = 0; j < n; j++) {
            x[j] = p[j] * f16_to_f32(b->d[j][g]);
            t = fabsf(x[j]) > t ? fabsf(x[j]) : t;
        }
        for (int d = 32 * g; d < 32 * g + 32; d++) {
            int64_t sum = 0;
            for (int j = 0; j < n && t > 0; j++)
                sum += (int64_t)rintf(x[j] * (16383.0f / t)) * integer(b->kind, b->q[j][d]);
            assert_true(sum == (int32_t)sum);
            o[d] = t > 0 ? (float)(int32_t)sum * (t / 16383.0f) : 0.0f;
        }
    }
}

enum { N_Q = 9 };

static void check_attention(const struct block *b, const struct simd_ops *ops)
{
    static float s[N_Q][ATTN_BLOCK], o[N_Q][MOST], want[MOST];
    static const int n_vis[N_Q] = {0, 1, 2, 17, 64, 127, 128, 128, 99};
    float m[N_Q], l[N_Q];
    for (int i = 0; i < N_Q; i++)
        fill(s[i], ATTN_BLOCK, 31 + (uint64_t)i);
    struct attn_args a = {.n_q = N_Q, .head_dim = b->dim, .scale = 3.0f, .k_kind = b->kind, .v_kind = b->kind};
    a.k = b->k;
    a.v = b->v;
    a.n_vis = n_vis;
    a.m = m;
    a.l = l;
    a.o = o[0];
    a.o_stride = MOST;
    a.s = s[0];
    ops->attn_block(&a);
    for (int i = 0; i < N_Q; i++) {
        float p[ATTN_BLOCK], top = -INFINITY;
        double sum = 0;
        for (int j = 0; j < n_vis[i]; j++)
            top = s[i][j] * 3.0f > top ? s[i][j] * 3.0f : top;
        assert_true(m[i] == top);
        for (int j = 0; j < ATTN_BLOCK; j++) { /* the program's own exponentials, one by one */
            struct attn_args one = a;
            float x = s[i][j] * 3.0f - top, m1, l1, o1[MOST];
            float two[ATTN_BLOCK] = {0, x};
            if (j >= n_vis[i])
                break;
            one.n_q = 1;
            one.n_vis = (const int[]){2};
            one.scale = 1.0f;
            one.s = two;
            one.m = &m1;
            one.l = &l1;
            one.o = o1;
            ops->attn_block(&one); /* l = 1 + p */
            p[j] = expf(x);
            assert_true(fabsf(l1 - 1.0f - p[j]) < 1e-6f);
            sum += (double)p[j];
        }
        assert_true(fabs(sum - (double)l[i]) <= 1e-5 * sum);
        plain_values(b, p, n_vis[i], want);
        for (int d = 0; d < b->dim; d++) /* as exact as the weights, of 14 bits */
            assert_true(fabsf(o[i][d] - want[d]) <= 2e-4f * l[i]);
    }
}

static void test_attention(void **state)
{
    (void)state;
    static struct block b;
    struct simd_ops ops[2];
    two_levels(ops);
    for (int i = 0; i < 2; i++)
        for (int k = 0; k < N_KINDS; k++)
            for (int dim = 32; dim <= 256; dim *= 2) {
                block_fill(&b, &ops[i], kinds[k], dim);
                check_attention(&b, &ops[i]);
            }
}

/* ---- whole models */

enum { N = 160, VOCAB = 512, ALL = N * VOCAB };

/* Logits of N ids in pieces of the given size, beside another sequence of other length when in company. */
static void logits_of(const struct qn_options *o, int piece, bool company, float *out)
{
    qn_engine *e = eval_open(o);
    qn_seq *s[2] = {eval_seq(e), eval_seq(e)};
    int32_t all[N + 5], *ids = all + 5; /* those that the differences below belong to */
    eval_ids(0, N + 5, all);
    for (int at = 0; at < N; at += piece) {
        int n = N - at < piece ? N - at : piece;
        struct qn_span sp[2] = {{.seq = s[0], .ids = ids + at, .n = n, .logits = QN_LOGITS_ALL},
                                {.seq = s[1], .ids = ids + at / 2, .n = 1 + n / 2}};
        eval_spans(e, sp, company ? 2 : 1, out + (size_t)at * VOCAB);
    }
    qn_seq_free(s[0]);
    qn_seq_free(s[1]);
    qn_close(e);
}

static struct qn_options kv_options(const char *model, enum qn_kv_type k, enum qn_kv_type v)
{
    struct qn_options o = eval_options(hash_model_file(model, "bf16"), 512);
    o.n_seq = 2;
    o.type_k = k;
    o.type_v = v;
    return o;
}

static float exact[ALL], plain[ALL], varied[ALL];

/* Root of the mean squared difference from float keys and values, in units of the logits' own. */
static double distance(void)
{
    double error = 0, square = 0;
    for (int i = 0; i < ALL; i++) {
        double d = (double)plain[i] - (double)exact[i];
        error += d * d;
        square += (double)exact[i] * (double)exact[i];
    }
    return sqrt(error / square);
}

static void check_ways(const char *model, enum qn_kv_type k, enum qn_kv_type v, int n_ways)
{
    static const struct {
        int threads, ubatch, piece;
        bool company;
        const char *isa;
    } ways[] = {{3, 7, 64, true, NULL}, {1, 512, 1, false, NULL}, {2, 512, 131, false, "c"}};
    for (int i = 0; i < n_ways; i++) {
        struct qn_options o = kv_options(model, k, v);
        o.n_threads = ways[i].threads;
        o.n_ubatch = ways[i].ubatch;
        o.isa = ways[i].isa;
        logits_of(&o, ways[i].piece, ways[i].company, varied);
        if (memcmp(plain, varied, sizeof plain))
            fail_msg("%s, types %d %d: other bits with %d threads, ubatch %d, pieces of %d, %s", model, (int)k, (int)v,
                     ways[i].threads, ways[i].ubatch, ways[i].piece, ways[i].isa ? ways[i].isa : "auto");
    }
}

/* What types of so many bits may differ; the scores of the first model are so large that one key takes nearly all. */
static const struct {
    const char *model;
    double most[7];
} models[] = {
    {"llama",
     {[QN_KV_F16] = 2e-3,
      [QN_KV_BF16] = 2e-2,
      [QN_KV_Q8_0] = 7e-2,
      [QN_KV_Q5_0] = .4,
      [QN_KV_Q4_0] = .6,
      [QN_KV_IQ4_NL] = .6}},
    {"qwen35moe",
     {[QN_KV_F16] = 1e-4,
      [QN_KV_BF16] = 1e-3,
      [QN_KV_Q8_0] = 3e-3,
      [QN_KV_Q5_0] = .02,
      [QN_KV_Q4_0] = .04,
      [QN_KV_IQ4_NL] = .04}},
};

static void test_models(void **state)
{
    (void)state;
    const int all = test_quick() ? 1 : 3;
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        const char *model = models[i].model;
        struct qn_options o = kv_options(model, QN_KV_F32, QN_KV_F32);
        logits_of(&o, N, false, exact);
        for (int k = QN_KV_F16; k <= QN_KV_IQ4_NL; k++) {
            o = kv_options(model, (enum qn_kv_type)k, (enum qn_kv_type)k);
            logits_of(&o, N, false, plain);
            double d = distance();
            print_message("%s, %s: difference %.2e of the logits\n", model, kv_type((enum kv_kind)k)->name, d);
            assert_true(d <= models[i].most[k] && (k == QN_KV_F32) == (d == 0));
            check_ways(model, (enum qn_kv_type)k, (enum qn_kv_type)k, k == QN_KV_Q8_0 ? all : 1);
        }
        o = kv_options(model, QN_KV_IQ4_NL, QN_KV_Q4_0);
        logits_of(&o, N, false, plain);
        check_ways(model, QN_KV_IQ4_NL, QN_KV_Q4_0, all);
        o = kv_options(model, QN_KV_F16, QN_KV_Q5_0);
        logits_of(&o, N, false, plain);
        check_ways(model, QN_KV_F16, QN_KV_Q5_0, 1);
        o = kv_options(model, QN_KV_Q5_0, QN_KV_F32);
        logits_of(&o, N, false, plain);
        check_ways(model, QN_KV_Q5_0, QN_KV_F32, 1);
    }
}

/* Heads of 16 dimensions have no groups of 32. */
static void test_refused(void **state)
{
    (void)state;
    struct edit *e = edit_model("llama", "bf16");
    const char *path = test_tmp("heads16.gguf");
    struct qn_error err;
    qn_engine *engine;
    edit_apply(
        e, "u32 llama.attention.head_count 16;u32 llama.attention.head_count_kv 8;u32 llama.attention.key_length 16;"
           "u32 llama.attention.value_length 16;u32 llama.rope.dimension_count 16;drop rope_freqs.weight");
    edit_write(e, path, true);
    edit_free(e);
    for (int k = QN_KV_F16; k <= QN_KV_IQ4_NL; k++) {
        struct qn_options o = eval_options(path, 64);
        o.type_v = (enum qn_kv_type)k;
        int code = qn_open(&engine, &o, &err);
        assert_int_equal(code, k < QN_KV_Q8_0 ? 0 : QN_E_ARGUMENT);
        if (code)
            assert_non_null(strstr(err.text, "16 dimensions"));
        else
            qn_close(engine);
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        {"kv/rotation", test_rotation, NULL, NULL, NULL},   {"kv/codes", test_codes, NULL, NULL, NULL},
        {"kv/extremes", test_extremes, NULL, NULL, NULL},   {"kv/layouts", test_layouts, NULL, NULL, NULL},
        {"kv/attention", test_attention, NULL, NULL, NULL}, {"kv/models", test_models, NULL, NULL, NULL},
        {"kv/refused", test_refused, NULL, NULL, NULL},
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests_name("kv", tests, NULL, NULL);
}
