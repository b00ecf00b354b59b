/* SPDX-License-Identifier: MIT */
/* The public text functions: thin covers over tokenizer, templates and samplers. */
#include "text_parts.h"
#include "run.h"
#include "sample.h"
#include "text.h"

#include <stdlib.h>
#include <string.h>

struct text_parts {
    struct tok *tok;
    char *template_text; /* NULL: the file has none */
    size_t template_len;
    uint8_t *is_stop; /* [n_vocab] */
    int n_vocab;
    char bos[64], eos[64]; /* as spelled in the file, "" when there is none */
};

static void spell(const struct tok *k, int32_t id, char out[64])
{
    size_t n = 0;
    const char *p = id >= 0 ? tok_text(k, id, &n) : NULL;
    n = n < 63 ? n : 63;
    if (p)
        memcpy(out, p, n);
    out[n] = 0;
}

static int keep_template(struct text_parts *t, const struct gguf *g, const char *override, struct qn_error *err)
{
    struct gguf_str s = {.s = override, .n = override ? strlen(override) : 0};
    if (!override) {
        int got = gguf_get_str(g, "tokenizer.chat_template", &s, err);
        if (got <= 0)
            return got;
    }
    t->template_text = malloc(s.n + 1);
    if (!t->template_text)
        return fail(err, QN_E_MEMORY, "no memory for the chat template");
    memcpy(t->template_text, s.s, s.n);
    t->template_text[s.n] = 0;
    t->template_len = s.n;
    return 0;
}

int text_open(struct text_parts **out, const struct gguf *g, const struct qn_options *o, struct qn_error *err)
{
    *out = NULL;
    struct text_parts *t = calloc(1, sizeof *t);
    if (!t)
        return fail(err, QN_E_MEMORY, "no memory for the tokenizer");
    if (tok_open(&t->tok, g, o->pre, err) || keep_template(t, g, o->template_text, err))
        goto fail;
    t->n_vocab = tok_n_vocab(t->tok);
    t->is_stop = calloc((size_t)t->n_vocab + 1, 1);
    if (!t->is_stop) {
        fail(err, QN_E_MEMORY, "no memory for a vocabulary of %d", t->n_vocab);
        goto fail;
    }
    for (int32_t i = 0; i < t->n_vocab; i++)
        t->is_stop[i] = tok_is_stop(t->tok, i);
    spell(t->tok, tok_ids(t->tok).bos, t->bos);
    spell(t->tok, tok_ids(t->tok).eos, t->eos);
    *out = t;
    return 0;
fail:
    text_close(t);
    return err->code;
}

void text_close(struct text_parts *t)
{
    if (!t)
        return;
    tok_close(t->tok);
    free(t->template_text);
    free(t->is_stop);
    free(t);
}

int text_n_vocab(const struct text_parts *t) { return t->n_vocab; }

void text_info(const struct text_parts *t, struct qn_model_info *out)
{
    struct tok_ids ids = tok_ids(t->tok);
    out->id_bos = ids.bos;
    out->id_eos = ids.eos;
    out->id_eot = ids.eot;
    out->id_pad = ids.pad;
    out->add_bos = ids.add_bos;
    out->has_template = t->template_text != NULL;
}

/* ---- public */

int qn_tokenize(const qn_engine *e, const char *text, size_t n, const uint8_t *special, unsigned flags, int32_t **ids,
                int *n_ids, struct qn_error *err)
{
    return tok_encode(e->text->tok, text, n, special, flags, ids, n_ids, err);
}

const char *qn_token_bytes(const qn_engine *e, int32_t id, int show_control, size_t *n)
{
    return tok_bytes(e->text->tok, id, show_control, n);
}

int qn_token_is_control(const qn_engine *e, int32_t id) { return tok_is_control(e->text->tok, id); }

int32_t qn_token_find(const qn_engine *e, const char *text) { return tok_find(e->text->tok, text, strlen(text)); }

int qn_token_is_stop(const qn_engine *e, int32_t id)
{
    return id >= 0 && id < e->text->n_vocab && e->text->is_stop[id];
}

size_t qn_detok_put(struct qn_detok *d, const qn_engine *e, int32_t id, int show_control, char *out, size_t cap)
{
    return tok_detok_put(d, e->text->tok, id, show_control, out, cap);
}

size_t qn_detok_end(struct qn_detok *d, char *out, size_t cap) { return tok_detok_end(d, out, cap); }

int qn_render(const qn_engine *e, const struct qn_render_args *a, struct qn_text *out, struct qn_error *err)
{
    const struct text_parts *t = e ? e->text : NULL;
    struct template_args args = {.messages = a->messages,
                                 .tools = a->tools,
                                 .kwargs = a->kwargs,
                                 .bos_token = t && t->bos[0] ? t->bos : NULL,
                                 .eos_token = t && t->eos[0] ? t->eos : NULL,
                                 .now = a->now,
                                 .add_generation_prompt = a->add_generation_prompt};
    *out = (struct qn_text){0};
    if (a->template_text)
        return template_render(a->template_text, strlen(a->template_text), &args, out, err);
    if (!t || !t->template_text)
        return fail(err, QN_E_TEMPLATE, "the model has no chat template; give one with a template file");
    return template_render(t->template_text, t->template_len, &args, out, err);
}

const char *qn_sampling_defaults(struct qn_sampling *p, const qn_engine *e, int thinking)
{
    return sampling_defaults(p, e->gguf, e->model.hp.arch, thinking != 0);
}

static const char *bytes_of(const void *cookie, int32_t id, size_t *n) { return tok_bytes(cookie, id, false, n); }

int qn_sampler_new(qn_sampler **out, const qn_engine *e, const struct qn_sampling *p, struct qn_error *err)
{
    struct sampler_env env = {.n_vocab = e->vocab_only ? e->text->n_vocab : e->model.hp.n_vocab,
                              .n_ctx = e->n_ctx,
                              .is_stop = e->text->is_stop,
                              .bytes = bytes_of,
                              .cookie = e->text->tok};
    return sampler_open(out, &env, p, err);
}

void qn_sampler_free(qn_sampler *s) { sampler_close(s); }

int32_t qn_sampler_pick(qn_sampler *s, const float *logits) { return sampler_pick(s, logits); }

void qn_sampler_accept(qn_sampler *s, int32_t id) { sampler_accept(s, id); }

void qn_text_free(struct qn_text *t)
{
    free(t->bytes);
    free(t->special);
    *t = (struct qn_text){0};
}
