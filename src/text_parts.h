/* SPDX-License-Identifier: MIT */
/* An engine's side of text: tokenizer, chat template and sampling defaults of one file, behind the public functions. */
#ifndef QUERN_TEXT_PARTS_H
#define QUERN_TEXT_PARTS_H

#include "gguf.h"

struct text_parts;

int text_open(struct text_parts **out, const struct gguf *g, const struct qn_options *o, struct qn_error *err);
void text_close(struct text_parts *t); /* NULL is fine */
int text_n_vocab(const struct text_parts *t);
/* Fills in the ids and flags that come from the file's tokenizer keys. */
void text_info(const struct text_parts *t, struct qn_model_info *out);

#endif
