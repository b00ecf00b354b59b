/* SPDX-License-Identifier: MIT */
/* The same continuation, come to by every way that a state can take: the logits behind a prompt have one hash, whether it was computed
 * just now, brought back from memory, from a session's file or from the cache folder, forked, gone back to, or read beside seven
 * other sequences of other lengths.  QUERN_LONG: with more types of weights. */
#include "eval.h"
#include "hashmodel.h"
#include "src/run.h"
#include "testing.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <xxhash.h>

enum { VOCAB = 512, N_PROMPT = 300, MORE = 12, N_IDS = N_PROMPT + MORE, N_CTX = 512, N_SEQ = 8, OURS = 2 };

static int32_t ids[N_IDS], other[N_SEQ][N_IDS];

static void make_ids(void)
{
    eval_ids(0, N_IDS, ids);
    for (int s = 0; s < N_SEQ; s++)
        eval_ids((uint64_t)s + 1, N_IDS, other[s]);
}

/* Reads on behind the prompt, in pieces: the hash of the rows of logits. */
static uint64_t go_on(qn_seq *s)
{
    static float logits[MORE * VOCAB];
    assert_int_equal(qn_seq_len(s), N_PROMPT);
    eval_append(s, ids + N_PROMPT, 1, logits);
    eval_append(s, ids + N_PROMPT + 1, MORE - 1, logits + VOCAB);
    return XXH3_64bits(logits, sizeof logits);
}

/* ---- the ways.  Each gets an engine of its own. */

static qn_seq *read_prompt(const struct qn_options *o)
{
    qn_seq *s = eval_seq(eval_open(o));
    eval_append(s, ids, N_PROMPT, NULL);
    return s;
}

/* Of its engine, too. */
static void end(qn_seq *s)
{
    qn_engine *e = s->engine;
    qn_seq_free(s);
    qn_close(e);
}

static uint64_t fresh(const struct qn_options *o)
{
    qn_seq *s = read_prompt(o);
    uint64_t hash = go_on(s);
    end(s);
    return hash;
}

/* Another prompt takes the sequence in between. */
static uint64_t from_memory(const struct qn_options *o)
{
    struct qn_kept kept;
    qn_seq *s = read_prompt(o);
    assert_int_equal(qn_seq_keep(s), 1);
    eval_append(s, other[0], MORE, NULL);
    assert_int_equal(qn_seq_resume(s, other[1], N_IDS, NULL), 0);
    eval_append(s, other[1], N_IDS, NULL);
    assert_int_equal(qn_seq_resume(s, ids, N_IDS, &kept), N_PROMPT);
    assert_int_equal(kept.disk, 0);
    uint64_t hash = go_on(s);
    end(s);
    return hash;
}

static uint64_t from_session(const struct qn_options *o)
{
    struct qn_error err;
    const char *path = test_tmp("session");
    qn_seq *s = read_prompt(o);
    assert_int_equal(qn_seq_save(s, path, NULL, 0, &err), 0);
    end(s);
    s = eval_seq(eval_open(o));
    if (qn_seq_load(s, path, NULL, NULL, &err))
        fail_msg("%s", err.text);
    uint64_t hash = go_on(s);
    end(s);
    return hash;
}

static uint64_t from_folder(const struct qn_options *like)
{
    struct qn_kept kept;
    struct qn_options o = *like;
    o.cache_dir = test_tmp_folder("folder");
    qn_seq *s = read_prompt(&o);
    assert_int_equal(qn_seq_keep(s), 1);
    end(s);
    s = eval_seq(eval_open(&o));
    assert_int_equal(qn_seq_resume(s, ids, N_IDS, &kept), N_PROMPT);
    assert_int_equal(kept.disk, N_PROMPT);
    uint64_t hash = go_on(s);
    end(s);
    return hash;
}

/* What it was forked from goes elsewhere first. */
static uint64_t forked(const struct qn_options *o)
{
    struct qn_error err;
    qn_engine *e = eval_open(o);
    qn_seq *s = eval_seq(e), *fork;
    eval_append(s, ids, N_PROMPT, NULL);
    assert_int_equal(qn_seq_fork(&fork, s, &err), 0);
    eval_append(s, other[0], MORE, NULL);
    uint64_t hash = go_on(fork);
    qn_seq_free(fork);
    end(s);
    return hash;
}

/* An answer, then another one in its place. */
static uint64_t regenerated(const struct qn_options *o)
{
    qn_seq *s = read_prompt(o);
    assert_int_equal(qn_seq_keep(s), 1);
    eval_append(s, other[0], MORE, NULL);
    assert_int_equal(qn_seq_rewind(s, N_PROMPT), N_PROMPT);
    uint64_t hash = go_on(s);
    end(s);
    return hash;
}

/* Eight sequences in every call, each of another length and place. */
static uint64_t in_company(const struct qn_options *o)
{
    static const int begin[N_SEQ] = {1, 40, 0, 130, 7, 255, 64, 128},
                     prompt[N_SEQ] = {150, 9, N_PROMPT, 33, 200, 1, 64, 5};
    static float logits[N_SEQ * VOCAB];
    struct qn_span spans[N_SEQ];
    qn_engine *e = eval_open(o);
    qn_seq *s[N_SEQ];
    for (int i = 0; i < N_SEQ; i++) {
        s[i] = eval_seq(e);
        if (begin[i])
            eval_append(s[i], other[i], begin[i], NULL);
        spans[i] = (struct qn_span){s[i], i == OURS ? ids : other[i], prompt[i], QN_LOGITS_LAST};
    }
    eval_spans(e, spans, N_SEQ, logits);
    XXH3_state_t *state = XXH3_createState();
    XXH3_64bits_reset(state);
    for (int t = 0; t < MORE; t++) {
        for (int i = 0; i < N_SEQ; i++) {
            spans[i].ids = i == OURS ? ids + N_PROMPT + t : other[i] + t;
            spans[i].n = i == OURS ? 1 : 1 + (i + t) % 3;
        }
        eval_spans(e, spans, N_SEQ, logits);
        XXH3_64bits_update(state, logits + (size_t)OURS * VOCAB, VOCAB * sizeof *logits);
    }
    uint64_t hash = XXH3_64bits_digest(state);
    XXH3_freeState(state);
    for (int i = 0; i < N_SEQ; i++)
        qn_seq_free(s[i]);
    qn_close(e);
    return hash;
}

static const struct {
    const char *name;
    uint64_t (*run)(const struct qn_options *o);
} ways[] = {{"from memory", from_memory}, {"from a session", from_session}, {"from the cache folder", from_folder},
            {"forked", forked},           {"regenerated", regenerated},     {"in company", in_company}};

static void test_model(void **state)
{
    static const char *const types[] = {"Q8_0", "Q4_K", "f32"};
    static const enum qn_kv_type kinds[] = {QN_KV_F16, QN_KV_Q8_0};
    const char *model = *state;
    make_ids();
    for (int t = 0; t < (getenv("QUERN_LONG") ? 3 : 1); t++)
        for (int k = 0; k < 2; k++) {
            struct qn_options o = eval_options(hash_model_file(model, types[t]), N_CTX);
            o.type_k = o.type_v = kinds[k];
            o.n_threads = 1;
            uint64_t want = fresh(&o);
            o.n_threads = 2;
            o.n_seq = N_SEQ;
            o.cache_ram = 64 << 20;
            for (size_t w = 0; w < sizeof ways / sizeof *ways; w++)
                if (ways[w].run(&o) != want)
                    fail_msg("%s, %s, %s keys and values: other bits %s", model, types[t], k ? "q8_0" : "f16",
                             ways[w].name);
        }
}

int main(int argc, char **argv)
{
    static const struct CMUnitTest tests[] = {
        {"ways/qwen35moe", test_model, NULL, NULL, (void *)(uintptr_t) "qwen35moe"},
        {"ways/qwen35", test_model, NULL, NULL, (void *)(uintptr_t) "qwen35"},
        {"ways/qwen3next", test_model, NULL, NULL, (void *)(uintptr_t) "qwen3next"},
        {"ways/qwen35moe-mtp", test_model, NULL, NULL, (void *)(uintptr_t) "qwen35moe-mtp"},
        {"ways/qwen35-mtp", test_model, NULL, NULL, (void *)(uintptr_t) "qwen35-mtp"},
        {"ways/qwen3next-mtp", test_model, NULL, NULL, (void *)(uintptr_t) "qwen3next-mtp"},
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests_name("ways", tests, NULL, NULL);
}
