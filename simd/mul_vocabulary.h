/* SPDX-License-Identifier: MIT */
/* What the levels' vocabularies for mul.inc have in common. */
#ifndef QUERN_MUL_VOCABULARY_H
#define QUERN_MUL_VOCABULARY_H

#include "simd/mul.h"

#include <string.h>

#define ALWAYS_INLINE inline __attribute__((always_inline))

/* Loads from the array x are loads, not pieces of the register that was stored there. */
#define IN_MEMORY(x) __asm__("" : "+m"(x))

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

#endif
