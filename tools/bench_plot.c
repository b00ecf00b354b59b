/* SPDX-License-Identifier: MIT */
/* quern bench --plot: a picture of the results, drawn by gnuplot, which is looked for when it is needed.  On top the speed over
 * the depth of the context, reading and writing; below, phase by phase, how much of the time the machine's limit accounts for. */
#include "bench.h"
#include "io.h"
#include "term.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

enum { MOST_BARS = 8, WIDTH = 1000, HEIGHT = 800 };

/* Colours that can be told apart by all (Okabe and Ito). */
static const char *const colours[] = {"#0072b2", "#d55e00", "#009e73", "#cc79a7",
                                      "#e69f00", "#56b4e9", "#7f7f7f", "#b8a400"};
enum { N_COLOURS = sizeof colours / sizeof *colours };

/* Starts gnuplot: standard input from a pipe whose other end is *input, or none when input is NULL; standard output to a file.
 * Returns 0 or an error number. */
static int start_gnuplot(char *const *argv, int *input, const char *output, pid_t *pid)
{
    int fd[2] = {-1, -1};
    posix_spawn_file_actions_t files;
    if (input && pipe2(fd, O_CLOEXEC))
        return errno;
    posix_spawn_file_actions_init(&files);
    if (input)
        posix_spawn_file_actions_adddup2(&files, fd[0], 0);
    else
        posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_addopen(&files, 1, output, O_WRONLY | O_CREAT | O_TRUNC, 0666);
    int rc = posix_spawnp(pid, argv[0], &files, NULL, argv, environ);
    posix_spawn_file_actions_destroy(&files);
    if (fd[0] >= 0)
        close(fd[0]);
    if (rc == 0 && input)
        *input = fd[1];
    else if (fd[1] >= 0)
        close(fd[1]);
    return rc;
}

static bool ended_well(pid_t pid)
{
    int status;
    pid_t got;
    while ((got = waitpid(pid, &status, 0)) < 0 && errno == EINTR)
        ;
    return got == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

void plot_check(const char *path)
{
    char *argv[] = {"gnuplot", "--version", NULL};
    pid_t pid;
    if (start_gnuplot(argv, NULL, "/dev/null", &pid) || !ended_well(pid))
        die("--plot needs the program gnuplot, which cannot be started (Debian: the package gnuplot-nox)");
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
    if (fd < 0)
        die("%s: %s", path, strerror(errno));
    close(fd);
}

/* ---- the script */

struct plot {
    FILE *f;
    const struct printer *p;
    const struct result *results; /* [n] */
    int n;
    int *first; /* [n_series] the first result of each */
    int n_series;
};

/* A text in single quotes; gnuplot doubles them inside, and has no way to keep a line break. */
static void quoted(FILE *f, const char *text)
{
    fputc('\'', f);
    for (; *text; text++)
        if ((unsigned char)*text >= ' ')
            fprintf(f, *text == '\'' ? "''" : "%c", *text);
    fputc('\'', f);
}

static bool same_series(const struct result *a, const struct result *b)
{
    return a->n_threads == b->n_threads && a->n_threads_batch == b->n_threads_batch && a->n_ubatch == b->n_ubatch &&
           a->n_seq == b->n_seq && a->n_prompt == b->n_prompt && a->n_gen == b->n_gen;
}

/* "write 4 x 32, 2 threads" */
static void series_title(const struct result *r, bool ubatch, bool depth, char *out, size_t cap)
{
    struct result plain = *r;
    int n_threads = r->n_gen ? r->n_threads : r->n_threads_batch;
    plain.n_depth = depth ? r->n_depth : 0;
    result_title(&plain, out, cap);
    size_t n = strlen(out);
    n += (size_t)snprintf(out + n, cap - n, ", %d thread%s", n_threads, n_threads > 1 ? "s" : "");
    if (ubatch)
        snprintf(out + n, cap - n, ", -ub %d", r->n_ubatch);
}

/* The data of every series, $s0, $s1 ...: depth, median, least, most. */
static int put_series(FILE *f, const struct result *results, int n, int *first)
{
    int n_series = 0;
    for (int i = 0; i < n; i++) {
        bool seen = false;
        for (int k = 0; k < i; k++)
            seen |= same_series(&results[k], &results[i]);
        if (seen)
            continue;
        first[n_series] = i;
        fprintf(f, "$s%d << end\n", n_series++);
        for (int k = i; k < n; k++)
            if (same_series(&results[k], &results[i]))
                fprintf(f, "%d %.6g %.6g %.6g\n", results[k].n_depth, results[k].median_ts, results[k].least_ts,
                        results[k].most_ts);
        fprintf(f, "end\n");
    }
    return n_series;
}

/* One panel of speeds over depth: the series that read, or that write. */
static void put_speeds(const struct plot *t, bool writes)
{
    FILE *f = t->f;
    const char *command = "plot";
    double top = 0;
    int shown = 0;
    for (int i = 0; i < t->n; i++)
        if ((t->results[i].n_gen > 0) == writes)
            top = t->results[i].most_ts > top ? t->results[i].most_ts : top;
    for (int i = 0; i < t->n_series; i++)
        shown += (t->results[t->first[i]].n_gen > 0) == writes;
    /* above the lines there is room for their names */
    fprintf(f, "set title '%s'\nset yrange [0:%g]\n", writes ? "Writing" : "Reading", top * (1.05 + 0.1 * shown));
    for (int i = 0; i < t->n_series; i++) {
        const struct result *r = &t->results[t->first[i]];
        char title[96];
        if ((r->n_gen > 0) != writes)
            continue;
        series_title(r, t->p->show_ubatch, false, title, sizeof title);
        const char *colour = colours[i % N_COLOURS];
        fprintf(f, "%s $s%d using 1:2:3:4 with yerrorbars notitle lc rgb '%s' lw 1 pt 7 ps 0.01, ", command, i, colour);
        fprintf(f, "$s%d using 1:2 with linespoints lc rgb '%s' lw 2 pt 7 ps 0.7 title ", i, colour);
        quoted(f, title);
        command = ",";
    }
    fputc('\n', f);
}

static double whole_limit(const struct result *r)
{
    double sum = 0;
    for (int p = 0; p < QN_PHASES; p++)
        sum += result_phase_limit(r, p) * r->stats.phase_s[p];
    return r->stats.seconds > 0 ? sum / r->stats.seconds : 0;
}

static void put_limits(FILE *f, const struct printer *p, const struct result *results, int n)
{
    int bars = n < MOST_BARS ? n : MOST_BARS;
    double top = 100;
    fprintf(f, "$limits << end\n");
    for (int phase = 0; phase <= QN_PHASE_OTHER; phase++) { /* the last group is the whole step */
        bool whole = phase == QN_PHASE_OTHER;
        fprintf(f, "\"%s\"", whole ? "whole step" : qn_phase_name((enum qn_phase)phase));
        for (int i = 0; i < bars; i++) {
            double share = 100 * (whole ? whole_limit(&results[i]) : result_phase_limit(&results[i], phase));
            fprintf(f, " %.2f", share);
            top = share > top ? share : top;
        }
        fputc('\n', f);
    }
    fprintf(f,
            "end\nset title 'Share of the limit, by phase'\nset ylabel 'the limit, %% of the time spent'\n"
            "unset xlabel\nset xtics autofreq scale 0\nset yrange [0:%g]\nset style data histograms\n"
            "set style histogram clustered gap 1.5\nset style fill solid 0.9 noborder\nset boxwidth 0.92\n"
            "set key outside right top\nset auto x\nset arrow 1 from graph 0, first 100 to graph 1, first "
            "100 nohead "
            "lc rgb '#999999' dt 2\nplot ",
            1.04 * top);
    for (int i = 0; i < bars; i++) {
        char title[96];
        series_title(&results[i], p->show_ubatch, true, title, sizeof title);
        fprintf(f, "%s$limits using %d%s lc rgb '%s' title ", i ? ", " : "", i + 2, i ? "" : ":xtic(1)",
                colours[i % N_COLOURS]);
        quoted(f, title);
    }
    fputc('\n', f);
}

/* The measured depths, where they do not lie too close together, as marks of the axis. */
static void put_depths(FILE *f, const struct result *results, int n)
{
    int most = 0, last = -1;
    for (int i = 0; i < n; i++)
        most = results[i].n_depth > most ? results[i].n_depth : most;
    fprintf(f, "set xrange [%g:%g]\nset xtics (", -0.03 * (most + 1), 1.06 * (most + 1));
    for (int depth = -1; depth < most;) {
        int next = most;
        for (int i = 0; i < n; i++)
            if (results[i].n_depth > depth && results[i].n_depth < next)
                next = results[i].n_depth;
        depth = next;
        if (last >= 0 && depth - last < most / 12 && depth < most)
            continue;
        fprintf(f, "%s'%d' %d", last < 0 ? "" : ", ", depth, depth);
        last = depth;
    }
    fprintf(f, ")\n");
}

static void put_script(FILE *f, const struct printer *p, const struct result *results, int n)
{
    struct plot t = {.f = f, .p = p, .results = results, .n = n, .first = xmalloc((size_t)n * sizeof *t.first)};
    bool limits = results[0].limits.bytes_s > 0;
    int panels;
    bool has[2] = {false, false};
    for (int i = 0; i < n; i++)
        has[results[i].n_gen > 0] = true;
    panels = has[0] + has[1];
    fprintf(f, "set terminal svg size %d,%d noenhanced font 'Helvetica,Arial,sans-serif,13' background '#ffffff'\n",
            WIDTH, limits ? HEIGHT : HEIGHT / 2);
    t.n_series = put_series(f, results, n, t.first);
    fprintf(f, "\nset multiplot title ");
    quoted(f, p->title);
    fprintf(f, " font ',16'\nset border 3 lc rgb '#444444'\nset tics nomirror out\nset grid y lc rgb '#dddddd' lw 1\n"
               "set style line 1 lw 2\nset key inside top right reverse Left samplen 2 spacing 1.2\nset xlabel 'tokens "
               "in the context'\nset ylabel 'tokens/s'\n");
    put_depths(f, results, n);
    for (int writes = 0, at = 0; writes < 2; writes++) {
        if (!has[writes])
            continue;
        fprintf(f, "set origin %g,%g\nset size %g,%g\n", (double)at++ / panels, limits ? 0.47 : 0.0, 1.0 / panels,
                limits ? 0.47 : 0.94);
        put_speeds(&t, writes);
    }
    if (limits) {
        fprintf(f, "set origin 0,0\nset size 1,0.46\n");
        put_limits(f, p, results, n);
    }
    fprintf(f, "unset multiplot\n");
    free(t.first);
}

void plot_results(const struct printer *p, const char *path, const struct result *results, int n)
{
    char *argv[] = {"gnuplot", "-", NULL};
    int fd;
    pid_t pid;
    int rc = start_gnuplot(argv, &fd, path, &pid);
    if (rc)
        die("gnuplot: %s", strerror(rc));
    signal(SIGPIPE, SIG_IGN); /* what went wrong is seen at its end */
    FILE *f = fdopen(fd, "w");
    if (!f)
        die("gnuplot: %s", strerror(errno));
    put_script(f, p, results, n);
    fclose(f);
    if (!ended_well(pid))
        die("%s: gnuplot could not draw it", path);
    say("the picture is in %s", path);
}
