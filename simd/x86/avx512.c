/* SPDX-License-Identifier: MIT */
/* The AVX-512 level of the code that is written over lanes. */
#define LANES_AVX512
#include "simd/fill.h"
#include "simd/lanes.h"
#include "simd/float.inc"

void fill_avx512(struct simd_ops *ops) { fill_float(ops); }
