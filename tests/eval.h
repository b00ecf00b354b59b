/* SPDX-License-Identifier: MIT */
/* Engines and sequences that open or fail the test, ids and what an engine makes of them, and how logits are compared: by their hash,
 * and by log-probabilities and divergences in double. */
#ifndef QUERN_EVAL_H
#define QUERN_EVAL_H

#include "src/quern.h"

/* One model file with f32 KV, two workers, no pinning; change what the test is about. */
struct qn_options eval_options(const char *file, int n_ctx);
qn_engine *eval_open(const struct qn_options *o);
qn_seq *eval_seq(qn_engine *e);
/* Opening fails with this code and one line that has `says` in it. */
struct qn_error eval_refused(const struct qn_options *o, int code, const char *says);

/* Ids of the hash models' plain tokens, below 490: others for each seed. */
void eval_ids(uint64_t seed, int n, int32_t *ids);
/* qn_eval() that fails the test. */
void eval_spans(qn_engine *e, const struct qn_span *spans, int n_spans, float *logits);
/* ids from an empty sequence: logits[n][n_vocab]. */
void eval_prompt(qn_engine *e, const int32_t *ids, int n, float *logits);
/* Appends ids: logits[n][n_vocab], or NULL. */
void eval_append(qn_seq *s, const int32_t *ids, int n, float *logits);
/* The same, and the hash of each row. */
void eval_rows(qn_seq *s, const int32_t *ids, int n, uint64_t *rows);
/* The hashes of ids' rows as an engine computes them that has these options, but keeps nothing. */
void eval_plain_rows(const struct qn_options *like, const int32_t *ids, int n, uint64_t *rows);
void eval_hash_rows(const float *logits, int n, int n_vocab, uint64_t *rows);
int eval_n_vocab(const qn_engine *e);

double eval_lse(const float *logits, int n); /* log(sum(exp)) */
int eval_argmax(const float *logits, int n); /* the lowest index of the largest; NaN fails the test */
double eval_nll(const float *logits, int n, int32_t id); /* -log p(id) */
double eval_kl(const float *p, const float *q, int n); /* KL(p || q), nats */

double eval_mean(const double *x, int n);
double eval_median(const double *x, int n); /* of an even number: the mean of the middle two */

#endif
