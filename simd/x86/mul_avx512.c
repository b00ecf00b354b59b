/* SPDX-License-Identifier: MIT */
/* Matrix products with AVX-512 F BW DQ VL VNNI. */
#include "simd/x86/mul_avx512.h"

enum { FLOAT_ROWS = 4, FLOAT_COLS = 4 };

/* Dwords 0..7 in the low half, each shifted down to its row's nibble. */
static ALWAYS_INLINE vi v_nibbles(const uint8_t *p, int part)
{
    const vi n = _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 0, 4, 8, 12, 16, 20, 24, 28);
    vi x = _mm512_inserti64x4(v_set(load_4(p)), _mm256_set1_epi32(load_4(p + 4)), 1);
    return v_and(_mm512_srlv_epi32(x, n), v_set(15));
}

/* Gathers are no faster where they are at their best, and slow where they had to be mended. */
static ALWAYS_INLINE vi v_pick4(const uint32_t *t, vi i)
{
    _Alignas(64) uint32_t k[W];
    _mm512_store_si512(k, i);
    IN_MEMORY(k);
    return _mm512_setr_epi32((int)t[k[0]], (int)t[k[1]], (int)t[k[2]], (int)t[k[3]], (int)t[k[4]], (int)t[k[5]],
                             (int)t[k[6]], (int)t[k[7]], (int)t[k[8]], (int)t[k[9]], (int)t[k[10]], (int)t[k[11]],
                             (int)t[k[12]], (int)t[k[13]], (int)t[k[14]], (int)t[k[15]]);
}

static ALWAYS_INLINE vi eight_words(const uint64_t *t, const uint32_t *k)
{
    return _mm512_setr_epi64((int64_t)t[k[0]], (int64_t)t[k[1]], (int64_t)t[k[2]], (int64_t)t[k[3]], (int64_t)t[k[4]],
                             (int64_t)t[k[5]], (int64_t)t[k[6]], (int64_t)t[k[7]]);
}

static ALWAYS_INLINE void v_pick8(const uint64_t *t, vi i, vi w[2])
{
    const vi even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    _Alignas(64) uint32_t k[W];
    _mm512_store_si512(k, i);
    IN_MEMORY(k);
    vi x = eight_words(t, k), y = eight_words(t, k + 8);
    w[0] = _mm512_permutex2var_epi32(x, even, y);
    w[1] = _mm512_permutex2var_epi32(x, _mm512_or_si512(even, v_set(1)), y);
}

static ALWAYS_INLINE vi v_spread(vi x, int k)
{
    return _mm512_shuffle_epi8(x, _mm512_broadcast_i32x4(_mm_add_epi8(
                                      _mm_setr_epi32(0, 0x04040404, 0x08080808, 0x0c0c0c0c), _mm_set1_epi8((char)k))));
}
static ALWAYS_INLINE vi v_negate(vi w, vi x, vi m)
{
    return _mm512_mask_sub_epi8(w, _mm512_test_epi8_mask(x, m), _mm512_setzero_si512(), w);
}

#include "simd/mul.inc"
#include "simd/mul_float.inc"
#include "simd/mul_types.inc"

#define PEAK_DOT(s, w) _mm512_dpbusd_epi32(s, w, w)
#define PEAK_OPS       128
#define PEAK_REGISTER  "v"
#include "simd/peak.inc"

void fill_mul_avx512(struct simd_ops *ops)
{
    mul_fill(ops, "avx512");
    peak_fill(ops);
}
