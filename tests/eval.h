/* SPDX-License-Identifier: MIT */
/* Engines and sequences that open or fail the test, and how logits are compared: log-probabilities and divergences in
 * double. */
#ifndef QUERN_EVAL_H
#define QUERN_EVAL_H

#include "src/quern.h"

/* One model file with f32 KV, two workers, no pinning; change what the test is about. */
struct qn_options eval_options(const char *file, int n_ctx);
qn_engine *eval_open(const struct qn_options *o);
qn_seq *eval_seq(qn_engine *e);
/* qn_eval() that fails the test. */
void eval_spans(qn_engine *e, const struct qn_span *spans, int n_spans, float *logits);
/* ids from an empty sequence: logits[n][n_vocab]. */
void eval_prompt(qn_engine *e, const int32_t *ids, int n, float *logits);
int eval_n_vocab(const qn_engine *e);

double eval_lse(const float *logits, int n); /* log(sum(exp)) */
int eval_argmax(const float *logits, int n); /* the lowest index of the largest; NaN fails the test */
double eval_nll(const float *logits, int n, int32_t id); /* -log p(id) */
double eval_kl(const float *p, const float *q, int n); /* KL(p || q), nats */

double eval_mean(const double *x, int n);
double eval_median(const double *x, int n); /* of an even number: the mean of the middle two */

#endif
