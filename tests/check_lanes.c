/* SPDX-License-Identifier: MIT */
/* What is written over lanes: the errors of its functions against float64, special values, and the contracts of simd.h spelt out
 * once more, element by element, in the most literal way.  The C level and the best one are tested; that all levels agree is the
 * kernel checker's business. */
#include "simd/simd.h"
#include "simd/lanes.h"

#include <fenv.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <cmocka.h>

static float from_bits(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof(f));
    return f;
}

/* Distance of y from x in units of x's last place as a float. */
static double ulps(float y, double x)
{
    int e;
    frexp(x, &e);
    return fabs((double)y - x) / ldexp(1.0, (e < -125 ? -125 : e) - 24);
}

static uint64_t rng = 1;
static uint32_t rand32(void)
{
    rng = rng * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(rng >> 32);
}
static float unit(void) { return (float)(int32_t)rand32() * 0x1p-31f; }
static void fill(float *x, int n, float scale)
{
    for (int i = 0; i < n; i++)
        x[i] = scale * unit();
}

/* The C level and the best one of this machine. */
static int two_levels(struct simd_ops *ops)
{
    assert_true(simd_init(&ops[0], "c"));
    assert_true(simd_init(&ops[1], "auto"));
    return 2;
}

/* ---- accuracy */

typedef lf lane_fn(lf x);

static lf fn_exp(lf x) { return lanes_exp(x); }
static lf fn_log1p01(lf x) { return lanes_log1p01(x); }
static lf fn_softplus(lf x) { return lanes_softplus(x); }
static lf fn_sigmoid(lf x) { return lanes_sigmoid(x); }
static lf fn_silu(lf x) { return lanes_silu(x); }

static double true_softplus(double x) { return x > 40 ? x + exp(-x) : log1p(exp(x)); }
static double true_sigmoid(double x) { return 1 / (1 + exp(-x)); }
static double true_silu(double x) { return x / (1 + exp(-x)); }

/* Both signs of every 1,009th float with lo <= x <= hi. */
static void accuracy(lane_fn *fn, double (*truth)(double), float lo, float hi, double bound)
{
    float x[LANES] = {0}, y[LANES];
    int n = 0;
    for (uint32_t u = rand32() % 1009; u < 0x7f800000; u += 1009) {
        for (uint32_t sign = 0; sign < 2; sign++) {
            float v = from_bits(u | sign << 31);
            if (!(v >= lo && v <= hi))
                continue;
            x[n++] = v;
            if (n < LANES)
                continue;
            lanes_store(y, fn(lanes_load(x)));
            for (int l = 0; l < LANES; l++)
                if (!(ulps(y[l], truth((double)x[l])) <= bound))
                    fail_msg("at %a: %a, should be %a", (double)x[l], (double)y[l], truth((double)x[l]));
            n = 0;
        }
    }
}

static void exp_accuracy(void **state) { accuracy(fn_exp, exp, -87.3f, 88.72283f, 1.0); }
static void log1p_accuracy(void **state) { accuracy(fn_log1p01, log1p, 0.0f, 1.0f, 2.0); }
static void softplus_accuracy(void **state) { accuracy(fn_softplus, true_softplus, -87.3f, 3e38f, 2.8); }
static void sigmoid_accuracy(void **state) { accuracy(fn_sigmoid, true_sigmoid, -87.3f, 3e38f, 2.4); }
static void silu_accuracy(void **state) { accuracy(fn_silu, true_silu, -87.3f, 3e38f, 2.4); }

static float one(lane_fn *fn, float x)
{
    float y[LANES];
    lanes_store(y, fn(lanes_set(x)));
    return y[LANES - 1];
}

static void special_values(void **state)
{
    const float below = nextafterf(-87.3f, -INFINITY), zero = 0.0f;
    assert_true(one(fn_exp, -87.3f) > 0);
    assert_memory_equal(&(float){one(fn_exp, below)}, &zero, sizeof(zero));
    assert_memory_equal(&(float){one(fn_exp, -INFINITY)}, &zero, sizeof(zero));
    assert_memory_equal(&(float){one(fn_exp, -3e38f)}, &zero, sizeof(zero));
    assert_true(one(fn_exp, 0.0f) == 1.0f && one(fn_exp, -0.0f) == 1.0f);
    assert_true(isfinite(one(fn_exp, 0x1.62e42ep+6f)) && isinf(one(fn_exp, 0x1.62e43p+6f)));
    assert_true(isinf(one(fn_exp, INFINITY)) && isnan(one(fn_exp, NAN)));

    assert_true(one(fn_softplus, 1000.0f) == 1000.0f && one(fn_softplus, -1000.0f) == 0.0f);
    assert_true(isinf(one(fn_softplus, INFINITY)) && one(fn_softplus, -INFINITY) == 0.0f);
    assert_true(isnan(one(fn_softplus, NAN)));

    assert_true(one(fn_sigmoid, 1000.0f) == 1.0f && one(fn_sigmoid, -1000.0f) == 0.0f);
    assert_true(one(fn_sigmoid, INFINITY) == 1.0f && one(fn_sigmoid, -INFINITY) == 0.0f);
    assert_true(isnan(one(fn_sigmoid, NAN)));

    assert_true(one(fn_silu, 1000.0f) == 1000.0f && one(fn_silu, -1000.0f) == 0.0f);
    assert_true(isinf(one(fn_silu, INFINITY)) && isnan(one(fn_silu, NAN)));
}

static void softmax_accuracy(void **state)
{
    enum { N = 1003 };
    struct simd_ops ops[2];
    for (int i = two_levels(ops) - 1; i >= 0; i--)
        for (int n = 1; n <= N; n += 167) {
            float x[N];
            double p[N], top = -1e30, sum = 0;
            fill(x, n, 20.0f);
            for (int j = 0; j < n; j++)
                top = fmax(top, (double)x[j]);
            for (int j = 0; j < n; j++)
                sum += p[j] = exp((double)x[j] - top);
            ops[i].softmax(x, n);
            for (int j = 0; j < n; j++) /* the difference x - max is rounded too: up to 40, half a unit of 2^-18 */
                assert_true(fabs((double)x[j] - p[j] / sum) <= (p[j] / sum) * (0x1p-19 + 0x1p-20));
        }
}

static void angles_check(const struct simd_ops *ops, const float *inv_freq, int n, int pos)
{
    float y[2 * 64];
    ops->rope_angles(y, inv_freq, n, pos, 1.0f);
    for (int i = 0; i < n; i++) {
        double a = (double)((float)pos * inv_freq[i]);
        if (!(ulps(y[2 * i], cos(a)) <= 1.0 && ulps(y[2 * i + 1], sin(a)) <= 1.0))
            fail_msg("pos %d, angle %a: %a %a, should be %a %a", pos, a, (double)y[2 * i], (double)y[2 * i + 1], cos(a),
                     sin(a));
    }
}

static void angles_accuracy(void **state)
{
    static const struct {
        double base;
        int dim;
    } rope[] = {{10000.0, 64}, {1e6, 128}, {1e7, 64}, {5e5, 80}};
    struct simd_ops ops[2];
    two_levels(ops);
    for (int r = 0; r < 4; r++) {
        float inv_freq[64];
        for (int i = 0; i < rope[r].dim / 2; i++)
            inv_freq[i] = 1.0f / (float)pow(rope[r].base, (double)((float)(2 * i) / (float)rope[r].dim));
        for (int pos = 0; pos < 262144; pos += pos < 1000 ? 1 : 61)
            angles_check(&ops[1], inv_freq, rope[r].dim / 2, pos);
        angles_check(&ops[1], inv_freq, rope[r].dim / 2, 262143);
        for (int pos = 0; pos < 1 << 20; pos += 4999)
            angles_check(&ops[0], inv_freq, rope[r].dim / 2, pos);
    }
}

/* ---- contracts, literally */

/* 16 sums, element i to lane i mod 16, folded. */
static float fold(float *p)
{
    for (int half = 8; half; half /= 2)
        for (int l = 0; l < half; l++)
            p[l] += p[l + half];
    return p[0];
}

static float plain_dot(const float *x, const float *y, int n)
{
    float p[16] = {0};
    for (int i = 0; i < n; i++)
        p[i % 16] = fmaf(x[i], y[i], p[i % 16]);
    return fold(p);
}

static void norms_contract(void **state)
{
    enum { N = 100 };
    struct simd_ops ops[2];
    for (int i = two_levels(ops) - 1; i >= 0; i--)
        for (int n = 1; n <= N; n++) {
            float x[N], w[N], y[N], want[N], s;
            fill(x, n, 3.0f);
            fill(w, n, 1.0f);
            float sum = plain_dot(x, x, n);
            assert_true(ops[i].dot(x, x, n) == sum);
            s = 1.0f / sqrtf(sum / (float)n + 1e-6f);
            for (int j = 0; j < n; j++)
                want[j] = (x[j] * s) * w[j];
            ops[i].rmsnorm(y, x, w, n, 1e-6f);
            assert_memory_equal(y, want, sizeof(float) * (size_t)n);
            s = 0.25f / sqrtf(sum + 1e-6f);
            for (int j = 0; j < n; j++)
                want[j] = x[j] * s;
            ops[i].l2norm(y, x, n, 1e-6f, 0.25f);
            assert_memory_equal(y, want, sizeof(float) * (size_t)n);
        }
}

static void rope_contract(void **state)
{
    enum { PAIRS = 37 };
    struct simd_ops ops[2];
    for (int i = two_levels(ops) - 1; i >= 0; i--)
        for (int neox = 0; neox < 2; neox++) {
            float x[2 * PAIRS], cs[2 * PAIRS], want[2 * PAIRS];
            fill(x, 2 * PAIRS, 3.0f);
            fill(cs, 2 * PAIRS, 1.0f);
            for (int j = 0; j < PAIRS; j++) {
                int a = neox ? j : 2 * j, b = neox ? j + PAIRS : 2 * j + 1;
                want[a] = fmaf(-x[b], cs[2 * j + 1], x[a] * cs[2 * j]);
                want[b] = fmaf(x[a], cs[2 * j + 1], x[b] * cs[2 * j]);
            }
            ops[i].rope(x, cs, PAIRS, neox);
            assert_memory_equal(x, want, sizeof(x));
        }
}

static void conv_contract(void **state)
{
    enum { N = 21, TOK = 6, TAP = 4 };
    struct simd_ops ops[2];
    for (int i = two_levels(ops) - 1; i >= 0; i--) {
        float in[TAP - 1 + TOK][N], w[TAP][N], y[TOK][N]; /* in: the history, then x */
        fill(in[0], (TAP - 1 + TOK) * N, 2.0f);
        fill(w[0], TAP * N, 1.0f);
        ops[i].conv_silu(y[0], N, in[TAP - 1], N, in[0], w[0], N, TOK, TAP);
        for (int t = 0; t < TOK; t++)
            for (int c = 0; c < N; c++) {
                float sum = 0;
                for (int j = 0; j < TAP; j++)
                    sum = fmaf(w[j][c], in[t + j][c], sum);
                assert_true(y[t][c] == one(fn_silu, sum));
            }
    }
}

enum { DIM = 80, N_Q = 7 };

struct block {
    float q[N_Q][DIM], k[DIM][ATTN_BLOCK], v[ATTN_BLOCK][DIM];
    uint16_t k16[DIM][ATTN_BLOCK], v16[ATTN_BLOCK][DIM];
    int n_vis[N_Q];
    float m[N_Q], l[N_Q], o[N_Q][DIM];
};

/* Row i of the block as simd.h has it. */
static void plain_row(const struct block *b, int i, float scale, float *m, float *l, float *o)
{
    float s[ATTN_BLOCK], p[ATTN_BLOCK], sum[16] = {0};
    int n = b->n_vis[i];
    *m = -INFINITY;
    for (int j = 0; j < n; j++) {
        s[j] = 0;
        for (int d = 0; d < DIM; d++)
            s[j] = fmaf(b->q[i][d], b->k[d][j], s[j]);
        s[j] *= scale;
        *m = s[j] > *m ? s[j] : *m;
    }
    for (int j = 0; j < n; j++) {
        p[j] = one(fn_exp, s[j] - *m);
        sum[j % 16] += p[j];
    }
    *l = fold(sum);
    for (int d = 0; d < DIM; d++) {
        o[d] = 0;
        for (int j = 0; j < n; j++)
            o[d] = fmaf(p[j], b->v[j][d], o[d]);
    }
}

/* Values that a half holds exactly, so that both kinds of cache have one result. */
static void block_fill(struct block *b)
{
    static const int n_vis[N_Q] = {0, 1, 16, 77, 78, 128, 40};
    memset(b, 0, sizeof(*b));
    fill(b->q[0], N_Q * DIM, 1.0f);
    for (int d = 0; d < DIM; d++)
        for (int j = 0; j < ATTN_BLOCK; j++) {
            b->k16[d][j] = f32_to_f16(unit());
            b->v16[j][d] = f32_to_f16(unit());
            b->k[d][j] = f16_to_f32(b->k16[d][j]);
            b->v[j][d] = f16_to_f32(b->v16[j][d]);
        }
    memcpy(b->n_vis, n_vis, sizeof(n_vis));
}

static void attn_contract(void **state)
{
    static struct block b;
    struct simd_ops ops[2];
    block_fill(&b);
    for (int i = 2 * two_levels(ops) - 1; i >= 0; i--) {
        enum kv_kind kind = i % 2 ? KV_F16 : KV_F32;
        struct attn_args a = {b.q[0],
                              DIM,
                              N_Q,
                              DIM,
                              0.3f,
                              kind,
                              kind,
                              kind == KV_F16 ? (void *)b.k16 : (void *)b.k,
                              kind == KV_F16 ? (void *)b.v16 : (void *)b.v,
                              b.n_vis,
                              b.m,
                              b.l,
                              b.o[0],
                              DIM,
                              NULL,
                              NULL};
        ops[i / 2].attn_block(&a);
        for (int r = 0; r < N_Q; r++) {
            float m, l, o[DIM];
            plain_row(&b, r, 0.3f, &m, &l, o);
            assert_true(m == b.m[r] && l == b.l[r]);
            assert_memory_equal(o, b.o[r], sizeof(o));
        }
    }
}

static void merge_contract(void **state)
{
    static const float start[][3] = {{-INFINITY, 0, 0}, {1.5f, 3.0f, 0}, {-2.0f, 1.0f, 0}, {100.0f, 2.0f, 0}};
    static const float block[][2] = {{-INFINITY, 0}, {1.25f, 2.0f}, {1.5f, 1.0f}, {-90.0f, 7.0f}};
    struct simd_ops ops[2];
    for (int i = two_levels(ops) - 1; i >= 0; i--)
        for (int c = 0; c < 16; c++) {
            float M = start[c / 4][0], L = start[c / 4][1], O[DIM], m = block[c % 4][0], l = block[c % 4][1], o[DIM];
            fill(O, DIM, M == -INFINITY ? 0.0f : 1.0f);
            fill(o, DIM, m == -INFINITY ? 0.0f : 1.0f);
            float top = M > m ? M : m, want[DIM];
            float a = M == -INFINITY ? 0.0f : one(fn_exp, M - top), b = m == -INFINITY ? 0.0f : one(fn_exp, m - top);
            for (int d = 0; d < DIM; d++)
                want[d] = fmaf(O[d], a, o[d] * b);
            float want_l = fmaf(L, a, l * b);
            ops[i].attn_merge(&M, &L, O, m, l, o, DIM);
            assert_true(M == top && L == want_l);
            assert_memory_equal(O, want, sizeof(O));
        }
}

enum { DK = 48, TOK = 5 };

/* One step on column c. */
static void plain_delta(float (*s)[16], int c, const float *q, const float *k, float v, float decay, float beta,
                        float kq, float *o)
{
    float u[4] = {0}, r[4] = {0};
    for (int i = 0; i < DK; i++) {
        u[i % 4] = fmaf(s[i][c], k[i], u[i % 4]);
        r[i % 4] = fmaf(s[i][c], q[i], r[i % 4]);
    }
    float d = fmaf(-decay, (u[0] + u[2]) + (u[1] + u[3]), v) * beta;
    *o = fmaf(kq, d, decay * ((r[0] + r[2]) + (r[1] + r[3])));
    for (int i = 0; i < DK; i++)
        s[i][c] = fmaf(k[i], d, decay * s[i][c]);
}

static void delta_contract(void **state)
{
    struct simd_ops ops[2];
    for (int i = two_levels(ops) - 1; i >= 0; i--) {
        float s[DK][16], want_s[DK][16], q[TOK][DK], k[TOK][DK], v[TOK][16], o[TOK][16], decay[TOK], beta[TOK], kq[TOK];
        fill(s[0], DK * 16, 1.0f);
        memcpy(want_s, s, sizeof(s));
        fill(q[0], TOK * DK, 0.2f);
        fill(k[0], TOK * DK, 0.2f);
        fill(v[0], TOK * 16, 1.0f);
        fill(decay, TOK, 1.0f);
        fill(beta, TOK, 1.0f);
        fill(kq, TOK, 1.0f);
        struct delta_args a = {.s = s[0], .q = q[0], .k = k[0], .v = v[0], .o = o[0], .decay = decay};
        a.beta = beta;
        a.kq = kq;
        a.qk_stride = DK;
        a.v_stride = a.o_stride = 16;
        a.gate_stride = a.kq_stride = 1;
        a.n_tok = TOK;
        a.dk = DK;
        ops[i].delta_step(&a);
        for (int t = 0; t < TOK; t++)
            for (int c = 0; c < 16; c++) {
                float want;
                plain_delta(want_s, c, q[t], k[t], v[t][c], decay[t], beta[t], kq[t], &want);
                assert_true(o[t][c] == want);
            }
        assert_memory_equal(s, want_s, sizeof(s));
    }
}

static void to_f16_clamps(void **state)
{
    static const struct {
        float x;
        uint16_t h;
    } want[] = {{1.0f, 0x3c00},      {1e30f, 0x7bff},    {-1e30f, 0xfbff},          {INFINITY, 0x7bff},
                {-INFINITY, 0xfbff}, {65519.0f, 0x7bff}, {0x1.002p+0f, 0x3c00},     {0x1.006p+0f, 0x3c02},
                {0x1p-24f, 0x0001},  {0x1p-25f, 0x0000}, {0x1.000002p-25f, 0x0001}, {-0.0f, 0x8000}};
    struct simd_ops ops[2];
    for (int i = two_levels(ops) - 1; i >= 0; i--)
        for (size_t j = 0; j < sizeof(want) / sizeof(want[0]); j++) {
            uint16_t h[17];
            float x[17];
            for (int n = 0; n < 17; n++)
                x[n] = want[j].x;
            ops[i].to_f16(h, x, 17);
            assert_int_equal(h[0], want[j].h);
            assert_int_equal(h[16], want[j].h);
            x[16] = NAN;
            ops[i].to_f16(h, x, 17);
            assert_true((h[16] & 0x7fff) > 0x7c00);
        }
}

/* ---- levels, float environment */

static void levels_order(void **state)
{
    const char *const *name = simd_levels();
    struct simd_ops ops, best;
    int n = 0;
    for (; name[n]; n++) {
        assert_true(simd_init(&ops, name[n]));
        assert_string_equal(ops.name, name[n]);
    }
    assert_true(n >= 1);
    assert_string_equal(name[n - 1], "c");
    assert_true(simd_init(&best, NULL));
    assert_string_equal(best.name, name[0]);
    assert_false(simd_init(&ops, "sse9"));
    assert_false(simd_init(&ops, ""));
}

/* A product that is a denormal number: 0 where the processor flushes. */
static float tiny_product(void)
{
    volatile float a = 0x1p-100f, b = 0x1p-30f;
    return a * b;
}

static bool rounds_up(void)
{
    volatile float a = 1.0f, b = 0x1p-30f;
    return a + b > 1.0f;
}

static void float_env(void **state)
{
    int rounding = fegetround();
    fesetround(FE_UPWARD);
    uint64_t saved = simd_float_enter();
    assert_false(rounds_up());
    assert_true(tiny_product() > 0);
    simd_float_leave(saved);
    assert_true(rounds_up());
    fesetround(rounding);
    assert_false(rounds_up());
#if defined(__x86_64__)
    unsigned mode = __builtin_ia32_stmxcsr();
    __builtin_ia32_ldmxcsr(mode | 0x8040); /* flush to zero, denormals are zero */
    assert_true(tiny_product() == 0);
    saved = simd_float_enter();
    assert_true(tiny_product() > 0);
    simd_float_leave(saved);
    assert_true(tiny_product() == 0);
    __builtin_ia32_ldmxcsr(mode);
#elif defined(__aarch64__)
    uint64_t mode;
    __asm__ volatile("mrs %0, fpcr" : "=r"(mode));
    __asm__ volatile("msr fpcr, %0" : : "r"(mode | 1u << 24));
    assert_true(tiny_product() == 0);
    saved = simd_float_enter();
    assert_true(tiny_product() > 0);
    simd_float_leave(saved);
    assert_true(tiny_product() == 0);
    __asm__ volatile("msr fpcr, %0" : : "r"(mode));
#endif
    assert_true(tiny_product() > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        {"exp/accuracy", exp_accuracy, NULL, NULL, NULL},
        {"log1p/accuracy", log1p_accuracy, NULL, NULL, NULL},
        {"softplus/accuracy", softplus_accuracy, NULL, NULL, NULL},
        {"sigmoid/accuracy", sigmoid_accuracy, NULL, NULL, NULL},
        {"silu/accuracy", silu_accuracy, NULL, NULL, NULL},
        {"lanes/special_values", special_values, NULL, NULL, NULL},
        {"softmax/accuracy", softmax_accuracy, NULL, NULL, NULL},
        {"rope_angles/accuracy", angles_accuracy, NULL, NULL, NULL},
        {"norms/contract", norms_contract, NULL, NULL, NULL},
        {"rope/contract", rope_contract, NULL, NULL, NULL},
        {"conv_silu/contract", conv_contract, NULL, NULL, NULL},
        {"attn_block/contract", attn_contract, NULL, NULL, NULL},
        {"attn_merge/contract", merge_contract, NULL, NULL, NULL},
        {"delta_step/contract", delta_contract, NULL, NULL, NULL},
        {"to_f16/clamps", to_f16_clamps, NULL, NULL, NULL},
        {"levels/order", levels_order, NULL, NULL, NULL},
        {"float_env/enter_leave", float_env, NULL, NULL, NULL},
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
