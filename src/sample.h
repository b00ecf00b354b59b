/* SPDX-License-Identifier: MIT */
/* Sampling: from a row of logits to a token, the same token on every machine.  The samplers know a vocabulary (struct
 * sampler_env), not an engine; engine.c wraps them for the public interface.
 * Random numbers are a function of (seed, stream, tokens sampled so far, draw) and of nothing else; exp and log are our
 * own, and every candidate has one place in one order (higher first, then lower id). */
#ifndef QUERN_SAMPLE_H
#define QUERN_SAMPLE_H

#include "base.h"

struct gguf;

/* What a sampler must know about the model.  All of it must outlive the sampler. */
struct sampler_env {
    int n_vocab;
    int n_ctx; /* tokens a history of "all" covers */
    const uint8_t *is_stop; /* [n_vocab] non-zero: ends a turn; NULL: none */
    const char *(*bytes)(const void *cookie, int32_t id, size_t *n); /* of a token; NULL: DRY knows no breakers */
    const void *cookie;
};

/* ---- sample.c: struct qn_sampler is the public opaque type */
int sampler_open(struct qn_sampler **out, const struct sampler_env *env, const struct qn_sampling *p,
                 struct qn_error *err);
void sampler_close(struct qn_sampler *s); /* NULL is fine */
int32_t sampler_pick(struct qn_sampler *s, const float *logits); /* [n_vocab] */
void sampler_accept(struct qn_sampler *s, int32_t id); /* an id outside the vocabulary is ignored */

/* Uniform in [0, 1), a multiple of 2^-53: Philox4x32-10 with key seed and counter (stream, n, draw). */
double sample_uniform(uint64_t seed, uint64_t stream, uint32_t n, uint32_t draw);
double sample_exp(double x); /* x <= 0; relative error below 2^-51; 0 below -708 */
double sample_log(double x); /* x positive and normal; error below 2^-51 of max(1, |log x|) */

/* ---- sampling.c: the parameters */
/* Behind qn_sampling_defaults(): general.sampling.* of g (may be NULL), else the row of arch, else neutral values. */
const char *sampling_defaults(struct qn_sampling *p, const struct gguf *g, const char *arch, bool thinking);
/* 0, or QN_E_ARGUMENT with the name of the value that is out of range. */
int sampling_check(const struct qn_sampling *p, int n_vocab, struct qn_error *err);

#endif
