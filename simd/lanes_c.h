/* SPDX-License-Identifier: MIT */
/* The lanes of lanes.h in plain C.  Included by it alone. */
#ifndef QUERN_LANES_C_H
#define QUERN_LANES_C_H

typedef struct {
    float v[LANES];
} lf;
typedef struct {
    int32_t v[LANES];
} li;
typedef struct {
    uint8_t v[LANES];
} lm;

enum { LANES_ACC = 4 }; /* accumulators that a kernel should keep at once */

#define LANES_EACH(T, expr) \
    T out; \
    for (int l = 0; l < LANES; l++) \
        out.v[l] = (expr); \
    return out

LANE_FN lf lanes_set(float a) { LANES_EACH(lf, a); }
LANE_FN lf lanes_load(const float *p) { LANES_EACH(lf, p[l]); }
LANE_FN void lanes_store(float *p, lf a) { memcpy(p, a.v, sizeof(a.v)); }
LANE_FN lf lanes_get(const float *p, int64_t n) { LANES_EACH(lf, l < n ? p[l] : 0.0f); }
LANE_FN void lanes_put(float *p, lf a, int64_t n) { memcpy(p, a.v, sizeof(float) * (size_t)(n < LANES ? n : LANES)); }

LANE_FN lf lanes_add(lf a, lf b) { LANES_EACH(lf, a.v[l] + b.v[l]); }
LANE_FN lf lanes_sub(lf a, lf b) { LANES_EACH(lf, a.v[l] - b.v[l]); }
LANE_FN lf lanes_mul(lf a, lf b) { LANES_EACH(lf, a.v[l] * b.v[l]); }
LANE_FN lf lanes_div(lf a, lf b) { LANES_EACH(lf, a.v[l] / b.v[l]); }
LANE_FN lf lanes_fma(lf a, lf b, lf c) { LANES_EACH(lf, __builtin_fmaf(a.v[l], b.v[l], c.v[l])); } /* a b + c */
LANE_FN lf lanes_max(lf a, lf b) { LANES_EACH(lf, a.v[l] > b.v[l] ? a.v[l] : b.v[l]); }
LANE_FN lf lanes_min(lf a, lf b) { LANES_EACH(lf, a.v[l] < b.v[l] ? a.v[l] : b.v[l]); }
LANE_FN lf lanes_neg(lf a) { LANES_EACH(lf, -a.v[l]); }
LANE_FN lf lanes_abs(lf a) { LANES_EACH(lf, __builtin_fabsf(a.v[l])); }

LANE_FN lm lanes_gt(lf a, lf b) { LANES_EACH(lm, a.v[l] > b.v[l]); }
LANE_FN lm lanes_nan(lf a) { LANES_EACH(lm, a.v[l] != a.v[l]); }
LANE_FN lm lanes_below(int64_t n) { LANES_EACH(lm, l < n); } /* the first n lanes */
LANE_FN lf lanes_sel(lm m, lf a, lf b) { LANES_EACH(lf, m.v[l] ? a.v[l] : b.v[l]); }

LANE_FN li lanes_as_i(lf a)
{
    li out;
    memcpy(&out, &a, sizeof(out));
    return out;
}
LANE_FN lf lanes_as_f(li a)
{
    lf out;
    memcpy(&out, &a, sizeof(out));
    return out;
}
LANE_FN li lanes_iadd(li a, li b) { LANES_EACH(li, (int32_t)((uint32_t)a.v[l] + (uint32_t)b.v[l])); }
LANE_FN li lanes_shl23(li a) { LANES_EACH(li, (int32_t)((uint32_t)a.v[l] << 23)); }
LANE_FN li lanes_imax(li a, li b) { LANES_EACH(li, a.v[l] > b.v[l] ? a.v[l] : b.v[l]); }
/* Nearest even; |a| < 2^22. */
LANE_FN li lanes_to_i(lf a) { LANES_EACH(li, (int32_t)((a.v[l] + 0x1.8p+23f) - 0x1.8p+23f)); }

LANE_FN float lanes_sum(lf a)
{
    for (int half = LANES / 2; half; half /= 2)
        for (int l = 0; l < half; l++)
            a.v[l] += a.v[l + half];
    return a.v[0];
}
LANE_FN float lanes_top(lf a)
{
    for (int half = LANES / 2; half; half /= 2)
        for (int l = 0; l < half; l++)
            a.v[l] = a.v[l] > a.v[l + half] ? a.v[l] : a.v[l + half];
    return a.v[0];
}
LANE_FN int32_t lanes_isum(li a)
{
    int32_t sum = 0;
    for (int l = 0; l < LANES; l++)
        sum += a.v[l];
    return sum;
}
LANE_FN int32_t lanes_itop(li a)
{
    int32_t top = a.v[0];
    for (int l = 1; l < LANES; l++)
        top = a.v[l] > top ? a.v[l] : top;
    return top;
}

/* 32 floats to those at even and at odd places, and back. */
LANE_FN void lanes_load_pairs(const float *p, lf *even, lf *odd)
{
    for (int l = 0; l < LANES; l++) {
        even->v[l] = p[2 * l];
        odd->v[l] = p[2 * l + 1];
    }
}
LANE_FN void lanes_store_pairs(float *p, lf even, lf odd)
{
    for (int l = 0; l < LANES; l++) {
        p[2 * l] = even.v[l];
        p[2 * l + 1] = odd.v[l];
    }
}

/* 16 values of the other number formats. */
LANE_FN lf lanes_load_f16(const uint16_t *p) { LANES_EACH(lf, f16_to_f32(p[l])); }
LANE_FN lf lanes_load_bf16(const uint16_t *p) { LANES_EACH(lf, bf16_to_f32(p[l])); }
LANE_FN void lanes_store_f16(uint16_t *p, lf a)
{
    for (int l = 0; l < LANES; l++)
        p[l] = f32_to_f16(a.v[l]);
}
LANE_FN void lanes_store_i8(int8_t *p, li a) /* values fit */
{
    for (int l = 0; l < LANES; l++)
        p[l] = (int8_t)a.v[l];
}

#endif
