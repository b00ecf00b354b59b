/* SPDX-License-Identifier: MIT */
/* Matrix products of the types with a code book with AVX-512 VBMI, BITALG and GFNI; all other types are the avx512 level's.
 * 64 indices are looked up at once in byte tables of the books' ranks (iquant_tables.h), and a second look-up takes ranks of
 * 2 or 3 bits to biased weights.  A byte holds up to four weights and all bytes of a register are treated alike, so weights come
 * out turned: byte j of register 4 h + b is column 16 h + 4 j + b.  For few columns v_dot_turned() turns the activations likewise. */
#include "simd/x86/mul_avx512.h"
#include "quant/iquant_tables.h"

enum { MAX_DIRECT = 16, TURNED_COLS = 4 };
/* clang-format off */
#define DIRECT_COLS(M, t) M(t, 1) M(t, 2) M(t, 4) M(t, 6) M(t, 8) M(t, 12) M(t, 16)
#define KINDS(M) M(ONE, 255) M(SUB, 255)
#define KIND_COLS(M, r, w) M(r, w, 1) M(r, w, 2) M(r, w, 4) M(r, w, 8) M(r, w, 10) M(r, w, 12) M(r, w, 14) M(r, w, 16)
/* clang-format on */
#define MUL_WITHOUT_PLANES
#define MUL_WITHOUT_FLOAT
#define BOOK_OWN

static ALWAYS_INLINE vi v_dot(vi s, const vi *w, int n, const int8_t *a, int wmax) { return dot_chains(s, w, n, a); }

/* For turned weights: each 16 activations as a matrix of 4 x 4 transposed.  Four chains: with one column the time of a group counts. */
static ALWAYS_INLINE vi v_dot_turned(vi s, const vi *w, int n, const int8_t *a, int wmax)
{
    const __m128i turn = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    _Alignas(32) int8_t t[32];
    if (n == 8) {
        __m256i x = _mm256_loadu_si256((const __m256i *)a);
        _mm256_store_si256((__m256i *)t, _mm256_shuffle_epi8(x, _mm256_broadcastsi128_si256(turn)));
    } else {
        _mm_store_si128((__m128i *)t, _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)a), turn));
    }
    IN_MEMORY(t);
    vi sum[4] = {s, v_set(0), v_set(0), v_set(0)};
    LANES_FOR (j, n)
        sum[j % 4] = _mm512_dpbusd_epi32(sum[j % 4], w[j], v_set(load_4(t + 4 * j)));
    return v_add(v_add(sum[0], sum[1]), v_add(sum[2], sum[3]));
}

/* Each four registers of a half, turned: byte j of register b becomes byte b of register j. */
static ALWAYS_INLINE void v_straighten(vi w[8])
{
#define PAIR(x, y) \
    ((uint64_t)0x41014000 + 0x02020202 * (uint64_t)(x) + (((uint64_t)0x45054404 + 0x02020202 * (uint64_t)(x)) << 32) + \
     0x0808080808080808 * (uint64_t)(y))
#define PAIRS(x) \
    _mm512_setr_epi64((int64_t)PAIR(x, 0), (int64_t)PAIR(x, 1), (int64_t)PAIR(x, 2), (int64_t)PAIR(x, 3), \
                      (int64_t)PAIR(x, 4), (int64_t)PAIR(x, 5), (int64_t)PAIR(x, 6), (int64_t)PAIR(x, 7))
    const vi first = PAIRS(0), last = PAIRS(1);
    LANES_FOR (h, 2) {
        vi *v = w + 4 * h;
        vi a = _mm512_permutex2var_epi8(v[0], first, v[1]), b = _mm512_permutex2var_epi8(v[0], last, v[1]);
        vi c = _mm512_permutex2var_epi8(v[2], first, v[3]), d = _mm512_permutex2var_epi8(v[2], last, v[3]);
        v[0] = _mm512_mask_blend_epi16(0xaaaaaaaa, a, v_shl(c, 16));
        v[1] = _mm512_mask_blend_epi16(0xaaaaaaaa, v_shr(a, 16), c);
        v[2] = _mm512_mask_blend_epi16(0xaaaaaaaa, b, v_shl(d, 16));
        v[3] = _mm512_mask_blend_epi16(0xaaaaaaaa, v_shr(b, 16), d);
    }
#undef PAIR
#undef PAIRS
}

/* ---- look-ups of 64 indices in tables of 128 bytes and more; m: bits 7, 8, ... of all indices */

static ALWAYS_INLINE vi look_128(const uint8_t *t, vi i)
{
    return _mm512_permutex2var_epi8(v_load(t), i, v_load(t + 64));
}
static ALWAYS_INLINE vi look_256(const uint8_t *t, vi i, const __mmask64 *m)
{
    return _mm512_mask_blend_epi8(m[0], look_128(t, i), look_128(t + 128, i));
}
static ALWAYS_INLINE vi look_512(const uint8_t *t, vi i, const __mmask64 *m)
{
    return _mm512_mask_blend_epi8(m[1], look_256(t, i, m), look_256(t + 256, i, m));
}
static ALWAYS_INLINE vi look_1024(const uint8_t *t, vi i, const __mmask64 *m)
{
    return _mm512_mask_blend_epi8(m[2], look_512(t, i, m), look_512(t + 512, i, m));
}
static ALWAYS_INLINE vi look_2048(const uint8_t *t, vi i, const __mmask64 *m)
{
    return _mm512_mask_blend_epi8(m[3], look_1024(t, i, m), look_1024(t + 1024, i, m));
}

static ALWAYS_INLINE vi look(const uint8_t *t, int size, vi i, const __mmask64 *m)
{
    switch (size) {
    case 256:
        return look_256(t, i, m);
    case 512:
        return look_512(t, i, m);
    case 1024:
        return look_1024(t, i, m);
    default:
        return look_2048(t, i, m);
    }
}

/* Bit 7 of the indices, then n bits from the words at p. */
static ALWAYS_INLINE void index_bits(__mmask64 *m, vi i, const uint8_t *p, int n)
{
    m[0] = _mm512_movepi8_mask(i);
    LANES_FOR (k, n)
        m[k + 1] = (__mmask64)load_8(p + 8 * k);
}

/* ---- ranks to weights, four values a table where a rank has 2 bits, eight where it has 3.  A look-up minds 6 bits of its index:
 * the table says which of them are the rank's. */

/* Bytes 8 k .. 8 k + 7 of the table. */
static ALWAYS_INLINE int64_t rank_word(const int8_t *v, int bits, int shift, int k)
{
    uint64_t x = 0;
    LANES_FOR (i, 8)
        x |= (uint64_t)(uint8_t)v[(8 * k + i) >> shift & ((1 << bits) - 1)] << 8 * i;
    return (int64_t)x;
}

static ALWAYS_INLINE vi rank_table(const int8_t *v, int bits, int shift)
{
    return _mm512_setr_epi64(rank_word(v, bits, shift, 0), rank_word(v, bits, shift, 1), rank_word(v, bits, shift, 2),
                             rank_word(v, bits, shift, 3), rank_word(v, bits, shift, 4), rank_word(v, bits, shift, 5),
                             rank_word(v, bits, shift, 6), rank_word(v, bits, shift, 7));
}

static ALWAYS_INLINE vi take(vi x, vi table) { return _mm512_permutexvar_epi8(x, table); }

/* x: bytes of 4 ranks, 2 bits each, of octets of a row: first weights 0..3, second weights 4..7. */
static ALWAYS_INLINE void four_ranks(vi w[8], vi first, vi second, const int8_t v[4])
{
/* of row r: first and second of octet 2 h, first and second of octet 2 h + 1 */
#define TWO_ROWS(k) (0x4505440441014000 + 0x0808080808080808 * (k) + 0x0202020202020202 * h)
    LANES_FOR (h, 2) {
        vi pick = _mm512_setr_epi64(TWO_ROWS(0), TWO_ROWS(1), TWO_ROWS(2), TWO_ROWS(3), TWO_ROWS(4), TWO_ROWS(5),
                                    TWO_ROWS(6), TWO_ROWS(7));
        vi x = _mm512_permutex2var_epi8(first, pick, second);
        LANES_FOR (b, 3)
            w[4 * h + b] = take(x, rank_table(v, 2, 2 * b));
        w[4 * h + 3] = take(v_shr(x, 6), rank_table(v, 2, 0));
    }
#undef TWO_ROWS
}

static ALWAYS_INLINE void book_8(vi w[8], const uint8_t *t, int size, const uint8_t *q, const __mmask64 *m,
                                 const int8_t v[4])
{
    vi i = v_load(q);
    four_ranks(w, look(t, size, i, m), look(t + size, size, i, m), v);
}

/* A line of indices of 4 weights. */
static ALWAYS_INLINE void book_4(vi w[4], const uint8_t *t, int size, const uint8_t *q, const __mmask64 *m,
                                 const int8_t v[8])
{
    vi i = v_load(q);
    LANES_FOR (h, 2) {
        vi x = look(t + h * size, size, i, m);
        w[2 * h] = take(x, rank_table(v, 3, 0));
        w[2 * h + 1] = take(x, rank_table(v, 3, 3));
    }
}

/* ---- signs */

/* Four 7-bit codes of each row to bytes, then bit 7 = parity of the others. */
static ALWAYS_INLINE vi code_signs(vi x)
{
    x = _mm512_multishift_epi64_epi8(_mm512_set1_epi64(0x352e2720150e0700), x);
    return _mm512_gf2p8affine_epi64_epi8(x, _mm512_set1_epi64(0x010204081020407f), 0);
}

/* The same for bytes with the code in bits 1..7. */
static ALWAYS_INLINE vi high_code_signs(vi x)
{
    return _mm512_gf2p8affine_epi64_epi8(x, _mm512_set1_epi64(0x02040810204080fe), 0);
}

/* x: 32 sign bits of each row; weights are biased. */
static ALWAYS_INLINE void negate(vi w[8], vi x, int bias)
{
    LANES_FOR (t, 8) {
        vi at = _mm512_set1_epi64(0x2c2824200c080400 + 0x0101010101010101 * (16 * (t / 4) + t % 4));
        w[t] = _mm512_mask_sub_epi8(w[t], _mm512_bitshuffle_epi64_mask(x, at), v_bytes(2 * bias), w[t]);
    }
}

/* +1, or -1 where the mask has a bit, to the weights of an octet. */
static ALWAYS_INLINE void shift_octets(vi w[8], __mmask64 down)
{
    const __m128i octet = _mm_setr_epi8(0, 0, 1, 1, 4, 4, 5, 5, 8, 8, 9, 9, 12, 12, 13, 13);
    vi d = _mm512_mask_blend_epi8(down, v_bytes(1), v_bytes(-1)), at = _mm512_broadcast_i32x4(octet);
    LANES_FOR (h, 2) {
        vi x = _mm512_shuffle_epi8(d, h ? v_addb(at, v_bytes(2)) : at);
        LANES_FOR (b, 4)
            w[4 * h + b] = v_addb(w[4 * h + b], x);
    }
}

/* q: the group's lines, s: the block's scales. */
static ALWAYS_INLINE void unpack_book(enum qn_type type, vi w[8], const uint8_t *q, const uint8_t *s, int g, int part)
{
    static const int8_t iq1[4] = {16 - 8, 16, 16 + 8}, iq2[4] = {64 + 8, 64 + 25, 64 + 43};
    static const int8_t iq3_xxs[8] = {64 + 4, 64 + 12, 64 + 20, 64 + 28, 64 + 36, 64 + 44, 64 + 52, 64 + 62};
    static const int8_t iq3_s[8] = {16 + 1, 16 + 3, 16 + 5, 16 + 7, 16 + 9, 16 + 11, 16 + 13, 16 + 15};
    __mmask64 m[4];
    switch (type) {
    case QN_IQ2_XXS:
        index_bits(m, v_load(q), NULL, 0);
        book_8(w, iq2_xxs_codes[0], 256, q, m, iq2);
        negate(w, code_signs(v_load(q + 64)), 64);
        break;
    case QN_IQ2_XS:
        index_bits(m, v_load(q), NULL, 0);
        m[1] = _mm512_test_epi8_mask(v_load(q + 64), v_bytes(1));
        book_8(w, iq2_xs_codes[0], 512, q, m, iq2);
        negate(w, high_code_signs(v_load(q + 64)), 64);
        break;
    case QN_IQ2_S:
        index_bits(m, v_load(q), s + 160 + 16 * g, 2);
        book_8(w, iq2_s_codes[0], 1024, q, m, iq2);
        negate(w, v_load(q + 64), 64);
        break;
    case QN_IQ3_XXS:
        LANES_FOR (h, 2) {
            index_bits(m, v_load(q + 64 * h), NULL, 0);
            book_4(w + 4 * h, iq3_xxs_codes[0], 256, q + 64 * h, m, iq3_xxs);
        }
        negate(w, code_signs(v_load(q + 128)), 64);
        break;
    case QN_IQ3_S:
        LANES_FOR (h, 2) {
            index_bits(m, v_load(q + 64 * h), s + 96 + 16 * g + 8 * h, 1);
            book_4(w + 4 * h, iq3_s_codes[0], 512, q + 64 * h, m, iq3_s);
        }
        negate(w, v_load(q + 128), 16);
        break;
    case QN_IQ1_S: {
        index_bits(m, v_load(q), s + 96 + 24 * g, 3);
        book_8(w, iq1_codes[0], 2048, q, m, iq1);
        __mmask16 down = _mm512_test_epi32_mask(v_u8(s + 32 + 16 * (g / 2)), v_set(8 << 4 * (g % 2)));
        vi d = _mm512_mask_blend_epi32(down, v_bytes(1), v_bytes(-1));
        LANES_FOR (t, 8)
            w[t] = v_addb(w[t], d);
        break;
    }
    default: /* IQ1_M */
        index_bits(m, v_load(q), s + 128 + 32 * g, 3);
        book_8(w, iq1_codes[0], 2048, q, m, iq1);
        shift_octets(w, (__mmask64)load_8(s + 152 + 32 * g));
    }
}

#include "simd/mul.inc"
#include "simd/mul_types.inc"

void fill_mul_avx512vbmi(struct simd_ops *ops) { mul_fill(ops, "avx512vbmi"); }
