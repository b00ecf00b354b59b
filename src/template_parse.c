/* SPDX-License-Identifier: MIT */
/* Chat templates: statements of the tree.  Recursion is counted (tpl_enter), and a tree that grew high without it, such
 * as a long chain of + or filters, is refused by its height, so that the walker never goes deeper than that. */
#include "template_parse.h"

#include <string.h>

enum { HEIGHT_MAX = 300 };

/* ---- tokens and nodes */

bool parse_accept(struct parser *p, enum tpl_tok type)
{
    if (p->k->type != type)
        return false;
    p->k++;
    return true;
}

bool parse_at_word(const struct parser *p, const char *word)
{
    return p->k->type == TOK_NAME && tpl_str_is(p->k->value.u.s, word);
}

bool parse_accept_word(struct parser *p, const char *word)
{
    if (!parse_at_word(p, word))
        return false;
    p->k++;
    return true;
}

static const char *token_name(enum tpl_tok type)
{
    static const char *const names[] = {[TOK_END] = "the end of the template",
                                        [TOK_DATA] = "text",
                                        [TOK_VAR_BEGIN] = "{{",
                                        [TOK_VAR_END] = "}}",
                                        [TOK_BLOCK_BEGIN] = "{%",
                                        [TOK_BLOCK_END] = "%}",
                                        [TOK_NAME] = "a name",
                                        [TOK_STRING] = "a string",
                                        [TOK_INT] = "a number",
                                        [TOK_FLOAT] = "a number",
                                        [TOK_ADD] = "+",
                                        [TOK_SUB] = "-",
                                        [TOK_MUL] = "*",
                                        [TOK_DIV] = "/",
                                        [TOK_FLOORDIV] = "//",
                                        [TOK_MOD] = "%",
                                        [TOK_POW] = "**",
                                        [TOK_TILDE] = "~",
                                        [TOK_EQ] = "==",
                                        [TOK_NE] = "!=",
                                        [TOK_LT] = "<",
                                        [TOK_LE] = "<=",
                                        [TOK_GT] = ">",
                                        [TOK_GE] = ">=",
                                        [TOK_IN] = "in",
                                        [TOK_NOT_IN] = "not in",
                                        [TOK_ASSIGN] = "=",
                                        [TOK_DOT] = ".",
                                        [TOK_COLON] = ":",
                                        [TOK_COMMA] = ",",
                                        [TOK_SEMICOLON] = ";",
                                        [TOK_PIPE] = "|",
                                        [TOK_LPAREN] = "(",
                                        [TOK_RPAREN] = ")",
                                        [TOK_LBRACKET] = "[",
                                        [TOK_RBRACKET] = "]",
                                        [TOK_LBRACE] = "{",
                                        [TOK_RBRACE] = "}"};
    return names[type];
}

_Noreturn void parse_fail(struct parser *p, const char *expected)
{
    p->t->line = p->k->line;
    if (p->k->type == TOK_NAME)
        tpl_fail(p->t, "expected %s, got '%.*s'", expected, tpl_show(p->k->value.u.s), p->k->value.u.s->p);
    tpl_fail(p->t, "expected %s, got %s", expected, token_name(p->k->type));
}

void parse_expect(struct parser *p, enum tpl_tok type)
{
    if (!parse_accept(p, type))
        parse_fail(p, token_name(type));
}

const struct str *parse_name(struct parser *p)
{
    if (p->k->type != TOK_NAME)
        parse_fail(p, "a name");
    return p->k++->value.u.s;
}

struct node *parse_node(struct parser *p, enum node_kind kind)
{
    struct node *n = tpl_alloc(p->t, sizeof *n);
    tpl_step(p->t, 1);
    n->kind = kind;
    n->line = p->t->line = p->k->line;
    n->height = 1;
    return n;
}

static void grow_height(struct parser *p, struct node *parent, const struct node *child)
{
    if (child && child->height >= parent->height)
        parent->height = child->height + 1;
    if (parent->height > HEIGHT_MAX)
        tpl_fail_budget(p->t, "%d nested levels", HEIGHT_MAX);
}

struct node *parse_node_abc(struct parser *p, enum node_kind kind, int line, struct node *a, struct node *b,
                            struct node *c)
{
    struct node *n = parse_node(p, kind);
    n->line = line;
    n->a = a;
    n->b = b;
    n->c = c;
    grow_height(p, n, a);
    grow_height(p, n, b);
    grow_height(p, n, c);
    return n;
}

void parse_push(struct parser *p, struct node *parent, struct node_list *l, struct node *child)
{
    l->v = tpl_grow(p->t, l->v, l->n, &l->cap, sizeof *l->v);
    l->v[l->n++] = child;
    grow_height(p, parent, child);
}

/* ---- bodies */

static struct node *parse_statement(struct parser *p);

static void check_known(struct parser *p)
{
    const struct node *n = p->unknown;
    if (!n)
        return;
    p->t->line = n->line;
    tpl_fail(p->t, "no %s named '%.*s'", n->kind == N_TEST ? "test" : "filter", tpl_show(n->name), n->name->p);
}

/* Statements into l, up to a tag named in ends (at most 3, NULL-terminated); the name is left as the current token. */
static void parse_until(struct parser *p, struct node *parent, struct node_list *l, const char *const *ends)
{
    tpl_enter(p->t);
    while (p->k->type != TOK_END) {
        int line = p->k->line;
        if (p->k->type == TOK_DATA) {
            struct node *n = parse_node(p, N_TEXT);
            n->value = p->k++->value;
            parse_push(p, parent, l, n);
        } else if (parse_accept(p, TOK_VAR_BEGIN)) {
            struct node *n = parse_node_abc(p, N_OUTPUT, line, parse_tuple(p, true, NULL, false), NULL, NULL);
            parse_push(p, parent, l, n);
            check_known(p);
            parse_expect(p, TOK_VAR_END);
        } else {
            parse_expect(p, TOK_BLOCK_BEGIN);
            for (const char *const *e = ends; e && *e; e++)
                if (parse_at_word(p, *e)) {
                    tpl_leave(p->t);
                    return;
                }
            parse_push(p, parent, l, parse_statement(p));
            check_known(p);
            parse_expect(p, TOK_BLOCK_END);
        }
    }
    if (ends) {
        p->t->line = parent->line;
        tpl_fail(p->t, "this block has no '%s'", ends[0]);
    }
    tpl_leave(p->t);
}

/* "%}", statements and the end tag's name. */
static void parse_body(struct parser *p, struct node *parent, struct node_list *l, const char *end)
{
    parse_accept(p, TOK_COLON);
    parse_expect(p, TOK_BLOCK_END);
    const char *const ends[] = {end, NULL};
    parse_until(p, parent, l, ends);
    p->k++;
}

/* ---- statements: the current token is behind the tag's name */

static struct node *parse_target_checked(struct parser *p, struct node *n)
{
    bool tuple = n->kind == N_TUPLE;
    if (!tuple && n->kind != N_NAME && n->kind != N_NSREF)
        tpl_fail(p->t, "cannot assign to this expression");
    for (size_t i = 0; tuple && i < n->list.n; i++)
        parse_target_checked(p, n->list.v[i]);
    return n;
}

/* What may stand left of '=' or 'in'. */
static struct node *parse_target(struct parser *p, const char *end_word, bool attributes)
{
    p->in_target = true;
    struct node *n = parse_tuple(p, false, end_word, attributes);
    p->in_target = false;
    return parse_target_checked(p, n);
}

static struct node *parse_for(struct parser *p)
{
    struct node *n = parse_node(p, N_FOR);
    struct frame *outer = p->frame;
    n->a = parse_target(p, "in", false);
    if (!parse_accept_word(p, "in"))
        parse_fail(p, "in");
    p->no_cond++;
    n->b = parse_tuple(p, true, "recursive", false);
    p->no_cond--;
    frame_open(p, NULL, false);
    frame_store(p, n->a, true);
    if (parse_accept_word(p, "if"))
        n->c = parse_expression(p);
    frame_swap(p, outer);
    n->flags = parse_accept_word(p, "recursive");
    grow_height(p, n, n->b);
    grow_height(p, n, n->c);
    parse_accept(p, TOK_COLON);
    parse_expect(p, TOK_BLOCK_END);
    p->loops++;
    static const char *const ends[] = {"endfor", "else", NULL};
    frame_open(p, n, false);
    frame_store(p, n->a, true);
    parse_until(p, n, &n->list, ends);
    frame_swap(p, outer);
    p->loops--;
    if (parse_accept_word(p, "else")) {
        struct node *other = parse_node(p, N_SCOPE);
        frame_open(p, other, false);
        parse_body(p, other, &other->list, "endfor");
        frame_swap(p, outer);
        parse_push(p, n, &n->list2, other);
    } else {
        p->k++;
    }
    return n;
}

static struct node *parse_if(struct parser *p)
{
    static const char *const ends[] = {"endif", "elif", "else", NULL};
    struct node *n = parse_node(p, N_IF);
    frame_condition(p, 1);
    for (;;) {
        struct node *branch = parse_node(p, N_BRANCH);
        p->no_cond++;
        branch->a = parse_tuple(p, true, NULL, false);
        p->no_cond--;
        grow_height(p, branch, branch->a);
        parse_accept(p, TOK_COLON);
        parse_expect(p, TOK_BLOCK_END);
        parse_until(p, branch, &branch->list, ends);
        parse_push(p, n, &n->list, branch);
        if (parse_accept_word(p, "elif"))
            continue;
        if (parse_accept_word(p, "else")) {
            struct node *last = parse_node(p, N_BRANCH);
            parse_body(p, last, &last->list, "endif");
            parse_push(p, n, &n->list, last);
        } else {
            p->k++;
        }
        break;
    }
    frame_condition(p, -1);
    return n;
}

/* Bodies whose output is a value of its own; loops around do not reach into macros. */
static struct node *parse_filters_of_block(struct parser *p) { return parse_filters(p, parse_node(p, N_BLOCK_TEXT)); }

static struct node *parse_set(struct parser *p)
{
    int line = p->k->line;
    struct node *target = parse_target(p, NULL, true), *n;
    if (parse_accept(p, TOK_ASSIGN)) {
        n = parse_node_abc(p, N_SET, line, target, parse_tuple(p, true, NULL, false), NULL);
        frame_store(p, target, false);
        return n;
    }
    frame_store(p, target, false);
    struct frame *outer = p->frame;
    n = parse_node_abc(p, N_SET_BLOCK, line, target, parse_filters_of_block(p), NULL);
    frame_open(p, n, false);
    parse_body(p, n, &n->list, "endset");
    frame_swap(p, outer);
    return n;
}

static struct node *parse_with(struct parser *p)
{
    struct node *n = parse_node(p, N_WITH);
    while (p->k->type != TOK_BLOCK_END) {
        if (n->list.n)
            parse_expect(p, TOK_COMMA);
        parse_push(p, n, &n->list, parse_target(p, NULL, false));
        parse_expect(p, TOK_ASSIGN);
        parse_push(p, n, &n->list, parse_expression(p));
    }
    struct frame *outer = p->frame;
    frame_open(p, n, false);
    for (size_t i = 0; i < n->list.n; i += 2)
        frame_store(p, n->list.v[i], true);
    parse_body(p, n, &n->list2, "endwith");
    frame_swap(p, outer);
    return n;
}

static void parse_signature(struct parser *p, struct node *macro)
{
    bool defaults = false;
    parse_expect(p, TOK_LPAREN);
    while (p->k->type != TOK_RPAREN) {
        if (macro->list.n)
            parse_expect(p, TOK_COMMA);
        struct node *param = parse_node(p, N_KEYWORD);
        param->name = parse_name(p);
        frame_load(p, param->name); /* always there, so never hidden */
        if (parse_accept(p, TOK_ASSIGN)) {
            param->a = parse_expression(p);
            defaults = true;
        } else if (defaults) {
            tpl_fail(p->t, "parameter without default after one with");
        }
        grow_height(p, param, param->a);
        parse_push(p, macro, &macro->list, param);
    }
    p->k++;
}

static void parse_macro_body(struct parser *p, struct node *macro, const char *end)
{
    struct parser outer = *p;
    p->loops = 0;
    p->macro_flags = 0;
    parse_body(p, macro, &macro->list2, end);
    macro->flags = p->macro_flags;
    p->macro_flags |= outer.macro_flags;
    p->loops = outer.loops;
}

static struct node *parse_macro(struct parser *p)
{
    struct node *n = parse_node(p, N_MACRO);
    n->name = parse_name(p);
    frame_store_name(p, n->name);
    struct frame *outer = p->frame;
    frame_open(p, n, false);
    parse_signature(p, n);
    parse_macro_body(p, n, "endmacro");
    frame_swap(p, outer);
    return n;
}

static struct node *parse_call_block(struct parser *p)
{
    struct node *n = parse_node(p, N_CALL_BLOCK), *macro = parse_node(p, N_MACRO);
    macro->name = p->t->caller_name;
    struct frame *outer = p->frame;
    frame_open(p, macro, false);
    if (p->k->type == TOK_LPAREN)
        parse_signature(p, macro);
    struct frame *inner = frame_swap(p, outer);
    n->a = parse_expression(p);
    frame_swap(p, inner);
    if (n->a->kind != N_CALL)
        tpl_fail(p->t, "a call block needs a call");
    n->b = macro;
    parse_macro_body(p, macro, "endcall");
    frame_swap(p, outer);
    grow_height(p, n, n->a);
    grow_height(p, n, n->b);
    return n;
}

static struct node *parse_filter_block(struct parser *p)
{
    struct node *n = parse_node(p, N_FILTER_BLOCK);
    n->b = parse_one_filter(p, parse_node(p, N_BLOCK_TEXT));
    n->b = parse_filters(p, n->b);
    grow_height(p, n, n->b);
    struct frame *outer = p->frame;
    frame_open(p, n, false);
    parse_body(p, n, &n->list, "endfilter");
    frame_swap(p, outer);
    return n;
}

static struct node *parse_block(struct parser *p)
{
    struct node *n = parse_node(p, N_BLOCK);
    n->name = parse_name(p);
    for (size_t i = 0; i < p->blocks.n; i++)
        if (p->blocks.v[i]->name == n->name)
            tpl_fail(p->t, "block '%.*s' defined twice", tpl_show(n->name), n->name->p);
    parse_push(p, n, &p->blocks, parse_node(p, N_BLOCK));
    p->blocks.v[p->blocks.n - 1]->name = n->name;
    n->flags = parse_accept_word(p, "scoped");
    unsigned loops = p->loops;
    struct frame *outer = p->frame;
    p->loops = 0;
    frame_open(p, n, !n->flags);
    parse_body(p, n, &n->list, "endblock");
    frame_swap(p, outer);
    p->loops = loops;
    if (p->k->type == TOK_NAME && p->k->value.u.s == n->name)
        p->k++;
    return n;
}

static struct node *parse_generation(struct parser *p)
{
    struct node *n = parse_node(p, N_SCOPE);
    unsigned loops = p->loops;
    struct frame *outer = p->frame;
    p->loops = 0;
    frame_open(p, n, false);
    parse_body(p, n, &n->list, "endgeneration");
    frame_swap(p, outer);
    p->loops = loops;
    return n;
}

static struct node *parse_print(struct parser *p)
{
    struct node *n = parse_node(p, N_BODY);
    while (p->k->type != TOK_BLOCK_END) {
        if (n->list.n)
            parse_expect(p, TOK_COMMA);
        struct node *out = parse_node_abc(p, N_OUTPUT, n->line, parse_expression(p), NULL, NULL);
        parse_push(p, n, &n->list, out);
    }
    return n;
}

static struct node *parse_loop_control(struct parser *p, enum node_kind kind)
{
    if (!p->loops)
        tpl_fail(p->t, "%s outside a loop", kind == N_BREAK ? "break" : "continue");
    return parse_node(p, kind);
}

static struct node *parse_break(struct parser *p) { return parse_loop_control(p, N_BREAK); }
static struct node *parse_continue(struct parser *p) { return parse_loop_control(p, N_CONTINUE); }

static struct node *parse_statement(struct parser *p)
{
    static const struct {
        const char *name;
        struct node *(*parse)(struct parser *p);
    } tags[] = {{"if", parse_if},       {"for", parse_for},         {"set", parse_set},
                {"macro", parse_macro}, {"call", parse_call_block}, {"filter", parse_filter_block},
                {"with", parse_with},   {"block", parse_block},     {"generation", parse_generation},
                {"print", parse_print}, {"break", parse_break},     {"continue", parse_continue}};
    p->t->line = p->k->line;
    const struct str *name = parse_name(p);
    for (size_t i = 0; i < sizeof tags / sizeof *tags; i++)
        if (tpl_str_is(name, tags[i].name))
            return tags[i].parse(p);
    static const char *const left_out[] = {"include", "import", "from", "extends", "autoescape"};
    for (size_t i = 0; i < sizeof left_out / sizeof *left_out; i++)
        if (tpl_str_is(name, left_out[i]))
            tpl_fail(p->t, "'%s' is not supported", left_out[i]);
    tpl_fail(p->t, "unknown tag '%.*s'", tpl_show(name), name->p);
}

struct node *tpl_parse(struct tpl *t, struct token *tokens)
{
    struct parser p = {.t = t, .k = tokens};
    t->loop_name = tpl_intern(t, "loop", 4);
    t->caller_name = tpl_intern(t, "caller", 6);
    t->kwargs_name = tpl_intern(t, "kwargs", 6);
    t->varargs_name = tpl_intern(t, "varargs", 7);
    struct node *root = parse_node(&p, N_BODY);
    frame_open(&p, root, false);
    parse_until(&p, root, &root->list, NULL);
    frame_finish(&p);
    return root;
}
