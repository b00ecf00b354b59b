/* SPDX-License-Identifier: MIT */
/* Chat templates: source to tokens.  The rules for white space are those of trim_blocks and lstrip_blocks: the newline
 * after a block or comment goes, white space in front of one that starts a line goes; '-' strips more, '+' less. */
#include "template.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

struct lexer {
    struct tpl *t;
    const char *p; /* [n] the source with \n as its only newline */
    const uint8_t *mark;
    size_t n, at;
    int line;
    struct token *tok;
    size_t n_tok, cap;
    char *open; /* [n_open] closing brackets still expected */
    size_t n_open, open_cap;
};

/* A token that starts on line; the source up to `to` is consumed and its newlines are counted. */
static struct token *emit(struct lexer *x, enum tpl_tok type)
{
    x->tok = tpl_grow(x->t, x->tok, x->n_tok, &x->cap, sizeof *x->tok);
    struct token *k = &x->tok[x->n_tok++];
    *k = (struct token){.type = type, .line = x->line};
    return k;
}

static void advance(struct lexer *x, size_t to)
{
    for (; x->at < to; x->at++)
        x->line += x->p[x->at] == '\n';
    x->t->line = x->line;
}

static struct str *source_str(struct lexer *x, size_t from, size_t to)
{
    return tpl_str(x->t, x->p + from, to - from, TPL_TEXT);
}

static bool starts(const struct lexer *x, size_t at, const char *s)
{
    size_t n = strlen(s);
    return x->n - at >= n && memcmp(x->p + at, s, n) == 0;
}

static size_t skip_space(const struct lexer *x, size_t at)
{
    for (size_t n; at < x->n; at += n)
        if (!tpl_is_space(tpl_char(x->p + at, &n)))
            break;
    return at;
}

/* Past `name` and the white space around it, or 0. */
static size_t match_word(const struct lexer *x, size_t at, const char *name)
{
    at = skip_space(x, at);
    return starts(x, at, name) ? skip_space(x, at + strlen(name)) : 0;
}

/* ---- text between tags */

/* Text from x->at to the tag at `to`, whose sign is '-', '+' or something else. */
static void lex_data(struct lexer *x, size_t to, char sign, bool lstrip)
{
    size_t from = x->at, end = to;
    if (sign == '-') {
        end = from + tpl_strip(x->t, source_str(x, from, to), NULL, STRIP_RIGHT)->n;
    } else if (sign != '+' && lstrip) {
        size_t bol = to;
        while (bol > from && x->p[bol - 1] != '\n')
            bol--;
        bool line_start = bol > from || from == 0 || x->p[from - 1] == '\n';
        if (line_start && tpl_strip(x->t, source_str(x, bol, to), NULL, STRIP_BOTH)->n == 0)
            end = bol;
    }
    if (end > from)
        emit(x, TOK_DATA)->value = tpl_strval(source_str(x, from, end));
    advance(x, to);
}

/* Past the end of a tag: "-%}" and white space, "+%}", or "%}" and one newline (not for variables).  0: not there. */
static size_t match_close(const struct lexer *x, size_t at, const char *close, bool block)
{
    if (at < x->n && x->p[at] == '-' && starts(x, at + 1, close))
        return skip_space(x, at + 1 + strlen(close));
    if (block && at < x->n && x->p[at] == '+' && starts(x, at + 1, close))
        return at + 1 + strlen(close);
    if (!starts(x, at, close))
        return 0;
    at += strlen(close);
    return block && at < x->n && x->p[at] == '\n' ? at + 1 : at;
}

static char sign_at(const struct lexer *x, size_t at)
{
    return at < x->n && (x->p[at] == '-' || x->p[at] == '+') ? x->p[at] : 0;
}

static void lex_comment(struct lexer *x)
{
    size_t at = x->at + 2, end = 0;
    at += sign_at(x, at) != 0;
    for (; at < x->n && !end; at++)
        end = match_close(x, at, "#}", true);
    if (!end)
        tpl_fail(x->t, "missing end of comment");
    advance(x, end);
}

/* {% raw %}: start is behind its "%}". */
static void lex_raw(struct lexer *x, size_t start)
{
    advance(x, start);
    for (size_t at = start; at + 1 < x->n; at++) {
        if (!starts(x, at, "{%"))
            continue;
        char sign = sign_at(x, at + 2);
        size_t end = match_word(x, at + 2 + (sign != 0), "endraw");
        end = end ? match_close(x, end, "%}", true) : 0;
        if (!end)
            continue;
        lex_data(x, at, sign, true);
        advance(x, end);
        return;
    }
    tpl_fail(x->t, "missing end of raw block");
}

/* Behind the "%}" of {% raw %}, or 0.  No newline goes with it. */
static size_t match_raw(const struct lexer *x, size_t at)
{
    at = match_word(x, at + 2 + (sign_at(x, at + 2) != 0), "raw");
    if (!at)
        return 0;
    if (starts(x, at, "-%}"))
        return skip_space(x, at + 3);
    return starts(x, at, "%}") ? at + 2 : 0;
}

/* ---- inside tags */

static size_t digits(const struct lexer *x, size_t at, int base)
{
    size_t last = at;
    for (; at < x->n; at++) {
        char c = x->p[at];
        int d = c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : 99;
        if (d < base)
            last = at + 1;
        else if (c != '_' || last != at)
            break;
    }
    return last;
}

static void lex_number(struct lexer *x)
{
    size_t from = x->at, end = digits(x, from, 10), n = 0;
    bool is_float = false, after_dot = from && x->p[from - 1] == '.';
    int base = 10;
    if (!after_dot && end < x->n && x->p[end] == '.' && digits(x, end + 1, 10) > end + 1 && x->p[end + 1] != '_') {
        is_float = true;
        end = digits(x, end + 1, 10);
    }
    if (!after_dot && end < x->n && (x->p[end] | 32) == 'e') {
        size_t e = end + 1;
        e += e < x->n && (x->p[e] == '+' || x->p[e] == '-');
        if (e < x->n && x->p[e] >= '0' && x->p[e] <= '9') {
            is_float = true;
            end = digits(x, e, 10);
        }
    }
    if (!is_float && x->p[from] == '0') {
        char c = from + 1 < x->n ? x->p[from + 1] | 32 : 0;
        base = c == 'x' ? 16 : c == 'o' ? 8 : c == 'b' ? 2 : 10;
        size_t past = base == 10 ? 0 : digits(x, from + 2, base);
        if (base != 10 && past > from + 2) {
            end = past;
        } else {
            base = 10;
            for (end = from; end < x->n && x->p[end] == '0'; end++) /* 012 is two tokens */
                ;
        }
    }
    char *text = tpl_alloc(x->t, end - from + 1);
    for (size_t i = base == 10 ? from : from + 2; i < end; i++)
        if (x->p[i] != '_')
            text[n++] = x->p[i];
    struct token *k = emit(x, is_float ? TOK_FLOAT : TOK_INT);
    if (is_float) {
        k->value = tpl_float(strtod(text, NULL));
    } else {
        int64_t v = 0;
        for (char *p = text; *p; p++) {
            int d = *p <= '9' ? *p - '0' : (*p | 32) - 'a' + 10;
            if (__builtin_mul_overflow(v, base, &v) || __builtin_add_overflow(v, d, &v))
                tpl_fail(x->t, "integer beyond 64 bits: %.40s", text);
        }
        k->value = tpl_int(v);
    }
    advance(x, end);
}

static bool is_name_char(uint32_t c)
{
    if (c < 0x80)
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
    utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)c);
    return (k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_MC) || k == UTF8PROC_CATEGORY_ND ||
           k == UTF8PROC_CATEGORY_NL || k == UTF8PROC_CATEGORY_PC;
}

static void lex_name(struct lexer *x)
{
    size_t end = x->at;
    for (size_t n; end < x->n && is_name_char(tpl_char(x->p + end, &n)); end += n)
        ;
    emit(x, TOK_NAME)->value = tpl_strval((struct str *)tpl_intern(x->t, x->p + x->at, end - x->at));
    advance(x, end);
}

/* The escape at p[*at], behind its backslash; as Python's: what is none stays as it is written. */
static void lex_escape(struct lexer *x, struct sbuf *b, size_t *at)
{
    static const char from[] = "abfnrtv\\'\"", to[] = "\a\b\f\n\r\t\v\\'\"";
    char c = x->p[(*at)++];
    const char *hit = c ? strchr(from, c) : NULL;
    int n = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    uint32_t v = 0;
    if (hit) {
        tpl_put(x->t, b, &to[hit - from], 1, TPL_TEXT);
    } else if (c >= '0' && c <= '7') {
        v = (uint32_t)(c - '0');
        for (int i = 0; i < 2 && x->p[*at] >= '0' && x->p[*at] <= '7'; i++)
            v = v * 8 + (uint32_t)(x->p[(*at)++] - '0');
        tpl_put_char(x->t, b, v, TPL_TEXT);
    } else if (n) {
        for (int i = 0; i < n; i++) {
            char d = x->p[(*at)++];
            if (!((d >= '0' && d <= '9') || ((d | 32) >= 'a' && (d | 32) <= 'f')))
                tpl_fail(x->t, "truncated \\%c escape in a string", c);
            v = v * 16 + (uint32_t)(d <= '9' ? d - '0' : (d | 32) - 'a' + 10);
        }
        if (v > 0x10FFFF || (v >= 0xD800 && v < 0xE000))
            tpl_fail(x->t, "\\%c escape in a string is no character: %x", c, (unsigned)v);
        tpl_put_char(x->t, b, v, TPL_TEXT);
    } else if (c == 'N') {
        tpl_fail(x->t, "\\N escapes are not supported");
    } else if (c != '\n') {
        tpl_put(x->t, b, "\\", 1, TPL_TEXT);
        (*at)--; /* may be the first byte of a longer character */
    }
}

static void lex_string(struct lexer *x)
{
    char quote = x->p[x->at];
    size_t from = x->at + 1, end = from;
    bool escapes = false;
    for (; end < x->n && x->p[end] != quote; end++)
        if (x->p[end] == '\\') {
            escapes = true;
            end++;
        }
    if (end >= x->n)
        tpl_fail(x->t, "string without an end");
    struct str *s = source_str(x, from, end);
    if (escapes) {
        struct sbuf *b = tpl_sbuf(x->t);
        for (size_t at = from; at < end;) {
            if (x->p[at] == '\\') {
                at++;
                lex_escape(x, b, &at);
                if (at > end)
                    tpl_fail(x->t, "truncated escape in a string");
            } else {
                tpl_put(x->t, b, x->p + at++, 1, TPL_TEXT);
            }
        }
        s = tpl_sbuf_str(x->t, b);
        s->buf = NULL; /* a literal is used many times: nobody appends to it */
    }
    emit(x, TOK_STRING)->value = tpl_strval(s);
    advance(x, end + 1);
}

static void lex_operator(struct lexer *x)
{
    /* clang-format off */
    static const struct { const char *s; enum tpl_tok type; } ops[] = {
        {"//", TOK_FLOORDIV}, {"**", TOK_POW}, {"==", TOK_EQ}, {"!=", TOK_NE}, {">=", TOK_GE}, {"<=", TOK_LE},
        {"+", TOK_ADD}, {"-", TOK_SUB}, {"/", TOK_DIV}, {"*", TOK_MUL}, {"%", TOK_MOD}, {"~", TOK_TILDE},
        {"[", TOK_LBRACKET}, {"]", TOK_RBRACKET}, {"(", TOK_LPAREN}, {")", TOK_RPAREN}, {"{", TOK_LBRACE},
        {"}", TOK_RBRACE}, {">", TOK_GT}, {"<", TOK_LT}, {"=", TOK_ASSIGN}, {".", TOK_DOT}, {":", TOK_COLON},
        {"|", TOK_PIPE}, {",", TOK_COMMA}, {";", TOK_SEMICOLON}};
    /* clang-format on */
    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++) {
        if (!starts(x, x->at, ops[i].s))
            continue;
        char c = *ops[i].s;
        if (c == '(' || c == '[' || c == '{') {
            x->open = tpl_grow(x->t, x->open, x->n_open, &x->open_cap, 1);
            x->open[x->n_open++] = c == '(' ? ')' : c == '[' ? ']' : '}';
        } else if (c == ')' || c == ']' || c == '}') {
            if (!x->n_open || x->open[--x->n_open] != c)
                tpl_fail(x->t, "unexpected '%c'", c);
        }
        emit(x, ops[i].type);
        advance(x, x->at + strlen(ops[i].s));
        return;
    }
    size_t n;
    tpl_fail(x->t, "unexpected character U+%04X", (unsigned)tpl_char(x->p + x->at, &n));
}

/* The inside of {{ }} or {% %}, with its end. */
static void lex_tag(struct lexer *x, bool block)
{
    x->n_open = 0;
    while (x->at < x->n) {
        tpl_step(x->t, 1);
        size_t end = x->n_open ? 0 : match_close(x, x->at, block ? "%}" : "}}", block);
        if (end) {
            emit(x, block ? TOK_BLOCK_END : TOK_VAR_END);
            advance(x, end);
            return;
        }
        char c = x->p[x->at];
        size_t n, space = skip_space(x, x->at);
        if (space > x->at)
            advance(x, space);
        else if (c >= '0' && c <= '9')
            lex_number(x);
        else if (is_name_char(tpl_char(x->p + x->at, &n)))
            lex_name(x);
        else if (c == '\'' || c == '"')
            lex_string(x);
        else
            lex_operator(x);
    }
}

/* \r\n and \r become \n; one newline at the end goes. */
static void normalize(struct lexer *x, const char *source, size_t n)
{
    char *p = tpl_alloc(x->t, n + 1);
    size_t to = 0;
    for (size_t i = 0; i < n; i++) {
        if (source[i] == '\r' && i + 1 < n && source[i + 1] == '\n')
            continue;
        p[to++] = source[i] == '\r' ? '\n' : source[i];
    }
    if (to && p[to - 1] == '\n')
        to--;
    x->p = p;
    x->n = to;
}

struct token *tpl_lex(struct tpl *t, const char *source, size_t n)
{
    struct lexer x = {.t = t, .line = 1};
    normalize(&x, source, n);
    tpl_work(t, 16 * n);
    while (x.at < x.n) {
        size_t to = x.at;
        while (to < x.n && !(x.p[to] == '{' && to + 1 < x.n && memchr("{%#", x.p[to + 1], 3)))
            to++;
        if (to >= x.n) {
            lex_data(&x, x.n, '+', false);
            break;
        }
        char kind = x.p[to + 1], sign = sign_at(&x, to + 2);
        size_t raw = kind == '%' ? match_raw(&x, to) : 0;
        lex_data(&x, to, sign, kind != '{');
        if (raw) {
            lex_raw(&x, raw);
        } else if (kind == '#') {
            lex_comment(&x);
        } else {
            emit(&x, kind == '%' ? TOK_BLOCK_BEGIN : TOK_VAR_BEGIN);
            advance(&x, to + 2 + (sign != 0));
            lex_tag(&x, kind == '%');
        }
    }
    emit(&x, TOK_END);
    return x.tok;
}
