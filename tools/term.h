/* SPDX-License-Identifier: MIT */
/* What a person sees besides the results: messages, colours, progress bars, and how the program ends.
 * Results go to standard output through out_*(), everything else to standard error. */
#ifndef QUERN_TERM_H
#define QUERN_TERM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

void term_init(void); /* once, first thing in main() */

bool term_in(void); /* standard input is a terminal */
bool term_out(void); /* standard output is a terminal */
bool term_err(void); /* standard error is a terminal */
int term_width(void); /* columns of the terminal, 80 when there is none */

/* Escape sequences, or "" where standard output is no terminal. */
const char *term_dim(void);
const char *term_bold(void);
const char *term_plain(void);

double now_s(void); /* monotonic, seconds */

/* One line "quern: ..." on standard error; control characters are replaced, a progress bar is taken away first. */
void say(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* The same, then exit status 1 (failure) or 2 (wrong usage); registered temporary files are removed. */
void die(const char *fmt, ...) __attribute__((format(printf, 1, 2), noreturn));
void usage(const char *fmt, ...) __attribute__((format(printf, 1, 2), noreturn));
void *xrealloc(void *p, size_t bytes); /* ends the program when there is no memory */
void *xmalloc(size_t bytes); /* zeroed */
char *xstrdup(const char *s);
char *xprintf(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* Standard output.  A closed pipe ends the program quietly with status 1, any other failure with a message. */
void out_write(const void *bytes, size_t n);
void out_text(const char *s);
void out_printf(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void out_flush(void);

/* Files that vanish when the program ends before temp_keep(). */
void temp_register(const char *path);
void temp_keep(void); /* forget the registered file */
void temp_remove(void);

/* Ctrl-C.  By default it ends the program; while caught it only sets a flag. */
void interrupt_catch(bool on);
bool interrupted(void); /* since the last interrupt_clear() */
void interrupt_clear(void);

/* Progress bar on standard error: on a terminal only, and only once something has taken two seconds. */
struct progress {
    const char *what;
    double start, shown;
    bool visible;
};
void progress_begin(struct progress *p, const char *what);
/* share 0..1; detail is shown behind the bar, may be "".  Time left is estimated. */
void progress_set(struct progress *p, double share, const char *detail);
void progress_end(struct progress *p); /* wipes it */

#endif
