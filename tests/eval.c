/* SPDX-License-Identifier: MIT */
#include "eval.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

struct qn_options eval_options(const char *file, int n_ctx)
{
    return (struct qn_options){
        .model = file, .n_threads = 2, .n_ctx = n_ctx, .type_k = QN_KV_F32, .type_v = QN_KV_F32, .no_numa = 1};
}

qn_engine *eval_open(const struct qn_options *o)
{
    struct qn_error err;
    qn_engine *e;
    if (qn_open(&e, o, &err))
        fail_msg("%s", err.text);
    return e;
}

qn_seq *eval_seq(qn_engine *e)
{
    struct qn_error err;
    qn_seq *s;
    if (qn_seq_new(&s, e, &err))
        fail_msg("%s", err.text);
    return s;
}

void eval_spans(qn_engine *e, const struct qn_span *spans, int n_spans, float *logits)
{
    struct qn_error err;
    if (qn_eval(e, spans, n_spans, logits, &err))
        fail_msg("%s", err.text);
}

void eval_prompt(qn_engine *e, const int32_t *ids, int n, float *logits)
{
    qn_seq *s = eval_seq(e);
    struct qn_span sp = {.seq = s, .ids = ids, .n = n, .logits = QN_LOGITS_ALL};
    eval_spans(e, &sp, 1, logits);
    qn_seq_free(s);
}

int eval_n_vocab(const qn_engine *e)
{
    struct qn_model_info info;
    qn_model_info(e, &info);
    return info.n_vocab;
}

int eval_argmax(const float *logits, int n)
{
    int best = 0;
    for (int i = 0; i < n; i++) {
        assert_false(isnan(logits[i]));
        best = logits[i] > logits[best] ? i : best;
    }
    return best;
}

double eval_lse(const float *logits, int n)
{
    double max = logits[eval_argmax(logits, n)], sum = 0.0;
    for (int i = 0; i < n; i++)
        sum += exp(logits[i] - max);
    return max + log(sum);
}

double eval_nll(const float *logits, int n, int32_t id) { return eval_lse(logits, n) - logits[id]; }

double eval_kl(const float *p, const float *q, int n)
{
    double zp = eval_lse(p, n), zq = eval_lse(q, n), sum = 0.0;
    for (int i = 0; i < n; i++)
        sum += exp(p[i] - zp) * ((p[i] - zp) - (q[i] - zq));
    return sum;
}

double eval_mean(const double *x, int n)
{
    double sum = 0.0;
    for (int i = 0; i < n; i++)
        sum += x[i];
    return sum / n;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double eval_median(const double *x, int n)
{
    double *sorted = malloc((size_t)n * sizeof *sorted);
    assert_non_null(sorted);
    memcpy(sorted, x, (size_t)n * sizeof *sorted);
    qsort(sorted, (size_t)n, sizeof *sorted, ascending);
    double m = (sorted[(n - 1) / 2] + sorted[n / 2]) / 2;
    free(sorted);
    return m;
}
