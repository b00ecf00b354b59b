/* SPDX-License-Identifier: MIT */
/* Chat templates: what the two halves of the walker share: template_eval.c runs statements, template_eval_expr.c
 * expressions. */
#ifndef QUERN_TEMPLATE_EVAL_H
#define QUERN_TEMPLATE_EVAL_H

#include "template.h"

struct val eval(struct tpl *t, const struct node *n, struct scope *s);
struct val eval_name(struct tpl *t, const struct scope *s, const struct str *name);
/* The callee (unless NULL) and the arguments of an N_CALL, N_FILTER or N_TEST. */
void eval_call_parts(struct tpl *t, const struct node *n, struct scope *s, struct val *callee, struct call *c);
struct val eval_macro(struct tpl *t, const struct macro *m, struct call *c);
struct val eval_recurse(struct tpl *t, struct loop *l, struct val over); /* loop(over) */

#endif
