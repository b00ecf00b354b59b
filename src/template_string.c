/* SPDX-License-Identifier: MIT */
/* Chat templates: text.  Every byte carries a mark that says whether the template wrote it or it came from the
 * conversation; whatever cuts, joins or rewrites text takes the marks along.  Positions a template sees are
 * characters, positions in here are bytes; strings are valid UTF-8, so no cut falls inside a character. */
#include "config.h" /* _GNU_SOURCE: memmem */
#include "template.h"

#include <string.h>
#include <utf8proc.h>

/* ---- making strings */

const uint8_t *tpl_marks(struct tpl *t, int mark, size_t n)
{
    if (t->n_marks[mark] < n || !t->marks[mark]) {
        size_t size = n < 4096 ? 4096 : n;
        uint8_t *p = tpl_alloc(t, size);
        memset(p, mark, size);
        t->marks[mark] = p;
        t->n_marks[mark] = size;
    }
    return t->marks[mark];
}

struct str *tpl_str(struct tpl *t, const char *p, size_t n, int mark)
{
    struct str *s = tpl_alloc(t, sizeof *s);
    *s = (struct str){.p = p, .mark = tpl_marks(t, mark, n), .n = n, .n_char = SIZE_MAX};
    return s;
}

struct str *tpl_str_copy(struct tpl *t, const char *p, size_t n, int mark)
{
    char *copy = tpl_alloc(t, n);
    if (n)
        memcpy(copy, p, n);
    return tpl_str(t, copy, n, mark);
}

struct val tpl_cstr(struct tpl *t, const char *s) { return tpl_strval(tpl_str(t, s, strlen(s), TPL_TEXT)); }

struct str *tpl_sub(struct tpl *t, const struct str *s, size_t from, size_t to)
{
    struct str *r = tpl_alloc(t, sizeof *r);
    *r = *s;
    if (from == 0 && to == s->n)
        return r;
    r->p += from;
    r->mark += from;
    r->n = to - from;
    r->n_char = s->n_char == s->n ? r->n : SIZE_MAX; /* part of ASCII text */
    return r;
}

const struct str *tpl_intern(struct tpl *t, const char *p, size_t n)
{
    if (!t->names)
        t->names = tpl_dict_new(t);
    struct val key = tpl_strval(tpl_str(t, p, n, TPL_TEXT));
    struct dict_entry *e = tpl_dict_find(t, t->names, key);
    if (e)
        return e->key.u.s;
    tpl_dict_set(t, t->names, key, tpl_none());
    return key.u.s;
}

/* ---- buffers */

struct sbuf *tpl_sbuf(struct tpl *t) { return tpl_alloc(t, sizeof(struct sbuf)); }

static void reserve(struct tpl *t, struct sbuf *b, size_t n)
{
    size_t need;
    if (!size_add(b->n, n, &need) || need > t->mem_max / 2)
        tpl_fail_budget(t, "%zu MiB of memory", t->mem_max >> 20);
    tpl_work(t, n);
    if (need <= b->cap)
        return;
    size_t cap = b->cap ? need + need / 2 : need + 64;
    char *p = tpl_alloc(t, 2 * cap); /* bytes, then marks */
    if (b->n) {
        memcpy(p, b->p, b->n);
        memcpy(p + cap, b->mark, b->n);
    }
    b->p = p;
    b->mark = (uint8_t *)p + cap;
    b->cap = cap;
}

void tpl_put(struct tpl *t, struct sbuf *b, const char *p, size_t n, int mark)
{
    reserve(t, b, n);
    if (!n)
        return;
    memcpy(b->p + b->n, p, n);
    memset(b->mark + b->n, mark, n);
    b->n += n;
}

void tpl_put_c(struct tpl *t, struct sbuf *b, const char *s, int mark) { tpl_put(t, b, s, strlen(s), mark); }

void tpl_put_sub(struct tpl *t, struct sbuf *b, const struct str *s, size_t from, size_t to)
{
    if (from == to)
        return;
    reserve(t, b, to - from);
    memcpy(b->p + b->n, s->p + from, to - from);
    memcpy(b->mark + b->n, s->mark + from, to - from);
    b->n += to - from;
}

void tpl_put_str(struct tpl *t, struct sbuf *b, const struct str *s) { tpl_put_sub(t, b, s, 0, s->n); }

void tpl_put_char(struct tpl *t, struct sbuf *b, uint32_t c, int mark)
{
    char bytes[4];
    tpl_put(t, b, bytes, tpl_char_put(c, bytes), mark);
}

void tpl_put_fill(struct tpl *t, struct sbuf *b, char c, int64_t n, int mark)
{
    if (n <= 0)
        return;
    reserve(t, b, (size_t)n);
    memset(b->p + b->n, c, (size_t)n);
    memset(b->mark + b->n, mark, (size_t)n);
    b->n += (size_t)n;
}

struct str *tpl_sbuf_str(struct tpl *t, struct sbuf *b)
{
    if (!b->n)
        return tpl_str(t, "", 0, TPL_TEXT);
    struct str *s = tpl_alloc(t, sizeof *s);
    *s = (struct str){.p = b->p, .mark = b->mark, .n = b->n, .n_char = SIZE_MAX, .buf = b};
    return s;
}

/* A loop that appends to one string costs what it appends: when a ends where its buffer ends, b is written there. */
struct str *tpl_str_add(struct tpl *t, const struct str *a, const struct str *b)
{
    if (a->safe != b->safe) {
        a = a->safe ? a : tpl_str_escape(t, a);
        b = b->safe ? b : tpl_str_escape(t, b);
    }
    struct str *r = tpl_alloc(t, sizeof *r);
    if (!a->n || !b->n) {
        *r = a->n ? *a : *b;
        return r;
    }
    struct sbuf *buf = a->buf;
    size_t from;
    if (buf && buf->p + buf->n == a->p + a->n) {
        from = (size_t)(a->p - buf->p);
    } else {
        buf = tpl_sbuf(t);
        reserve(t, buf, a->n + b->n);
        tpl_put_str(t, buf, a);
        from = 0;
    }
    tpl_put_str(t, buf, b);
    bool known = a->n_char != SIZE_MAX && b->n_char != SIZE_MAX;
    *r = (struct str){.p = buf->p + from,
                      .mark = buf->mark + from,
                      .n = a->n + b->n,
                      .n_char = known ? a->n_char + b->n_char : SIZE_MAX,
                      .buf = buf,
                      .safe = a->safe};
    return r;
}

struct str *tpl_str_escape(struct tpl *t, const struct str *s)
{
    struct sbuf *b = tpl_sbuf(t);
    for (size_t i = 0; i < s->n; i++) {
        const char *as = NULL;
        switch (s->p[i]) {
        case '&':
            as = "&amp;";
            break;
        case '<':
            as = "&lt;";
            break;
        case '>':
            as = "&gt;";
            break;
        case '\'':
            as = "&#39;";
            break;
        case '"':
            as = "&#34;";
            break;
        }
        if (as)
            tpl_put_c(t, b, as, s->mark[i]);
        else
            tpl_put_sub(t, b, s, i, i + 1);
    }
    struct str *r = tpl_sbuf_str(t, b);
    r->safe = true;
    return r;
}

/* ---- looking at strings */

bool tpl_str_equal(const struct str *a, const struct str *b)
{
    return a->n == b->n && (a->p == b->p || !a->n || memcmp(a->p, b->p, a->n) == 0);
}

bool tpl_str_is(const struct str *s, const char *lit) { return s->n == strlen(lit) && memcmp(s->p, lit, s->n) == 0; }

/* Bytes of UTF-8 sort as their code points do. */
int tpl_str_cmp(const struct str *a, const struct str *b)
{
    size_t n = a->n < b->n ? a->n : b->n;
    int c = n ? memcmp(a->p, b->p, n) : 0;
    if (c == 0)
        return a->n < b->n ? -1 : a->n > b->n;
    return c < 0 ? -1 : 1;
}

size_t tpl_str_chars(struct tpl *t, const struct str *s)
{
    if (s->n_char == SIZE_MAX) {
        size_t n = 0;
        for (size_t i = 0; i < s->n; i++)
            n += (s->p[i] & 0xC0) != 0x80;
        tpl_work(t, s->n);
        ((struct str *)s)->n_char = n; /* a cache: the value is the same whoever asks first */
    }
    return s->n_char;
}

size_t tpl_str_offset(struct tpl *t, const struct str *s, size_t i)
{
    if (i >= tpl_str_chars(t, s))
        return s->n;
    if (s->n_char == s->n)
        return i;
    size_t at = 0;
    while (i--)
        at += (unsigned char)s->p[at] < 0x80 ? 1 : utf8proc_utf8class[(unsigned char)s->p[at]];
    tpl_work(t, 4 * at);
    return at;
}

size_t tpl_str_find(struct tpl *t, const struct str *s, const struct str *what, size_t from)
{
    if (from > s->n || what->n > s->n - from)
        return SIZE_MAX;
    if (!what->n)
        return from;
    const char *hit = memmem(s->p + from, s->n - from, what->p, what->n);
    tpl_work(t, hit ? (size_t)(hit - s->p) - from + what->n : s->n - from);
    return hit ? (size_t)(hit - s->p) : SIZE_MAX;
}

uint32_t tpl_char(const char *p, size_t *n)
{
    const unsigned char *u = (const unsigned char *)p;
    if (u[0] < 0x80) {
        *n = 1;
        return u[0];
    }
    if (u[0] < 0xE0) {
        *n = 2;
        return (u[0] & 0x1Fu) << 6 | (u[1] & 0x3Fu);
    }
    if (u[0] < 0xF0) {
        *n = 3;
        return (u[0] & 0x0Fu) << 12 | (u[1] & 0x3Fu) << 6 | (u[2] & 0x3Fu);
    }
    *n = 4;
    return (u[0] & 0x07u) << 18 | (u[1] & 0x3Fu) << 12 | (u[2] & 0x3Fu) << 6 | (u[3] & 0x3Fu);
}

size_t tpl_char_put(uint32_t c, char out[4])
{
    return (size_t)utf8proc_encode_char((utf8proc_int32_t)c, (utf8proc_uint8_t *)out);
}

/* str.isspace() and \s of Python: White_Space and the four information separators. */
bool tpl_is_space(uint32_t c)
{
    if (c < 0x80)
        return c == ' ' || (c >= 9 && c <= 13) || (c >= 0x1C && c <= 0x1F);
    return c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 ||
           c == 0x202F || c == 0x205F || c == 0x3000;
}

bool tpl_is_line_end(uint32_t c)
{
    return (c >= 10 && c <= 13) || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 || c == 0x2029;
}

/* ---- the common operations */

static bool strips(const struct str *s, size_t at, size_t n, const struct str *chars)
{
    if (!chars) {
        size_t same;
        return tpl_is_space(tpl_char(s->p + at, &same));
    }
    for (size_t i = 0; i < chars->n;) {
        size_t len;
        tpl_char(chars->p + i, &len);
        if (len == n && memcmp(chars->p + i, s->p + at, n) == 0)
            return true;
        i += len;
    }
    return false;
}

/* chars: NULL = white space. */
struct str *tpl_strip(struct tpl *t, const struct str *s, const struct str *chars, enum strip side)
{
    size_t from = 0, to = s->n, n;
    while ((side & STRIP_LEFT) && from < to) {
        tpl_char(s->p + from, &n);
        if (!strips(s, from, n, chars))
            break;
        from += n;
    }
    while ((side & STRIP_RIGHT) && from < to) {
        size_t at = to - 1;
        while ((s->p[at] & 0xC0) == 0x80)
            at--;
        if (!strips(s, at, to - at, chars))
            break;
        to = at;
    }
    tpl_work(t, (s->n - (to - from)) * (chars ? chars->n + 4 : 8));
    return tpl_sub(t, s, from, to);
}

void tpl_put_case(struct tpl *t, struct sbuf *b, const struct str *s, size_t from, size_t to, enum letter_case k)
{
    reserve(t, b, to - from);
    for (size_t i = from, n; i < to; i += n) {
        utf8proc_int32_t c = (utf8proc_int32_t)tpl_char(s->p + i, &n);
        if (c < 0x80) {
            bool other = k == CASE_LOWER ? c >= 'A' && c <= 'Z' : c >= 'a' && c <= 'z';
            reserve(t, b, 1);
            b->mark[b->n] = s->mark[i];
            b->p[b->n++] = (char)(other ? c ^ 0x20 : c);
            continue;
        }
        if (c == 0xDF && k != CASE_LOWER) { /* sharp s has no capital of its own */
            tpl_put_c(t, b, k == CASE_UPPER ? "SS" : "Ss", s->mark[i]);
            continue;
        }
        c = k == CASE_LOWER ? utf8proc_tolower(c) : k == CASE_UPPER ? utf8proc_toupper(c) : utf8proc_totitle(c);
        tpl_put_char(t, b, (uint32_t)c, s->mark[i]);
    }
    tpl_work(t, 8 * (to - from));
}

struct str *tpl_case(struct tpl *t, const struct str *s, enum letter_case k)
{
    struct sbuf *b = tpl_sbuf(t);
    if (k != CASE_TITLE) {
        tpl_put_case(t, b, s, 0, s->n, k);
    } else { /* a letter after a letter is small */
        bool in_word = false;
        for (size_t i = 0, n; i < s->n; i += n) {
            utf8proc_int32_t c = (utf8proc_int32_t)tpl_char(s->p + i, &n);
            tpl_put_case(t, b, s, i, i + n, in_word ? CASE_LOWER : CASE_TITLE);
            in_word = utf8proc_tolower(c) != c || utf8proc_toupper(c) != c;
        }
    }
    struct str *r = tpl_sbuf_str(t, b);
    r->safe = s->safe;
    return r;
}

struct str *tpl_capitalize(struct tpl *t, const struct str *s)
{
    struct sbuf *b = tpl_sbuf(t);
    size_t n = 0;
    if (s->n) {
        tpl_char(s->p, &n);
        tpl_put_case(t, b, s, 0, n, CASE_TITLE);
    }
    tpl_put_case(t, b, s, n, s->n, CASE_LOWER);
    struct str *r = tpl_sbuf_str(t, b);
    r->safe = s->safe;
    return r;
}

/* max < 0: all.  An empty old matches between all characters. */
struct str *tpl_replace(struct tpl *t, const struct str *s, const struct str *old, const struct str *with, int64_t max)
{
    struct sbuf *b = tpl_sbuf(t);
    size_t at = 0, n;
    for (; max != 0; max--) {
        size_t hit = tpl_str_find(t, s, old, at);
        if (hit == SIZE_MAX)
            break;
        tpl_step(t, 1);
        tpl_put_sub(t, b, s, at, hit);
        tpl_put_str(t, b, with);
        at = hit + old->n;
        if (old->n)
            continue;
        if (at == s->n) /* done: nothing is left to copy */
            return tpl_sbuf_str(t, b);
        tpl_char(s->p + at, &n);
        tpl_put_sub(t, b, s, at, at + n);
        at += n;
    }
    tpl_put_sub(t, b, s, at, s->n);
    return tpl_sbuf_str(t, b);
}

struct seq *tpl_split_lines(struct tpl *t, const struct str *s, bool keep_ends)
{
    struct seq *q = tpl_seq_new(t, Q_LIST, 0);
    size_t from = 0;
    for (size_t i = 0, n; i < s->n; i += n) {
        uint32_t c = tpl_char(s->p + i, &n);
        if (!tpl_is_line_end(c))
            continue;
        if (c == '\r' && i + 1 < s->n && s->p[i + 1] == '\n')
            n = 2;
        tpl_seq_push(t, q, tpl_strval(tpl_sub(t, s, from, keep_ends ? i + n : i)));
        from = i + n;
    }
    if (from < s->n)
        tpl_seq_push(t, q, tpl_strval(tpl_sub(t, s, from, s->n)));
    tpl_work(t, s->n);
    return q;
}

/* strict: str.join(), which takes strings only; otherwise the join filter, which takes str() of anything. */
struct str *tpl_join(struct tpl *t, const struct str *sep, struct val items, bool strict)
{
    struct seq *q = tpl_items(t, items);
    struct sbuf *b = tpl_sbuf(t);
    for (size_t i = 0; i < q->n; i++) {
        struct val v = tpl_seq_get(q, i);
        if (strict && v.type != T_STR && !sep->safe)
            tpl_fail(t, "sequence item %zu: expected str instance, %s found", i, tpl_type_name(v));
        tpl_step(t, 1);
        if (i)
            tpl_put_str(t, b, sep);
        const struct str *s = tpl_to_str(t, v);
        tpl_put_str(t, b, strict && sep->safe && !s->safe ? tpl_str_escape(t, s) : s);
    }
    struct str *r = tpl_sbuf_str(t, b);
    r->safe = strict && sep->safe;
    return r;
}
