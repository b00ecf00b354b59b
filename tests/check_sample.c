/* SPDX-License-Identifier: MIT */
/* Samplers against cases computed by hand, the generator against published vectors and its own statistics, and picks that
 * must be the same on every machine.  What a filter keeps is seen from outside: the set of ids that many draws return. */
#include "bytes.h"
#include "src/gguf.h"
#include "src/sample.h"
#include "testing.h"

#include <math.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

enum { MANY = 4000 };

static struct qn_sampling neutral(void)
{
    struct qn_sampling p;
    sampling_defaults(&p, NULL, "none", false);
    return p;
}

static struct qn_sampling only(enum qn_sampler_kind kind)
{
    struct qn_sampling p = neutral();
    p.order[0] = kind;
    p.order[1] = QN_S_END;
    return p;
}

/* Token i of the test vocabulary is texts[i]. */
static const char *token_bytes(const void *cookie, int32_t id, size_t *n)
{
    const char *const *texts = cookie;
    *n = strlen(texts[id]);
    return texts[id];
}

static struct qn_sampler *open_sampler(const struct qn_sampling *p, int n_vocab, const char *const *texts)
{
    struct sampler_env env = {.n_vocab = n_vocab, .n_ctx = 4096, .bytes = texts ? token_bytes : NULL, .cookie = texts};
    struct qn_sampler *s;
    struct qn_error err;
    if (sampler_open(&s, &env, p, &err))
        fail_msg("%s", err.text);
    return s;
}

/* One pick with a fresh sampler that has seen these ids. */
static int pick_after(const struct qn_sampling *p, const float *logits, int n_vocab, const char *const *texts,
                      const int32_t *seen, int n_seen)
{
    struct qn_sampler *s = open_sampler(p, n_vocab, texts);
    for (int i = 0; i < n_seen; i++)
        sampler_accept(s, seen[i]);
    int id = sampler_pick(s, logits);
    sampler_close(s);
    return id;
}

/* Bit i is set when token i is ever drawn. */
static unsigned support(const struct qn_sampling *p, const float *logits, int n_vocab)
{
    struct qn_sampler *s = open_sampler(p, n_vocab, NULL);
    unsigned set = 0;
    for (int i = 0; i < MANY; i++)
        set |= 1u << sampler_pick(s, logits);
    sampler_close(s);
    return set;
}

/* Logits of eight tokens with probabilities .30 .25 .15 .10 .08 .06 .04 .02, shuffled. */
static const int rank_id[8] = {3, 6, 0, 5, 1, 7, 2, 4};
static const double rank_p[8] = {.30, .25, .15, .10, .08, .06, .04, .02};
static void eight(float logits[8])
{
    for (int i = 0; i < 8; i++)
        logits[rank_id[i]] = (float)log(rank_p[i]) + 3.0f;
}
static unsigned ranks(int from, int to)
{
    unsigned set = 0;
    for (int i = from; i < to; i++)
        set |= 1u << rank_id[i];
    return set;
}

/* ---- arithmetic */

static void generator_known_answers(void **state)
{
    /* Philox4x32-10 of the Random123 distribution (kat_vectors): counter, key, first two words of the result */
    assert_true(sample_uniform(0, 0, 0, 0) == (double)(0xe169c58d6627e8d5u >> 11) * 0x1p-53);
    assert_true(sample_uniform(UINT64_MAX, UINT64_MAX, UINT32_MAX, UINT32_MAX) ==
                (double)(0x41c83b0e408f276du >> 11) * 0x1p-53);
    assert_true(sample_uniform(0x299f31d0a4093822u, 0x85a308d3243f6a88u, 0x13198a2e, 0x03707344) ==
                (double)(0x94fdccebd16cfe09u >> 11) * 0x1p-53);
}

static double chi_square(const int *count, const double *expected, int n)
{
    double sum = 0;
    for (int i = 0; i < n; i++)
        sum += (count[i] - expected[i]) * (count[i] - expected[i]) / expected[i];
    return sum;
}

/* Draws along one coordinate of (seed, stream, n, draw), and pairs of neighbours: uniform over bins.  256 bins: chi-square
 * has 255 degrees of freedom, mean 255, standard deviation 22.6; fixed inputs, so the result is fixed, too. */
static void generator_chi_square(void **state)
{
    for (int along = 0; along < 4; along++) {
        int single[256] = {0}, pair[256] = {0};
        double expected[256], last = 0;
        for (int i = 0; i < 1 << 16; i++) {
            uint64_t x[4] = {42, 7, 5, 0};
            x[along] += (uint64_t)i;
            double u = sample_uniform(x[0], x[1], (uint32_t)x[2], (uint32_t)x[3]);
            assert_true(u >= 0 && u < 1);
            single[(int)(u * 256)]++;
            pair[(int)(u * 16) * 16 + (int)(last * 16)]++;
            last = u;
        }
        for (int i = 0; i < 256; i++)
            expected[i] = 256;
        double a = chi_square(single, expected, 256), b = chi_square(pair, expected, 256);
        if (a < 165 || a > 345 || b < 165 || b > 345)
            fail_msg("coordinate %d: chi-square %.1f (single), %.1f (pairs)", along, a, b);
    }
}

static void exp_and_log(void **state)
{
    double worst_exp = 0, worst_log = 0;
    for (int i = 0; i <= 200000; i++) {
        double x = -708.0 * pow(i / 200000.0, 3), y = exp(x), e = fabs(sample_exp(x) - y) / y;
        worst_exp = e > worst_exp ? e : worst_exp;
        double z = exp(i / 300.0 - 300), l = log(z);
        e = fabs(sample_log(z) - l) / (fabs(l) > 1 ? fabs(l) : 1);
        worst_log = e > worst_log ? e : worst_log;
    }
    assert_true(worst_exp < 0x1p-51);
    assert_true(worst_log < 0x1p-51);
    assert_true(sample_exp(0) == 1 && sample_log(1) == 0);
    assert_true(sample_exp(-709) == 0 && sample_exp(-HUGE_VAL) == 0);
}

/* ---- picks */

static void pick_distribution(void **state)
{
    float logits[8];
    eight(logits);
    struct qn_sampling p = neutral();
    p.seed = 1;
    struct qn_sampler *s = open_sampler(&p, 8, NULL);
    int count[8] = {0}, by_rank[8];
    double expected[8];
    for (int i = 0; i < 20000; i++)
        count[sampler_pick(s, logits)]++;
    sampler_close(s);
    for (int i = 0; i < 8; i++) {
        by_rank[i] = count[rank_id[i]];
        expected[i] = 20000 * rank_p[i];
    }
    double c = chi_square(by_rank, expected, 8); /* 7 degrees of freedom: 99.9 % lie below 24.3 */
    if (c > 24.3 || c < 0.5)
        fail_msg("chi-square %.2f", c);
}

static void greedy_ties(void **state)
{
    struct qn_sampling p = neutral();
    p.temperature = 0;
    float logits[6] = {1, 5, 2, 5, 5, -1};
    assert_int_equal(pick_after(&p, logits, 6, NULL, NULL, 0), 1);
    logits[1] = -INFINITY;
    assert_int_equal(pick_after(&p, logits, 6, NULL, NULL, 0), 3);
    p.order[0] = QN_S_END; /* also without the temperature step */
    assert_int_equal(pick_after(&p, logits, 6, NULL, NULL, 0), 3);
}

static void temperature_sharpens(void **state)
{
    float logits[2] = {0, 1};
    struct qn_sampling p = only(QN_S_TEMPERATURE);
    const double temperatures[] = {0.25, 1, 4};
    for (int t = 0; t < 3; t++) {
        p.temperature = (float)temperatures[t];
        struct qn_sampler *s = open_sampler(&p, 2, NULL);
        int n = 0;
        for (int i = 0; i < MANY; i++)
            n += sampler_pick(s, logits);
        sampler_close(s);
        double want = 1 / (1 + exp(-1 / temperatures[t]));
        assert_true(fabs(n / (double)MANY - want) < 0.03);
    }
}

static void top_k_keeps(void **state)
{
    float logits[8];
    eight(logits);
    struct qn_sampling p = only(QN_S_TOP_K);
    for (int k = 1; k <= 8; k++) {
        p.top_k = k;
        assert_int_equal(support(&p, logits, 8), ranks(0, k));
    }
    p.top_k = 0;
    assert_int_equal(support(&p, logits, 8), 255);
    p.top_k = 1;
    p.min_keep = 3;
    assert_int_equal(support(&p, logits, 8), ranks(0, 3));
    float ties[8] = {0, 1, 1, 1, 1, 1, 1, 0}; /* equal logits: the lower ids stay */
    p.top_k = 3;
    assert_int_equal(support(&p, ties, 8), 1 << 1 | 1 << 2 | 1 << 3);
}

static void top_p_keeps(void **state)
{
    float logits[8];
    eight(logits);
    struct qn_sampling p = only(QN_S_TOP_P);
    const struct {
        float share;
        int n;
    } cases[] = {{0, 1},    {.29f, 1}, {.31f, 2}, {.54f, 2}, {.56f, 3},
                 {.79f, 4}, {.81f, 5}, {.97f, 7}, {.99f, 8}, {1, 8}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        p.top_p = cases[i].share;
        assert_int_equal(support(&p, logits, 8), ranks(0, cases[i].n));
    }
    p.top_p = .29f;
    p.min_keep = 4;
    assert_int_equal(support(&p, logits, 8), ranks(0, 4));
}

static void min_p_keeps(void **state)
{
    float logits[8];
    eight(logits);
    struct qn_sampling p = only(QN_S_MIN_P); /* relative to .30: 1 .83 .5 .33 .27 .2 .13 .067 */
    const struct {
        float share;
        int n;
    } cases[] = {{0, 8}, {.06f, 8}, {.07f, 7}, {.19f, 6}, {.21f, 5}, {.49f, 3}, {.51f, 2}, {.84f, 1}, {1, 1}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        p.min_p = cases[i].share;
        assert_int_equal(support(&p, logits, 8), ranks(0, cases[i].n));
    }
    p.min_p = 1;
    p.min_keep = 2;
    assert_int_equal(support(&p, logits, 8), ranks(0, 2));
}

/* The entropy is 1.8256 nats; surprises by rank are 1.204 1.386 1.897 2.303 2.526 2.813 3.219 3.912, so the order of
 * closeness is rank 2 (.071), 1 (.439), 3 (.477), 0 (.622), 4 (.700), 5, 6, 7. */
static void typical_keeps(void **state)
{
    float logits[8];
    eight(logits);
    struct qn_sampling p = only(QN_S_TYPICAL);
    const struct {
        float share;
        int from, to;
    } cases[] = {{.14f, 2, 3}, {.39f, 1, 3}, {.49f, 1, 4}, {.79f, 0, 4}, {.81f, 0, 5}, {1, 0, 8}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        p.typical_p = cases[i].share;
        assert_int_equal(support(&p, logits, 8), ranks(cases[i].from, cases[i].to));
    }
    p.typical_p = .14f;
    p.min_keep = 2;
    assert_int_equal(support(&p, logits, 8), ranks(1, 3));
}

static void top_n_sigma_keeps(void **state)
{
    /* mean 2, deviations 2 1 0 1 2: variance 2, sigma 1.414; -inf does not count */
    float logits[6] = {0, 1, -INFINITY, 2, 3, 4};
    struct qn_sampling p = only(QN_S_TOP_N_SIGMA);
    p.top_n_sigma = 0.7f; /* above 3.01 */
    assert_int_equal(support(&p, logits, 6), 1 << 5);
    p.top_n_sigma = 0.71f; /* above 2.996 */
    assert_int_equal(support(&p, logits, 6), 1 << 5 | 1 << 4);
    p.top_n_sigma = 1.42f; /* above 1.99 */
    assert_int_equal(support(&p, logits, 6), 1 << 5 | 1 << 4 | 1 << 3);
    p.top_n_sigma = 0;
    assert_int_equal(support(&p, logits, 6), 63 - (1 << 2));
}

static void xtc_excludes(void **state)
{
    float logits[8];
    eight(logits);
    struct qn_sampling p = only(QN_S_XTC);
    p.xtc_probability = 1;
    p.xtc_threshold = .09f; /* ranks 0..3 are above: 0..2 go */
    assert_int_equal(support(&p, logits, 8), ranks(3, 8));
    p.xtc_threshold = .28f; /* only one above: nothing goes */
    assert_int_equal(support(&p, logits, 8), 255);
    p.xtc_threshold = .51f;
    assert_int_equal(support(&p, logits, 8), 255);
    p.xtc_threshold = .01f; /* all above: the last one stays */
    assert_int_equal(support(&p, logits, 8), ranks(7, 8));
    p.min_keep = 2; /* would leave one: not applied */
    assert_int_equal(support(&p, logits, 8), 255);

    p = only(QN_S_XTC);
    p.xtc_probability = .5f;
    p.xtc_threshold = .01f;
    struct qn_sampler *s = open_sampler(&p, 8, NULL);
    int n = 0; /* rank 7 comes with 1/2 (excluded) + 1/2 * .02 */
    for (int i = 0; i < MANY; i++)
        n += sampler_pick(s, logits) == rank_id[7];
    sampler_close(s);
    assert_true(fabs(n / (double)MANY - .51) < 0.03);
}

/* Penalised token 0 against a rival (token 1) a little below and a little above the expected logit, greedily. */
static void assert_logit_becomes(const struct qn_sampling *p, float before, float after, const int32_t *seen,
                                 int n_seen)
{
    struct qn_sampling q = *p;
    q.temperature = 0;
    float logits[4] = {before, after - 1e-3f, -1e9f, -1e9f};
    assert_int_equal(pick_after(&q, logits, 4, NULL, seen, n_seen), 0);
    logits[1] = after + 1e-3f;
    assert_int_equal(pick_after(&q, logits, 4, NULL, seen, n_seen), 1);
}

static void penalties_formulas(void **state)
{
    const int32_t seen[] = {0, 2, 0, 2, 2};
    struct qn_sampling p = only(QN_S_PENALTIES);
    p.repeat_penalty = 2;
    assert_logit_becomes(&p, 3, 1.5f, seen, 5);
    assert_logit_becomes(&p, -3, -6, seen, 5);
    p.repeat_penalty = 1;
    p.presence_penalty = 0.5f;
    assert_logit_becomes(&p, 3, 2.5f, seen, 5);
    p.frequency_penalty = 0.25f; /* twice */
    assert_logit_becomes(&p, 3, 2, seen, 5);
    p.repeat_penalty = 2;
    assert_logit_becomes(&p, 3, 0.5f, seen, 5);
    p.penalty_last_n = 3; /* 0 2 2: once */
    assert_logit_becomes(&p, 3, 0.75f, seen, 5);
    p.penalty_last_n = 2; /* out of sight */
    assert_logit_becomes(&p, 3, 3, seen, 5);
    p.penalty_last_n = 0;
    assert_logit_becomes(&p, 3, 3, seen, 5);
    p.penalty_last_n = -1;
    assert_logit_becomes(&p, 3, 0.5f, seen, 5);
}

/* A long history: the buffer moves, the window does not. */
static void penalties_long_history(void **state)
{
    struct qn_sampling p = only(QN_S_PENALTIES);
    p.frequency_penalty = 1;
    p.penalty_last_n = 10;
    int32_t seen[1000];
    for (int i = 0; i < 1000; i++)
        seen[i] = i % 5 == 0 ? 0 : 2;
    for (int n = 980; n < 1000; n++)
        assert_logit_becomes(&p, 3, 1, seen, n); /* any ten in a row hold two */
}

static void penalties_see_own_picks(void **state)
{
    struct qn_sampling p = only(QN_S_PENALTIES);
    p.temperature = 0;
    p.presence_penalty = 10;
    float logits[3] = {3, 2, 1};
    struct qn_sampler *s = open_sampler(&p, 3, NULL);
    for (int i = 0; i < 3; i++)
        assert_int_equal(sampler_pick(s, logits), i);
    assert_int_equal(sampler_pick(s, logits), 0);
    assert_true(logits[0] == 3);
    sampler_close(s);
}

static void dry_formula(void **state)
{
    struct qn_sampling p = only(QN_S_DRY);
    p.dry_multiplier = 0.5f;
    p.dry_base = 2;
    p.dry_allowed_length = 2;
    /* 3 2 1 | 0 ... 3 2 1: going on with 0 repeats three tokens: 0.5 * 2^(3 - 2) */
    const int32_t three[] = {3, 2, 1, 0, 2, 3, 2, 1};
    assert_logit_becomes(&p, 3, 2, three, 8);
    const int32_t two[] = {1, 2, 1, 0, 3, 2, 1}; /* 2 1: 0.5 * 2^0 */
    assert_logit_becomes(&p, 3, 2.5f, two, 7);
    const int32_t one[] = {1, 0, 3, 1}; /* shorter than allowed */
    assert_logit_becomes(&p, 3, 3, one, 4);
    const int32_t longest[] = {2, 1, 0, 3, 2, 1, 0, 1, 3, 2, 1}; /* 2 1 and 3 2 1 both lead to 0: the longer counts */
    assert_logit_becomes(&p, 3, 2, longest, 11);
    const int32_t run[] = {0, 0, 0, 0, 0}; /* overlapping: four of the five tokens repeat */
    assert_logit_becomes(&p, 3, 1, run, 5);
    p.dry_penalty_last_n = 4; /* the earlier passage is out of sight */
    assert_logit_becomes(&p, 3, 3, three, 8);
    p.dry_penalty_last_n = 0;
    assert_logit_becomes(&p, 3, 3, three, 8);
    p.dry_penalty_last_n = -1;
    p.dry_base = 1000; /* a long repetition: impossible, not NaN */
    int32_t cycle[400];
    for (int i = 0; i < 400; i++)
        cycle[i] = i % 4;
    float logits[4] = {100, 1, 2, 3};
    p.temperature = 0;
    assert_int_equal(pick_after(&p, logits, 4, NULL, cycle, 400), 3);
}

static void dry_breakers(void **state)
{
    static const char *const texts[] = {"a", "b", ".\n\n", "en", "d!"};
    struct qn_sampling p = only(QN_S_DRY);
    p.temperature = 0;
    p.dry_multiplier = 4;
    p.dry_allowed_length = 2;
    const int32_t seen[] = {1, 1, 0, 2, 1, 1}; /* b b | a .. b b */
    float logits[5] = {3, 0, 0, 2, 0};
    assert_int_equal(pick_after(&p, logits, 5, texts, seen, 6), 3);
    const int32_t broken[] = {1, 2, 1, 0, 1, 2, 1}; /* b NL b | a .. b NL b: one token since the break */
    assert_int_equal(pick_after(&p, logits, 5, texts, broken, 7), 0);
    p.dry_breakers[0] = NULL;
    assert_int_equal(pick_after(&p, logits, 5, texts, broken, 7), 3);
    const int32_t spanning[] = {3, 4, 1, 0, 1, 3, 4, 1}; /* en d! b | a .. en d! b, and "end!" breaks */
    assert_int_equal(pick_after(&p, logits, 5, texts, spanning, 8), 3);
    p.dry_breakers[0] = "end!";
    p.dry_breakers[1] = NULL;
    assert_int_equal(pick_after(&p, logits, 5, texts, spanning, 8), 0);
}

static void bias_and_stop_set(void **state)
{
    const struct qn_logit_bias bias[] = {{2, 5}, {0, -INFINITY}, {1, INFINITY}};
    struct qn_sampling p = neutral();
    p.temperature = 0;
    p.bias = bias;
    float logits[4] = {4, 0, 0, 1};
    p.n_bias = 1;
    assert_int_equal(pick_after(&p, logits, 4, NULL, NULL, 0), 2);
    p.n_bias = 3;
    assert_int_equal(pick_after(&p, logits, 4, NULL, NULL, 0), 1);
    p.n_bias = 0;
    p.ignore_eos = 1;
    const uint8_t stop[4] = {1, 0, 0, 0};
    struct sampler_env env = {.n_vocab = 4, .is_stop = stop};
    struct qn_sampler *s;
    struct qn_error err;
    assert_int_equal(sampler_open(&s, &env, &p, &err), 0);
    assert_int_equal(sampler_pick(s, logits), 3);
    sampler_close(s);
}

/* With mu far above every surprise nothing is cut; with a small one only the likeliest stay; mu follows the surprises. */
static void mirostat_steers(void **state)
{
    float logits[8];
    eight(logits);
    struct qn_sampling p = neutral();
    p.mirostat = 2;
    p.top_k = 1; /* not used */
    p.mirostat_tau = 20;
    p.mirostat_eta = 0;
    assert_int_equal(support(&p, logits, 8), 255);
    p.mirostat_tau = 1.1f; /* mu 2.2 bits; surprises are 1.74 2 2.74 .. */
    assert_int_equal(support(&p, logits, 8), ranks(0, 2));
    p.mirostat_tau = 0; /* everything is too surprising: the first stays */
    assert_int_equal(support(&p, logits, 8), ranks(0, 1));
    /* 64 equal tokens: chosen among all, one carries 6 bits; once mu is below 6 only the first is left, which carries none.
     * Steering towards 3.5 bits means 3.5 / 6 of the choices among all, and 63 of 64 of those are not the first. */
    static float equal[64];
    p.mirostat_tau = 3.5f;
    p.mirostat_eta = 0.2f;
    struct qn_sampler *s = open_sampler(&p, 64, NULL);
    int n_other = 0;
    for (int i = 0; i < MANY; i++)
        n_other += sampler_pick(s, equal) != 0;
    sampler_close(s);
    assert_true(fabs(n_other / (double)MANY - 3.5 / 6 * 63 / 64) < 0.02);
}

static void order_matters(void **state)
{
    float logits[3] = {1.0f, 0.9f, 0};
    const int32_t seen[] = {0};
    struct qn_sampling p = neutral();
    p.top_k = 1;
    p.presence_penalty = 1;
    assert_int_equal(pick_after(&p, logits, 3, NULL, seen, 1), 1); /* penalties first */
    struct qn_error err;
    assert_int_equal(qn_sampling_order(&p, "top_k;penalties", &err), 0);
    assert_int_equal(pick_after(&p, logits, 3, NULL, seen, 1), 0);
    assert_int_equal(qn_sampling_order(&p, "top_k;nonsense", &err), QN_E_ARGUMENT);
    assert_non_null(strstr(err.text, "nonsense"));
    assert_int_equal(p.order[0], QN_S_TOP_K);
    assert_int_equal(qn_sampling_order(&p, "", &err), 0);
    assert_int_equal(p.order[0], QN_S_END);
    assert_int_equal(qn_sampling_order(&p, "temperature,typ_p", &err), 0);
    assert_true(p.order[0] == QN_S_TEMPERATURE && p.order[1] == QN_S_TYPICAL && p.order[2] == QN_S_END);
}

/* Whatever the logits, every filter leaves a token, and it is one of the vocabulary. */
static void never_empty(void **state)
{
    const float rows[][4] = {
        {-INFINITY, -INFINITY, -INFINITY, -INFINITY},
        {-INFINITY, -INFINITY, 3, -INFINITY},
        {INFINITY, 0, INFINITY, 0},
        {3e38f, -3e38f, 3e38f, 1},
        {NAN, NAN, NAN, NAN},
        {0, 0, 0, 0},
        {1e-40f, -1e-40f, 0, -0.0f},
    };
    const int want[] = {0, 2, 0, 0, 0, 0, 0};
    for (size_t r = 0; r < sizeof rows / sizeof rows[0]; r++) {
        for (int mirostat = 0; mirostat <= 2; mirostat += 2) {
            struct qn_sampling p = neutral();
            p.mirostat = mirostat;
            p.mirostat_tau = 0;
            p.top_k = 1;
            p.top_p = p.typical_p = 0;
            p.min_p = p.xtc_probability = 1;
            p.xtc_threshold = 0;
            p.top_n_sigma = 1e-6f;
            p.dry_multiplier = p.presence_penalty = 1;
            assert_int_equal(pick_after(&p, rows[r], 4, NULL, NULL, 0), want[r]);
            p.top_k = 0;
            p.temperature = 1e-6f;
            int id = pick_after(&p, rows[r], 4, NULL, (const int32_t[]){0, 0, 0, 0, 0}, 5);
            assert_in_range(id, 0, 3);
        }
    }
}

/* ---- parameters */

static void bad_values_refused(void **state)
{
    static const char *const long_breaker = "0123456789012345678901234567890123456789012345678901234567890123456789";
    const struct qn_logit_bias bias[] = {{9, 1}};
    struct qn_sampling good = neutral(), bad[14];
    for (int i = 0; i < 14; i++)
        bad[i] = good;
    bad[0].temperature = -1;
    bad[1].temperature = NAN;
    bad[2].top_p = 1.5f;
    bad[3].min_p = -0.1f;
    bad[4].min_keep = 0;
    bad[5].repeat_penalty = 0;
    bad[6].penalty_last_n = -2;
    bad[7].mirostat = 1;
    bad[8].bias = bias;
    bad[8].n_bias = 1;
    bad[9].order[2] = (enum qn_sampler_kind)77;
    for (int i = 0; i < QN_SAMPLER_MAX; i++)
        bad[10].order[i] = QN_S_TOP_K;
    bad[11].dry_breakers[0] = "";
    bad[12].dry_breakers[0] = long_breaker;
    bad[13].typical_p = -1;
    struct sampler_env env = {.n_vocab = 8};
    for (int i = 0; i < 14; i++) {
        struct qn_sampler *s = (struct qn_sampler *)&env;
        struct qn_error err = {0};
        assert_int_equal(sampler_open(&s, &env, &bad[i], &err), QN_E_ARGUMENT);
        assert_null(s);
        assert_true(err.text[0] != 0);
    }
}

static void defaults_of_cards(void **state)
{
    /* clang-format off */
    const struct {
        const char *arch;
        bool thinking;
        float temperature, top_p, presence;
    } rows[] = {
        {"qwen3", true, .6f, .95f, 0},     {"qwen3", false, .7f, .8f, 0},
        {"qwen3moe", true, .6f, .95f, 0},  {"qwen3moe", false, .7f, .8f, 0},
        {"qwen3next", false, .7f, .8f, 0},
        {"qwen35", true, 1, .95f, 1.5f},   {"qwen35", false, .7f, .8f, 1.5f},
        {"qwen35moe", true, 1, .95f, 1.5f}, {"qwen35moe", false, .7f, .8f, 1.5f},
    };
    /* clang-format on */
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct qn_sampling p;
        const char *source = sampling_defaults(&p, NULL, rows[i].arch, rows[i].thinking);
        assert_non_null(strstr(source, rows[i].arch));
        assert_true(p.temperature == rows[i].temperature && p.top_p == rows[i].top_p && p.top_k == 20 && p.min_p == 0);
        assert_true(p.presence_penalty == rows[i].presence && p.repeat_penalty == 1 && p.min_keep == 1);
    }
    struct qn_sampling p;
    assert_non_null(strstr(sampling_defaults(&p, NULL, "llama", false), "neutral"));
    assert_true(p.temperature == 1 && p.top_p == 1 && p.top_k == 0);
}

static void put_kv(struct bytes *b, const char *key, uint32_t kind, const void *value)
{
    bytes_str(b, key);
    bytes_u32(b, kind);
    if (kind == GGUF_STR)
        bytes_str(b, value);
    else
        bytes_put(b, value, 4);
}

/* A GGUF file with general.sampling keys and nothing else. */
static struct gguf *sampling_file(float temp, const char *sequence)
{
    struct bytes b = {0};
    bytes_gguf_head(&b, 0, 4);
    put_kv(&b, "general.architecture", GGUF_STR, "qwen3");
    put_kv(&b, "general.sampling.temp", GGUF_F32, &temp);
    put_kv(&b, "general.sampling.top_k", GGUF_I32, &(int32_t){11});
    put_kv(&b, "general.sampling.sequence", GGUF_STR, sequence);
    const char *path = test_tmp("sampling.gguf");
    test_write(path, b.p, b.n);
    free(b.p);
    struct gguf *g;
    struct qn_error err;
    int code = gguf_open(&g, path, true, &err);
    if (code)
        fail_msg("%s", err.text);
    return g;
}

static void defaults_of_file(void **state)
{
    struct qn_sampling p;
    struct gguf *g = sampling_file(0.3f, "top_k;adaptive_p;temperature");
    const char *source = sampling_defaults(&p, g, "qwen3", true);
    assert_non_null(strstr(source, "general.sampling"));
    assert_true(p.temperature == 0.3f && p.top_k == 11 && p.top_p == 1);
    assert_true(p.order[0] == QN_S_TOP_K && p.order[1] == QN_S_TEMPERATURE && p.order[2] == QN_S_END);
    gguf_close(g);
    g = sampling_file(NAN, "top_k"); /* nonsense in the file: the card's values, all of them */
    source = sampling_defaults(&p, g, "qwen3", true);
    assert_non_null(strstr(source, "card"));
    assert_true(p.temperature == 0.6f && p.top_k == 20 && p.order[0] == QN_S_PENALTIES);
    gguf_close(g);
}

/* ---- the same everywhere */

/* Integers to floats without libm: a row of n logits that depends on seed. */
static void hash_logits(float *logits, int n, uint64_t seed)
{
    for (int i = 0; i < n; i++)
        logits[i] = (float)(int)(sample_uniform(seed, 99, (uint32_t)i, 3) * 4096) / 256.0f;
}

enum { GOLDEN_VOCAB = 3000, GOLDEN_PICKS = 12 };
static struct qn_sampling golden_case(int i)
{
    struct qn_sampling p = neutral();
    p.seed = 1234567890123u + (uint64_t)i;
    p.stream = (uint64_t)i;
    switch (i) {
    case 0:
        break;
    case 1:
        p.temperature = 0.7f, p.top_k = 20, p.top_p = 0.8f;
        break;
    case 2:
        p.typical_p = 0.5f, p.top_n_sigma = 3, p.min_p = 0.01f;
        break;
    case 3:
        p.mirostat = 2, p.repeat_penalty = 1.1f;
        break;
    default:
        p.top_p = 0.9f, p.xtc_probability = 0.5f, p.xtc_threshold = 0.001f, p.dry_multiplier = 0.8f;
        p.presence_penalty = 1.5f, p.frequency_penalty = 0.1f;
    }
    return p;
}

/* clang-format off */
static const int32_t golden[5][GOLDEN_PICKS] = {
    {1463, 376, 2494, 2487, 2679, 2297, 1733, 2116, 1615, 779, 1237, 792},
    {1514, 965, 1673, 45, 418, 1789, 1893, 732, 976, 965, 2956, 2177},
    {2404, 1820, 597, 736, 1523, 2713, 1829, 2552, 1273, 2538, 592, 1262},
    {2710, 730, 1503, 565, 71, 947, 2469, 2934, 2371, 837, 1762, 2254},
    {2784, 2776, 2429, 1708, 2532, 1968, 1796, 757, 1432, 2154, 1307, 1493},
};
/* clang-format on */

static void golden_picks(void **state)
{
    static float logits[GOLDEN_VOCAB];
    int32_t got[5][GOLDEN_PICKS];
    for (int i = 0; i < 5; i++) {
        struct qn_sampling p = golden_case(i);
        struct qn_sampler *s = open_sampler(&p, GOLDEN_VOCAB, NULL), *again = open_sampler(&p, GOLDEN_VOCAB, NULL);
        for (int k = 0; k < GOLDEN_PICKS; k++) {
            hash_logits(logits, GOLDEN_VOCAB, (uint64_t)k % 4);
            got[i][k] = sampler_pick(s, logits);
            assert_int_equal(sampler_pick(again, logits), got[i][k]);
        }
        sampler_close(s);
        sampler_close(again);
    }
    if (memcmp(got, golden, sizeof got) == 0)
        return;
    for (int i = 0; i < 5; i++)
        for (int k = 0; k < GOLDEN_PICKS; k++)
            fprintf(stderr, "%d%s", got[i][k], k + 1 < GOLDEN_PICKS ? ", " : "\n");
    fail_msg("the picks above are not the golden ones");
}

/* Equal seeds are kept apart by the stream, and draws depend on the number of tokens sampled, not on prompt tokens. */
static void draws_are_keyed(void **state)
{
    static float logits[GOLDEN_VOCAB];
    struct qn_sampling p = neutral();
    int n_equal = 0;
    for (int i = 0; i < 100; i++) {
        p.stream = (uint64_t)i;
        int a = pick_after(&p, logits, GOLDEN_VOCAB, NULL, NULL, 0);
        int b = pick_after(&p, logits, GOLDEN_VOCAB, NULL, (const int32_t[]){1, 2, 3}, 3);
        assert_int_equal(a, b);
        p.stream++;
        n_equal += pick_after(&p, logits, GOLDEN_VOCAB, NULL, NULL, 0) == a;
    }
    assert_in_range(n_equal, 0, 3);
}

/* Selection in steps finds what a full sort finds: top-p over a vocabulary where it needs many candidates. */
static void large_vocabulary(void **state)
{
    enum { N = 4000, PICKS = 1000 };
    static float logits[N];
    for (int i = 0; i < N; i++)
        logits[i] = (float)((i * 7919) % N) * 5e-4f; /* a permutation of 0 .. 2 */
    struct qn_sampling p = only(QN_S_TOP_P);
    p.top_p = 0.5f;
    /* weights e^x, x uniform on 0 .. 2: half of the weight lies above x = log((1 + e^2) / 2) = 1.4338 */
    struct qn_sampler *s = open_sampler(&p, N, NULL);
    float least = 10;
    for (int i = 0; i < PICKS; i++) {
        float x = logits[sampler_pick(s, logits)];
        least = x < least ? x : least;
    }
    sampler_close(s);
    assert_true(least > 1.433f && least < 1.437f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        {"sample/generator_known_answers", generator_known_answers, NULL, NULL, NULL},
        {"sample/generator_chi_square", generator_chi_square, NULL, NULL, NULL},
        {"sample/exp_and_log", exp_and_log, NULL, NULL, NULL},
        {"sample/pick_distribution", pick_distribution, NULL, NULL, NULL},
        {"sample/greedy_ties", greedy_ties, NULL, NULL, NULL},
        {"sample/temperature_sharpens", temperature_sharpens, NULL, NULL, NULL},
        {"sample/top_k_keeps", top_k_keeps, NULL, NULL, NULL},
        {"sample/top_p_keeps", top_p_keeps, NULL, NULL, NULL},
        {"sample/min_p_keeps", min_p_keeps, NULL, NULL, NULL},
        {"sample/typical_keeps", typical_keeps, NULL, NULL, NULL},
        {"sample/top_n_sigma_keeps", top_n_sigma_keeps, NULL, NULL, NULL},
        {"sample/xtc_excludes", xtc_excludes, NULL, NULL, NULL},
        {"sample/penalties_formulas", penalties_formulas, NULL, NULL, NULL},
        {"sample/penalties_long_history", penalties_long_history, NULL, NULL, NULL},
        {"sample/penalties_see_own_picks", penalties_see_own_picks, NULL, NULL, NULL},
        {"sample/dry_formula", dry_formula, NULL, NULL, NULL},
        {"sample/dry_breakers", dry_breakers, NULL, NULL, NULL},
        {"sample/bias_and_stop_set", bias_and_stop_set, NULL, NULL, NULL},
        {"sample/mirostat_steers", mirostat_steers, NULL, NULL, NULL},
        {"sample/order_matters", order_matters, NULL, NULL, NULL},
        {"sample/never_empty", never_empty, NULL, NULL, NULL},
        {"sample/bad_values_refused", bad_values_refused, NULL, NULL, NULL},
        {"sample/defaults_of_cards", defaults_of_cards, NULL, NULL, NULL},
        {"sample/defaults_of_file", defaults_of_file, NULL, NULL, NULL},
        {"sample/golden_picks", golden_picks, NULL, NULL, NULL},
        {"sample/draws_are_keyed", draws_are_keyed, NULL, NULL, NULL},
        {"sample/large_vocabulary", large_vocabulary, NULL, NULL, NULL},
    };
    return cmocka_run_group_tests_name("sample", tests, NULL, NULL);
}
