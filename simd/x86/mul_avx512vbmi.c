/* SPDX-License-Identifier: MIT */
/* Matrix products of the types with a code book with AVX-512 VBMI, BITALG and GFNI; all other types are the avx512 level's. */
#include "simd/x86/mul_avx512.h"

#define MUL_WITHOUT_PLANES
#define MUL_WITHOUT_FLOAT
#define BOOK_INC "simd/x86/mul_book_vbmi.inc"

#include "simd/mul.inc"
#include "simd/mul_types.inc"

void fill_mul_avx512vbmi(struct simd_ops *ops) { mul_fill(ops, "avx512vbmi"); }
