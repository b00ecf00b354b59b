/* SPDX-License-Identifier: MIT */
/* Speed of the kernels alone, level by level. */
#ifndef QUERN_BENCH_KERNELS_H
#define QUERN_BENCH_KERNELS_H

#include "bench_table.h"

#include "simd/simd.h"

enum { KERNEL_LEVELS = 8 };

struct levels {
    const char *names[KERNEL_LEVELS]; /* best first; the last one is C */
    struct simd_ops ops[KERNEL_LEVELS];
    int n;
    const char *only; /* operations whose name contains this; NULL: all */
    struct table table;
};

/* One line of the result. */
struct kernel_figure {
    const char *op, *level;
    const char *own; /* level whose kernel is in use */
    const char *data; /* "hot" or "memory" */
    int n; /* columns of a product; 0: it is none */
    double bytes_s;
    double bound_bytes_s, pipes_bytes_s; /* what issue slots, or memory, and what the pipes allow; 0: not known */
    double times_c; /* 0: not known */
};
void kernel_print(struct levels *l, const struct kernel_figure *f);
bool kernel_wanted(const struct levels *l, const char *name);

/* Seconds of one call of run(arg), the best of some. */
double kernel_time(void (*run)(void *arg), void *arg);
uint32_t kernel_random(void);
float *kernel_floats(size_t n); /* small random numbers, malloc */

/* ---- bench_mul.c: every product of a type with 1 to 16 columns, hot and from memory */
void kernel_products(struct levels *l);

/* format: table, csv, json or md; only: as in struct levels.  Returns the exit status. */
int bench_kernels(const char *format, const char *only);

#endif
