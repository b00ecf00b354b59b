/* SPDX-License-Identifier: MIT */
/* Chat templates: what the two halves of the parser share: template_parse.c has statements, template_parse_expr.c
 * expressions. */
#ifndef QUERN_TEMPLATE_PARSE_H
#define QUERN_TEMPLATE_PARSE_H

#include "template.h"

struct parser {
    struct tpl *t;
    struct token *k; /* the current token */
    unsigned loops; /* loops around, within the same macro */
    unsigned no_cond; /* > 0: `a if b` is not an expression here */
    struct frame *frame, *frames; /* the scope being read, all of them */
    bool in_target; /* names being read are assigned to */
    struct node *unknown; /* the first unknown one of this statement that no condition stands around */
    unsigned macro_flags; /* MACRO_*: names mentioned in the macro being read */
    struct node_list blocks; /* names of all N_BLOCK so far */
};

bool parse_accept(struct parser *p, enum tpl_tok type);
bool parse_accept_word(struct parser *p, const char *word);
bool parse_at_word(const struct parser *p, const char *word);
void parse_expect(struct parser *p, enum tpl_tok type);
const struct str *parse_name(struct parser *p);
_Noreturn void parse_fail(struct parser *p, const char *expected);

struct node *parse_node(struct parser *p, enum node_kind kind);
struct node *parse_node_abc(struct parser *p, enum node_kind kind, int line, struct node *a, struct node *b,
                            struct node *c);
void parse_push(struct parser *p, struct node *parent, struct node_list *l, struct node *child);

struct node *parse_expression(struct parser *p);
/* One expression, or several with commas: a tuple.  full: any expressions, otherwise only what can be assigned to,
 * attributes: `name.name` too.  end_word may follow. */
struct node *parse_tuple(struct parser *p, bool full, const char *end_word, bool attributes);
struct node *parse_filters(struct parser *p, struct node *input); /* all of "| name(...)" */
struct node *parse_one_filter(struct parser *p, struct node *input); /* "name(...)" */

/* template_scope.c.  A frame is what a scope will be when the template runs. */
void frame_open(struct parser *p, struct node *n, bool isolated);
struct frame *frame_swap(struct parser *p, struct frame *f); /* goes (back) to f; returns where it was */
void frame_condition(struct parser *p,
                     int by); /* +1, -1: under a condition; unknown filters fail when they are reached */
bool frame_conditional(const struct parser *p);
void frame_load(struct parser *p, const struct str *name);
void frame_store(struct parser *p, const struct node *target, bool parameter);
void frame_store_name(struct parser *p, const struct str *name);
void frame_finish(struct parser *p); /* fills node.hidden everywhere */

#endif
