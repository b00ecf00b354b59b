/* SPDX-License-Identifier: MIT */
/* What the parts of quern bench hand to each other: a row of the result, and where it goes. */
#ifndef QUERN_BENCH_H
#define QUERN_BENCH_H

#include "bench_limits.h"
#include "setup.h"

/* What was measured, and what came out. */
struct result {
    int n_threads, n_threads_batch, n_ubatch;
    int n_seq; /* sequences that write together */
    int n_prompt, n_gen; /* tokens of each sequence; one of the two is 0 */
    int n_depth; /* tokens in front of them */
    int n_guesses, right; /* tokens guessed at once; how many % of the guesses are right whose forerunners are */

    int n_repeat;
    double *s; /* [n_repeat] seconds of each measurement */
    int n_tokens; /* of a measurement, all sequences */
    double avg_ns, sd_ns, avg_ts, sd_ts; /* mean and standard deviation */
    double median_ts, least_ts, most_ts; /* tokens a second */
    struct qn_stats stats; /* sums over all measurements */
    struct limits limits;
};

/* Shares of what the machine can do, 0..1; 0 where a limit is not known. */
double result_share_bytes(const struct result *r);
double result_share_ops(const struct result *r);
double result_bytes_per_token(const struct result *r);
double result_experts(const struct result *r); /* different experts in a layer, mean; 0 without */
double result_barriers(const struct result *r); /* in a step, mean */
/* Of the time that the workers spend in a phase: the share that its bytes or its operations, whichever need longer, cannot do
 * without; integer and float operations add up.  0 where it has neither. */
double result_phase_limit(const struct result *r, int phase);
/* "write 32 after 8192", "write 4 x 32" */
void result_title(const struct result *r, char *out, size_t cap);

/* ---- bench_print.c */
struct printer {
    const char *format; /* table, csv, json or md */
    const char *model, *type_k, *type_v, *delta;
    struct qn_model_info info; /* while the model is open */
    char title[256]; /* of the picture: model and level */
    bool barriers; /* rows are about barriers */
    bool show_ubatch; /* rows differ in it */
    int n; /* rows so far */
};
void print_result(struct printer *p, const struct result *r); /* a row as soon as it is measured */
/* What follows all n rows: breakdown and limits in the formats for people. */
void print_end(struct printer *p, const struct result *results, int n);

/* ---- bench_plot.c */
void plot_check(const char *path); /* ends the program when there is no gnuplot or the file cannot be written */
void plot_results(const struct printer *p, const char *path, const struct result *results, int n);

/* ---- bench_barriers.c */
void print_barriers(struct printer *p, const struct result *r);

#endif
