/* SPDX-License-Identifier: MIT */
/* Kernel checker: everything that is written over lanes.  Every length to past four lanes, all fills of kern_floats(), in place
 * where the contract allows it. */
#include "checkkern.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const int length[] = {1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14,  15,  16,  17,   18,   19,
                             20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33,  34,  35,  47,   48,   49,
                             50, 63, 64, 65, 66, 79, 80, 81, 95, 96, 97, 98, 99, 127, 128, 129, 1000, 2048, 4099};
enum { N_LENGTH = sizeof(length) / sizeof(length[0]), BENCH_N = 4096 };

/* Runs the body for every length n and fill f. */
#define EACH_CASE(n, f) \
    for (int case_i = 0, n; case_i < N_LENGTH && (n = length[case_i]); case_i++) \
        for (int f = 0; f < KERN_FILLS; f++)

static float *floats(size_t n, int fill)
{
    float *x = kern_mem(n * sizeof(float), 4);
    kern_floats(x, n, (enum kern_fill)fill);
    return x;
}

struct two {
    float *c, *now;
};
static struct two pair(size_t n, int fill)
{
    struct kern_pair p = kern_pair(n * sizeof(float), 4);
    kern_floats(p.c, n, (enum kern_fill)fill);
    kern_same(p, n * sizeof(float));
    return (struct two){p.c, p.now};
}

/* ---- rows */

static void test_quantize(int arg)
{
    float *b = floats(BENCH_N, KERN_PLAIN);
    struct act_group *g = kern_mem(BENCH_N / 32 * sizeof(*g), 64);
    if (kern.bench) {
        KERN_BENCH("4096", kern.now->quantize(b, BENCH_N, g));
        return;
    }
    for (int n = 32; n <= 320; n += 32)
        for (int f = 0; f < 4 * KERN_FILLS; f++) {
            kern_reset();
            float *x = floats((size_t)n, f % KERN_FILLS);
            if (f / KERN_FILLS == 3) /* around the smallest scale */
                for (int i = 0; i < n; i++)
                    x[i] = kern_unit() * 0x1.1p-100f;
            size_t bytes = (size_t)n / 32 * sizeof(struct act_group);
            struct kern_pair p = kern_pair(bytes, 64);
            kern.c->quantize(x, n, p.c);
            kern.now->quantize(x, n, p.now);
            struct act_group *r = kern_mem(bytes, 64), *c = p.c, *now = p.now;
            act_quantize_ref(x, n, r);
            for (int i = 0; i < n / 32; i++) {
                kern_bytes(c[i].q, now[i].q, 32, "q of group %d", i);
                kern_f32(&c[i].d, &now[i].d, 4, "d, dsum, dsum16 of group %d", i);
                kern_bytes(&c[i].sum, &now[i].sum, 16, "sum, sum16 of group %d", i);
                kern_bytes(r[i].q, now[i].q, 32, "q of group %d, act_quantize_ref", i);
                kern_f32(&r[i].d, &now[i].d, 4, "d, dsum, dsum16 of group %d, act_quantize_ref", i);
                kern_bytes(&r[i].sum, &now[i].sum, 16, "sum, sum16 of group %d, act_quantize_ref", i);
            }
        }
}

static void test_rmsnorm(int arg)
{
    float *b = floats(BENCH_N, KERN_PLAIN), *bw = floats(BENCH_N, KERN_PLAIN), *by = floats(BENCH_N, 0);
    if (kern.bench) {
        KERN_BENCH("4096", kern.now->rmsnorm(by, b, bw, BENCH_N, 1e-6f));
        return;
    }
    EACH_CASE (n, f) {
        kern_reset();
        size_t m = (size_t)n;
        struct two x = pair(m, f), y = pair(m, 0);
        float *w = floats(m, KERN_PLAIN);
        kern.c->rmsnorm(y.c, x.c, w, n, 1e-6f);
        kern.now->rmsnorm(y.now, x.c, w, n, 1e-6f);
        kern_f32(y.c, y.now, m, "n %d fill %d", n, f);
        kern.c->rmsnorm(x.c, x.c, NULL, n, 1e-5f);
        kern.now->rmsnorm(x.now, x.now, NULL, n, 1e-5f);
        kern_f32(x.c, x.now, m, "n %d fill %d, in place, no weight", n, f);
    }
}

static void test_l2norm(int arg)
{
    float *b = floats(BENCH_N, KERN_PLAIN), *by = floats(BENCH_N, 0);
    if (kern.bench) {
        KERN_BENCH("128", kern.now->l2norm(by, b, 128, 1e-6f, 1.0f));
        return;
    }
    EACH_CASE (n, f) {
        kern_reset();
        struct two x = pair((size_t)n, f), y = pair((size_t)n, 0);
        kern.c->l2norm(y.c, x.c, n, 1e-6f, 0.125f);
        kern.now->l2norm(y.now, x.c, n, 1e-6f, 0.125f);
        kern_f32(y.c, y.now, (size_t)n, "n %d fill %d", n, f);
        kern.now->l2norm(x.now, x.now, n, 1e-6f, 0.125f);
        kern_f32(y.c, x.now, (size_t)n, "n %d fill %d, in place", n, f);
    }
}

static void test_dot(int arg)
{
    float *b = floats(BENCH_N, KERN_PLAIN), *by = floats(BENCH_N, 0);
    if (kern.bench) {
        KERN_BENCH("4096", kern.now->dot(b, by, BENCH_N));
        return;
    }
    EACH_CASE (n, f) {
        kern_reset();
        float *x = floats((size_t)n, f), *y = floats((size_t)n, f), c, now;
        c = kern.c->dot(x, y, n);
        now = kern.now->dot(x, y, n);
        kern_f32(&c, &now, 1, "n %d fill %d", n, f);
    }
}

enum { OP_ADD, OP_SCALE, OP_AXPY };

static void update(const struct simd_ops *ops, int op, float *y, float a, const float *x, int n)
{
    if (op == OP_ADD)
        ops->add(y, x, n);
    else if (op == OP_SCALE)
        ops->scale(y, a, n);
    else
        ops->axpy(y, a, x, n);
}

static void test_update(int op)
{
    float *b = floats(BENCH_N, KERN_PLAIN), *by = floats(BENCH_N, 0);
    if (kern.bench) {
        KERN_BENCH("4096", update(kern.now, op, by, 1.0f, b, BENCH_N));
        return;
    }
    EACH_CASE (n, f) {
        kern_reset();
        struct two y = pair((size_t)n, f);
        float *x = floats((size_t)n, f), *a = floats(1, f);
        update(kern.c, op, y.c, *a, x, n);
        update(kern.now, op, y.now, *a, x, n);
        kern_f32(y.c, y.now, (size_t)n, "n %d fill %d", n, f);
    }
}

enum { OP_SILU_MUL, OP_SIGMOID_MUL, OP_SIGMOID };

static void gate(const struct simd_ops *ops, int op, float *y, const float *a, const float *b, int n)
{
    if (op == OP_SILU_MUL)
        ops->silu_mul(y, a, b, n);
    else if (op == OP_SIGMOID_MUL)
        ops->sigmoid_mul(y, a, b, n);
    else
        ops->sigmoid(y, a, n);
}

static void test_gate(int op)
{
    float *ba = floats(BENCH_N, KERN_PLAIN), *bb = floats(BENCH_N, 0), *by = floats(BENCH_N, 0);
    if (kern.bench) {
        KERN_BENCH("4096", gate(kern.now, op, by, ba, bb, BENCH_N));
        return;
    }
    EACH_CASE (n, f) {
        kern_reset();
        size_t m = (size_t)n;
        struct two y = pair(m, 0);
        float *a = floats(m, f), *b = floats(m, f);
        for (int i = 0; f == KERN_PLAIN && i < n; i++)
            a[i] *= 30.0f; /* past where exp ends */
        gate(kern.c, op, y.c, a, b, n);
        gate(kern.now, op, y.now, a, b, n);
        kern_f32(y.c, y.now, m, "n %d fill %d", n, f);
        memcpy(y.now, b, m * sizeof(float));
        gate(kern.now, op, y.now, a, y.now, n);
        kern_f32(y.c, y.now, m, "n %d fill %d, into the second", n, f);
        gate(kern.now, op, a, a, b, n);
        kern_f32(y.c, a, m, "n %d fill %d, into the first", n, f);
    }
}

static void test_delta_gates(int arg)
{
    EACH_CASE (n, f) {
        kern_reset();
        size_t m = (size_t)n;
        struct two g = pair(m, 0), decay = pair(m, 0), beta = pair(m, 0);
        float *a = floats(m, f), *b = floats(m, f), *a_log = floats(m, f), *dt = floats(m, f);
        for (int i = 0; f != KERN_SPECIAL && i < n; i++)
            a_log[i] = a_log[i] > 0 ? -a_log[i] : a_log[i];
        if (kern.bench) {
            if (n == 32 && f == KERN_PLAIN)
                KERN_BENCH("32", kern.now->delta_gates(g.now, decay.now, beta.now, a, b, a_log, dt, n));
            continue;
        }
        kern.c->delta_gates(g.c, decay.c, beta.c, a, b, a_log, dt, n);
        kern.now->delta_gates(g.now, decay.now, beta.now, a, b, a_log, dt, n);
        kern_f32(g.c, g.now, m, "g, n %d fill %d", n, f);
        kern_f32(decay.c, decay.now, m, "decay, n %d fill %d", n, f);
        kern_f32(beta.c, beta.now, m, "beta, n %d fill %d", n, f);
    }
}

static void test_softmax(int arg)
{
    float *b = floats(BENCH_N, KERN_PLAIN);
    if (kern.bench) {
        KERN_BENCH("256", kern.now->softmax(b, 256));
        return;
    }
    EACH_CASE (n, f) {
        kern_reset();
        struct two x = pair((size_t)n, f);
        kern.c->softmax(x.c, n);
        kern.now->softmax(x.now, n);
        kern_f32(x.c, x.now, (size_t)n, "n %d fill %d", n, f);
    }
}

static void test_to_f16(int arg)
{
    float *b = floats(BENCH_N, KERN_PLAIN);
    uint16_t *h = kern_mem(BENCH_N * 2, 2);
    if (kern.bench) {
        KERN_BENCH("4096", kern.now->to_f16(h, b, BENCH_N));
        return;
    }
    EACH_CASE (n, f) {
        kern_reset();
        float *x = floats((size_t)n, f);
        for (int i = 0; f == KERN_PLAIN && i < n; i++) /* all exponents of a half, and ties */
            x[i] = (float)(kern_below(1 << 13) - (1 << 12)) * (float)(1 << kern_below(17)) * 0x1p-26f;
        struct kern_pair y = kern_pair((size_t)n * 2, 2);
        kern.c->to_f16(y.c, x, n);
        kern.now->to_f16(y.now, x, n);
        kern_f16(y.c, y.now, (size_t)n, "n %d fill %d", n, f);
    }
}

/* ---- rotary embedding, convolution */

static void test_rope_angles(int arg)
{
    enum { PAIRS = 64 };
    for (int i = 0; i < 400; i++) {
        kern_reset();
        int n = kern.bench ? 32 : 1 + kern_below(PAIRS), pos = i < 40 ? i : kern_below(1 << 20);
        float *inv_freq = floats((size_t)n, KERN_PLAIN);
        for (int j = 0; j < n; j++)
            inv_freq[j] = kern_below(8) ? inv_freq[j] * inv_freq[j] / 16.0f : 1.0f;
        struct two y = pair(2 * (size_t)n, 0);
        float scale = i % 2 ? 1.0f : 1.3f;
        if (kern.bench) {
            KERN_BENCH("32 pairs", kern.now->rope_angles(y.now, inv_freq, n, 4095, 1.0f));
            return;
        }
        kern.c->rope_angles(y.c, inv_freq, n, pos, scale);
        kern.now->rope_angles(y.now, inv_freq, n, pos, scale);
        kern_f32(y.c, y.now, 2 * (size_t)n, "pairs %d pos %d", n, pos);
    }
}

static void test_rope(int arg)
{
    for (int neox = 0; neox < 2; neox++)
        for (int n = 1; n <= 130; n++)
            for (int f = 0; f < KERN_FILLS; f++) {
                kern_reset();
                struct two x = pair(2 * (size_t)n, f);
                float *cos_sin = floats(2 * (size_t)n, KERN_PLAIN);
                if (kern.bench) {
                    if (n == 32 && f == 0)
                        KERN_BENCH(neox ? "32 pairs, neox" : "32 pairs", kern.now->rope(x.now, cos_sin, n, neox));
                    continue;
                }
                kern.c->rope(x.c, cos_sin, n, neox);
                kern.now->rope(x.now, cos_sin, n, neox);
                kern_f32(x.c, x.now, 2 * (size_t)n, "pairs %d neox %d fill %d", n, neox, f);
            }
}

static void test_conv_silu(int arg)
{
    static const int channels[] = {1, 5, 15, 16, 17, 31, 32, 33, 100, 256};
    for (int i = 0; i < 600; i++) {
        kern_reset();
        int n = channels[kern_below(10)], taps = 1 + i % 8, tok = 1 + kern_below(9), f = i % KERN_FILLS;
        if (kern.bench)
            n = 1024, taps = 4, tok = 16;
        size_t x_stride = (size_t)n + (size_t)kern_below(5), y_stride = (size_t)n + (size_t)kern_below(5);
        size_t y_n = y_stride * (size_t)(tok - 1) + (size_t)n;
        float *x = floats(x_stride * (size_t)(tok - 1) + (size_t)n, f), *w = floats((size_t)(taps * n), KERN_PLAIN);
        float *history = floats((size_t)((taps - 1) * n), f);
        struct two y = pair(y_n, KERN_PLAIN);
        if (kern.bench) {
            KERN_BENCH("1024 channels, 4 taps, 16 tokens",
                       kern.now->conv_silu(y.now, y_stride, x, x_stride, history, w, n, tok, taps));
            return;
        }
        kern.c->conv_silu(y.c, y_stride, x, x_stride, history, w, n, tok, taps);
        kern.now->conv_silu(y.now, y_stride, x, x_stride, history, w, n, tok, taps);
        kern_f32(y.c, y.now, y_n, "channels %d tokens %d taps %d fill %d", n, tok, taps, f);
    }
}

/* ---- attention */

/* A block's keys or values: floats, or random codes with scales of floats. */
static void *cache_fill(int dim, enum kv_kind kind, bool values, int fill)
{
    size_t n = (size_t)dim * ATTN_BLOCK;
    if (kind == KV_F32)
        return floats(n, fill);
    if (!kv_quantized(kind)) {
        uint16_t *h = kern_mem(n * 2, 2);
        float *x = floats(n, fill);
        for (size_t i = 0; i < n; i++)
            h[i] = kind == KV_F16 ? f32_to_f16(x[i]) : (uint16_t)(kern_rand() & 0xbfff); /* |x| < 2 */
        return h;
    }
    if (!values)
        return kern_mem(64, 1); /* not read */
    size_t group = kv_group_bytes(kind);
    uint8_t *p = kern_mem((size_t)(dim / QUANT_GROUP) * group, 2);
    float *d = floats((size_t)(dim / QUANT_GROUP) * ATTN_BLOCK, fill);
    for (int g = 0; g < dim / QUANT_GROUP; g++) {
        uint16_t *scale = (uint16_t *)(void *)(p + (size_t)g * group);
        for (int j = 0; j < ATTN_BLOCK; j++)
            scale[j] = f32_to_f16(d[g * ATTN_BLOCK + j]);
        for (size_t i = 2 * ATTN_BLOCK; i < group; i++)
            p[(size_t)g * group + i] = (uint8_t)kern_rand();
    }
    return p;
}

static void cache_spoil(void *p, size_t i, enum kv_kind kind)
{
    if (kind == KV_F32)
        ((float *)p)[i] = NAN;
    else
        ((uint16_t *)p)[i] = kind == KV_F16 ? 0x7e00 : 0x7fc0;
}

/* Position j of a block becomes NaN. */
static void attn_spoil(const struct attn_args *a, int j)
{
    void *k = (void *)(uintptr_t)a->k, *v = (void *)(uintptr_t)a->v;
    for (int d = 0; d < a->head_dim; d++) {
        if (!kv_quantized(a->k_kind))
            cache_spoil(k, (size_t)d * ATTN_BLOCK + (size_t)j, a->k_kind);
        if (!kv_quantized(a->v_kind))
            cache_spoil(v, (size_t)j * (size_t)a->head_dim + (size_t)d, a->v_kind);
        else if (d % QUANT_GROUP == 0)
            cache_spoil((uint8_t *)v + (size_t)(d / QUANT_GROUP) * kv_group_bytes(a->v_kind), (size_t)j, KV_F16);
    }
    for (int r = 0; r < a->n_q && a->s; r++)
        ((float *)(uintptr_t)a->s)[r * ATTN_BLOCK + j] = NAN;
}

struct attn_out {
    float *m, *l, *o;
};
static struct attn_out attn_run(const struct simd_ops *ops, struct attn_args a, struct attn_out y)
{
    a.m = y.m;
    a.l = y.l;
    a.o = y.o;
    ops->attn_block(&a);
    return y;
}

static void attn_bench(void)
{
    enum { DIM = 128, N_Q = 8 };
    int n_vis[N_Q];
    float m[N_Q], l[N_Q];
    for (int i = 0; i < N_Q; i++)
        n_vis[i] = ATTN_BLOCK;
    for (int kind = 0; kind < KV_KINDS; kind++) {
        struct attn_args a = {.q_stride = DIM, .n_q = N_Q, .head_dim = DIM, .scale = 0.1f, .o_stride = DIM};
        char what[3][40];
        static const int rows[3] = {8, 6, 1};
        a.q = floats(N_Q * DIM, KERN_PLAIN);
        a.s = floats(N_Q * ATTN_BLOCK, KERN_PLAIN);
        a.o = floats(N_Q * DIM, KERN_PLAIN);
        a.k_kind = a.v_kind = (enum kv_kind)kind;
        a.k = cache_fill(DIM, a.k_kind, false, KERN_PLAIN);
        a.v = cache_fill(DIM, a.v_kind, true, KERN_PLAIN);
        a.n_vis = n_vis;
        a.m = m;
        a.l = l;
        for (int i = 0; i < 3; i++) {
            a.n_q = rows[i];
            snprintf(what[i], sizeof what[i], "%d row%s, dim 128, %s", a.n_q, a.n_q > 1 ? "s" : "",
                     kv_type(a.k_kind)->name);
            KERN_BENCH(what[i], kern.now->attn_block(&a));
        }
    }
}

static void attn_case(int i)
{
    static const int dims[] = {16, 32, 48, 64, 80, 128, 192, 256, 512};
    static const int edge[] = {0, 1, 15, 16, 17, 63, 64, 65, 127, 128};
    const enum kv_kind k_kind = (enum kv_kind)(i % KV_KINDS), v_kind = (enum kv_kind)(i / KV_KINDS % KV_KINDS);
    int dim = dims[kern_below(i % 8 ? 5 : 9)], n_q = 1 + kern_below(9), most = 0;
    if (kv_quantized(k_kind) || kv_quantized(v_kind))
        dim = (dim + QUANT_GROUP - 1) / QUANT_GROUP * QUANT_GROUP;
    size_t q_stride = (size_t)(dim + kern_below(3)), o_stride = (size_t)(dim + kern_below(3));
    size_t n_o = o_stride * (size_t)(n_q - 1) + (size_t)dim;
    struct attn_args a = {.q_stride = q_stride, .n_q = n_q, .head_dim = dim, .scale = 0.17f, .o_stride = o_stride};
    a.k_kind = k_kind;
    a.v_kind = v_kind;
    a.q = floats(q_stride * (size_t)(n_q - 1) + (size_t)dim, i % 5 ? KERN_PLAIN : i % KERN_FILLS);
    a.k = cache_fill(dim, a.k_kind, false, i % 3 ? KERN_PLAIN : i % KERN_FINITE_FILLS);
    a.v = cache_fill(dim, a.v_kind, true, i % 3 ? KERN_PLAIN : i % KERN_FINITE_FILLS);
    if (kv_quantized(k_kind))
        a.s = floats((size_t)n_q * ATTN_BLOCK, i % 5 ? KERN_PLAIN : i % KERN_FILLS);
    int *n_vis = kern_mem(sizeof(int) * (size_t)n_q, 4), first = kern_below(ATTN_BLOCK);
    for (int r = 0; r < n_q; r++) {
        n_vis[r] = i % 2 ? edge[kern_below(10)] : (first + r < ATTN_BLOCK ? first + r : ATTN_BLOCK); /* causal */
        most = n_vis[r] > most ? n_vis[r] : most;
    }
    a.n_vis = n_vis;
    struct two m = pair((size_t)n_q, 0), l = pair((size_t)n_q, 0), o = pair(n_o, 0), one_m, one_l, one_o;
    struct attn_out c = attn_run(kern.c, a, (struct attn_out){m.c, l.c, o.c});
    struct attn_out now = attn_run(kern.now, a, (struct attn_out){m.now, l.now, o.now});
    kern_f32(c.m, now.m, (size_t)n_q, "m, dim %d n_q %d", dim, n_q);
    kern_f32(c.l, now.l, (size_t)n_q, "l, dim %d n_q %d", dim, n_q);
    kern_f32(c.o, now.o, n_o, "o, dim %d n_q %d kinds %d %d", dim, n_q, (int)a.k_kind, (int)a.v_kind);

    /* The rows one by one, what they do not see being NaN. */
    one_m = pair(1, 0);
    one_l = pair(1, 0);
    one_o = pair((size_t)dim, 0);
    for (int j = ATTN_BLOCK - 1, r = n_q - 1; r >= 0; r--) {
        struct attn_args b = a;
        int nth = 0; /* row with the r-th smallest n_vis: what is spoilt stays so */
        for (int s = 0; s < n_q; s++) {
            int less = 0;
            for (int u = 0; u < n_q; u++)
                less += n_vis[u] < n_vis[s] || (n_vis[u] == n_vis[s] && u < s);
            nth = less == r ? s : nth;
        }
        for (; j >= n_vis[nth]; j--)
            attn_spoil(&a, j);
        b.q = a.q + (size_t)nth * q_stride;
        b.s = a.s ? a.s + nth * ATTN_BLOCK : NULL;
        b.n_q = 1;
        b.n_vis = n_vis + nth;
        struct attn_out y = attn_run(kern.now, b, (struct attn_out){one_m.c, one_l.c, one_o.c});
        kern_f32(c.m + nth, y.m, 1, "m of row %d alone, dim %d n_q %d", nth, dim, n_q);
        kern_f32(c.l + nth, y.l, 1, "l of row %d alone, dim %d n_q %d", nth, dim, n_q);
        kern_f32(c.o + (size_t)nth * o_stride, y.o, (size_t)dim, "o of row %d alone, dim %d n_q %d", nth, dim, n_q);
    }
}

/* Every half-precision number, as the one visible value: p = 1. */
static void attn_halves(void)
{
    enum { DIM = 512 };
    int one = 1;
    for (int h = 0; h < 65536; h += DIM) {
        kern_reset();
        uint16_t *k = kern_mem((size_t)DIM * ATTN_BLOCK * 2, 2), *v = kern_mem((size_t)DIM * ATTN_BLOCK * 2, 2);
        float *q = floats(DIM, KERN_PLAIN);
        for (int d = 0; d < DIM; d++)
            v[d] = (uint16_t)(h + d);
        struct attn_args a = {.q = q, .n_q = 1, .head_dim = DIM, .scale = 1, .k = k, .v = v, .n_vis = &one};
        struct two m = pair(1, 0), l = pair(1, 0), o = pair(DIM, 0);
        attn_run(kern.c, a, (struct attn_out){m.c, l.c, o.c});
        attn_run(kern.now, a, (struct attn_out){m.now, l.now, o.now});
        kern_f32(o.c, o.now, DIM, "halves from %#x", (unsigned)h);
    }
}

static void test_attn_block(int arg)
{
    if (kern.bench) {
        attn_bench();
        return;
    }
    for (int i = 0; i < 8 * KV_KINDS * KV_KINDS; i++) {
        kern_reset();
        attn_case(i);
    }
    attn_halves();
}

static void test_attn_merge(int arg)
{
    for (int i = 0; i < 400; i++) {
        kern_reset();
        int dim = 16 * (1 + kern_below(16)), f = i % KERN_FILLS;
        struct two M = pair(1, f), L = pair(1, f), O = pair((size_t)dim, f);
        float *ml = floats(2, f), *o = floats((size_t)dim, f);
        if (kern.bench) {
            KERN_BENCH("dim 128", kern.now->attn_merge(M.now, L.now, O.now, ml[0], ml[1], o, 128));
            return;
        }
        if (i % 4 == 1)
            *M.c = *M.now = -INFINITY;
        if (i % 8 > 5)
            ml[0] = -INFINITY;
        kern.c->attn_merge(M.c, L.c, O.c, ml[0], ml[1], o, dim);
        kern.now->attn_merge(M.now, L.now, O.now, ml[0], ml[1], o, dim);
        kern_f32(M.c, M.now, 1, "M, fill %d", f);
        kern_f32(L.c, L.now, 1, "L, fill %d", f);
        kern_f32(O.c, O.now, (size_t)dim, "O, dim %d fill %d", dim, f);
    }
}

/* ---- what is stored */

static void test_rotate(int arg)
{
    for (int n = 32; n <= 512; n += 32)
        for (int f = 0; f < KERN_FILLS; f++) {
            kern_reset();
            struct two x = pair((size_t)n, f);
            if (kern.bench) {
                if (n == 128 && f == KERN_PLAIN)
                    KERN_BENCH("dim 128", kern.now->rotate(x.now, n));
                continue;
            }
            kern.c->rotate(x.c, n);
            kern.now->rotate(x.now, n);
            kern_f32(x.c, x.now, (size_t)n, "dim %d fill %d", n, f);
        }
}

static void test_kv_encode(int arg)
{
    for (int i = 0; i < 40 * KERN_FILLS; i++)
        for (int kind = KV_Q8_0; kind < KV_KINDS; kind++) {
            kern_reset();
            int n = kern.bench ? 128 : 32 * (1 + kern_below(i % 4 ? 4 : 16));
            struct kern_pair q = kern_pair((size_t)n, 1), d = kern_pair((size_t)n / 16, 2);
            float *x = floats((size_t)n, i % KERN_FILLS);
            for (int k = 0; i % 3 == 1 && k < n; k++) /* around the limits of the scale */
                x[k] *= i % 2 ? 0x1p+20f : 0x1p-20f;
            if (kern.bench) {
                if (i == 0)
                    KERN_BENCH(kv_type((enum kv_kind)kind)->name,
                               kern.now->kv_encode((enum kv_kind)kind, x, n, q.now, d.now));
                continue;
            }
            kern.c->kv_encode((enum kv_kind)kind, x, n, q.c, d.c);
            kern.now->kv_encode((enum kv_kind)kind, x, n, q.now, d.now);
            kern_bytes(q.c, q.now, (size_t)n, "codes, kind %d n %d case %d", kind, n, i);
            kern_f16(d.c, d.now, (size_t)n / 32, "scales, kind %d n %d case %d", kind, n, i);
        }
}

/* ---- delta rule */

static void delta_run(const struct simd_ops *ops, bool chunk, struct delta_args a, float *s, float *o)
{
    a.s = s;
    a.o = o;
    (chunk ? ops->delta_chunk : ops->delta_step)(&a);
}

static void delta_case(int chunk, int dk, int n_tok, int f)
{
    size_t qk_stride = (size_t)(dk + kern_below(3)), v_stride = (size_t)(16 + kern_below(3));
    size_t o_stride = (size_t)(16 + kern_below(3)), gate_stride = (size_t)(1 + kern_below(3)), n = (size_t)n_tok;
    size_t n_o = o_stride * (n - 1) + 16;
    struct delta_args a = {.qk_stride = qk_stride, .v_stride = v_stride, .o_stride = o_stride, .kq_stride = 1};
    a.gate_stride = gate_stride;
    a.n_tok = n_tok;
    a.dk = dk;
    float *k = floats(qk_stride * (n - 1) + (size_t)dk, f), *q = floats(qk_stride * (n - 1) + (size_t)dk, f);
    float *g = floats(gate_stride * (n - 1) + 1, f), *decay = floats(gate_stride * (n - 1) + 1, f);
    float *beta = floats(gate_stride * (n - 1) + 1, KERN_PLAIN), *kq = floats(n, f);
    for (size_t t = 0; t < n; t++) {
        kern.c->l2norm(k + t * qk_stride, k + t * qk_stride, dk, 1e-6f, 1.0f);
        kern.c->l2norm(q + t * qk_stride, q + t * qk_stride, dk, 1e-6f, 0.1f);
        kq[t] = kern.c->dot(k + t * qk_stride, q + t * qk_stride, dk);
        g[t * gate_stride] = g[t * gate_stride] > 0 ? -g[t * gate_stride] : g[t * gate_stride];
        decay[t * gate_stride] = kern_unit();
    }
    a.k = k;
    a.q = q;
    a.g = g;
    a.decay = decay;
    a.beta = beta;
    a.kq = kq;
    a.v = floats(v_stride * (n - 1) + 16, f);
    struct two s = pair((size_t)dk * 16, f), o = pair(n_o, 0);
    if (kern.bench) {
        KERN_BENCH("dk 128, 64 tokens", delta_run(kern.now, chunk, a, s.now, o.now));
        return;
    }
    delta_run(kern.c, chunk, a, s.c, o.c);
    delta_run(kern.now, chunk, a, s.now, o.now);
    kern_f32(o.c, o.now, n_o, "o, dk %d tokens %d fill %d", dk, n_tok, f);
    kern_f32(s.c, s.now, (size_t)dk * 16, "state, dk %d tokens %d fill %d", dk, n_tok, f);
}

static void test_delta(int chunk)
{
    static const int dk[] = {16, 32, 48, 64, 128, 256}, tok[] = {1, 2, 3, 7, 16, 63, 64, 65, 130};
    if (kern.bench) {
        delta_case(chunk, 128, 64, KERN_PLAIN);
        return;
    }
    for (int i = 0; i < 6; i++)
        for (int j = 0; j < (chunk && i == 5 ? 6 : 9); j++)
            for (int f = 0; f < (chunk ? 2 : KERN_FILLS); f++) {
                kern_reset();
                delta_case(chunk, dk[i], tok[j], f);
            }
}

#define TEST(op, run, arg) \
    { \
#op, offsetof(struct simd_ops, op), run, arg \
    }
static const struct kern_test test[] = {
    TEST(quantize, test_quantize, 0),
    TEST(rmsnorm, test_rmsnorm, 0),
    TEST(l2norm, test_l2norm, 0),
    TEST(dot, test_dot, 0),
    TEST(add, test_update, OP_ADD),
    TEST(scale, test_update, OP_SCALE),
    TEST(axpy, test_update, OP_AXPY),
    TEST(silu_mul, test_gate, OP_SILU_MUL),
    TEST(sigmoid_mul, test_gate, OP_SIGMOID_MUL),
    TEST(sigmoid, test_gate, OP_SIGMOID),
    TEST(delta_gates, test_delta_gates, 0),
    TEST(softmax, test_softmax, 0),
    TEST(rope_angles, test_rope_angles, 0),
    TEST(rope, test_rope, 0),
    TEST(conv_silu, test_conv_silu, 0),
    TEST(attn_block, test_attn_block, 0),
    TEST(attn_merge, test_attn_merge, 0),
    TEST(delta_step, test_delta, 0),
    TEST(delta_chunk, test_delta, 1),
    TEST(to_f16, test_to_f16, 0),
    TEST(rotate, test_rotate, 0),
    TEST(kv_encode, test_kv_encode, 0),
};

const struct kern_family kern_float_family = {"float", test, sizeof(test) / sizeof(test[0])};
