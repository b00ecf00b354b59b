/* SPDX-License-Identifier: MIT */
/* Matrix products of the types with a code book with AVX-512 VBMI, BITALG and GFNI; all other types are the avx512 level's. */
#include "simd/x86/mul_avx512.h"

enum { MAX_DIRECT = 16 };
/* clang-format off */
#define DIRECT_COLS(M, t) M(t, 1) M(t, 2) M(t, 4) M(t, 6) M(t, 8) M(t, 12) M(t, 16)
#define KINDS(M) M(ONE, 255) M(SUB, 255)
#define KIND_COLS(M, r, w) M(r, w, 1) M(r, w, 2) M(r, w, 4) M(r, w, 8) M(r, w, 10) M(r, w, 12) M(r, w, 14) M(r, w, 16)
/* clang-format on */
#define MUL_WITHOUT_PLANES
#define MUL_WITHOUT_FLOAT
#define BOOK_INC "simd/x86/mul_book_vbmi.inc"

static ALWAYS_INLINE vi v_dot(vi s, const vi *w, int n, const int8_t *a, int wmax) { return dot_chains(s, w, n, a); }

#include "simd/mul.inc"
#include "simd/mul_types.inc"

void fill_mul_avx512vbmi(struct simd_ops *ops) { mul_fill(ops, "avx512vbmi"); }
