/* SPDX-License-Identifier: MIT */
/* The vocabulary of attn_values.inc in plain C.  Included by it alone. */
#ifndef QUERN_VALUES_C_H
#define QUERN_VALUES_C_H

typedef struct {
    int8_t v[4 * LANES];
} vbytes;
typedef vbytes vline;
typedef li vsum;

enum { VALUES_HALVES = 1, VALUES_ROWS = 4 };

LANE_FN vbytes values_load(const uint8_t *p)
{
    vbytes x;
    memcpy(x.v, p, sizeof(x.v));
    return x;
}
LANE_FN vbytes values_nibbles(const uint8_t *p, int half, const int8_t table[16])
{
    vbytes x;
    for (int k = 0; k < 4 * LANES; k++)
        x.v[k] = table[p[k] >> 4 * half & 15];
    return x;
}
LANE_FN vbytes values_fifth(vbytes x, const uint8_t *high, int half)
{
    for (int k = 0; k < 4 * LANES; k++)
        x.v[k] = (int8_t)(x.v[k] + 16 * (high[k % 16] >> (4 * half + k / 16) & 1));
    return x;
}
LANE_FN vline values_open(vbytes x) { return x; }

LANE_FN vsum values_none(void) { return lanes_as_i(lanes_zero()); }
LANE_FN vsum values_dot(vsum s, vline x, const uint8_t *w)
{
    int16_t k[4];
    memcpy(k, w, sizeof(k));
    for (int l = 0; l < LANES; l++)
        s.v[l] += x.v[4 * l] * k[0] + x.v[4 * l + 2] * k[1] + x.v[4 * l + 1] * k[2] + x.v[4 * l + 3] * k[3];
    return s;
}
LANE_FN lf values_total(vsum s) { LANES_EACH(lf, (float)s.v[l]); }
LANE_FN void values_weights(uint8_t *w, li q)
{
    for (int l = 0; l < LANES; l++) {
        int16_t k = (int16_t)q.v[l];
        memcpy(w + 2 * l, &k, sizeof(k));
    }
}

#endif
