/* SPDX-License-Identifier: MIT */
/* The vocabulary of mul.inc for 256-bit registers, half a line or 8 rows each.  Shared by the avx2 and avxvnni levels, which differ in
 * the dots. */
#ifndef QUERN_MUL_AVX2_H
#define QUERN_MUL_AVX2_H

#define LANES_AVX2
#include "simd/lanes.h"
#include "simd/mul_vocabulary.h"

#include <immintrin.h>

typedef __m256i vi;
typedef __m256 vf;

enum { W = 8, BOOK_BIAS = 1, PARTS = 2, MAX_COLS = 8, MAX_SUMS = 8 };
/* clang-format off */
#define TILE_COLS(M, t) M(t, 1) M(t, 2) M(t, 3) M(t, 4) M(t, 5) M(t, 6) M(t, 7) M(t, 8)
/* clang-format on */

static ALWAYS_INLINE vi v_load(const void *p) { return _mm256_loadu_si256(p); }
static ALWAYS_INLINE void v_store(void *p, vi x) { _mm256_storeu_si256(p, x); }
static ALWAYS_INLINE vi v_half_line(const uint8_t *p, int k) { return _mm256_srli_epi32(v_load(p), 4 * k); }
static ALWAYS_INLINE vi v_bytes(int k) { return _mm256_set1_epi8((char)k); }
static ALWAYS_INLINE vi v_set(int32_t k) { return _mm256_set1_epi32(k); }
static ALWAYS_INLINE vi v_and(vi x, vi y) { return _mm256_and_si256(x, y); }
static ALWAYS_INLINE vi v_or(vi x, vi y) { return _mm256_or_si256(x, y); }
static ALWAYS_INLINE vi v_xor(vi x, vi y) { return _mm256_xor_si256(x, y); }
static ALWAYS_INLINE vi v_add(vi x, vi y) { return _mm256_add_epi32(x, y); }
static ALWAYS_INLINE vi v_sub(vi x, vi y) { return _mm256_sub_epi32(x, y); }
static ALWAYS_INLINE vi v_max(vi x, vi y) { return _mm256_max_epi32(x, y); }
static ALWAYS_INLINE vi v_addb(vi x, vi y) { return _mm256_add_epi8(x, y); }
static ALWAYS_INLINE vi v_subb(vi x, vi y) { return _mm256_sub_epi8(x, y); }
static ALWAYS_INLINE vi v_mul16(vi x, vi y) { return _mm256_mullo_epi16(x, y); }
static ALWAYS_INLINE vi v_shl(vi x, int n) { return (vi)((__v8su)x << (unsigned)n); }
static ALWAYS_INLINE vi v_shr(vi x, int n) { return (vi)((__v8su)x >> (unsigned)n); }
static ALWAYS_INLINE vi v_shrb(vi x, int n) { return v_and(v_shr(x, n), v_bytes(255 >> n)); }
static ALWAYS_INLINE vi v_put(vi x, vi y, vi mask) { return v_or(x, v_and(y, mask)); }
static ALWAYS_INLINE vi v_u8(const void *p, int part)
{
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const void *)((const char *)p + W * part)));
}
static ALWAYS_INLINE vi v_s8(const void *p, int part)
{
    return _mm256_cvtepi8_epi32(_mm_loadl_epi64((const void *)((const char *)p + W * part)));
}
static ALWAYS_INLINE vi v_table(const int8_t t[16])
{
    return _mm256_broadcastsi128_si256(_mm_loadu_si128((const void *)t));
}
static ALWAYS_INLINE vi v_lut(vi t, vi x) { return _mm256_shuffle_epi8(t, x); }

static ALWAYS_INLINE vf f_set(float x) { return _mm256_set1_ps(x); }
static ALWAYS_INLINE vf f_cvt(vi x) { return _mm256_cvtepi32_ps(x); }
static ALWAYS_INLINE vf f_bits(vi x) { return _mm256_castsi256_ps(x); }
static ALWAYS_INLINE vf f_mul(vf x, vf y) { return _mm256_mul_ps(x, y); }
static ALWAYS_INLINE vf f_fma(vf x, vf y, vf z) { return _mm256_fmadd_ps(x, y, z); }
static ALWAYS_INLINE vf f_f16(const void *p) { return _mm256_cvtph_ps(_mm_loadu_si128(p)); }
static ALWAYS_INLINE vf f_load(const float *p) { return _mm256_loadu_ps(p); }
static ALWAYS_INLINE void f_store(float *p, vf x) { _mm256_storeu_ps(p, x); }

static ALWAYS_INLINE void v_arrange(enum qn_type type, int n, vi w[8]) {}

static ALWAYS_INLINE vi v_nibbles(const uint8_t *p, int part)
{
    const vi n = _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28);
    return v_and(_mm256_srlv_epi32(v_set(load_4(p + 4 * part)), n), v_set(15));
}

/* Gathers are no faster where they are at their best, and slow where they had to be mended. */
static ALWAYS_INLINE vi v_pick4(const uint32_t *t, vi i)
{
    _Alignas(32) uint32_t k[W];
    _mm256_store_si256((vi *)k, i);
    IN_MEMORY(k);
    return _mm256_setr_epi32((int)t[k[0]], (int)t[k[1]], (int)t[k[2]], (int)t[k[3]], (int)t[k[4]], (int)t[k[5]],
                             (int)t[k[6]], (int)t[k[7]]);
}

static ALWAYS_INLINE __m256 four_words(const uint64_t *t, const uint32_t *k)
{
    return _mm256_castsi256_ps(
        _mm256_setr_epi64x((int64_t)t[k[0]], (int64_t)t[k[1]], (int64_t)t[k[2]], (int64_t)t[k[3]]));
}

/* Taken in the order of rows 0 1 4 5 | 2 3 6 7, words of 8 bytes are halved within 128 bits. */
static ALWAYS_INLINE void v_pick8(const uint64_t *t, vi i, vi w[2])
{
    _Alignas(32) uint32_t k[W];
    _mm256_store_si256((vi *)k, _mm256_permute4x64_epi64(i, 0xd8));
    IN_MEMORY(k);
    __m256 x = four_words(t, k), y = four_words(t, k + 4);
    w[0] = _mm256_castps_si256(_mm256_shuffle_ps(x, y, 0x88));
    w[1] = _mm256_castps_si256(_mm256_shuffle_ps(x, y, 0xdd));
}

static ALWAYS_INLINE vi v_spread(vi x, int k)
{
    const vi first = _mm256_setr_epi32(0, 0x04040404, 0x08080808, 0x0c0c0c0c, 0, 0x04040404, 0x08080808, 0x0c0c0c0c);
    return _mm256_shuffle_epi8(x, v_addb(first, v_bytes(k)));
}
static ALWAYS_INLINE vi v_negate(vi w, vi x, vi m)
{
    vi minus = _mm256_cmpeq_epi8(v_and(x, m), m);
    return v_subb(v_xor(w, minus), minus);
}

#endif
