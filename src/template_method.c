/* SPDX-License-Identifier: MIT */
/* Chat templates: methods of values, as Python's.  Values that come in are not changed behind their owner's back: the
 * sandbox of transformers refuses methods that would, and so do we, but for append and pop of lists, which published
 * templates use and which touch nothing outside this rendering. */
#include "template.h"

#include <string.h>
#include <utf8proc.h>

static const struct str *self_str(const struct call *c) { return c->self.u.s; }

static const struct str *need_str(struct tpl *t, struct val v, const char *what)
{
    if (v.type == T_UNDEFINED)
        tpl_fail_undef(t, v);
    if (v.type != T_STR)
        tpl_fail(t, "%s: must be str, not %s", what, tpl_type_name(v));
    return v.u.s;
}

static bool given(struct val v) { return v.type != T_MISSING && v.type != T_NONE; }

/* Bytes from..to that the character positions start and end stand for; false when start lies behind end or the text. */
static bool str_range(struct tpl *t, const struct str *s, struct val start, struct val end, size_t *from, size_t *to)
{
    *from = 0;
    *to = s->n;
    if (!given(start) && !given(end))
        return true;
    int64_t n = (int64_t)tpl_str_chars(t, s), a = given(start) ? tpl_as_int(t, start, "start") : 0;
    int64_t b = given(end) ? tpl_as_int(t, end, "end") : n;
    a = a < 0 ? (a + n < 0 ? 0 : a + n) : a;
    b = b < 0 ? (b + n < 0 ? 0 : b + n) : b > n ? n : b;
    *from = tpl_str_offset(t, s, (size_t)a);
    *to = tpl_str_offset(t, s, (size_t)b);
    return a <= b;
}

/* ---- case and stripping */

static struct val str_lower(struct tpl *t, struct call *c) { return tpl_strval(tpl_case(t, self_str(c), CASE_LOWER)); }
static struct val str_upper(struct tpl *t, struct call *c) { return tpl_strval(tpl_case(t, self_str(c), CASE_UPPER)); }
static struct val str_title(struct tpl *t, struct call *c) { return tpl_strval(tpl_case(t, self_str(c), CASE_TITLE)); }
static struct val str_capitalize(struct tpl *t, struct call *c) { return tpl_strval(tpl_capitalize(t, self_str(c))); }

static struct val str_casefold(struct tpl *t, struct call *c)
{
    const struct str *s = self_str(c);
    struct sbuf *b = tpl_sbuf(t);
    for (size_t i = 0, n; i < s->n; i += n) {
        utf8proc_int32_t ch = (utf8proc_int32_t)tpl_char(s->p + i, &n), to[4];
        int bound = 0;
        utf8proc_ssize_t n_to = utf8proc_decompose_char(ch, to, 4, UTF8PROC_CASEFOLD, &bound);
        for (utf8proc_ssize_t k = 0; k < n_to && k < 4; k++)
            tpl_put_char(t, b, (uint32_t)to[k], s->mark[i]);
    }
    return tpl_strval(tpl_sbuf_str(t, b));
}

static struct val str_swapcase(struct tpl *t, struct call *c)
{
    const struct str *s = self_str(c);
    struct sbuf *b = tpl_sbuf(t);
    for (size_t i = 0, n; i < s->n; i += n) {
        utf8proc_int32_t ch = (utf8proc_int32_t)tpl_char(s->p + i, &n);
        tpl_put_case(t, b, s, i, i + n, utf8proc_tolower(ch) != ch ? CASE_LOWER : CASE_UPPER);
    }
    return tpl_strval(tpl_sbuf_str(t, b));
}

static struct val strip_side(struct tpl *t, struct call *c, enum strip side)
{
    return tpl_strval(tpl_strip(t, self_str(c), given(c->arg[0]) ? need_str(t, c->arg[0], "strip") : NULL, side));
}

static struct val str_strip(struct tpl *t, struct call *c) { return strip_side(t, c, STRIP_BOTH); }
static struct val str_lstrip(struct tpl *t, struct call *c) { return strip_side(t, c, STRIP_LEFT); }
static struct val str_rstrip(struct tpl *t, struct call *c) { return strip_side(t, c, STRIP_RIGHT); }

static bool starts(const struct str *s, size_t from, size_t to, const struct str *with)
{
    return to - from >= with->n && (!with->n || memcmp(s->p + from, with->p, with->n) == 0);
}

static struct val str_removeprefix(struct tpl *t, struct call *c)
{
    const struct str *s = self_str(c), *fix = need_str(t, c->arg[0], "removeprefix");
    return tpl_strval(tpl_sub(t, s, starts(s, 0, s->n, fix) ? fix->n : 0, s->n));
}

static struct val str_removesuffix(struct tpl *t, struct call *c)
{
    const struct str *s = self_str(c), *fix = need_str(t, c->arg[0], "removesuffix");
    bool has = s->n >= fix->n && starts(s, s->n - fix->n, s->n, fix);
    return tpl_strval(tpl_sub(t, s, 0, has ? s->n - fix->n : s->n));
}

static struct val pad(struct tpl *t, struct call *c, char where)
{
    const struct str *s = self_str(c), *fill = given(c->arg[1]) ? need_str(t, c->arg[1], "fill character") : NULL;
    int64_t n = tpl_as_int(t, c->arg[0], "width"), lack = n - (int64_t)tpl_str_chars(t, s);
    if (fill && fill->n != 1)
        tpl_fail(t, "the fill character must be exactly one ASCII character");
    if (lack <= 0)
        return c->self;
    int64_t left = where == 'l' ? 0 : where == 'r' ? lack : lack / 2 + (lack & n & 1);
    struct sbuf *b = tpl_sbuf(t);
    int mark = fill ? fill->mark[0] : TPL_TEXT;
    char ch = fill ? fill->p[0] : ' ';
    tpl_put_fill(t, b, ch, left, mark);
    tpl_put_str(t, b, s);
    tpl_put_fill(t, b, ch, lack - left, mark);
    return tpl_strval(tpl_sbuf_str(t, b));
}

static struct val str_ljust(struct tpl *t, struct call *c) { return pad(t, c, 'l'); }
static struct val str_rjust(struct tpl *t, struct call *c) { return pad(t, c, 'r'); }
static struct val str_center(struct tpl *t, struct call *c) { return pad(t, c, 'c'); }

static struct val str_zfill(struct tpl *t, struct call *c)
{
    const struct str *s = self_str(c);
    size_t sign = s->n && (s->p[0] == '-' || s->p[0] == '+');
    struct sbuf *b = tpl_sbuf(t);
    tpl_put_sub(t, b, s, 0, sign);
    tpl_put_fill(t, b, '0', tpl_as_int(t, c->arg[0], "zfill") - (int64_t)tpl_str_chars(t, s), TPL_TEXT);
    tpl_put_sub(t, b, s, sign, s->n);
    return tpl_strval(tpl_sbuf_str(t, b));
}

/* ---- searching */

static struct val affix(struct tpl *t, struct call *c, bool at_end)
{
    const struct str *s = self_str(c);
    struct seq one = {.kind = Q_LIST, .v = &c->arg[0], .n = 1};
    const struct seq *fixes = c->arg[0].type == T_SEQ && c->arg[0].u.q->kind == Q_TUPLE ? c->arg[0].u.q : &one;
    size_t from, to;
    bool any = false, valid = str_range(t, s, c->arg[1], c->arg[2], &from, &to);
    for (size_t i = 0; i < fixes->n; i++) {
        const struct str *fix = need_str(t, fixes->v[i], at_end ? "endswith" : "startswith");
        tpl_work(t, fix->n);
        if (valid && to - from >= fix->n)
            any |= starts(s, at_end ? to - fix->n : from, to, fix);
    }
    return tpl_bool(any);
}

static struct val str_startswith(struct tpl *t, struct call *c) { return affix(t, c, false); }
static struct val str_endswith(struct tpl *t, struct call *c) { return affix(t, c, true); }

/* The last place of what in s[from..to], or SIZE_MAX. */
static size_t find_last(struct tpl *t, const struct str *s, const struct str *what, size_t from, size_t to)
{
    if (to - from < what->n)
        return SIZE_MAX;
    for (size_t at = to - what->n;; at--) {
        if (!what->n || (s->p[at] == what->p[0] && memcmp(s->p + at, what->p, what->n) == 0)) {
            tpl_work(t, to - at);
            return at;
        }
        if (at == from)
            break;
        if (s->p[at] == what->p[0])
            tpl_work(t, 16 + what->n);
    }
    tpl_work(t, to - from);
    return SIZE_MAX;
}

static struct val find(struct tpl *t, struct call *c, bool last, bool must)
{
    const struct str *s = self_str(c), *what = need_str(t, c->arg[0], "find");
    size_t from, to, hit = SIZE_MAX;
    if (str_range(t, s, c->arg[1], c->arg[2], &from, &to)) {
        struct str *part = tpl_sub(t, s, 0, to);
        hit = last ? find_last(t, part, what, from, to) : tpl_str_find(t, part, what, from);
    }
    if (hit == SIZE_MAX && must)
        tpl_fail(t, "substring not found");
    return tpl_int(hit == SIZE_MAX ? -1 : (int64_t)tpl_str_chars(t, tpl_sub(t, s, 0, hit)));
}

static struct val str_find(struct tpl *t, struct call *c) { return find(t, c, false, false); }
static struct val str_rfind(struct tpl *t, struct call *c) { return find(t, c, true, false); }
static struct val str_index(struct tpl *t, struct call *c) { return find(t, c, false, true); }
static struct val str_rindex(struct tpl *t, struct call *c) { return find(t, c, true, true); }

static struct val str_count(struct tpl *t, struct call *c)
{
    const struct str *s = self_str(c), *what = need_str(t, c->arg[0], "count");
    size_t from, to;
    int64_t n = 0;
    if (!str_range(t, s, c->arg[1], c->arg[2], &from, &to))
        return tpl_int(0);
    struct str *part = tpl_sub(t, s, from, to);
    if (!what->n)
        return tpl_int((int64_t)tpl_str_chars(t, part) + 1);
    for (size_t at = 0; (at = tpl_str_find(t, part, what, at)) != SIZE_MAX; at += what->n) {
        tpl_step(t, 1);
        n++;
    }
    return tpl_int(n);
}

static struct val str_replace(struct tpl *t, struct call *c)
{
    const struct str *s = self_str(c), *old = need_str(t, c->arg[0], "replace"),
                     *with = need_str(t, c->arg[1], "replace");
    if (s->safe && !with->safe)
        with = tpl_str_escape(t, with);
    struct str *r = tpl_replace(t, s, old, with, given(c->arg[2]) ? tpl_as_int(t, c->arg[2], "replace") : -1);
    r->safe = s->safe;
    return tpl_strval(r);
}

/* ---- cutting and joining */

static void push_sub(struct tpl *t, struct seq *q, const struct str *s, size_t from, size_t to)
{
    tpl_seq_push(t, q, tpl_strval(tpl_sub(t, s, from, to)));
}

/* The end of the character before `at`. */
static size_t before(const struct str *s, size_t at)
{
    do
        at--;
    while ((s->p[at] & 0xC0) == 0x80);
    return at;
}

static bool space_at(const struct str *s, size_t at)
{
    size_t n;
    return tpl_is_space(tpl_char(s->p + at, &n));
}

/* By runs of white space, at most max cuts (max < 0: all). */
static void split_space(struct tpl *t, struct seq *q, const struct str *s, int64_t max)
{
    size_t at = 0, n;
    for (;;) {
        for (; at < s->n && space_at(s, at); at += n)
            tpl_char(s->p + at, &n);
        if (at == s->n)
            break;
        if (max-- == 0) {
            push_sub(t, q, s, at, s->n);
            return;
        }
        size_t from = at;
        for (; at < s->n && !space_at(s, at); at += n)
            tpl_char(s->p + at, &n);
        push_sub(t, q, s, from, at);
    }
}

/* The same from the right; parts are pushed last first. */
static void rsplit_space(struct tpl *t, struct seq *q, const struct str *s, int64_t max)
{
    size_t at = s->n;
    for (;;) {
        while (at && space_at(s, before(s, at)))
            at = before(s, at);
        if (!at)
            break;
        size_t to = at;
        if (max-- == 0) {
            push_sub(t, q, s, 0, to);
            return;
        }
        while (at && !space_at(s, before(s, at)))
            at = before(s, at);
        push_sub(t, q, s, at, to);
    }
}

static void flip(struct seq *q)
{
    for (size_t i = 0; i < q->n / 2; i++) {
        struct val v = q->v[i];
        q->v[i] = q->v[q->n - 1 - i];
        q->v[q->n - 1 - i] = v;
    }
}

static struct val split(struct tpl *t, struct call *c, bool from_right)
{
    const struct str *s = self_str(c);
    int64_t max = given(c->arg[1]) ? tpl_as_int(t, c->arg[1], "maxsplit") : -1;
    struct seq *q = tpl_seq_new(t, Q_LIST, 0);
    tpl_work(t, s->n);
    if (!given(c->arg[0])) {
        if (from_right)
            rsplit_space(t, q, s, max);
        else
            split_space(t, q, s, max);
    } else {
        const struct str *sep = need_str(t, c->arg[0], "split");
        if (!sep->n)
            tpl_fail(t, "empty separator");
        size_t from = 0, to = s->n, hit;
        for (; max != 0; max--) {
            hit = from_right ? find_last(t, s, sep, 0, to) : tpl_str_find(t, s, sep, from);
            if (hit == SIZE_MAX)
                break;
            push_sub(t, q, s, from_right ? hit + sep->n : from, from_right ? to : hit);
            from = hit + sep->n;
            to = hit;
        }
        push_sub(t, q, s, from_right ? 0 : from, from_right ? to : s->n);
    }
    if (from_right)
        flip(q);
    return tpl_seqval(q);
}

static struct val str_split(struct tpl *t, struct call *c) { return split(t, c, false); }
static struct val str_rsplit(struct tpl *t, struct call *c) { return split(t, c, true); }

static struct val partition(struct tpl *t, struct call *c, bool last)
{
    const struct str *s = self_str(c), *sep = need_str(t, c->arg[0], "partition");
    if (!sep->n)
        tpl_fail(t, "empty separator");
    size_t hit = last ? find_last(t, s, sep, 0, s->n) : tpl_str_find(t, s, sep, 0);
    struct seq *q = tpl_seq_new(t, Q_TUPLE, 3);
    if (hit == SIZE_MAX) {
        push_sub(t, q, s, 0, last ? 0 : s->n);
        push_sub(t, q, s, 0, 0);
        push_sub(t, q, s, last ? 0 : s->n, s->n);
    } else {
        push_sub(t, q, s, 0, hit);
        push_sub(t, q, s, hit, hit + sep->n);
        push_sub(t, q, s, hit + sep->n, s->n);
    }
    return tpl_seqval(q);
}

static struct val str_partition(struct tpl *t, struct call *c) { return partition(t, c, false); }
static struct val str_rpartition(struct tpl *t, struct call *c) { return partition(t, c, true); }

static struct val str_splitlines(struct tpl *t, struct call *c)
{
    return tpl_seqval(tpl_split_lines(t, self_str(c), tpl_truth(t, c->arg[0])));
}

static struct val str_join(struct tpl *t, struct call *c)
{
    return tpl_strval(tpl_join(t, self_str(c), c->arg[0], true));
}

static struct val str_format_map(struct tpl *t, struct call *c)
{
    if (c->arg[0].type != T_DICT)
        tpl_fail(t, "format_map takes a mapping");
    struct call with = {.self = c->self, .kw = c->arg[0].u.d};
    return tpl_str_format(t, &with);
}

/* ---- questions about the characters */

enum { IS_ALNUM, IS_ALPHA, IS_ASCII, IS_DECIMAL, IS_DIGIT, IS_LOWER, IS_NUMERIC, IS_SPACE, IS_UPPER };

static bool is_digit(uint32_t c, utf8proc_category_t k)
{
    return k == UTF8PROC_CATEGORY_ND || c == 0xB2 || c == 0xB3 || c == 0xB9 || c == 0x2070 ||
           (c >= 0x2074 && c <= 0x2079) || (c >= 0x2080 && c <= 0x2089);
}

static bool char_is(int what, uint32_t c)
{
    utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)c);
    bool letter = k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_LO;
    bool number = k >= UTF8PROC_CATEGORY_ND && k <= UTF8PROC_CATEGORY_NO;
    switch (what) {
    case IS_ALNUM:
        return letter || number;
    case IS_ALPHA:
        return letter;
    case IS_ASCII:
        return c < 0x80;
    case IS_DECIMAL:
        return k == UTF8PROC_CATEGORY_ND;
    case IS_DIGIT:
        return is_digit(c, k);
    case IS_NUMERIC:
        return number;
    default:
        return tpl_is_space(c);
    }
}

static struct val all_are(struct tpl *t, struct call *c, int what)
{
    const struct str *s = self_str(c);
    tpl_work(t, 8 * s->n);
    for (size_t i = 0, n; i < s->n; i += n)
        if (!char_is(what, tpl_char(s->p + i, &n)))
            return tpl_bool(false);
    return tpl_bool(s->n > 0 || what == IS_ASCII);
}

bool tpl_is_case(struct tpl *t, const struct str *s, bool upper)
{
    bool any = false;
    tpl_work(t, 8 * s->n);
    for (size_t i = 0, n; i < s->n; i += n) {
        utf8proc_int32_t c = (utf8proc_int32_t)tpl_char(s->p + i, &n);
        bool is_upper = utf8proc_isupper(c), is_lower = utf8proc_islower(c);
        if (upper ? is_lower : is_upper || utf8proc_category(c) == UTF8PROC_CATEGORY_LT)
            return false;
        any |= upper ? is_upper : is_lower;
    }
    return any;
}

static struct val str_isalnum(struct tpl *t, struct call *c) { return all_are(t, c, IS_ALNUM); }
static struct val str_isalpha(struct tpl *t, struct call *c) { return all_are(t, c, IS_ALPHA); }
static struct val str_isascii(struct tpl *t, struct call *c) { return all_are(t, c, IS_ASCII); }
static struct val str_isdecimal(struct tpl *t, struct call *c) { return all_are(t, c, IS_DECIMAL); }
static struct val str_isdigit(struct tpl *t, struct call *c) { return all_are(t, c, IS_DIGIT); }
static struct val str_isnumeric(struct tpl *t, struct call *c) { return all_are(t, c, IS_NUMERIC); }
static struct val str_isspace(struct tpl *t, struct call *c) { return all_are(t, c, IS_SPACE); }
static struct val str_islower(struct tpl *t, struct call *c) { return tpl_bool(tpl_is_case(t, self_str(c), false)); }
static struct val str_isupper(struct tpl *t, struct call *c) { return tpl_bool(tpl_is_case(t, self_str(c), true)); }

static struct val str_istitle(struct tpl *t, struct call *c)
{
    const struct str *s = self_str(c);
    bool in_word = false, any = false;
    tpl_work(t, 8 * s->n);
    for (size_t i = 0, n; i < s->n; i += n) {
        utf8proc_int32_t ch = (utf8proc_int32_t)tpl_char(s->p + i, &n);
        bool upper = utf8proc_isupper(ch) || utf8proc_category(ch) == UTF8PROC_CATEGORY_LT,
             lower = utf8proc_islower(ch);
        if ((upper && in_word) || (lower && !in_word))
            return tpl_bool(false);
        in_word = upper || lower;
        any |= in_word;
    }
    return tpl_bool(any);
}

/* ---- lists, tuples, dictionaries, loops, cyclers */

static struct val list_append(struct tpl *t, struct call *c)
{
    tpl_seq_push(t, c->self.u.q, c->arg[0]);
    return tpl_none();
}

static struct val list_pop(struct tpl *t, struct call *c)
{
    struct seq *q = c->self.u.q;
    int64_t i = given(c->arg[0]) ? tpl_as_int(t, c->arg[0], "pop") : -1;
    i = i < 0 ? i + (int64_t)q->n : i;
    if (i < 0 || i >= (int64_t)q->n)
        tpl_fail(t, q->n ? "pop index out of range" : "pop from empty list");
    struct val v = q->v[i];
    tpl_step(t, q->n / 4);
    memmove(q->v + i, q->v + i + 1, (q->n - (size_t)i - 1) * sizeof *q->v);
    q->n--;
    return v;
}

static struct val list_copy(struct tpl *t, struct call *c) { return tpl_seqval(tpl_list_of(t, c->self)); }

static struct val list_count(struct tpl *t, struct call *c)
{
    int64_t n = 0;
    for (size_t i = 0; i < c->self.u.q->n; i++)
        n += tpl_equal(t, tpl_seq_get(c->self.u.q, i), c->arg[0]);
    return tpl_int(n);
}

static struct val list_index(struct tpl *t, struct call *c)
{
    for (size_t i = 0; i < c->self.u.q->n; i++)
        if (tpl_equal(t, tpl_seq_get(c->self.u.q, i), c->arg[0]))
            return tpl_int((int64_t)i);
    tpl_fail(t, "list.index: no such item");
}

static struct val dict_get(struct tpl *t, struct call *c)
{
    struct dict_entry *e = tpl_dict_find(t, c->self.u.d, c->arg[0]);
    return e ? e->val : c->arg[1].type == T_MISSING ? tpl_none() : c->arg[1];
}

static struct val dict_keys(struct tpl *t, struct call *c) { return tpl_seqval(tpl_dict_view(t, c->self.u.d, Q_KEYS)); }
static struct val dict_values(struct tpl *t, struct call *c)
{
    return tpl_seqval(tpl_dict_view(t, c->self.u.d, Q_VALUES));
}
static struct val dict_items(struct tpl *t, struct call *c)
{
    return tpl_seqval(tpl_dict_view(t, c->self.u.d, Q_ITEMS));
}

static struct val dict_copy(struct tpl *t, struct call *c)
{
    struct dict *d = tpl_dict_new(t);
    for (size_t i = 0; i < c->self.u.d->n; i++)
        tpl_dict_set(t, d, c->self.u.d->e[i].key, c->self.u.d->e[i].val);
    return tpl_dictval(d);
}

static struct val loop_cycle(struct tpl *t, struct call *c)
{
    if (!c->n_pos)
        tpl_fail(t, "no items for cycling given");
    return c->pos[(size_t)c->self.u.loop->index0 % c->n_pos];
}

static struct val loop_changed(struct tpl *t, struct call *c)
{
    struct loop *l = c->self.u.loop;
    struct seq *q = tpl_seq_new(t, Q_TUPLE, 0);
    for (size_t i = 0; i < c->n_pos; i++)
        tpl_seq_push(t, q, c->pos[i]);
    if (l->changed.type != T_MISSING && tpl_equal(t, l->changed, tpl_seqval(q)))
        return tpl_bool(false);
    l->changed = tpl_seqval(q);
    return tpl_bool(true);
}

static struct val cycler_next(struct tpl *t, struct call *c)
{
    struct gadget *g = c->self.u.gadget;
    struct val v = g->items->v[g->pos];
    g->pos = (g->pos + 1) % g->items->n;
    return v;
}

static struct val cycler_reset(struct tpl *t, struct call *c)
{
    c->self.u.gadget->pos = 0;
    return tpl_none();
}

/* ---- the tables; no function: not allowed */

static const struct builtin str_methods[] = {{"capitalize", "", str_capitalize},
                                             {"casefold", "", str_casefold},
                                             {"center", "width fillchar?", str_center},
                                             {"count", "sub start? end?", str_count},
                                             {"endswith", "suffix start? end?", str_endswith},
                                             {"find", "sub start? end?", str_find},
                                             {"format", "*", tpl_str_format},
                                             {"format_map", "mapping", str_format_map},
                                             {"index", "sub start? end?", str_index},
                                             {"isalnum", "", str_isalnum},
                                             {"isalpha", "", str_isalpha},
                                             {"isascii", "", str_isascii},
                                             {"isdecimal", "", str_isdecimal},
                                             {"isdigit", "", str_isdigit},
                                             {"islower", "", str_islower},
                                             {"isnumeric", "", str_isnumeric},
                                             {"isspace", "", str_isspace},
                                             {"istitle", "", str_istitle},
                                             {"isupper", "", str_isupper},
                                             {"join", "iterable", str_join},
                                             {"ljust", "width fillchar?", str_ljust},
                                             {"lower", "", str_lower},
                                             {"lstrip", "chars?", str_lstrip},
                                             {"partition", "sep", str_partition},
                                             {"removeprefix", "prefix", str_removeprefix},
                                             {"removesuffix", "suffix", str_removesuffix},
                                             {"replace", "old new count?", str_replace},
                                             {"rfind", "sub start? end?", str_rfind},
                                             {"rindex", "sub start? end?", str_rindex},
                                             {"rjust", "width fillchar?", str_rjust},
                                             {"rpartition", "sep", str_rpartition},
                                             {"rsplit", "sep? maxsplit?", str_rsplit},
                                             {"rstrip", "chars?", str_rstrip},
                                             {"split", "sep? maxsplit?", str_split},
                                             {"splitlines", "keepends?", str_splitlines},
                                             {"startswith", "prefix start? end?", str_startswith},
                                             {"strip", "chars?", str_strip},
                                             {"swapcase", "", str_swapcase},
                                             {"title", "", str_title},
                                             {"upper", "", str_upper},
                                             {"zfill", "width", str_zfill},
                                             {NULL, NULL, NULL}};

static const struct builtin list_methods[] = {{"append", "object", list_append},
                                              {"clear", "*", NULL},
                                              {"copy", "", list_copy},
                                              {"count", "value", list_count},
                                              {"extend", "*", NULL},
                                              {"index", "value", list_index},
                                              {"insert", "*", NULL},
                                              {"pop", "index?", list_pop},
                                              {"remove", "*", NULL},
                                              {"reverse", "*", NULL},
                                              {"sort", "*", NULL},
                                              {NULL, NULL, NULL}};
static const struct builtin tuple_methods[] = {
    {"count", "value", list_count}, {"index", "value", list_index}, {NULL, NULL, NULL}};
static const struct builtin dict_methods[] = {
    {"clear", "*", NULL},        {"copy", "", dict_copy},   {"get", "key default?", dict_get},
    {"items", "", dict_items},   {"keys", "", dict_keys},   {"pop", "*", NULL},
    {"popitem", "*", NULL},      {"setdefault", "*", NULL}, {"update", "*", NULL},
    {"values", "", dict_values}, {NULL, NULL, NULL}};
static const struct builtin loop_methods[] = {
    {"changed", "*", loop_changed}, {"cycle", "*", loop_cycle}, {NULL, NULL, NULL}};
static const struct builtin cycler_methods[] = {
    {"next", "", cycler_next}, {"reset", "", cycler_reset}, {NULL, NULL, NULL}};

const struct builtin *tpl_method_find(struct val obj, const struct str *name)
{
    switch (obj.type) {
    case T_STR:
        return tpl_builtin_find(str_methods, name);
    case T_DICT:
        return tpl_builtin_find(dict_methods, name);
    case T_SEQ:
        if (obj.u.q->kind == Q_LIST)
            return tpl_builtin_find(list_methods, name);
        return obj.u.q->kind <= Q_GROUP || obj.u.q->kind == Q_RANGE ? tpl_builtin_find(tuple_methods, name) : NULL;
    case T_LOOP:
        return tpl_builtin_find(loop_methods, name);
    case T_CYCLER:
        return tpl_builtin_find(cycler_methods, name);
    default:
        return NULL;
    }
}
