/* SPDX-License-Identifier: MIT */
/* Speed of the kernels alone, level by level. */
#ifndef QUERN_BENCH_KERNELS_H
#define QUERN_BENCH_KERNELS_H

/* format: table, csv, json or md.  Returns the exit status. */
int bench_kernels(const char *format);

#endif
