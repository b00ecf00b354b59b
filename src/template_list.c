/* SPDX-License-Identifier: MIT */
/* Chat templates: filters of rows and dictionaries.  Those that are generators in Python give Q_ITER: it can be walked
 * once, has no length and no JSON form. */
#include "template.h"

#include <string.h>

/* ---- attributes by path: "address.city", 0, or none at all */

static struct val by_path(struct tpl *t, struct val v, struct val path, struct val absent)
{
    if (path.type == T_MISSING || path.type == T_NONE)
        return v;
    if (path.type != T_STR) {
        v = tpl_getitem(t, v, path);
        return v.type == T_UNDEFINED && absent.type != T_MISSING ? absent : v;
    }
    const struct str *s = path.u.s;
    for (size_t from = 0, to; from <= s->n; from = to + 1) {
        bool number = true;
        int64_t index = 0;
        for (to = from; to < s->n && s->p[to] != '.'; to++) {
            number &= s->p[to] >= '0' && s->p[to] <= '9';
            index = index < 1000000000 ? index * 10 + (s->p[to] - '0') : index;
        }
        number &= to > from;
        v = tpl_getitem(t, v, number ? tpl_int(index) : tpl_strval(tpl_sub(t, s, from, to)));
        if (v.type == T_UNDEFINED && absent.type != T_MISSING)
            v = absent;
    }
    return v;
}

static struct val fold_case(struct tpl *t, struct val v, bool case_sensitive)
{
    return v.type == T_STR && !case_sensitive ? tpl_strval(tpl_case(t, v.u.s, CASE_LOWER)) : v;
}

static const struct val missing = {.type = T_MISSING};

static struct val none_if_missing(struct val v) { return v.type == T_NONE ? missing : v; }

static struct val as_iter(struct tpl *t, struct seq *q)
{
    q->kind = Q_ITER;
    return tpl_seqval(q);
}

/* ---- taking apart and together */

static struct val filter_list(struct tpl *t, struct call *c) { return tpl_seqval(tpl_list_of(t, c->self)); }

static struct val filter_first(struct tpl *t, struct call *c)
{
    if (c->self.type == T_SEQ && c->self.u.q->kind == Q_ITER && c->self.u.q->pos < c->self.u.q->n)
        return c->self.u.q->v[c->self.u.q->pos++];
    struct seq *q = tpl_items(t, c->self);
    return q->n ? tpl_seq_get(q, 0) : tpl_undef_hint(t, "no first item, sequence was empty");
}

static struct val filter_last(struct tpl *t, struct call *c)
{
    if (c->self.type == T_SEQ && c->self.u.q->kind == Q_ITER)
        tpl_fail(t, "'generator' object is not reversible");
    struct seq *q = tpl_items(t, c->self);
    return q->n ? tpl_seq_get(q, q->n - 1) : tpl_undef_hint(t, "no last item, sequence was empty");
}

static struct val filter_random(struct tpl *t, struct call *c)
{
    struct seq *q = tpl_items(t, c->self);
    t->random = t->random * 6364136223846793005u + 1442695040888963407u; /* the same in every run, on purpose */
    return q->n ? tpl_seq_get(q, (t->random >> 33) % q->n) : tpl_undef_hint(t, "no random item, sequence was empty");
}

static struct val filter_reverse(struct tpl *t, struct call *c)
{
    struct seq *q = tpl_list_of(t, c->self);
    for (size_t i = 0; i < q->n / 2; i++) {
        struct val v = q->v[i];
        q->v[i] = q->v[q->n - 1 - i];
        q->v[q->n - 1 - i] = v;
    }
    if (c->self.type == T_STR)
        return tpl_strval(tpl_join(t, tpl_cstr(t, "").u.s, tpl_seqval(q), false));
    if (c->self.type == T_UNDEFINED || (c->self.type == T_SEQ && c->self.u.q->kind == Q_ITER))
        return tpl_seqval(q);
    return as_iter(t, q);
}

static struct val filter_join(struct tpl *t, struct call *c)
{
    struct val items = c->self, path = none_if_missing(c->arg[1]);
    if (path.type != T_MISSING) {
        struct seq *q = tpl_list_of(t, items);
        for (size_t i = 0; i < q->n; i++)
            q->v[i] = by_path(t, q->v[i], path, missing);
        items = tpl_seqval(q);
    }
    const struct str *sep = c->arg[0].type == T_MISSING ? tpl_cstr(t, "").u.s : tpl_to_str(t, c->arg[0]);
    return tpl_strval(tpl_join(t, sep, items, false));
}

static struct val filter_items(struct tpl *t, struct call *c)
{
    if (c->self.type == T_UNDEFINED)
        return as_iter(t, tpl_seq_new(t, Q_LIST, 0));
    if (c->self.type != T_DICT)
        tpl_fail(t, "Can only get item pairs from a mapping.");
    return as_iter(t, tpl_dict_view(t, c->self.u.d, Q_ITEMS));
}

static struct val filter_batch(struct tpl *t, struct call *c)
{
    struct seq *from = tpl_items(t, c->self), *rows = tpl_seq_new(t, Q_LIST, 0), *row = NULL;
    int64_t width = tpl_as_int(t, c->arg[0], "batch");
    for (size_t i = 0; i < from->n; i++) {
        if (!row || (int64_t)row->n == width) {
            row = tpl_seq_new(t, Q_LIST, 0);
            tpl_seq_push(t, rows, tpl_seqval(row));
        }
        tpl_seq_push(t, row, tpl_seq_get(from, i));
    }
    if (c->arg[1].type != T_MISSING && c->arg[1].type != T_NONE)
        while (row && (int64_t)row->n < width)
            tpl_seq_push(t, row, c->arg[1]);
    return as_iter(t, rows);
}

static struct val filter_slice(struct tpl *t, struct call *c)
{
    struct seq *from = tpl_items(t, c->self), *rows = tpl_seq_new(t, Q_LIST, 0);
    int64_t slices = tpl_as_int(t, c->arg[0], "slice");
    if (slices == 0)
        tpl_fail(t, "division by zero");
    bool fill = c->arg[1].type != T_MISSING && c->arg[1].type != T_NONE;
    size_t at = 0;
    for (int64_t i = 0; i < slices; i++) {
        bool longer = (size_t)i < from->n % (size_t)slices;
        struct seq *row = tpl_seq_new(t, Q_LIST, 0);
        for (size_t n = from->n / (size_t)slices + longer; n; n--)
            tpl_seq_push(t, row, tpl_seq_get(from, at++));
        if (fill && !longer)
            tpl_seq_push(t, row, c->arg[1]);
        tpl_seq_push(t, rows, tpl_seqval(row));
    }
    return as_iter(t, rows);
}

/* ---- order */

/* The values of "a,b.c" as one key. */
static struct val sort_key(struct tpl *t, struct val v, struct val path, bool case_sensitive)
{
    struct seq *key = tpl_seq_new(t, Q_LIST, 1);
    const struct str *s = path.type == T_STR ? path.u.s : NULL;
    for (size_t from = 0, to; s && from <= s->n; from = to + 1) {
        for (to = from; to < s->n && s->p[to] != ','; to++)
            ;
        struct val one = by_path(t, v, tpl_strval(tpl_sub(t, s, from, to)), missing);
        tpl_seq_push(t, key, fold_case(t, one, case_sensitive));
    }
    if (!s)
        tpl_seq_push(t, key, fold_case(t, by_path(t, v, path, missing), case_sensitive));
    return tpl_seqval(key);
}

static struct val filter_sort(struct tpl *t, struct call *c)
{
    struct seq *q = tpl_list_of(t, c->self), *keys = tpl_seq_new(t, Q_LIST, q->n);
    for (size_t i = 0; i < q->n; i++)
        tpl_seq_push(t, keys, sort_key(t, q->v[i], none_if_missing(c->arg[2]), tpl_truth(t, c->arg[1])));
    tpl_sort(t, q->v, keys->v, q->n, tpl_truth(t, c->arg[0]));
    return tpl_seqval(q);
}

static struct val filter_dictsort(struct tpl *t, struct call *c)
{
    bool case_sensitive = tpl_truth(t, c->arg[0]), by_value = false;
    if (c->arg[1].type == T_STR && tpl_str_is(c->arg[1].u.s, "value"))
        by_value = true;
    else if (c->arg[1].type != T_MISSING && !(c->arg[1].type == T_STR && tpl_str_is(c->arg[1].u.s, "key")))
        tpl_fail(t, "dictsort: you can only sort by either \"key\" or \"value\"");
    if (c->self.type == T_UNDEFINED)
        tpl_fail_undef(t, c->self);
    if (c->self.type != T_DICT)
        tpl_fail(t, "'%s' object has no attribute 'items'", tpl_type_name(c->self));
    struct seq *q = tpl_dict_view(t, c->self.u.d, Q_ITEMS), *keys = tpl_seq_new(t, Q_LIST, q->n);
    for (size_t i = 0; i < q->n; i++)
        tpl_seq_push(t, keys, fold_case(t, q->v[i].u.q->v[by_value], case_sensitive));
    tpl_sort(t, q->v, keys->v, q->n, tpl_truth(t, c->arg[2]));
    q->kind = Q_LIST;
    return tpl_seqval(q);
}

static struct val extreme(struct tpl *t, struct call *c, enum tpl_tok op)
{
    struct seq *q = tpl_items(t, c->self);
    if (!q->n)
        return tpl_undef_hint(t, "no aggregated item, sequence was empty");
    bool case_sensitive = tpl_truth(t, c->arg[0]);
    struct val path = none_if_missing(c->arg[1]), best = tpl_seq_get(q, 0);
    struct val best_key = fold_case(t, by_path(t, best, path, missing), case_sensitive);
    for (size_t i = 1; i < q->n; i++) {
        struct val v = tpl_seq_get(q, i), key = fold_case(t, by_path(t, v, path, missing), case_sensitive);
        if (tpl_order(t, op, key, best_key)) {
            best = v;
            best_key = key;
        }
    }
    return best;
}

static struct val filter_min(struct tpl *t, struct call *c) { return extreme(t, c, TOK_LT); }
static struct val filter_max(struct tpl *t, struct call *c) { return extreme(t, c, TOK_GT); }

static struct val filter_unique(struct tpl *t, struct call *c)
{
    struct seq *q = tpl_items(t, c->self), *out = tpl_seq_new(t, Q_LIST, 0);
    struct dict *seen = tpl_dict_new(t);
    for (size_t i = 0; i < q->n; i++) {
        struct val v = tpl_seq_get(q, i);
        struct val key = fold_case(t, by_path(t, v, none_if_missing(c->arg[1]), missing), tpl_truth(t, c->arg[0]));
        if (tpl_dict_find(t, seen, key))
            continue;
        tpl_dict_set(t, seen, key, tpl_none());
        tpl_seq_push(t, out, v);
    }
    return as_iter(t, out);
}

static struct val filter_groupby(struct tpl *t, struct call *c)
{
    struct seq *q = tpl_list_of(t, c->self), *keys = tpl_seq_new(t, Q_LIST, q->n), *groups = tpl_seq_new(t, Q_LIST, 0);
    struct val absent = none_if_missing(c->arg[1]);
    bool case_sensitive = tpl_truth(t, c->arg[2]);
    for (size_t i = 0; i < q->n; i++)
        tpl_seq_push(t, keys, fold_case(t, by_path(t, q->v[i], c->arg[0], absent), case_sensitive));
    tpl_sort(t, q->v, keys->v, q->n, false);
    struct seq *members = NULL;
    for (size_t i = 0; i < q->n; i++) {
        if (!i || !tpl_equal(t, keys->v[i - 1], keys->v[i])) {
            members = tpl_seq_new(t, Q_LIST, 0);
            struct val group = tpl_pair(t, by_path(t, q->v[i], c->arg[0], absent), tpl_seqval(members));
            group.u.q->kind = Q_GROUP;
            tpl_seq_push(t, groups, group);
        }
        tpl_seq_push(t, members, q->v[i]);
    }
    return tpl_seqval(groups);
}

static struct val filter_sum(struct tpl *t, struct call *c)
{
    struct val total = c->arg[1].type == T_MISSING ? tpl_int(0) : c->arg[1];
    if (total.type == T_STR)
        tpl_fail(t, "sum() can't sum strings [use ''.join(seq) instead]");
    struct seq *q = tpl_items(t, c->self);
    for (size_t i = 0; i < q->n; i++)
        total = tpl_add(t, total, by_path(t, tpl_seq_get(q, i), none_if_missing(c->arg[0]), missing));
    return total;
}

/* ---- map and select: their arguments name another filter or test */

/* A call of the function named by c->pos[skip], with the arguments behind it. */
static const struct builtin *inner_call(struct tpl *t, const struct call *c, size_t skip, bool test, struct call *inner)
{
    struct val name = c->pos[skip];
    const struct builtin *b = NULL;
    if (name.type == T_STR)
        b = test ? tpl_test_find(name.u.s) : tpl_filter_find(name.u.s);
    if (!b)
        tpl_fail(t, "no %s named '%.*s'", test ? "test" : "filter", name.type == T_STR ? tpl_show(name.u.s) : 0,
                 name.type == T_STR ? name.u.s->p : "");
    *inner = (struct call){.pos = c->pos + skip + 1, .n_pos = c->n_pos - skip - 1, .kw = c->kw};
    return b;
}

static struct val filter_map(struct tpl *t, struct call *c)
{
    struct seq *out = tpl_seq_new(t, Q_LIST, 0);
    if (!tpl_truth(t, c->self))
        return as_iter(t, out);
    struct val *path = c->n_pos ? NULL : tpl_dict_cstr(t, c->kw, "attribute");
    struct val *absent = path ? tpl_dict_cstr(t, c->kw, "default") : NULL;
    const struct builtin *b = NULL;
    struct call inner;
    if (path ? c->kw->n != 1 + (size_t)(absent != NULL) : !c->n_pos)
        tpl_fail(t, "map needs the name of a filter, or attribute= and perhaps default=");
    if (!path)
        b = inner_call(t, c, 0, false, &inner);
    struct seq *q = tpl_items(t, c->self);
    tpl_enter(t);
    for (size_t i = 0; i < q->n; i++) {
        struct val v = tpl_seq_get(q, i);
        if (path) {
            v = by_path(t, v, *path, absent ? none_if_missing(*absent) : missing);
        } else {
            inner.self = v;
            v = tpl_call_builtin(t, b, &inner);
        }
        tpl_seq_push(t, out, v);
    }
    tpl_leave(t);
    return as_iter(t, out);
}

static struct val select_items(struct tpl *t, struct call *c, bool attribute, bool wanted)
{
    struct seq *out = tpl_seq_new(t, Q_LIST, 0);
    if (!tpl_truth(t, c->self))
        return as_iter(t, out);
    if (attribute && !c->n_pos)
        tpl_fail(t, "missing parameter for attribute name");
    const struct builtin *b = NULL;
    struct call inner;
    if (c->n_pos > attribute)
        b = inner_call(t, c, attribute, true, &inner);
    struct seq *q = tpl_items(t, c->self);
    tpl_enter(t);
    for (size_t i = 0; i < q->n; i++) {
        struct val item = tpl_seq_get(q, i), v = attribute ? by_path(t, item, c->pos[0], missing) : item;
        if (b) {
            inner.self = v;
            v = tpl_call_builtin(t, b, &inner);
        }
        if (tpl_truth(t, v) == wanted)
            tpl_seq_push(t, out, item);
    }
    tpl_leave(t);
    return as_iter(t, out);
}

static struct val filter_select(struct tpl *t, struct call *c) { return select_items(t, c, false, true); }
static struct val filter_reject(struct tpl *t, struct call *c) { return select_items(t, c, false, false); }
static struct val filter_selectattr(struct tpl *t, struct call *c) { return select_items(t, c, true, true); }
static struct val filter_rejectattr(struct tpl *t, struct call *c) { return select_items(t, c, true, false); }

const struct builtin tpl_list_filters[] = {{"batch", "linecount fill_with?", filter_batch},
                                           {"dictsort", "case_sensitive? by? reverse?", filter_dictsort},
                                           {"first", "", filter_first},
                                           {"groupby", "attribute default? case_sensitive?", filter_groupby},
                                           {"items", "", filter_items},
                                           {"join", "d? attribute?", filter_join},
                                           {"last", "", filter_last},
                                           {"list", "", filter_list},
                                           {"map", "*", filter_map},
                                           {"max", "case_sensitive? attribute?", filter_max},
                                           {"min", "case_sensitive? attribute?", filter_min},
                                           {"random", "", filter_random},
                                           {"reject", "*", filter_reject},
                                           {"rejectattr", "*", filter_rejectattr},
                                           {"reverse", "", filter_reverse},
                                           {"select", "*", filter_select},
                                           {"selectattr", "*", filter_selectattr},
                                           {"slice", "slices fill_with?", filter_slice},
                                           {"sort", "reverse? case_sensitive? attribute?", filter_sort},
                                           {"sum", "attribute? start?", filter_sum},
                                           {"unique", "case_sensitive? attribute?", filter_unique},
                                           {NULL, NULL, NULL}};
