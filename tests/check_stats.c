/* SPDX-License-Identifier: MIT */
/* Statistics of steps: the phases add up to the time that passes, counts follow from the model's shapes, and nothing of it
 * changes a logit. */
#include "eval.h"
#include "gguf.h"
#include "hashmodel.h"
#include "quant/quant.h"
#include "quern.h"
#include "testing.h"

#include <fnmatch.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

enum { PROMPT = 40, TOKENS = 10, ATTN_BLOCK = 128 };

struct run {
    qn_engine *e;
    qn_seq *seq;
    struct qn_model_info info;
    float *logits;
};

static void begin(struct run *r, const char *model, int n_threads)
{
    struct qn_options o = {.model = hash_model_file(model, "Q4_K"), .n_threads = n_threads, .n_ctx = 256};
    r->e = eval_open(&o);
    r->seq = eval_seq(r->e);
    qn_model_info(r->e, &r->info);
    r->logits = calloc((size_t)r->info.n_vocab, sizeof *r->logits);
}

static void end(struct run *r)
{
    qn_seq_free(r->seq);
    qn_close(r->e);
    free(r->logits);
}

static void advance(struct run *r, int n)
{
    int32_t ids[ATTN_BLOCK];
    eval_ids((uint64_t)qn_seq_len(r->seq), n, ids);
    struct qn_span sp = {.seq = r->seq, .ids = ids, .n = n, .logits = QN_LOGITS_LAST};
    eval_spans(r->e, &sp, 1, r->logits);
}

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void test_sum(void **state)
{
    (void)state;
    for (int n_threads = 1; n_threads <= 3; n_threads++) {
        struct run r;
        struct qn_stats s;
        begin(&r, "qwen35moe", n_threads);
        qn_stats_start(r.e);
        double start = now_s(), sum = 0;
        advance(&r, PROMPT);
        for (int i = 0; i < TOKENS; i++)
            advance(&r, 1);
        double wall = now_s() - start;
        qn_stats(r.e, &s);
        for (int p = 0; p < QN_PHASES; p++) {
            assert_true(s.phase_s[p] > 0);
            sum += s.phase_s[p];
        }
        assert_true(fabs(sum - s.seconds) <= 1e-6 * s.seconds);
        assert_true(s.seconds <= wall && s.seconds >= 0.8 * wall - 0.02);
        assert_true(s.wait_least_s <= s.phase_s[QN_PHASE_WAITING] && s.phase_s[QN_PHASE_WAITING] <= s.wait_most_s);
        assert_int_equal(s.steps, 1 + TOKENS);
        assert_int_equal(s.rows, PROMPT + TOKENS);
        end(&r);
    }
}

/* Barriers do not depend on the number of workers; an attention layer has one more than a delta-net layer for many rows, and for
 * few rows as many, or one more where the context is longer than a block. */
static void test_barriers(void **state)
{
    (void)state;
    int64_t few[2], many[2], deep[2];
    struct run r;
    for (int i = 0; i < 2; i++) {
        struct qn_stats s;
        begin(&r, "qwen35moe", 1 + i);
        qn_stats_start(r.e);
        advance(&r, PROMPT);
        qn_stats(r.e, &s);
        many[i] = s.barriers;
        qn_stats_start(r.e);
        advance(&r, 1);
        qn_stats(r.e, &s);
        few[i] = s.barriers;
        advance(&r, ATTN_BLOCK);
        qn_stats_start(r.e);
        advance(&r, 1);
        qn_stats(r.e, &s);
        deep[i] = s.barriers;
        end(&r);
    }
    assert_int_equal(few[0], few[1]);
    assert_int_equal(many[0], many[1]);
    assert_int_equal(deep[0], deep[1]);
    assert_int_equal(few[0], r.info.n_layer * 6 + 2);
    assert_in_range(deep[0], few[0] + 1, few[0] + r.info.n_layer / 2);
    assert_in_range(many[0], r.info.n_layer * 9 + 2, r.info.n_layer * 10 + 2);
}

/* Bytes in memory and weights of all matrices whose name is like one of the patterns, per matrix of experts. */
static void matrices(const char *model, const char *const *patterns, double *bytes, double *weights)
{
    struct qn_error err;
    struct gguf *g;
    assert_int_equal(gguf_open(&g, hash_model_file(model, "Q4_K"), false, &err), 0);
    *bytes = *weights = 0;
    for (size_t i = 0; i < g->n_tensors; i++) {
        const struct gguf_tensor *t = &g->tensors[i];
        const struct quant_type *type = quant_type_find(t->type);
        bool wanted = false;
        for (const char *const *w = patterns; *w; w++)
            wanted |= fnmatch(*w, t->name, 0) == 0;
        if (!wanted)
            continue;
        int64_t rows = t->ne[1];
        *bytes += type->layout == LAYOUT_ROWS ? (double)rows * (double)quant_row_bytes(type, t->ne[0])
                                              : (double)((rows + 15) / 16) * (double)pack_tile_bytes(type, t->ne[0]);
        *weights += type->rule == RULE_FLOAT ? 0 : (double)rows * (double)t->ne[0];
    }
    gguf_close(g);
}

static void test_work(void **state)
{
    (void)state;
    static const char *const of_phase[QN_PHASES][12] = {
        [QN_PHASE_PROJECTIONS] = {"blk.*.attn_[qkv].weight", "blk.*.attn_output.weight", "blk.*.attn_gate.weight",
                                  "blk.*.attn_qkv.weight", "blk.*.ssm_out.weight", "blk.*.ssm_beta.weight",
                                  "blk.*.ssm_alpha.weight"},
        [QN_PHASE_ROUTER] = {"blk.*.ffn_gate_inp*.weight"},
        [QN_PHASE_HEAD] = {"output.weight"},
    };
    struct run r;
    struct qn_stats s;
    begin(&r, "qwen35moe", 1);
    qn_stats_start(r.e);
    advance(&r, 1);
    qn_stats(r.e, &s);
    for (int p = 0; p < QN_PHASES; p++) {
        double bytes, weights;
        if (!of_phase[p][0])
            continue;
        matrices("qwen35moe", of_phase[p], &bytes, &weights);
        assert_true(bytes > 0);
        assert_true(s.bytes[p] == bytes);
        assert_true(s.int_ops[p] == 2 * weights);
    }
    static const char *const shared[] = {"blk.*.ffn_gate_shexp.weight", "blk.*.ffn_[ud]*_shexp.weight", NULL},
                             *const routed[] = {"blk.*.ffn_*_exps.weight", NULL};
    double bytes, weights, one_bytes, one_weights, used = (double)s.experts / (double)s.expert_layers;
    matrices("qwen35moe", shared, &bytes, &weights);
    matrices("qwen35moe", routed, &one_bytes, &one_weights);
    assert_int_equal(s.expert_layers, r.info.n_layer);
    assert_true(used > 1 && used == floor(used));
    assert_true(s.int_ops[QN_PHASE_EXPERTS] == 2 * (weights + used * one_weights));
    assert_true(s.bytes[QN_PHASE_EXPERTS] == bytes + used * one_bytes);
    assert_true(s.float_ops[QN_PHASE_ROUTER] > 0 && s.float_ops[QN_PHASE_DELTA] > 0);
    double kv = s.bytes[QN_PHASE_ATTENTION], attention = s.float_ops[QN_PHASE_ATTENTION];
    assert_true(kv > 0 && s.bytes[QN_PHASE_DELTA] > 0);
    for (int i = 0; i < 8; i++)
        advance(&r, 1);
    qn_stats(r.e, &s); /* 9 steps with 1 .. 9 positions to read and one to write */
    assert_true(s.bytes[QN_PHASE_ATTENTION] == kv / 2 * (45 + 9));
    assert_true(attention > 0 && s.float_ops[QN_PHASE_ATTENTION] == 45 * attention);
    qn_seq_clear(r.seq);
    qn_stats_start(r.e);
    advance(&r, 9); /* in one step */
    qn_stats(r.e, &s);
    assert_true(s.float_ops[QN_PHASE_ATTENTION] == 45 * attention);
    assert_true(s.bytes[QN_PHASE_ATTENTION] == kv / 2 * (9 + 9));
    end(&r);
}

/* A prompt's rows share experts: fewer different ones than choices, not more than there are. */
static void test_experts(void **state)
{
    (void)state;
    struct run r;
    struct qn_stats s;
    begin(&r, "qwen35moe", 2);
    qn_stats_start(r.e);
    advance(&r, PROMPT);
    qn_stats(r.e, &s);
    assert_int_equal(s.expert_layers, r.info.n_layer);
    assert_in_range(s.experts, r.info.n_layer, r.info.n_layer * 64);
    end(&r);
    begin(&r, "qwen35", 1); /* dense */
    qn_stats_start(r.e);
    advance(&r, 1);
    qn_stats(r.e, &s);
    assert_int_equal(s.experts, 0);
    assert_true(s.phase_s[QN_PHASE_ROUTER] == 0 && s.bytes[QN_PHASE_ROUTER] == 0);
    assert_true(s.phase_s[QN_PHASE_EXPERTS] > 0 && s.bytes[QN_PHASE_EXPERTS] > 0);
    end(&r);
}

/* Off until started, still when stopped, zero when started again; the logits are the same. */
static void test_switch(void **state)
{
    (void)state;
    struct run r;
    struct qn_stats s, t;
    begin(&r, "qwen35moe", 2);
    size_t bytes = (size_t)r.info.n_vocab * sizeof *r.logits;
    advance(&r, PROMPT);
    float *plain = malloc(bytes);
    memcpy(plain, r.logits, bytes);
    qn_stats(r.e, &s);
    assert_int_equal(s.steps, 0);
    qn_seq_clear(r.seq);
    qn_stats_start(r.e);
    advance(&r, PROMPT);
    assert_memory_equal(plain, r.logits, bytes);
    qn_stats_stop(r.e);
    qn_stats(r.e, &s);
    advance(&r, 1);
    qn_stats(r.e, &t);
    assert_memory_equal(&s, &t, sizeof s);
    assert_int_equal(t.rows, PROMPT);
    qn_stats_start(r.e);
    qn_stats(r.e, &t);
    assert_true(t.steps == 0 && t.seconds == 0 && t.bytes[QN_PHASE_HEAD] == 0);
    free(plain);
    end(&r);
    for (int p = 0; p < QN_PHASES; p++)
        assert_true(strlen(qn_phase_name((enum qn_phase)p)) > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        {.name = "stats/sum", .test_func = test_sum},       {.name = "stats/barriers", .test_func = test_barriers},
        {.name = "stats/work", .test_func = test_work},     {.name = "stats/experts", .test_func = test_experts},
        {.name = "stats/switch", .test_func = test_switch},
    };
    return _cmocka_run_group_tests("stats", tests, sizeof tests / sizeof *tests, NULL, NULL);
}
