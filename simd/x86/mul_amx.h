/* SPDX-License-Identifier: MIT */
/* The two halves of the amx level's products: few columns by vector dots, more by tile registers. */
#ifndef QUERN_MUL_AMX_H
#define QUERN_MUL_AMX_H

#include "simd/mul.h"

enum { AMX_FEW = 9 }; /* columns that vector dots multiply as fast */

/* The product of a TILES type for up to AMX_FEW columns. */
mul_fn *mul_amx_few(enum qn_type type);

#endif
