/* SPDX-License-Identifier: MIT */
#include "eval.h"
#include "hashmodel.h"
#include "src/run.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <xxhash.h>

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

struct qn_error eval_refused(const struct qn_options *o, int code, const char *says)
{
    struct qn_error err = {0};
    qn_engine *e;
    int got = qn_open(&e, o, &err);
    if (got == 0)
        fail_msg("was opened, wanted was: %s", says);
    assert_null(e);
    if (got != code || !strstr(err.text, says) || strchr(err.text, '\n'))
        fail_msg("code %d, not %d: \"%s\" does not say \"%s\"", got, code, err.text, says);
    return err;
}

void eval_ids(uint64_t seed, int n, int32_t *ids)
{
    for (int i = 0; i < n; i++)
        ids[i] = (int32_t)(hash_splitmix64(seed * 100003 + (uint64_t)i) % 490);
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
    eval_append(s, ids, n, logits);
    qn_seq_free(s);
}

void eval_append(qn_seq *s, const int32_t *ids, int n, float *logits)
{
    struct qn_span sp = {.seq = s, .ids = ids, .n = n, .logits = logits ? QN_LOGITS_ALL : QN_LOGITS_NONE};
    if (n > 0)
        eval_spans(s->engine, &sp, 1, logits);
}

void eval_hash_rows(const float *logits, int n, int n_vocab, uint64_t *rows)
{
    for (int t = 0; t < n; t++)
        rows[t] = XXH3_64bits(logits + (size_t)t * (size_t)n_vocab, (size_t)n_vocab * sizeof *logits);
}

void eval_rows(qn_seq *s, const int32_t *ids, int n, uint64_t *rows)
{
    int n_vocab = eval_n_vocab(s->engine);
    float *logits = malloc(((size_t)n * (size_t)n_vocab + 1) * sizeof *logits);
    assert_non_null(logits);
    eval_append(s, ids, n, logits);
    eval_hash_rows(logits, n, n_vocab, rows);
    free(logits);
}

void eval_plain_rows(const struct qn_options *like, const int32_t *ids, int n, uint64_t *rows)
{
    struct qn_options o = *like;
    o.cache_ram = 0;
    o.cache_dir = NULL;
    qn_engine *e = eval_open(&o);
    qn_seq *s = eval_seq(e);
    eval_rows(s, ids, n, rows);
    qn_seq_free(s);
    qn_close(e);
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
