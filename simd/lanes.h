/* SPDX-License-Identifier: MIT */
/* Sixteen virtual lanes: the vocabulary in which float code is written once.  A level defines LANES_AVX2, LANES_AVX512 or
 * LANES_NEON before it includes this header; without one, a vector is float[16] in plain C, which is the specification.
 *
 *   lf  16 floats    li  16 int32    lm  16 truth values    lp  PART_LANES floats, so many that twelve lp fit the registers
 *
 * Every operation acts on each lane alone, rounds once and gives the same bits on all levels (NaN signs and payloads apart).
 * lanes_get() and lanes_put() take min(n, 16) elements, n >= 0, and touch no memory past them; lanes past the end read +0.
 * lanes_max(a, b) = a > b ? a : b.  Sums and maxima over the lanes fold l with l + 8, l + 4, l + 2, l + 1. */
#ifndef QUERN_LANES_H
#define QUERN_LANES_H

#include "quant/quant.h"

#include <math.h>
#include <string.h>

/* Vectors, and arrays of them in a LANES_FOR loop, must stay in registers.  Plain C has none of that size: there the compiler may
 * do as it likes, which it does in a tenth of the time. */
#if defined(LANES_AVX512) || defined(LANES_AVX2) || defined(LANES_NEON)
#define LANE_FN static inline __attribute__((always_inline))
#ifdef __clang__
#define LANES_FOR(i, n) _Pragma("clang loop unroll(full)") for (int i = 0; i < (n); i++)
#else
#define LANES_FOR(i, n) _Pragma("GCC unroll 16") for (int i = 0; i < (n); i++)
#endif
#else
#define LANE_FN         static inline __attribute__((unused))
#define LANES_FOR(i, n) for (int i = 0; i < (n); i++)
#endif

enum { LANES = 16 };

#if defined(LANES_AVX512)
#include "simd/x86/lanes_avx512.h"
#elif defined(LANES_AVX2)
#include "simd/x86/lanes_avx2.h"
#elif defined(LANES_NEON)
#include "simd/arm/lanes_neon.h"
#else
#include "simd/lanes_c.h"
#endif

#if !defined(LANES_AVX2) && !defined(LANES_NEON) /* those have parts of their own */
typedef lf lp;
enum { PART_LANES = LANES };
LANE_FN lp part_set(float x) { return lanes_set(x); }
LANE_FN lp part_load(const float *p) { return lanes_load(p); }
LANE_FN void part_store(float *p, lp x) { lanes_store(p, x); }
LANE_FN lp part_add(lp x, lp y) { return lanes_add(x, y); }
LANE_FN lp part_mul(lp x, lp y) { return lanes_mul(x, y); }
LANE_FN lp part_fma(lp x, lp y, lp z) { return lanes_fma(x, y, z); }
#endif

LANE_FN lf lanes_zero(void) { return lanes_set(0.0f); }

/* ---- functions over lanes.  "Within n ulp": of the true value, the largest error found over every 61st float of the range. */

/* exp for -87.3 <= x <= 88.72283; anything for the rest.  2^n is added to the exponent, where results are normal numbers. */
LANE_FN lf lanes_exp_inside(lf x)
{
    const lf magic = lanes_set(0x1.8p+23f);
    lf t = lanes_fma(x, lanes_set(0x1.715476p+0f), magic); /* n = rint(x / ln 2) in the low bits */
    lf n = lanes_sub(t, magic);
    lf r = lanes_fma(n, lanes_set(-0x1.62e4p-1f), x); /* exact */
    r = lanes_fma(n, lanes_set(-0x1.7f7d1cp-20f), r);
    lf p = lanes_set(0.0013814215f); /* (e^r - 1 - r) / r^2, |r| <= ln 2 / 2 */
    p = lanes_fma(p, r, lanes_set(0.0083689f));
    p = lanes_fma(p, r, lanes_set(0.041668408f));
    p = lanes_fma(p, r, lanes_set(0.1666652f));
    p = lanes_fma(p, r, lanes_set(0.49999994f));
    p = lanes_add(lanes_fma(lanes_mul(r, r), p, r), lanes_set(1.0f));
    return lanes_as_f(lanes_iadd(lanes_as_i(p), lanes_shl23(lanes_as_i(t))));
}

/* The same as lanes_exp() for x <= 0 and NaN. */
LANE_FN lf lanes_exp_of_negative(lf x)
{
    lf p = lanes_sel(lanes_gt(lanes_set(-87.3f), x), lanes_zero(), lanes_exp_inside(x));
    return lanes_sel(lanes_nan(x), x, p);
}

/* Within 1.0 ulp.  x < -87.3: +0; x > 88.72283: inf; NaN stays. */
LANE_FN lf lanes_exp(lf x)
{
    lf p = lanes_sel(lanes_gt(lanes_set(-87.3f), x), lanes_zero(), lanes_exp_inside(x));
    p = lanes_sel(lanes_gt(x, lanes_set(0x1.62e42ep+6f)), lanes_set(INFINITY), p);
    return lanes_sel(lanes_nan(x), x, p);
}

/* log(1 + z) = 2 atanh(z / (2 + z)) for 0 <= z <= 1.  Within 2.0 ulp. */
LANE_FN lf lanes_log1p01(lf z)
{
    lf s = lanes_div(z, lanes_add(z, lanes_set(2.0f)));
    lf t = lanes_mul(s, s);
    lf p = lanes_set(0.24308357f); /* (2 atanh(s) / s - 2) / s^2, s <= 1/3, in t = s^2 */
    p = lanes_fma(p, t, lanes_set(0.21425842f));
    p = lanes_fma(p, t, lanes_set(0.28617036f));
    p = lanes_fma(p, t, lanes_set(0.39998874f));
    p = lanes_fma(p, t, lanes_set(0.66666675f));
    return lanes_fma(lanes_mul(s, t), p, lanes_add(s, s));
}

/* log(1 + exp(x)) as max(x, 0) + log1p(exp(-|x|)).  Within 2.8 ulp for x >= -87.3, 0 below. */
LANE_FN lf lanes_softplus(lf x)
{
    lf e = lanes_exp(lanes_neg(lanes_abs(x)));
    lf y = lanes_add(lanes_max(x, lanes_zero()), lanes_log1p01(e));
    return lanes_sel(lanes_nan(x), x, y);
}

/* 1 / (1 + exp(-x)).  Within 2.4 ulp for x >= -87.3; 0 below -88.72283. */
LANE_FN lf lanes_sigmoid(lf x)
{
    return lanes_div(lanes_set(1.0f), lanes_add(lanes_set(1.0f), lanes_exp(lanes_neg(x))));
}

/* x / (1 + exp(-x)).  Within 2.4 ulp for x >= -87.3; -0 below -88.72283, NaN for -inf. */
LANE_FN lf lanes_silu(lf x) { return lanes_div(x, lanes_add(lanes_set(1.0f), lanes_exp(lanes_neg(x)))); }

#endif
