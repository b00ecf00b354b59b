/* SPDX-License-Identifier: MIT */
/* The same model written in other ways gives the same logits, bit for bit: fused and old forms of tensors, other types of
 * vectors, order, parts and alignment of the file, other kinds of keys; and the rope scalings against a plain double computation. */
#include "eval.h"
#include "ggufedit.h"
#include "hashmodel.h"
#include "quant/quant.h"
#include "src/model.h"
#include "src/pool.h"
#include "testing.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { N = 24, VOCAB = 512, ALL = N * VOCAB };

static int no_numa = 1;

static struct qn_options options(const char *file)
{
    struct qn_options o = eval_options(file, 64);
    o.no_numa = no_numa;
    return o;
}

/* Logits of all rows of a prompt of N, the last four tokens one by one. */
static void logits_of(const struct qn_options *o, float out[ALL])
{
    int32_t ids[N];
    qn_engine *e = eval_open(o);
    qn_seq *s = eval_seq(e);
    eval_ids(77, N, ids);
    for (int at = 0, n = N - 4; at < N; at += n, n = 1)
        eval_append(s, ids + at, n, out + (size_t)at * VOCAB);
    qn_seq_free(s);
    qn_close(e);
}

static void logits_of_edit(const struct edit *e, float out[ALL])
{
    const char *path = test_tmp("variant.gguf");
    edit_write(e, path, true);
    struct qn_options o = options(path);
    logits_of(&o, out);
}

static float plain[ALL], varied[ALL];

static void expect_same(const char *what)
{
    for (int i = 0; i < ALL; i++)
        if (memcmp(&plain[i], &varied[i], sizeof plain[i]) != 0)
            fail_msg("%s: row %d, logit %d: %a, not %a", what, i / VOCAB, i % VOCAB, (double)varied[i],
                     (double)plain[i]);
}

/* Without this a test whose variant is never read would pass. */
static void expect_other(const char *what)
{
    if (!memcmp(plain, varied, sizeof plain))
        fail_msg("%s: changes nothing", what);
}

/* Compares an edited model with itself as it was, and frees both. */
static void same_as_plain(const char *what, const char *model, const char *type, struct edit *variant)
{
    struct edit *e = edit_model(model, type);
    logits_of_edit(e, plain);
    logits_of_edit(variant, varied);
    edit_free(e);
    edit_free(variant);
    expect_same(what);
}

/* ---- forms of tensors */

static const char *block_name(int block, const char *suffix)
{
    static char name[4][EDIT_NAME];
    static int next;
    char *p = name[next++ % 4];
    snprintf(p, EDIT_NAME, "blk.%d.%s", block, suffix);
    return p;
}

static void fuse_experts(struct edit *e, int block)
{
    struct edit_tensor gate = *edit_get(e, block_name(block, "ffn_gate_exps.weight")),
                       up = *edit_get(e, block_name(block, "ffn_up_exps.weight"));
    uint64_t ne[4] = {gate.ne[0], 2 * gate.ne[1], gate.ne[2], 1};
    edit_drop(e, gate.name);
    edit_drop(e, up.name);
    struct edit_tensor *both = edit_add(e, block_name(block, "ffn_gate_up_exps.weight"), QN_F32, ne, 3);
    uint8_t *p = edit_retype(e, both, gate.type);
    size_t half = gate.bytes / (size_t)gate.ne[2];
    for (uint64_t x = 0; x < gate.ne[2]; x++) {
        memcpy(p + 2 * x * half, gate.data + x * half, half);
        memcpy(p + (2 * x + 1) * half, up.data + x * half, half);
    }
}

static void test_fused_experts(void **state)
{
    (void)state;
    static const char *const types[] = {"bf16", "Q4_K", "MXFP4", NULL};
    for (int i = 0; types[i]; i++) {
        struct edit *e = edit_model("qwen35moe", types[i]);
        fuse_experts(e, 0); /* the second layer stays as it is */
        same_as_plain(types[i], "qwen35moe", types[i], e);
    }
}

/* attn_qkv and attn_gate as one tensor: of each key head its q, k, value heads and their z. */
static void make_ssm_in(struct edit *e, int hk, int hv, int dim)
{
    struct edit_tensor qkv = *edit_get(e, "blk.0.attn_qkv.weight"), z = *edit_get(e, "blk.0.attn_gate.weight");
    uint64_t ne[4] = {qkv.ne[0], qkv.ne[1] + z.ne[1], 1, 1};
    edit_drop(e, qkv.name);
    edit_drop(e, z.name);
    struct edit_tensor *in = edit_add(e, "blk.0.ssm_in.weight", QN_F32, ne, 2);
    uint8_t *p = edit_retype(e, in, qkv.type);
    size_t head = edit_row_bytes(&qkv) * (size_t)dim, ratio = (size_t)(hv / hk);
    for (size_t g = 0; g < (size_t)hk; g++) {
        const struct {
            const uint8_t *from;
            size_t heads;
        } part[] = {{qkv.data + g * head, 1},
                    {qkv.data + ((size_t)hk + g) * head, 1},
                    {qkv.data + (2 * (size_t)hk + g * ratio) * head, ratio},
                    {z.data + g * ratio * head, ratio}};
        for (int i = 0; i < 4; i++) {
            memcpy(p, part[i].from, part[i].heads * head);
            p += part[i].heads * head;
        }
    }
}

static void test_ssm_in(void **state)
{
    (void)state;
    static const char *const types[] = {"f32", "bf16", "Q8_0", "Q6_K", NULL};
    for (int i = 0; types[i]; i++) {
        struct edit *e = edit_model("qwen3next", types[i]);
        make_ssm_in(e, 2, 6, 128);
        same_as_plain(types[i], "qwen3next", types[i], e);
    }
}

static void test_shared_gate(void **state)
{
    (void)state;
    struct edit *e = edit_model("qwen35moe", "bf16");
    struct edit_tensor *t = edit_get(e, "blk.0.ffn_gate_inp_shexp.weight");
    assert_int_equal(t->n_dims, 2);
    t->n_dims = 1;
    same_as_plain("[H]", "qwen35moe", "bf16", e);
}

static void test_tied(void **state)
{
    (void)state;
    static const char *const types[] = {"bf16", "Q4_0", NULL};
    for (int i = 0; types[i]; i++) {
        struct edit *tied = edit_model("llama", types[i]), *copied = edit_model("llama", types[i]);
        edit_drop(tied, "output.weight");
        edit_get(copied, "output.weight")->data = edit_get(copied, "token_embd.weight")->data;
        logits_of_edit(copied, plain);
        logits_of_edit(tied, varied);
        edit_free(tied);
        edit_free(copied);
        expect_same(types[i]);
    }
}

/* ---- types */

static bool is_vector(const struct edit_tensor *t)
{
    return t->n_dims == 1 || strstr(t->name, "ssm_conv1d") || strstr(t->name, "ffn_gate_inp");
}

/* Vectors, convolutions and routers as BF16 or F16 equal the same rounded values as F32. */
static void test_vector_types(void **state)
{
    (void)state;
    static const char *const models[] = {"qwen35moe", "qwen3next", "qwen2", "llama", NULL};
    for (int i = 0; models[i]; i++)
        for (int type = QN_F16; type <= QN_BF16; type += QN_BF16 - QN_F16) {
            struct edit *e = edit_model(models[i], "bf16");
            for (int k = 0; k < e->n_tensors; k++)
                if (is_vector(&e->tensor[k]))
                    edit_convert(e, &e->tensor[k], type);
            logits_of_edit(e, varied);
            for (int k = 0; k < e->n_tensors; k++)
                if (is_vector(&e->tensor[k]))
                    edit_convert(e, &e->tensor[k], QN_F32);
            logits_of_edit(e, plain);
            edit_free(e);
            expect_same(models[i]);
        }
}

/* The hash weights have seven bits: F32, F16 and BF16 hold the same numbers. */
static void test_matrix_types(void **state)
{
    (void)state;
    static const char *const models[] = {"qwen35moe", "qwen35", NULL};
    for (int i = 0; models[i]; i++)
        for (int type = QN_F16; type <= QN_BF16; type += QN_BF16 - QN_F16) {
            struct edit *e = edit_model(models[i], "f32");
            for (int k = 0; k < e->n_tensors; k++)
                if (!is_vector(&e->tensor[k]))
                    edit_convert(e, &e->tensor[k], type);
            same_as_plain(models[i], models[i], "f32", e);
        }
}

/* ---- the file */

static void test_order(void **state)
{
    (void)state;
    struct edit *e = edit_model("qwen35moe", "Q5_K");
    for (int i = e->n_tensors - 1; i > 0; i--) {
        int j = (int)(hash_splitmix64((uint64_t)i) % (uint64_t)(i + 1));
        struct edit_tensor t = e->tensor[i];
        e->tensor[i] = e->tensor[j];
        e->tensor[j] = t;
    }
    for (int i = 0; i < e->n_kv / 2; i++) {
        struct edit_kv kv = e->kv[i];
        e->kv[i] = e->kv[e->n_kv - 1 - i];
        e->kv[e->n_kv - 1 - i] = kv;
    }
    same_as_plain("shuffled", "qwen35moe", "Q5_K", e);
}

static void test_split(void **state)
{
    (void)state;
    struct edit *e = edit_model("qwen35moe", "Q8_0");
    char first[256], name[64];
    int n = e->n_tensors, cut[4] = {0, 1, n / 2, n}; /* the first part holds hardly anything */
    logits_of_edit(e, plain);
    for (int i = 0; i < 3; i++) {
        snprintf(name, sizeof name, "parts-%05d-of-00003.gguf", i + 1);
        const char *path = test_tmp(name);
        if (i == 0)
            snprintf(first, sizeof first, "%s", path);
        edit_u32(e, "split.no", (uint32_t)i);
        edit_u32(e, "split.count", 3);
        edit_u32(e, "split.tensors.count", (uint32_t)n);
        edit_write_part(e, path, cut[i], cut[i + 1], i == 0, true);
    }
    edit_free(e);
    struct qn_options o = options(first);
    logits_of(&o, varied);
    expect_same("split");
}

/* In-place rows may then begin at any multiple of eight bytes. */
static void test_alignment(void **state)
{
    (void)state;
    static const char *const types[] = {"f32", "bf16", "Q6_K", NULL};
    for (int i = 0; types[i]; i++)
        for (uint32_t align = 8; align <= 4096; align *= 512) {
            struct edit *e = edit_model("qwen35moe", types[i]);
            /* a vector of six values in front moves everything behind it off the wider alignments */
            edit_u32(e, "general.alignment", align);
            e->alignment = align;
            struct edit_tensor t = *edit_get(e, "blk.0.ssm_a");
            memmove(e->tensor + 1, e->tensor, (size_t)(edit_get(e, "blk.0.ssm_a") - e->tensor) * sizeof t);
            e->tensor[0] = t;
            same_as_plain(types[i], "qwen35moe", types[i], e);
        }
}

static void test_keys(void **state)
{
    (void)state;
    struct edit *e = edit_model("qwen35moe", "bf16");
    const int32_t sections[4] = {3, 3, 2, 0};
    edit_raw(e, "qwen35moe.embedding_length", 10, "\0\1\0\0\0\0\0\0", 8); /* u64 256 */
    edit_raw(e, "qwen35moe.expert_used_count", 0, "\2", 1); /* u8 */
    edit_raw(e, "qwen35moe.ssm.conv_kernel", 3, "\4\0", 2); /* i16 */
    double eps = 1e-6; /* rounds to the f32 that the plain file has */
    edit_raw(e, "qwen35moe.attention.layer_norm_rms_epsilon", 12, &eps, sizeof eps);
    edit_array(e, "qwen35moe.rope.dimension_sections", 5, sections, 4, 4);
    edit_f32(e, "qwen35moe.logit_scale", 1.0f); /* neutral values of keys that we do not compute */
    edit_u32(e, "qwen35moe.attention.sliding_window", 0);
    edit_raw(e, "qwen35moe.attention.causal", 7, "\1", 1);
    edit_u32(e, "some.other.key", 1);
    same_as_plain("kinds of keys", "qwen35moe", "bf16", e);
}

/* The array says which layers are recurrent, whatever the interval. */
static void test_recurrent_layers(void **state)
{
    (void)state;
    const int32_t ints[2] = {1, 0};
    const uint8_t bools[2] = {1, 0};
    for (int i = 0; i < 2; i++) {
        struct edit *e = edit_model("qwen3next", "bf16");
        edit_u32(e, "qwen3next.full_attention_interval", 7);
        if (i == 0)
            edit_array(e, "qwen3next.attention.recurrent_layers", 5, ints, 2, 4);
        else
            edit_array(e, "qwen3next.attention.recurrent_layers", 7, bools, 2, 1);
        same_as_plain(i ? "bools" : "ints", "qwen3next", "bf16", e);
    }
}

/* The draft block is bound, and changes nothing. */
static void test_nextn(void **state)
{
    (void)state;
    static const char *const models[] = {"qwen3next", "qwen35", "qwen35moe", NULL};
    for (int i = 0; models[i]; i++) {
        char name[32], key[64];
        snprintf(name, sizeof name, "%s-mtp", models[i]);
        struct edit *with = edit_model(name, "bf16"), *without = edit_model(name, "bf16");
        for (int k = without->n_tensors - 1; k >= 0; k--)
            if (!strncmp(without->tensor[k].name, "blk.2.", 6))
                edit_drop(without, without->tensor[k].name);
        assert_true(without->n_tensors < with->n_tensors);
        snprintf(key, sizeof key, "%s.nextn_predict_layers", models[i]);
        edit_drop_key(without, key);
        snprintf(key, sizeof key, "%s.block_count", models[i]);
        edit_u32(without, key, 2);
        logits_of_edit(without, plain);
        logits_of_edit(with, varied);
        edit_free(with);
        edit_free(without);
        expect_same(name);
    }
}

/* ---- rope */

/* Pair i of a table as the papers have it, in double. */
static double frequency(const struct hparams *hp, int i)
{
    double f = pow((double)hp->freq_base, -2.0 * i / hp->n_rot), s = (double)hp->rope_factor;
    if (hp->scaling == ROPE_NONE)
        return f;
    if (hp->scaling == ROPE_LINEAR)
        return f / s;
    /* pairs whose number of turns over the original context is beta: theta_d * L = 2 pi beta, solved for d */
    double d[2], beta[2] = {(double)hp->yarn_beta_fast, (double)hp->yarn_beta_slow};
    for (int k = 0; k < 2; k++)
        d[k] =
            hp->n_rot / 2.0 * (log(hp->rope_ctx_orig) - log(2.0 * acos(-1.0) * beta[k])) / log((double)hp->freq_base);
    double low = fmax(floor(d[0]), 0.0), high = fmin(ceil(d[1]), hp->n_rot - 1.0);
    double keep = 1.0 - fmin(fmax((i - low) / (high == low ? 0.001 : high - low), 0.0), 1.0);
    return f * keep + f / s * (1.0 - keep);
}

static void test_rope_tables(void **state)
{
    (void)state;
    static const struct hparams cases[] = {
        {.n_rot = 64, .freq_base = 1e7f, .rope_factor = 1.0f},
        {.n_rot = 128, .freq_base = 1e4f, .rope_factor = 8.0f, .scaling = ROPE_LINEAR},
        {.n_rot = 64, .freq_base = 1e7f, .rope_factor = 4.0f, .rope_ctx_orig = 262144, .scaling = ROPE_YARN},
        {.n_rot = 128, .freq_base = 1e6f, .rope_factor = 4.0f, .rope_ctx_orig = 32768, .scaling = ROPE_YARN},
        {.n_rot = 64, .freq_base = 150000.0f, .rope_factor = 32.0f, .rope_ctx_orig = 4096, .scaling = ROPE_YARN},
        {.n_rot = 16, .freq_base = 1e4f, .rope_factor = 2.0f, .rope_ctx_orig = 128, .scaling = ROPE_YARN},
        {.n_rot = 2, .freq_base = 1e4f, .rope_factor = 2.0f, .rope_ctx_orig = 1, .scaling = ROPE_YARN},
        {.n_rot = 64, .freq_base = 1.5f, .rope_factor = 2.0f, .rope_ctx_orig = 1 << 20, .scaling = ROPE_YARN},
    };
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        struct hparams hp = cases[c];
        hp.yarn_beta_fast = 32.0f;
        hp.yarn_beta_slow = 1.0f;
        float table[64], factors[64];
        float mscale = arch_rope_table(&hp, NULL, table);
        double want = hp.scaling == ROPE_YARN ? 0.1 * log((double)hp.rope_factor) + 1.0 : 1.0;
        assert_true(fabs((double)mscale - want) <= 1e-6);
        for (int i = 0; i < hp.n_rot / 2; i++) {
            double f = frequency(&hp, i);
            if (!(fabs((double)table[i] - f) <= 1e-6 * f))
                fail_msg("case %zu, pair %d: %.9g, not %.9g", c, i, (double)table[i], f);
            factors[i] = 2.0f;
        }
        float halved[64];
        arch_rope_table(&hp, factors, halved);
        for (int i = 0; i < hp.n_rot / 2; i++)
            assert_true(halved[i] == table[i] / 2.0f);
    }
}

/* Scaling by keys, by options, and by a tensor of factors. */
static void test_rope_scaling(void **state)
{
    (void)state;
    struct qn_options o = options(test_tmp("rope.gguf"));
    struct edit *e = edit_model("qwen35", "bf16");
    logits_of_edit(e, plain);
    edit_str(e, "qwen35.rope.scaling.type", "linear");
    edit_f32(e, "qwen35.rope.scaling.factor", 2.0f);
    logits_of_edit(e, varied);
    expect_other("linear by keys");
    memcpy(plain, varied, sizeof plain);
    edit_drop_key(e, "qwen35.rope.scaling.type");
    logits_of_edit(e, varied);
    expect_same("a factor alone is linear");
    edit_drop_key(e, "qwen35.rope.scaling.factor");
    edit_write(e, o.model, true);
    o.rope_scale = 2.0f;
    logits_of(&o, varied);
    expect_same("linear by options");
    struct edit_tensor *t = edit_add(e, "rope_freqs.weight", QN_F32, (const uint64_t[4]){32, 1, 1, 1}, 1);
    float *f = (float *)(void *)edit_retype(e, t, QN_F32);
    for (int i = 0; i < 32; i++)
        f[i] = 2.0f;
    logits_of_edit(e, varied);
    expect_same("linear by factors of two");
    edit_drop(e, "rope_freqs.weight");

    edit_str(e, "qwen35.rope.scaling.type", "yarn");
    edit_f32(e, "qwen35.rope.scaling.factor", 4.0f);
    edit_u32(e, "qwen35.rope.scaling.original_context_length", 128);
    logits_of_edit(e, plain);
    edit_drop_key(e, "qwen35.rope.scaling.type");
    edit_drop_key(e, "qwen35.rope.scaling.factor");
    edit_write(e, o.model, true);
    logits_of(&o, varied);
    expect_other("yarn by keys");
    o.rope_scale = 4.0f;
    o.rope_scaling = "yarn";
    logits_of(&o, varied);
    expect_same("yarn by options");
    o.rope_scaling = "none";
    logits_of(&o, varied);
    expect_other("none by options");
    edit_free(e);
}

/* llama's rows are permuted so that pairs are adjacent; undone, it is qwen2 without biases.  Sums of a dot product then have
 * another order. */
static void test_adjacent_pairs(void **state)
{
    (void)state;
    struct edit *e = edit_model("llama", "f32");
    logits_of_edit(e, plain);
    for (int b = 0; b < 2; b++) {
        static const char *const names[] = {"attn_q", "attn_k", "attn_v"};
        for (int m = 0; m < 3; m++) {
            char name[32];
            snprintf(name, sizeof name, "%s.weight", names[m]);
            struct edit_tensor *t = edit_get(e, block_name(b, name));
            const uint8_t *old = t->data;
            size_t row = edit_row_bytes(t), rows = (size_t)t->ne[1];
            uint8_t *p = edit_own(e, t);
            for (size_t r = 0; r < rows && m < 2; r++) { /* head of 64: row 2 i + s came from row 32 s + i */
                size_t in = r % 64, from = r - in + in % 32 * 2 + in / 32;
                memcpy(p + r * row, old + from * row, row);
            }
            snprintf(name, sizeof name, "%s.bias", names[m]);
            edit_add(e, block_name(b, name), QN_F32, (const uint64_t[4]){rows, 1, 1, 1}, 1);
        }
    }
    edit_str(e, "general.architecture", "qwen2");
    for (int i = 0; i < e->n_kv; i++)
        if (!strncmp(e->kv[i].key, "llama.", 6))
            memcpy(e->kv[i].key, "qwen2.", 6);
    logits_of_edit(e, varied);
    edit_free(e);
    double worst = 0.0, largest = 0.0;
    for (int i = 0; i < ALL; i++) {
        double d = fabs((double)plain[i] - (double)varied[i]), size = fabs((double)plain[i]);
        worst = d <= worst ? worst : d; /* NaN stays */
        largest = size > largest ? size : largest;
    }
    print_message("llama as qwen2: max|a - b| %.2g of %.2g\n", worst, largest);
    assert_true(worst <= 1e-5 * largest);
}

/* Tensors whose rows go to several matrices, or from several places into one, in slices. */
static void test_two_nodes(void **state)
{
    topology_pretend(2, 2);
    no_numa = 0;
    test_fused_experts(state);
    test_ssm_in(state);
    test_tied(state);
    no_numa = 1;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        {.name = "variants/fused_experts", .test_func = test_fused_experts},
        {.name = "variants/ssm_in", .test_func = test_ssm_in},
        {.name = "variants/shared_gate", .test_func = test_shared_gate},
        {.name = "variants/tied", .test_func = test_tied},
        {.name = "variants/vector_types", .test_func = test_vector_types},
        {.name = "variants/matrix_types", .test_func = test_matrix_types},
        {.name = "variants/order", .test_func = test_order},
        {.name = "variants/split", .test_func = test_split},
        {.name = "variants/alignment", .test_func = test_alignment},
        {.name = "variants/keys", .test_func = test_keys},
        {.name = "variants/recurrent_layers", .test_func = test_recurrent_layers},
        {.name = "variants/nextn", .test_func = test_nextn},
        {.name = "variants/rope_tables", .test_func = test_rope_tables},
        {.name = "variants/rope_scaling", .test_func = test_rope_scaling},
        {.name = "variants/adjacent_pairs", .test_func = test_adjacent_pairs},
        {.name = "variants/two_nodes", .test_func = test_two_nodes},
    };
    return _cmocka_run_group_tests("variants", tests, sizeof tests / sizeof *tests, NULL, NULL);
}
