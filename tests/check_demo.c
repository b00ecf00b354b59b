/* SPDX-License-Identifier: MIT */
/* The demo model, a really trained one, against its reference: perplexity and divergence on a text, transcripts with the
 * right ids forced, answers generated.  Needs the oracle folder: all files made from the bf16 one, text, transcripts. */
#include "eval.h"
#include "expand.h"
#include "testing.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

enum { CTX = 512, N_MADE = 7 };

/* Files made from demo-bf16.gguf, with the mean divergence of two other engines running the same file (from the oracle's
 * demo/README.md). */
static struct made {
    const char *name;
    double ml, ik;
    double ratio; /* ours / the smaller; 0 = not measured yet */
} made[N_MADE] = {
    {"q8_0", .001099, .001168, 0},    {"q6_k", .003491, .003245, 0},   {"q4_k_m", .019245, .018840, 0},
    {"iq4_xs", .019821, .020152, 0},  {"q3_k_m", .064697, .065319, 0}, {"iq3_xxs", .072705, .072515, 0},
    {"iq2_xxs", .223901, .223510, 0},
};

static const char *oracle(const char *name)
{
    const char *path = test_oracle(name);
    if (!path)
        skip();
    return path;
}

static const char *demo_file(const char *type)
{
    char name[64];
    snprintf(name, sizeof name, "demo/demo-%s.gguf", type);
    return oracle(name);
}

static qn_engine *open_demo(const char *path, enum qn_kv_type kv, int n_ctx)
{
    struct qn_options o = eval_options(path, n_ctx);
    o.type_k = o.type_v = kv;
    return eval_open(&o);
}

/* ---- the text: chunks from an empty state, of which the positions n_ctx / 2 .. n_ctx - 2 are scored */

static int text_ids(const qn_engine *e, int32_t **ids)
{
    struct qn_error err;
    size_t size;
    int n;
    char *text = test_read(oracle("text/ppl.txt"), &size);
    assert_non_null(text);
    if (qn_tokenize(e, text, size, NULL, 0, ids, &n, &err))
        fail_msg("%s", err.text);
    free(text);
    return n;
}

/* Calls fn for every scored position with its logits and the id that follows; returns their number. */
static int score_text(qn_engine *e, int n_ctx, void (*fn)(void *arg, int i, const float *logits, int32_t next),
                      void *arg)
{
    int32_t *ids;
    int n = text_ids(e, &ids), v = eval_n_vocab(e), scored = 0;
    float *logits = malloc((size_t)n_ctx * (size_t)v * sizeof *logits);
    assert_non_null(logits);
    for (int c = 0; c + n_ctx <= n; c += n_ctx) {
        eval_prompt(e, ids + c, n_ctx, logits);
        for (int t = n_ctx / 2; t < n_ctx - 1; t++)
            fn(arg, scored++, logits + (size_t)t * (size_t)v, ids[c + t + 1]);
    }
    free(logits);
    free(ids);
    return scored;
}

struct nll {
    int n_vocab;
    double sum;
};

static void add_nll(void *arg, int i, const float *logits, int32_t next)
{
    (void)i;
    struct nll *s = arg;
    s->sum += eval_nll(logits, s->n_vocab, next);
}

static void check_perplexity(int n_ctx)
{
    json_error_t je;
    char key[16];
    json_t *root = json_load_file(oracle("demo/perplexity.json"), 0, &je);
    snprintf(key, sizeof key, "%d", n_ctx);
    json_t *want = json_object_get(root, key);
    assert_non_null(want);
    double ppl = json_number_value(json_object_get(want, "ppl"));
    for (int kv = QN_KV_F16; kv <= QN_KV_F32; kv++) {
        qn_engine *e = open_demo(demo_file("bf16"), (enum qn_kv_type)kv, n_ctx);
        int32_t *ids;
        assert_int_equal(text_ids(e, &ids), json_integer_value(json_object_get(root, "tokens")));
        free(ids);
        struct nll s = {.n_vocab = eval_n_vocab(e)};
        int n = score_text(e, n_ctx, add_nll, &s);
        qn_close(e);
        double ours = exp(s.sum / n);
        print_message("context %4d, %s KV: perplexity %.4f, reference %.4f, %+.5f %%\n", n_ctx,
                      kv == QN_KV_F16 ? "f16" : "f32", ours, ppl, 100 * (ours / ppl - 1));
        assert_int_equal(n, json_integer_value(json_object_get(want, "scored")));
        assert_true(fabs(ours / ppl - 1) <= 1e-3);
    }
    json_decref(root);
}

static void test_perplexity_512(void **state)
{
    (void)state;
    check_perplexity(512);
}

static void test_perplexity_2048(void **state)
{
    (void)state;
    check_perplexity(2048);
}

/* ---- divergence from the bf16 file's own logits */

struct divergence {
    int n_vocab;
    float *base; /* [scored][n_vocab] */
    double sum;
};

static void keep_logits(void *arg, int i, const float *logits, int32_t next)
{
    (void)next;
    struct divergence *d = arg;
    memcpy(d->base + (size_t)i * (size_t)d->n_vocab, logits, (size_t)d->n_vocab * sizeof *logits);
}

static void add_kl(void *arg, int i, const float *logits, int32_t next)
{
    (void)next;
    struct divergence *d = arg;
    d->sum += eval_kl(d->base + (size_t)i * (size_t)d->n_vocab, logits, d->n_vocab);
}

/* Logits of the bf16 file with f32 KV, made at the first call. */
static struct divergence *bf16_logits(void)
{
    static struct divergence d;
    if (d.base)
        return &d;
    qn_engine *e = open_demo(demo_file("bf16"), QN_KV_F32, CTX);
    int32_t *ids;
    int n = text_ids(e, &ids);
    free(ids);
    d.n_vocab = eval_n_vocab(e);
    d.base = malloc((size_t)(n / 2) * (size_t)d.n_vocab * sizeof *d.base); /* half of the positions are scored */
    assert_non_null(d.base);
    score_text(e, CTX, keep_logits, &d);
    qn_close(e);
    return &d;
}

static void test_divergence(void **state)
{
    struct made *m = *state;
    const char *path = demo_file(m->name);
    struct divergence *d = bf16_logits();
    d->sum = 0;
    qn_engine *e = open_demo(path, QN_KV_F16, CTX); /* as a file is run by default */
    int n = score_text(e, CTX, add_kl, d);
    qn_close(e);
    double kl = d->sum / n;
    m->ratio = kl / fmin(m->ml, m->ik);
    print_message("%-8s mean KL %.6f  ml %.6f  ik %.6f  ratio %.4f\n", m->name, kl, m->ml, m->ik, m->ratio);
    assert_true(m->ratio <= 1.05);
}

static void test_divergence_all(void **state)
{
    (void)state;
    oracle("demo/README.md");
    double log_sum = 0;
    for (int i = 0; i < N_MADE; i++) {
        assert_true(made[i].ratio > 0);
        log_sum += log(made[i].ratio);
    }
    double mean = exp(log_sum / N_MADE);
    print_message("geometric mean of the ratios %.4f\n", mean);
    assert_true(mean <= 1.0);
}

/* ---- transcripts: prompt and answer of the reference */

struct row {
    const char *task, *prompt, *text;
    json_t *json;
    int32_t *ids; /* [n] prompt, then answer */
    int n, n_prompt;
    float *margin; /* [n - n_prompt] of the reference: best logit minus second */
    float *logprob; /* [n - n_prompt] of the reference */
};

static struct row *rows;
static int n_rows;

static float *floats(const json_t *a)
{
    size_t n = json_array_size(a);
    float *x = malloc((n + 1) * sizeof *x);
    assert_non_null(x);
    for (size_t i = 0; i < n; i++)
        x[i] = (float)json_number_value(json_array_get(a, i));
    return x;
}

static void read_row(struct row *r, json_t *j)
{
    const json_t *prompt = json_object_get(j, "prompt_ids"), *ids = json_object_get(j, "ids");
    *r = (struct row){.json = j,
                      .task = json_string_value(json_object_get(j, "task")),
                      .prompt = json_string_value(json_object_get(j, "prompt")),
                      .text = json_string_value(json_object_get(j, "text")),
                      .n_prompt = (int)json_array_size(prompt),
                      .n = (int)(json_array_size(prompt) + json_array_size(ids)),
                      .margin = floats(json_object_get(j, "margin")),
                      .logprob = floats(json_object_get(j, "logprob"))};
    assert_int_equal(json_array_size(json_object_get(j, "margin")), r->n - r->n_prompt);
    assert_int_equal(json_array_size(json_object_get(j, "logprob")), r->n - r->n_prompt);
    assert_true(r->n_prompt > 0 && r->n > r->n_prompt);
    r->ids = malloc((size_t)r->n * sizeof *r->ids);
    assert_non_null(r->ids);
    for (int i = 0; i < r->n; i++)
        r->ids[i] = (int32_t)json_integer_value(i < r->n_prompt ? json_array_get(prompt, (size_t)i)
                                                                : json_array_get(ids, (size_t)(i - r->n_prompt)));
}

static void read_transcripts(void)
{
    const char *path = oracle("demo/transcripts.jsonl");
    if (rows)
        return;
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    rows = calloc(128, sizeof *rows);
    assert_non_null(rows);
    for (json_t *j; n_rows < 128 && (j = json_loadf(f, JSON_DISABLE_EOF_CHECK, NULL));)
        read_row(&rows[n_rows++], j);
    fclose(f);
    assert_true(n_rows > 60 && n_rows < 128);
}

/* Logits in front of each id of the answer: [n - n_prompt][n_vocab], malloc. */
static float *forced(qn_engine *e, const struct row *r)
{
    int v = eval_n_vocab(e), n = r->n - r->n_prompt;
    float *x = malloc((size_t)n * (size_t)v * sizeof *x);
    assert_non_null(x);
    qn_seq *s = eval_seq(e);
    struct qn_span head = {.seq = s, .ids = r->ids, .n = r->n_prompt, .logits = QN_LOGITS_LAST};
    struct qn_span tail = {.seq = s, .ids = r->ids + r->n_prompt, .n = n - 1, .logits = QN_LOGITS_ALL};
    eval_spans(e, &head, 1, x);
    if (n > 1)
        eval_spans(e, &tail, 1, x + v);
    qn_seq_free(s);
    return x;
}

struct agreement {
    const char *name;
    double margin; /* above it the best token must be the same */
    int n, equal, n_clear, wrong; /* positions, equal ones, those above the margin, unequal ones among these */
    double lowest; /* largest margin of an unequal position */
};

static void agree(struct agreement *a, const struct row *r, int i, double margin, bool equal)
{
    a->n++;
    a->equal += equal;
    a->n_clear += margin > a->margin;
    if (equal)
        return;
    a->lowest = fmax(a->lowest, margin);
    if (margin > a->margin) {
        a->wrong++;
        print_message("%s: task %s, id %d of the answer differs, reference margin %.4f\n", a->name, r->task, i, margin);
    }
}

static void check_agreement(const struct agreement *a)
{
    print_message("%-8s %d of %d best tokens equal (%.2f %%), %d of %d with a margin above %.2f; largest margin of an "
                  "unequal one "
                  "%.4f\n",
                  a->name, a->equal, a->n, 100.0 * a->equal / a->n, a->n_clear - a->wrong, a->n_clear, a->margin,
                  a->lowest);
    assert_true(a->n > 1000);
    assert_int_equal(a->wrong, 0);
    assert_true(a->equal >= 0.99 * a->n);
}

/* The bf16 file against the reference's greedy ids; with f32 KV their log-probabilities too. */
static void test_transcripts_bf16(void **state)
{
    (void)state;
    read_transcripts();
    for (int kv = QN_KV_F16; kv <= QN_KV_F32; kv++) {
        struct agreement a = {.name = kv == QN_KV_F16 ? "bf16" : "bf16, f32 KV", .margin = 0.02};
        qn_engine *e = open_demo(demo_file("bf16"), (enum qn_kv_type)kv, 2048);
        int v = eval_n_vocab(e);
        double worst = 0.0;
        for (int i = 0; i < n_rows; i++) {
            const struct row *r = &rows[i];
            float *x = forced(e, r);
            for (int t = 0; t < r->n - r->n_prompt; t++) {
                const float *logits = x + (size_t)t * (size_t)v;
                int32_t id = r->ids[r->n_prompt + t];
                agree(&a, r, t, r->margin[t], eval_argmax(logits, v) == id);
                double d = fabs(eval_nll(logits, v, id) + r->logprob[t]);
                worst = d <= worst ? worst : d; /* NaN stays */
            }
            free(x);
        }
        qn_close(e);
        print_message("%s: max |delta logprob| %.2e\n", a.name, worst);
        check_agreement(&a);
        assert_true(kv == QN_KV_F16 || worst <= 2e-4);
    }
}

/* Best logit minus second. */
static double margin_of(const float *x, int n)
{
    int best = eval_argmax(x, n);
    float second = -INFINITY;
    for (int i = 0; i < n; i++)
        second = i != best && x[i] > second ? x[i] : second;
    return x[best] - second;
}

/* A quantized file against its own dequantized weights run as f32. */
static void test_transcripts(void **state)
{
    const struct made *m = *state;
    read_transcripts();
    const char *path = demo_file(m->name), *f32 = expand_file(path, "demo-f32.gguf");
    struct agreement a = {.name = m->name, .margin = 0.2};
    qn_engine *e = open_demo(path, QN_KV_F16, 2048), *exact = open_demo(f32, QN_KV_F32, 2048);
    int v = eval_n_vocab(e);
    for (int i = 0; i < n_rows; i++) {
        const struct row *r = &rows[i];
        float *x = forced(e, r), *y = forced(exact, r);
        for (int t = 0; t < r->n - r->n_prompt; t++) {
            const float *ours = x + (size_t)t * (size_t)v, *want = y + (size_t)t * (size_t)v;
            agree(&a, r, t, margin_of(want, v), eval_argmax(ours, v) == eval_argmax(want, v));
        }
        free(x);
        free(y);
    }
    qn_close(e);
    qn_close(exact);
    unlink(f32);
    check_agreement(&a);
}

/* ---- prompts and answers as text */

/* Messages to text to ids, with the file's own template and tokenizer. */
static void test_prompts(void **state)
{
    (void)state;
    read_transcripts();
    qn_engine *e = open_demo(demo_file("bf16"), QN_KV_F16, 2048);
    for (int i = 0; i < n_rows; i++) {
        const struct row *r = &rows[i];
        struct qn_error err;
        struct qn_text text = {0};
        json_t *messages = json_object_get(r->json, "messages"), *tools = json_object_get(r->json, "tools");
        char *m = messages ? json_dumps(messages, 0) : NULL, *t = json_is_array(tools) ? json_dumps(tools, 0) : NULL;
        struct qn_render_args args = {
            .messages = m, .tools = t, .kwargs = "{\"enable_thinking\": false}", .add_generation_prompt = 1};
        if (m && qn_render(e, &args, &text, &err))
            fail_msg("%s", err.text);
        if (m)
            assert_string_equal(text.bytes, r->prompt);
        int32_t *ids;
        int n;
        if (qn_tokenize(e, r->prompt, strlen(r->prompt), text.special, QN_TOK_SPECIAL, &ids, &n, &err))
            fail_msg("%s", err.text);
        assert_int_equal(n, r->n_prompt);
        assert_memory_equal(ids, r->ids, (size_t)n * sizeof *ids);
        free(ids);
        qn_text_free(&text);
        free(m);
        free(t);
    }
    qn_close(e);
}

/* Greedy answer to a prompt that comes turn by turn, as text. */
static void answer(qn_engine *e, const struct row *r, char *text, size_t room)
{
    int v = eval_n_vocab(e);
    int32_t end = qn_token_find(e, "<|im_end|>"), id;
    float *logits = malloc((size_t)v * sizeof *logits);
    assert_non_null(logits);
    qn_seq *s = eval_seq(e);
    for (int at = 0, n; at < r->n_prompt; at += n) {
        for (n = 1; at + n < r->n_prompt && r->ids[at + n - 1] != end; n++) {
        }
        struct qn_span sp = {.seq = s, .ids = r->ids + at, .n = n, .logits = QN_LOGITS_LAST};
        eval_spans(e, &sp, 1, logits);
    }
    struct qn_detok d = {0};
    size_t used = 0;
    for (int i = 0; i < 64 && !qn_token_is_stop(e, id = eval_argmax(logits, v)); i++) {
        used += qn_detok_put(&d, e, id, 0, text + used, room - used);
        struct qn_span sp = {.seq = s, .ids = &id, .n = 1, .logits = QN_LOGITS_LAST};
        eval_spans(e, &sp, 1, logits);
    }
    used += qn_detok_end(&d, text + used, room - used);
    text[used] = 0;
    qn_seq_free(s);
    free(logits);
}

static void test_recall(void **state)
{
    (void)state;
    read_transcripts();
    qn_engine *e = open_demo(demo_file("bf16"), QN_KV_F16, 2048);
    int n = 0;
    for (int i = 0; i < n_rows; i++) {
        char text[8192];
        if (strcmp(rows[i].task, "recall") != 0)
            continue;
        answer(e, &rows[i], text, sizeof text);
        assert_string_equal(text, rows[i].text);
        n++;
    }
    print_message("%d answers equal\n", n);
    assert_int_equal(n, 8);
    qn_close(e);
}

int main(void)
{
    static char names[2 * N_MADE][40];
    struct CMUnitTest tests[2 * N_MADE + 6];
    int n = 0;
    tests[n++] = (struct CMUnitTest){.name = "perplexity/512", .test_func = test_perplexity_512};
    if (!test_quick())
        tests[n++] = (struct CMUnitTest){.name = "perplexity/2048", .test_func = test_perplexity_2048};
    for (int i = 0; i < (test_quick() ? 0 : N_MADE); i++) {
        snprintf(names[i], sizeof names[i], "divergence/%s", made[i].name);
        tests[n++] = (struct CMUnitTest){.name = names[i], .test_func = test_divergence, .initial_state = &made[i]};
    }
    if (!test_quick()) {
        tests[n++] = (struct CMUnitTest){.name = "divergence/all", .test_func = test_divergence_all};
        tests[n++] = (struct CMUnitTest){.name = "transcripts/bf16", .test_func = test_transcripts_bf16};
    }
    for (int i = 0; i < (test_quick() ? 0 : N_MADE); i++) {
        char *name = names[N_MADE + i];
        snprintf(name, sizeof names[0], "transcripts/%s", made[i].name);
        tests[n++] = (struct CMUnitTest){.name = name, .test_func = test_transcripts, .initial_state = &made[i]};
    }
    tests[n++] = (struct CMUnitTest){.name = "text/prompts", .test_func = test_prompts};
    tests[n++] = (struct CMUnitTest){.name = "text/recall", .test_func = test_recall};
    return _cmocka_run_group_tests("demo", tests, (size_t)n, NULL, NULL);
}
