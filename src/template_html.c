/* SPDX-License-Identifier: MIT */
/* Chat templates: the filters that Jinja has for web pages: escaping, tags, addresses, wrapped text.  Chat templates
 * seldom use any but |safe. */
#include "template.h"

#include <string.h>

static struct val filter_safe(struct tpl *t, struct call *c)
{
    const struct str *s = tpl_to_str(t, c->self);
    struct str *r = tpl_sub(t, s, 0, s->n);
    r->safe = true;
    return tpl_strval(r);
}

static struct val filter_escape(struct tpl *t, struct call *c)
{
    struct str *s = tpl_to_str(t, c->self);
    return tpl_strval(s->safe ? s : tpl_str_escape(t, s));
}

static struct val filter_forceescape(struct tpl *t, struct call *c)
{
    return tpl_strval(tpl_str_escape(t, tpl_to_str(t, c->self)));
}

static void put_quoted(struct tpl *t, struct sbuf *b, const struct str *s, bool query)
{
    static const char hex[] = "0123456789ABCDEF";
    for (size_t i = 0; i < s->n; i++) {
        unsigned char ch = (unsigned char)s->p[i];
        bool plain = (ch >= 'a' && ch <= 'z') || (ch >= 'A' && ch <= 'Z') || (ch >= '0' && ch <= '9') ||
                     (ch && strchr("_.-~", ch)) || (ch == '/' && !query);
        char code[3] = {'%', hex[ch >> 4], hex[ch & 15]};
        if (plain)
            tpl_put_sub(t, b, s, i, i + 1);
        else if (query && ch == ' ')
            tpl_put(t, b, "+", 1, s->mark[i]);
        else
            tpl_put(t, b, code, 3, s->mark[i]);
    }
}

static struct val filter_urlencode(struct tpl *t, struct call *c)
{
    struct sbuf *b = tpl_sbuf(t);
    if (c->self.type == T_STR || !tpl_iterable(c->self)) {
        put_quoted(t, b, tpl_to_str(t, c->self), false);
        return tpl_strval(tpl_sbuf_str(t, b));
    }
    struct seq *q = c->self.type == T_DICT ? tpl_dict_view(t, c->self.u.d, Q_ITEMS) : tpl_items(t, c->self);
    for (size_t i = 0; i < q->n; i++) {
        struct seq *pair = tpl_items(t, tpl_seq_get(q, i));
        if (pair->n != 2)
            tpl_fail(t, "urlencode: item %zu is not a pair", i);
        if (i)
            tpl_put_c(t, b, "&", TPL_TEXT);
        put_quoted(t, b, tpl_to_str(t, tpl_seq_get(pair, 0)), true);
        tpl_put_c(t, b, "=", TPL_TEXT);
        put_quoted(t, b, tpl_to_str(t, tpl_seq_get(pair, 1)), true);
    }
    return tpl_strval(tpl_sbuf_str(t, b));
}

static struct val filter_xmlattr(struct tpl *t, struct call *c)
{
    if (c->self.type != T_DICT)
        tpl_fail(t, "xmlattr: '%s' is not a mapping", tpl_type_name(c->self));
    struct sbuf *b = tpl_sbuf(t);
    for (size_t i = 0; i < c->self.u.d->n; i++) {
        struct val v = c->self.u.d->e[i].val;
        const struct str *key = tpl_to_str(t, c->self.u.d->e[i].key), *text = tpl_to_str(t, v);
        if (v.type == T_NONE || v.type == T_UNDEFINED)
            continue;
        for (size_t k = 0; k < key->n; k++)
            if (key->p[k] && strchr(" \t\n\r\f\v/>=", key->p[k]))
                tpl_fail(t, "xmlattr: invalid character in attribute name");
        if (b->n || c->arg[0].type == T_MISSING || tpl_truth(t, c->arg[0]))
            tpl_put_c(t, b, " ", TPL_TEXT);
        tpl_put_str(t, b, key->safe ? key : tpl_str_escape(t, key));
        tpl_put_c(t, b, "=\"", TPL_TEXT);
        tpl_put_str(t, b, text->safe ? text : tpl_str_escape(t, text));
        tpl_put_c(t, b, "\"", TPL_TEXT);
    }
    return tpl_strval(tpl_sbuf_str(t, b));
}

/* ---- striptags */

/* s without what stands from `open` to the next `close`, both included. */
static const struct str *cut_all(struct tpl *t, const struct str *s, const char *open, const char *close)
{
    const struct str *from = tpl_cstr(t, open).u.s, *to = tpl_cstr(t, close).u.s;
    struct sbuf *b = tpl_sbuf(t);
    size_t at = 0;
    for (;;) {
        size_t start = tpl_str_find(t, s, from, at), end = start == SIZE_MAX ? start : tpl_str_find(t, s, to, start);
        if (end == SIZE_MAX)
            break;
        tpl_put_sub(t, b, s, at, start);
        at = end + to->n;
    }
    tpl_put_sub(t, b, s, at, s->n);
    return tpl_sbuf_str(t, b);
}

/* The character an entity at s->p[at] stands for, 0 if none; *end = behind it. */
static uint32_t entity(const struct str *s, size_t at, size_t *end)
{
    static const struct {
        const char *name;
        uint32_t c;
    } names[] = {{"&amp;", '&'}, {"&lt;", '<'}, {"&gt;", '>'}, {"&quot;", '"'}, {"&apos;", '\''}, {"&nbsp;", 0xA0}};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        size_t n = strlen(names[i].name);
        *end = at + n;
        if (s->n - at >= n && memcmp(s->p + at, names[i].name, n) == 0)
            return names[i].c;
    }
    if (s->n - at < 4 || s->p[at + 1] != '#')
        return 0;
    bool hex = (s->p[at + 2] | 32) == 'x';
    uint32_t v = 0;
    size_t i = at + 2 + hex, from = i;
    for (; i < s->n && v < 0x110000; i++) {
        char ch = s->p[i];
        int d = ch >= '0' && ch <= '9'                        ? ch - '0'
                : hex && (ch | 32) >= 'a' && (ch | 32) <= 'f' ? (ch | 32) - 'a' + 10
                                                              : -1;
        if (d < 0)
            break;
        v = v * (hex ? 16 : 10) + (uint32_t)d;
    }
    *end = i + 1;
    bool fine = i > from && i < s->n && s->p[i] == ';' && v < 0x110000 && !(v >= 0xD800 && v < 0xE000);
    return fine ? v : 0;
}

static struct val filter_striptags(struct tpl *t, struct call *c)
{
    const struct str *s = cut_all(t, cut_all(t, tpl_to_str(t, c->self), "<!--", "-->"), "<", ">");
    struct sbuf *b = tpl_sbuf(t);
    bool space = false;
    for (size_t i = 0, n; i < s->n; i += n) {
        uint32_t ch = tpl_char(s->p + i, &n), meant;
        size_t end;
        if (tpl_is_space(ch)) {
            space = true;
            continue;
        }
        if (space && b->n)
            tpl_put_c(t, b, " ", TPL_TEXT);
        space = false;
        meant = ch == '&' ? entity(s, i, &end) : 0;
        if (meant) {
            tpl_put_char(t, b, meant, s->mark[i]);
            n = end - i;
        } else {
            tpl_put_sub(t, b, s, i, i + n);
        }
    }
    return tpl_strval(tpl_sbuf_str(t, b));
}

const struct builtin tpl_html_filters[] = {
    {"e", "", filter_escape},
    {"escape", "", filter_escape},
    {"forceescape", "", filter_forceescape},
    {"safe", "", filter_safe},
    {"striptags", "", filter_striptags},
    {"urlencode", "", filter_urlencode},
    {"wordwrap", "width? break_long_words? wrapstring? break_on_hyphens?", tpl_wordwrap},
    {"xmlattr", "autospace?", filter_xmlattr},
    {NULL, NULL, NULL}};
