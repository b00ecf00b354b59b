/* SPDX-License-Identifier: MIT */
/* Text on its way out: stop texts that are cut across pieces, and thinking set apart from the answer, for every way of
 * cutting a stream. */
#include "tools/gen.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void stop_finds(void **state)
{
    static const struct {
        const char *text, *stop[3];
        bool found;
        size_t at;
    } cases[] = {
        {"hello world", {"wor"}, true, 6},
        {"hello wo", {"wor"}, false, 6},
        {"hello", {"xyz"}, false, 5},
        {"aab", {"aabaac"}, false, 0},
        {"aaab", {"aabaac"}, false, 1},
        {"abcabd", {"abd", "ca"}, true, 2},
        {"xxSTOPyy", {"STOPY", "OP"}, true, 4},
        {"xxSTO", {"OZ", "STOP"}, false, 2},
        {"", {"a"}, false, 0},
        {"a", {"a"}, true, 0},
        {"ends with \n", {"\n\n"}, false, 10},
        {"text", {""}, false, 4},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *list[3];
        struct strings stop = {.v = list};
        while (stop.n < 3 && cases[i].stop[stop.n]) {
            list[stop.n] = cases[i].stop[stop.n];
            stop.n++;
        }
        size_t at = 999;
        bool found = stop_find(&stop, cases[i].text, strlen(cases[i].text), &at);
        if (found != cases[i].found || at != cases[i].at)
            fail_msg("case %zu: found %d at %zu, wanted %d at %zu", i, found, at, cases[i].found, cases[i].at);
    }
}

struct parts {
    struct text thought, answer;
};

static void keep(void *cookie, bool thinking, const char *bytes, size_t n)
{
    struct parts *p = cookie;
    text_put(thinking ? &p->thought : &p->answer, bytes, n);
}

/* Feeds the text in pieces of `cut` bytes. */
static void split(const char *text, bool inside, size_t cut, const char *thought, const char *answer)
{
    struct think t;
    struct parts p = {0};
    size_t n = strlen(text);
    text_put(&p.thought, "", 0);
    text_put(&p.answer, "", 0);
    think_begin(&t, inside);
    for (size_t i = 0; i < n; i += cut)
        think_put(&t, text + i, n - i < cut ? n - i : cut, keep, &p);
    think_end(&t, keep, &p);
    if (strcmp(p.thought.s, thought) || strcmp(p.answer.s, answer))
        fail_msg("'%s' in pieces of %zu: thought '%s', answer '%s'", text, cut, p.thought.s, p.answer.s);
    text_free(&p.thought);
    text_free(&p.answer);
}

static void thinking_is_cut_off(void **state)
{
    for (size_t cut = 1; cut < 40; cut++) {
        split("<think>\nhm\n</think>\n\nYes.", false, cut, "\nhm\n", "Yes.");
        split("\n<think>hm</think>Yes.", false, cut, "hm", "Yes.");
        split("hm\n</think>\n\nYes.\n", true, cut, "hm\n", "Yes.\n");
        split("never ends </thin", true, cut, "never ends </thin", "");
        split("Just <think>text</think>.", false, cut, "", "Just <think>text</think>.");
        split("  indented", false, cut, "", "  indented");
        split("<thin", false, cut, "", "<thin");
        split("<think></think>", false, cut, "", "");
        split("a </think> b </think> c", true, cut, "a ", "b </think> c");
        split("", false, cut, "", "");
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        {"gen/stop_finds", stop_finds, NULL, NULL, NULL},
        {"gen/thinking_is_cut_off", thinking_is_cut_off, NULL, NULL, NULL},
    };
    return cmocka_run_group_tests_name("gen", tests, NULL, NULL);
}
