/* SPDX-License-Identifier: MIT */
/* Chat templates: the arena and its budgets, and values: truth, equality, order, rows and dictionaries.
 * Whatever walks a value recursively goes through tpl_enter(), whatever looks at many bytes or items is charged. */
#include "template.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

/* ---- arena and budgets */

enum { CHUNK_BYTES = 256 << 10, INDEX_FROM = 8 /* entries from which a dictionary has an index */ };

struct chunk {
    struct chunk *next;
    size_t used, cap;
    _Alignas(16) unsigned char bytes[];
};

static _Noreturn void fail_text(struct tpl *t, const char *prefix, const char *fmt, va_list ap)
{
    char text[sizeof t->err->text];
    vsnprintf(text, sizeof text, fmt, ap);
    fail(t->err, QN_E_TEMPLATE, "%s%s", prefix, text);
    longjmp(t->failed, 1);
}

void tpl_raise(struct tpl *t, const struct str *message)
{
    char text[sizeof t->err->text];
    size_t n = message->n < sizeof text - 1 ? message->n : sizeof text - 1;
    while (n && n < message->n && (message->p[n] & 0xC0) == 0x80) /* whole characters */
        n--;
    for (size_t i = 0; i < n; i++) {
        char c = message->p[i];
        text[i] = c == '\n' || c == '\t' || c == '\r' || !c ? ' ' : c;
    }
    text[n] = '\0';
    fail(t->err, QN_E_TEMPLATE, "%s", n ? text : "the template refuses and does not say why");
    longjmp(t->failed, 1);
}

void tpl_fail(struct tpl *t, const char *fmt, ...)
{
    char prefix[48];
    snprintf(prefix, sizeof prefix, "chat template, line %d: ", t->line);
    va_list ap;
    va_start(ap, fmt);
    fail_text(t, prefix, fmt, ap);
}

void tpl_fail_budget(struct tpl *t, const char *fmt, ...)
{
    char prefix[64];
    snprintf(prefix, sizeof prefix, "chat template, line %d: over its budget of ", t->line);
    va_list ap;
    va_start(ap, fmt);
    fail_text(t, prefix, fmt, ap);
}

void *tpl_alloc(struct tpl *t, size_t bytes)
{
    size_t need;
    if (!size_add(bytes, 15, &need) || need > t->mem_max)
        tpl_fail_budget(t, "%zu MiB of memory", t->mem_max >> 20);
    need &= ~(size_t)15;
    struct chunk *c = t->chunks;
    if (!c || c->cap - c->used < need) {
        size_t cap = need > CHUNK_BYTES / 4 ? need : CHUNK_BYTES;
        if (cap > t->mem_max - t->mem_used)
            tpl_fail_budget(t, "%zu MiB of memory", t->mem_max >> 20);
        struct chunk *fresh = calloc(1, sizeof *c + cap);
        if (!fresh) {
            fail(t->err, QN_E_MEMORY, "chat template: no memory for %zu bytes", cap);
            longjmp(t->failed, 1);
        }
        t->mem_used += cap;
        fresh->cap = cap;
        if (c && cap == need) { /* a piece of its own: go on filling the current chunk */
            fresh->next = c->next;
            c->next = fresh;
        } else {
            fresh->next = c;
            t->chunks = fresh;
        }
        c = fresh;
    }
    void *p = c->bytes + c->used;
    c->used += need;
    return p;
}

void *tpl_grow(struct tpl *t, void *old, size_t n, size_t *cap, size_t size)
{
    if (n < *cap)
        return old;
    size_t want = n < 4 ? 4 : n * 2, bytes;
    if (!size_mul(want, size, &bytes))
        tpl_fail_budget(t, "%zu MiB of memory", t->mem_max >> 20);
    void *p = tpl_alloc(t, bytes);
    if (n)
        memcpy(p, old, n * size);
    *cap = want;
    return p;
}

void tpl_free_all(struct tpl *t)
{
    for (struct chunk *c = t->chunks, *next; c; c = next) {
        next = c->next;
        free(c);
    }
    t->chunks = NULL;
}

void tpl_step(struct tpl *t, size_t n)
{
    t->steps += n;
    if (t->steps > t->steps_max)
        tpl_fail_budget(t, "%llu steps", (unsigned long long)t->steps_max);
}

void tpl_enter(struct tpl *t)
{
    if (++t->depth > t->depth_max)
        tpl_fail_budget(t, "%d nested levels", t->depth_max);
}

/* ---- undefined */

struct val tpl_undef_name(struct tpl *t, const struct str *name)
{
    struct undef *u = tpl_alloc(t, sizeof *u);
    u->name = name;
    return (struct val){.type = T_UNDEFINED, .u.u = u};
}

struct val tpl_undef_key(struct tpl *t, struct val owner, struct val key)
{
    struct undef *u = tpl_alloc(t, sizeof *u);
    u->owner = owner;
    u->key = key;
    return (struct val){.type = T_UNDEFINED, .u.u = u};
}

struct val tpl_undef_hint(struct tpl *t, const char *hint)
{
    struct undef *u = tpl_alloc(t, sizeof *u);
    u->hint = hint;
    return (struct val){.type = T_UNDEFINED, .u.u = u};
}

void tpl_fail_undef(struct tpl *t, struct val v)
{
    const struct undef *u = v.u.u;
    if (u->hint)
        tpl_fail(t, "%s", u->hint);
    if (u->name)
        tpl_fail(t, "'%.*s' is undefined", tpl_show(u->name), u->name->p);
    struct str *key = tpl_to_str(t, u->key);
    int n = key->n < 200 ? (int)key->n : 200;
    if (u->owner.type == T_NONE)
        tpl_fail(t, "none has no attribute '%.*s'", n, key->p);
    tpl_fail(t, "'%s' object has no attribute '%.*s'", tpl_type_name(u->owner), n, key->p);
}

/* ---- simple questions */

const char *tpl_type_name(struct val v)
{
    static const char *const seqs[] = {"list",        "tuple",      "tuple", "dict_keys",
                                       "dict_values", "dict_items", "range", "generator"};
    static const char *const names[] = {"missing",     "Undefined", "NoneType", "bool",   "int",
                                        "float",       "str",       "",         "dict",   "Namespace",
                                        "LoopContext", "Macro",     "function", "Cycler", "Joiner"};
    return v.type == T_SEQ ? seqs[v.u.q->kind] : names[v.type];
}

bool tpl_is_number(struct val v) { return v.type == T_BOOL || v.type == T_INT || v.type == T_FLOAT; }

double tpl_as_double(struct val v) { return v.type == T_FLOAT ? v.u.f : (double)v.u.i; }

int64_t tpl_as_int(struct tpl *t, struct val v, const char *what)
{
    if (v.type == T_UNDEFINED)
        tpl_fail_undef(t, v);
    if (v.type != T_INT && v.type != T_BOOL)
        tpl_fail(t, "%s: '%s' object cannot be interpreted as an integer", what, tpl_type_name(v));
    return v.u.i;
}

bool tpl_truth(struct tpl *t, struct val v)
{
    switch (v.type) {
    case T_MISSING:
    case T_UNDEFINED:
    case T_NONE:
        return false;
    case T_BOOL:
    case T_INT:
        return v.u.i != 0;
    case T_FLOAT:
        return v.u.f != 0;
    case T_STR:
        return v.u.s->n != 0;
    case T_SEQ:
        return v.u.q->kind == Q_ITER || v.u.q->n != 0;
    case T_DICT:
        return v.u.d->n != 0;
    default:
        return true;
    }
}

bool tpl_has_length(struct val v)
{
    return v.type == T_STR || v.type == T_DICT || v.type == T_UNDEFINED || v.type == T_LOOP ||
           (v.type == T_SEQ && v.u.q->kind != Q_ITER);
}

size_t tpl_length(struct tpl *t, struct val v)
{
    if (!tpl_has_length(v))
        tpl_fail(t, "object of type '%s' has no len()", tpl_type_name(v));
    switch (v.type) {
    case T_STR:
        return tpl_str_chars(t, v.u.s);
    case T_SEQ:
        return v.u.q->n;
    case T_DICT:
        return v.u.d->n;
    case T_LOOP: {
        static const struct str length = {.p = "length", .n = 6};
        return (size_t)tpl_loop_attr(t, v.u.loop, &length).u.i;
    }
    default:
        return 0;
    }
}

/* ---- equality and order */

/* -1, 0, 1, or 2 when one is NaN; exact for any pair of int and float. */
static int compare_numbers(struct val a, struct val b)
{
    if (a.type != T_FLOAT && b.type != T_FLOAT)
        return a.u.i < b.u.i ? -1 : a.u.i > b.u.i;
    if (a.type == T_FLOAT && b.type == T_FLOAT) {
        if (isnan(a.u.f) || isnan(b.u.f))
            return 2;
        return a.u.f < b.u.f ? -1 : a.u.f > b.u.f;
    }
    if (a.type == T_FLOAT) {
        int r = compare_numbers(b, a);
        return r == 2 ? 2 : -r;
    }
    double f = b.u.f;
    if (isnan(f))
        return 2;
    if (f >= 0x1p63)
        return -1;
    if (f < -0x1p63)
        return 1;
    int64_t whole = (int64_t)f; /* truncated: the rest decides between equals */
    if (a.u.i != whole)
        return a.u.i < whole ? -1 : 1;
    double rest = f - (double)whole;
    return rest > 0 ? -1 : rest < 0;
}

static bool is_tuple(struct val v) { return v.type == T_SEQ && (v.u.q->kind == Q_TUPLE || v.u.q->kind == Q_GROUP); }

static bool equal_seq(struct tpl *t, struct val a, struct val b)
{
    struct seq *x = a.u.q, *y = b.u.q;
    if (x == y)
        return true;
    if (x->kind == Q_ITER || (x->kind != y->kind && !(is_tuple(a) && is_tuple(b))) || x->n != y->n)
        return false;
    for (size_t i = 0; i < x->n; i++)
        if (!tpl_equal(t, tpl_seq_get(x, i), tpl_seq_get(y, i)))
            return false;
    return true;
}

static bool equal_dict(struct tpl *t, const struct dict *a, const struct dict *b)
{
    if (a == b)
        return true;
    if (a->n != b->n)
        return false;
    for (size_t i = 0; i < a->n; i++) {
        struct dict_entry *e = tpl_dict_find(t, b, a->e[i].key);
        if (!e || !tpl_equal(t, a->e[i].val, e->val))
            return false;
    }
    return true;
}

bool tpl_equal(struct tpl *t, struct val a, struct val b)
{
    tpl_step(t, 1);
    if (tpl_is_number(a) && tpl_is_number(b))
        return compare_numbers(a, b) == 0;
    if (a.type != b.type)
        return false;
    bool r;
    switch (a.type) {
    case T_MISSING:
    case T_UNDEFINED:
    case T_NONE:
        return true;
    case T_STR:
        tpl_work(t, a.u.s->n);
        return tpl_str_equal(a.u.s, b.u.s);
    case T_SEQ:
        tpl_enter(t);
        r = equal_seq(t, a, b);
        tpl_leave(t);
        return r;
    case T_DICT:
        tpl_enter(t);
        r = equal_dict(t, a.u.d, b.u.d);
        tpl_leave(t);
        return r;
    case T_FUNC: /* bound methods are made anew by each look-up; no template compares them */
        return a.u.fn->b == b.u.fn->b;
    default:
        return a.u.d == b.u.d;
    }
}

static bool order_holds(enum tpl_tok op, int c)
{
    if (c == 2)
        return false;
    return op == TOK_LT ? c < 0 : op == TOK_LE ? c <= 0 : op == TOK_GT ? c > 0 : c >= 0;
}

bool tpl_order(struct tpl *t, enum tpl_tok op, struct val a, struct val b)
{
    static const char *const signs[] = {[TOK_LT] = "<", [TOK_LE] = "<=", [TOK_GT] = ">", [TOK_GE] = ">="};
    tpl_step(t, 1);
    if (tpl_is_number(a) && tpl_is_number(b))
        return order_holds(op, compare_numbers(a, b));
    if (a.type == T_STR && b.type == T_STR) {
        tpl_work(t, a.u.s->n < b.u.s->n ? a.u.s->n : b.u.s->n);
        return order_holds(op, tpl_str_cmp(a.u.s, b.u.s));
    }
    bool lists = a.type == T_SEQ && b.type == T_SEQ && a.u.q->kind == Q_LIST && b.u.q->kind == Q_LIST;
    if (lists || (is_tuple(a) && is_tuple(b))) {
        size_t n = a.u.q->n < b.u.q->n ? a.u.q->n : b.u.q->n;
        for (size_t i = 0; i < n; i++) {
            if (tpl_equal(t, a.u.q->v[i], b.u.q->v[i]))
                continue;
            tpl_enter(t);
            bool r = tpl_order(t, op, a.u.q->v[i], b.u.q->v[i]);
            tpl_leave(t);
            return r;
        }
        return order_holds(op, a.u.q->n < b.u.q->n ? -1 : a.u.q->n > b.u.q->n);
    }
    if (a.type == T_UNDEFINED)
        tpl_fail_undef(t, a);
    if (b.type == T_UNDEFINED)
        tpl_fail_undef(t, b);
    tpl_fail(t, "'%s' not supported between instances of '%s' and '%s'", signs[op], tpl_type_name(a), tpl_type_name(b));
}

bool tpl_contains(struct tpl *t, struct val item, struct val in)
{
    switch (in.type) {
    case T_STR:
        if (item.type != T_STR)
            tpl_fail(t, "'in <string>' requires string as left operand, not %s", tpl_type_name(item));
        return tpl_str_find(t, in.u.s, item.u.s, 0) != SIZE_MAX;
    case T_DICT:
        return tpl_dict_find(t, in.u.d, item) != NULL;
    case T_UNDEFINED:
        return false;
    case T_SEQ: {
        struct seq *q = tpl_items(t, in);
        for (size_t i = 0; i < q->n; i++)
            if (tpl_equal(t, tpl_seq_get(q, i), item))
                return true;
        return false;
    }
    default:
        tpl_fail(t, "argument of type '%s' is not iterable", tpl_type_name(in));
    }
}

uint64_t tpl_hash(struct tpl *t, struct val v)
{
    switch (v.type) {
    case T_BOOL:
    case T_INT:
        return XXH3_64bits(&v.u.i, sizeof v.u.i);
    case T_FLOAT: /* numbers that are equal are one key */
        if (v.u.f >= -0x1p63 && v.u.f < 0x1p63 && v.u.f == floor(v.u.f))
            return tpl_hash(t, tpl_int((int64_t)v.u.f));
        return XXH3_64bits(&v.u.f, sizeof v.u.f);
    case T_STR:
        tpl_work(t, v.u.s->n);
        return XXH3_64bits(v.u.s->p, v.u.s->n);
    case T_SEQ: {
        if (!is_tuple(v))
            break;
        uint64_t h = 0;
        tpl_enter(t);
        for (size_t i = 0; i < v.u.q->n; i++) {
            uint64_t pair[2] = {h, tpl_hash(t, v.u.q->v[i])};
            h = XXH3_64bits(pair, sizeof pair);
        }
        tpl_leave(t);
        return h;
    }
    case T_DICT:
    case T_NAMESPACE:
        break;
    default:
        return v.type;
    }
    tpl_fail(t, "unhashable type: '%s'", tpl_type_name(v));
}

/* ---- rows */

struct seq *tpl_seq_new(struct tpl *t, enum seq_kind kind, size_t cap)
{
    struct seq *q = tpl_alloc(t, sizeof *q);
    q->kind = kind;
    if (cap) {
        size_t bytes;
        if (!size_mul(cap, sizeof *q->v, &bytes))
            bytes = SIZE_MAX;
        q->v = tpl_alloc(t, bytes);
        q->cap = cap;
    }
    return q;
}

void tpl_seq_push(struct tpl *t, struct seq *q, struct val v)
{
    tpl_step(t, 1);
    q->v = tpl_grow(t, q->v, q->n, &q->cap, sizeof *q->v);
    q->v[q->n++] = v;
}

struct val tpl_seq_get(const struct seq *q, size_t i)
{
    if (q->kind != Q_RANGE)
        return q->v[i];
    return tpl_int((int64_t)((uint64_t)q->start + i * (uint64_t)q->step)); /* fits: lies between start and stop */
}

struct val tpl_pair(struct tpl *t, struct val a, struct val b)
{
    struct seq *q = tpl_seq_new(t, Q_TUPLE, 2);
    q->v[0] = a;
    q->v[1] = b;
    q->n = 2;
    return tpl_seqval(q);
}

bool tpl_iterable(struct val v)
{
    return v.type == T_STR || v.type == T_SEQ || v.type == T_DICT || v.type == T_UNDEFINED || v.type == T_LOOP;
}

static struct seq *items_of_str(struct tpl *t, const struct str *s)
{
    struct seq *q = tpl_seq_new(t, Q_LIST, tpl_str_chars(t, s));
    for (size_t i = 0, n; i < s->n; i += n) {
        tpl_char(s->p + i, &n);
        struct str *c = tpl_sub(t, s, i, i + n);
        c->safe = false; /* as iterating over Markup gives plain text */
        tpl_seq_push(t, q, tpl_strval(c));
    }
    return q;
}

struct seq *tpl_items(struct tpl *t, struct val v)
{
    switch (v.type) {
    case T_STR:
        return items_of_str(t, v.u.s);
    case T_DICT:
        return tpl_dict_view(t, v.u.d, Q_KEYS);
    case T_UNDEFINED:
        return tpl_seq_new(t, Q_LIST, 0);
    case T_SEQ:
        if (v.u.q->kind == Q_ITER) { /* can be walked once */
            struct seq *rest = tpl_alloc(t, sizeof *rest);
            rest->kind = Q_LIST;
            rest->n = rest->cap = v.u.q->n - v.u.q->pos;
            rest->v = rest->n ? v.u.q->v + v.u.q->pos : NULL;
            v.u.q->pos = v.u.q->n;
            return rest;
        }
        return v.u.q;
    default:
        tpl_fail(t, "'%s' object is not iterable", tpl_type_name(v));
    }
}

struct seq *tpl_list_of(struct tpl *t, struct val v)
{
    struct seq *from = tpl_items(t, v), *to = tpl_seq_new(t, Q_LIST, from->n);
    tpl_step(t, from->n);
    for (size_t i = 0; i < from->n; i++)
        to->v[i] = tpl_seq_get(from, i);
    to->n = from->n;
    return to;
}

struct sort_item {
    struct val v, key;
};

/* Merge sort: stable, and n log n whatever the template makes of its comparisons. */
static void merge_sort(struct tpl *t, struct sort_item *a, struct sort_item *tmp, size_t n, bool reverse)
{
    for (size_t width = 1; width < n; width *= 2) {
        for (size_t from = 0; from < n; from += 2 * width) {
            size_t mid = from + width < n ? from + width : n, end = from + 2 * width < n ? from + 2 * width : n;
            size_t i = from, j = mid, k = from;
            while (i < mid && j < end) {
                bool right = tpl_order(t, reverse ? TOK_GT : TOK_LT, a[j].key, a[i].key);
                tmp[k++] = right ? a[j++] : a[i++];
            }
            while (i < mid)
                tmp[k++] = a[i++];
            while (j < end)
                tmp[k++] = a[j++];
        }
        memcpy(a, tmp, n * sizeof *a);
    }
}

void tpl_sort(struct tpl *t, struct val *v, struct val *keys, size_t n, bool reverse)
{
    if (n < 2)
        return;
    struct sort_item *a = tpl_alloc(t, 2 * n * sizeof *a);
    for (size_t i = 0; i < n; i++)
        a[i] = (struct sort_item){v[i], keys[i]};
    merge_sort(t, a, a + n, n, reverse);
    for (size_t i = 0; i < n; i++) {
        v[i] = a[i].v;
        keys[i] = a[i].key;
    }
}

/* ---- dictionaries: insertion order, as Python's */

struct dict *tpl_dict_new(struct tpl *t) { return tpl_alloc(t, sizeof(struct dict)); }

static bool entry_is(struct tpl *t, const struct dict_entry *e, struct val key, uint64_t hash)
{
    return e->hash == hash && tpl_equal(t, e->key, key);
}

static struct dict_entry *find_hashed(struct tpl *t, const struct dict *d, struct val key, uint64_t hash)
{
    if (!d->index) {
        for (size_t i = 0; i < d->n; i++)
            if (entry_is(t, &d->e[i], key, hash))
                return &d->e[i];
        return NULL;
    }
    for (size_t i = hash & (d->n_index - 1); d->index[i]; i = (i + 1) & (d->n_index - 1)) {
        tpl_step(t, 1);
        if (entry_is(t, &d->e[d->index[i] - 1], key, hash))
            return &d->e[d->index[i] - 1];
    }
    return NULL;
}

struct dict_entry *tpl_dict_find(struct tpl *t, const struct dict *d, struct val key)
{
    return find_hashed(t, d, key, tpl_hash(t, key));
}

static void index_put(struct dict *d, size_t entry)
{
    size_t i = d->e[entry].hash & (d->n_index - 1);
    while (d->index[i])
        i = (i + 1) & (d->n_index - 1);
    d->index[i] = (uint32_t)entry + 1;
}

void tpl_dict_set(struct tpl *t, struct dict *d, struct val key, struct val v)
{
    uint64_t hash = tpl_hash(t, key);
    struct dict_entry *e = find_hashed(t, d, key, hash);
    if (e) {
        e->val = v;
        return;
    }
    tpl_step(t, 1);
    d->e = tpl_grow(t, d->e, d->n, &d->cap, sizeof *d->e);
    d->e[d->n++] = (struct dict_entry){key, v, hash};
    if (d->n < INDEX_FROM)
        return;
    if (d->index && d->n * 2 <= d->n_index) {
        index_put(d, d->n - 1);
        return;
    }
    d->n_index = d->n_index ? d->n_index * 2 : 4 * INDEX_FROM;
    d->index = tpl_alloc(t, d->n_index * sizeof *d->index);
    for (size_t i = 0; i < d->n; i++)
        index_put(d, i);
}

struct val *tpl_dict_cstr(struct tpl *t, const struct dict *d, const char *key)
{
    struct dict_entry *e = d ? tpl_dict_find(t, d, tpl_cstr(t, key)) : NULL;
    return e ? &e->val : NULL;
}

struct seq *tpl_dict_view(struct tpl *t, const struct dict *d, enum seq_kind kind)
{
    struct seq *q = tpl_seq_new(t, kind, d->n);
    for (size_t i = 0; i < d->n; i++) {
        const struct dict_entry *e = &d->e[i];
        tpl_seq_push(t, q, kind == Q_KEYS ? e->key : kind == Q_VALUES ? e->val : tpl_pair(t, e->key, e->val));
    }
    return q;
}
