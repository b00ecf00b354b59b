/* SPDX-License-Identifier: MIT */
/* Chat templates: running the tree.  Scopes form a chain; for, with, macros and blocks open one, if does not.
 * Expressions are in template_value.c's terms; arithmetic is 64-bit, and what does not fit is refused. */
#include "template_eval.h"

#include <math.h>
#include <string.h>

/* ---- scopes */

static void scope_clear(struct tpl *t, struct scope *s, const struct node *n)
{
    s->n = 0;
    for (size_t i = 0; i < n->n_hidden; i++)
        tpl_scope_set(t, s, n->hidden[i], (struct val){.type = T_MISSING});
}

/* The scope that node n opens. */
static struct scope *scope_new(struct tpl *t, struct scope *parent, const struct node *n)
{
    struct scope *s = tpl_alloc(t, sizeof *s);
    s->parent = parent;
    scope_clear(t, s, n);
    return s;
}

void tpl_scope_set(struct tpl *t, struct scope *s, const struct str *name, struct val v)
{
    for (size_t i = 0; i < s->n; i++)
        if (s->v[i].name == name) {
            s->v[i].v = v;
            return;
        }
    tpl_step(t, s->n / 4);
    s->v = tpl_grow(t, s->v, s->n, &s->cap, sizeof *s->v);
    s->v[s->n++] = (struct var){name, v};
}

struct val eval_name(struct tpl *t, const struct scope *s, const struct str *name)
{
    for (; s; s = s->parent) {
        tpl_step(t, s->n / 16);
        for (size_t i = 0; i < s->n; i++)
            if (s->v[i].name == name)
                return s->v[i].v.type == T_MISSING ? tpl_undef_name(t, name) : s->v[i].v;
    }
    return tpl_undef_name(t, name);
}

static void assign(struct tpl *t, struct scope *s, const struct node *target, struct val v)
{
    if (target->kind == N_NAME) {
        tpl_scope_set(t, s, target->name, v);
    } else if (target->kind == N_NSREF) {
        struct val ns = eval_name(t, s, target->name);
        if (ns.type != T_NAMESPACE)
            tpl_fail(t, "cannot assign attribute on non-namespace object");
        tpl_dict_set(t, ns.u.d, target->value, v);
    } else {
        struct seq *q = tpl_items(t, v);
        if (q->n < target->list.n)
            tpl_fail(t, "not enough values to unpack (expected %zu, got %zu)", target->list.n, q->n);
        if (q->n > target->list.n)
            tpl_fail(t, "too many values to unpack (expected %zu)", target->list.n);
        for (size_t i = 0; i < q->n; i++)
            assign(t, s, target->list.v[i], tpl_seq_get(q, i));
    }
}

/* ---- statements */

enum flow { FLOW_NEXT, FLOW_BREAK, FLOW_CONTINUE };

static enum flow exec(struct tpl *t, const struct node *n, struct scope *s);

static enum flow exec_list(struct tpl *t, const struct node_list *l, struct scope *s)
{
    for (size_t i = 0; i < l->n; i++) {
        enum flow f = exec(t, l->v[i], s);
        if (f != FLOW_NEXT)
            return f;
    }
    return FLOW_NEXT;
}

/* The output of a body as a value; *f = how it ended. */
static struct str *capture(struct tpl *t, const struct node_list *l, struct scope *s, enum flow *f)
{
    struct sbuf *outer = t->out;
    t->out = tpl_sbuf(t);
    *f = exec_list(t, l, s);
    struct str *r = tpl_sbuf_str(t, t->out);
    t->out = outer;
    return r;
}

static enum flow exec_filtered(struct tpl *t, const struct node *n, struct scope *s, struct val *result)
{
    enum flow f;
    struct str *text = capture(t, &n->list, s, &f);
    if (f != FLOW_NEXT)
        return f;
    struct val outer = t->block_text;
    t->block_text = tpl_strval(text);
    *result = eval(t, n->b, s);
    t->block_text = outer;
    return FLOW_NEXT;
}

/* ---- loops */

static bool loop_accepts(struct tpl *t, struct loop *l, struct val v)
{
    if (!l->filtered)
        return true;
    static const struct node nothing_hidden;
    struct scope *s = scope_new(t, l->outer, &nothing_hidden);
    assign(t, s, l->node->a, v);
    return tpl_truth(t, eval(t, l->node->c, s));
}

/* The next item that passes the loop's `if`, which is asked only now: it may depend on what the body did. */
static struct val loop_fetch(struct tpl *t, struct loop *l)
{
    while (!l->ended && l->src_i < l->src->n) {
        struct val v = tpl_seq_get(l->src, l->src_i++);
        tpl_step(t, 1);
        if (loop_accepts(t, l, v))
            return v;
    }
    l->ended = true;
    return (struct val){.type = T_MISSING};
}

static struct val loop_peek(struct tpl *t, struct loop *l)
{
    if (l->next.type == T_MISSING)
        l->next = loop_fetch(t, l);
    return l->next;
}

static int64_t loop_length(struct tpl *t, struct loop *l)
{
    if (l->length >= 0)
        return l->length;
    if (!l->filtered) {
        l->length = (int64_t)l->src->n;
    } else { /* look at all the rest at once */
        struct seq *rest = tpl_seq_new(t, Q_LIST, 0);
        for (struct val v = loop_fetch(t, l); v.type != T_MISSING; v = loop_fetch(t, l))
            tpl_seq_push(t, rest, v);
        l->length = (int64_t)rest->n + l->index0 + 1 + (l->next.type != T_MISSING);
        l->src = rest;
        l->src_i = 0;
        l->ended = l->filtered = false;
    }
    return l->length;
}

struct val tpl_loop_attr(struct tpl *t, struct loop *l, const struct str *name)
{
    if (tpl_str_is(name, "index"))
        return tpl_int(l->index0 + 1);
    if (tpl_str_is(name, "index0"))
        return tpl_int(l->index0);
    if (tpl_str_is(name, "first"))
        return tpl_bool(l->index0 == 0);
    if (tpl_str_is(name, "last"))
        return tpl_bool(loop_peek(t, l).type == T_MISSING);
    if (tpl_str_is(name, "length"))
        return tpl_int(loop_length(t, l));
    if (tpl_str_is(name, "revindex"))
        return tpl_int(loop_length(t, l) - l->index0);
    if (tpl_str_is(name, "revindex0"))
        return tpl_int(loop_length(t, l) - l->index0 - 1);
    if (tpl_str_is(name, "depth"))
        return tpl_int(l->depth0 + 1);
    if (tpl_str_is(name, "depth0"))
        return tpl_int(l->depth0);
    if (tpl_str_is(name, "previtem"))
        return l->index0 == 0 ? tpl_undef_hint(t, "there is no previous item") : l->prev;
    if (tpl_str_is(name, "nextitem"))
        return loop_peek(t, l).type == T_MISSING ? tpl_undef_hint(t, "there is no next item") : l->next;
    return (struct val){.type = T_MISSING};
}

static enum flow run_loop(struct tpl *t, const struct node *n, struct scope *outer, struct val over, int64_t depth)
{
    struct loop *l = tpl_alloc(t, sizeof *l);
    *l = (struct loop){.node = n, .outer = outer, .index0 = -1, .depth0 = depth, .length = -1};
    l->src = tpl_items(t, over);
    l->filtered = n->c != NULL;
    struct scope *s = scope_new(t, outer, n);
    bool completed = false; /* as in Jinja, `else` also runs when every turn was cut short */
    for (;;) {
        struct val v = loop_peek(t, l);
        if (v.type == T_MISSING)
            break;
        l->next.type = T_MISSING;
        l->prev = l->cur;
        l->cur = v;
        l->index0++;
        if (s->kept)
            s = scope_new(t, outer, n);
        scope_clear(t, s, n);
        tpl_scope_set(t, s, t->loop_name, (struct val){.type = T_LOOP, .u.loop = l});
        assign(t, s, n->a, v);
        enum flow f = exec_list(t, &n->list, s);
        completed |= f == FLOW_NEXT;
        if (f == FLOW_BREAK)
            break;
    }
    return completed ? FLOW_NEXT : exec_list(t, &n->list2, outer);
}

struct val eval_recurse(struct tpl *t, struct loop *l, struct val over)
{
    if (!l->node->flags)
        tpl_fail(t, "the loop must have the 'recursive' marker to be called recursively");
    struct sbuf *outer = t->out;
    t->out = tpl_sbuf(t);
    run_loop(t, l->node, l->outer, over, l->depth0 + 1);
    struct str *r = tpl_sbuf_str(t, t->out);
    t->out = outer;
    return tpl_strval(r);
}

/* ---- macros */

static void macro_bind(struct tpl *t, const struct macro *m, struct call *c, struct scope *s)
{
    const struct node *n = m->node;
    struct dict *rest = tpl_dict_new(t); /* keyword arguments that no parameter takes */
    for (size_t i = 0; c->kw && i < c->kw->n; i++)
        tpl_dict_set(t, rest, c->kw->e[i].key, tpl_bool(true));
    bool explicit_caller = false;
    for (size_t i = 0; i < n->list.n; i++) {
        const struct node *param = n->list.v[i];
        struct val key = tpl_strval((struct str *)param->name), v = {.type = T_MISSING};
        struct dict_entry *e = c->kw ? tpl_dict_find(t, c->kw, key) : NULL;
        explicit_caller |= tpl_str_is(param->name, "caller");
        if (i < c->n_pos) {
            v = c->pos[i];
        } else if (e) {
            v = e->val;
            tpl_dict_find(t, rest, key)->val = tpl_bool(false);
        }
        if (v.type == T_MISSING && param->a)
            v = eval(t, param->a, s);
        else if (v.type == T_MISSING)
            v = tpl_undef_name(t, param->name);
        tpl_scope_set(t, s, param->name, v);
    }
    struct dict *kwargs = tpl_dict_new(t);
    struct val caller = tpl_undef_hint(t, "no caller defined");
    for (size_t i = 0; i < rest->n; i++) {
        if (!rest->e[i].val.u.i)
            continue;
        bool is_caller = tpl_str_is(rest->e[i].key.u.s, "caller") && (n->flags & MACRO_CALLER) && !explicit_caller;
        if (is_caller)
            caller = c->kw->e[i].val;
        else if (n->flags & MACRO_KWARGS)
            tpl_dict_set(t, kwargs, rest->e[i].key, c->kw->e[i].val);
        else
            tpl_fail(t, "macro '%.*s' takes no keyword argument '%.*s'", tpl_show(n->name), n->name->p,
                     tpl_show(rest->e[i].key.u.s), rest->e[i].key.u.s->p);
    }
    if ((n->flags & MACRO_CALLER) && !explicit_caller)
        tpl_scope_set(t, s, t->caller_name, caller);
    if (n->flags & MACRO_KWARGS)
        tpl_scope_set(t, s, t->kwargs_name, tpl_dictval(kwargs));
    struct seq *varargs = tpl_seq_new(t, Q_TUPLE, 0);
    for (size_t i = n->list.n; i < c->n_pos; i++)
        tpl_seq_push(t, varargs, c->pos[i]);
    if (n->flags & MACRO_VARARGS)
        tpl_scope_set(t, s, t->varargs_name, tpl_seqval(varargs));
    else if (varargs->n)
        tpl_fail(t, "macro '%.*s' takes not more than %zu argument(s)", tpl_show(n->name), n->name->p, n->list.n);
}

struct val eval_macro(struct tpl *t, const struct macro *m, struct call *c)
{
    struct scope *s = scope_new(t, m->scope, m->node);
    macro_bind(t, m, c, s);
    enum flow f;
    return tpl_strval(capture(t, &m->node->list2, s, &f));
}

static struct val make_macro(struct tpl *t, const struct node *n, struct scope *s)
{
    struct macro *m = tpl_alloc(t, sizeof *m);
    *m = (struct macro){n, s};
    for (; s && !s->kept; s = s->parent)
        s->kept = true;
    return (struct val){.type = T_MACRO, .u.macro = m};
}

/* ---- the statements themselves */

static void output(struct tpl *t, struct val v)
{
    if (v.type == T_STR)
        tpl_put_str(t, t->out, v.u.s);
    else if (v.type != T_UNDEFINED)
        tpl_put_repr(t, t->out, v);
}

static enum flow exec_if(struct tpl *t, const struct node *n, struct scope *s)
{
    for (size_t i = 0; i < n->list.n; i++) {
        const struct node *branch = n->list.v[i];
        if (!branch->a || tpl_truth(t, eval(t, branch->a, s)))
            return exec_list(t, &branch->list, s);
    }
    return FLOW_NEXT;
}

static enum flow exec_with(struct tpl *t, const struct node *n, struct scope *s)
{
    struct scope *inner = scope_new(t, s, n);
    for (size_t i = 0; i < n->list.n; i += 2)
        assign(t, inner, n->list.v[i], eval(t, n->list.v[i + 1], s));
    return exec_list(t, &n->list2, inner);
}

static enum flow exec_set_block(struct tpl *t, const struct node *n, struct scope *s)
{
    struct val v = tpl_none();
    enum flow f = exec_filtered(t, n, scope_new(t, s, n), &v);
    if (f == FLOW_NEXT)
        assign(t, s, n->a, v);
    return f;
}

static enum flow exec_filter_block(struct tpl *t, const struct node *n, struct scope *s)
{
    struct val v = tpl_none();
    enum flow f = exec_filtered(t, n, scope_new(t, s, n), &v);
    if (f == FLOW_NEXT && v.type != T_STR)
        tpl_fail(t, "the filters of a block gave '%s', not text", tpl_type_name(v));
    if (f == FLOW_NEXT)
        output(t, v);
    return f;
}

static enum flow exec_call_block(struct tpl *t, const struct node *n, struct scope *s)
{
    struct val callee;
    struct call c;
    eval_call_parts(t, n->a, s, &callee, &c);
    if (!c.kw)
        c.kw = tpl_dict_new(t);
    tpl_dict_set(t, c.kw, tpl_cstr(t, "caller"), make_macro(t, n->b, s));
    output(t, tpl_call(t, callee, &c));
    return FLOW_NEXT;
}

static enum flow exec_any(struct tpl *t, const struct node *n, struct scope *s)
{
    switch (n->kind) {
    case N_TEXT:
        tpl_put_str(t, t->out, n->value.u.s);
        return FLOW_NEXT;
    case N_OUTPUT:
        output(t, eval(t, n->a, s));
        return FLOW_NEXT;
    case N_BODY:
        return exec_list(t, &n->list, s);
    case N_FOR:
        return run_loop(t, n, s, eval(t, n->b, s), 0);
    case N_IF:
        return exec_if(t, n, s);
    case N_SET:
        assign(t, s, n->a, eval(t, n->b, s));
        return FLOW_NEXT;
    case N_SET_BLOCK:
        return exec_set_block(t, n, s);
    case N_WITH:
        return exec_with(t, n, s);
    case N_MACRO:
        tpl_scope_set(t, s, n->name, make_macro(t, n, s));
        return FLOW_NEXT;
    case N_CALL_BLOCK:
        return exec_call_block(t, n, s);
    case N_FILTER_BLOCK:
        return exec_filter_block(t, n, s);
    case N_SCOPE:
        return exec_list(t, &n->list, scope_new(t, s, n));
    case N_BLOCK: /* a block that is not scoped sees the template's own variables only */
        return exec_list(t, &n->list, scope_new(t, n->flags ? s : t->top, n));
    case N_BREAK:
        return FLOW_BREAK;
    case N_CONTINUE:
        return FLOW_CONTINUE;
    default:
        tpl_fail(t, "not a statement");
    }
}

static enum flow exec(struct tpl *t, const struct node *n, struct scope *s)
{
    tpl_enter(t);
    tpl_step(t, 1);
    t->line = n->line;
    enum flow f = exec_any(t, n, s);
    tpl_leave(t);
    return f;
}

void tpl_run(struct tpl *t, const struct node *root)
{
    scope_clear(t, t->top, root);
    exec_list(t, &root->list, t->top);
}
