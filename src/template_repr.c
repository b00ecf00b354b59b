/* SPDX-License-Identifier: MIT */
/* Chat templates: values as text and back: Python's str() and repr(), json.dumps() for the tojson filter, and the JSON
 * documents that are a template's input.  Text of the conversation keeps its mark inside quotes and brackets. */
#include "template.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

/* ---- str and repr */

/* The shortest digits that read back as f, in the form Python gives them. */
void tpl_float_repr(double f, char out[40])
{
    if (isnan(f) || isinf(f)) {
        strcpy(out, isnan(f) ? "nan" : f < 0 ? "-inf" : "inf");
        return;
    }
    char digits[32];
    for (int precision = 0; precision < 17; precision++) {
        snprintf(digits, sizeof digits, "%.*e", precision, f);
        if (strtod(digits, NULL) == f)
            break;
    }
    char *e = strchr(digits, 'e');
    int exponent = atoi(e + 1), n = 0;
    *e = '\0';
    char plain[20]; /* the digits alone */
    for (char *p = digits; *p; p++)
        if (*p >= '0' && *p <= '9')
            plain[n++] = *p;
    plain[n] = '\0';
    const char *sign = digits[0] == '-' ? "-" : "";
    if (exponent < -4 || exponent >= 16)
        snprintf(out, 40, "%s%c%s%se%c%02d", sign, plain[0], n > 1 ? "." : "", plain + 1, exponent < 0 ? '-' : '+',
                 abs(exponent));
    else if (exponent < 0)
        snprintf(out, 40, "%s0.%.*s%s", sign, -exponent - 1, "0000", plain);
    else if (n <= exponent + 1)
        snprintf(out, 40, "%s%s%.*s.0", sign, plain, exponent + 1 - n, "0000000000000000");
    else
        snprintf(out, 40, "%s%.*s.%s", sign, exponent + 1, plain, plain + exponent + 1);
}

static bool is_printable(uint32_t c)
{
    switch (utf8proc_category((utf8proc_int32_t)c)) {
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
        return false;
    case UTF8PROC_CATEGORY_ZS:
        return c == ' ';
    default:
        return true;
    }
}

static void put_str_repr(struct tpl *t, struct sbuf *b, const struct str *s)
{
    bool single = s->n && memchr(s->p, '\'', s->n), dbl = s->n && memchr(s->p, '"', s->n);
    char quote = single && !dbl ? '"' : '\'';
    if (s->safe)
        tpl_put_c(t, b, "Markup(", TPL_TEXT);
    tpl_put(t, b, &quote, 1, TPL_TEXT);
    for (size_t i = 0, n; i < s->n; i += n) {
        uint32_t c = tpl_char(s->p + i, &n);
        char esc[16] = "";
        if (c == (unsigned char)quote || c == '\\')
            snprintf(esc, sizeof esc, "\\%c", (int)c);
        else if (c == '\n' || c == '\r' || c == '\t')
            snprintf(esc, sizeof esc, "\\%c", c == '\n' ? 'n' : c == '\r' ? 'r' : 't');
        else if (!is_printable(c))
            snprintf(esc, sizeof esc, c < 0x100 ? "\\x%02x" : c < 0x10000 ? "\\u%04x" : "\\U%08x", (unsigned)c);
        if (*esc)
            tpl_put_c(t, b, esc, s->mark[i]);
        else
            tpl_put_sub(t, b, s, i, i + n);
    }
    tpl_put(t, b, &quote, 1, TPL_TEXT);
    if (s->safe)
        tpl_put_c(t, b, ")", TPL_TEXT);
}

static void put_seq_repr(struct tpl *t, struct sbuf *b, const struct seq *q)
{
    static const char *const open[] = {"[", "(", "(", "dict_keys([", "dict_values([", "dict_items(["};
    static const char *const close[] = {"]", ")", ")", "])", "])", "])"};
    char text[96];
    if (q->kind == Q_ITER) {
        tpl_put_c(t, b, "<generator object>", TPL_TEXT);
    } else if (q->kind == Q_RANGE) {
        int n = snprintf(text, sizeof text, "range(%lld, %lld", (long long)q->start, (long long)q->stop);
        if (q->step != 1)
            n += snprintf(text + n, sizeof text - (size_t)n, ", %lld", (long long)q->step);
        snprintf(text + n, sizeof text - (size_t)n, ")");
        tpl_put_c(t, b, text, TPL_TEXT);
    } else {
        tpl_put_c(t, b, open[q->kind], TPL_TEXT);
        for (size_t i = 0; i < q->n; i++) {
            if (i)
                tpl_put_c(t, b, ", ", TPL_TEXT);
            tpl_put_repr(t, b, q->v[i]);
        }
        if (q->n == 1 && (q->kind == Q_TUPLE || q->kind == Q_GROUP))
            tpl_put_c(t, b, ",", TPL_TEXT);
        tpl_put_c(t, b, close[q->kind], TPL_TEXT);
    }
}

static void put_dict_repr(struct tpl *t, struct sbuf *b, const struct dict *d)
{
    tpl_put_c(t, b, "{", TPL_TEXT);
    for (size_t i = 0; i < d->n; i++) {
        if (i)
            tpl_put_c(t, b, ", ", TPL_TEXT);
        tpl_put_repr(t, b, d->e[i].key);
        tpl_put_c(t, b, ": ", TPL_TEXT);
        tpl_put_repr(t, b, d->e[i].val);
    }
    tpl_put_c(t, b, "}", TPL_TEXT);
}

void tpl_put_repr(struct tpl *t, struct sbuf *b, struct val v)
{
    char text[64];
    tpl_step(t, 1);
    switch (v.type) {
    case T_MISSING:
    case T_UNDEFINED:
        tpl_put_c(t, b, "Undefined", TPL_TEXT);
        break;
    case T_NONE:
        tpl_put_c(t, b, "None", TPL_TEXT);
        break;
    case T_BOOL:
        tpl_put_c(t, b, v.u.i ? "True" : "False", TPL_TEXT);
        break;
    case T_INT:
        snprintf(text, sizeof text, "%lld", (long long)v.u.i);
        tpl_put_c(t, b, text, TPL_TEXT);
        break;
    case T_FLOAT:
        tpl_float_repr(v.u.f, text);
        tpl_put_c(t, b, text, TPL_TEXT);
        break;
    case T_STR:
        put_str_repr(t, b, v.u.s);
        break;
    case T_SEQ:
        tpl_enter(t);
        put_seq_repr(t, b, v.u.q);
        tpl_leave(t);
        break;
    case T_DICT:
    case T_NAMESPACE:
        tpl_enter(t);
        if (v.type == T_NAMESPACE)
            tpl_put_c(t, b, "<Namespace ", TPL_TEXT);
        put_dict_repr(t, b, v.u.d);
        if (v.type == T_NAMESPACE)
            tpl_put_c(t, b, ">", TPL_TEXT);
        tpl_leave(t);
        break;
    case T_LOOP:
        snprintf(text, sizeof text, "<LoopContext %lld/%zu>", (long long)v.u.loop->index0 + 1, tpl_length(t, v));
        tpl_put_c(t, b, text, TPL_TEXT);
        break;
    default:
        tpl_put_c(t, b, "<", TPL_TEXT);
        tpl_put_c(t, b, tpl_type_name(v), TPL_TEXT);
        tpl_put_c(t, b, ">", TPL_TEXT);
    }
}

struct str *tpl_to_str(struct tpl *t, struct val v)
{
    if (v.type == T_STR)
        return v.u.s;
    if (v.type == T_UNDEFINED)
        return tpl_str(t, "", 0, TPL_TEXT);
    struct sbuf *b = tpl_sbuf(t);
    tpl_put_repr(t, b, v);
    return tpl_sbuf_str(t, b);
}

/* ---- tojson */

struct dump {
    struct tpl *t;
    struct sbuf *b;
    const struct str *indent; /* NULL = one line */
    const struct str *item_sep, *key_sep;
    bool sort_keys, ascii;
};

static void dump_value(struct dump *o, struct val v, int level);

static void dump_string(struct dump *o, const struct str *s)
{
    struct tpl *t = o->t;
    tpl_put_c(t, o->b, "\"", TPL_TEXT);
    size_t plain = 0; /* start of what needs no escape */
    for (size_t i = 0, n; i < s->n; i += n) {
        uint32_t c = tpl_char(s->p + i, &n);
        static const char shorts[] = "\b\f\n\r\t\"\\", letters[] = "bfnrt\"\\";
        const char *at = c && c < 0x80 ? strchr(shorts, (int)c) : NULL;
        char esc[16] = "";
        if (at)
            snprintf(esc, sizeof esc, "\\%c", letters[at - shorts]);
        else if (c < 0x20 || (o->ascii && c >= 0x7F && c < 0x10000 && c != 0x7F))
            snprintf(esc, sizeof esc, "\\u%04x", (unsigned)c);
        else if (o->ascii && c >= 0x10000)
            snprintf(esc, sizeof esc, "\\u%04x\\u%04x", (unsigned)(0xD7C0 + (c >> 10)),
                     (unsigned)(0xDC00 + (c & 0x3FF)));
        if (!*esc)
            continue;
        tpl_put_sub(t, o->b, s, plain, i);
        tpl_put_c(t, o->b, esc, s->mark[i]);
        plain = i + n;
    }
    tpl_put_sub(t, o->b, s, plain, s->n);
    tpl_put_c(t, o->b, "\"", TPL_TEXT);
}

static void dump_newline(struct dump *o, int level)
{
    if (!o->indent)
        return;
    tpl_put_c(o->t, o->b, "\n", TPL_TEXT);
    for (int i = 0; i < level; i++)
        tpl_put_str(o->t, o->b, o->indent);
}

static void dump_scalar(struct dump *o, struct val v)
{
    struct tpl *t = o->t;
    if (v.type == T_NONE)
        tpl_put_c(t, o->b, "null", TPL_TEXT);
    else if (v.type == T_BOOL)
        tpl_put_c(t, o->b, v.u.i ? "true" : "false", TPL_TEXT);
    else if (v.type == T_FLOAT && !isfinite(v.u.f))
        tpl_put_c(t, o->b, isnan(v.u.f) ? "NaN" : v.u.f < 0 ? "-Infinity" : "Infinity", TPL_TEXT);
    else
        tpl_put_repr(t, o->b, v);
}

static void dump_key(struct dump *o, struct val key)
{
    if (key.type == T_STR) {
        dump_string(o, key.u.s);
        return;
    }
    if (key.type != T_NONE && !tpl_is_number(key))
        tpl_fail(o->t, "keys must be str, int, float, bool or None, not %s", tpl_type_name(key));
    tpl_put_c(o->t, o->b, "\"", TPL_TEXT);
    dump_scalar(o, key);
    tpl_put_c(o->t, o->b, "\"", TPL_TEXT);
}

static void dump_dict(struct dump *o, const struct dict *d, int level)
{
    struct tpl *t = o->t;
    struct seq *keys = tpl_dict_view(t, d, Q_KEYS), *vals = tpl_dict_view(t, d, Q_VALUES);
    if (o->sort_keys)
        tpl_sort(t, vals->v, keys->v, d->n, false);
    tpl_put_c(t, o->b, "{", TPL_TEXT);
    for (size_t i = 0; i < d->n; i++) {
        if (i)
            tpl_put_str(t, o->b, o->item_sep);
        dump_newline(o, level + 1);
        dump_key(o, keys->v[i]);
        tpl_put_str(t, o->b, o->key_sep);
        dump_value(o, vals->v[i], level + 1);
    }
    if (d->n)
        dump_newline(o, level);
    tpl_put_c(t, o->b, "}", TPL_TEXT);
}

static void dump_list(struct dump *o, const struct seq *q, int level)
{
    struct tpl *t = o->t;
    tpl_put_c(t, o->b, "[", TPL_TEXT);
    for (size_t i = 0; i < q->n; i++) {
        if (i)
            tpl_put_str(t, o->b, o->item_sep);
        dump_newline(o, level + 1);
        dump_value(o, q->v[i], level + 1);
    }
    if (q->n)
        dump_newline(o, level);
    tpl_put_c(t, o->b, "]", TPL_TEXT);
}

static void dump_value(struct dump *o, struct val v, int level)
{
    struct tpl *t = o->t;
    tpl_step(t, 1);
    tpl_enter(t);
    if (v.type == T_STR)
        dump_string(o, v.u.s);
    else if (v.type == T_DICT)
        dump_dict(o, v.u.d, level);
    else if (v.type == T_SEQ && v.u.q->kind <= Q_GROUP)
        dump_list(o, v.u.q, level);
    else if (v.type == T_NONE || tpl_is_number(v))
        dump_scalar(o, v);
    else
        tpl_fail(t, "Object of type %s is not JSON serializable", tpl_type_name(v));
    tpl_leave(t);
}

/* arguments: ensure_ascii indent separators sort_keys */
struct val tpl_to_json(struct tpl *t, struct call *c)
{
    struct dump o = {.t = t,
                     .b = tpl_sbuf(t),
                     .item_sep = tpl_cstr(t, ", ").u.s,
                     .key_sep = tpl_cstr(t, ": ").u.s,
                     .sort_keys = tpl_truth(t, c->arg[3]),
                     .ascii = tpl_truth(t, c->arg[0])};
    struct val indent = c->arg[1], separators = c->arg[2];
    if (indent.type == T_STR) {
        o.indent = indent.u.s;
    } else if (indent.type != T_MISSING && indent.type != T_NONE) {
        struct sbuf *b = tpl_sbuf(t);
        tpl_put_fill(t, b, ' ', tpl_as_int(t, indent, "indent"), TPL_TEXT);
        o.indent = tpl_sbuf_str(t, b);
    }
    if (o.indent)
        o.item_sep = tpl_cstr(t, ",").u.s;
    if (separators.type != T_MISSING && separators.type != T_NONE) {
        struct seq *q = tpl_items(t, separators);
        if (q->n != 2 || tpl_seq_get(q, 0).type != T_STR || tpl_seq_get(q, 1).type != T_STR)
            tpl_fail(t, "tojson: separators must be two strings");
        o.item_sep = tpl_seq_get(q, 0).u.s;
        o.key_sep = tpl_seq_get(q, 1).u.s;
    }
    dump_value(&o, c->self, 0);
    return tpl_strval(tpl_sbuf_str(t, o.b));
}

/* ---- input documents */

static struct val from_json(struct tpl *t, const json_t *j)
{
    struct val v = tpl_none();
    tpl_enter(t);
    switch (json_typeof(j)) {
    case JSON_OBJECT: {
        v = tpl_dictval(tpl_dict_new(t));
        const char *key;
        json_t *item;
        for (void *it = json_object_iter((json_t *)j); it; it = json_object_iter_next((json_t *)j, it)) {
            key = json_object_iter_key(it);
            item = json_object_iter_value(it);
            struct str *k = tpl_str_copy(t, key, json_object_iter_key_len(it), TPL_DATA);
            tpl_dict_set(t, v.u.d, tpl_strval(k), from_json(t, item));
        }
        break;
    }
    case JSON_ARRAY:
        v = tpl_seqval(tpl_seq_new(t, Q_LIST, json_array_size(j)));
        for (size_t i = 0; i < json_array_size(j); i++)
            tpl_seq_push(t, v.u.q, from_json(t, json_array_get(j, i)));
        break;
    case JSON_STRING:
        v = tpl_strval(tpl_str_copy(t, json_string_value(j), json_string_length(j), TPL_DATA));
        break;
    case JSON_INTEGER:
        v = tpl_int(json_integer_value(j));
        break;
    case JSON_REAL:
        v = tpl_float(json_real_value(j));
        break;
    case JSON_TRUE:
    case JSON_FALSE:
        v = tpl_bool(json_typeof(j) == JSON_TRUE);
        break;
    case JSON_NULL:
        break;
    }
    tpl_leave(t);
    return v;
}

struct val tpl_from_json(struct tpl *t, const char *text, const char *what, bool object)
{
    json_error_t e;
    json_t *j = json_loads(text, JSON_ALLOW_NUL, &e);
    t->json = j; /* released by template_render(), whichever way it ends */
    if (!j) {
        fail(t->err, QN_E_ARGUMENT, "%s: JSON, line %d column %d: %s", what, e.line, e.column, e.text);
        longjmp(t->failed, 1);
    }
    if (object ? !json_is_object(j) : !json_is_array(j)) {
        fail(t->err, QN_E_ARGUMENT, "%s: not a JSON %s", what, object ? "object" : "array");
        longjmp(t->failed, 1);
    }
    struct val v = from_json(t, j);
    json_decref(j);
    t->json = NULL;
    return v;
}
