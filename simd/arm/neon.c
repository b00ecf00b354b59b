/* SPDX-License-Identifier: MIT */
/* The NEON level of the code that is written over lanes. */
#define LANES_NEON
#include "simd/fill.h"
#include "simd/lanes.h"
#include "simd/float.inc"

void fill_neon(struct simd_ops *ops) { fill_float(ops); }
