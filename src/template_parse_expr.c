/* SPDX-License-Identifier: MIT */
/* Chat templates: expressions of the tree, lowest precedence first:
 * a if b else c; or; and; not; comparisons, in; + -; ~; * / // %; **; unary + -; postfix; filters and tests. */
#include "template_parse.h"

#include <string.h>

static struct node *parse_unary(struct parser *p, bool filters);

static struct node *binary(struct parser *p, int op, int line, struct node *a, struct node *b)
{
    struct node *n = parse_node_abc(p, N_BINARY, line, a, b, NULL);
    n->op = op;
    return n;
}

static struct node *parse_pow(struct parser *p)
{
    int line = p->k->line;
    struct node *n = parse_unary(p, true);
    while (parse_accept(p, TOK_POW))
        n = binary(p, TOK_POW, line, n, parse_unary(p, true));
    return n;
}

static struct node *parse_product(struct parser *p)
{
    int line = p->k->line;
    struct node *n = parse_pow(p);
    while (p->k->type == TOK_MUL || p->k->type == TOK_DIV || p->k->type == TOK_FLOORDIV || p->k->type == TOK_MOD) {
        int op = p->k++->type;
        n = binary(p, op, line, n, parse_pow(p));
    }
    return n;
}

static struct node *parse_concat(struct parser *p)
{
    struct node *first = parse_product(p);
    if (p->k->type != TOK_TILDE)
        return first;
    struct node *n = parse_node(p, N_CONCAT);
    parse_push(p, n, &n->list, first);
    while (parse_accept(p, TOK_TILDE))
        parse_push(p, n, &n->list, parse_product(p));
    return n;
}

static struct node *parse_sum(struct parser *p)
{
    int line = p->k->line;
    struct node *n = parse_concat(p);
    while (p->k->type == TOK_ADD || p->k->type == TOK_SUB) {
        int op = p->k++->type;
        n = binary(p, op, line, n, parse_concat(p));
    }
    return n;
}

/* The comparison operator here, consumed; 0: none. */
static int accept_compare(struct parser *p)
{
    if (p->k->type >= TOK_EQ && p->k->type <= TOK_GE)
        return p->k++->type;
    if (parse_accept_word(p, "in"))
        return TOK_IN;
    if (!parse_at_word(p, "not"))
        return 0;
    p->k++;
    if (parse_accept_word(p, "in"))
        return TOK_NOT_IN;
    p->k--;
    return 0;
}

static struct node *parse_compare(struct parser *p)
{
    struct node *first = parse_sum(p), *n = NULL;
    for (;;) {
        int line = p->k->line, op = accept_compare(p);
        if (!op)
            return n ? n : first;
        if (!n)
            n = parse_node_abc(p, N_COMPARE, line, first, NULL, NULL);
        struct node *operand = parse_node_abc(p, N_OPERAND, line, parse_sum(p), NULL, NULL);
        operand->op = op;
        parse_push(p, n, &n->list, operand);
    }
}

static struct node *parse_not(struct parser *p)
{
    int line = p->k->line;
    if (!parse_accept_word(p, "not"))
        return parse_compare(p);
    tpl_enter(p->t);
    struct node *n = parse_node_abc(p, N_NOT, line, parse_not(p), NULL, NULL);
    tpl_leave(p->t);
    return n;
}

static struct node *parse_and(struct parser *p)
{
    int line = p->k->line;
    struct node *n = parse_not(p);
    while (parse_accept_word(p, "and"))
        n = parse_node_abc(p, N_AND, line, n, parse_not(p), NULL);
    return n;
}

static struct node *parse_or(struct parser *p)
{
    int line = p->k->line;
    struct node *n = parse_and(p);
    while (parse_accept_word(p, "or"))
        n = parse_node_abc(p, N_OR, line, n, parse_and(p), NULL);
    return n;
}

/* Recursion of expressions into expressions all comes through here. */
static struct node *parse_cond(struct parser *p, bool cond)
{
    tpl_enter(p->t);
    int line = p->k->line;
    unsigned no_cond = p->no_cond;
    p->no_cond = 0; /* inside brackets it is an expression again */
    struct node *unknown = p->unknown;
    struct node *n = parse_or(p);
    while (cond && parse_accept_word(p, "if")) {
        struct node *test = parse_or(p);
        struct node *other = parse_accept_word(p, "else") ? parse_cond(p, true) : NULL;
        n = parse_node_abc(p, N_COND, line, test, n, other);
        p->unknown = unknown;
    }
    p->no_cond = no_cond;
    tpl_leave(p->t);
    return n;
}

struct node *parse_expression(struct parser *p) { return parse_cond(p, true); }

/* ---- primaries */

static struct node *parse_list(struct parser *p)
{
    struct node *n = parse_node(p, N_LIST);
    p->k++;
    while (p->k->type != TOK_RBRACKET) {
        if (n->list.n)
            parse_expect(p, TOK_COMMA);
        if (p->k->type == TOK_RBRACKET)
            break;
        parse_push(p, n, &n->list, parse_expression(p));
    }
    p->k++;
    return n;
}

static struct node *parse_dict(struct parser *p)
{
    struct node *n = parse_node(p, N_DICT);
    p->k++;
    while (p->k->type != TOK_RBRACE) {
        if (n->list.n)
            parse_expect(p, TOK_COMMA);
        if (p->k->type == TOK_RBRACE)
            break;
        parse_push(p, n, &n->list, parse_expression(p));
        parse_expect(p, TOK_COLON);
        parse_push(p, n, &n->list, parse_expression(p));
    }
    p->k++;
    return n;
}

static struct node *constant(struct parser *p, struct val v)
{
    struct node *n = parse_node(p, N_CONST);
    n->value = v;
    return n;
}

static struct node *parse_named(struct parser *p, bool attributes)
{
    struct node *n = parse_node(p, N_NAME);
    n->name = parse_name(p);
    if (tpl_str_is(n->name, "true") || tpl_str_is(n->name, "True"))
        return constant(p, tpl_bool(true));
    if (tpl_str_is(n->name, "false") || tpl_str_is(n->name, "False"))
        return constant(p, tpl_bool(false));
    if (tpl_str_is(n->name, "none") || tpl_str_is(n->name, "None"))
        return constant(p, tpl_none());
    if (attributes && parse_accept(p, TOK_DOT)) {
        n->kind = N_NSREF;
        frame_load(p, n->name);
        n->value = tpl_strval((struct str *)parse_name(p));
        return n;
    }
    if (!p->in_target)
        frame_load(p, n->name);
    if (n->name == p->t->caller_name)
        p->macro_flags |= MACRO_CALLER;
    else if (n->name == p->t->kwargs_name)
        p->macro_flags |= MACRO_KWARGS;
    else if (n->name == p->t->varargs_name)
        p->macro_flags |= MACRO_VARARGS;
    return n;
}

static struct node *parse_strings(struct parser *p)
{
    struct node *n = constant(p, p->k->value);
    struct str *s = p->k++->value.u.s;
    if (p->k->type == TOK_STRING) {
        struct sbuf *b = tpl_sbuf(p->t);
        tpl_put_str(p->t, b, s);
        while (p->k->type == TOK_STRING)
            tpl_put_str(p->t, b, p->k++->value.u.s);
        n->value.u.s = tpl_sbuf_str(p->t, b);
        n->value.u.s->buf = NULL; /* a literal: nobody appends to it */
    }
    return n;
}

static struct node *parse_primary(struct parser *p, bool attributes)
{
    struct node *n;
    switch (p->k->type) {
    case TOK_NAME:
        return parse_named(p, attributes);
    case TOK_STRING:
        return parse_strings(p);
    case TOK_INT:
    case TOK_FLOAT:
        n = constant(p, p->k->value);
        p->k++;
        return n;
    case TOK_LPAREN:
        p->k++;
        if (parse_accept(p, TOK_RPAREN))
            return parse_node(p, N_TUPLE);
        n = parse_tuple(p, true, NULL, false);
        parse_expect(p, TOK_RPAREN);
        return n;
    case TOK_LBRACKET:
        return parse_list(p);
    case TOK_LBRACE:
        return parse_dict(p);
    default:
        parse_fail(p, "an expression");
    }
}

struct node *parse_tuple(struct parser *p, bool full, const char *end_word, bool attributes)
{
    struct node *tuple = NULL, *first = NULL;
    bool cond = !p->no_cond;
    for (;;) {
        enum tpl_tok k = p->k->type;
        bool end =
            k == TOK_VAR_END || k == TOK_BLOCK_END || k == TOK_RPAREN || (end_word && parse_at_word(p, end_word));
        if (end)
            break;
        struct node *n = full ? parse_cond(p, cond) : parse_primary(p, attributes);
        if (tuple)
            parse_push(p, tuple, &tuple->list, n);
        else
            first = n;
        if (!parse_accept(p, TOK_COMMA))
            break;
        if (!tuple) {
            tuple = parse_node(p, N_TUPLE);
            parse_push(p, tuple, &tuple->list, first);
        }
    }
    if (!first)
        parse_fail(p, "an expression");
    return tuple ? tuple : first;
}

/* ---- postfix: attributes, items, calls, filters, tests */

static struct node *parse_item(struct parser *p)
{
    int line = p->k->line;
    struct node *part[3] = {NULL, NULL, NULL};
    int n = 0;
    bool slice = false;
    while (n < 3) {
        if (p->k->type != TOK_COLON && p->k->type != TOK_RBRACKET && p->k->type != TOK_COMMA)
            part[n] = parse_expression(p);
        n++;
        if (n == 3 || !parse_accept(p, TOK_COLON))
            break;
        slice = true;
    }
    if (slice)
        return parse_node_abc(p, N_SLICE, line, part[0], part[1], part[2]);
    if (!part[0])
        parse_fail(p, "an expression");
    return part[0];
}

static struct node *parse_subscript(struct parser *p, struct node *obj)
{
    int line = p->k->line;
    if (parse_accept(p, TOK_DOT)) {
        if (p->k->type == TOK_INT) {
            struct node *key = constant(p, p->k->value);
            p->k++;
            return parse_node_abc(p, N_GETITEM, line, obj, key, NULL);
        }
        struct node *n = parse_node_abc(p, N_GETATTR, line, obj, NULL, NULL);
        n->name = parse_name(p);
        return n;
    }
    p->k++;
    struct node *key = parse_item(p);
    if (p->k->type == TOK_COMMA) {
        struct node *tuple = parse_node(p, N_TUPLE);
        parse_push(p, tuple, &tuple->list, key);
        while (parse_accept(p, TOK_COMMA))
            parse_push(p, tuple, &tuple->list, parse_expression(p));
        key = tuple;
    }
    parse_expect(p, TOK_RBRACKET);
    return parse_node_abc(p, N_GETITEM, line, obj, key, NULL);
}

/* "(...)" into the argument fields of n. */
static void parse_args(struct parser *p, struct node *n)
{
    parse_expect(p, TOK_LPAREN);
    for (bool first = true; p->k->type != TOK_RPAREN; first = false) {
        if (!first)
            parse_expect(p, TOK_COMMA);
        if (p->k->type == TOK_RPAREN)
            break;
        bool bad;
        if (parse_accept(p, TOK_MUL)) {
            bad = n->b || n->c;
            n->b = parse_expression(p);
        } else if (parse_accept(p, TOK_POW)) {
            bad = n->c != NULL;
            n->c = parse_expression(p);
        } else if (p->k->type == TOK_NAME && p->k[1].type == TOK_ASSIGN) {
            bad = n->c != NULL;
            struct node *kw = parse_node(p, N_KEYWORD);
            kw->name = parse_name(p);
            p->k++;
            kw->a = parse_expression(p);
            kw->height = kw->a->height + 1;
            parse_push(p, n, &n->list2, kw);
        } else {
            bad = n->b || n->c || n->list2.n;
            parse_push(p, n, &n->list, parse_expression(p));
        }
        if (bad)
            tpl_fail(p->t, "arguments of a call in the wrong order");
    }
    p->k++;
    int height = n->height;
    for (int i = 0; i < 2; i++) {
        struct node *star = i ? n->c : n->b;
        if (star && star->height >= height)
            height = star->height + 1;
    }
    n->height = height;
}

static struct node *parse_call(struct parser *p, struct node *callee)
{
    struct node *n = parse_node_abc(p, N_CALL, p->k->line, callee, NULL, NULL);
    parse_args(p, n);
    return n;
}

static struct node *parse_postfix(struct parser *p, struct node *n)
{
    for (;;) {
        if (p->k->type == TOK_DOT || p->k->type == TOK_LBRACKET)
            n = parse_subscript(p, n);
        else if (p->k->type == TOK_LPAREN)
            n = parse_call(p, n);
        else
            return n;
    }
}

/* "name" or "name.name": one name for the tables of filters and tests. */
static const struct str *dotted_name(struct parser *p)
{
    const struct str *name = parse_name(p);
    while (parse_accept(p, TOK_DOT)) {
        struct sbuf *b = tpl_sbuf(p->t);
        tpl_put_str(p->t, b, name);
        tpl_put_c(p->t, b, ".", TPL_TEXT);
        tpl_put_str(p->t, b, parse_name(p));
        name = tpl_intern(p->t, b->p, b->n);
    }
    return name;
}

static void check_named(struct parser *p, struct node *n)
{
    if (!n->builtin && !frame_conditional(p) && !p->unknown)
        p->unknown = n;
}

struct node *parse_one_filter(struct parser *p, struct node *input)
{
    struct node *n = parse_node_abc(p, N_FILTER, p->k->line, input, NULL, NULL);
    n->name = dotted_name(p);
    n->builtin = tpl_filter_find(n->name);
    check_named(p, n);
    if (p->k->type == TOK_LPAREN)
        parse_args(p, n);
    return n;
}

struct node *parse_filters(struct parser *p, struct node *input)
{
    while (parse_accept(p, TOK_PIPE))
        input = parse_one_filter(p, input);
    return input;
}

static bool test_argument_follows(const struct parser *p)
{
    switch (p->k->type) {
    case TOK_NAME:
        return !parse_at_word(p, "else") && !parse_at_word(p, "or") && !parse_at_word(p, "and");
    case TOK_STRING:
    case TOK_INT:
    case TOK_FLOAT:
    case TOK_LBRACKET:
    case TOK_LBRACE:
        return true;
    default:
        return false;
    }
}

static struct node *parse_test(struct parser *p, struct node *input)
{
    int line = p->k++->line;
    bool negated = parse_accept_word(p, "not");
    struct node *n = parse_node_abc(p, N_TEST, line, input, NULL, NULL);
    n->name = dotted_name(p);
    n->builtin = tpl_test_find(n->name);
    check_named(p, n);
    if (p->k->type == TOK_LPAREN) {
        parse_args(p, n);
    } else if (test_argument_follows(p)) {
        if (parse_at_word(p, "is"))
            tpl_fail(p->t, "tests with 'is' cannot be chained");
        parse_push(p, n, &n->list, parse_postfix(p, parse_primary(p, false)));
    }
    return negated ? parse_node_abc(p, N_NOT, line, n, NULL, NULL) : n;
}

static struct node *parse_filters_and_tests(struct parser *p, struct node *n)
{
    for (;;) {
        if (p->k->type == TOK_PIPE)
            n = parse_filters(p, n);
        else if (parse_at_word(p, "is"))
            n = parse_test(p, n);
        else if (p->k->type == TOK_LPAREN)
            n = parse_call(p, n);
        else
            return n;
    }
}

static struct node *parse_unary(struct parser *p, bool filters)
{
    int line = p->k->line;
    struct node *n;
    if (p->k->type == TOK_SUB || p->k->type == TOK_ADD) {
        enum node_kind kind = p->k++->type == TOK_SUB ? N_NEG : N_POS;
        tpl_enter(p->t);
        n = parse_node_abc(p, kind, line, parse_unary(p, false), NULL, NULL);
        tpl_leave(p->t);
    } else {
        n = parse_primary(p, false);
    }
    n = parse_postfix(p, n);
    return filters ? parse_filters_and_tests(p, n) : n;
}
