/* SPDX-License-Identifier: MIT */
/* Chat templates: formatting: "..." % values and "...".format(values).  Both end in struct spec, the common part of the
 * two mini-languages. */
#include "template.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { WIDTH_MAX = 1 << 20, PRECISION_MAX = 350 };

struct spec {
    char fill, align; /* align: one of < > = ^, 0 = the type's own */
    char sign; /* '+', ' ' or '-' */
    bool alt; /* # */
    char group; /* ',' or '_' between thousands, 0: none */
    int width, precision; /* precision -1 = not given */
    char type; /* 0 = the type's own */
    int mark; /* of the padding */
};

/* ---- one value in its field */

/* Text with n_sign bytes of sign and prefix in front. */
static void put_field(struct tpl *t, struct sbuf *b, const struct spec *f, const struct str *s, size_t n_sign,
                      char align)
{
    int64_t pad = f->width - (int64_t)tpl_str_chars(t, s), left = 0;
    if (f->align)
        align = f->align;
    pad = pad < 0 ? 0 : pad;
    if (align == '=') {
        tpl_put_sub(t, b, s, 0, n_sign);
        tpl_put_fill(t, b, f->fill, pad, f->mark);
        tpl_put_sub(t, b, s, n_sign, s->n);
        return;
    }
    left = align == '>' ? pad : align == '^' ? pad / 2 : 0;
    tpl_put_fill(t, b, f->fill, left, f->mark);
    tpl_put_str(t, b, s);
    tpl_put_fill(t, b, f->fill, pad - left, f->mark);
}

static void put_text(struct tpl *t, struct sbuf *b, const struct spec *f, const struct str *s)
{
    if (f->precision >= 0)
        s = tpl_sub(t, s, 0, tpl_str_offset(t, s, (size_t)f->precision));
    put_field(t, b, f, s, 0, '<');
}

/* Digits with a separator after every `every` of them, counted from the right. */
static void put_grouped(struct tpl *t, struct sbuf *b, const char *digits, size_t n, char sep, size_t every)
{
    for (size_t i = 0; i < n; i++) {
        if (i && sep && (n - i) % every == 0)
            tpl_put(t, b, &sep, 1, TPL_TEXT);
        tpl_put(t, b, digits + i, 1, TPL_TEXT);
    }
}

static void put_number(struct tpl *t, struct sbuf *b, const struct spec *f, bool negative, const char *prefix,
                       const char *digits, size_t every)
{
    struct sbuf *text = tpl_sbuf(t);
    if (negative || f->sign == '+' || f->sign == ' ')
        tpl_put(t, text, negative ? "-" : &f->sign, 1, TPL_TEXT);
    tpl_put_c(t, text, prefix, TPL_TEXT);
    size_t n_sign = text->n, whole = strspn(digits, "0123456789abcdefABCDEF");
    if (every == 3)
        whole = strspn(digits, "0123456789");
    put_grouped(t, text, digits, whole, f->group, every);
    tpl_put_c(t, text, digits + whole, TPL_TEXT);
    put_field(t, b, f, tpl_sbuf_str(t, text), n_sign, '>');
}

static void put_int(struct tpl *t, struct sbuf *b, const struct spec *f, int64_t v)
{
    static const char low[] = "0123456789abcdef", high[] = "0123456789ABCDEF";
    char digits[512], prefix[3] = "0x";
    unsigned base = f->type == 'x' || f->type == 'X' ? 16 : f->type == 'o' ? 8 : f->type == 'b' ? 2 : 10;
    uint64_t u = v < 0 ? 0 - (uint64_t)v : (uint64_t)v;
    size_t at = sizeof digits - 1, least = f->precision < 0 ? 1 : (size_t)f->precision;
    digits[at] = '\0';
    for (size_t n = 0; u || n < least; n++) {
        digits[--at] = (f->type == 'X' ? high : low)[u % base];
        u /= base;
    }
    prefix[1] = f->type;
    if (!f->alt || base == 10)
        prefix[0] = '\0';
    put_number(t, b, f, v < 0, prefix, digits + at, base == 10 ? 3 : 4);
}

static void put_float(struct tpl *t, struct sbuf *b, const struct spec *f, double v)
{
    char digits[800], form[8];
    char type = f->type ? f->type : 'g';
    int precision = f->precision < 0 ? 6 : f->precision;
    if (type == '%')
        v *= 100;
    double size = fabs(v);
    if (!f->type && f->precision < 0) {
        tpl_float_repr(size, digits);
    } else if (isinf(v) || isnan(v)) {
        bool upper = type >= 'A' && type <= 'Z';
        strcpy(digits, isnan(v) ? (upper ? "NAN" : "nan") : (upper ? "INF" : "inf"));
    } else {
        snprintf(form, sizeof form, "%%%s.*%c", f->alt ? "#" : "", type == '%' ? 'f' : type == 'n' ? 'g' : type);
        snprintf(digits, sizeof digits - 1, form, type == 'g' && precision == 0 ? 1 : precision, size);
        if (!f->type && !strpbrk(digits, ".e")) /* a plain precision keeps a float's look */
            strcat(digits, ".0");
    }
    if (type == '%')
        strcat(digits, "%");
    put_number(t, b, f, signbit(v) && !isnan(v), "", digits, 3);
}

/* A character given by itself or by its number, which may come from the conversation. */
static struct str *char_text(struct tpl *t, struct val v)
{
    if (v.type == T_STR && tpl_str_chars(t, v.u.s) == 1)
        return v.u.s;
    if (v.type != T_INT || v.u.i < 0 || v.u.i > 0x10FFFF || (v.u.i >= 0xD800 && v.u.i < 0xE000))
        tpl_fail(t, "%%c requires int or char");
    struct sbuf *text = tpl_sbuf(t);
    tpl_put_char(t, text, (uint32_t)v.u.i, TPL_DATA);
    return tpl_sbuf_str(t, text);
}

static void check_sizes(struct tpl *t, const struct spec *f)
{
    if (f->width > WIDTH_MAX || f->precision > PRECISION_MAX)
        tpl_fail(t, "format: width or precision too large");
}

static int read_number(const struct str *s, size_t *at)
{
    int v = 0;
    for (; *at < s->n && s->p[*at] >= '0' && s->p[*at] <= '9'; ++*at)
        v = v > WIDTH_MAX ? v : v * 10 + (s->p[*at] - '0');
    return v;
}

/* ---- the % operator */

struct percent {
    struct tpl *t;
    const struct str *fmt;
    size_t at;
    struct val args;
    size_t used; /* values of a tuple taken */
    bool mapped; /* %(key)s occurred */
};

static struct val next_value(struct percent *p)
{
    bool tuple = p->args.type == T_SEQ && (p->args.u.q->kind == Q_TUPLE || p->args.u.q->kind == Q_GROUP);
    if (p->used >= (tuple ? p->args.u.q->n : 1))
        tpl_fail(p->t, "not enough arguments for format string");
    return tuple ? p->args.u.q->v[p->used++] : (p->used++, p->args);
}

static bool next_is(const struct percent *p, char c) { return p->at < p->fmt->n && p->fmt->p[p->at] == c; }

/* The flags, width and precision behind a '%'. */
static struct spec read_percent(struct percent *p)
{
    struct spec f = {.fill = ' ', .sign = '-', .precision = -1, .mark = p->fmt->mark[p->at - 1]};
    bool left = false, zero = false;
    for (;; p->at++) {
        if (next_is(p, '-'))
            left = true;
        else if (next_is(p, '0'))
            zero = true;
        else if (next_is(p, '#'))
            f.alt = true;
        else if (next_is(p, '+'))
            f.sign = '+';
        else if (next_is(p, ' '))
            f.sign = f.sign == '+' ? '+' : ' ';
        else
            break;
    }
    for (int i = 0; i < 2; i++) {
        if (i == 1 && !next_is(p, '.'))
            break;
        p->at += i == 1;
        int64_t v;
        if (next_is(p, '*')) {
            p->at++;
            v = tpl_as_int(p->t, next_value(p), "format width");
            left |= i == 0 && v < 0;
            v = v < 0 ? -v : v;
        } else {
            v = read_number(p->fmt, &p->at);
        }
        *(i ? &f.precision : &f.width) = v > WIDTH_MAX || v < 0 ? WIDTH_MAX + 1 : (int)v;
    }
    f.align = left ? '<' : zero ? '=' : '>';
    f.fill = zero && !left ? '0' : ' ';
    check_sizes(p->t, &f);
    return f;
}

static void put_percent_value(struct percent *p, struct sbuf *b, struct spec *f, struct val v)
{
    struct tpl *t = p->t;
    struct sbuf *text;
    switch (f->type) {
    case 's':
    case 'r':
    case 'a':
        f->align = f->align == '<' ? '<' : '>';
        f->fill = ' ';
        text = tpl_sbuf(t);
        if (f->type == 's')
            tpl_put_str(t, text, p->fmt->safe ? tpl_str_escape(t, tpl_to_str(t, v)) : tpl_to_str(t, v));
        else
            tpl_put_repr(t, text, v);
        put_text(t, b, f, tpl_sbuf_str(t, text));
        return;
    case 'c':
        put_field(t, b, f, char_text(t, v), 0, '>');
        return;
    case 'd':
    case 'i':
    case 'u':
    case 'o':
    case 'x':
    case 'X':
        if (v.type == T_FLOAT && strchr("diu", f->type) && fabs(v.u.f) < 0x1p63)
            v = tpl_int((int64_t)v.u.f);
        if (v.type != T_INT && v.type != T_BOOL)
            tpl_fail(t, "%%%c format: a number is required, not %s", f->type, tpl_type_name(v));
        put_int(t, b, f, v.u.i);
        return;
    case 'e':
    case 'E':
    case 'f':
    case 'F':
    case 'g':
    case 'G':
        if (!tpl_is_number(v))
            tpl_fail(t, "must be real number, not %s", tpl_type_name(v));
        put_float(t, b, f, tpl_as_double(v));
        return;
    default:
        tpl_fail(t, "unsupported format character '%c'", f->type);
    }
}

struct str *tpl_percent(struct tpl *t, const struct str *fmt, struct val args)
{
    struct percent p = {.t = t, .fmt = fmt, .args = args};
    struct sbuf *b = tpl_sbuf(t);
    while (p.at < fmt->n) {
        const char *hit = memchr(fmt->p + p.at, '%', fmt->n - p.at);
        size_t to = hit ? (size_t)(hit - fmt->p) : fmt->n;
        tpl_put_sub(t, b, fmt, p.at, to);
        p.at = to + 1;
        if (!hit)
            break;
        tpl_step(t, 1);
        bool keyed = next_is(&p, '(');
        struct val v = {.type = T_MISSING};
        if (keyed) {
            size_t from = ++p.at, depth = 1;
            for (; p.at < fmt->n; p.at++) {
                depth += fmt->p[p.at] == '(' ? 1 : fmt->p[p.at] == ')' ? -1 : 0;
                if (!depth)
                    break;
            }
            if (p.at >= fmt->n)
                tpl_fail(t, "incomplete format key");
            if (args.type != T_DICT)
                tpl_fail(t, "format requires a mapping");
            struct dict_entry *e = tpl_dict_find(t, args.u.d, tpl_strval(tpl_sub(t, fmt, from, p.at++)));
            if (!e)
                tpl_fail(t, "format: the mapping has no such key");
            v = e->val;
            p.mapped = true;
        }
        struct spec f = read_percent(&p);
        if (p.at >= fmt->n)
            tpl_fail(t, "incomplete format");
        f.type = fmt->p[p.at++];
        if (f.type == '%')
            tpl_put_sub(t, b, fmt, p.at - 1, p.at);
        else
            put_percent_value(&p, b, &f, keyed ? v : next_value(&p));
    }
    bool tuple = args.type == T_SEQ && (args.u.q->kind == Q_TUPLE || args.u.q->kind == Q_GROUP);
    bool may_ignore = args.type == T_DICT || args.type == T_UNDEFINED || /* Python: what has __getitem__ */
                      (args.type == T_SEQ && (args.u.q->kind == Q_LIST || args.u.q->kind == Q_RANGE));
    if (!p.mapped && !may_ignore && p.used < (tuple ? args.u.q->n : 1))
        tpl_fail(t, "not all arguments converted during string formatting");
    struct str *r = tpl_sbuf_str(t, b);
    r->safe = fmt->safe;
    return r;
}

/* ---- str.format */

struct formatter {
    struct tpl *t;
    const struct str *fmt;
    struct call *c;
    int64_t automatic; /* the next {} */
};

/* Attributes and items behind the first name of a field: ".name", "[key]". */
static struct val follow(struct formatter *m, struct val v, const struct str *path, size_t at)
{
    struct tpl *t = m->t;
    while (at < path->n) {
        char open = path->p[at++];
        size_t from = at;
        while (at < path->n && (open == '.' ? path->p[at] != '.' && path->p[at] != '[' : path->p[at] != ']'))
            at++;
        if ((open != '.' && open != '[') || at == from || (open == '[' && at == path->n))
            tpl_fail(t, "format: malformed field name");
        struct str *name = tpl_sub(t, path, from, at);
        if (open == '.') {
            v = tpl_getattr(t, v, name);
        } else {
            size_t digits = 0;
            int index = read_number(name, &digits);
            v = tpl_getitem(t, v, digits == name->n ? tpl_int(index) : tpl_strval(name));
            at++;
        }
    }
    return v;
}

static struct val field_value(struct formatter *m, const struct str *path)
{
    struct tpl *t = m->t;
    size_t end = 0, at = 0;
    while (end < path->n && path->p[end] != '.' && path->p[end] != '[')
        end++;
    int64_t index = read_number(path, &at);
    struct val v;
    if (end == 0 || at == end) {
        if (end == 0 ? m->automatic < 0 : m->automatic > 0)
            tpl_fail(t, "format: cannot mix automatic and numbered fields");
        if (end == 0)
            index = m->automatic++;
        else
            m->automatic = -1;
        if (index >= (int64_t)m->c->n_pos)
            tpl_fail(t, "Replacement index %lld out of range for positional args tuple", (long long)index);
        v = m->c->pos[index];
    } else {
        struct val key = tpl_strval(tpl_sub(t, path, 0, end));
        struct dict_entry *e = m->c->kw ? tpl_dict_find(t, m->c->kw, key) : NULL;
        if (!e)
            tpl_fail(t, "format: no argument '%.*s'", end < 80 ? (int)end : 80, path->p);
        v = e->val;
    }
    return follow(m, v, path, end);
}

static struct spec read_spec(struct tpl *t, const struct str *s)
{
    struct spec f = {.fill = ' ', .sign = '-', .precision = -1, .mark = TPL_TEXT};
    size_t at = 0;
    if (s->n >= 2 && strchr("<>=^", s->p[1])) {
        f.fill = s->p[0];
        f.align = s->p[1];
        f.mark = s->mark[0];
        at = 2;
    } else if (s->n && strchr("<>=^", s->p[0])) {
        f.align = s->p[at++];
    }
    if (at < s->n && strchr("+- ", s->p[at]))
        f.sign = s->p[at++];
    if (at < s->n && s->p[at] == '#') {
        f.alt = true;
        at++;
    }
    if (at < s->n && s->p[at] == '0') {
        if (!f.align) {
            f.fill = '0';
            f.align = '=';
        }
        at++;
    }
    f.width = read_number(s, &at);
    if (at < s->n && (s->p[at] == ',' || s->p[at] == '_'))
        f.group = s->p[at++];
    if (at < s->n && s->p[at] == '.') {
        at++;
        f.precision = read_number(s, &at);
    }
    if (at < s->n)
        f.type = s->p[at++];
    if (at < s->n || (unsigned char)f.fill >= 0x80)
        tpl_fail(t, "Invalid format specifier");
    check_sizes(t, &f);
    return f;
}

static void put_formatted(struct tpl *t, struct sbuf *b, const struct str *spec, struct val v)
{
    struct spec f = read_spec(t, spec);
    if (v.type == T_STR && (!f.type || f.type == 's')) {
        put_text(t, b, &f, v.u.s);
    } else if (v.type == T_FLOAT || (tpl_is_number(v) && f.type && strchr("eEfFgG%", f.type))) {
        if (f.type && !strchr("eEfFgGn%", f.type))
            tpl_fail(t, "Unknown format code '%c' for object of type 'float'", f.type);
        put_float(t, b, &f, tpl_as_double(v));
    } else if (v.type == T_INT && f.type == 'c') {
        put_text(t, b, &f, char_text(t, v));
    } else if (tpl_is_number(v) && f.type && strchr("dboxXn", f.type)) {
        f.precision = -1;
        put_int(t, b, &f, v.u.i);
    } else if (v.type == T_INT && !f.type) {
        put_int(t, b, &f, v.u.i);
    } else if (!spec->n) {
        tpl_put_str(t, b, tpl_to_str(t, v));
    } else if (v.type == T_BOOL && !f.type) {
        put_text(t, b, &f, tpl_to_str(t, v));
    } else {
        tpl_fail(t, "unsupported format for %s", tpl_type_name(v));
    }
}

/* The replacement field whose '{' is at `at`; returns the position behind its '}'. */
static size_t put_replacement(struct formatter *m, struct sbuf *b, const struct str *fmt, size_t at)
{
    struct tpl *t = m->t;
    size_t from = ++at, depth = 1, colon = 0, bang = 0;
    for (; at < fmt->n; at++) {
        char c = fmt->p[at];
        depth += c == '{' ? 1 : c == '}' ? -1 : 0;
        if (!depth)
            break;
        if (c == ':' && !colon && depth == 1)
            colon = at;
        if (c == '!' && !colon && !bang && depth == 1)
            bang = at;
    }
    if (at >= fmt->n)
        tpl_fail(t, "Single '{' encountered in format string");
    size_t name_end = bang ? bang : colon ? colon : at;
    struct val v = field_value(m, tpl_sub(t, fmt, from, name_end));
    if (bang) {
        char how = bang + 1 < fmt->n ? fmt->p[bang + 1] : 0;
        struct sbuf *text = tpl_sbuf(t);
        if (how == 's')
            tpl_put_str(t, text, tpl_to_str(t, v));
        else if (how == 'r' || how == 'a')
            tpl_put_repr(t, text, v);
        else
            tpl_fail(t, "format: unknown conversion");
        v = tpl_strval(tpl_sbuf_str(t, text));
    }
    const struct str *spec = colon ? tpl_sub(t, fmt, colon + 1, at) : tpl_sub(t, fmt, at, at);
    if (memchr(fmt->p + from, '{', at - from)) { /* fields inside the specifier */
        struct sbuf *inner = tpl_sbuf(t);
        tpl_enter(t);
        for (size_t i = 0; i < spec->n;) {
            if (spec->p[i] == '{') {
                i = put_replacement(m, inner, spec, i);
            } else {
                tpl_put_sub(t, inner, spec, i, i + 1);
                i++;
            }
        }
        tpl_leave(t);
        spec = tpl_sbuf_str(t, inner);
    }
    if (fmt->safe && v.type == T_STR && !v.u.s->safe)
        v = tpl_strval(tpl_str_escape(t, v.u.s));
    put_formatted(t, b, spec, v);
    return at + 1;
}

struct val tpl_str_format(struct tpl *t, struct call *c)
{
    const struct str *fmt = c->self.u.s;
    struct formatter m = {.t = t, .fmt = fmt, .c = c};
    struct sbuf *b = tpl_sbuf(t);
    for (size_t at = 0; at < fmt->n;) {
        char ch = fmt->p[at];
        tpl_step(t, 1);
        if ((ch == '{' || ch == '}') && at + 1 < fmt->n && fmt->p[at + 1] == ch) {
            tpl_put_sub(t, b, fmt, at, at + 1);
            at += 2;
        } else if (ch == '{') {
            at = put_replacement(&m, b, fmt, at);
        } else if (ch == '}') {
            tpl_fail(t, "Single '}' encountered in format string");
        } else {
            tpl_put_sub(t, b, fmt, at, at + 1);
            at++;
        }
    }
    struct str *r = tpl_sbuf_str(t, b);
    r->safe = fmt->safe;
    return tpl_strval(r);
}
