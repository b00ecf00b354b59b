/* SPDX-License-Identifier: MIT */
/* The vocabulary of attn_values.inc for AVX2: half a line is opened to pairs of 16 bits, positions 0 1 and 2 3.  Included by it
 * alone. */
#ifndef QUERN_VALUES_AVX2_H
#define QUERN_VALUES_AVX2_H

typedef struct {
    __m256i lo, hi;
} vbytes;
typedef struct {
    vbytes a, b;
} vline;
typedef li vsum;

enum { VALUES_HALVES = 1, VALUES_ROWS = 4 };

LANE_FN vbytes values_load(const uint8_t *p)
{
    return (vbytes){_mm256_loadu_si256((const __m256i *)p), _mm256_loadu_si256((const __m256i *)(p + 32))};
}
LANE_FN __m256i values_lookup(__m256i x, int half, __m256i table)
{
    return _mm256_shuffle_epi8(table, _mm256_and_si256(half ? _mm256_srli_epi16(x, 4) : x, _mm256_set1_epi8(15)));
}
LANE_FN vbytes values_nibbles(const uint8_t *p, int half, const int8_t table[16])
{
    vbytes x = values_load(p);
    __m256i t = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)table));
    return (vbytes){values_lookup(x.lo, half, t), values_lookup(x.hi, half, t)};
}
/* 16 where the bit is set. */
LANE_FN __m256i values_bit(__m256i high, __m256i bit)
{
    return _mm256_and_si256(_mm256_cmpeq_epi8(_mm256_and_si256(high, bit), bit), _mm256_set1_epi8(16));
}
/* A quarter of the line takes its own bit of each byte. */
LANE_FN vbytes values_fifth(vbytes x, const uint8_t *high, int half)
{
    const __m256i one =
        _mm256_setr_epi64x(0x0101010101010101, 0x0101010101010101, 0x0202020202020202, 0x0202020202020202);
    __m256i h = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)high));
    h = half ? _mm256_srli_epi16(h, 4) : h;
    return (vbytes){_mm256_add_epi8(x.lo, values_bit(h, one)),
                    _mm256_add_epi8(x.hi, values_bit(h, _mm256_slli_epi16(one, 2)))};
}
LANE_FN __m256i values_even(__m256i x) { return _mm256_srai_epi16(_mm256_slli_epi16(x, 8), 8); }
LANE_FN vline values_open(vbytes x)
{
    return (vline){{values_even(x.lo), values_even(x.hi)}, {_mm256_srai_epi16(x.lo, 8), _mm256_srai_epi16(x.hi, 8)}};
}

LANE_FN vsum values_none(void) { return lanes_as_i(lanes_zero()); }
LANE_FN vsum values_pairs(vsum s, vbytes x, int32_t k)
{
    __m256i w = _mm256_set1_epi32(k);
    return (vsum){_mm256_add_epi32(s.lo, _mm256_madd_epi16(x.lo, w)),
                  _mm256_add_epi32(s.hi, _mm256_madd_epi16(x.hi, w))};
}
LANE_FN vsum values_dot(vsum s, vline x, const uint8_t *w)
{
    int32_t k[2]; /* loaded one by one, so that they are spread as they are */
    memcpy(&k[0], w, sizeof(k[0]));
    memcpy(&k[1], w + 4, sizeof(k[1]));
    return values_pairs(values_pairs(s, x.a, k[0]), x.b, k[1]);
}
LANE_FN lf values_total(vsum s) { return (lf){_mm256_cvtepi32_ps(s.lo), _mm256_cvtepi32_ps(s.hi)}; }
LANE_FN void values_weights(uint8_t *w, li q)
{
    _mm256_storeu_si256((__m256i *)w, _mm256_permute4x64_epi64(_mm256_packs_epi32(q.lo, q.hi), 0xd8));
}

#endif
