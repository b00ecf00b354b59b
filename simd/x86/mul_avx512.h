/* SPDX-License-Identifier: MIT */
/* The vocabulary of mul.inc for AVX-512 (F BW DQ VL VNNI): a register is a whole line of a tile, 16 columns fit the register file
 * next to a group's 8 registers of weights and the sums of 4 columns.  Shared by the avx512 and avx512vbmi levels, which differ in how
 * weights come from code books. */
#ifndef QUERN_MUL_AVX512_H
#define QUERN_MUL_AVX512_H

#define LANES_AVX512
#include "simd/lanes.h"
#include "simd/mul_vocabulary.h"

#include <immintrin.h>

typedef __m512i vi;
typedef __m512 vf;

#ifndef MUL_SIGNED
enum { WIDE_BIAS = 128 };
#else
enum { WIDE_BIAS = 0 };
#endif
enum { W = 16, PARTS = 1, BOOK_BIAS = 1, MAX_SUMS = 16, DOT_COLS = 4 };
#ifndef TILE_COLS
enum { MAX_COLS = 16 };
/* clang-format off */
#define TILE_COLS(M, t) \
    M(t, 1) M(t, 2) M(t, 3) M(t, 4) M(t, 5) M(t, 6) M(t, 7) M(t, 8) \
    M(t, 9) M(t, 10) M(t, 11) M(t, 12) M(t, 13) M(t, 14) M(t, 15) M(t, 16)
/* clang-format on */
#endif

static ALWAYS_INLINE vi v_load(const void *p) { return _mm512_loadu_si512(p); }
static ALWAYS_INLINE void v_store(void *p, vi x) { _mm512_storeu_si512(p, x); }
static ALWAYS_INLINE vi v_half_line(const uint8_t *p, int k)
{
    __m256i x = _mm256_loadu_si256((const void *)p);
    return _mm512_inserti64x4(_mm512_castsi256_si512(x), _mm256_srli_epi32(x, 4), 1);
}
static ALWAYS_INLINE vi v_bytes(int k) { return _mm512_set1_epi8((char)k); }
static ALWAYS_INLINE vi v_set(int32_t k) { return _mm512_set1_epi32(k); }
static ALWAYS_INLINE vi v_and(vi x, vi y) { return _mm512_and_si512(x, y); }
static ALWAYS_INLINE vi v_or(vi x, vi y) { return _mm512_or_si512(x, y); }
static ALWAYS_INLINE vi v_xor(vi x, vi y) { return _mm512_xor_si512(x, y); }
static ALWAYS_INLINE vi v_add(vi x, vi y) { return _mm512_add_epi32(x, y); }
static ALWAYS_INLINE vi v_sub(vi x, vi y) { return _mm512_sub_epi32(x, y); }
static ALWAYS_INLINE vi v_max(vi x, vi y) { return _mm512_max_epi32(x, y); }
static ALWAYS_INLINE vi v_addb(vi x, vi y) { return _mm512_add_epi8(x, y); }
static ALWAYS_INLINE vi v_subb(vi x, vi y) { return _mm512_sub_epi8(x, y); }
static ALWAYS_INLINE vi v_mul16(vi x, vi y) { return _mm512_mullo_epi16(x, y); }
static ALWAYS_INLINE vi v_shl(vi x, int n) { return (vi)((__v16su)x << (unsigned)n); }
static ALWAYS_INLINE vi v_shr(vi x, int n) { return (vi)((__v16su)x >> (unsigned)n); }
static ALWAYS_INLINE vi v_shrb(vi x, int n) { return v_and(v_shr(x, n), v_bytes(255 >> n)); }
static ALWAYS_INLINE vi v_put(vi x, vi y, vi mask) { return v_or(x, v_and(y, mask)); }
static ALWAYS_INLINE vi v_u8(const void *p, int part) { return _mm512_cvtepu8_epi32(_mm_loadu_si128(p)); }
static ALWAYS_INLINE vi v_s8(const void *p, int part) { return _mm512_cvtepi8_epi32(_mm_loadu_si128(p)); }
static ALWAYS_INLINE vi v_table(const int8_t t[16]) { return _mm512_broadcast_i32x4(_mm_loadu_si128((const void *)t)); }
static ALWAYS_INLINE vi v_lut(vi t, vi x) { return _mm512_shuffle_epi8(t, x); }

static ALWAYS_INLINE vf f_set(float x) { return _mm512_set1_ps(x); }
static ALWAYS_INLINE vf f_cvt(vi x) { return _mm512_cvtepi32_ps(x); }
static ALWAYS_INLINE vf f_bits(vi x) { return _mm512_castsi512_ps(x); }
static ALWAYS_INLINE vf f_mul(vf x, vf y) { return _mm512_mul_ps(x, y); }
static ALWAYS_INLINE vf f_fma(vf x, vf y, vf z) { return _mm512_fmadd_ps(x, y, z); }
static ALWAYS_INLINE vf f_f16(const void *p) { return _mm512_cvtph_ps(_mm256_loadu_si256(p)); }
static ALWAYS_INLINE vf f_load(const float *p) { return _mm512_loadu_ps(p); }
static ALWAYS_INLINE void f_store(float *p, vf x) { _mm512_storeu_ps(p, x); }

/* Dots take 4 cycles, one starts in each: up to two columns have two chains each, more are carried side by side. */
static ALWAYS_INLINE void v_dots(enum qn_type type, vi *s, int n_cols, const vi *w, int n, const int8_t *const *a)
{
    const bool two = n_cols <= 2;
    vi t[DOT_COLS];
    LANES_FOR (c, n_cols)
        t[c] = v_set(0);
    LANES_FOR (j, n)
        LANES_FOR (c, n_cols) {
            vi *sum = two && j % 2 ? &t[c] : &s[c];
            *sum = _mm512_dpbusd_epi32(*sum, w[j], v_set(load_4(a[c] + 4 * j)));
        }
    LANES_FOR (c, n_cols)
        s[c] = two ? v_add(s[c], t[c]) : s[c];
}

static ALWAYS_INLINE void v_arrange(enum qn_type type, int n, vi w[8]) {}

#endif
