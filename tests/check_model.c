/* SPDX-License-Identifier: MIT */
/* The forward step against transformers: hash models of every architecture, f32 and bf16 files, with and without a nextn block.
 * Logits, hidden states behind every layer, greedy ids; then the same bits for every way of running the same tokens. */
#include "eval.h"
#include "golden.h"
#include "hashmodel.h"
#include "src/run.h"
#include "testing.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <xxhash.h>

static bool quick; /* test_quick() */

static const int prompts[] = {1, 7, 64, 65, 130, 200};
enum { N_PROMPTS = sizeof prompts / sizeof *prompts, VOCAB = 512, N_CTX = 1024 };

/* Largest |logprob - golden| over the stored top ids of all positions. */
static double check_prompt(qn_engine *e, const struct golden *g, int n)
{
    char name[64];
    int32_t ids[200];
    hash_prompt(n, ids);
    float *logits = malloc((size_t)n * VOCAB * sizeof *logits);
    qn_seq *s = eval_seq(e);
    struct qn_span sp = {.seq = s, .ids = ids, .n = n, .logits = QN_LOGITS_ALL};
    eval_spans(e, &sp, 1, logits);
    qn_seq_free(s);
    snprintf(name, sizeof name, "p%d_top_ids", n);
    const int32_t *top = golden_i32(g, name, NULL);
    snprintf(name, sizeof name, "p%d_top_logprobs", n);
    const float *lp = golden_f32(g, name, NULL);
    assert_non_null(top);
    assert_non_null(lp);
    double worst = 0.0;
    for (int t = 0; t < n; t++) {
        const float *row = logits + (size_t)t * VOCAB;
        double z = eval_lse(row, VOCAB);
        for (int i = 0; i < 8; i++) {
            double d = fabs(row[top[t * 8 + i]] - z - lp[t * 8 + i]);
            worst = d > worst || d != d ? d : worst;
        }
        int best = 0;
        for (int i = 1; i < VOCAB; i++)
            best = row[i] > row[best] ? i : best;
        assert_int_equal(best, top[t * 8]);
    }
    free(logits);
    return worst;
}

/* Hidden states of prompt 7: max|a - b| <= 1e-4 rms(b) per layer. */
static void check_hidden(qn_engine *e, const struct golden *g)
{
    int n_layer = e->model.hp.n_layer, h = e->model.hp.n_embd;
    size_t n = 7 * (size_t)h, got = 0;
    int32_t ids[7];
    hash_prompt(7, ids);
    float *trace = calloc((size_t)(n_layer + 1) * n, sizeof *trace);
    e->step.trace = trace;
    qn_seq *s = eval_seq(e);
    struct qn_span sp = {.seq = s, .ids = ids, .n = 7};
    eval_spans(e, &sp, 1, NULL);
    e->step.trace = NULL;
    qn_seq_free(s);
    const float *want = golden_f32(g, "p7_hidden", &got);
    assert_non_null(want);
    assert_int_equal(got, (size_t)(n_layer + 1) * n);
    for (int l = 0; l <= n_layer; l++) {
        double worst = 0.0, sum = 0.0;
        for (size_t i = 0; i < n; i++) {
            double b = want[(size_t)l * n + i], d = fabs(trace[(size_t)l * n + i] - b);
            worst = d > worst || d != d ? d : worst;
            sum += b * b;
        }
        if (!(worst <= 1e-4 * sqrt(sum / (double)n)))
            fail_msg("%s: behind layer %d: max|a - b| = %g, rms %g", e->model.hp.arch, l, worst, sqrt(sum / (double)n));
    }
    free(trace);
}

/* 32 greedy tokens after prompt 65. */
static void check_greedy(qn_engine *e, const struct golden *g)
{
    int32_t ids[65];
    float logits[VOCAB];
    hash_prompt(65, ids);
    const int32_t *want = golden_i32(g, "greedy_ids", NULL);
    const float *final = golden_f32(g, "greedy_final_logits", NULL);
    assert_non_null(want);
    assert_non_null(final);
    qn_seq *s = eval_seq(e);
    struct qn_span sp = {.seq = s, .ids = ids, .n = 65, .logits = QN_LOGITS_LAST};
    int32_t id = 0;
    for (int i = 0; i <= 32; i++) {
        eval_spans(e, &sp, 1, logits);
        if (i == 32)
            break;
        id = 0;
        for (int j = 1; j < VOCAB; j++)
            id = logits[j] > logits[id] ? j : id;
        assert_int_equal(id, want[i]);
        sp.ids = &id;
        sp.n = 1;
    }
    double z = eval_lse(logits, VOCAB), zf = eval_lse(final, VOCAB);
    for (int j = 0; j < VOCAB; j++)
        assert_true(fabs((logits[j] - z) - (final[j] - zf)) <= 1e-3); /* all of them, far tails too */
    qn_seq_free(s);
}

static void golden_model(const char *model, const char *type, enum qn_delta_form delta)
{
    char arch[32];
    snprintf(arch, sizeof arch, "%s", model);
    if (strchr(arch, '-'))
        *strchr(arch, '-') = 0;
    struct golden *g = golden_open(arch);
    assert_non_null(g);
    struct qn_options o = eval_options(hash_model_file(model, type), N_CTX);
    o.delta = delta;
    qn_engine *e = eval_open(&o);
    double worst = 0.0;
    for (int i = 0; i < N_PROMPTS; i++) {
        if (quick && prompts[i] > 65)
            break;
        double d = check_prompt(e, g, prompts[i]);
        worst = d > worst || d != d ? d : worst;
    }
    print_message("%s %s%s: max |delta logprob| %.2e\n", model, type, delta == QN_DELTA_CHUNKED ? " chunked" : "",
                  worst);
    assert_true(worst <= 2e-4);
    check_hidden(e, g);
    check_greedy(e, g);
    qn_close(e);
    golden_close(g);
}

static void test_golden(void **state)
{
    const char *model = *state;
    golden_model(model, "f32", QN_DELTA_EXACT);
    if (quick)
        return;
    golden_model(model, "bf16", QN_DELTA_EXACT);
    if (!strncmp(model, "qwen35", 6) || !strncmp(model, "qwen3next", 9))
        golden_model(model, "f32", QN_DELTA_CHUNKED);
}

/* ---- the same bits */

struct way {
    int threads, ubatch, cut; /* cut: tokens a call, 0 = all */
    bool company; /* beside three other sequences */
    const char *isa;
};

static uint64_t hash_way(const char *file, const struct way *w, int n)
{
    struct qn_options o = eval_options(file, N_CTX);
    o.n_threads = w->threads;
    o.n_ubatch = w->ubatch;
    o.n_seq = 4;
    o.isa = w->isa;
    o.type_k = o.type_v = QN_KV_F16;
    qn_engine *e = eval_open(&o);
    int v = e->model.hp.n_vocab;
    int32_t *ids = malloc((size_t)n * sizeof *ids);
    eval_ids(0, n, ids);
    float *logits = malloc(4 * (size_t)n * (size_t)v * sizeof *logits),
          *mine = malloc((size_t)n * (size_t)v * sizeof *mine);
    qn_seq *s[4];
    for (int i = 0; i < 4; i++)
        s[i] = eval_seq(e);
    for (int at = 0; at < n;) {
        int take = w->cut && w->cut < n - at ? w->cut : n - at;
        struct qn_span sp[4];
        int n_spans = 0, before = 0;
        for (int i = 0; i < 4; i++) { /* the others left and right of ours, with lengths of their own */
            int m = i == 2 ? take : w->company ? (at + 5 * i) % 11 + 1 : 0;
            struct qn_seq *seq = i == 2 ? s[0] : s[i < 2 ? i + 1 : i];
            if (m == 0 || (i != 2 && m > n - qn_seq_len(seq)))
                continue;
            if (i < 2)
                before += m;
            sp[n_spans++] =
                (struct qn_span){.seq = seq, .ids = i == 2 ? ids + at : ids + i, .n = m, .logits = QN_LOGITS_ALL};
        }
        eval_spans(e, sp, n_spans, logits);
        memcpy(mine + (size_t)at * (size_t)v, logits + (size_t)before * (size_t)v,
               (size_t)take * (size_t)v * sizeof *mine);
        at += take;
    }
    uint64_t h = XXH3_64bits(mine, (size_t)n * (size_t)v * sizeof *mine);
    for (int i = 0; i < 4; i++)
        qn_seq_free(s[i]);
    free(ids);
    free(logits);
    free(mine);
    qn_close(e);
    return h;
}

static void same_bits(const char *model, const char *type)
{
    static const struct way ways[] = {
        {1, 512, 0, false, NULL},   {2, 512, 0, false, NULL}, {3, 64, 0, false, NULL},
        {2, 7, 0, false, NULL},     {1, 1, 0, false, NULL},   {2, 512, 33, true, NULL},
        {2, 512, 100, false, NULL}, {2, 512, 1, true, NULL},  {5, 64, 17, true, NULL},
    };
    const int n = quick ? 70 : 150;
    const char *file = hash_model_file(model, type);
    uint64_t want = hash_way(file, &ways[0], n);
    for (size_t i = 1; i < sizeof ways / sizeof *ways; i++) {
        uint64_t h = hash_way(file, &ways[i], n);
        if (h != want)
            fail_msg("%s %s: %d threads, ubatch %d, cut %d, %s: logits hash %016llx, not %016llx", model, type,
                     ways[i].threads, ways[i].ubatch, ways[i].cut, ways[i].company ? "in company" : "alone",
                     (unsigned long long)h, (unsigned long long)want);
    }
    for (const char *const *l = simd_levels(); *l; l++) {
        struct way w = {2, 64, 0, false, *l};
        uint64_t h = hash_way(file, &w, n);
        if (h != want)
            fail_msg("%s %s: level %s: logits hash %016llx, not %016llx", model, type, *l, (unsigned long long)h,
                     (unsigned long long)want);
    }
}

static void test_same_bits(void **state)
{
    const char *model = *state;
    same_bits(model, "bf16");
}

static void test_same_bits_quantized(void **state)
{
    (void)state;
    same_bits("qwen35moe", "Q4_K");
    if (!quick)
        same_bits("qwen35", "IQ4_XS");
}

/* An argument chooses tests by a pattern of their names. */
int main(int argc, char **argv)
{
    quick = test_quick();
    static char names[64][48];
    struct CMUnitTest tests[64];
    int n = 0;
    for (int i = 0; hash_models[i]; i++) {
        snprintf(names[n], sizeof names[n], "golden/%s", hash_models[i]);
        tests[n] = (struct CMUnitTest){
            .name = names[n], .test_func = test_golden, .initial_state = (void *)(uintptr_t)hash_models[i]};
        n++;
    }
    for (int i = 0; hash_models[i]; i++) {
        if (strchr(hash_models[i], '-') ||
            (quick && strcmp(hash_models[i], "qwen3next") && strcmp(hash_models[i], "llama")))
            continue;
        snprintf(names[n], sizeof names[n], "same_bits/%s", hash_models[i]);
        tests[n] = (struct CMUnitTest){
            .name = names[n], .test_func = test_same_bits, .initial_state = (void *)(uintptr_t)hash_models[i]};
        n++;
    }
    tests[n++] = (struct CMUnitTest){.name = "same_bits/quantized", .test_func = test_same_bits_quantized};
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return _cmocka_run_group_tests("model", tests, (size_t)n, NULL, NULL);
}
