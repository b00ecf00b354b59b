/* SPDX-License-Identifier: MIT */
/* What matrix products can reach at most when instructions are the limit: instruction counts. */
#ifndef QUERN_BENCH_BOUNDS_H
#define QUERN_BENCH_BOUNDS_H

#include "quant/quant.h"

/* Issue slots of one group of 32 weights x 16 rows times n columns; 0 when the type is not in the table. */
double bound_slots(const struct quant_type *type, int n);
/* Cycles that the pipes need for it at least, which is less: they issue more than one instruction a cycle. */
double bound_cycles(const struct quant_type *type, int n);
/* Packed bytes of such a group, scales included. */
double bound_bytes(const struct quant_type *type);
/* Cycles, and so slots, a second of one thread of a level, or 0 where the model does not apply. */
double bound_rate(const char *level);
/* Prints the table.  Returns the exit status. */
int bench_bounds(const char *format);

#endif
