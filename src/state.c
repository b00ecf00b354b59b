/* SPDX-License-Identifier: MIT */
/* Memory of a sequence: KV cache and recurrent states.  Address space for the whole context is reserved when a sequence begins;
 * pages are touched as tokens arrive. */
#include "run.h"

#include <stdlib.h>
#include <string.h>

void state_sizes(struct qn_engine *e)
{
    const struct hparams *hp = &e->model.hp;
    size_t n_blocks = ((size_t)e->n_ctx + ATTN_BLOCK - 1) / ATTN_BLOCK, dim = (size_t)hp->ssm_dim;
    size_t pair = kv_kind_bytes(e->k_kind) + kv_kind_bytes(e->v_kind);
    e->kv_block_bytes = (size_t)hp->head_dim * ATTN_BLOCK * pair;
    e->kv_head_bytes = e->kv_block_bytes * n_blocks;
    e->kv_bytes = e->kv_head_bytes * (size_t)hp->n_head_kv * (size_t)e->model.n_attn;
    e->state_bytes = sizeof(float) * (size_t)e->model.n_delta * (size_t)hp->n_v_head * dim * dim;
    size_t channels = (2 * (size_t)hp->n_k_head + (size_t)hp->n_v_head) * dim;
    e->conv_bytes = hp->n_tap ? sizeof(float) * (size_t)e->model.n_delta * (size_t)(hp->n_tap - 1) * channels : 0;
}

uint8_t *state_keys(const struct qn_seq *s, int i, int h, int b)
{
    const struct qn_engine *e = s->engine;
    return s->kv + ((size_t)i * (size_t)e->model.hp.n_head_kv + (size_t)h) * e->kv_head_bytes +
           (size_t)b * e->kv_block_bytes;
}

uint8_t *state_values(const struct qn_seq *s, int i, int h, int b)
{
    const struct qn_engine *e = s->engine;
    return state_keys(s, i, h, b) + (size_t)e->model.hp.head_dim * ATTN_BLOCK * kv_kind_bytes(e->k_kind);
}

float *state_tile(const struct qn_seq *s, int i, int v_head, int slice)
{
    const struct hparams *hp = &s->engine->model.hp;
    size_t dim = (size_t)hp->ssm_dim;
    return s->state + ((size_t)i * (size_t)hp->n_v_head + (size_t)v_head) * dim * dim + (size_t)slice * dim * 16;
}

float *state_conv(const struct qn_seq *s, int i)
{
    return s->conv + s->engine->conv_bytes / sizeof(float) / (size_t)s->engine->model.n_delta * (size_t)i;
}

int qn_seq_new(qn_seq **out, qn_engine *e, struct qn_error *err)
{
    *out = NULL;
    if (e->vocab_only)
        return fail(err, QN_E_ARGUMENT, "the model was opened for its vocabulary only");
    if (e->n_live >= e->n_seq)
        return fail(err, QN_E_NOSPACE, "%d sequences are alive, the engine was opened for %d", e->n_live, e->n_seq);
    struct qn_seq *s = calloc(1, sizeof *s);
    if (!s)
        return fail(err, QN_E_MEMORY, "no memory for a sequence");
    s->engine = e;
    s->kv = mem_reserve(e->kv_bytes, false);
    s->state = mem_reserve(e->state_bytes, false);
    s->conv = mem_reserve(e->conv_bytes, false);
    e->n_live++;
    if (!s->kv || !s->state || !s->conv) {
        qn_seq_free(s);
        return fail(err, QN_E_MEMORY, "no address space for a sequence of %zu bytes",
                    e->kv_bytes + e->state_bytes + e->conv_bytes);
    }
    *out = s;
    return 0;
}

void qn_seq_free(qn_seq *s)
{
    if (!s)
        return;
    struct qn_engine *e = s->engine;
    mem_release(s->kv, e->kv_bytes);
    mem_release(s->state, e->state_bytes);
    mem_release(s->conv, e->conv_bytes);
    e->n_live--;
    free(s);
}

void qn_seq_clear(qn_seq *s)
{
    s->n = 0; /* what the cache holds past n is never read */
    memset(s->state, 0, s->engine->state_bytes);
    memset(s->conv, 0, s->engine->conv_bytes);
}

int qn_seq_len(const qn_seq *s) { return s->n; }
