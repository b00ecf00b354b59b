/* SPDX-License-Identifier: MIT */
/* Gated delta-net: causal convolution, the delta rule on a recurrent state, gated norm.  A worker owns value columns of heads (tiles
 * of 16) for the whole span, takes 64 tokens at a time through convolution and rule, and recomputes the few key and query channels
 * that its heads share with others instead of waiting for them. */
#include "run.h"

#include <math.h>
#include <string.h>

/* HF's constant under the root of the l2 norm of queries and keys. */
static const float l2_eps = 1e-6f;

/* Columns of a row in s->proj: q heads, k heads, v heads, z, beta, alpha. */
struct delta_shape {
    int dim, hk, hv, slices, n_tap;
    size_t channels, value, width, z_at, beta_at, alpha_at;
};

static struct delta_shape shape_of(const struct hparams *hp)
{
    struct delta_shape d = {
        .dim = hp->ssm_dim, .hk = hp->n_k_head, .hv = hp->n_v_head, .slices = hp->ssm_dim / 16, .n_tap = hp->n_tap};
    d.value = (size_t)d.hv * (size_t)d.dim;
    d.channels = 2 * (size_t)d.hk * (size_t)d.dim + d.value;
    d.z_at = d.channels;
    d.beta_at = d.z_at + d.value;
    d.alpha_at = d.beta_at + (size_t)d.hv;
    d.width = d.alpha_at + (size_t)d.hv;
    return d;
}

/* Tiles [first, last) of a key head in one span: the states of the value heads that share it, one after the other. */
struct delta_task {
    const struct span *span;
    int key, first, last;
};

static int value_head(const struct ctx *c, const struct delta_shape *d, int key, int tile)
{
    int i = tile / d->slices;
    return c->e->model.hp.v_tiled ? i * d->hk + key : key * (d->hv / d->hk) + i;
}

/* End of the tiles that follow u in the same value head. */
static int head_end(const struct delta_shape *d, const struct delta_task *k, int u)
{
    int end = (u / d->slices + 1) * d->slices;
    return end < k->last ? end : k->last;
}

/* Channels of one head (conv_head counts q heads, k heads, v heads) for tokens [t0, t0 + n) of a span: y[n][dim]. */
static void conv_head(struct ctx *c, const struct layer *l, const struct delta_shape *d, const struct span *sp,
                      int head, int t0, int n, float *y)
{
    size_t dim = (size_t)d->dim, taps = (size_t)d->n_tap - 1;
    float history[7 * 256];
    const float *x = c->s->proj + (size_t)sp->row * d->width + (size_t)head * dim;
    const float *old = state_conv(sp->seq, l->mixer_index) + (size_t)head * taps * dim;
    for (int j = 0; j < d->n_tap - 1; j++) {
        int t = t0 - (d->n_tap - 1) + j; /* token of the span; before it: the sequence's memory */
        const float *from = t >= 0 ? x + (size_t)t * d->width : old + (size_t)(t + d->n_tap - 1) * dim;
        memcpy(history + (size_t)j * dim, from, dim * sizeof *history);
    }
    c->e->ops.conv_silu(y, dim, x + (size_t)t0 * d->width, d->width, history,
                        l->delta.conv + (size_t)head * (taps + 1) * dim, d->dim, n, d->n_tap);
}

/* Gates of one head for n tokens from row on: rows of mine->gate [8][DELTA_CHUNK]. */
enum { GATE_G, GATE_DECAY, GATE_BETA, GATE_KQ, GATE_A, GATE_B, GATE_LOG, GATE_DT };

static float *gate_row(struct ctx *c, int which) { return c->mine->gate + which * DELTA_CHUNK; }

static void head_gates(struct ctx *c, const struct layer *l, const struct delta_shape *d, int head, int row, int n)
{
    for (int t = 0; t < n; t++) {
        const float *p = c->s->proj + (size_t)(row + t) * d->width;
        gate_row(c, GATE_A)[t] = p[d->alpha_at + (size_t)head];
        gate_row(c, GATE_B)[t] = p[d->beta_at + (size_t)head];
        gate_row(c, GATE_LOG)[t] = l->delta.a_log[head];
        gate_row(c, GATE_DT)[t] = l->delta.dt_bias[head];
    }
    c->e->ops.delta_gates(gate_row(c, GATE_G), gate_row(c, GATE_DECAY), gate_row(c, GATE_BETA), gate_row(c, GATE_A),
                          gate_row(c, GATE_B), gate_row(c, GATE_LOG), gate_row(c, GATE_DT), n);
}

/* RMS norm of one head's outputs times silu(z), rows [row, row + n). */
static void norm_head(struct ctx *c, const struct layer *l, const struct delta_shape *d, int head, int row, int n)
{
    size_t at = (size_t)head * (size_t)d->dim;
    for (int t = row; t < row + n; t++) {
        float *o = c->s->mix + (size_t)t * d->value + at;
        c->e->ops.rmsnorm(o, o, l->delta.norm, d->dim, c->e->model.hp.eps);
        c->e->ops.silu_mul(o, c->s->proj + (size_t)t * d->width + d->z_at + at, o, d->dim);
        step_head_done(c, t, head, d->hv, d->dim);
    }
}

/* The rule on tiles [slice0, slice1) of a value head, for n tokens from t0 on. */
static void run_rule(struct ctx *c, const struct layer *l, const struct delta_shape *d, const struct span *sp, int head,
                     int slice0, int slice1, int t0, int n)
{
    struct worker_scratch *mine = c->mine;
    size_t dim = (size_t)d->dim;
    for (int i = slice0; i < slice1; i++) {
        struct delta_args args = {
            .s = state_tile(sp->seq, l->mixer_index, head, i),
            .q = mine->q,
            .k = mine->k,
            .v = mine->v + (size_t)i * 16,
            .o = c->s->mix + (size_t)(sp->row + t0) * d->value + (size_t)head * dim + (size_t)i * 16,
            .decay = gate_row(c, GATE_DECAY),
            .beta = gate_row(c, GATE_BETA),
            .g = gate_row(c, GATE_G),
            .kq = gate_row(c, GATE_KQ),
            .qk_stride = dim,
            .v_stride = dim,
            .o_stride = d->value,
            .gate_stride = 1,
            .kq_stride = 1,
            .n_tok = n,
            .dk = d->dim,
        };
        if (c->e->delta == QN_DELTA_CHUNKED)
            c->e->ops.delta_chunk(&args);
        else
            c->e->ops.delta_step(&args);
    }
}

/* n tokens from t0 on: queries and keys once, then every value head; heads that are whole here are normed while they are hot. */
static void run_chunk(struct ctx *c, const struct layer *l, const struct delta_shape *d, const struct delta_task *k,
                      int t0, int n)
{
    struct worker_scratch *mine = c->mine;
    size_t dim = (size_t)d->dim;
    conv_head(c, l, d, k->span, k->key, t0, n, mine->q);
    conv_head(c, l, d, k->span, d->hk + k->key, t0, n, mine->k);
    for (int t = 0; t < n; t++) {
        float *q = mine->q + (size_t)t * dim, *key = mine->k + (size_t)t * dim;
        c->e->ops.l2norm(q, q, d->dim, l2_eps, 1.0f / sqrtf((float)d->dim));
        c->e->ops.l2norm(key, key, d->dim, l2_eps, 1.0f);
        gate_row(c, GATE_KQ)[t] = c->e->ops.dot(key, q, d->dim);
    }
    for (int u = k->first, end; u < k->last; u = end) {
        int head = value_head(c, d, k->key, u), slice0 = u % d->slices;
        end = head_end(d, k, u);
        conv_head(c, l, d, k->span, 2 * d->hk + head, t0, n, mine->v);
        head_gates(c, l, d, head, k->span->row + t0, n);
        run_rule(c, l, d, k->span, head, slice0, slice0 + end - u, t0, n);
        if (end - u == d->slices)
            norm_head(c, l, d, head, k->span->row + t0, n);
    }
}

static void run_task(struct ctx *c, const struct layer *l, const struct delta_shape *d, const struct delta_task *k)
{
    for (int t0 = 0; t0 < k->span->n; t0 += DELTA_CHUNK)
        run_chunk(c, l, d, k, t0, k->span->n - t0 < DELTA_CHUNK ? k->span->n - t0 : DELTA_CHUNK);
    for (int u = k->first, end; u < k->last; u = end) {
        end = head_end(d, k, u);
        if (end - u == d->slices)
            continue;
        /* a head that workers share is normed by who ends last */
        int head = value_head(c, d, k->key, u);
        atomic_int *done = &c->s->head_done[(k->span - c->s->span) * d->hv + head];
        if ((atomic_fetch_add_explicit(done, end - u, memory_order_acq_rel) + end - u) % d->slices == 0)
            norm_head(c, l, d, head, k->span->row, k->span->n);
    }
}

/* Every span's key heads x tiles, in equal contiguous shares. */
static void run_core(struct ctx *c, const struct layer *l, const struct delta_shape *d)
{
    int per_key = d->hv / d->hk * d->slices;
    int64_t per_span = (int64_t)d->hk * per_key, at, last;
    pool_share(c->w, per_span * c->s->n_spans, &at, &last);
    while (at < last) {
        int64_t in_span = at % per_span;
        struct delta_task k = {
            .span = &c->s->span[at / per_span], .key = (int)(in_span / per_key), .first = (int)(in_span % per_key)};
        k.last = last - at < per_key - k.first ? k.first + (int)(last - at) : per_key;
        run_task(c, l, d, &k);
        at += k.last - k.first;
    }
}

/* The last inputs of every span become the sequence's memory, once nobody reads the old ones. */
static void keep_inputs(struct ctx *c, const struct layer *l, const struct delta_shape *d)
{
    size_t dim = (size_t)d->dim;
    int heads = 2 * d->hk + d->hv, taps = d->n_tap - 1;
    int64_t first, last;
    pool_share(c->w, (int64_t)c->s->n_spans * heads, &first, &last);
    for (int64_t u = first; u < last; u++) {
        const struct span *sp = &c->s->span[u / heads];
        size_t head = (size_t)(u % heads);
        float *memory = state_conv(sp->seq, l->mixer_index) + head * (size_t)taps * dim;
        for (int j = 0; j < taps; j++) {
            int t = sp->n - taps + j; /* negative: still from the old memory, which moves towards its start */
            const float *from =
                t >= 0 ? c->s->proj + (size_t)(sp->row + t) * d->width + head * dim : memory + (size_t)(t + taps) * dim;
            memmove(memory + (size_t)j * dim, from, dim * sizeof *memory);
        }
    }
}

void delta_layer(struct ctx *c, const struct layer *l)
{
    struct step *s = c->s;
    const struct delta_weights *w = &l->delta;
    struct delta_shape d = shape_of(&c->e->model.hp);
    phase(c, QN_PHASE_PROJECTIONS);
    struct acts in = step_norm(c, l->mixer_norm);
    struct product p[] = {{.m = &w->qkv, .y = s->proj, .ldy = d.width},
                          {.m = &w->z, .y = s->proj + d.z_at, .ldy = d.width},
                          {.m = &w->beta, .y = s->proj + d.beta_at, .ldy = d.width},
                          {.m = &w->alpha, .y = s->proj + d.alpha_at, .ldy = d.width}};
    step_products(c, p, 4, &in);
    meet(c);
    phase(c, QN_PHASE_DELTA);
    run_core(c, l, &d);
    meet(c);
    keep_inputs(c, l, &d);
    struct acts mixed = step_mixed(c, d.hv, d.dim);
    phase(c, QN_PHASE_PROJECTIONS);
    struct product out = {.m = &w->out, .y = s->x, .ldy = (size_t)x_stride(c->e), .add = true};
    step_products(c, &out, 1, &mixed);
    meet(c);
}
