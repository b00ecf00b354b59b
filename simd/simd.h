/* SPDX-License-Identifier: MIT */
/* The one dispatch table: what the engine computes per row, head or tile, and the contract of every kernel.
 *
 * ref.c fills the whole table with plain C, which is the specification; a level overwrites what it does better and must give
 * the same bits.  Kernels do not allocate, lock, keep state or know what a layer is.
 *
 * Float code is written over 16 virtual lanes (lanes.h): element i belongs to lane i mod 16; a sum over n elements adds, per lane
 * and in ascending order, then folds lane l with l + 8, l + 4, l + 2, l + 1.  A multiply feeding a sum is an fma where written so.
 * max(a, b) = a > b ? a : b.  exp, log1p and the like are lanes.h's own; exp is exactly +0 below -87.3.
 * n need not be a multiple of 16 unless said; nothing is read or written past the end.  Pointers need no alignment unless said. */
#ifndef QUERN_SIMD_H
#define QUERN_SIMD_H

#include "simd/kv.h"

/* Columns of a product: rows of activations. */
struct cols {
    const void *
        base; /* column c starts at base + (index ? index[c] : c) * stride: act_group[cols / 32], or float[cols] for RULE_FLOAT */
    size_t stride; /* bytes */
    const int32_t *index; /* [n] or NULL */
    int n;
};

/* y[c * ldy + (r - r0)] = row r of w times column c, r0 <= r < r1, 0 <= c < x->n, by the rule of w's type.
 * r0 is a multiple of 16 unless the layout is ROWS; r1 <= w->rows.  Any x->n >= 0 gives the same bits per column. */
typedef void mul_fn(const struct mat *w, int64_t r0, int64_t r1, const struct cols *x, float *y, size_t ldy);

/* One block of one KV head against n_q query rows.
 * k, v: a block's keys and values of kind k_kind and v_kind, laid out as kv.h says.
 * Query row i sees positions 0 .. n_vis[i] - 1 (0..128) of the block; nothing past them takes part, whatever it holds.
 *   s_j = scale * sum_d q[d] k[d][j]   (d ascending, fma from 0, then one multiply)
 *   m = max_j s_j; p_j = exp(s_j - m); l = sum_j p_j over 16 lanes; o[d] = sum_j p_j v[j][d] (j ascending, fma from 0)
 * n_vis 0: m = -inf, l = 0, o = 0.  f16 and bf16 values are converted exactly.
 * Quantized keys: s_j = scale * s[i][j], where s comes from mul[] of the keys' type with the quantized queries.
 * Quantized values: for each 32 dimensions with scales d_j, over the positions that the row sees,
 *   x_j = p_j * d_j, t = max |x_j| (an unsigned maximum of the bits), w_j = rint(x_j * (16383 / t)), integers of 14 bits and a sign
 *   o[d] = (float)sum_j w_j v_j[d] * (t / 16383), v_j the integers that the codes stand for, the sum exact
 * t < 2^-100: w = 0, o = 0; t not finite: o is NaN. */
struct attn_args {
    const float *q; /* row i at q + i * q_stride, [head_dim]; float keys */
    size_t q_stride; /* floats */
    int n_q, head_dim; /* head_dim: a multiple of 16, of 32 with quantized keys or values, <= 512 */
    float scale;
    enum kv_kind k_kind, v_kind;
    const void *k, *v;
    const int *n_vis; /* [n_q] */
    float *m, *l; /* [n_q] out */
    float *o; /* row i at o + i * o_stride, out */
    size_t o_stride;
    const void *k_next; /* what the next call will read as k, asked for meanwhile; or NULL */
    const float *s; /* [n_q][ATTN_BLOCK] products of queries and keys; quantized keys */
};

/* n_tok steps of the gated delta rule on one tile of a head's state: 16 value columns.
 * With S = s[i][c] (i < dk, column c a lane), q, k normalised and q scaled already, kq[t] = sum_i k[i] q[i]:
 *   u_c = sum_i S[i][c] k[i], r_c = sum_i S[i][c] q[i]   as 4 partial sums over i mod 4, fma ascending, (p0 + p2) + (p1 + p3)
 *   d_c = (v_c - decay * u_c) * beta      (fma(-decay, u, v), then multiply)
 *   o_c = fma(kq, d_c, decay * r_c)
 *   S[i][c] = fma(k[i], d_c, decay * S[i][c]) */
struct delta_args {
    float *s; /* [dk][16], updated */
    const float *q, *k; /* token t at q + t * qk_stride, [dk] */
    const float *v; /* token t at v + t * v_stride, [16] */
    float *o; /* token t at o + t * o_stride, [16] */
    const float *decay, *beta; /* token t at [t * gate_stride]; decay = exp(g) */
    const float *g; /* log decay, the same stride (chunked form only) */
    const float *kq; /* token t at [t * kq_stride] */
    size_t qk_stride, v_stride, o_stride, gate_stride, kq_stride; /* floats */
    int n_tok, dk; /* dk: a multiple of 16, <= 256 */
};

struct simd_ops {
    const char *name; /* of the level */
    const char *mul_level[QN_TYPE_LIMIT]; /* level whose mul is in use per type, for bench --kernels */
    mul_fn *mul[QN_TYPE_LIMIT]; /* by type id */

    void (*quantize)(const float *x, int64_t n, struct act_group *out); /* n a multiple of 32; = act_quantize_ref */

    /* y[i] = (x[i] * s) * w[i], s = 1 / sqrtf(sum(x x) / n + eps); w NULL: no weight.  y may be x. */
    void (*rmsnorm)(float *y, const float *x, const float *w, int n, float eps);
    /* y[i] = x[i] * (scale / sqrtf(sum(x x) + eps)).  y may be x. */
    void (*l2norm)(float *y, const float *x, int n, float eps, float scale);
    float (*dot)(const float *x, const float *y, int n); /* 16 lanes, fma, folded */
    void (*add)(float *y, const float *x, int n); /* y += x */
    void (*scale)(float *y, float a, int n); /* y *= a */
    void (*axpy)(float *y, float a, const float *x, int n); /* y = fma(a, x, y) */
    void (*silu_mul)(float *y, const float *g, const float *u, int n); /* y = silu(g) * u; y may be either */
    void (*sigmoid_mul)(float *y, const float *x, const float *g, int n); /* y = x * sigmoid(g); y may be either */
    void (*sigmoid)(float *y, const float *x, int n);
    /* decay[h] = exp(g[h]), g[h] = a_log[h] * softplus(a[h] + dt[h]), beta[h] = sigmoid(b[h]); a_log = -exp(A_log) as stored */
    void (*delta_gates)(float *g, float *decay, float *beta, const float *a, const float *b, const float *a_log,
                        const float *dt, int n);
    void (*softmax)(float *x, int n); /* in place: p = exp(x - max), times 1 / sum */
    /* cos_sin[2 i] = mscale * cos(a), [2 i + 1] = mscale * sin(a), a = (float)pos * inv_freq[i] rounded to f32; within 1 ulp of
     * the true cosine and sine of a (mscale 1) for pos < 2^20 */
    void (*rope_angles)(float *cos_sin, const float *inv_freq, int n_pairs, int pos, float mscale);
    /* Rotates pair i = (x[i], x[i + n_pairs]) (neox) or (x[2 i], x[2 i + 1]):
     * x0' = fma(-x1, sin, x0 * cos), x1' = fma(x0, sin, x1 * cos) */
    void (*rope)(float *x, const float *cos_sin, int n_pairs, bool neox);
    /* Causal depthwise convolution and SiLU over n channels and n_tok tokens.  x: token t at x + t * x_stride; history: [n_tap - 1][n]
     * inputs before x, oldest first; w: [n_tap][n], last tap = current token.  y[t][c] = silu(sum_j fma, j ascending from 0).
     * y may not be x.  n_tap <= 8. */
    void (*conv_silu)(float *y, size_t y_stride, const float *x, size_t x_stride, const float *history, const float *w,
                      int n, int n_tok, int n_tap);

    void (*attn_block)(const struct attn_args *a);
    /* Merges block results in ascending order: M' = max(M, m); a = exp(M - M'), b = exp(m - M') (0 when m is -inf);
     * L' = fma(L, a, l * b), O' = fma(O, a, o * b).  Start: M = -inf, L = 0, O = 0. */
    void (*attn_merge)(float *M, float *L, float *O, float m, float l, const float *o, int head_dim);

    void (*delta_step)(const struct delta_args *a); /* exact form */
    void (*delta_chunk)(
        const struct delta_args *a); /* matrix (WY) form, chunks of up to 64 tokens counted from t = 0 */

    void (*to_f16)(uint16_t *y, const float *x, int n); /* clamped to +-65504, nearest even */

    /* For measurements: that many rounds of independent dots of bytes, or fused multiply-adds, from registers; returns how many
     * multiplications and additions they were.  NULL: the level has no such instructions. */
    double (*int_peak)(int64_t rounds);
    double (*float_peak)(int64_t rounds);

    /* x times a Hadamard matrix over sqrt(size), in blocks of the largest power of two that divides n, in place; doing it twice gives x
     * but for rounding.  log2(size) stages y[i] = x[2 i] + x[2 i + 1], y[i + size / 2] = x[2 i] - x[2 i + 1], the last one times
     * 1 / sqrtf(size).  n: a multiple of 32, <= 512. */
    void (*rotate)(float *x, int n);
    /* x[n] to codes q[n] and f16 scales d[n / 32] of a quantized kind; n a multiple of 32.  Codes of KV_Q8_0 are integers, of KV_Q5_0
     * and KV_Q4_0 16 and 8 more than them, of KV_IQ4_NL indices of the book.  Integers are the nearest to x / d.  KV_Q8_0: d = amax / 127;
     * else one of four scales tried, see kv.inc.  A group that is not finite gets d = NaN, one below 2^-100 zeros. */
    void (*kv_encode)(enum kv_kind kind, const float *x, int n, int8_t *q, uint16_t *d);
};

/* Levels this build has and this machine can run, best first; ends with "c".  NULL-terminated. */
const char *const *simd_levels(void);
/* Fills *ops for a level ("auto" or NULL: the best); false when it is unknown or cannot run here. */
bool simd_init(struct simd_ops *ops, const char *level);

/* Float environment of a worker: round to nearest, no flush to zero.  Returns the old state for simd_float_leave(). */
uint64_t simd_float_enter(void);
void simd_float_leave(uint64_t saved);

#endif
