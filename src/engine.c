/* SPDX-License-Identifier: MIT */
/* Opening a model, and evaluating: the caller's spans are cut into steps of at most n_ubatch rows.  How they are cut changes no bit. */
#include "load.h"
#include "run.h"
#include "store.h"
#include "text_parts.h"

#include "config.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *qn_version(void) { return PACKAGE_VERSION; }

/* ---- opening */

enum { CTX_MOST = 1 << 30 };

static int in_range(const char *what, int v, int min, int max, struct qn_error *err)
{
    return v < min || v > max ? fail(err, QN_E_ARGUMENT, "%s is %d, allowed are %d to %d", what, v, min, max) : 0;
}

static int settings(struct qn_engine *e, const struct qn_options *o, struct qn_error *err)
{
    if (in_range("the number of threads", o->n_threads, 0, POOL_MAX_WORKERS, err) ||
        in_range("the number of batch threads", o->n_threads_batch, 0, POOL_MAX_WORKERS, err) ||
        in_range("the context size", o->n_ctx, 0, CTX_MOST, err) ||
        in_range("the number of sequences", o->n_seq, 0, 1024, err) ||
        in_range("the micro-batch size", o->n_ubatch, 0, 8192, err) ||
        in_range("the number of drafted tokens", o->n_draft, 0, DELTA_CHUNK - 1, err) ||
        in_range("the type of keys", (int)o->type_k, 0, QN_KV_IQ4_NL, err) ||
        in_range("the type of values", (int)o->type_v, 0, QN_KV_IQ4_NL, err) ||
        in_range("the form of the delta rule", (int)o->delta, 0, QN_DELTA_CHUNKED, err))
        return err->code;
    e->log = (struct log_sink){.fn = o->log, .cookie = o->cookie};
    e->vocab_only = o->vocab_only;
    e->n_threads = o->n_threads ? o->n_threads : topology_default_threads();
    e->n_threads_batch = o->n_threads_batch ? o->n_threads_batch : e->n_threads;
    e->n_seq = o->n_seq ? o->n_seq : 1;
    e->n_ubatch = o->n_ubatch ? o->n_ubatch : 512;
    e->n_draft = o->n_draft;
    e->n_ctx = o->n_ctx;
    e->k_kind = (enum kv_kind)o->type_k; /* the same names in the same order */
    e->v_kind = (enum kv_kind)o->type_v;
    e->delta = o->delta;
    e->cache_bytes = o->cache_ram;
    if (!simd_init(&e->ops, o->isa)) {
        char known[100] = "";
        for (const char *const *l = simd_levels(); *l; l++)
            snprintf(known + strlen(known), sizeof known - strlen(known), " %s", *l);
        return fail(err, QN_E_ARGUMENT, "kernel level \"%s\" is unknown or cannot run here; this machine has: auto%s",
                    o->isa, known);
    }
    return 0;
}

/* "qwen35moe, 17.3 M parameters, mostly Q4_K". */
static void describe(struct qn_engine *e)
{
    size_t bytes[QN_TYPE_LIMIT] = {0};
    int most = 0;
    for (size_t i = 0; i < e->gguf->n_tensors; i++)
        bytes[e->gguf->tensors[i].type] += e->gguf->tensors[i].bytes;
    for (int i = 0; i < QN_TYPE_LIMIT; i++)
        most = bytes[i] > bytes[most] ? i : most;
    double n = (double)e->model.n_params;
    const char *unit = n >= 1e9 ? "B" : n >= 1e6 ? "M" : "K";
    snprintf(e->description, sizeof e->description, "%s, %.3g %s parameters, mostly %s", e->model.hp.arch,
             n / (n >= 1e9   ? 1e9
                  : n >= 1e6 ? 1e6
                             : 1e3),
             unit, quant_type_find(most)->name);
}

enum {
    CACHE_SHARE = 4, /* by itself the prefix store takes a quarter of the budget */
    SPARE_SHARE = 20 /* of what is left, for what nobody counts: the allocator's, the caller's */
};

/* What stays whatever is asked: weights unless they lie elsewhere, scratch but for the part that grows with the context, states. */
static size_t fixed_bytes(struct qn_engine *e, const struct loading *l, size_t *weights)
{
    *weights = l->elsewhere ? 0 : e->model.packed_used * (size_t)e->model.n_slices;
    size_t step = step_bytes(e) - attn_partial_floats(e, e->n_ctx) * sizeof(float);
    return *weights + step + (size_t)e->n_seq * e->slot_bytes;
}

/* Makes what is left the budget; refuses, before anything is touched, what leaves nothing. */
static int check_memory(struct qn_engine *e, const struct loading *l, struct qn_error *err)
{
    const double mib = 1024.0 * 1024.0;
    state_sizes(e);
    size_t weights, have = mem_available(), fixed = fixed_bytes(e, l, &weights), page = budget_page_cost(e);
    size_t left = have > fixed ? have - fixed : 0;
    e->budget = left - left / SPARE_SHARE;
    if (e->budget < page)
        return fail(err, QN_E_MEMORY,
                    "%s needs %.0f MiB for weights and %.0f MiB beside for %d sequence%s, %.0f MiB are available",
                    e->gguf->path, (double)weights / mib, (double)(fixed - weights + page) / mib, e->n_seq,
                    e->n_seq > 1 ? "s" : "", (double)have / mib);
    if (e->cache_bytes == QN_CACHE_AUTO)
        e->cache_bytes = e->budget / CACHE_SHARE;
    if (e->cache_bytes > e->budget)
        return fail(err, QN_E_MEMORY, "%s: a prefix store of %.0f MiB does not fit: %.0f of %.0f MiB are left for it",
                    e->gguf->path, (double)e->cache_bytes / mib, (double)e->budget / mib, (double)have / mib);
    size_t fits = e->budget / page;
    if (fits < (size_t)e->n_blocks)
        log_line(&e->log, QN_LOG_INFO,
                 "%s: the context has %d positions, memory has room for %zu (%.0f of %.0f MiB are left for them)",
                 e->gguf->path, e->n_ctx, fits * ATTN_BLOCK, (double)e->budget / mib, (double)have / mib);
    return 0;
}

static int open_tensors(struct qn_engine *e, const struct qn_options *o, struct qn_error *err)
{
    struct rope_override rope = {.freq_base = o->rope_freq_base, .factor = o->rope_scale, .scaling = o->rope_scaling};
    int n_workers = e->n_threads > e->n_threads_batch ? e->n_threads : e->n_threads_batch;
    if (pool_open(&e->pool, n_workers, !o->no_numa, &e->log, err))
        return err->code;
    /* a pack cache is one file for every machine */
    int n_slices = o->pack_cache || o->pack_cache_dir ? 1 : pool_n_nodes(e->pool);
    if (model_open(&e->model, e->gguf, &rope, n_slices, o->draft_block, err))
        return err->code;
    if (e->model.n_kv && e->model.hp.head_dim % QUANT_GROUP && (kv_quantized(e->k_kind) || kv_quantized(e->v_kind)))
        return fail(err, QN_E_ARGUMENT,
                    "%s: heads have %d dimensions, quantized KV types want a multiple of %d; take f16", e->gguf->path,
                    e->model.hp.head_dim, QUANT_GROUP);
    if (e->n_ctx == 0)
        e->n_ctx = e->model.hp.n_ctx_train < CTX_MOST ? e->model.hp.n_ctx_train : CTX_MOST;
    if (text_n_vocab(e->text) > e->model.hp.n_vocab)
        return fail(err, QN_E_FORMAT, "%s: tokenizer.ggml.tokens has %d entries, token_embd.weight only %d rows",
                    e->gguf->path, text_n_vocab(e->text), e->model.hp.n_vocab);
    describe(e);
    struct loading l;
    int code = load_begin(&l, e, o, err);
    if (!code)
        code = check_memory(e, &l, err);
    if (!code)
        code = load_weights(&l, err);
    load_end(&l);
    if (!code)
        code = step_alloc(e, err);
    if (!code)
        code = state_open(e, err);
    return code || !o->cache_dir ? code : store_use_folder(e, o->cache_dir, o->cache_disk, err);
}

int qn_open(qn_engine **out, const struct qn_options *o, struct qn_error *err)
{
    *out = NULL;
    struct qn_engine *e = calloc(1, sizeof *e);
    if (!e)
        return fail(err, QN_E_MEMORY, "no memory for an engine");
    if (!o->model)
        fail(err, QN_E_ARGUMENT, "no model file was given");
    else if (!settings(e, o, err) && !gguf_open(&e->gguf, o->model, o->vocab_only, err) &&
             !text_open(&e->text, e->gguf, o, err) && (o->vocab_only || !open_tensors(e, o, err))) {
        *out = e;
        return 0;
    }
    int code = err->code;
    qn_close(e);
    return code;
}

void qn_close(qn_engine *e)
{
    if (!e)
        return;
    state_close(e); /* what the prefix store has may be written, by all workers */
    pool_close(e->pool);
    mem_release(e->arena, e->arena_bytes);
    model_close(&e->model);
    text_close(e->text);
    gguf_close(e->gguf);
    free(e);
}

void qn_model_info(const qn_engine *e, struct qn_model_info *out)
{
    const struct hparams *hp = &e->model.hp;
    *out = (struct qn_model_info){
        .arch = hp->arch,
        .name = hp->name,
        .description = e->description,
        .n_vocab = e->vocab_only ? text_n_vocab(e->text) : hp->n_vocab,
        .n_layer = hp->n_layer,
        .n_embd = hp->n_embd,
        .n_ctx_train = hp->n_ctx_train,
        .n_ctx = e->n_ctx,
        .n_threads = e->n_threads,
        .n_threads_batch = e->n_threads_batch,
        .n_params = e->model.n_params,
        .bytes_weights = e->model.bytes_weights,
        .bytes_per_seq = (size_t)e->n_blocks * e->page_bytes + e->slot_bytes,
        .bytes_step = e->arena_bytes - attn_partial_floats(e, e->n_ctx) * sizeof(float),
        .isa = e->ops.name,
    };
    text_info(e->text, out);
}

/* ---- evaluating */

int engine_check_spans(qn_engine *e, const struct qn_span *spans, int n_spans, const float *logits,
                       struct qn_error *err)
{
    if (e->vocab_only)
        return fail(err, QN_E_ARGUMENT, "the model was opened for its vocabulary only");
    if (n_spans < 0)
        return fail(err, QN_E_ARGUMENT, "the number of spans is %d", n_spans);
    if (e->step.tried)
        return fail(err, QN_E_ARGUMENT, "qn_commit() has to say first what stays of the last qn_try()");
    int code = 0, marked = 0;
    for (; marked < n_spans && !code; marked++) {
        const struct qn_span *sp = &spans[marked];
        if (!sp->seq || sp->seq->engine != e || sp->seq->in_call) {
            code = fail(err, QN_E_ARGUMENT, "span %d: %s", marked,
                        !sp->seq || sp->seq->engine != e ? "not a sequence of this engine"
                                                         : "its sequence is in the call already");
            break;
        }
        sp->seq->in_call = true;
        if (sp->n < 1 || !sp->ids)
            code = fail(err, QN_E_ARGUMENT, "span %d: no tokens", marked);
        else if (sp->n > e->n_ctx - sp->seq->n)
            code = fail(err, QN_E_NOSPACE, "the context is full: %d tokens are there, %d more do not fit into %d",
                        sp->seq->n, sp->n, e->n_ctx);
        else if ((unsigned)sp->logits > QN_LOGITS_ALL)
            code = fail(err, QN_E_ARGUMENT, "span %d: logits is %d, allowed are 0 to %d", marked, (int)sp->logits,
                        QN_LOGITS_ALL);
        else if (sp->logits != QN_LOGITS_NONE && !logits)
            code = fail(err, QN_E_ARGUMENT, "span %d: logits are wanted, but there is no room for them", marked);
        for (int i = 0; !code && i < sp->n; i++)
            if (sp->ids[i] < 0 || sp->ids[i] >= e->model.hp.n_vocab)
                code = fail(err, QN_E_ARGUMENT, "token id %d is not in the vocabulary of %d", sp->ids[i],
                            e->model.hp.n_vocab);
    }
    for (int i = 0; i < marked; i++)
        spans[i].seq->in_call = false;
    return code;
}

void engine_add_rows(qn_engine *e, const struct qn_span *sp, int from, int n)
{
    struct step *s = &e->step;
    s->span[s->n_spans++] = (struct span){.seq = sp->seq, .row = s->n_rows, .n = n, .pos = sp->seq->n};
    for (int i = 0; i < n; i++) {
        s->ids[s->n_rows] = sp->ids[from + i];
        if (sp->logits == QN_LOGITS_ALL || (sp->logits == QN_LOGITS_LAST && from + i == sp->n - 1))
            s->out_row[s->n_out++] = s->n_rows;
        s->n_rows++;
    }
}

/* How many tokens of span sp, of which those in front of `from` are gone, fit into the step. */
static int rows_that_fit(const qn_engine *e, const struct qn_span *sp, int from)
{
    int left = sp->n - from, room = e->n_ubatch - e->step.n_rows;
    int to_snapshot = e->keep_every ? e->keep_every - sp->seq->n % e->keep_every : left;
    int n = left < room ? left : room;
    return n < to_snapshot ? n : to_snapshot;
}

void engine_end_step(qn_engine *e)
{
    const struct step *s = &e->step;
    for (const struct span *sp = s->span; sp < s->span + s->n_spans; sp++) {
        struct qn_seq *q = sp->seq;
        memcpy(q->ids + q->n, s->ids + sp->row, (size_t)sp->n * sizeof *q->ids);
        q->n += sp->n;
        if (s->tried)
            state_retract(q);
    }
    for (const struct span *sp = s->span; sp < s->span + s->n_spans; sp++) {
        if (e->model.drafts)
            draft_follow(e, sp);
        if (e->keep_every && sp->seq->n / e->keep_every > sp->pos / e->keep_every)
            store_keep(e->store, sp->seq);
    }
}

int qn_eval(qn_engine *e, const struct qn_span *spans, int n_spans, float *logits, struct qn_error *err)
{
    if (engine_check_spans(e, spans, n_spans, logits, err) || budget_promise_spans(spans, n_spans, err))
        return err->code;
    for (int i = 0; i < n_spans; i++)
        state_admit(spans[i].seq, spans[i].n);
    struct step *s = &e->step;
    int i = 0, from = 0;
    while (i < n_spans) {
        s->n_rows = s->n_spans = s->n_out = 0;
        s->logits = logits;
        while (i < n_spans && s->n_rows < e->n_ubatch) {
            int n = rows_that_fit(e, &spans[i], from);
            engine_add_rows(e, &spans[i], from, n);
            from += n;
            if (from < spans[i].n)
                break; /* the step is full */
            i++;
            from = 0;
        }
        if (step_run(e, err)) {
            for (int j = 0; j < n_spans; j++)
                qn_seq_clear(spans[j].seq);
            return err->code;
        }
        if (s->n_out)
            logits += (size_t)s->n_out * (size_t)e->model.hp.n_vocab;
        engine_end_step(e);
    }
    return 0;
}
