/* SPDX-License-Identifier: MIT */
/* One logits hash: the demo model gives the same bits for every number of threads, cutting of the prompt, company in the batch
 * and level of kernels, and on every machine the bits that are written down here.  QUERN_LONG runs every combination, in plain C with
 * one model.  A change that moves the hashes on purpose changes the arithmetic: raise QN_BITS with it. */
#include "eval.h"
#include "hashmodel.h"
#include "simd/simd.h"
#include "testing.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <xxhash.h>

enum { N_IDS = 704, N_SEQ = 4 }; /* the prompt ends behind 64, 128 and 512 */

static const struct model {
    const char *name;
    const char *data, *oracle; /* path below tests/data, or below the oracle folder */
    uint64_t hash; /* xxh3 of logits [N_IDS][n_vocab] */
    enum qn_kv_type type_k, type_v;
} models[] = {
    {"q4_k_m", "demo.gguf", NULL, 0xa45255a7aa37c04e, QN_KV_F16, QN_KV_F16},
    {"iq4_xs", NULL, "demo/demo-iq4_xs.gguf", 0x8b5daa61ef6ac9e6, QN_KV_F16, QN_KV_F16},
    {"q8_0", NULL, "demo/demo-q8_0.gguf", 0x0d561049ee97b03f, QN_KV_F16, QN_KV_F16},
    {"q4_k_m, bf16 KV", "demo.gguf", NULL, 0x48eed8c77bcb5067, QN_KV_BF16, QN_KV_BF16},
    {"q4_k_m, f16 and q8_0 KV", "demo.gguf", NULL, 0x8ac620b67b067e36, QN_KV_F16, QN_KV_Q8_0},
    {"q4_k_m, q8_0 KV", "demo.gguf", NULL, 0x60d8244456a5015f, QN_KV_Q8_0, QN_KV_Q8_0},
    {"q4_k_m, q4_0 and q5_0 KV", "demo.gguf", NULL, 0xc0658d1284281f87, QN_KV_Q4_0, QN_KV_Q5_0},
    {"q4_k_m, iq4_nl KV", "demo.gguf", NULL, 0x0c115f2e2533c9a7, QN_KV_IQ4_NL, QN_KV_IQ4_NL},
};

struct way {
    int threads, ubatch;
    bool company; /* beside three other sequences */
    const char *isa;
};

/* Ours is the third of the sequences: rows of others lie on both sides. */
enum { OURS = 2 };

/* A long call in which all prompts start, then calls of odd lengths, then one id a call as when decoding: the others take one
 * to five ids each, or sit a call out. */
static void eval_in_company(qn_engine *e, qn_seq *const *s, const int32_t *ids, size_t n_vocab, float *logits)
{
    static const int pieces[] = {300, 1, 62, 7, 33, 256};
    for (int at = 0, n, call = 0; at < N_IDS; at += n, call++) {
        struct qn_span spans[N_SEQ];
        int n_spans = 0;
        n = call < (int)(sizeof pieces / sizeof *pieces) ? pieces[call] : 1;
        for (int i = 0; i < N_SEQ; i++) {
            int m = call == 0 ? 33 + 50 * i : (call + i) % 5 == 0 ? 0 : n == 1 ? 1 : 1 + (call + 2 * i) % 5;
            if (i == OURS)
                spans[n_spans++] = (struct qn_span){.seq = s[i], .ids = ids + at, .n = n, .logits = QN_LOGITS_ALL};
            else if (m > 0)
                spans[n_spans++] = (struct qn_span){.seq = s[i], .ids = ids + 7 * i + call, .n = m};
        }
        eval_spans(e, spans, n_spans, logits + (size_t)at * n_vocab);
    }
}

static uint64_t hash_way(const struct model *m, const char *file, const struct way *w)
{
    struct qn_options o = eval_options(file, 1024);
    o.n_threads = w->threads;
    o.n_ubatch = w->ubatch;
    o.n_seq = N_SEQ;
    o.type_k = m->type_k;
    o.type_v = m->type_v;
    o.isa = w->isa;
    qn_engine *e = eval_open(&o);
    size_t n_vocab = (size_t)eval_n_vocab(e);
    int32_t ids[N_IDS];
    for (int i = 0; i < N_IDS; i++)
        ids[i] = (int32_t)(hash_splitmix64((uint64_t)i) % 4000);
    qn_seq *s[N_SEQ];
    for (int i = 0; i < N_SEQ; i++)
        s[i] = eval_seq(e);
    float *logits = malloc(N_IDS * n_vocab * sizeof *logits);
    assert_non_null(logits);
    if (w->company)
        eval_in_company(e, s, ids, n_vocab, logits);
    else
        eval_append(s[OURS], ids, N_IDS, logits);
    uint64_t h = XXH3_64bits(logits, N_IDS * n_vocab * sizeof *logits);
    free(logits);
    for (int i = 0; i < N_SEQ; i++)
        qn_seq_free(s[i]);
    qn_close(e);
    return h;
}

static void assert_hash(const struct model *m, const char *file, const struct way *w)
{
    uint64_t h = hash_way(m, file, w);
    if (h != m->hash)
        fail_msg("%s: %d threads, ubatch %d, %s, level %s: logits hash %016llx, not %016llx", m->name, w->threads,
                 w->ubatch, w->company ? "in company" : "alone", w->isa ? w->isa : "auto", (unsigned long long)h,
                 (unsigned long long)m->hash);
}

/* NULL where the model is not there. */
static const char *model_file(const struct model *m) { return m->data ? test_data(m->data) : test_oracle(m->oracle); }

static void test_pinned(void **state)
{
    const struct model *m = *state;
    const char *file = model_file(m);
    if (!file)
        skip();
    assert_hash(m, file, &(struct way){2, 512, false, NULL});
}

/* Every number of threads, cutting and company, but not every combination. */
static void some_ways(const struct model *m, const char *file, const char *isa)
{
    static const struct way ways[] = {
        {1, 512, false, NULL}, {2, 64, true, NULL}, {3, 7, false, NULL},  {5, 512, true, NULL},  {8, 64, false, NULL},
        {2, 1, false, NULL},   {1, 7, true, NULL},  {3, 512, true, NULL}, {8, 512, false, NULL},
    };
    for (size_t i = 0; i < (test_quick() ? 2 : sizeof ways / sizeof *ways); i++) {
        struct way w = ways[i];
        w.isa = isa;
        assert_hash(m, file, &w);
    }
}

/* Plain C, which takes as long as all levels together, has every combination with one model. */
static void every_way(const struct model *m, const char *file)
{
    static const int threads[] = {1, 2, 3, 5, 8}, ubatch[] = {1, 7, 64, 512};
    for (const char *const *level = simd_levels(); *level; level++) {
        if (!strcmp(*level, "c") && m != models) {
            some_ways(m, file, *level);
            continue;
        }
        for (int t = 0; t < 5; t++)
            for (int u = 0; u < 4; u++)
                for (int company = 0; company < 2; company++)
                    assert_hash(m, file, &(struct way){threads[t], ubatch[u], company, *level});
    }
}

static void test_ways(void **state)
{
    const struct model *m = *state;
    const char *file = model_file(m);
    if (!file)
        skip();
    if (getenv("QUERN_LONG")) {
        every_way(m, file);
        return;
    }
    some_ways(m, file, NULL);
    if (test_quick())
        return;
    for (const char *const *level = simd_levels(); *level; level++)
        assert_hash(m, file, &(struct way){2, 64, false, *level});
}

/* An argument chooses tests by a pattern, e.g. 'bits/pinned*'. */
int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        {"bits/pinned_q4_k_m", test_pinned, NULL, NULL, (void *)&models[0]},
        {"bits/pinned_iq4_xs", test_pinned, NULL, NULL, (void *)&models[1]},
        {"bits/pinned_q8_0", test_pinned, NULL, NULL, (void *)&models[2]},
        {"bits/pinned_bf16_kv", test_pinned, NULL, NULL, (void *)&models[3]},
        {"bits/pinned_f16_q8_0_kv", test_pinned, NULL, NULL, (void *)&models[4]},
        {"bits/pinned_q8_0_kv", test_pinned, NULL, NULL, (void *)&models[5]},
        {"bits/pinned_q4_0_q5_0_kv", test_pinned, NULL, NULL, (void *)&models[6]},
        {"bits/pinned_iq4_nl_kv", test_pinned, NULL, NULL, (void *)&models[7]},
        {"bits/ways_q4_k_m", test_ways, NULL, NULL, (void *)&models[0]},
        {"bits/ways_iq4_xs", test_ways, NULL, NULL, (void *)&models[1]},
        {"bits/ways_q8_0", test_ways, NULL, NULL, (void *)&models[2]},
        {"bits/ways_q8_0_kv", test_ways, NULL, NULL, (void *)&models[5]},
        {"bits/ways_q4_0_q5_0_kv", test_ways, NULL, NULL, (void *)&models[6]},
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests_name("bits", tests, NULL, NULL);
}
