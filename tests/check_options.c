/* SPDX-License-Identifier: MIT */
/* The options table against itself, the parser, --help and the man pages: each must say what the others say. */
#include "tools/opts.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* ---- helpers */

static char *slurp(const char *path)
{
    FILE *f = fopen(path, "rb");
    if (!f)
        fail_msg("%s cannot be opened", path);
    char *text = calloc(1, 1 << 20);
    assert_non_null(text);
    size_t n = fread(text, 1, (1 << 20) - 1, f);
    assert_true(n < (1 << 20) - 1);
    fclose(f);
    return text;
}

static char *help_of(enum cmd cmd, int width)
{
    char *text = NULL;
    size_t n = 0;
    FILE *f = open_memstream(&text, &n);
    assert_non_null(f);
    opts_help(f, cmd, width);
    fclose(f);
    return text;
}

/* One blank for every run of blank space. */
static void squeeze(char *s)
{
    char *to = s;
    for (char *p = s; *p; p++)
        if (*p != ' ' && *p != '\n' && *p != '\t')
            *to++ = *p;
        else if (to > s && to[-1] != ' ')
            *to++ = ' ';
    while (to > s && to[-1] == ' ')
        to--;
    *to = 0;
}

/* Parses a command line given as words; the result's options stay valid as long as the words. */
static bool parse(struct opts *o, enum cmd cmd, char *err, size_t cap, ...)
{
    char *argv[32];
    int argc = 0;
    va_list ap;
    va_start(ap, cap);
    for (char *word; (word = va_arg(ap, char *)); argc++)
        argv[argc] = word;
    va_end(ap);
    return opts_parse(o, cmd, argc, argv, err, cap);
}
#define PARSE(o, cmd, ...) parse(o, cmd, err, sizeof err, __VA_ARGS__, NULL)

/* ---- the table */

static void table_names(void **state)
{
    for (int cmd = 0; cmd < CMD_COUNT; cmd++)
        for (int i = 0; i < opt_table_rows; i++) {
            const struct opt *row = &opt_table[i];
            char spelling[200], copy[200];
            if (!opt_has(row, (enum cmd)cmd))
                continue;
            opt_spelling(row, spelling, sizeof spelling);
            strcpy(copy, spelling);
            for (char *word = strtok(copy, " ,"); word && word[0] == '-'; word = strtok(NULL, " ,"))
                if (opt_find((enum cmd)cmd, word, strlen(word)) != row)
                    fail_msg("%s: %s is taken twice", cmd_infos[cmd].name, word);
        }
}

static void table_rows(void **state)
{
    for (int i = 0; i < opt_table_rows; i++) {
        const struct opt *row = &opt_table[i];
        size_t n = strlen(row->help);
        if (!row->cmds || n < 10 || row->help[n - 1] != '.')
            fail_msg("--%s: nobody takes it, or its help is no sentence", row->name);
        if ((row->kind == OPT_FLAG) != !row->arg)
            fail_msg("--%s: a flag has no argument, everything else has one", row->name);
        if ((row->kind == OPT_CHOICE) != !!row->choices)
            fail_msg("--%s: choices belong to a choice", row->name);
        if ((row->kind == OPT_INT || row->kind == OPT_REAL || row->kind == OPT_INTS) && !(row->min < row->max))
            fail_msg("--%s: no range", row->name);
    }
}

static void table_defaults(void **state)
{
    struct opts o;
    char err[256];
    for (int cmd = 0; cmd < CMD_COUNT; cmd++) {
        if (!opts_parse(&o, (enum cmd)cmd, 0, NULL, err, sizeof err))
            fail_msg("%s: a default is refused: %s", cmd_infos[cmd].name, err);
        opts_free(&o);
    }
}

/* ---- the parser */

static void parse_values(void **state)
{
    struct opts o;
    char err[256];
    assert_true(PARSE(&o, CMD_CHAT, "-m", "x.gguf", "--ctx-size=77", "-t", "3", "--temp", "0.25", "-s",
                      "18446744073709551614", "--stop", "-end-", "-r", "b", "-ctk", "f32", "--ignore-eos", "-n", "-1"));
    assert_string_equal(o.model, "x.gguf");
    assert_int_equal(o.n_ctx, 77);
    assert_int_equal(o.n_threads, 3);
    assert_true(o.temp == 0.25);
    assert_true(o.seed == 18446744073709551614u);
    assert_int_equal(o.stop.n, 2);
    assert_string_equal(o.stop.v[0], "-end-");
    assert_string_equal(o.type_k, "f32");
    assert_string_equal(o.type_v, "f16");
    assert_true(o.ignore_eos);
    assert_int_equal(o.n_predict, -1);
    assert_true(GIVEN(&o, temp) && !GIVEN(&o, top_k) && GIVEN(&o, n_predict));
    opts_free(&o);
}

static void parse_lists(void **state)
{
    struct opts o;
    char err[256];
    assert_true(PARSE(&o, CMD_BENCH, "-p", "512,1024", "-n", "0", "-t", "1,2,4", "--format", "csv"));
    assert_int_equal(o.list_p.n, 2);
    assert_int_equal(o.list_p.v[1], 1024);
    assert_int_equal(o.list_n.n, 1);
    assert_int_equal(o.list_n.v[0], 0);
    assert_int_equal(o.list_t.v[2], 4);
    assert_int_equal(o.n_repeat, 5);
    opts_free(&o);
}

static void parse_model_argument(void **state)
{
    struct opts o;
    char err[256];
    assert_true(PARSE(&o, CMD_INSPECT, "a.gguf", "--check"));
    assert_string_equal(o.model, "a.gguf");
    assert_true(o.check);
    assert_false(PARSE(&o, CMD_INSPECT, "a.gguf", "b.gguf"));
    assert_false(PARSE(&o, CMD_RUN, "a.gguf"));
    assert_true(PARSE(&o, CMD_INSPECT, "--", "-odd.gguf"));
    assert_string_equal(o.model, "-odd.gguf");
}

static void parse_seeds(void **state)
{
    struct opts o;
    char err[256];
    assert_true(PARSE(&o, CMD_RUN, "-s", "-1") && o.seed == UINT64_MAX);
    assert_true(PARSE(&o, CMD_RUN, "--seed", "random") && o.seed == UINT64_MAX);
    assert_true(PARSE(&o, CMD_RUN, "-s", "0") && o.seed == 0);
    assert_true(PARSE(&o, CMD_RUN, "--top-k", "1") && o.seed == UINT64_MAX);
    assert_false(PARSE(&o, CMD_RUN, "-s", "-2"));
    assert_false(PARSE(&o, CMD_RUN, "-s", "18446744073709551616"));
    assert_false(PARSE(&o, CMD_RUN, "-s", "1x"));
}

static void parse_refuses(void **state)
{
    static const struct {
        enum cmd cmd;
        const char *words[3], *says;
    } cases[] = {
        {CMD_CHAT, {"--nonsense"}, "unknown option --nonsense"},
        {CMD_CHAT, {"-ngl", "1"}, "unknown option -ngl"},
        {CMD_CHAT, {"--temp"}, "--temp needs a value"},
        {CMD_CHAT, {"--temp", "warm"}, "'warm' is not a number"},
        {CMD_CHAT, {"--temp", "nan"}, "not a number"},
        {CMD_CHAT, {"--temp", ""}, "not a number"},
        {CMD_CHAT, {"--temp", " 1"}, "not a number"},
        {CMD_CHAT, {"--temp", "-0.1"}, "-0.1 is not within 0 to 1000"},
        {CMD_CHAT, {"--top-p", "1.5"}, "1.5 is not within 0 to 1"},
        {CMD_CHAT, {"-t", "1025"}, "1025 is not within 0 to 1024"},
        {CMD_CHAT, {"-t", "2.5"}, "not a whole number"},
        {CMD_CHAT, {"-t", "1e2"}, "not a whole number"},
        {CMD_CHAT, {"-ub", "0"}, "0 is not within 1 to 8192"},
        {CMD_CHAT, {"-c", "99999999999999999999"}, "is not within 0 to 16777216"},
        {CMD_CHAT, {"--isa", "sse2"}, "'sse2' is none of auto|c|avx2"},
        {CMD_CHAT, {"--isa", "auto|c"}, "is none of"},
        {CMD_CHAT, {"--ignore-eos=1"}, "takes no value"},
        {CMD_CHAT, {"hello"}, "unexpected argument 'hello'"},
        {CMD_CHAT, {"-p", "x"}, "unknown option -p"},
        {CMD_BENCH, {"-p", "1,,2"}, "not a number"},
        {CMD_BENCH, {"-p", "1,2,"}, "not a number"},
        {CMD_BENCH, {"-r", "0"}, "0 is not within 1 to 10000"},
        {CMD_LOGITS, {"--temp", "1"}, "unknown option --temp"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct opts o;
        char err[256] = "";
        int argc = cases[i].words[1] ? 2 : 1;
        if (opts_parse(&o, cases[i].cmd, argc, (char **)cases[i].words, err, sizeof err))
            fail_msg("case %zu: %s %s was accepted", i, cases[i].words[0], argc > 1 ? cases[i].words[1] : "");
        if (!strstr(err, cases[i].says))
            fail_msg("case %zu: '%s' does not say '%s'", i, err, cases[i].says);
        opts_free(&o);
    }
}

/* ---- --help: exactly the rows of the table, each with its facts */

static void check_help(enum cmd cmd, int width)
{
    char *help = help_of(cmd, width);
    int n_lines = 0, n_rows = 0;
    for (char *p = help; (p = strstr(p, "\n  -")); p++)
        n_lines++;
    char *flat = strdup(help);
    squeeze(flat);
    for (int i = 0; i < opt_table_rows; i++) {
        char spelling[200], facts[200], want[900];
        if (!opt_has(&opt_table[i], cmd))
            continue;
        n_rows++;
        opt_spelling(&opt_table[i], spelling, sizeof spelling);
        opt_facts(&opt_table[i], facts, sizeof facts);
        snprintf(want, sizeof want, facts[0] ? " %s %s (%s)" : " %s %s", spelling, opt_table[i].help, facts);
        if (!strstr(flat, want))
            fail_msg("quern %s --help lacks '%s'", cmd_infos[cmd].name, want);
    }
    if (n_lines != n_rows)
        fail_msg("quern %s --help has %d options, the table %d", cmd_infos[cmd].name, n_lines, n_rows);
    for (char *line = strtok(help, "\n"); line; line = strtok(NULL, "\n")) /* a single word may be longer */
        if ((int)strlen(line) > width && strchr(line + strspn(line, " "), ' ') && line[2] == ' ')
            fail_msg("quern %s --help: a line is wider than %d: %s", cmd_infos[cmd].name, width, line);
    free(help);
    free(flat);
}

static void help_matches(void **state)
{
    for (int cmd = 0; cmd < CMD_COUNT; cmd++) {
        check_help((enum cmd)cmd, 80);
        check_help((enum cmd)cmd, 120);
    }
}

/* ---- man pages: exactly the rows that belong there, each with its facts */

/* ".It Fl c , Fl -ctx-size Ar N" -> "-c, --ctx-size N" */
static void item_spelling(const char *line, char *out, size_t cap)
{
    char copy[400];
    size_t n = 0;
    const char *prefix = "";
    snprintf(copy, sizeof copy, "%s", line + strlen(".It"));
    out[0] = 0;
    for (char *word = strtok(copy, " "); word && n < cap; word = strtok(NULL, " ")) {
        if (!strcmp(word, "Fl"))
            prefix = "-";
        else if (!strcmp(word, "Ar"))
            prefix = "";
        else {
            bool comma = !strcmp(word, ",");
            n += (size_t)snprintf(out + n, cap - n, "%s%s%s", n && !comma ? " " : "", prefix, word);
            prefix = "";
        }
    }
}

/* The text of an item: its lines up to the next macro that ends it, without escapes. */
static void item_body(const char *line, char *out, size_t cap)
{
    size_t n = 0;
    for (const char *p = strchr(line, '\n') + 1; *p && strncmp(p, ".It", 3) && strncmp(p, ".El", 3);
         p = strchr(p, '\n') + 1) {
        for (const char *c = p; *c != '\n' && n + 2 < cap; c++)
            if (*c != '\\')
                out[n++] = *c;
        out[n++] = ' ';
    }
    out[n] = 0;
    squeeze(out);
}

/* Counts the page's option items, and fails for one that is not in the table as `is_row` says. */
static void check_page(const char *name, bool (*belongs)(const struct opt *, int), int cmd)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s.1", MAN_DIR, name);
    char *text = slurp(path);
    int *seen = calloc((size_t)opt_table_rows, sizeof *seen);
    for (char *p = text; (p = strstr(p, "\n.It Fl ")); p++) {
        char line[400], spelling[400], have[300], facts[300], body[2000];
        snprintf(line, sizeof line, "%.*s", (int)strcspn(p + 1, "\n"), p + 1);
        item_spelling(line, spelling, sizeof spelling);
        item_body(p + 1, body, sizeof body);
        int found = -1;
        for (int i = 0; i < opt_table_rows && found < 0; i++) {
            opt_spelling(&opt_table[i], have, sizeof have);
            if (belongs(&opt_table[i], cmd) && !strcmp(have, spelling))
                found = i;
        }
        if (found < 0)
            fail_msg("%s: '%s' is not in the options table", path, spelling);
        seen[found]++;
        opt_facts(&opt_table[found], facts, sizeof facts);
        char *bracketed = NULL;
        assert_true(asprintf(&bracketed, "(%s)", facts) > 0);
        if (facts[0] && !strstr(body, bracketed))
            fail_msg("%s: %s does not say '%s' but '%s'", path, spelling, bracketed, body);
        if (strlen(body) < strlen(facts) + 10)
            fail_msg("%s: %s has no description", path, spelling);
        free(bracketed);
    }
    for (int i = 0; i < opt_table_rows; i++)
        if (belongs(&opt_table[i], cmd) != seen[i])
            fail_msg("%s: --%s stands there %d times", path, opt_table[i].name, seen[i]);
    free(seen);
    free(text);
}

static bool own(const struct opt *row, int cmd) { return row->group == GROUP_OWN && opt_has(row, (enum cmd)cmd); }
static bool shared(const struct opt *row, int cmd) { return row->group != GROUP_OWN; }

static void man_matches(void **state)
{
    check_page("quern", shared, -1);
    for (int cmd = 0; cmd < CMD_COUNT; cmd++) {
        char name[64], path[512], want[200];
        snprintf(name, sizeof name, "quern-%s", cmd_infos[cmd].name);
        check_page(name, own, cmd);
        snprintf(path, sizeof path, "%s/%s.1", MAN_DIR, name);
        char *text = slurp(path);
        snprintf(want, sizeof want, "\n.Nd %s\n", cmd_infos[cmd].brief);
        if (!strstr(text, want))
            fail_msg("%s: its one-line description is not '%s'", path, cmd_infos[cmd].brief);
        /* the shared groups that the command takes are named, others are not */
        static const char *const titles[GROUP_COUNT] = {NULL, "model options", "computation options",
                                                        "generation and sampling options"};
        for (int g = GROUP_MODEL; g < GROUP_COUNT; g++) {
            bool takes = false;
            for (int i = 0; i < opt_table_rows; i++)
                takes = takes || (opt_table[i].group == (enum opt_group)g && opt_has(&opt_table[i], (enum cmd)cmd));
            if (takes != !!strstr(text, titles[g]))
                fail_msg("%s: %s the %s", path, takes ? "does not name" : "names", titles[g]);
        }
        free(text);
    }
}

static void man_lists_commands(void **state)
{
    char path[512], want[64];
    snprintf(path, sizeof path, "%s/quern.1", MAN_DIR);
    char *text = slurp(path);
    for (int cmd = 0; cmd < CMD_COUNT; cmd++) {
        snprintf(want, sizeof want, "\n.It Ic %s\n", cmd_infos[cmd].name);
        if (!strstr(text, want))
            fail_msg("%s: no '%s'", path, want);
        snprintf(want, sizeof want, "\n.Xr quern-%s 1", cmd_infos[cmd].name);
        if (!strstr(text, want))
            fail_msg("%s: no '%s'", path, want);
    }
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        {"options/table_names", table_names, NULL, NULL, NULL},
        {"options/table_rows", table_rows, NULL, NULL, NULL},
        {"options/table_defaults", table_defaults, NULL, NULL, NULL},
        {"options/parse_values", parse_values, NULL, NULL, NULL},
        {"options/parse_lists", parse_lists, NULL, NULL, NULL},
        {"options/parse_model_argument", parse_model_argument, NULL, NULL, NULL},
        {"options/parse_seeds", parse_seeds, NULL, NULL, NULL},
        {"options/parse_refuses", parse_refuses, NULL, NULL, NULL},
        {"options/help_matches", help_matches, NULL, NULL, NULL},
        {"options/man_matches", man_matches, NULL, NULL, NULL},
        {"options/man_lists_commands", man_lists_commands, NULL, NULL, NULL},
    };
    return cmocka_run_group_tests_name("options", tests, NULL, NULL);
}
