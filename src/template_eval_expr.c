/* SPDX-License-Identifier: MIT */
/* Chat templates: running expressions: operators, look-ups and calls, with Python's rules for mixed types. */
#include "template_eval.h"

#include <math.h>
#include <string.h>

/* ---- arithmetic */

static const char *op_sign(int op)
{
    switch (op) {
    case TOK_ADD:
        return "+";
    case TOK_SUB:
        return "-";
    case TOK_MUL:
        return "*";
    case TOK_DIV:
        return "/";
    case TOK_FLOORDIV:
        return "//";
    case TOK_MOD:
        return "%";
    default:
        return "**";
    }
}

static _Noreturn void fail_operands(struct tpl *t, int op, struct val a, struct val b)
{
    if (a.type == T_UNDEFINED)
        tpl_fail_undef(t, a);
    if (b.type == T_UNDEFINED)
        tpl_fail_undef(t, b);
    tpl_fail(t, "unsupported operand types for %s: '%s' and '%s'", op_sign(op), tpl_type_name(a), tpl_type_name(b));
}

static struct val power(struct tpl *t, struct val a, struct val b)
{
    if (a.type != T_FLOAT && b.type != T_FLOAT && b.u.i >= 0) {
        int64_t r = 1, base = a.u.i;
        bool over = false, base_over = false;
        for (int64_t e = b.u.i; e; e >>= 1) {
            if (e & 1)
                over |= base_over || __builtin_mul_overflow(r, base, &r);
            base_over |= __builtin_mul_overflow(base, base, &base);
        }
        if (over)
            tpl_fail(t, "integer beyond 64 bits in **");
        return tpl_int(r);
    }
    double x = tpl_as_double(a), y = tpl_as_double(b);
    if (x == 0 && y < 0)
        tpl_fail(t, "0.0 cannot be raised to a negative power");
    if (x < 0 && y != floor(y))
        tpl_fail(t, "complex numbers are not supported in **");
    double r = pow(x, y);
    if (isinf(r) && !isinf(x) && !isinf(y))
        tpl_fail(t, "result too large in **");
    return tpl_float(r);
}

/* Quotient rounded down; the remainder has the divisor's sign. */
static struct val int_divide(struct tpl *t, int op, int64_t a, int64_t b)
{
    if (b == -1) { /* INT64_MIN / -1 does not fit */
        int64_t r;
        if (op == TOK_MOD)
            return tpl_int(0);
        if (__builtin_sub_overflow(0, a, &r))
            tpl_fail(t, "integer beyond 64 bits in //");
        return tpl_int(r);
    }
    int64_t q = a / b, r = a % b;
    if (r && (r < 0) != (b < 0)) {
        q--;
        r += b;
    }
    return tpl_int(op == TOK_MOD ? r : q);
}

static struct val float_divide(int op, double a, double b)
{
    double r = fmod(a, b);
    if (r && (r < 0) != (b < 0))
        r += b;
    else if (!r)
        r = copysign(0.0, b);
    if (op == TOK_MOD)
        return tpl_float(r);
    double q = (a - r) / b, whole = floor(q);
    if (!q)
        return tpl_float(copysign(0.0, a / b));
    return tpl_float(q - whole > 0.5 ? whole + 1 : whole);
}

static struct val numbers(struct tpl *t, int op, struct val a, struct val b)
{
    bool floats = a.type == T_FLOAT || b.type == T_FLOAT;
    double x = tpl_as_double(a), y = tpl_as_double(b);
    int64_t r = 0;
    bool over = false;
    switch (op) {
    case TOK_ADD:
        over = !floats && __builtin_add_overflow(a.u.i, b.u.i, &r);
        x += y;
        break;
    case TOK_SUB:
        over = !floats && __builtin_sub_overflow(a.u.i, b.u.i, &r);
        x -= y;
        break;
    case TOK_MUL:
        over = !floats && __builtin_mul_overflow(a.u.i, b.u.i, &r);
        x *= y;
        break;
    case TOK_POW:
        return power(t, a, b);
    default:
        if (y == 0)
            tpl_fail(t, "division by zero");
        if (op == TOK_DIV)
            return floats ? tpl_float(x / y) : tpl_float((double)((long double)a.u.i / (long double)b.u.i));
        return floats ? float_divide(op, x, y) : int_divide(t, op, a.u.i, b.u.i);
    }
    if (over)
        tpl_fail(t, "integer beyond 64 bits in %s", op_sign(op));
    return floats ? tpl_float(x) : tpl_int(r);
}

static struct val repeat(struct tpl *t, struct val v, struct val times)
{
    int64_t n = times.u.i < 0 ? 0 : times.u.i;
    if (v.type == T_STR) {
        const struct str *s = v.u.s;
        struct sbuf *b = tpl_sbuf(t);
        size_t bytes;
        if (!size_mul(s->n, (size_t)n, &bytes) || bytes > t->mem_max / 2) /* before a long loop finds out */
            tpl_fail_budget(t, "%zu MiB of memory", t->mem_max >> 20);
        for (int64_t i = 0; i < n && s->n; i++) {
            tpl_step(t, 1);
            tpl_put_str(t, b, s);
        }
        struct str *r = tpl_sbuf_str(t, b);
        r->safe = s->safe;
        return tpl_strval(r);
    }
    struct seq *q = tpl_seq_new(t, v.u.q->kind, 0);
    for (int64_t i = 0; i < n && v.u.q->n; i++)
        for (size_t k = 0; k < v.u.q->n; k++)
            tpl_seq_push(t, q, v.u.q->v[k]);
    return tpl_seqval(q);
}

static bool is_list(struct val v) { return v.type == T_SEQ && v.u.q->kind == Q_LIST; }
static bool is_tuple(struct val v) { return v.type == T_SEQ && (v.u.q->kind == Q_TUPLE || v.u.q->kind == Q_GROUP); }

struct val tpl_add(struct tpl *t, struct val a, struct val b)
{
    if (tpl_is_number(a) && tpl_is_number(b))
        return numbers(t, TOK_ADD, a, b);
    if (a.type == T_STR && b.type == T_STR)
        return tpl_strval(tpl_str_add(t, a.u.s, b.u.s));
    if ((is_list(a) && is_list(b)) || (is_tuple(a) && is_tuple(b))) {
        struct seq *q = tpl_seq_new(t, is_list(a) ? Q_LIST : Q_TUPLE, a.u.q->n + b.u.q->n);
        for (size_t i = 0; i < a.u.q->n; i++)
            tpl_seq_push(t, q, a.u.q->v[i]);
        for (size_t i = 0; i < b.u.q->n; i++)
            tpl_seq_push(t, q, b.u.q->v[i]);
        return tpl_seqval(q);
    }
    if (b.type != T_UNDEFINED && (a.type == T_STR || is_list(a)))
        tpl_fail(t, "can only concatenate %s (not \"%s\") to %s", tpl_type_name(a), tpl_type_name(b), tpl_type_name(a));
    fail_operands(t, TOK_ADD, a, b);
}

static struct val eval_binary(struct tpl *t, const struct node *n, struct scope *s)
{
    struct val a = eval(t, n->a, s), b = eval(t, n->b, s);
    t->line = n->line;
    if (n->op == TOK_ADD)
        return tpl_add(t, a, b);
    if (tpl_is_number(a) && tpl_is_number(b))
        return numbers(t, n->op, a, b);
    if (n->op == TOK_MUL) {
        bool a_row = a.type == T_STR || is_list(a) || is_tuple(a), b_row = b.type == T_STR || is_list(b) || is_tuple(b);
        if (a_row && (b.type == T_INT || b.type == T_BOOL))
            return repeat(t, a, b);
        if (b_row && (a.type == T_INT || a.type == T_BOOL))
            return repeat(t, b, a);
    }
    if (n->op == TOK_MOD && a.type == T_STR)
        return tpl_strval(tpl_percent(t, a.u.s, b));
    fail_operands(t, n->op, a, b);
}

static struct val eval_sign(struct tpl *t, const struct node *n, struct scope *s)
{
    struct val v = eval(t, n->a, s);
    if (v.type == T_UNDEFINED)
        tpl_fail_undef(t, v);
    if (!tpl_is_number(v))
        tpl_fail(t, "bad operand type for unary %c: '%s'", n->kind == N_NEG ? '-' : '+', tpl_type_name(v));
    if (v.type == T_FLOAT)
        return tpl_float(n->kind == N_NEG ? -v.u.f : v.u.f);
    return n->kind == N_NEG ? numbers(t, TOK_SUB, tpl_int(0), v) : tpl_int(v.u.i);
}

static bool compare_one(struct tpl *t, int op, struct val a, struct val b)
{
    switch (op) {
    case TOK_EQ:
        return tpl_equal(t, a, b);
    case TOK_NE:
        return !tpl_equal(t, a, b);
    case TOK_IN:
        return tpl_contains(t, a, b);
    case TOK_NOT_IN:
        return !tpl_contains(t, a, b);
    default:
        return tpl_order(t, (enum tpl_tok)op, a, b);
    }
}

static struct val eval_compare(struct tpl *t, const struct node *n, struct scope *s)
{
    struct val left = eval(t, n->a, s);
    for (size_t i = 0; i < n->list.n; i++) {
        struct val right = eval(t, n->list.v[i]->a, s);
        t->line = n->line;
        if (!compare_one(t, n->list.v[i]->op, left, right))
            return tpl_bool(false);
        left = right;
    }
    return tpl_bool(true);
}

static struct val eval_concat(struct tpl *t, const struct node *n, struct scope *s)
{
    struct val v = eval(t, n->list.v[0], s);
    struct str *r = tpl_sub(t, tpl_to_str(t, v), 0, tpl_to_str(t, v)->n);
    r->safe = false;
    for (size_t i = 1; i < n->list.n; i++) {
        struct str *next = tpl_to_str(t, eval(t, n->list.v[i], s));
        if (next->safe) {
            next = tpl_sub(t, next, 0, next->n);
            next->safe = false;
        }
        r = tpl_str_add(t, r, next);
    }
    return tpl_strval(r);
}

/* ---- attributes and items */

static struct val bound(struct tpl *t, const struct builtin *b, struct val self)
{
    struct func *f = tpl_alloc(t, sizeof *f);
    *f = (struct func){b, self};
    return (struct val){.type = T_FUNC, .u.fn = f};
}

/* An attribute proper, not an item: T_MISSING when there is none. */
static struct val attribute(struct tpl *t, struct val obj, const struct str *name)
{
    const struct val missing = {.type = T_MISSING};
    if (obj.type == T_NAMESPACE) {
        struct dict_entry *e = tpl_dict_find(t, obj.u.d, tpl_strval((struct str *)name));
        return e ? e->val : missing;
    }
    if (obj.type == T_LOOP) {
        struct val v = tpl_loop_attr(t, obj.u.loop, name);
        if (v.type != T_MISSING)
            return v;
    }
    if (obj.type == T_SEQ && obj.u.q->kind == Q_GROUP && tpl_str_is(name, "grouper"))
        return obj.u.q->v[0];
    if (obj.type == T_SEQ && obj.u.q->kind == Q_GROUP && tpl_str_is(name, "list"))
        return obj.u.q->v[1];
    if (obj.type == T_CYCLER && tpl_str_is(name, "current"))
        return obj.u.gadget->items->v[obj.u.gadget->pos];
    if (obj.type == T_MACRO && tpl_str_is(name, "name"))
        return tpl_strval((struct str *)obj.u.macro->node->name);
    const struct builtin *b = tpl_method_find(obj, name);
    if (b && !b->fn)
        return tpl_undef_hint(t, "methods that change a list or dict are not allowed");
    return b ? bound(t, b, obj) : missing;
}

/* An item, or T_MISSING. */
static struct val item(struct tpl *t, struct val obj, struct val key)
{
    const struct val missing = {.type = T_MISSING};
    if (obj.type == T_DICT) {
        bool unhashable = key.type == T_DICT || is_list(key);
        struct dict_entry *e = unhashable ? NULL : tpl_dict_find(t, obj.u.d, key);
        return e ? e->val : missing;
    }
    if (key.type != T_INT && key.type != T_BOOL)
        return missing;
    bool row = obj.type == T_SEQ && (obj.u.q->kind <= Q_GROUP || obj.u.q->kind == Q_RANGE);
    if (!row && obj.type != T_STR)
        return missing;
    int64_t n = (int64_t)tpl_length(t, obj), i = key.u.i < 0 ? key.u.i + n : key.u.i;
    if (i < 0 || i >= n)
        return missing;
    if (row)
        return tpl_seq_get(obj.u.q, (size_t)i);
    size_t at = tpl_str_offset(t, obj.u.s, (size_t)i), len;
    tpl_char(obj.u.s->p + at, &len);
    return tpl_strval(tpl_sub(t, obj.u.s, at, at + len));
}

struct val tpl_getattr(struct tpl *t, struct val obj, const struct str *name)
{
    if (obj.type == T_UNDEFINED)
        tpl_fail_undef(t, obj);
    struct val v = attribute(t, obj, name);
    if (v.type == T_MISSING && obj.type == T_DICT)
        v = item(t, obj, tpl_strval((struct str *)name));
    return v.type == T_MISSING ? tpl_undef_key(t, obj, tpl_strval((struct str *)name)) : v;
}

struct val tpl_getitem(struct tpl *t, struct val obj, struct val key)
{
    if (obj.type == T_UNDEFINED)
        tpl_fail_undef(t, obj);
    struct val v = item(t, obj, key);
    if (v.type == T_MISSING && key.type == T_STR)
        v = attribute(t, obj, key.u.s);
    return v.type == T_MISSING ? tpl_undef_key(t, obj, key) : v;
}

/* A bound of a slice, brought into 0..n (or -1..n-1 when walking backwards). */
static int64_t slice_bound(struct tpl *t, struct val v, int64_t n, int64_t step, int64_t absent)
{
    if (v.type == T_NONE || v.type == T_MISSING)
        return absent;
    int64_t i = tpl_as_int(t, v, "slice"), low = step < 0 ? -1 : 0, high = step < 0 ? n - 1 : n;
    if (i < 0)
        i = i < -n ? low : i + n;
    return i < low ? low : i > high ? high : i;
}

/* A range of the range's items from..to; what does not fit 64 bits belongs to no item. */
static struct val slice_range(struct tpl *t, const struct seq *src, int64_t from, int64_t to, int64_t step)
{
    struct seq *q = tpl_seq_new(t, Q_RANGE, 0);
    uint64_t start = (uint64_t)src->start, by = (uint64_t)src->step;
    int64_t span = step < 0 ? from - to : to - from, each = step < 0 ? -step : step;
    q->start = (int64_t)(start + (uint64_t)from * by);
    q->stop = (int64_t)(start + (uint64_t)to * by);
    q->step = (int64_t)((uint64_t)step * by);
    q->n = span > 0 ? (size_t)((span - 1) / each + 1) : 0;
    return tpl_seqval(q);
}

static struct val eval_slice(struct tpl *t, struct val obj, const struct node *n, struct scope *s)
{
    struct val part[3] = {{.type = T_MISSING}, {.type = T_MISSING}, {.type = T_MISSING}};
    const struct node *nodes[3] = {n->a, n->b, n->c};
    for (int i = 0; i < 3; i++)
        if (nodes[i])
            part[i] = eval(t, nodes[i], s);
    if (obj.type == T_UNDEFINED)
        tpl_fail_undef(t, obj);
    bool row = obj.type == T_SEQ && (obj.u.q->kind <= Q_GROUP || obj.u.q->kind == Q_RANGE);
    if (!row && obj.type != T_STR)
        tpl_fail(t, "'%s' object cannot be sliced", tpl_type_name(obj));
    int64_t step = part[2].type == T_MISSING || part[2].type == T_NONE ? 1 : tpl_as_int(t, part[2], "slice");
    if (step == 0)
        tpl_fail(t, "slice step cannot be zero");
    int64_t len = (int64_t)tpl_length(t, obj);
    if (step < -len - 1 || step > len + 1) /* only the first item is reached: keep the sums below small */
        step = step < 0 ? -len - 1 : len + 1;
    int64_t from = slice_bound(t, part[0], len, step, step < 0 ? len - 1 : 0);
    int64_t to = slice_bound(t, part[1], len, step, step < 0 ? -1 : len);
    if (obj.type == T_STR && step == 1) {
        size_t a = tpl_str_offset(t, obj.u.s, (size_t)from), b = tpl_str_offset(t, obj.u.s, (size_t)to);
        return tpl_strval(tpl_sub(t, obj.u.s, a, b < a ? a : b));
    }
    if (row && obj.u.q->kind == Q_RANGE)
        return slice_range(t, obj.u.q, from, to, step);
    struct seq *src = tpl_items(t, obj);
    struct seq *q = tpl_seq_new(t, row && is_tuple(obj) ? Q_TUPLE : Q_LIST, 0);
    for (int64_t i = from; step < 0 ? i > to : i < to; i += step)
        tpl_seq_push(t, q, tpl_seq_get(src, (size_t)i));
    if (row)
        return tpl_seqval(q);
    return tpl_strval(tpl_join(t, tpl_cstr(t, "").u.s, tpl_seqval(q), false));
}

/* ---- calls */

void eval_call_parts(struct tpl *t, const struct node *n, struct scope *s, struct val *callee, struct call *c)
{
    *c = (struct call){.kw = NULL};
    if (callee)
        *callee = eval(t, n->a, s);
    struct seq *pos = tpl_seq_new(t, Q_LIST, n->list.n);
    for (size_t i = 0; i < n->list.n; i++)
        tpl_seq_push(t, pos, eval(t, n->list.v[i], s));
    if (n->b) {
        struct seq *more = tpl_items(t, eval(t, n->b, s));
        for (size_t i = 0; i < more->n; i++)
            tpl_seq_push(t, pos, tpl_seq_get(more, i));
    }
    if (n->list2.n || n->c)
        c->kw = tpl_dict_new(t);
    for (size_t i = 0; i < n->list2.n; i++)
        tpl_dict_set(t, c->kw, tpl_strval((struct str *)n->list2.v[i]->name), eval(t, n->list2.v[i]->a, s));
    if (n->c) {
        struct val more = eval(t, n->c, s);
        if (more.type != T_DICT)
            tpl_fail(t, "argument after ** must be a mapping, not %s", tpl_type_name(more));
        for (size_t i = 0; i < more.u.d->n; i++) {
            if (more.u.d->e[i].key.type != T_STR)
                tpl_fail(t, "keywords must be strings");
            tpl_dict_set(t, c->kw, more.u.d->e[i].key, more.u.d->e[i].val);
        }
    }
    c->pos = pos->v;
    c->n_pos = pos->n;
    t->line = n->line;
}

/* Fills c->arg from what was written, by the names in b->params. */
static void bind(struct tpl *t, const struct builtin *b, struct call *c)
{
    size_t n = 0, used = 0;
    for (const char *p = b->params; *p;) {
        size_t len = strcspn(p, " ?");
        bool optional = p[len] == '?';
        struct val *arg = &c->arg[n];
        arg->type = T_MISSING;
        struct dict_entry *e = c->kw ? tpl_dict_find(t, c->kw, tpl_strval(tpl_str(t, p, len, TPL_TEXT))) : NULL;
        if (n < c->n_pos)
            *arg = c->pos[n];
        else if (e)
            *arg = e->val;
        else if (!optional)
            tpl_fail(t, "%s: argument '%.*s' is missing", b->name, (int)len, p);
        used += e != NULL;
        n++;
        p += len + optional;
        p += *p == ' ';
    }
    if (c->n_pos > n)
        tpl_fail(t, "%s takes at most %zu arguments (%zu given)", b->name, n, c->n_pos);
    if (c->kw && used != c->kw->n)
        tpl_fail(t, "%s: unexpected keyword argument", b->name);
}

struct val tpl_call_builtin(struct tpl *t, const struct builtin *b, struct call *c)
{
    tpl_step(t, 1);
    if (*b->params != '*')
        bind(t, b, c);
    return b->fn(t, c);
}

static struct val call_joiner(struct tpl *t, struct gadget *g)
{
    if (g->used)
        return g->sep;
    g->used = true;
    return tpl_cstr(t, "");
}

struct val tpl_call(struct tpl *t, struct val callee, struct call *c)
{
    switch (callee.type) {
    case T_FUNC:
        c->self = callee.u.fn->self;
        return tpl_call_builtin(t, callee.u.fn->b, c);
    case T_MACRO:
        return eval_macro(t, callee.u.macro, c);
    case T_LOOP:
        if (c->n_pos != 1)
            tpl_fail(t, "loop() takes one argument");
        return eval_recurse(t, callee.u.loop, c->pos[0]);
    case T_JOINER:
        return call_joiner(t, callee.u.gadget);
    case T_UNDEFINED:
        tpl_fail_undef(t, callee);
    default:
        tpl_fail(t, "'%s' object is not callable", tpl_type_name(callee));
    }
}

static struct val eval_call(struct tpl *t, const struct node *n, struct scope *s)
{
    struct val callee;
    struct call c;
    eval_call_parts(t, n, s, &callee, &c);
    return tpl_call(t, callee, &c);
}

static struct val eval_filter_or_test(struct tpl *t, const struct node *n, struct scope *s)
{
    t->line = n->line;
    if (!n->builtin)
        tpl_fail(t, "no %s named '%.*s'", n->kind == N_TEST ? "test" : "filter", tpl_show(n->name), n->name->p);
    struct val input = eval(t, n->a, s);
    struct call c;
    eval_call_parts(t, n, s, NULL, &c);
    c.self = input;
    return tpl_call_builtin(t, n->builtin, &c);
}

/* ---- all kinds */

static struct val eval_row(struct tpl *t, const struct node *n, struct scope *s)
{
    if (n->kind == N_DICT) {
        struct dict *d = tpl_dict_new(t);
        for (size_t i = 0; i < n->list.n; i += 2) {
            struct val key = eval(t, n->list.v[i], s);
            tpl_dict_set(t, d, key, eval(t, n->list.v[i + 1], s));
        }
        return tpl_dictval(d);
    }
    struct seq *q = tpl_seq_new(t, n->kind == N_LIST ? Q_LIST : Q_TUPLE, n->list.n);
    for (size_t i = 0; i < n->list.n; i++)
        tpl_seq_push(t, q, eval(t, n->list.v[i], s));
    return tpl_seqval(q);
}

static struct val eval_cond(struct tpl *t, const struct node *n, struct scope *s)
{
    if (tpl_truth(t, eval(t, n->a, s)))
        return eval(t, n->b, s);
    return n->c ? eval(t, n->c, s) : tpl_undef_hint(t, "the inline if-expression was false and has no else");
}

static struct val eval_any(struct tpl *t, const struct node *n, struct scope *s)
{
    struct val v;
    switch (n->kind) {
    case N_CONST:
        return n->value;
    case N_NAME:
        return eval_name(t, s, n->name);
    case N_TUPLE:
    case N_LIST:
    case N_DICT:
        return eval_row(t, n, s);
    case N_COND:
        return eval_cond(t, n, s);
    case N_AND:
        v = eval(t, n->a, s);
        return tpl_truth(t, v) ? eval(t, n->b, s) : v;
    case N_OR:
        v = eval(t, n->a, s);
        return tpl_truth(t, v) ? v : eval(t, n->b, s);
    case N_NOT:
        return tpl_bool(!tpl_truth(t, eval(t, n->a, s)));
    case N_NEG:
    case N_POS:
        return eval_sign(t, n, s);
    case N_COMPARE:
        return eval_compare(t, n, s);
    case N_BINARY:
        return eval_binary(t, n, s);
    case N_CONCAT:
        return eval_concat(t, n, s);
    case N_GETATTR:
        v = eval(t, n->a, s);
        t->line = n->line;
        return tpl_getattr(t, v, n->name);
    case N_GETITEM:
        v = eval(t, n->a, s);
        t->line = n->line;
        return n->b->kind == N_SLICE ? eval_slice(t, v, n->b, s) : tpl_getitem(t, v, eval(t, n->b, s));
    case N_CALL:
        return eval_call(t, n, s);
    case N_FILTER:
    case N_TEST:
        return eval_filter_or_test(t, n, s);
    case N_BLOCK_TEXT:
        return t->block_text;
    default:
        tpl_fail(t, "slices are not supported here");
    }
}

struct val eval(struct tpl *t, const struct node *n, struct scope *s)
{
    tpl_enter(t);
    tpl_step(t, 1);
    struct val v = eval_any(t, n, s);
    tpl_leave(t);
    return v;
}
