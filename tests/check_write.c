/* SPDX-License-Identifier: MIT */
/* Writing with guesses gives the text that writing without them gives, whoever guesses and however much. */
#include "eval.h"
#include "hashmodel.h"
#include "testing.h"
#include "tools/write.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { LONGEST = 80 };

/* ---- the search for what came before */

static void test_search(void **state)
{
    (void)state;
    static const struct {
        int32_t ids[12];
        int n, most, found;
        int32_t want[4];
    } cases[] = {
        {{1, 2, 3, 4, 1, 2}, 6, 3, 3, {3, 4, 1}}, /* up to the end, which goes on from there */
        {{1, 2, 3, 4, 1, 2}, 6, 1, 1, {3}},
        {{1, 2, 3, 9, 1, 2, 5, 9, 1, 2}, 10, 1, 1, {5}}, /* of equally long ones the latest */
        {{7, 1, 2, 3, 9, 1, 2, 5, 7, 1, 2}, 11, 1, 1, {3}}, /* but the longest first */
        {{1, 2, 3, 4, 5, 2}, 6, 3, 0, {0}}, /* one token is not enough */
        {{5, 5, 5, 5}, 4, 3, 1, {5}},
        {{1, 2}, 2, 3, 0, {0}},
        {{1}, 1, 3, 0, {0}},
        {{0}, 0, 3, 0, {0}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int32_t out[4] = {0};
        int n = write_search(cases[i].ids, cases[i].n, cases[i].most, out);
        if (n != cases[i].found || memcmp(out, cases[i].want, (size_t)n * sizeof *out))
            fail_msg("case %zu: %d found, first %d", i, n, out[0]);
    }
}

/* ---- the same text */

struct way {
    enum drafter drafter;
    int most;
    bool always; /* guess, whether or not it pays */
};

struct text {
    int32_t ids[LONGEST];
    int n;
};

static struct qn_sampling sampling(int seed)
{
    struct qn_sampling p = {
        .seed = (uint64_t)seed, .top_p = 1, .repeat_penalty = 1, .min_keep = 1, .penalty_last_n = 64};
    if (seed) { /* not greedy */
        p.temperature = 0.8f;
        p.top_k = 40;
        p.repeat_penalty = 1.1f;
        const enum qn_sampler_kind order[] = {QN_S_PENALTIES, QN_S_TOP_K, QN_S_TEMPERATURE, QN_S_END};
        memcpy(p.order, order, sizeof order);
    }
    return p;
}

/* What is written behind a prompt, until a stop token. */
static struct text text_of(struct writer *w, const int32_t *prompt, int n, int room, int seed)
{
    struct qn_error err;
    struct qn_sampling p = sampling(seed);
    qn_sampler *sampler;
    struct text t = {0};
    qn_seq_clear(w->seq);
    struct qn_span span = {.seq = w->seq, .ids = prompt, .n = n, .logits = QN_LOGITS_LAST};
    eval_spans(w->e, &span, 1, w->rows);
    write_begin(w, room);
    if (qn_sampler_new(&sampler, w->e, &p, &err))
        fail_msg("%s", err.text);
    for (;;) {
        int32_t id = qn_sampler_pick(sampler, w->ahead);
        t.ids[t.n++] = id;
        if (qn_token_is_stop(w->e, id) || t.n == LONGEST)
            break;
        assert_int_equal(write_len(w), n + t.n - 1);
        if (write_next(w, id, &err))
            fail_msg("%s", err.text);
    }
    write_end(w);
    assert_int_equal(qn_seq_len(w->seq), n + t.n - 1); /* the last one was not evaluated */
    assert_memory_equal(qn_seq_ids(w->seq) + n, t.ids, (size_t)(t.n - 1) * sizeof *t.ids);
    qn_sampler_free(sampler);
    return t;
}

/* Prompts are made by the caller: prompt i is ids + i * len. */
static void compare(const char *file, const struct way *way, const int32_t *prompts, int n_prompts, int len, int n_ctx,
                    struct write_figures *figures)
{
    struct qn_options o = eval_options(file, n_ctx);
    o.n_draft = way->most;
    o.draft_block = way->drafter == DRAFT_MTP;
    o.n_seq = 2;
    o.n_threads = 1; /* these models are so small that two would mostly wait for each other */
    qn_engine *e = eval_open(&o);
    struct writer plain, guessing;
    write_open(&plain, e, eval_seq(e), DRAFT_OFF, 0);
    write_open(&guessing, e, eval_seq(e), way->drafter, way->most);
    guessing.always = way->always;
    for (int i = 0; i < n_prompts; i++) {
        int seed = i % 2 ? i : 0;
        struct text a = text_of(&plain, prompts + i * len, len, n_ctx, seed),
                    b = text_of(&guessing, prompts + i * len, len, n_ctx, seed);
        if (a.n != b.n || memcmp(a.ids, b.ids, (size_t)a.n * sizeof *a.ids))
            fail_msg("%s, prompt %d, drafter %d: the text is another one", file, i, (int)way->drafter);
    }
    *figures = guessing.figures;
    if (!way->always) /* there were steps without guesses to compare with */
        assert_true(write_gain(&guessing.figures) > 0);
    qn_seq *s[] = {plain.seq, guessing.seq};
    write_close(&plain);
    write_close(&guessing);
    qn_seq_free(s[0]);
    qn_seq_free(s[1]);
    qn_close(e);
}

/* The demo model, which repeats itself now and then. */
static void test_demo(void **state)
{
    (void)state;
    enum { LEN = 24 };
    static const char *const who[] = {"the king",      "a dog", "my friend", "the river", "an engineer",
                                      "the old house", "she",   "a student", "the sun",   "my mother"};
    int n = test_quick() ? 4 : getenv("QUERN_LONG") ? 200 : 12;
    int32_t *prompts = malloc(sizeof *prompts * (size_t)n * LEN);
    struct qn_options o = eval_options(test_data("demo.gguf"), 64);
    struct qn_error err;
    o.vocab_only = 1;
    qn_engine *e = eval_open(&o);
    for (int i = 0; i < n; i++) {
        char text[400];
        int n_ids;
        int32_t *ids;
        snprintf(text, sizeof text,
                 "Story %d. One day %s went out, and one day %s came back, and one day %s went out, and one day", i,
                 who[i % 10], who[i / 10 % 10], who[i % 10]);
        if (qn_tokenize(e, text, strlen(text), NULL, 0, &ids, &n_ids, &err))
            fail_msg("%s", err.text);
        assert_true(n_ids >= LEN);
        memcpy(prompts + i * LEN, ids + n_ids - LEN, LEN * sizeof *ids);
        free(ids);
    }
    qn_close(e);
    static const struct way ways[] = {{DRAFT_NGRAM, 3, true}, {DRAFT_NGRAM, 7, false}};
    for (int w = 0; w < 2; w++) {
        struct write_figures f;
        compare(test_data("demo.gguf"), &ways[w], prompts, n, LEN, LEN + LONGEST, &f);
        if (ways[w].always) /* it is not all for nothing, nor all right */
            assert_in_range(f.n_right, f.n_guessed / 10, f.n_guessed - 1);
    }
    free(prompts);
}

/* The draft blocks of the hash models, on whose guesses nothing depends; a context that ends in the middle. */
static void test_blocks(void **state)
{
    (void)state;
    static const char *const models[] = {"qwen3next-mtp", "qwen35-mtp", "qwen35moe-mtp", NULL};
    enum { N = 6, LEN = 65 };
    int32_t prompts[N * LEN];
    eval_ids(99, N * LEN, prompts);
    for (int m = 0; models[m]; m++) {
        struct write_figures f;
        compare(hash_model_file(models[m], "f32"), &(struct way){DRAFT_MTP, 3, true}, prompts, N, LEN, LEN + LONGEST,
                &f);
        assert_true(f.n_guessed > 0);
        compare(hash_model_file(models[m], "f32"), &(struct way){DRAFT_MTP, 7, false}, prompts, 2, LEN, LEN + LONGEST,
                &f);
        compare(hash_model_file(models[m], "f32"), &(struct way){DRAFT_NGRAM, 63, true}, prompts, 2, LEN, LEN + LONGEST,
                &f);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        {"write/search", test_search, NULL, NULL, NULL},
        {"write/demo", test_demo, NULL, NULL, NULL},
        {"write/blocks", test_blocks, NULL, NULL, NULL},
    };
    return cmocka_run_group_tests_name("write", tests, NULL, NULL);
}
