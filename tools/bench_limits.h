/* SPDX-License-Identifier: MIT */
/* What the machine can do at most with a number of threads. */
#ifndef QUERN_BENCH_LIMITS_H
#define QUERN_BENCH_LIMITS_H

struct limits {
    int n_threads;
    double bytes_s; /* reading from memory */
    double int_ops_s; /* multiplications and additions in dots of bytes; 0: the level has none */
    double float_ops_s; /* the same of fused multiply-adds */
};

/* Measures them, about a second, unless it has been done for this number of threads and level. */
const struct limits *bench_limits(int n_threads, const char *level);

#endif
