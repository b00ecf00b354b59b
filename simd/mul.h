/* SPDX-License-Identifier: MIT */
/* Matrix products: each level's share of simd_ops.mul and .mul_level.  fill_mul_c() fills every type; a level overwrites the
 * types that it has kernels for.  To be called in that order, after the CPU has been asked. */
#ifndef QUERN_MUL_H
#define QUERN_MUL_H

#include "simd/simd.h"

void fill_mul_c(struct simd_ops *ops);
void fill_mul_avx2(struct simd_ops *ops);
void fill_mul_avxvnni(struct simd_ops *ops); /* after fill_mul_avx2() */
void fill_mul_avx512(struct simd_ops *ops);
void fill_mul_avx512vbmi(struct simd_ops *ops); /* after fill_mul_avx512() */
void fill_mul_amx(struct simd_ops *ops); /* after fill_mul_avx512vbmi() */
void fill_mul_neon(struct simd_ops *ops);
void fill_mul_i8mm(struct simd_ops *ops); /* after fill_mul_neon() */

static inline const void *cols_at(const struct cols *x, int c)
{
    return (const uint8_t *)x->base + (size_t)(x->index ? x->index[c] : c) * x->stride;
}

#endif
