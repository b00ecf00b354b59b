/* SPDX-License-Identifier: MIT */
/* The AVX2 level of the code that is written over lanes. */
#define LANES_AVX2
#include "simd/fill.h"
#include "simd/lanes.h"
#include "simd/float.inc"

void fill_avx2(struct simd_ops *ops) { fill_float(ops); }
