/* SPDX-License-Identifier: MIT */
/* The kernel checker: every entry of the dispatch table, at every level this machine runs, against the C level, bit for bit.
 *
 * A family is a table of tests in a file checkkern_NAME.c and one line in checkkern.c.  A test names an entry of the table; the
 * runner calls it once per level (c first, then c-fma, then as simd_levels() says, oldest first), unless that level has the same
 * function as one tested before, each time from the same seed.  The test makes inputs, calls kern.c and kern.now on pairs of
 * buffers and compares.  At level c both are the same: that run finds stray accesses and feeds the hash of all results.
 *
 * Buffers lie against an inaccessible page, by turns before and after them, with 64 canary bytes at the other side; all are
 * checked at each kern_reset() and then given back.  A signal ends the test as a failure, not the run. */
#ifndef QUERN_CHECKKERN_H
#define QUERN_CHECKKERN_H

#include "simd/simd.h"

struct kern_test {
    const char *name; /* as --filter sees it: "softmax", "mul_q4_K" */
    size_t op; /* offset of the function pointer in struct simd_ops */
    void (*run)(int arg);
    int arg;
};

struct kern_family {
    const char *name;
    const struct kern_test *test;
    int n_test;
};

extern const struct kern_family kern_float_family, kern_mul_family;

/* What a test works with. */
extern struct kern {
    const struct simd_ops *c, *now;
    const char *level;
    bool bench; /* measure instead of checking */
} kern;

/* Zeroed memory until kern_reset(); aligned to align (a power of two, at most 64), which must divide bytes where the end is to
 * lie against the guard page.  A pair is the same memory twice: one for kern.c, one for kern.now. */
struct kern_pair {
    void *c, *now;
};
void *kern_mem(size_t bytes, size_t align);
struct kern_pair kern_pair(size_t bytes, size_t align);
/* Copies .c to .now: after filling the first. */
void kern_same(struct kern_pair p, size_t bytes);
/* End of a case: canaries, control bits of the float environment; gives the memory back. */
void kern_reset(void);

/* Random numbers, the same for each level. */
uint64_t kern_rand(void);
int kern_below(int n); /* 0 .. n - 1 */
float kern_unit(void); /* -1 .. 1 */
/* Fills of float arrays, by turns: ordinary values, all sizes that exist, small integers, zeros and denormals among others,
 * one value everywhere.  KERN_SPECIAL adds infinities and NaN. */
enum kern_fill {
    KERN_PLAIN,
    KERN_WIDE,
    KERN_SMALL,
    KERN_TINY,
    KERN_EQUAL,
    KERN_FINITE_FILLS,
    KERN_SPECIAL = 5,
    KERN_FILLS
};
void kern_floats(float *x, size_t n, enum kern_fill fill);

/* Compares results and adds those of C to the hash.  What: what the failure names, with the case's numbers.  Any NaN equals any
 * other.  On a difference the test counts as failed and the run goes on. */
void kern_f32(const float *c, const float *now, size_t n, const char *what, ...) __attribute__((format(printf, 4, 5)));
void kern_f16(const uint16_t *c, const uint16_t *now, size_t n, const char *what, ...)
    __attribute__((format(printf, 4, 5)));
void kern_bytes(const void *c, const void *now, size_t n, const char *what, ...) __attribute__((format(printf, 4, 5)));
void kern_fail(const char *what, ...) __attribute__((format(printf, 1, 2)));

/* KERN_BENCH("n=4096", kern.now->softmax(x, 4096)); prints the time of one call, hot, and the ratio to C. */
bool kern_bench_more(const char *what);
#define KERN_BENCH(what, call) \
    while (kern_bench_more(what)) \
        for (int kern_i = 0; kern_i < KERN_BATCH; kern_i++) \
    call
enum { KERN_BATCH = 8 };

#endif
