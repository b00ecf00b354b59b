/* SPDX-License-Identifier: MIT */
/* The functions that put a level's kernels into the table: fill_LEVEL() what is written over lanes, fill_mul_LEVEL() the
 * products.  simd.c calls them in order, oldest level first; a level that is not built has none. */
#ifndef QUERN_FILL_H
#define QUERN_FILL_H

#include "simd/simd.h"

void fill_c(struct simd_ops *ops); /* every entry but the products */
void fill_avx2(struct simd_ops *ops);
void fill_avx512(struct simd_ops *ops);
void fill_neon(struct simd_ops *ops);

#endif
