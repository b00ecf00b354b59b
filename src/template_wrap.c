/* SPDX-License-Identifier: MIT */
/* Chat templates: the wordwrap filter, with the rules of Python's textwrap: lines break at white space, behind hyphens
 * between letters and around dashes; a word longer than a line is cut. */
#include "template.h"

#include <string.h>
#include <utf8proc.h>

struct wrap {
    struct tpl *t;
    const struct str *s; /* one line */
    const uint32_t *c; /* [n] its characters */
    const size_t *at; /* [n + 1] their bytes */
    size_t n;
    int64_t width;
    bool cut_words, hyphens;
    struct seq *lines;
};

static bool is_blank(uint32_t c) { return c == ' ' || (c >= 9 && c <= 13); }

static bool is_word(uint32_t c)
{
    utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)c);
    return c == '_' || (k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_LO) ||
           (k >= UTF8PROC_CATEGORY_ND && k <= UTF8PROC_CATEGORY_NO);
}

static bool is_letter(const struct wrap *w, size_t i)
{
    return i < w->n && is_word(w->c[i]) && utf8proc_category((utf8proc_int32_t)w->c[i]) != UTF8PROC_CATEGORY_ND;
}

/* Behind a dash of two or more hyphens at i, between a word and another; i when there is none. */
static size_t dash_end(const struct wrap *w, size_t i)
{
    size_t end = i;
    uint32_t before = i ? w->c[i - 1] : 0;
    if (!before || !(is_word(before) || (before < 0x80 && strchr("!\"'&.,?", (int)before))))
        return i;
    while (end < w->n && w->c[end] == '-')
        end++;
    return end >= i + 2 && end < w->n && is_word(w->c[end]) ? end : i;
}

/* A hyphen at i after which a word may be broken. */
static bool breaks_behind(const struct wrap *w, size_t i)
{
    if (i < 2 || w->c[i] != '-' || !is_letter(w, i - 1))
        return false;
    bool left = is_letter(w, i - 2) || (i >= 3 && w->c[i - 2] == '-' && is_letter(w, i - 3));
    size_t next = i + 2 < w->n && w->c[i + 2] == '-' ? i + 3 : i + 2;
    return left && is_letter(w, i + 1) && is_letter(w, next);
}

/* The end of the piece that starts at i: white space, a dash, or (part of) a word. */
static size_t piece_end(const struct wrap *w, size_t i)
{
    size_t end = i;
    while (end < w->n && is_blank(w->c[end]))
        end++;
    if (end > i)
        return end;
    if (w->hyphens && (end = dash_end(w, i)) > i)
        return end;
    for (end = i + 1; end < w->n && !is_blank(w->c[end]); end++) {
        if (w->hyphens && dash_end(w, end) > end)
            break;
        if (w->hyphens && breaks_behind(w, end))
            return end + 1;
    }
    return end;
}

/* How much of the over-long piece from..to goes into the room that is left. */
static size_t cut(const struct wrap *w, size_t from, size_t to, size_t room)
{
    size_t end = from + room;
    if (!w->hyphens || to - from <= room)
        return end;
    for (size_t i = end; i-- > from + 1;) {
        if (w->c[i] != '-')
            continue;
        for (size_t k = from; k < i; k++)
            if (w->c[k] != '-')
                return i + 1;
        break;
    }
    return end;
}

static void push_line(struct wrap *w, size_t from, size_t to, bool strip)
{
    size_t last = to;
    while (strip && last > from && is_blank(w->c[last - 1]))
        last--;
    if (last > from)
        tpl_seq_push(w->t, w->lines, tpl_strval(tpl_sub(w->t, w->s, w->at[from], w->at[last])));
}

static void wrap_line(struct wrap *w)
{
    size_t at = 0, end = w->n ? piece_end(w, 0) : 0, first_line = w->lines->n, width = (size_t)w->width;
    while (at < w->n) { /* the next piece is at..end */
        if (is_blank(w->c[at]) && w->lines->n > first_line) {
            at = end;
            end = at < w->n ? piece_end(w, at) : at;
        }
        size_t from = at;
        bool strip = true;
        while (at < w->n && end - from <= width) {
            at = end;
            end = at < w->n ? piece_end(w, at) : at;
        }
        if (at < w->n && end - at > width && w->cut_words) {
            strip = at - from < width; /* an empty piece of the word keeps the space, as in Python */
            at = cut(w, at, end, width - (at - from));
        } else if (at < w->n && at == from) {
            at = end;
            end = at < w->n ? piece_end(w, at) : at;
        }
        tpl_step(w->t, 1);
        push_line(w, from, at, strip);
    }
}

/* arguments: width break_long_words wrapstring break_on_hyphens */
struct val tpl_wordwrap(struct tpl *t, struct call *c)
{
    struct val width = c->arg[0], sep = c->arg[2];
    if (c->self.type == T_UNDEFINED)
        tpl_fail_undef(t, c->self);
    if (c->self.type != T_STR)
        tpl_fail(t, "wordwrap: '%s' is not a string", tpl_type_name(c->self));
    struct wrap w = {.t = t, .width = width.type == T_MISSING ? 79 : tpl_as_int(t, width, "wordwrap")};
    w.cut_words = c->arg[1].type == T_MISSING || tpl_truth(t, c->arg[1]);
    w.hyphens = c->arg[3].type == T_MISSING || tpl_truth(t, c->arg[3]);
    const struct seq *lines = tpl_split_lines(t, c->self.u.s, false);
    struct seq *wrapped = tpl_seq_new(t, Q_LIST, lines->n);
    const struct str *between = sep.type == T_STR ? sep.u.s : tpl_cstr(t, "\n").u.s;
    if (w.width <= 0)
        tpl_fail(t, "wordwrap: invalid width %lld (must be > 0)", (long long)w.width);
    for (size_t i = 0; i < lines->n; i++) {
        w.s = lines->v[i].u.s;
        uint32_t *chars = tpl_alloc(t, w.s->n * sizeof *chars);
        size_t *at = tpl_alloc(t, (w.s->n + 1) * sizeof *at), len;
        w.n = 0;
        for (size_t k = 0; k < w.s->n; k += len) {
            at[w.n] = k;
            chars[w.n++] = tpl_char(w.s->p + k, &len);
        }
        at[w.n] = w.s->n;
        w.c = chars;
        w.at = at;
        w.lines = tpl_seq_new(t, Q_LIST, 0);
        tpl_work(t, 16 * w.s->n);
        wrap_line(&w);
        tpl_seq_push(t, wrapped, tpl_strval(tpl_join(t, between, tpl_seqval(w.lines), false)));
    }
    return tpl_strval(tpl_join(t, between, tpl_seqval(wrapped), false));
}
