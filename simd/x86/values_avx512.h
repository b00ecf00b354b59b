/* SPDX-License-Identifier: MIT */
/* The vocabulary of attn_values.inc for AVX-512 VNNI: a line is opened to pairs of 16 bits, positions 0 1 and 2 3.  Included by it
 * alone. */
#ifndef QUERN_VALUES_AVX512_H
#define QUERN_VALUES_AVX512_H

typedef __m512i vbytes;
typedef struct {
    __m512i a, b;
} vline;
typedef __m512i vsum;

enum { VALUES_HALVES = 2, VALUES_ROWS = 8 };

LANE_FN vbytes values_load(const uint8_t *p) { return _mm512_loadu_si512(p); }
LANE_FN vbytes values_nibbles(const uint8_t *p, int half, const int8_t table[16])
{
    __m512i x = _mm512_loadu_si512(p), t = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)table));
    return _mm512_shuffle_epi8(t, _mm512_and_si512(half ? _mm512_srli_epi16(x, 4) : x, _mm512_set1_epi8(15)));
}
/* A quarter of the line takes its own bit of each byte. */
LANE_FN vbytes values_fifth(vbytes x, const uint8_t *high, int half)
{
    const __m512i low = _mm512_setr_epi32(0x01010101, 0x01010101, 0x01010101, 0x01010101, 0x02020202, 0x02020202,
                                          0x02020202, 0x02020202, 0x04040404, 0x04040404, 0x04040404, 0x04040404,
                                          0x08080808, 0x08080808, 0x08080808, 0x08080808);
    __m512i h = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)high));
    __mmask64 m = _mm512_test_epi8_mask(half ? _mm512_srli_epi16(h, 4) : h, low);
    return _mm512_mask_add_epi8(x, m, x, _mm512_set1_epi8(16));
}
LANE_FN vline values_open(vbytes x)
{
    return (vline){_mm512_srai_epi16(_mm512_slli_epi16(x, 8), 8), _mm512_srai_epi16(x, 8)};
}

LANE_FN vsum values_none(void) { return _mm512_setzero_si512(); }
LANE_FN vsum values_dot(vsum s, vline x, const uint8_t *w)
{
    int32_t k[2]; /* loaded one by one, so that they are spread as they are */
    memcpy(&k[0], w, sizeof(k[0]));
    memcpy(&k[1], w + 4, sizeof(k[1]));
    s = _mm512_dpwssd_epi32(s, x.a, _mm512_set1_epi32(k[0]));
    return _mm512_dpwssd_epi32(s, x.b, _mm512_set1_epi32(k[1]));
}
LANE_FN lf values_total(vsum s) { return _mm512_cvtepi32_ps(s); }
LANE_FN void values_weights(uint8_t *w, li q) { _mm256_storeu_si256((__m256i *)w, _mm512_cvtepi32_epi16(q)); }

#endif
