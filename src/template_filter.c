/* SPDX-License-Identifier: MIT */
/* Chat templates: filters of text and single values, and the table of all filters; those of rows and dictionaries are
 * in template_list.c, the HTML ones in template_html.c. */
#include "template.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

/* The piped value as text, the way most filters take it. */
static struct str *text_of(struct tpl *t, const struct call *c) { return tpl_to_str(t, c->self); }

static int64_t int_arg(struct tpl *t, struct val v, int64_t absent, const char *what)
{
    return v.type == T_MISSING || v.type == T_NONE ? absent : tpl_as_int(t, v, what);
}

static const struct str *need_str(struct tpl *t, struct val v, const char *what)
{
    if (v.type == T_UNDEFINED)
        tpl_fail_undef(t, v);
    if (v.type != T_STR)
        tpl_fail(t, "%s: '%s' is not a string", what, tpl_type_name(v));
    return v.u.s;
}

/* ---- case, padding, cutting */

static struct val filter_lower(struct tpl *t, struct call *c)
{
    return tpl_strval(tpl_case(t, text_of(t, c), CASE_LOWER));
}
static struct val filter_upper(struct tpl *t, struct call *c)
{
    return tpl_strval(tpl_case(t, text_of(t, c), CASE_UPPER));
}
static struct val filter_capitalize(struct tpl *t, struct call *c)
{
    return tpl_strval(tpl_capitalize(t, text_of(t, c)));
}
static struct val filter_string(struct tpl *t, struct call *c) { return tpl_strval(text_of(t, c)); }

/* Words begin behind space and opening brackets, unlike str.title(). */
static struct val filter_title(struct tpl *t, struct call *c)
{
    const struct str *s = text_of(t, c);
    struct sbuf *b = tpl_sbuf(t);
    bool start = true;
    for (size_t i = 0, n; i < s->n; i += n) {
        uint32_t ch = tpl_char(s->p + i, &n);
        bool opens = tpl_is_space(ch) || ch == '-' || ch == '(' || ch == '{' || ch == '[' || ch == '<';
        tpl_put_case(t, b, s, i, i + n, start ? CASE_UPPER : CASE_LOWER);
        start = opens;
    }
    return tpl_strval(tpl_sbuf_str(t, b));
}

static struct val filter_center(struct tpl *t, struct call *c)
{
    const struct str *s = text_of(t, c);
    int64_t width = int_arg(t, c->arg[0], 80, "center"), pad = width - (int64_t)tpl_str_chars(t, s);
    if (pad <= 0)
        return tpl_strval((struct str *)s);
    struct sbuf *b = tpl_sbuf(t);
    int64_t left = pad / 2 + (pad & width & 1);
    tpl_put_fill(t, b, ' ', left, TPL_TEXT);
    tpl_put_str(t, b, s);
    tpl_put_fill(t, b, ' ', pad - left, TPL_TEXT);
    return tpl_strval(tpl_sbuf_str(t, b));
}

static struct val filter_trim(struct tpl *t, struct call *c)
{
    const struct str *chars = NULL;
    if (c->arg[0].type != T_MISSING && c->arg[0].type != T_NONE)
        chars = need_str(t, c->arg[0], "trim");
    return tpl_strval(tpl_strip(t, text_of(t, c), chars, STRIP_BOTH));
}

static struct val filter_replace(struct tpl *t, struct call *c)
{
    return tpl_strval(tpl_replace(t, text_of(t, c), tpl_to_str(t, c->arg[0]), tpl_to_str(t, c->arg[1]),
                                  int_arg(t, c->arg[2], -1, "replace")));
}

static struct val filter_indent(struct tpl *t, struct call *c)
{
    const struct str *s = need_str(t, c->self, "indent");
    struct sbuf *pad = tpl_sbuf(t), *b = tpl_sbuf(t), *ended = tpl_sbuf(t);
    if (c->arg[0].type == T_STR)
        tpl_put_str(t, pad, c->arg[0].u.s);
    else
        tpl_put_fill(t, pad, ' ', int_arg(t, c->arg[0], 4, "indent"), TPL_TEXT);
    bool first = tpl_truth(t, c->arg[1]), blank = tpl_truth(t, c->arg[2]);
    tpl_put_str(t, ended, s); /* a last line that is empty counts */
    tpl_put_c(t, ended, "\n", TPL_TEXT);
    struct seq *lines = tpl_split_lines(t, tpl_sbuf_str(t, ended), false);
    const struct str *indent = tpl_sbuf_str(t, pad);
    for (size_t i = 0; i < lines->n; i++) {
        const struct str *line = lines->v[i].u.s;
        if (i)
            tpl_put_c(t, b, "\n", TPL_TEXT);
        if (i ? blank || line->n : first)
            tpl_put_str(t, b, indent);
        tpl_put_str(t, b, line);
    }
    return tpl_strval(tpl_sbuf_str(t, b));
}

static struct val filter_truncate(struct tpl *t, struct call *c)
{
    const struct str *end = c->arg[2].type == T_MISSING ? tpl_cstr(t, "...").u.s : need_str(t, c->arg[2], "truncate");
    int64_t length = int_arg(t, c->arg[0], 255, "truncate"), leeway = int_arg(t, c->arg[3], 5, "truncate");
    int64_t keep = length - (int64_t)tpl_str_chars(t, end);
    if (keep < 0 || leeway < 0)
        tpl_fail(t, "truncate: length shorter than its end, or leeway below zero");
    if (leeway > INT64_MAX - length || (int64_t)tpl_length(t, c->self) <= length + leeway)
        return c->self;
    const struct str *s = need_str(t, c->self, "truncate");
    size_t to = tpl_str_offset(t, s, (size_t)keep);
    if (!tpl_truth(t, c->arg[1])) {
        size_t space = to;
        while (space && s->p[space - 1] != ' ')
            space--;
        if (space)
            to = space - 1;
    }
    return tpl_strval(tpl_str_add(t, tpl_sub(t, s, 0, to), end));
}

static struct val filter_wordcount(struct tpl *t, struct call *c)
{
    const struct str *s = text_of(t, c);
    int64_t words = 0;
    bool inside = false;
    for (size_t i = 0, n; i < s->n; i += n) {
        uint32_t ch = tpl_char(s->p + i, &n);
        utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)ch);
        bool word = ch == '_' || (k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_LO) ||
                    (k >= UTF8PROC_CATEGORY_ND && k <= UTF8PROC_CATEGORY_NO);
        words += word && !inside;
        inside = word;
    }
    tpl_work(t, 8 * s->n);
    return tpl_int(words);
}

static struct val filter_format(struct tpl *t, struct call *c)
{
    if (c->kw && c->kw->n && c->n_pos)
        tpl_fail(t, "format: positional and keyword arguments at the same time");
    if (c->kw && c->kw->n)
        return tpl_strval(tpl_percent(t, text_of(t, c), tpl_dictval(c->kw)));
    struct seq *args = tpl_seq_new(t, Q_TUPLE, c->n_pos);
    for (size_t i = 0; i < c->n_pos; i++)
        tpl_seq_push(t, args, c->pos[i]);
    return tpl_strval(tpl_percent(t, text_of(t, c), tpl_seqval(args)));
}

/* ---- numbers */

static struct val filter_abs(struct tpl *t, struct call *c)
{
    if (c->self.type == T_UNDEFINED)
        tpl_fail_undef(t, c->self);
    if (!tpl_is_number(c->self))
        tpl_fail(t, "bad operand type for abs(): '%s'", tpl_type_name(c->self));
    if (c->self.type == T_FLOAT)
        return tpl_float(fabs(c->self.u.f));
    if (c->self.u.i == INT64_MIN)
        tpl_fail(t, "integer beyond 64 bits in abs");
    return tpl_int(c->self.u.i < 0 ? -c->self.u.i : c->self.u.i);
}

/* Text without white space around it and underscores between digits, NUL-terminated; NULL: no number looks like it. */
static char *number_text(struct tpl *t, const struct str *s)
{
    s = tpl_strip(t, s, NULL, STRIP_BOTH);
    char *p = tpl_alloc(t, s->n + 1);
    size_t n = 0;
    for (size_t i = 0; i < s->n; i++) {
        if (s->p[i] == '_' && i && i + 1 < s->n && s->p[i - 1] != '_' && s->p[i + 1] != '_')
            continue;
        if (s->p[i] == '_' || !s->p[i])
            return NULL;
        p[n++] = s->p[i];
    }
    return n ? p : NULL;
}

static bool parse_int(struct tpl *t, const struct str *s, int64_t base, int64_t *out)
{
    const char *p = number_text(t, s);
    if (!p || base < 0 || base == 1 || base > 36)
        return false;
    bool negative = *p == '-';
    p += *p == '-' || *p == '+';
    char kind = p[0] == '0' ? (char)(p[1] | 32) : 0;
    int prefix = kind == 'x' ? 16 : kind == 'o' ? 8 : kind == 'b' ? 2 : 0;
    if (prefix && (base == 0 || base == prefix)) {
        p += 2;
        base = prefix;
    } else if (base == 0) {
        base = 10;
        if (p[0] == '0' && strspn(p, "0") != strlen(p))
            return false;
    }
    int64_t v = 0;
    if (!*p)
        return false;
    for (; *p; p++) {
        int d = *p >= '0' && *p <= '9' ? *p - '0' : (*p | 32) >= 'a' && (*p | 32) <= 'z' ? (*p | 32) - 'a' + 10 : 99;
        if (d >= base)
            return false;
        if (__builtin_mul_overflow(v, base, &v) || __builtin_sub_overflow(v, d, &v))
            tpl_fail(t, "integer beyond 64 bits");
    }
    if (!negative && v == INT64_MIN)
        tpl_fail(t, "integer beyond 64 bits");
    *out = negative ? v : -v;
    return true;
}

static bool parse_float(struct tpl *t, const struct str *s, double *out)
{
    char *p = number_text(t, s), *end;
    if (!p || strpbrk(p, "xXpP(")) /* strtod knows more than Python */
        return false;
    *out = strtod(p, &end);
    return !*end;
}

static struct val filter_int(struct tpl *t, struct call *c)
{
    struct val absent = c->arg[0].type == T_MISSING ? tpl_int(0) : c->arg[0];
    int64_t base = int_arg(t, c->arg[1], 10, "int"), i;
    double f = 0;
    bool number = false;
    if (c->self.type == T_UNDEFINED)
        tpl_fail_undef(t, c->self);
    if (c->self.type == T_INT || c->self.type == T_BOOL)
        return tpl_int(c->self.u.i);
    if (c->self.type == T_STR && parse_int(t, c->self.u.s, base, &i))
        return tpl_int(i);
    if (c->self.type == T_STR) {
        number = parse_float(t, c->self.u.s, &f) && isfinite(f);
    } else if (c->self.type == T_FLOAT) {
        f = c->self.u.f;
        if (isinf(f))
            tpl_fail(t, "cannot convert float infinity to integer");
        number = !isnan(f);
    }
    if (number && fabs(f) >= 0x1p63)
        tpl_fail(t, "integer beyond 64 bits");
    return number ? tpl_int((int64_t)f) : absent;
}

static struct val filter_float(struct tpl *t, struct call *c)
{
    double f;
    if (c->self.type == T_UNDEFINED)
        tpl_fail_undef(t, c->self);
    if (tpl_is_number(c->self))
        return tpl_float(tpl_as_double(c->self));
    if (c->self.type == T_STR && parse_float(t, c->self.u.s, &f))
        return tpl_float(f);
    return c->arg[0].type == T_MISSING ? tpl_float(0) : c->arg[0];
}

static double round_half_even(double v, int64_t precision)
{
    char text[800];
    if (!isfinite(v) || precision > 340)
        return v;
    if (precision >= 0) { /* by the exact decimal value, as Python does */
        snprintf(text, sizeof text, "%.*f", (int)precision, v);
        return strtod(text, NULL);
    }
    double unit = pow(10, (double)-precision);
    return precision < -308 ? 0 * v : nearbyint(v / unit) * unit;
}

static struct val filter_round(struct tpl *t, struct call *c)
{
    int64_t precision = int_arg(t, c->arg[0], 0, "round");
    const struct str *method =
        c->arg[1].type == T_MISSING ? tpl_cstr(t, "common").u.s : need_str(t, c->arg[1], "round");
    if (c->self.type == T_UNDEFINED)
        tpl_fail_undef(t, c->self);
    if (!tpl_is_number(c->self))
        tpl_fail(t, "round: '%s' is not a number", tpl_type_name(c->self));
    double v = tpl_as_double(c->self);
    if (tpl_str_is(method, "common")) {
        if (c->self.type == T_FLOAT)
            return tpl_float(round_half_even(v, precision));
        v = precision < 0 ? round_half_even(v, precision) : 0;
        if (fabs(v) >= 0x1p63)
            tpl_fail(t, "integer beyond 64 bits in round");
        return tpl_int(precision >= 0 ? c->self.u.i : (int64_t)v);
    }
    double unit = pow(10, (double)precision);
    if (tpl_str_is(method, "ceil"))
        return tpl_float(ceil(v * unit) / unit);
    if (tpl_str_is(method, "floor"))
        return tpl_float(floor(v * unit) / unit);
    tpl_fail(t, "round: method must be common, ceil or floor");
}

static struct val filter_filesizeformat(struct tpl *t, struct call *c)
{
    static const char *const units = "kMGTPEZY";
    bool binary = tpl_truth(t, c->arg[0]);
    double base = binary ? 1024 : 1000, bytes = tpl_is_number(c->self) ? tpl_as_double(c->self) : 0;
    if (!tpl_is_number(c->self) && !(c->self.type == T_STR && parse_float(t, c->self.u.s, &bytes)))
        tpl_fail(t, "filesizeformat: '%s' is not a number", tpl_type_name(c->self));
    char text[400];
    if (bytes == 1)
        return tpl_cstr(t, "1 Byte");
    if (bytes < base) {
        snprintf(text, sizeof text, "%.0f Bytes", trunc(bytes));
        return tpl_strval(tpl_str_copy(t, text, strlen(text), TPL_TEXT));
    }
    int i = 0;
    double unit = base * base;
    for (; i < 7 && bytes >= unit; i++)
        unit *= base;
    snprintf(text, sizeof text, "%.1f %c%s", base * bytes / unit, binary && i == 0 ? 'K' : units[i],
             binary ? "iB" : "B");
    return tpl_strval(tpl_str_copy(t, text, strlen(text), TPL_TEXT));
}

/* ---- any value */

static struct val filter_default(struct tpl *t, struct call *c)
{
    bool replace = c->self.type == T_UNDEFINED || (tpl_truth(t, c->arg[1]) && !tpl_truth(t, c->self));
    if (!replace)
        return c->self;
    return c->arg[0].type == T_MISSING ? tpl_cstr(t, "") : c->arg[0];
}

static struct val filter_length(struct tpl *t, struct call *c) { return tpl_int((int64_t)tpl_length(t, c->self)); }

static struct val filter_attr(struct tpl *t, struct call *c)
{
    const struct str *name = need_str(t, c->arg[0], "attr");
    if (c->self.type == T_DICT && !tpl_method_find(c->self, name)) /* an attribute, not a key */
        return tpl_undef_key(t, c->self, c->arg[0]);
    return tpl_getattr(t, c->self, name);
}

/* One line; dictionaries in the order of their keys. */
static struct val sorted_keys(struct tpl *t, struct val v)
{
    if (v.type == T_DICT) {
        struct seq *keys = tpl_dict_view(t, v.u.d, Q_KEYS), *vals = tpl_dict_view(t, v.u.d, Q_VALUES);
        bool strings = true;
        for (size_t i = 0; i < keys->n; i++)
            strings &= keys->v[i].type == T_STR;
        if (strings)
            tpl_sort(t, vals->v, keys->v, keys->n, false);
        struct dict *d = tpl_dict_new(t);
        tpl_enter(t);
        for (size_t i = 0; i < keys->n; i++)
            tpl_dict_set(t, d, keys->v[i], sorted_keys(t, vals->v[i]));
        tpl_leave(t);
        return tpl_dictval(d);
    }
    if (v.type == T_SEQ && v.u.q->kind <= Q_GROUP) {
        struct seq *q = tpl_seq_new(t, v.u.q->kind, v.u.q->n);
        tpl_enter(t);
        for (size_t i = 0; i < v.u.q->n; i++)
            tpl_seq_push(t, q, sorted_keys(t, v.u.q->v[i]));
        tpl_leave(t);
        return tpl_seqval(q);
    }
    return v;
}

static struct val filter_pprint(struct tpl *t, struct call *c)
{
    struct sbuf *b = tpl_sbuf(t);
    tpl_put_repr(t, b, sorted_keys(t, c->self));
    return tpl_strval(tpl_sbuf_str(t, b));
}

/* ---- the tables */

static const struct builtin text_filters[] = {{"abs", "", filter_abs},
                                              {"attr", "name", filter_attr},
                                              {"capitalize", "", filter_capitalize},
                                              {"center", "width?", filter_center},
                                              {"count", "", filter_length},
                                              {"d", "default_value? boolean?", filter_default},
                                              {"default", "default_value? boolean?", filter_default},
                                              {"filesizeformat", "binary?", filter_filesizeformat},
                                              {"float", "default?", filter_float},
                                              {"format", "*", filter_format},
                                              {"indent", "width? first? blank?", filter_indent},
                                              {"int", "default? base?", filter_int},
                                              {"length", "", filter_length},
                                              {"lower", "", filter_lower},
                                              {"pprint", "", filter_pprint},
                                              {"replace", "old new count?", filter_replace},
                                              {"round", "precision? method?", filter_round},
                                              {"string", "", filter_string},
                                              {"title", "", filter_title},
                                              {"tojson", "ensure_ascii? indent? separators? sort_keys?", tpl_to_json},
                                              {"trim", "chars?", filter_trim},
                                              {"truncate", "length? killwords? end? leeway?", filter_truncate},
                                              {"upper", "", filter_upper},
                                              {"wordcount", "", filter_wordcount},
                                              {NULL, NULL, NULL}};

const struct builtin *tpl_builtin_find(const struct builtin *table, const struct str *name)
{
    for (; table->name; table++)
        if (tpl_str_is(name, table->name))
            return table;
    return NULL;
}

const struct builtin *tpl_filter_find(const struct str *name)
{
    const struct builtin *b = tpl_builtin_find(text_filters, name);
    if (!b)
        b = tpl_builtin_find(tpl_list_filters, name);
    return b ? b : tpl_builtin_find(tpl_html_filters, name);
}
