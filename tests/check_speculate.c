/* SPDX-License-Identifier: MIT */
/* Tokens that are tried have the logits of tokens that are evaluated one by one, bit for bit, and what does not stay of them leaves
 * neither in states nor in keys and values a trace. */
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

enum { VOCAB = 512, N = 300, N_DRAFT = 7, ROUND = N_DRAFT + 1 };

static int32_t ids[N];
static float *plain; /* [N][VOCAB] of ids, evaluated at once */

static uint64_t dice;
static int roll(int n) { return (int)(hash_splitmix64(dice++) % (uint64_t)n); }

static qn_engine *open_model(const char *model, const char *type, int n_threads, int n_seq)
{
    struct qn_options o = eval_options(hash_model_file(model, type), N);
    o.n_threads = n_threads;
    o.n_seq = n_seq;
    o.n_draft = N_DRAFT;
    o.cache_ram = 64 << 20;
    return eval_open(&o);
}

static void make_plain(qn_engine *e)
{
    eval_ids(5, N, ids);
    plain = realloc(plain, sizeof *plain * N * VOCAB);
    eval_prompt(e, ids, N, plain);
}

static void expect_row(const float *got, int row)
{
    if (memcmp(got, plain + (size_t)row * VOCAB, VOCAB * sizeof *got) != 0)
        fail_msg("logits of token %d are not those of plain evaluation", row);
}

/* Page b of s as it is saved. */
static void read_page(const qn_seq *s, int b, uint8_t *out)
{
    int end = s->n - b * ATTN_BLOCK, waiting = s->behind ? s->behind->n : 0;
    state_read_page(s->engine, s->page[b], end, end - waiting, out);
}

/* A sequence has what it would have had its tokens been evaluated one by one. */
static void check_memory(const qn_seq *s)
{
    const struct qn_engine *e = s->engine;
    if (s->n == 0)
        return;
    qn_seq *fresh = eval_seq(s->engine);
    size_t trunk =
        e->kv_block_bytes * (size_t)e->model.hp.n_head_kv * (size_t)e->model.n_attn; /* the draft block lags behind */
    uint8_t *a = malloc(e->page_bytes), *b = malloc(e->page_bytes);
    eval_append(fresh, s->ids, s->n, NULL);
    if (memcmp(s->state, fresh->state, e->state_bytes) || memcmp(s->conv, fresh->conv, e->conv_bytes))
        fail_msg("the recurrent state behind %d tokens is not that of plain evaluation", s->n);
    assert_int_equal(s->n_pages, fresh->n_pages);
    for (int p = 0; p < s->n_pages; p++) {
        read_page(s, p, a);
        read_page(fresh, p, b);
        if (memcmp(a, b, trunk) != 0)
            fail_msg("page %d of %d tokens is not that of plain evaluation", p, s->n);
    }
    free(a);
    free(b);
    qn_seq_free(fresh);
}

/* A span of s that is tried: its next token, then guesses, the first `right` of which come true. */
struct guess {
    int32_t ids[ROUND];
    int n, right;
};

static struct guess make_guess(const qn_seq *s)
{
    int left = N - s->n;
    struct guess g = {.n = 1 + roll(N_DRAFT + 1)};
    g.n = g.n < left ? g.n : left;
    g.right = 1 + roll(g.n);
    for (int i = 0; i < g.n; i++)
        g.ids[i] = i < g.right ? ids[s->n + i] : (ids[s->n + i] + 1 + roll(400)) % 490;
    return g;
}

/* Tries a guess for each of n sequences, checks the rows that are right and keeps some of them. */
static void round_of(qn_engine *e, qn_seq **s, int n)
{
    static float logits[4 * ROUND * VOCAB];
    struct guess g[4];
    struct qn_span spans[4];
    struct qn_error err;
    int keep[4], row = 0;
    for (int i = 0; i < n; i++) {
        g[i] = make_guess(s[i]);
        spans[i] = (struct qn_span){.seq = s[i], .ids = g[i].ids, .n = g[i].n, .logits = QN_LOGITS_ALL};
        keep[i] = roll(8) ? g[i].right : roll(g[i].right + 1);
    }
    if (qn_try(e, spans, n, logits, &err))
        fail_msg("%s", err.text);
    for (int i = 0; i < n; row += g[i++].n)
        for (int t = 0; t < g[i].right; t++)
            expect_row(logits + (size_t)(row + t) * VOCAB, s[i]->n + t);
    qn_commit(e, keep);
}

static void begin(qn_seq *s, int n)
{
    qn_seq_clear(s);
    eval_append(s, ids, n, NULL);
}

/* One sequence, from 90 tokens to the end: across a page, in steps of few and of many rows. */
static void one_by_one(const char *model, const char *type, int n_threads)
{
    qn_engine *e = open_model(model, type, n_threads, 2);
    make_plain(e);
    qn_seq *s = eval_seq(e);
    begin(s, 90);
    for (int i = 0; s->n < N; i++) {
        round_of(e, &s, 1);
        if (i % 8 == 0)
            check_memory(s);
    }
    check_memory(s);
    qn_seq_free(s);
    qn_close(e);
}

static void test_one(void **state)
{
    (void)state;
    static const char *const models[] = {"qwen3next", "qwen35", "qwen35moe", "qwen3", "qwen3moe", NULL};
    for (int i = 0; models[i] && (i == 0 || !test_quick()); i++)
        one_by_one(models[i], "f32", 1 + i % 3);
    one_by_one("qwen35moe", "Q4_K", 2);
    one_by_one("qwen35", "IQ3_S", 3);
}

/* Several sequences that share their beginning, and the store's snapshots between them. */
static void test_several(void **state)
{
    (void)state;
    static const char *const models[] = {"qwen3next", "qwen35moe", NULL};
    struct qn_error err;
    for (int m = 0; models[m]; m++) {
        qn_engine *e = open_model(models[m], "f32", 2, 4);
        make_plain(e);
        qn_seq *s[3] = {eval_seq(e)};
        begin(s[0], 100);
        if (qn_seq_fork(&s[1], s[0], &err) || qn_seq_fork(&s[2], s[0], &err))
            fail_msg("%s", err.text);
        for (int i = 0; i < (test_quick() ? 12 : 60); i++) {
            round_of(e, s, 3);
            qn_seq *any = s[roll(3)];
            if (roll(3) == 0)
                assert_int_equal(qn_seq_keep(any), 1);
            if (roll(4) == 0)
                qn_seq_resume(any, ids, 1 + roll(any->n), NULL);
            if (any->n > N - ROUND)
                qn_seq_resume(any, ids, 100 + roll(20), NULL);
            check_memory(any);
        }
        for (int i = 0; i < 3; i++)
            qn_seq_free(s[i]);
        qn_close(e);
    }
}

/* ---- the model's own draft block */

static const char *const drafters[] = {"qwen3next", "qwen35", "qwen35moe", NULL};

static qn_engine *open_drafter(const char *model, const char *type, int n_ubatch)
{
    static char name[64];
    snprintf(name, sizeof name, "%s-mtp", model);
    struct qn_options o = eval_options(hash_model_file(name, type), N);
    o.n_seq = 2;
    o.n_draft = N_DRAFT;
    o.n_ubatch = n_ubatch;
    o.draft_block = 1;
    o.cache_ram = 64 << 20;
    return eval_open(&o);
}

static int draft(qn_seq *s, int32_t next, int n, int32_t *out, float *logits)
{
    struct qn_error err;
    int got = qn_draft(s, next, n, out, logits, &err);
    if (got < 0)
        fail_msg("%s", err.text);
    return got;
}

/* Row p of a golden: from the state at p and token p + 1. */
static void expect_golden(const struct golden *g, const char *prompt, int p, const float *logits)
{
    enum { TOP = 8 };
    char name[64];
    snprintf(name, sizeof name, "mtp_%s_top_ids", prompt);
    const int32_t *top = golden_i32(g, name, NULL) + (size_t)p * TOP;
    snprintf(name, sizeof name, "mtp_%s_top_logprobs", prompt);
    const float *logprob = golden_f32(g, name, NULL) + (size_t)p * TOP;
    double lse = eval_lse(logits, VOCAB);
    assert_int_equal(eval_argmax(logits, VOCAB), top[0]);
    for (int i = 0; i < TOP; i++)
        if (fabs((double)logits[top[i]] - lse - (double)logprob[i]) > 2e-4)
            fail_msg("%s, guess behind token %d: log p(%d) is %g, the reference has %g", prompt, p + 1, top[i],
                     (double)logits[top[i]] - lse, (double)logprob[i]);
}

static void test_goldens(void **state)
{
    (void)state;
    static const struct {
        int n;
        const char *name;
    } prompts[] = {{7, "p7"}, {65, "p65"}, {200, "p200"}};
    for (int m = 0; drafters[m]; m++) {
        struct golden *g = golden_open(drafters[m]);
        assert_non_null(g);
        qn_engine *e = open_drafter(drafters[m], "f32", 0);
        qn_seq *s = eval_seq(e);
        for (int i = 0; i < 3; i++) {
            int32_t prompt[200], id;
            float logits[VOCAB];
            hash_prompt(prompts[i].n, prompt);
            qn_seq_clear(s);
            for (int p = 0; p + 1 < prompts[i].n; p++) {
                eval_append(s, prompt + p, 1, NULL);
                assert_int_equal(draft(s, prompt[p + 1], 1, &id, logits), 1);
                expect_golden(g, prompts[i].name, p, logits);
                assert_int_equal(id, eval_argmax(logits, VOCAB));
            }
        }
        qn_seq_free(s);
        qn_close(e);
        golden_close(g);
    }
}

/* Brings s behind ids[0..n), in one of several ways. */
static void reach(qn_seq *s, int n, int way)
{
    qn_engine *e = s->engine;
    static float logits[ROUND * VOCAB];
    int32_t guess[N_DRAFT];
    struct qn_error err;
    qn_seq_clear(s);
    while (s->n < n) {
        int left = n - s->n, rows = way == 0 ? left : way == 1 ? 1 : 1 + roll(left < 90 ? left : 90);
        struct qn_span sp = {.seq = s, .ids = ids + s->n, .n = rows};
        if (way < 3 || left < 3 || roll(3)) {
            eval_spans(e, &sp, 1, NULL);
        } else { /* as text is written with guesses */
            sp.n = rows < ROUND ? rows : ROUND;
            sp.logits = QN_LOGITS_ALL;
            if (roll(2))
                draft(s, ids[s->n], N_DRAFT, guess, NULL);
            if (qn_try(e, &sp, 1, logits, &err))
                fail_msg("%s", err.text);
            qn_commit(e, (int[]){1 + roll(sp.n)});
        }
        if (way == 4 && roll(4) == 0) { /* by way of a snapshot */
            int at = s->n;
            qn_seq_keep(s);
            qn_seq_clear(s);
            assert_int_equal(qn_seq_resume(s, ids, at + 1, NULL), at);
        }
    }
}

/* A session is made of its tokens alone, and guesses go on from it. */
static void check_saved(qn_seq *s)
{
    qn_engine *e = s->engine;
    struct qn_error err;
    static float want[VOCAB], got[VOCAB];
    char *file[2];
    size_t size[2];
    int32_t id;
    for (int i = 0; i < 2; i++) {
        const char *path = test_tmp(i ? "second" : "first");
        if (i == 1) { /* something else, in the pages that come next */
            qn_seq_clear(s);
            eval_append(s, ids + 30, 200, NULL);
            draft(s, ids[0], N_DRAFT, (int32_t[N_DRAFT]){0}, NULL);
        }
        reach(s, 140, 0);
        if (qn_seq_save(s, path, NULL, 0, &err))
            fail_msg("%s", err.text);
        file[i] = test_read(path, &size[i]);
        assert_int_equal(draft(s, ids[140], 1, &id, want), 1);
        if (qn_seq_load(s, path, NULL, NULL, &err))
            fail_msg("%s", err.text);
        assert_int_equal(draft(s, ids[140], 1, &id, got), 1);
        assert_memory_equal(got, want, sizeof want);
    }
    assert_int_equal(size[0], size[1]);
    assert_memory_equal(file[0], file[1], size[0]);
    free(file[0]);
    free(file[1]);
    struct qn_options o = eval_options(e->gguf->path, N);
    qn_engine *plain_engine = eval_open(&o);
    qn_seq *other = eval_seq(plain_engine);
    assert_int_equal(qn_seq_load(other, test_tmp("first"), NULL, NULL, &err), QN_E_ARGUMENT);
    assert_non_null(strstr(err.text, "with the model's draft block"));
    qn_seq_free(other);
    qn_close(plain_engine);
}

/* Guesses have the same bits however the tokens in front of them were evaluated. */
static void test_ways(void **state)
{
    (void)state;
    static const char *const types[] = {"f32", "Q4_K", NULL};
    for (int m = 0; drafters[m]; m++)
        for (int t = 0; types[t] && (t == 0 || m > 0); t++) {
            static float want[3 * VOCAB], got[3 * VOCAB];
            qn_engine *e = open_drafter(drafters[m], types[t], m == 0 ? 0 : 33);
            qn_seq *s = eval_seq(e);
            make_plain(e);
            for (int n = 1; n < 280; n += 1 + roll(test_quick() ? 90 : 40))
                for (int way = 0; way < 5; way++) {
                    int32_t guess[3];
                    reach(s, n, way);
                    assert_int_equal(draft(s, ids[n], 3, guess, way == 0 ? want : got), 3);
                    if (way > 0 && memcmp(got, want, sizeof want) != 0)
                        fail_msg("%s %s: guesses behind %d tokens, way %d, are others", drafters[m], types[t], n, way);
                    assert_int_equal(draft(s, ids[n], 3, guess, got), 0); /* nothing new */
                }
            check_memory(s);
            check_saved(s);
            qn_seq_free(s);
            qn_close(e);
        }
}

/* The block changes nothing in what is computed, and its bits do not depend on the number of workers. */
static void test_block(void **state)
{
    (void)state;
    static float want[N_DRAFT * VOCAB], got[N_DRAFT * VOCAB];
    for (int n_threads = 1; n_threads < 4; n_threads++) {
        struct qn_options o = eval_options(hash_model_file("qwen35moe-mtp", "Q6_K"), N);
        o.n_threads = n_threads;
        o.n_draft = N_DRAFT;
        o.draft_block = 1;
        qn_engine *e = eval_open(&o);
        qn_seq *s = eval_seq(e);
        int32_t guess[N_DRAFT];
        reach(s, 150, 0);
        assert_int_equal(draft(s, ids[150], N_DRAFT, guess, n_threads == 1 ? want : got), N_DRAFT);
        if (n_threads > 1)
            assert_memory_equal(got, want, sizeof want);
        reach(s, N - 2, 0);
        assert_int_equal(draft(s, ids[N - 2], N_DRAFT, guess, NULL), 2); /* the context ends */
        qn_seq_free(s);
        qn_close(e);
    }
}

static void expect_refused(qn_engine *e, qn_seq *s, int n, const char *what)
{
    static float logits[16 * VOCAB];
    struct qn_error err;
    struct qn_span sp = {.seq = s, .ids = ids, .n = n, .logits = QN_LOGITS_LAST};
    int before = s->n;
    assert_int_equal(qn_try(e, &sp, 1, logits, &err), QN_E_ARGUMENT);
    if (!strstr(err.text, what))
        fail_msg("\"%s\" does not say \"%s\"", err.text, what);
    assert_int_equal(s->n, before);
}

static void test_refused(void **state)
{
    (void)state;
    struct qn_options o = eval_options(hash_model_file("qwen35", "f32"), N);
    static float logits[VOCAB];
    struct qn_error err;
    qn_engine *e = eval_open(&o);
    qn_seq *s = eval_seq(e);
    int32_t id;
    expect_refused(e, s, 1, "1 tokens are tried, the engine was opened for 0");
    assert_int_equal(qn_draft(s, 0, 1, &id, NULL, &err), QN_E_ARGUMENT);
    qn_seq_free(s);
    qn_close(e);

    e = open_model("qwen35", "f32", 1, 1);
    s = eval_seq(e);
    expect_refused(e, s, ROUND + 1, "9 tokens, the engine was opened for 7 guesses");
    struct qn_span sp = {.seq = s, .ids = ids, .n = 2, .logits = QN_LOGITS_LAST};
    assert_int_equal(qn_try(e, &sp, 1, logits, &err), 0);
    assert_int_equal(qn_eval(e, &sp, 1, logits, &err), QN_E_ARGUMENT);
    expect_refused(e, s, 2, "qn_commit() has to say first");
    qn_commit(e, (int[]){1});
    assert_int_equal(s->n, 1);
    qn_commit(e, (int[]){1}); /* nothing is open */
    assert_int_equal(s->n, 1);
    assert_int_equal(qn_eval(e, &sp, 1, logits, &err), 0);
    assert_int_equal(qn_try(e, NULL, 0, NULL, &err), 0);
    qn_seq_free(s);
    qn_close(e);
    o.n_draft = 64;
    assert_int_equal(qn_open(&e, &o, &err), QN_E_ARGUMENT);
    o.n_draft = 1;
    o.draft_block = 1;
    assert_int_equal(qn_open(&e, &o, &err), QN_E_UNSUPPORTED);
    assert_non_null(strstr(err.text, "no block that drafts"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        {"speculate/one", test_one, NULL, NULL, NULL},         {"speculate/several", test_several, NULL, NULL, NULL},
        {"speculate/goldens", test_goldens, NULL, NULL, NULL}, {"speculate/ways", test_ways, NULL, NULL, NULL},
        {"speculate/block", test_block, NULL, NULL, NULL},     {"speculate/refused", test_refused, NULL, NULL, NULL},
    };
    int rc = cmocka_run_group_tests_name("speculate", tests, NULL, NULL);
    free(plain);
    return rc;
}
