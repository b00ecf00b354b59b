/* SPDX-License-Identifier: MIT */
/* Chat templates: cases with jinja2's answers (jinja.test), the published templates of the oracle, a template of our own
 * with tools and thinking, where each byte came from, what malformed templates say, and that hostile ones end. */
#include "testing.h"
#include "text.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>
#include <jansson.h>

static struct qn_error err;
static struct qn_text out;

static void free_out(void)
{
    free(out.bytes);
    free(out.special);
    out = (struct qn_text){NULL, NULL, 0};
}

static int render(const char *source, const char *messages, const char *kwargs)
{
    struct template_args a = {.messages = messages, .kwargs = kwargs, .now = "2026-08-15 13:45:07"};
    free_out();
    err = (struct qn_error){0, ""};
    return template_render(source, strlen(source), &a, &out, &err);
}

/* ---- jinja.test */

/* A line of the file as text: itself, or the JSON string it holds. */
static char *decode(const char *line, size_t *n)
{
    char *text = NULL;
    if (*line != '"') {
        *n = strlen(line);
        return strdup(line);
    }
    json_t *j = json_loads(line, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
    if (!json_is_string(j))
        fail_msg("jinja.test: not a JSON string: %s", line);
    *n = json_string_length(j);
    text = malloc(*n + 1);
    memcpy(text, json_string_value(j), *n + 1);
    json_decref(j);
    return text;
}

static bool run_case(char *const line[3], int number)
{
    size_t n, n_want;
    char *template_text = decode(line[0], &n), *want = decode(line[2], &n_want);
    struct template_args a = {.kwargs = line[1], .now = "2026-08-15 13:45:07"};
    free_out();
    int rc = template_render(template_text, n, &a, &out, &err);
    bool refuse = strncmp(want, "! ", 2) == 0;
    bool good = refuse ? rc == QN_E_TEMPLATE : rc == 0 && out.n == n_want && memcmp(out.bytes, want, n_want) == 0;
    if (!good)
        print_error("line %d: %s\n  want %s\n  got  %s\n", number, line[0], line[2], rc ? err.text : out.bytes);
    free(template_text);
    free(want);
    return good;
}

static void cases(void **state)
{
    (void)state;
    size_t size;
    char *file = test_read(test_data("../jinja.test"), &size), *line[3];
    assert_non_null(file);
    int n = 0, number = 0, first = 0, n_cases = 0, n_bad = 0;
    for (char *p = file, *end; *p; p = end) {
        end = p + strcspn(p, "\n");
        if (*end)
            *end++ = '\0';
        number++;
        if (n == 0 && (!*p || *p == '#'))
            continue;
        if (n == 0)
            first = number;
        line[n++] = p;
        if (n < 3)
            continue;
        n = 0;
        n_cases++;
        n_bad += !run_case(line, first);
    }
    free(file);
    assert_int_equal(n, 0);
    assert_true(n_cases > 100);
    assert_int_equal(n_bad, 0);
}

/* ---- conversations: the oracle's templates and ours */

/* Whether a row of a file of conversations comes out as it should. */
static bool golden_row(const json_t *row, const char *name, const char *source, size_t n)
{
    json_t *tools = json_object_get(row, "tools");
    char *messages = json_dumps(json_object_get(row, "messages"), 0);
    char *kwargs = json_dumps(json_object_get(row, "kwargs"), 0);
    char *tools_text = json_is_null(tools) ? NULL : json_dumps(tools, 0);
    struct template_args a = {
        .messages = messages, .tools = tools_text, .kwargs = kwargs, .now = "2026-08-15 13:45:07"};
    free_out();
    int rc = template_render(source, n, &a, &out, &err);
    const char *error = json_string_value(json_object_get(row, "error"));
    const json_t *want = json_object_get(row, "expected");
    bool good;
    if (error) /* what only Python's sandbox refuses may render */
        good = rc == QN_E_TEMPLATE || (rc == 0 && strstr(error, "SecurityError"));
    else if (strncmp(json_string_value(want), "! ", 2) == 0)
        good = rc == QN_E_TEMPLATE;
    else
        good = rc == 0 && out.n == json_string_length(want) && memcmp(out.bytes, json_string_value(want), out.n) == 0;
    if (!good)
        print_error("%s, %s: %s\n", name, json_string_value(json_object_get(row, "case")), rc ? err.text : out.bytes);
    free(messages);
    free(kwargs);
    free(tools_text);
    return good;
}

/* All rows of a file; the template is `fixed` or the one each row names.  Returns their number. */
static int run_rows(const char *path, const char *fixed)
{
    size_t size;
    char *file = test_read(path, &size);
    assert_non_null(file);
    int n = 0, n_bad = 0;
    for (char *p = file, *end; *p; p = end) {
        end = p + strcspn(p, "\n");
        json_t *row = json_loadb(p, (size_t)(end - p), JSON_ALLOW_NUL, NULL);
        assert_non_null(row);
        char name[256];
        if (!fixed)
            snprintf(name, sizeof name, "chat/templates/%s", json_string_value(json_object_get(row, "template")));
        const char *from = fixed ? fixed : test_oracle(name);
        char *source = test_read(from, &size);
        assert_non_null(source);
        n_bad += !golden_row(row, from, source, size);
        n++;
        free(source);
        json_decref(row);
        end += *end != '\0';
    }
    free(file);
    assert_int_equal(n_bad, 0);
    return n;
}

static void goldens(void **state)
{
    (void)state;
    const char *path = test_oracle("chat/golden.jsonl");
    if (!path)
        skip();
    assert_true(run_rows(path, NULL) >= 966);
}

static void thinking_tools(void **state)
{
    (void)state;
    char path[1024];
    snprintf(path, sizeof path, "%s", test_data("chat/thinking-tools.jinja"));
    assert_true(run_rows(test_data("chat/thinking-tools.jsonl"), path) >= 16);
}

/* ---- where bytes come from */

/* Marks as text: '.' data, '#' template. */
static const char *marks(void)
{
    static char text[256];
    assert_true(out.n < sizeof text);
    for (size_t i = 0; i < out.n; i++)
        text[i] = out.special[i] ? '#' : '.';
    text[out.n] = '\0';
    return text;
}

static void provenance(void **state)
{
    (void)state;
    static const struct {
        const char *source, *text, *marks;
    } rows[] = {
        {"<a>{{ messages[0].content }}<b>", "<a><x> Yy<b>", "###......###"},
        {"{{ '<a>' + messages[0].content ~ '<b>' }}", "<a><x> Yy<b>", "###......###"},
        {"{{ messages[0].content[1:4] }}", "x> ", "..."},
        {"{{ messages[0].content|upper|trim }}|{{ messages[0].content.lower() }}", "<X> YY|<x> yy", "......#......"},
        {"{{ messages[0].content|replace('x', '!!') }}", "<!!> Yy", ".##...."},
        {"{{ messages[0].content.split('>')|join('<t>') }}", "<x<t> Yy", "..###..."},
        {"{{ '[%s]' % messages[0].content }}{{ '({})'.format(messages[0].content) }}", "[<x> Yy](<x> Yy)",
         "#......##......#"},
        {"{{ messages[0]|tojson }}", "{\"content\": \"<x> Yy\"}", "##.......####......##"},
        {"{% set s %}<a>{{ messages[0].content }}{% endset %}{{ s }}", "<a><x> Yy", "###......"},
        {"{% macro m(x) %}<{{ x }}>{% endmacro %}{{ m(messages[0].content) }}", "<<x> Yy>", "#......#"},
        {"{% for c in messages[0].content %}{{ c }},{% endfor %}", "<,x,>, ,Y,y,", ".#.#.#.#.#.#"},
        {"{{ bos_token }}{{ name }}", "<s><s>", "###..."},
        {"{{ {'<x> Yy': '<known>'}[messages[0].content] }}", "<known>", "#######"},
        {"{{ messages[0]|string }}", "{'content': '<x> Yy'}", "##.......####......##"},
        {"{{ messages[0].content|indent(1, true) }}{{ messages[0].content.center(8) }}", " <x> Yy <x> Yy ",
         "#......#......#"},
        {"{{ messages[0].content|list|sort|join }}", " <>xYy", "......"},
        {"{{ messages[0].content|e }}", "&lt;x&gt; Yy", "............"},
        {"{{ messages[0].content|title|reverse }}", "yY >X<", "......"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        int rc = render(rows[i].source, "[{\"content\": \"<x> Yy\"}]", "{\"bos_token\": \"<s>\", \"name\": \"<s>\"}");
        if (rc)
            fail_msg("%s: %s", rows[i].source, err.text);
        assert_string_equal(out.bytes, rows[i].text);
        if (strcmp(marks(), rows[i].marks))
            fail_msg("%s: marks %s, not %s", rows[i].source, marks(), rows[i].marks);
    }
}

/* ---- refusals */

static void refusals(void **state)
{
    (void)state;
    static const struct {
        const char *source, *says;
    } rows[] = {
        {"a\n{% if x %}\nb", "line 2: this block has no 'endif'"},
        {"a\n\n{{ (1 + }}", "line 3"},
        {"{{ 'a\n\n", "string without an end"},
        {"\n{% frobnicate %}", "line 2: unknown tag 'frobnicate'"},
        {"{% include 'x' %}", "'include' is not supported"},
        {"{% import 'x' as y %}", "'import' is not supported"},
        {"{% extends 'x' %}", "'extends' is not supported"},
        {"{% autoescape true %}{% endautoescape %}", "'autoescape' is not supported"},
        {"{% break %}", "break outside a loop"},
        {"{% for x in [1] %}{% macro m() %}{% continue %}{% endmacro %}{% endfor %}", "continue outside a loop"},
        {"{{ x|nosuch }}", "no filter named 'nosuch'"},
        {"{{ x is nosuch }}", "no test named 'nosuch'"},
        {"{# never ends", "missing end of comment"},
        {"{% raw %}{{ x }}", "missing end of raw block"},
        {"{{ x }", "unexpected '}'"},
        {"\n\n{{ messages.foo.bar }}", "line 3: 'list' object has no attribute 'foo'"},
        {"{{ nothing.at }}", "'nothing' is undefined"},
        {"{{ 1 // 0 }}", "division by zero"},
        {"{{ 9223372036854775807 + 1 }}", "integer beyond 64 bits"},
        {"{{ 9223372036854775808 }}", "integer beyond 64 bits"},
        {"{{ 10 ** 19 }}", "integer beyond 64 bits"},
        {"{{ -9223372036854775807 - 2 }}", "integer beyond 64 bits"},
        {"{{ 5000000000 * 5000000000 }}", "integer beyond 64 bits"},
        {"{{ messages.insert(0, 1) }}", "not allowed"},
        {"{{ {'a': 1}.update({'b': 2}) }}", "not allowed"},
        {"{{ raise_exception('no\nway') }}", "no way"},
        {"caf\xE9", "invalid UTF-8 at byte 3"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        int rc = render(rows[i].source, "[]", NULL);
        if (rc != QN_E_TEMPLATE || err.code != rc || !strstr(err.text, rows[i].says) || out.bytes ||
            strchr(err.text, '\n'))
            fail_msg("%s: %d %s", rows[i].source, rc, err.text);
    }
    assert_int_equal(render("x", "{}", NULL), QN_E_ARGUMENT);
    assert_int_equal(render("x", "[1", NULL), QN_E_ARGUMENT);
    assert_int_equal(render("x", "[123456789012345678901]", NULL), QN_E_ARGUMENT);
    assert_int_equal(render("x", "[]", "[]"), QN_E_ARGUMENT);
    assert_int_equal(render("{{ strftime_now('%Y') }}", "[]", "{}"), 0);
}

/* The exact message of raise_exception, with nothing around it. */
static void raise_text(void **state)
{
    (void)state;
    assert_int_equal(render("{{ raise_exception('System role not supported') }}", "[]", NULL), QN_E_TEMPLATE);
    assert_string_equal(err.text, "System role not supported");
}

/* What the immutable sandbox of Python refuses and published templates need. */
static void append_and_pop(void **state)
{
    (void)state;
    assert_int_equal(render("{% set ns = namespace(l=[]) %}{% for i in 'abc' %}{% set _ = ns.l.append(i) %}{% endfor %}"
                            "{{ ns.l }} {{ ns.l.pop(0) }} {{ ns.l.pop() }} {{ ns.l }}",
                            "[]", NULL),
                     0);
    assert_string_equal(out.bytes, "['a', 'b', 'c'] a c ['b']");
}

/* ---- budgets */

static char *repeated(const char *head, const char *part, size_t n, const char *tail)
{
    size_t len = strlen(part);
    char *text = malloc(strlen(head) + n * len + strlen(tail) + 1), *p = text;
    p = stpcpy(p, head);
    for (size_t i = 0; i < n; i++)
        p = stpcpy(p, part);
    strcpy(p, tail);
    return text;
}

static double seconds(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec * 1e-9;
}

/* Refused for a budget, and soon: the time is generous, for sanitizers and slow machines. */
static void expect_budget(const char *source, const char *says)
{
    double start = seconds();
    int rc = render(source, "[]", NULL);
    double took = seconds() - start;
    if (rc != QN_E_TEMPLATE || !strstr(err.text, "over its budget of ") || (says && !strstr(err.text, says)))
        fail_msg("%.60s: %d %s", source, rc, rc ? err.text : "rendered");
    if (took > 20)
        fail_msg("%.60s: took %.1f s", source, took);
}

static void budgets(void **state)
{
    (void)state;
    static const struct {
        const char *source, *says;
    } rows[] = {
        {"{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}", "steps"},
        {"{{ range(10 ** 12)|list }}", "items in a range()"},
        {"{{ 'a' * 10 ** 9 }}", "memory"},
        {"{{ [1] * 10 ** 9 }}", NULL},
        {"{{ 'a'.ljust(10 ** 12) }}", "memory"},
        {"{{ 'a'.center(10 ** 10) }}", "memory"},
        {"{{ 'a'|indent(10 ** 10, true) }}", "memory"},
        {"{{ {'a': 1}|tojson(indent=10 ** 10) }}", "memory"},
        {"{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "nested levels"},
        {"{% macro m(x) %}{{ m(x + x) }}{% endmacro %}{{ m('ab') }}", NULL},
        {"{% set ns = namespace(x='a') %}{% for i in range(100) %}{% set ns.x = ns.x + ns.x %}{% endfor %}", "memory"},
        {"{% set ns = namespace(x=[1]) %}{% for i in range(100) %}{% set ns.x = ns.x + ns.x %}{% endfor %}", NULL},
        {"{% set ns = namespace(x=[]) %}{% for i in range(5000) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x }}",
         "nested levels"},
        {"{% set l = [] %}{% set _ = l.append(l) %}{{ l }}", "nested levels"},
        {"{% set l = [] %}{% set _ = l.append(l) %}{{ l|tojson }}", "nested levels"},
        {"{% set l = [] %}{% set _ = l.append(l) %}{% set m = [] %}{% set _ = m.append(m) %}{{ l == m }}",
         "nested levels"},
        {"{% set l = [1] %}{% for x in l %}{% set _ = l.append(x) %}{% endfor %}", NULL},
        {"{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}", "nested levels"},
        {"{% set a = 'a' * 1000000 %}{% for i in range(100000) %}{{ a.find('b') }}{% endfor %}", "steps"},
        {"{% set a = 'a' * 1000000 %}{% for i in range(100000) %}{% set b = a|upper %}{% endfor %}", NULL},
        {"{% set a = 'a' * 100000 %}{{ a.replace('', a) }}", "memory"},
        {"{% set a = '\xC3\xA4' * 1000000 %}{% for i in range(100000) %}{% set b = a[999999] %}{% endfor %}", "steps"},
        {"{{ ('a' * 1000000).rfind('a' * 500000 + 'b') }}{{ 'x' * 10 ** 10 }}", NULL},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        expect_budget(rows[i].source, rows[i].says);
}

static void nesting(void **state)
{
    (void)state;
    static const struct {
        const char *head, *part, *middle, *close, *tail;
    } rows[] = {
        {"{{ ", "(", "1", ")", " }}"},
        {"{{ ", "[", "", "]", " }}"},
        {"{{ ", "{1:", "1", "}", " }}"},
        {"{{ ", "not ", "x", "", " }}"},
        {"{{ ", "-", "1", "", " }}"},
        {"{{ ", "x if x else ", "x", "", " }}"},
        {"{{ x", " + x", "", "", " }}"},
        {"{{ x", "|upper", "", "", " }}"},
        {"{{ x", ".x", "", "", " }}"},
        {"{{ x", "[0]", "", "", " }}"},
        {"{{ x", "()", "", "", " }}"},
        {"{{ x", "(x", "", ")", " }}"},
        {"{{ x", "[x", "", "]", " }}"},
        {"{{ x", " ** x", "", "", " }}"},
        {"{{ x", " and x", "", "", " }}"},
        {"", "{% if x %}", "", "{% endif %}", ""},
        {"", "{% for x in y %}", "", "{% endfor %}", ""},
        {"", "{% set x %}", "", "{% endset %}", ""},
        {"", "{% filter upper %}", "", "{% endfilter %}", ""},
        {"", "{% call x() %}", "", "{% endcall %}", ""},
        {"", "{% macro x() %}", "", "{% endmacro %}", ""},
        {"", "{% with %}", "", "{% endwith %}", ""},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char *opened = repeated(rows[i].head, rows[i].part, 50000, rows[i].middle);
        char *closed = repeated(opened, rows[i].close, 50000, rows[i].tail);
        expect_budget(closed, "nested levels");
        assert_int_equal(render(opened, "[]", NULL), QN_E_TEMPLATE);
        free(opened);
        free(closed);
    }
    char *text = repeated("{% if x %}", "{% elif x %}", 50000, "{% endif %}"); /* long, but not deep */
    assert_int_equal(render(text, "[]", NULL), 0);
    free(text);
    text = repeated("{{ 1", " ~ 1", 10000, " }}");
    assert_int_equal(render(text, "[]", NULL), 0);
    free(text);
    text = repeated("[", "[", 1000, ""); /* JSON deeper than values may be */
    assert_int_not_equal(render("x", text, NULL), 0);
    free(text);
    text = repeated("", "[", 1000, "");
    char *json = repeated(text, "]", 1000, "");
    assert_int_equal(render("x", json, NULL), QN_E_TEMPLATE);
    assert_non_null(strstr(err.text, "nested levels"));
    free(json);
    free(text);
}

static void limits(void **state)
{
    (void)state;
    struct template_args a = {.limits = {.steps = 1000}};
    const char *source = "{% for i in range(2000) %}x{% endfor %}";
    free_out();
    assert_int_equal(template_render(source, strlen(source), &a, &out, &err), QN_E_TEMPLATE);
    assert_non_null(strstr(err.text, "over its budget of 1000 steps"));
    a.limits = (struct template_limits){.bytes = 1 << 20};
    source = "{{ 'x' * 1000000 }}";
    assert_int_equal(template_render(source, strlen(source), &a, &out, &err), QN_E_TEMPLATE);
    assert_non_null(strstr(err.text, "over its budget of 1 MiB of memory"));
    a.limits = (struct template_limits){.depth = 20};
    source = "{{ ((((((((((((((((((((((1)))))))))))))))))))))) }}";
    assert_int_equal(template_render(source, strlen(source), &a, &out, &err), QN_E_TEMPLATE);
    assert_non_null(strstr(err.text, "over its budget of 20 nested levels"));
}

/* Building one long string piece by piece costs what is added, and long conversations fit the default budgets. */
static void long_conversation(void **state)
{
    (void)state;
    char *one = repeated("{\"role\": \"user\", \"content\": \"", "Words and more words. ", 200, "\"},");
    char *all = repeated("[", one, 2000, "{\"role\": \"user\", \"content\": \"end\"}]");
    assert_int_equal(render("{% set ns = namespace(t='') %}{% for m in messages %}"
                            "{% set ns.t = ns.t + '<|im_start|>' + m.role + '\\n' + m.content|trim + '<|im_end|>\\n' %}"
                            "{% endfor %}{{ ns.t }}",
                            all, NULL),
                     0);
    assert_true(out.n > 2000 * 4400);
    free(one);
    free(all);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        {"jinja/cases", cases, NULL, NULL, NULL},
        {"chat/goldens", goldens, NULL, NULL, NULL},
        {"chat/thinking_tools", thinking_tools, NULL, NULL, NULL},
        {"template/provenance", provenance, NULL, NULL, NULL},
        {"template/refusals", refusals, NULL, NULL, NULL},
        {"template/raise_text", raise_text, NULL, NULL, NULL},
        {"template/append_and_pop", append_and_pop, NULL, NULL, NULL},
        {"budget/hostile", budgets, NULL, NULL, NULL},
        {"budget/nesting", nesting, NULL, NULL, NULL},
        {"budget/limits", limits, NULL, NULL, NULL},
        {"budget/long_conversation", long_conversation, NULL, NULL, NULL},
    };
    int failed = cmocka_run_group_tests_name("template", tests, NULL, NULL);
    free_out();
    return failed != 0;
}
