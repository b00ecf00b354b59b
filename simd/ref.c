/* SPDX-License-Identifier: MIT */
/* The C level: every entry of the table that works on floats, in plain C.  It is the specification of the others.
 * The kernel checker builds it a second time, for a machine with fma, under another name. */
#include "simd/fill.h"
#include "simd/lanes.h"
#include "simd/float.inc"

#ifndef SIMD_FILL_C
#define SIMD_FILL_C fill_c
#endif
void SIMD_FILL_C(struct simd_ops *ops);

void SIMD_FILL_C(struct simd_ops *ops) { fill_float(ops); }
