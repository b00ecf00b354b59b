/* SPDX-License-Identifier: MIT */
/* Line editing with libedit.  The history is kept in $XDG_STATE_HOME/quern/history (~/.local/state), readable by its
 * owner only. */
#include "line.h"
#include "term.h"

#include <histedit.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { HISTORY_LINES = 1000 };

struct line_editor {
    EditLine *el;
    History *history;
    char path[PATH_MAX]; /* of the history; "" = none */
    const char *prompt;
};

static char *get_prompt(EditLine *el)
{
    struct line_editor *l;
    static char prompt[8];
    el_get(el, EL_CLIENTDATA, &l);
    snprintf(prompt, sizeof prompt, "%s", l->prompt);
    return prompt;
}

/* Makes the folders on the way to path. */
static void make_folders(char *path)
{
    for (char *p = path + 1; (p = strchr(p, '/')); p++) {
        *p = 0;
        mkdir(path, 0700);
        *p = '/';
    }
}

static void find_history(struct line_editor *l)
{
    const char *state = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
    int n = -1;
    if (state && *state == '/')
        n = snprintf(l->path, sizeof l->path, "%s/quern/history", state);
    else if (home && *home == '/')
        n = snprintf(l->path, sizeof l->path, "%s/.local/state/quern/history", home);
    if (n < 0 || n >= (int)sizeof l->path)
        l->path[0] = 0;
}

struct line_editor *line_editor_new(void)
{
    struct line_editor *l = xmalloc(sizeof *l);
    HistEvent ev;
    l->prompt = "> ";
    l->el = el_init("quern", stdin, stdout, stderr);
    l->history = history_init();
    if (!l->el || !l->history)
        die("the terminal cannot be used for line editing");
    history(l->history, &ev, H_SETSIZE, HISTORY_LINES);
    history(l->history, &ev, H_SETUNIQUE, 1);
    el_set(l->el, EL_CLIENTDATA, l);
    el_set(l->el, EL_PROMPT, get_prompt);
    el_set(l->el, EL_EDITOR, "emacs");
    el_set(l->el, EL_HIST, history, l->history);
    el_source(l->el, NULL); /* ~/.editrc */
    find_history(l);
    if (l->path[0])
        history(l->history, &ev, H_LOAD, l->path);
    return l;
}

static void save_history(struct line_editor *l)
{
    HistEvent ev;
    if (!l->path[0])
        return;
    make_folders(l->path);
    mode_t mask = umask(077);
    history(l->history, &ev, H_SAVE, l->path);
    umask(mask);
}

void line_editor_free(struct line_editor *l)
{
    if (!l)
        return;
    history_end(l->history);
    el_end(l->el);
    free(l);
}

/* One line without its newline, into t.  1; 0 at the end; -1 when interrupted. */
static int read_line(struct line_editor *l, const char *prompt, struct text *t)
{
    int n = 0;
    l->prompt = prompt;
    interrupt_clear();
    const char *line = el_gets(l->el, &n);
    if (interrupted() && !line) { /* behind a whole line it is meant for the answer */
        interrupt_clear();
        el_reset(l->el);
        out_text("\n");
        out_flush();
        return -1;
    }
    if (!line || n <= 0) {
        out_text("\n");
        return 0;
    }
    while (n && strchr("\r\n", line[n - 1]))
        n--;
    text_put(t, line, (size_t)n);
    return 1;
}

/* The rest of a text that ends with a line of three quotes. */
static int read_quoted(struct line_editor *l, struct text *t)
{
    t->n = 0;
    for (;;) {
        struct text line = {0};
        int got = read_line(l, ". ", &line);
        bool end = got > 0 && !strcmp(line.s, "\"\"\"");
        if (got > 0 && !end) {
            if (t->n)
                text_put(t, "\n", 1);
            text_put(t, line.s, line.n);
        }
        text_free(&line);
        if (got <= 0 || end)
            return got;
    }
}

bool line_read_turn(struct line_editor *l, struct text *turn)
{
    for (;;) {
        turn->n = 0;
        text_put(turn, "", 0);
        int got = read_line(l, "> ", turn);
        bool quoted = got > 0 && !strcmp(turn->s, "\"\"\"");
        if (quoted)
            got = read_quoted(l, turn);
        while (got > 0 && !quoted && turn->n && turn->s[turn->n - 1] == '\\') {
            turn->s[turn->n - 1] = '\n';
            got = read_line(l, ". ", turn);
        }
        if (!got)
            return false;
        if (got > 0 && turn->n) {
            HistEvent ev;
            history(l->history, &ev, H_ENTER, turn->s);
            save_history(l);
            return true;
        }
    }
}
