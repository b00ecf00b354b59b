/* SPDX-License-Identifier: MIT */
/* Matrix products with AVX2, FMA and F16C: a register is half a line, 8 rows.  Products of bytes are summed in pairs of 16 bits, which
 * never saturate: unsigned weights are at most 127, or |w| <= 128 with the sign put on the activation, which is at most 127. */
#define LANES_AVX2
#include "simd/lanes.h"
#include "simd/mul_vocabulary.h"

#include <immintrin.h>

typedef __m256i vi;
typedef __m256 vf;

enum { W = 8, PARTS = 2, WIDE_BIAS = 0, MAX_COLS = 8, MAX_SUMS = 8, DOT_COLS = 1, DOT_STEP = 1 };
enum { FLOAT_ROWS = 2, FLOAT_COLS = 3 };
/* clang-format off */
#define TILE_COLS(M, t) M(t, 1) M(t, 2) M(t, 3) M(t, 4) M(t, 5) M(t, 6) M(t, 7) M(t, 8)
/* clang-format on */

static ALWAYS_INLINE vi v_load(const void *p) { return _mm256_loadu_si256(p); }
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
static ALWAYS_INLINE vi v_u8(const void *p) { return _mm256_cvtepu8_epi32(_mm_loadl_epi64(p)); }
static ALWAYS_INLINE vi v_s8(const void *p) { return _mm256_cvtepi8_epi32(_mm_loadl_epi64(p)); }
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

static ALWAYS_INLINE vi byte_products(vi w, const int8_t *a, bool wide)
{
    vi x = v_set(load_4(a));
    return wide ? _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w)) : _mm256_maddubs_epi16(w, x);
}

/* As many products as fit are summed in 16 bits: a pair is at most 254 wmax.  Columns side by side would need more registers. */
static ALWAYS_INLINE void v_dots(vi *s, int n_cols, const vi *w, int n, const int8_t *const *a, int wmax)
{
    const int fit = 32767 / (254 * wmax), together = fit >= 8 ? 8 : fit >= 4 ? 4 : fit >= 2 ? 2 : 1;
    vi x = v_set(0);
    LANES_FOR (j, n) {
        vi p = byte_products(w[j], a[0] + 4 * j, wmax > 127);
        x = j % together ? _mm256_add_epi16(x, p) : p;
        if (j % together == together - 1 || j == n - 1)
            s[0] = v_add(s[0], _mm256_madd_epi16(x, _mm256_set1_epi16(1)));
    }
}
static ALWAYS_INLINE void v_pair(vi w[8]) {}

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

#include "simd/mul.inc"
#include "simd/mul_float.inc"
#include "simd/mul_types.inc"

/* As where many products fit 16 bits: their widening to 32 bits is left out. */
#define PEAK_DOT(s, w) _mm256_add_epi16(s, _mm256_maddubs_epi16(w, s))
#define PEAK_OPS       64
#define PEAK_REGISTER  "x"
#include "simd/peak.inc"

void fill_mul_avx2(struct simd_ops *ops)
{
    mul_fill(ops, "avx2");
    peak_fill(ops);
}
