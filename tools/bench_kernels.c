/* SPDX-License-Identifier: MIT */
/* quern bench --kernels: every operation of the dispatch table at every level this machine has: whether the level brings its
 * own kernel, how many bytes a second it goes through, and how much faster than C that is.  One thread, data in the cache, so this
 * is the speed of the code, not of the memory; products (bench_mul.c) are measured from memory too. */
#include "bench_kernels.h"
#include "setup.h"
#include "term.h"

#include <stdlib.h>
#include <string.h>

enum { N = 4096, N_TOK = 16, HEAD = 128, TAPS = 4 };
static const double MEASURE_S = 0.01;
static const int RUNS = 3; /* the best counts */

/* What every operation reads and writes; large enough for all of them. */
struct data {
    float *x, *y, *z; /* [N_TOK][N] small random numbers */
    float *out; /* [N_TOK][N] */
    float *decay, *beta, *kq; /* [N] */
    uint16_t *half; /* [HEAD][ATTN_BLOCK] and back */
    struct act_group *act; /* [N / 32] */
    uint8_t *keys[KV_KINDS], *values[KV_KINDS]; /* a block of the quantized kinds */
    int n_vis[N_TOK];
};

typedef void op_fn(const struct simd_ops *ops, struct data *d);

static void op_quantize(const struct simd_ops *ops, struct data *d) { ops->quantize(d->x, N, d->act); }
static void op_rmsnorm(const struct simd_ops *ops, struct data *d) { ops->rmsnorm(d->out, d->x, d->y, N, 1e-6f); }
static void op_l2norm(const struct simd_ops *ops, struct data *d) { ops->l2norm(d->out, d->x, N, 1e-6f, 1); }
static void op_dot(const struct simd_ops *ops, struct data *d) { d->out[0] = ops->dot(d->x, d->y, N); }
static void op_add(const struct simd_ops *ops, struct data *d) { ops->add(d->out, d->x, N); }
static void op_scale(const struct simd_ops *ops, struct data *d) { ops->scale(d->out, 1, N); }
static void op_axpy(const struct simd_ops *ops, struct data *d) { ops->axpy(d->out, 1e-9f, d->x, N); }
static void op_silu_mul(const struct simd_ops *ops, struct data *d) { ops->silu_mul(d->out, d->x, d->y, N); }
static void op_sigmoid_mul(const struct simd_ops *ops, struct data *d) { ops->sigmoid_mul(d->out, d->x, d->y, N); }
static void op_sigmoid(const struct simd_ops *ops, struct data *d) { ops->sigmoid(d->out, d->x, N); }
static void op_softmax(const struct simd_ops *ops, struct data *d)
{
    memcpy(d->out, d->x, N * sizeof(float));
    ops->softmax(d->out, N);
}
static void op_delta_gates(const struct simd_ops *ops, struct data *d)
{
    ops->delta_gates(d->out, d->out + N, d->out + 2 * N, d->x, d->y, d->z, d->x, N);
}
static void op_rope_angles(const struct simd_ops *ops, struct data *d)
{
    ops->rope_angles(d->out, d->z, N / 2, 1000, 1);
}
static void op_rope(const struct simd_ops *ops, struct data *d) { ops->rope(d->out, d->x, N / 2, true); }
static void op_conv_silu(const struct simd_ops *ops, struct data *d)
{
    ops->conv_silu(d->out, N, d->x, N, d->y, d->z, N, N_TOK, TAPS);
}
static void op_to_f16(const struct simd_ops *ops, struct data *d) { ops->to_f16(d->half, d->x, N); }
static void op_attn_merge(const struct simd_ops *ops, struct data *d)
{
    float max = 0, sum = 1;
    ops->attn_merge(&max, &sum, d->out, 0, 1, d->x, HEAD);
}

/* Products with quantized keys belong to it. */
static void run_products(const struct simd_ops *ops, struct data *d, enum kv_kind kind)
{
    const struct quant_type *t = kv_type(kind);
    struct mat k = {.data = d->keys[kind], .type = t, .rows = ATTN_BLOCK, .cols = HEAD};
    k.stride = pack_tile_bytes(t, HEAD);
    struct cols q = {.base = d->act, .stride = HEAD / QUANT_GROUP * sizeof *d->act, .n = N_TOK};
    ops->mul[t->id](&k, 0, ATTN_BLOCK, &q, d->kq, ATTN_BLOCK);
}

static void run_attention(const struct simd_ops *ops, struct data *d, enum kv_kind kind)
{
    const void *k = kind == KV_F16 ? (const void *)d->half : kind == KV_F32 ? d->x : (const void *)d->keys[kind];
    if (kv_quantized(kind))
        run_products(ops, d, kind);
    struct attn_args a = {.q = d->y,
                          .q_stride = HEAD,
                          .n_q = N_TOK,
                          .head_dim = HEAD,
                          .scale = 0.1f,
                          .k_kind = kind,
                          .v_kind = kind,
                          .k = k,
                          .v = kv_quantized(kind) ? d->values[kind] : k,
                          .s = d->kq,
                          .n_vis = d->n_vis,
                          .m = d->decay,
                          .l = d->beta,
                          .o = d->out,
                          .o_stride = HEAD};
    ops->attn_block(&a);
}
static void op_attn_f16(const struct simd_ops *ops, struct data *d) { run_attention(ops, d, KV_F16); }
static void op_attn_f32(const struct simd_ops *ops, struct data *d) { run_attention(ops, d, KV_F32); }
static void op_attn_q8_0(const struct simd_ops *ops, struct data *d) { run_attention(ops, d, KV_Q8_0); }
static void op_attn_q5_0(const struct simd_ops *ops, struct data *d) { run_attention(ops, d, KV_Q5_0); }
static void op_attn_q4_0(const struct simd_ops *ops, struct data *d) { run_attention(ops, d, KV_Q4_0); }
static void op_attn_iq4_nl(const struct simd_ops *ops, struct data *d) { run_attention(ops, d, KV_IQ4_NL); }
static void op_rotate(const struct simd_ops *ops, struct data *d) { ops->rotate(d->out, HEAD); }
static void op_kv_encode(const struct simd_ops *ops, struct data *d)
{
    ops->kv_encode(KV_IQ4_NL, d->x, HEAD, (int8_t *)d->half, d->half + HEAD);
}

static struct delta_args delta_args(struct data *d, int n_tok)
{
    return (struct delta_args){.s = d->out,
                               .q = d->x,
                               .k = d->y,
                               .v = d->z,
                               .o = d->out + HEAD * 16,
                               .decay = d->decay,
                               .beta = d->beta,
                               .g = d->kq,
                               .kq = d->kq,
                               .qk_stride = HEAD,
                               .v_stride = 16,
                               .o_stride = 16,
                               .gate_stride = 1,
                               .kq_stride = 1,
                               .n_tok = n_tok,
                               .dk = HEAD};
}
static void op_delta_step(const struct simd_ops *ops, struct data *d)
{
    struct delta_args a = delta_args(d, 64);
    ops->delta_step(&a);
}
static void op_delta_chunk(const struct simd_ops *ops, struct data *d)
{
    struct delta_args a = delta_args(d, 64);
    ops->delta_chunk(&a);
}

/* clang-format off */
static const struct op {
    const char *name;
    size_t entry; /* in struct simd_ops */
    op_fn *run;
    double bytes; /* read and written by one run */
} ops_table[] = {
#define OP(name, entry, bytes) {#name, offsetof(struct simd_ops, entry), op_##name, bytes}
    OP(quantize, quantize, N * 6.0),
    OP(rmsnorm, rmsnorm, N * 12.0),
    OP(l2norm, l2norm, N * 8.0),
    OP(dot, dot, N * 8.0),
    OP(add, add, N * 12.0),
    OP(scale, scale, N * 8.0),
    OP(axpy, axpy, N * 12.0),
    OP(silu_mul, silu_mul, N * 12.0),
    OP(sigmoid_mul, sigmoid_mul, N * 12.0),
    OP(sigmoid, sigmoid, N * 8.0),
    OP(delta_gates, delta_gates, N * 28.0),
    OP(softmax, softmax, N * 8.0),
    OP(rope_angles, rope_angles, N * 6.0),
    OP(rope, rope, N * 12.0),
    OP(conv_silu, conv_silu, N * N_TOK * 8.0),
    OP(attn_f16, attn_block, HEAD * ATTN_BLOCK * 4.0),
    OP(attn_f32, attn_block, HEAD * ATTN_BLOCK * 8.0),
    OP(attn_q8_0, attn_block, HEAD * ATTN_BLOCK * 2.125),
    OP(attn_q5_0, attn_block, HEAD * ATTN_BLOCK * 1.375),
    OP(attn_q4_0, attn_block, HEAD * ATTN_BLOCK * 1.125),
    OP(attn_iq4_nl, attn_block, HEAD * ATTN_BLOCK * 1.125),
    OP(attn_merge, attn_merge, HEAD * 12.0),
    OP(delta_step, delta_step, HEAD * 16 * 8.0 + 64 * (HEAD * 2 + 32) * 4.0),
    OP(delta_chunk, delta_chunk, HEAD * 16 * 8.0 + 64 * (HEAD * 2 + 32) * 4.0),
    OP(to_f16, to_f16, N * 6.0),
    OP(rotate, rotate, HEAD * 8.0),
    OP(kv_encode, kv_encode, HEAD * 4.5),
#undef OP
};
/* clang-format on */

/* ---- measuring */

static double seconds_once(void (*run)(void *arg), void *arg, int n)
{
    double start = now_s();
    for (int i = 0; i < n; i++)
        run(arg);
    return now_s() - start;
}

double kernel_time(void (*run)(void *arg), void *arg)
{
    int n = 1;
    double t = seconds_once(run, arg, n);
    while (t < MEASURE_S / 4 && n < 1 << 24) {
        n *= 2;
        t = seconds_once(run, arg, n);
    }
    n = (int)(n * MEASURE_S / (t > 1e-9 ? t : 1e-9)) + 1;
    double best = 1e30;
    for (int i = 0; i < RUNS; i++) {
        t = seconds_once(run, arg, n) / n;
        best = t < best ? t : best;
    }
    return best;
}

uint32_t kernel_random(void)
{
    static uint64_t state = 1;
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 32);
}

float *kernel_floats(size_t n)
{
    float *v = xmalloc(n * sizeof *v);
    for (size_t i = 0; i < n; i++)
        v[i] = (float)((double)kernel_random() / 4294967296.0 - 0.5) * 0.1f;
    return v;
}

static void make_blocks(struct data *d, enum kv_kind kind)
{
    struct simd_ops ops;
    int8_t q[HEAD];
    uint16_t scale[HEAD / QUANT_GROUP];
    simd_init(&ops, "c");
    d->keys[kind] = aligned_alloc(64, kv_key_bytes(kind, HEAD));
    d->values[kind] = aligned_alloc(64, kv_value_bytes(kind, HEAD));
    if (!d->keys[kind] || !d->values[kind])
        die("out of memory");
    for (int j = 0; j < ATTN_BLOCK; j++) {
        ops.kv_encode(kind, d->x + (size_t)j * HEAD, HEAD, q, scale);
        kv_put_key(kind, d->keys[kind], HEAD, j, q, scale);
        kv_put_value(kind, d->values[kind], HEAD, j, q, scale);
    }
}

static void make_data(struct data *d)
{
    *d = (struct data){0};
    d->x = kernel_floats(N_TOK * N);
    d->y = kernel_floats(N_TOK * N);
    d->z = kernel_floats(N_TOK * N);
    d->out = kernel_floats(N_TOK * N);
    d->decay = kernel_floats(N);
    d->beta = kernel_floats(N);
    d->kq = kernel_floats(N);
    d->half = xmalloc(HEAD * ATTN_BLOCK * 2 + N * 2);
    d->act = aligned_alloc(64, N / QUANT_GROUP * sizeof *d->act);
    if (!d->act)
        die("out of memory");
    for (int i = 0; i < HEAD * ATTN_BLOCK; i++)
        d->half[i] = f32_to_f16(d->x[i]);
    for (int i = 0; i < N_TOK; i++)
        d->n_vis[i] = ATTN_BLOCK;
    for (int i = KV_Q8_0; i < KV_KINDS; i++)
        make_blocks(d, (enum kv_kind)i);
    act_quantize_ref(d->y, N_TOK * HEAD, d->act);
}

static void free_data(struct data *d)
{
    float *lists[] = {d->x, d->y, d->z, d->out, d->decay, d->beta, d->kq};
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++)
        free(lists[i]);
    for (int i = KV_Q8_0; i < KV_KINDS; i++) {
        free(d->keys[i]);
        free(d->values[i]);
    }
    free(d->half);
    free(d->act);
}

/* ---- output */

static const char *share_of(double v, double bound, bool people)
{
    if (bound <= 0)
        return "";
    return people ? cell("%.0f %%", v / bound * 100) : cell("%.4f", v / bound);
}

void kernel_print(struct levels *l, const struct kernel_figure *f)
{
    static const struct column columns[] = {{"operation", "operation", -12},
                                            {"columns", "columns", 7},
                                            {"data", "data", -6},
                                            {"level", "level", -10},
                                            {"kernel", "kernel", -18},
                                            {"GB/s", "gb_per_s", 9},
                                            {"bound", "bound_gb_per_s", 9},
                                            {"of it", "share_of_bound", 6},
                                            {"of pipes", "share_of_pipes", 8},
                                            {"times C", "ratio_to_c", 8},
                                            {0}};
    bool people = strcmp(l->table.format, "csv") && strcmp(l->table.format, "json");
    const char *kernel = f->own && !strcmp(f->own, f->level) ? "native" : cell("falls back %s", f->own ? f->own : "c");
    l->table.columns = columns;
    table_row(&l->table, (const char *[]){f->op, f->n ? cell("%d", f->n) : "", f->data, f->level, kernel,
                                          cell("%.3f", f->bytes_s * 1e-9),
                                          f->bound_bytes_s > 0 ? cell("%.3f", f->bound_bytes_s * 1e-9) : "",
                                          share_of(f->bytes_s, f->bound_bytes_s, people),
                                          share_of(f->bytes_s, f->pipes_bytes_s, people),
                                          f->times_c > 0 ? cell("%.2f", f->times_c) : ""});
}

bool kernel_wanted(const struct levels *l, const char *name) { return !l->only || strstr(name, l->only); }

/* ---- operations that are no products */

static void *entry(const struct simd_ops *ops, size_t at)
{
    void *p;
    memcpy(&p, (const char *)ops + at, sizeof p);
    return p;
}

struct call {
    op_fn *run;
    const struct simd_ops *ops;
    struct data *d;
};

static void run_call(void *arg)
{
    struct call *c = arg;
    c->run(c->ops, c->d);
}

/* Times one operation at all levels, C first since it is the measure. */
static void time_levels(struct levels *l, const struct op *op, struct data *d)
{
    double c_s = 0;
    for (int i = l->n - 1; i >= 0; i--) {
        struct call call = {op->run, &l->ops[i], d};
        double s = kernel_time(run_call, &call);
        c_s = i == l->n - 1 ? s : c_s;
        const char *own = l->names[l->n - 1]; /* the oldest level with this kernel */
        for (int k = l->n - 1; k >= i; k--)
            if (entry(&l->ops[k], op->entry) == entry(call.ops, op->entry)) {
                own = l->names[k];
                break;
            }
        kernel_print(l, &(struct kernel_figure){.op = op->name,
                                                .level = l->names[i],
                                                .own = own,
                                                .data = "hot",
                                                .bytes_s = op->bytes / s,
                                                .times_c = c_s / s});
    }
}

const char *bench_level(void) { return simd_levels()[0]; }

int bench_kernels(const char *format, const char *only)
{
    static struct levels l;
    struct data d;
    l.only = only;
    l.table.format = format;
    for (const char *const *p = simd_levels(); *p && l.n < KERNEL_LEVELS; p++)
        if (simd_init(&l.ops[l.n], *p))
            l.names[l.n++] = *p;
    make_data(&d);
    for (size_t i = 0; i < sizeof ops_table / sizeof *ops_table; i++)
        if (kernel_wanted(&l, ops_table[i].name))
            time_levels(&l, &ops_table[i], &d);
    free_data(&d);
    kernel_products(&l);
    if (l.table.n_rows == 0)
        die("--only: no operation's name contains '%s'", only);
    table_end(&l.table);
    return 0;
}
