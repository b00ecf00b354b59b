/* SPDX-License-Identifier: MIT */
/* Messages, colours, progress, standard output and the ways to end the program. */
#include "term.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

static bool in_tty, out_tty, err_tty, dumb;
static bool bar_visible; /* a progress bar stands on the current line of standard error */
static volatile sig_atomic_t interrupt_flag;
static char temp_path[4096]; /* "" = none; read by signal handlers */

bool term_in(void) { return in_tty; }
bool term_out(void) { return out_tty; }
bool term_err(void) { return err_tty; }

const char *term_dim(void) { return out_tty && !dumb ? "\033[2m" : ""; }
const char *term_bold(void) { return out_tty && !dumb ? "\033[1m" : ""; }
const char *term_plain(void) { return out_tty && !dumb ? "\033[0m" : ""; }

int term_width(void)
{
    struct winsize w;
    if ((out_tty && !ioctl(STDOUT_FILENO, TIOCGWINSZ, &w) && w.ws_col) ||
        (err_tty && !ioctl(STDERR_FILENO, TIOCGWINSZ, &w) && w.ws_col))
        return w.ws_col;
    return 80;
}

double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* ---- ending */

static void on_deadly_signal(int sig)
{
    if (temp_path[0])
        unlink(temp_path);
    signal(sig, SIG_DFL);
    raise(sig);
}

static void on_interrupt(int sig) { interrupt_flag = 1; }

static void set_handler(int sig, void (*handler)(int))
{
    /* no SA_RESTART: a read from the terminal must come back */
    struct sigaction a = {.sa_handler = handler};
    sigemptyset(&a.sa_mask);
    sigaction(sig, &a, NULL);
}

void interrupt_catch(bool on) { set_handler(SIGINT, on ? on_interrupt : on_deadly_signal); }
bool interrupted(void) { return interrupt_flag; }
void interrupt_clear(void) { interrupt_flag = 0; }

/* A signal that was ignored when the program began (nohup, a background job) stays ignored. */
static void set_deadly(int sig)
{
    struct sigaction old;
    if (!sigaction(sig, NULL, &old) && old.sa_handler != SIG_IGN)
        set_handler(sig, on_deadly_signal);
}

void term_init(void)
{
    in_tty = isatty(STDIN_FILENO);
    out_tty = isatty(STDOUT_FILENO);
    err_tty = isatty(STDERR_FILENO);
    const char *term = getenv("TERM");
    dumb = !term || !*term || !strcmp(term, "dumb");
    signal(SIGPIPE, SIG_IGN); /* writes then fail with EPIPE, */
    signal(SIGXFSZ, SIG_IGN); /* and with EFBIG */
    set_deadly(SIGINT);
    set_deadly(SIGTERM);
    set_deadly(SIGHUP);
}

void temp_register(const char *path)
{
    if (strlen(path) < sizeof temp_path)
        strcpy(temp_path, path);
}

void temp_keep(void) { temp_path[0] = 0; }

void temp_remove(void)
{
    if (temp_path[0])
        unlink(temp_path);
    temp_path[0] = 0;
}

static void end_program(int status) __attribute__((noreturn));
static void end_program(int status)
{
    temp_remove();
    fflush(stdout); /* what was printed before an error stays printed */
    _exit(status);
}

static void wipe_bar(void)
{
    if (bar_visible)
        fputs("\r\033[K", stderr);
    bar_visible = false;
}

static void say_list(const char *fmt, va_list ap)
{
    char line[2048];
    vsnprintf(line, sizeof line, fmt, ap);
    for (char *p = line; *p; p++) /* names come from files and the command line */
        if ((unsigned char)*p < ' ' || *p == 127)
            *p = '?';
    wipe_bar();
    fprintf(stderr, "quern: %s\n", line);
}

void say(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    say_list(fmt, ap);
    va_end(ap);
}

void die(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    fflush(stdout);
    say_list(fmt, ap);
    va_end(ap);
    end_program(1);
}

void usage(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    say_list(fmt, ap);
    va_end(ap);
    end_program(2);
}

void *xrealloc(void *p, size_t bytes)
{
    p = realloc(p, bytes ? bytes : 1);
    if (!p)
        die("out of memory: %zu bytes", bytes);
    return p;
}

void *xmalloc(size_t bytes)
{
    void *p = calloc(1, bytes ? bytes : 1);
    if (!p)
        die("out of memory: %zu bytes", bytes);
    return p;
}

char *xstrdup(const char *s) { return strcpy(xmalloc(strlen(s) + 1), s); }

char *xprintf(const char *fmt, ...)
{
    va_list ap;
    char *out;
    va_start(ap, fmt);
    if (vasprintf(&out, fmt, ap) < 0)
        die("out of memory");
    va_end(ap);
    return out;
}

/* ---- standard output */

static void out_failed(void) __attribute__((noreturn));
static void out_failed(void)
{
    int e = errno;
    temp_remove();
    if (e != EPIPE)
        say("standard output: %s", strerror(e));
    _exit(1);
}

void out_write(const void *bytes, size_t n)
{
    if (n && fwrite(bytes, 1, n, stdout) != n)
        out_failed();
}

void out_text(const char *s) { out_write(s, strlen(s)); }

void out_printf(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    if (vprintf(fmt, ap) < 0)
        out_failed();
    va_end(ap);
}

void out_flush(void)
{
    if (fflush(stdout))
        out_failed();
}

/* ---- progress */

enum { BAR_MIN = 10, BAR_MAX = 40 };
static const double BAR_AFTER_S = 2, BAR_EVERY_S = 0.1;

void progress_begin(struct progress *p, const char *what) { *p = (struct progress){.what = what, .start = now_s()}; }

static void format_left(char *out, size_t cap, double share, double elapsed)
{
    out[0] = 0;
    if (share <= 0 || share >= 1)
        return;
    double left = elapsed / share * (1 - share);
    if (left < 360000)
        snprintf(out, cap, "%d:%02d left", (int)left / 60, (int)left % 60);
}

void progress_set(struct progress *p, double share, const char *detail)
{
    double now = now_s();
    if (!err_tty || dumb || now - p->start < BAR_AFTER_S || now - p->shown < BAR_EVERY_S)
        return;
    p->shown = now;
    share = share < 0 ? 0 : share > 1 ? 1 : share;
    char left[32];
    format_left(left, sizeof left, share, now - p->start);
    int width = term_width() - 1;
    int room = width - (int)strlen(p->what) - (int)strlen(detail) - (int)strlen(left) - 12;
    int bar = room > BAR_MAX ? BAR_MAX : room < BAR_MIN ? 0 : room, full = (int)(share * bar);
    char line[512];
    int n = snprintf(line, sizeof line, "%s [%.*s%*s] %3.0f%%  %s%s%s", p->what, full,
                     "########################################", bar - full, "", share * 100, detail,
                     *detail ? "  " : "", left);
    if (n > width)
        n = width;
    fprintf(stderr, "\r\033[K%.*s", n, line);
    fflush(stderr);
    p->visible = bar_visible = true;
}

void progress_end(struct progress *p)
{
    if (p->visible)
        wipe_bar();
    p->visible = false;
}
