/* SPDX-License-Identifier: MIT */
/* The few columns of the amx level: vector dots.  The processors that have AMX read memory faster when it is asked for. */
#define PANEL_COLS    16
#define PREFETCH_MORE 2048
/* clang-format off */
enum { MAX_COLS = 9 };
#define TILE_COLS(M, t) M(t, 1) M(t, 2) M(t, 3) M(t, 4) M(t, 5) M(t, 6) M(t, 7) M(t, 8) M(t, 9)
/* clang-format on */
#include "simd/x86/mul_amx.h"
#include "simd/x86/mul_avx512.h"

_Static_assert((int)MAX_COLS == (int)AMX_FEW, "one panel");

#define MUL_WITHOUT_FLOAT
#define MUL_WITHOUT_FILL
#define BOOK_INC "simd/x86/mul_book_vbmi.inc"

#include "simd/mul.inc"
#include "simd/mul_types.inc"

mul_fn *mul_amx_few(enum qn_type type)
{
    switch (type) {
#define FEW(type) \
    case QN_##type: \
        return mul_##type;
        PLANE_TYPES(FEW)
        BOOK_TYPES(FEW)
    default:
        return NULL;
    }
}
