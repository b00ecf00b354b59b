/* SPDX-License-Identifier: MIT */
/* Quantized matrices at the level of a model: hash models in every type that can be hashed.  The dequantized weights, run
 * as f32, must equal the reference's logits; the quantized file's logits must stay as close to those as the two peers' do,
 * closer on average.  Random weights are chaotic once a router flips, so the mixture of experts is judged by its median. */
#include "eval.h"
#include "expand.h"
#include "golden.h"
#include "hashmodel.h"
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

enum { N = 200, VOCAB = 512, N_TYPES = 19 };

static struct family {
    const char *model, *measure; /* measure: the yardstick's name of mean or median */
    double limit; /* of divergence / the smaller of the peers' */
    int n_ratio;
    double ratio[N_TYPES];
} families[] = {
    {.model = "qwen35", .measure = "kld_deq", .limit = 1.15},
    {.model = "qwen35moe", .measure = "kld_deq_median", .limit = 1.5},
};
enum { N_FAMILIES = sizeof families / sizeof *families };

struct one {
    struct family *family;
    const char *type;
};

static void run_file(const char *file, float *logits)
{
    int32_t ids[N];
    hash_prompt(N, ids);
    struct qn_options o = eval_options(file, 256);
    qn_engine *e = eval_open(&o);
    assert_int_equal(eval_n_vocab(e), VOCAB);
    eval_prompt(e, ids, N, logits);
    qn_close(e);
}

/* Largest |log-probability - golden|: all of the last position, then that of the next id everywhere. */
static double against_golden(const struct golden *g, const char *model, const char *type, const float *logits)
{
    char name[80];
    int32_t ids[N];
    size_t n_last, n_nll;
    hash_prompt(N, ids);
    snprintf(name, sizeof name, "%s/%s/last_logits", model, type);
    const float *last = golden_f32(g, name, &n_last);
    snprintf(name, sizeof name, "%s/%s/nll", model, type);
    const float *nll = golden_f32(g, name, &n_nll);
    assert_non_null(last);
    assert_non_null(nll);
    assert_int_equal(n_last, VOCAB);
    assert_int_equal(n_nll, N - 1);
    const float *mine = logits + (size_t)(N - 1) * VOCAB;
    double z = eval_lse(mine, VOCAB), zg = eval_lse(last, VOCAB), worst = 0.0;
    for (int i = 0; i < VOCAB; i++) {
        double d = fabs((mine[i] - z) - (last[i] - zg));
        worst = d <= worst ? worst : d; /* NaN stays */
    }
    for (int t = 0; t + 1 < N; t++) {
        double d = fabs(eval_nll(logits + (size_t)t * VOCAB, VOCAB, ids[t + 1]) - nll[t]);
        worst = d <= worst ? worst : d;
    }
    return worst;
}

static void test_type(void **state)
{
    const struct one *one = *state;
    struct family *f = one->family;
    static float exact[N * VOCAB], mine[N * VOCAB];
    struct golden *g = golden_open("hq_golden");
    assert_non_null(g);
    const char *file = hash_model_file(f->model, one->type), *f32 = expand_file(file, "f32.gguf");
    run_file(f32, exact);
    run_file(file, mine);
    unlink(f32);
    unlink(file);
    double worst = against_golden(g, f->model, one->type, exact), kl[N];
    golden_close(g);
    for (int t = 0; t < N; t++)
        kl[t] = eval_kl(exact + (size_t)t * VOCAB, mine + (size_t)t * VOCAB, VOCAB);
    double ml = golden_yardstick(f->model, one->type, "ml", f->measure);
    double ik = golden_yardstick(f->model, one->type, "ik", f->measure);
    double ours = strcmp(f->measure, "kld_deq") ? eval_median(kl, N) : eval_mean(kl, N), ratio = ours / fmin(ml, ik);
    f->ratio[f->n_ratio++] = ratio;
    print_message("%-9s %-7s  dequantized |dlogp| %.1e   KL ours %.3e  ml %.3e  ik %.3e  ratio %.3f\n", f->model,
                  one->type, worst, ours, ml, ik, ratio);
    assert_true(worst <= 2e-4);
    assert_true(ratio <= f->limit);
}

static void test_all_types(void **state)
{
    const struct family *f = *state;
    double log_sum = 0.0;
    assert_int_equal(f->n_ratio, N_TYPES);
    for (int i = 0; i < N_TYPES; i++)
        log_sum += log(f->ratio[i]);
    double mean = exp(log_sum / N_TYPES);
    print_message("%-9s geometric mean of the ratios %.3f\n", f->model, mean);
    assert_true(mean <= 0.75);
}

int main(void)
{
    static char names[N_FAMILIES * (N_TYPES + 1)][32];
    static struct one ones[N_FAMILIES * N_TYPES];
    struct CMUnitTest tests[N_FAMILIES * (N_TYPES + 1)];
    int n = 0, n_ones = 0;
    for (int i = 0; i < N_FAMILIES; i++) {
        for (int k = 0; hash_quant_types[k]; k++) {
            ones[n_ones] = (struct one){&families[i], hash_quant_types[k]};
            snprintf(names[n], sizeof names[n], "%s/%s", families[i].model, hash_quant_types[k]);
            tests[n] = (struct CMUnitTest){.name = names[n], .test_func = test_type, .initial_state = &ones[n_ones++]};
            n++;
        }
        snprintf(names[n], sizeof names[n], "%s/all_types", families[i].model);
        tests[n] = (struct CMUnitTest){.name = names[n], .test_func = test_all_types, .initial_state = &families[i]};
        n++;
    }
    return _cmocka_run_group_tests("quantized", tests, (size_t)n, NULL, NULL);
}
