/* SPDX-License-Identifier: MIT */
/* Chat templates: the tests behind `is`, and the global functions. */
#include "template.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

/* ---- tests */

static struct val test_defined(struct tpl *t, struct call *c) { return tpl_bool(c->self.type != T_UNDEFINED); }
static struct val test_undefined(struct tpl *t, struct call *c) { return tpl_bool(c->self.type == T_UNDEFINED); }
static struct val test_none(struct tpl *t, struct call *c) { return tpl_bool(c->self.type == T_NONE); }
static struct val test_boolean(struct tpl *t, struct call *c) { return tpl_bool(c->self.type == T_BOOL); }
static struct val test_true(struct tpl *t, struct call *c) { return tpl_bool(c->self.type == T_BOOL && c->self.u.i); }
static struct val test_false(struct tpl *t, struct call *c) { return tpl_bool(c->self.type == T_BOOL && !c->self.u.i); }
static struct val test_integer(struct tpl *t, struct call *c) { return tpl_bool(c->self.type == T_INT); }
static struct val test_float(struct tpl *t, struct call *c) { return tpl_bool(c->self.type == T_FLOAT); }
static struct val test_number(struct tpl *t, struct call *c) { return tpl_bool(tpl_is_number(c->self)); }
static struct val test_string(struct tpl *t, struct call *c) { return tpl_bool(c->self.type == T_STR); }
static struct val test_mapping(struct tpl *t, struct call *c) { return tpl_bool(c->self.type == T_DICT); }
static struct val test_iterable(struct tpl *t, struct call *c) { return tpl_bool(tpl_iterable(c->self)); }
static struct val test_escaped(struct tpl *t, struct call *c)
{
    return tpl_bool(c->self.type == T_STR && c->self.u.s->safe);
}
static struct val test_in(struct tpl *t, struct call *c) { return tpl_bool(tpl_contains(t, c->self, c->arg[0])); }
static struct val test_eq(struct tpl *t, struct call *c) { return tpl_bool(tpl_equal(t, c->self, c->arg[0])); }
static struct val test_ne(struct tpl *t, struct call *c) { return tpl_bool(!tpl_equal(t, c->self, c->arg[0])); }
static struct val test_lt(struct tpl *t, struct call *c) { return tpl_bool(tpl_order(t, TOK_LT, c->self, c->arg[0])); }
static struct val test_le(struct tpl *t, struct call *c) { return tpl_bool(tpl_order(t, TOK_LE, c->self, c->arg[0])); }
static struct val test_gt(struct tpl *t, struct call *c) { return tpl_bool(tpl_order(t, TOK_GT, c->self, c->arg[0])); }
static struct val test_ge(struct tpl *t, struct call *c) { return tpl_bool(tpl_order(t, TOK_GE, c->self, c->arg[0])); }

/* Has a length and takes an index; Undefined has both. */
static struct val test_sequence(struct tpl *t, struct call *c)
{
    struct val v = c->self;
    bool row = v.type == T_SEQ && (v.u.q->kind <= Q_GROUP || v.u.q->kind == Q_RANGE);
    return tpl_bool(row || v.type == T_STR || v.type == T_DICT || v.type == T_UNDEFINED);
}

static struct val test_callable(struct tpl *t, struct call *c)
{
    enum tpl_type k = c->self.type;
    return tpl_bool(k == T_FUNC || k == T_MACRO || k == T_LOOP || k == T_JOINER || k == T_UNDEFINED);
}

static struct val test_sameas(struct tpl *t, struct call *c)
{
    struct val a = c->self, b = c->arg[0];
    if (a.type != b.type)
        return tpl_bool(false);
    if (a.type == T_SEQ || a.type == T_DICT)
        return tpl_bool(a.u.d == b.u.d);
    return tpl_bool(tpl_equal(t, a, b));
}

static double number_of(struct tpl *t, struct val v, const char *what)
{
    if (v.type == T_UNDEFINED)
        tpl_fail_undef(t, v);
    if (!tpl_is_number(v))
        tpl_fail(t, "%s: '%s' is not a number", what, tpl_type_name(v));
    return tpl_as_double(v);
}

static bool divides(struct tpl *t, struct val v, struct val by, const char *what)
{
    double x = number_of(t, v, what), y = number_of(t, by, what);
    if (y == 0)
        tpl_fail(t, "division by zero");
    if (v.type == T_FLOAT || by.type == T_FLOAT)
        return fmod(x, y) == 0;
    return by.u.i == -1 || v.u.i % by.u.i == 0;
}

static struct val test_divisibleby(struct tpl *t, struct call *c)
{
    return tpl_bool(divides(t, c->self, c->arg[0], "divisibleby"));
}
static struct val test_even(struct tpl *t, struct call *c) { return tpl_bool(divides(t, c->self, tpl_int(2), "even")); }

static struct val test_odd(struct tpl *t, struct call *c)
{
    double x = number_of(t, c->self, "odd");
    return tpl_bool(c->self.type == T_FLOAT ? fabs(fmod(x, 2)) == 1 : c->self.u.i % 2 != 0);
}

static struct val test_lower(struct tpl *t, struct call *c)
{
    return tpl_bool(tpl_is_case(t, tpl_to_str(t, c->self), false));
}
static struct val test_upper(struct tpl *t, struct call *c)
{
    return tpl_bool(tpl_is_case(t, tpl_to_str(t, c->self), true));
}

static struct val test_filter(struct tpl *t, struct call *c)
{
    return tpl_bool(c->self.type == T_STR && tpl_filter_find(c->self.u.s));
}

static struct val test_test(struct tpl *t, struct call *c)
{
    return tpl_bool(c->self.type == T_STR && tpl_test_find(c->self.u.s));
}

static const struct builtin tests[] = {{"!=", "other", test_ne},
                                       {"<", "other", test_lt},
                                       {"<=", "other", test_le},
                                       {"==", "other", test_eq},
                                       {">", "other", test_gt},
                                       {">=", "other", test_ge},
                                       {"boolean", "", test_boolean},
                                       {"callable", "", test_callable},
                                       {"defined", "", test_defined},
                                       {"divisibleby", "num", test_divisibleby},
                                       {"eq", "other", test_eq},
                                       {"equalto", "other", test_eq},
                                       {"escaped", "", test_escaped},
                                       {"even", "", test_even},
                                       {"false", "", test_false},
                                       {"filter", "", test_filter},
                                       {"float", "", test_float},
                                       {"ge", "other", test_ge},
                                       {"greaterthan", "other", test_gt},
                                       {"gt", "other", test_gt},
                                       {"in", "seq", test_in},
                                       {"integer", "", test_integer},
                                       {"iterable", "", test_iterable},
                                       {"le", "other", test_le},
                                       {"lessthan", "other", test_lt},
                                       {"lower", "", test_lower},
                                       {"lt", "other", test_lt},
                                       {"mapping", "", test_mapping},
                                       {"ne", "other", test_ne},
                                       {"none", "", test_none},
                                       {"number", "", test_number},
                                       {"odd", "", test_odd},
                                       {"sameas", "other", test_sameas},
                                       {"sequence", "", test_sequence},
                                       {"string", "", test_string},
                                       {"test", "", test_test},
                                       {"true", "", test_true},
                                       {"undefined", "", test_undefined},
                                       {"upper", "", test_upper},
                                       {NULL, NULL, NULL}};

const struct builtin *tpl_test_find(const struct str *name) { return tpl_builtin_find(tests, name); }

/* ---- global functions */

enum { RANGE_MAX = 100000 }; /* as in Jinja's sandbox */

static struct val global_range(struct tpl *t, struct call *c)
{
    bool one = c->arg[1].type == T_MISSING;
    int64_t start = one ? 0 : tpl_as_int(t, c->arg[0], "range");
    int64_t stop = tpl_as_int(t, c->arg[one ? 0 : 1], "range");
    int64_t step = c->arg[2].type == T_MISSING ? 1 : tpl_as_int(t, c->arg[2], "range");
    if (step == 0)
        tpl_fail(t, "range() arg 3 must not be zero");
    struct seq *q = tpl_seq_new(t, Q_RANGE, 0);
    q->start = start;
    q->stop = stop;
    q->step = step;
    if (step > 0 ? start < stop : start > stop) {
        uint64_t span = step > 0 ? (uint64_t)stop - (uint64_t)start : (uint64_t)start - (uint64_t)stop;
        uint64_t by = step > 0 ? (uint64_t)step : 0 - (uint64_t)step, n = (span - 1) / by + 1;
        if (n > RANGE_MAX)
            tpl_fail_budget(t, "%d items in a range()", RANGE_MAX);
        q->n = (size_t)n;
    }
    return tpl_seqval(q);
}

/* dict(pairs or mapping, name=value...) */
static struct dict *make_dict(struct tpl *t, struct call *c, const char *what)
{
    struct dict *d = tpl_dict_new(t);
    if (c->n_pos > 1)
        tpl_fail(t, "%s expected at most 1 argument, got %zu", what, c->n_pos);
    if (c->n_pos && c->pos[0].type == T_DICT) {
        for (size_t i = 0; i < c->pos[0].u.d->n; i++)
            tpl_dict_set(t, d, c->pos[0].u.d->e[i].key, c->pos[0].u.d->e[i].val);
    } else if (c->n_pos) {
        struct seq *q = tpl_items(t, c->pos[0]);
        for (size_t i = 0; i < q->n; i++) {
            struct seq *pair = tpl_items(t, tpl_seq_get(q, i));
            if (pair->n != 2)
                tpl_fail(t, "%s: item %zu has length %zu; 2 is required", what, i, pair->n);
            tpl_dict_set(t, d, tpl_seq_get(pair, 0), tpl_seq_get(pair, 1));
        }
    }
    for (size_t i = 0; c->kw && i < c->kw->n; i++)
        tpl_dict_set(t, d, c->kw->e[i].key, c->kw->e[i].val);
    return d;
}

static struct val global_dict(struct tpl *t, struct call *c) { return tpl_dictval(make_dict(t, c, "dict")); }

static struct val global_namespace(struct tpl *t, struct call *c)
{
    return (struct val){.type = T_NAMESPACE, .u.d = make_dict(t, c, "namespace")};
}

static struct val global_cycler(struct tpl *t, struct call *c)
{
    struct gadget *g = tpl_alloc(t, sizeof *g);
    g->items = tpl_seq_new(t, Q_TUPLE, 0);
    for (size_t i = 0; i < c->n_pos; i++)
        tpl_seq_push(t, g->items, c->pos[i]);
    if (!c->n_pos)
        tpl_fail(t, "cycler: at least one item has to be provided");
    return (struct val){.type = T_CYCLER, .u.gadget = g};
}

static struct val global_joiner(struct tpl *t, struct call *c)
{
    struct gadget *g = tpl_alloc(t, sizeof *g);
    g->sep = c->arg[0].type == T_MISSING ? tpl_cstr(t, ", ") : c->arg[0];
    return (struct val){.type = T_JOINER, .u.gadget = g};
}

static struct val global_raise_exception(struct tpl *t, struct call *c)
{
    struct str *s = tpl_to_str(t, c->arg[0]);
    tpl_raise(t, s);
}

/* The time given by the caller, else the local one. */
static struct tm current_time(struct tpl *t)
{
    struct tm tm = {.tm_isdst = -1};
    const char *now = t->args->now;
    if (!now) {
        time_t clock = time(NULL);
        localtime_r(&clock, &tm);
        return tm;
    }
    char rest;
    int n = sscanf(now, "%4d-%2d-%2d %2d:%2d:%2d%c", &tm.tm_year, &tm.tm_mon, &tm.tm_mday, &tm.tm_hour, &tm.tm_min,
                   &tm.tm_sec, &rest);
    bool valid = n == 6 && tm.tm_mon >= 1 && tm.tm_mon <= 12 && tm.tm_mday >= 1 && tm.tm_mday <= 31 &&
                 tm.tm_hour >= 0 && tm.tm_hour < 24 && tm.tm_min >= 0 && tm.tm_min < 60 && tm.tm_sec >= 0 &&
                 tm.tm_sec < 61;
    if (!valid)
        tpl_fail(t, "the time given is not YYYY-MM-DD HH:MM:SS: %.40s", now);
    tm.tm_year -= 1900;
    tm.tm_mon--;
    struct tm day = tm;
    time_t clock = timegm(&day); /* for the weekday and the day of the year */
    gmtime_r(&clock, &day);
    tm.tm_wday = day.tm_wday;
    tm.tm_yday = day.tm_yday;
    return tm;
}

static struct val global_strftime_now(struct tpl *t, struct call *c)
{
    struct tm tm = current_time(t);
    if (c->arg[0].type != T_STR)
        tpl_fail(t, "strftime_now: the format must be a string");
    const struct str *fmt = c->arg[0].u.s;
    struct sbuf *b = tpl_sbuf(t);
    for (size_t i = 0; i < fmt->n; i++) {
        size_t n = i + 1 < fmt->n && strchr("-_0^#", fmt->p[i + 1]) ? 3 : 2;
        if (fmt->p[i] != '%' || i + n > fmt->n ||
            !strchr("aAbBcCdDeFgGHIjklmMnpPrRStTuUVwWxXyYfzZ%", fmt->p[i + n - 1])) {
            tpl_put_sub(t, b, fmt, i, i + 1);
            continue;
        }
        char form[5] = "", text[128] = "";
        memcpy(form, fmt->p + i, n);
        char kind = form[n - 1];
        if (kind == 'f')
            tpl_put_c(t, b, "000000", TPL_TEXT);
        else if (kind != 'z' && kind != 'Z') /* the time has no zone */
            tpl_put(t, b, text, strftime(text, sizeof text, form, &tm), TPL_TEXT);
        i += n - 1;
    }
    return tpl_strval(tpl_sbuf_str(t, b));
}

const struct builtin tpl_globals[] = {{"range", "start stop? step?", global_range},
                                      {"dict", "*", global_dict},
                                      {"namespace", "*", global_namespace},
                                      {"cycler", "*", global_cycler},
                                      {"joiner", "sep?", global_joiner},
                                      {"raise_exception", "message", global_raise_exception},
                                      {"strftime_now", "format", global_strftime_now},
                                      {NULL, NULL, NULL}};
