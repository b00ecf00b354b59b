/* SPDX-License-Identifier: MIT */
/* What the levels' vocabularies for mul.inc have in common, and what dots and orders of weights depend on of a type. */
#ifndef QUERN_MUL_VOCABULARY_H
#define QUERN_MUL_VOCABULARY_H

#include "simd/mul.h"

#include <stdbool.h>
#include <string.h>

#define ALWAYS_INLINE inline __attribute__((always_inline))

/* Loads from the array x are loads, not pieces of the register that was stored there. */
#define IN_MEMORY(x) __asm__("" : "+m"(x))
/* x is computed at this place, before what follows. */
#define IN_REGISTER(x) __asm__("" : "+x"(x))

static ALWAYS_INLINE int32_t load_4(const void *p)
{
    int32_t x;
    memcpy(&x, p, sizeof(x));
    return x;
}

static ALWAYS_INLINE int64_t load_8(const void *p)
{
    int64_t x;
    memcpy(&x, p, sizeof(x));
    return x;
}

enum { WIDE = 255 }; /* "largest weight" of signed full-range types */

/* Types with a code book. */
static ALWAYS_INLINE bool type_book(enum qn_type type)
{
    switch (type) {
    case QN_IQ2_XXS:
    case QN_IQ2_XS:
    case QN_IQ2_S:
    case QN_IQ3_XXS:
    case QN_IQ3_S:
    case QN_IQ1_S:
    case QN_IQ1_M:
        return true;
    default:
        return false;
    }
}

/* The largest biased weight: says how many products fit 16 bits. */
static ALWAYS_INLINE int type_max(enum qn_type type)
{
    switch (type) {
    case QN_Q2_K:
    case QN_TQ1_0:
    case QN_TQ2_0:
    case QN_Q1_0:
    case QN_Q2_0:
        return 3;
    case QN_Q3_K:
        return 7;
    case QN_Q4_0:
    case QN_Q4_1:
    case QN_Q4_K:
        return 15;
    case QN_MXFP4:
    case QN_NVFP4:
    case QN_Q5_0:
    case QN_Q5_1:
    case QN_Q5_K:
    case QN_IQ1_S:
    case QN_IQ1_M:
    case QN_IQ3_S:
        return 31;
    case QN_Q6_K:
        return 63;
    case QN_Q8_0:
    case QN_IQ4_NL:
    case QN_IQ4_XS:
        return WIDE;
    default:
        return 127;
    }
}

#endif
