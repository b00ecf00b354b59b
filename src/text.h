/* SPDX-License-Identifier: MIT */
/* Text and token ids: the tokenizer that a GGUF file describes. */
#ifndef QUERN_TEXT_H
#define QUERN_TEXT_H

#include "gguf.h"

/* ---- tokenizer */

/* Byte-level BPE (tokenizer.ggml.model = gpt2) or SentencePiece BPE (llama).  Immutable; owns its memory. */
struct tok;

/* pre_override: a pre-tokenizer's name instead of tokenizer.ggml.pre, or NULL; SentencePiece ignores both. */
int tok_open(struct tok **out, const struct gguf *g, const char *pre_override, struct qn_error *err);
void tok_close(struct tok *k); /* NULL is fine */

int tok_n_vocab(const struct tok *k);
/* Ids the file names, -1 where it does not. */
struct tok_ids {
    int32_t bos, eos, eot, eom, pad;
    bool add_bos; /* only with a bos */
};
struct tok_ids tok_ids(const struct tok *k);

/* Text to ids, as qn_tokenize() says.  Invalid UTF-8 is kept byte for byte.  A vocabulary that lacks a byte of the text
 * is QN_E_UNSUPPORTED.  *ids is malloc'ed (never NULL on success) and owned by the caller. */
int tok_encode(const struct tok *k, const char *text, size_t n, const uint8_t *special, unsigned flags, int32_t **ids,
               int *n_ids, struct qn_error *err);

/* The bytes a token stands for, not NUL-terminated.  Control and unknown tokens give their name with show_control, else
 * nothing.  Ids outside the vocabulary give nothing. */
const char *tok_bytes(const struct tok *k, int32_t id, bool show_control, size_t *n);
const char *tok_text(const struct tok *k, int32_t id, size_t *n); /* as spelled in the file, e.g. "Ġthe" */
bool tok_is_control(const struct tok *k, int32_t id);
bool tok_is_stop(const struct tok *k, int32_t id); /* ends a turn */
int32_t tok_find(const struct tok *k, const char *text, size_t n); /* by its spelling in the file; -1 = none */

/* The streaming detokenizer; see qn_detok_put() and qn_detok_end(). */
size_t tok_detok_put(struct qn_detok *d, const struct tok *k, int32_t id, bool show_control, char *out, size_t cap);
size_t tok_detok_end(struct qn_detok *d, char *out, size_t cap);

/* ---- chat templates */

struct template_limits { /* 0 = the default */
    uint64_t steps; /* nodes, items and blocks of bytes worked on; default 20 million */
    size_t bytes; /* memory; default 256 MiB */
    int depth; /* nested expressions, statements, calls, values; default 400, 1..1000 */
};
struct template_args {
    const char *messages, *tools, *kwargs; /* JSON texts, see struct qn_render_args; NULL = absent */
    const char *bos_token, *eos_token; /* NULL = undefined; kwargs may give others */
    const char *now; /* "YYYY-MM-DD HH:MM:SS"; NULL = local time */
    bool add_generation_prompt;
    struct template_limits limits;
};

/* Renders a Jinja template of n bytes as the transformers library does.  Text of messages, tools and kwargs (but for
 * its bos_token and eos_token) is marked 0 in out->special, all else 1.  QN_E_TEMPLATE: the template is malformed,
 * refuses or runs over a limit, which the text names; QN_E_ARGUMENT: an argument is not the JSON it should be.
 * On success *out is the caller's (qn_text_free()), on failure it is empty. */
int template_render(const char *source, size_t n, const struct template_args *a, struct qn_text *out,
                    struct qn_error *err);

#endif
