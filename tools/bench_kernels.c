/* SPDX-License-Identifier: MIT */
/* quern bench --kernels: every operation of the dispatch table at every level this machine has: whether the level brings its
 * own kernel, how many bytes a second it goes through, and how much faster than C that is.  Data fit into the second-level
 * cache, one thread, so this is the speed of the code, not of the memory. */
#include "bench_kernels.h"
#include "setup.h"
#include "term.h"

#include "simd/simd.h"

#include <stdlib.h>
#include <string.h>

enum { ROWS = 64, COLS = 2048, N = 4096, N_TOK = 16, HEAD = 128, TAPS = 4, MAX_LEVELS = 8 };
static const double MEASURE_S = 0.02;
static const int RUNS = 3; /* the best counts */

/* What every operation reads and writes; large enough for all of them. */
struct data {
    float *x, *y, *z; /* [N_TOK][N] small random numbers */
    float *out; /* [N_TOK][N] */
    float *decay, *beta, *kq; /* [N] */
    uint16_t *half; /* [HEAD][ATTN_BLOCK] and back */
    struct act_group *act; /* [16][COLS / 32] */
    struct mat w; /* of the type in work */
    int n_cols;
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

static void run_attention(const struct simd_ops *ops, struct data *d, enum kv_kind kind)
{
    const void *k = kind == KV_F16 ? (const void *)d->half : d->x;
    struct attn_args a = {.q = d->y,
                          .q_stride = HEAD,
                          .n_q = N_TOK,
                          .head_dim = HEAD,
                          .scale = 0.1f,
                          .k_kind = kind,
                          .v_kind = kind,
                          .k = k,
                          .v = k,
                          .n_vis = d->n_vis,
                          .m = d->decay,
                          .l = d->beta,
                          .o = d->out,
                          .o_stride = HEAD};
    ops->attn_block(&a);
}
static void op_attn_f16(const struct simd_ops *ops, struct data *d) { run_attention(ops, d, KV_F16); }
static void op_attn_f32(const struct simd_ops *ops, struct data *d) { run_attention(ops, d, KV_F32); }

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

static void op_mul(const struct simd_ops *ops, struct data *d)
{
    struct cols c = {.n = d->n_cols};
    bool floats = d->w.type->rule == RULE_FLOAT;
    c.base = floats ? (const void *)d->x : d->act;
    c.stride = floats ? COLS * sizeof(float) : COLS / QUANT_GROUP * sizeof(struct act_group);
    ops->mul[d->w.type->id](&d->w, 0, ROWS, &c, d->out, ROWS);
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
    OP(attn_merge, attn_merge, HEAD * 12.0),
    OP(delta_step, delta_step, HEAD * 16 * 8.0 + 64 * (HEAD * 2 + 32) * 4.0),
    OP(delta_chunk, delta_chunk, HEAD * 16 * 8.0 + 64 * (HEAD * 2 + 32) * 4.0),
    OP(to_f16, to_f16, N * 6.0),
#undef OP
};
/* clang-format on */

/* ---- measuring */

static double seconds_once(const struct simd_ops *ops, op_fn *run, struct data *d, int n)
{
    double start = now_s();
    for (int i = 0; i < n; i++)
        run(ops, d);
    return now_s() - start;
}

/* Seconds of one run. */
static double time_op(const struct simd_ops *ops, op_fn *run, struct data *d)
{
    int n = 1;
    double t = seconds_once(ops, run, d, n);
    while (t < MEASURE_S / 4 && n < 1 << 24) {
        n *= 2;
        t = seconds_once(ops, run, d, n);
    }
    n = (int)(n * MEASURE_S / (t > 1e-9 ? t : 1e-9)) + 1;
    double best = 1e30;
    for (int i = 0; i < RUNS; i++) {
        t = seconds_once(ops, run, d, n) / n;
        best = t < best ? t : best;
    }
    return best;
}

static uint64_t random_state = 1;
static uint32_t random_bits(void)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(random_state >> 32);
}

static float *random_floats(size_t n)
{
    float *v = xmalloc(n * sizeof *v);
    for (size_t i = 0; i < n; i++)
        v[i] = (float)((double)random_bits() / 4294967296.0 - 0.5) * 0.1f;
    return v;
}

static void make_data(struct data *d)
{
    *d = (struct data){0};
    d->x = random_floats(N_TOK * N);
    d->y = random_floats(N_TOK * N);
    d->z = random_floats(N_TOK * N);
    d->out = random_floats(N_TOK * N);
    d->decay = random_floats(N);
    d->beta = random_floats(N);
    d->kq = random_floats(N);
    d->half = xmalloc(HEAD * ATTN_BLOCK * 2 + N * 2);
    d->act = aligned_alloc(64, 16 * COLS / QUANT_GROUP * sizeof *d->act);
    if (!d->act)
        die("out of memory");
    for (int i = 0; i < HEAD * ATTN_BLOCK; i++)
        d->half[i] = f32_to_f16(d->x[i]);
    act_quantize_ref(d->x, 16 * COLS, d->act);
    for (int i = 0; i < N_TOK; i++)
        d->n_vis[i] = ATTN_BLOCK;
}

static void free_data(struct data *d)
{
    float *lists[] = {d->x, d->y, d->z, d->out, d->decay, d->beta, d->kq};
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++)
        free(lists[i]);
    free(d->half);
    free(d->act);
}

/* Random bytes are valid blocks of every type; bits that would make scales enormous are cleared. */
static void make_matrix(struct data *d, const struct quant_type *type)
{
    size_t row = quant_row_bytes(type, COLS), tile = pack_tile_bytes(type, COLS);
    uint8_t *rows = xmalloc(row * ROWS), *packed = aligned_alloc(64, tile * ROWS / TILE_ROWS);
    if (!packed)
        die("out of memory");
    for (size_t i = 0; i < row * ROWS; i++)
        rows[i] = (uint8_t)(random_bits() >> 24) & 0x3b;
    d->w = (struct mat){.type = type, .rows = ROWS, .cols = COLS};
    if (type->layout == LAYOUT_ROWS) {
        free(packed);
        d->w.data = rows;
        d->w.stride = row;
        return;
    }
    for (int t = 0; t < ROWS / TILE_ROWS; t++)
        pack_tile(type, rows + (size_t)t * TILE_ROWS * row, row, TILE_ROWS, COLS, packed + (size_t)t * tile);
    free(rows);
    d->w.data = packed;
    d->w.stride = tile;
}

/* ---- output */

struct figure {
    const char *op, *level;
    const char *kernel; /* "native", or the level whose kernel is in use */
    double gbs, ratio;
};

static void print_figure(const struct figure *f, const char *format, bool first)
{
    if (!strcmp(format, "csv")) {
        out_printf(first ? "operation,level,kernel,gb_per_s,ratio_to_c\n" : "");
        out_printf("%s,%s,%s,%.3f,%.3f\n", f->op, f->level, f->kernel, f->gbs, f->ratio);
    } else if (!strcmp(format, "json")) {
        out_printf("%s{\"operation\":\"%s\",\"level\":\"%s\",\"kernel\":\"%s\",\"gb_per_s\":%.3f,\"ratio_to_c\":%.3f}",
                   first ? "[\n" : ",\n", f->op, f->level, f->kernel, f->gbs, f->ratio);
    } else if (!strcmp(format, "md")) {
        out_printf(first ? "| operation | level | kernel | GB/s | times C |\n|---|---|---|---:|---:|\n" : "");
        out_printf("| %s | %s | %s | %.2f | %.2f |\n", f->op, f->level, f->kernel, f->gbs, f->ratio);
    } else {
        if (first)
            out_printf("%-18s %-8s %-14s %10s %10s\n", "operation", "level", "kernel", "GB/s", "times C");
        out_printf("%-18s %-8s %-14s %10.2f %10.2f\n", f->op, f->level, f->kernel, f->gbs, f->ratio);
    }
    out_flush();
}

struct levels {
    const char *names[MAX_LEVELS];
    struct simd_ops ops[MAX_LEVELS]; /* best first; the last one is C */
    int n;
    bool printed;
    const char *format;
};

static void *entry(const struct simd_ops *ops, size_t at)
{
    void *p;
    memcpy(&p, (const char *)ops + at, sizeof p);
    return p;
}

/* Times one operation at all levels, C first since it is the measure. */
static void time_levels(struct levels *l, const char *name, size_t at, op_fn *run, double bytes, struct data *d,
                        const struct quant_type *type)
{
    double c_s = 0;
    const struct simd_ops *c = &l->ops[l->n - 1];
    for (int i = l->n - 1; i >= 0; i--) {
        const struct simd_ops *ops = &l->ops[i];
        if (!entry(ops, at))
            continue;
        double s = time_op(ops, run, d);
        c_s = i == l->n - 1 ? s : c_s;
        char kernel[32];
        const char *own = type ? ops->mul_level[type->id] : entry(ops, at) == entry(c, at) ? "c" : l->names[i];
        if (own && !strcmp(own, l->names[i]))
            strcpy(kernel, "native");
        else
            snprintf(kernel, sizeof kernel, "falls back %s", own ? own : "c");
        struct figure f = {
            .op = name, .level = l->names[i], .kernel = kernel, .gbs = bytes / s * 1e-9, .ratio = c_s / s};
        print_figure(&f, l->format, !l->printed);
        l->printed = true;
    }
}

static void time_type(struct levels *l, const struct quant_type *type, struct data *d)
{
    static const int counts[] = {1, 8, 16};
    make_matrix(d, type);
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        char name[40];
        d->n_cols = counts[i];
        snprintf(name, sizeof name, "mul %s x %d", type->name, d->n_cols);
        time_levels(l, name, offsetof(struct simd_ops, mul) + (size_t)type->id * sizeof(mul_fn *), op_mul,
                    (double)quant_row_bytes(type, COLS) * ROWS, d, type);
    }
    free((void *)d->w.data);
}

const char *bench_level(void) { return simd_levels()[0]; }

int bench_kernels(const char *format)
{
    static struct levels l;
    struct data d;
    l.format = format;
    for (const char *const *p = simd_levels(); *p && l.n < MAX_LEVELS; p++)
        if (simd_init(&l.ops[l.n], *p))
            l.names[l.n++] = *p;
    make_data(&d);
    for (size_t i = 0; i < sizeof ops_table / sizeof *ops_table; i++)
        time_levels(&l, ops_table[i].name, ops_table[i].entry, ops_table[i].run, ops_table[i].bytes, &d, NULL);
    for (int id = 0; id < QN_TYPE_LIMIT; id++)
        if (quant_type_find(id))
            time_type(&l, quant_type_find(id), &d);
    if (!strcmp(format, "json"))
        out_text("\n]\n");
    out_flush();
    free_data(&d);
    return 0;
}
