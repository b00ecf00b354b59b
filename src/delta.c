/* SPDX-License-Identifier: MIT */
/* Gated delta-net: causal convolution, the delta rule on a recurrent state, gated norm.  A worker owns value columns of heads (tiles
 * of 16) for the whole span, takes 64 tokens at a time through convolution and rule, and recomputes the few key and query channels
 * that its heads share with others instead of waiting for them.
 *
 * Where it is open how many of a span's tokens will stay, the rule runs on copies of the tiles and the layers' projections are kept,
 * a few KB a token; the tokens that stay are run through convolution and rule once more, on the states themselves. */
#include "run.h"

#include <math.h>
#include <string.h>

/* HF's constant under the root of the l2 norm of queries and keys. */
static const float l2_eps = 1e-6f;

/* Columns of a row of projections: q heads, k heads, v heads, z, beta, alpha. */
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

/* What is made of a layer's rows. */
enum delta_pass {
    PASS_WHOLE, /* outputs and new states */
    PASS_TRY, /* outputs: the states stay as they are */
    PASS_KEEP /* new states, of rows that were tried */
};

/* A layer at work. */
struct core {
    const struct layer *l;
    struct delta_shape d;
    enum delta_pass pass;
    float *proj; /* [n_rows][d.width] */
};

static struct core core_of(const struct ctx *c, const struct layer *l, enum delta_pass pass)
{
    struct core r = {.l = l, .d = shape_of(&c->e->model.hp), .pass = pass, .proj = c->s->proj};
    if (pass != PASS_WHOLE)
        r.proj = c->s->tried + (size_t)l->mixer_index * (size_t)c->s->n_rows * r.d.width;
    return r;
}

size_t delta_tried_floats(const struct hparams *hp) { return shape_of(hp).width; }

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
static void conv_head(struct ctx *c, const struct core *r, const struct span *sp, int head, int t0, int n, float *y)
{
    const struct delta_shape *d = &r->d;
    size_t dim = (size_t)d->dim, taps = (size_t)d->n_tap - 1;
    float history[7 * 256];
    const float *x = r->proj + (size_t)sp->row * d->width + (size_t)head * dim;
    const float *old = state_conv(sp->seq, r->l->mixer_index) + (size_t)head * taps * dim;
    for (int j = 0; j < d->n_tap - 1; j++) {
        int t = t0 - (d->n_tap - 1) + j; /* token of the span; before it: the sequence's memory */
        const float *from = t >= 0 ? x + (size_t)t * d->width : old + (size_t)(t + d->n_tap - 1) * dim;
        memcpy(history + (size_t)j * dim, from, dim * sizeof *history);
    }
    c->e->ops.conv_silu(y, dim, x + (size_t)t0 * d->width, d->width, history,
                        r->l->delta.conv + (size_t)head * (taps + 1) * dim, d->dim, n, d->n_tap);
}

/* Gates of one head for n tokens from row on: rows of mine->gate [8][DELTA_CHUNK]. */
enum { GATE_G, GATE_DECAY, GATE_BETA, GATE_KQ, GATE_A, GATE_B, GATE_LOG, GATE_DT };

static float *gate_row(struct ctx *c, int which) { return c->mine->gate + which * DELTA_CHUNK; }

static void head_gates(struct ctx *c, const struct core *r, int head, int row, int n)
{
    for (int t = 0; t < n; t++) {
        const float *p = r->proj + (size_t)(row + t) * r->d.width;
        gate_row(c, GATE_A)[t] = p[r->d.alpha_at + (size_t)head];
        gate_row(c, GATE_B)[t] = p[r->d.beta_at + (size_t)head];
        gate_row(c, GATE_LOG)[t] = r->l->delta.a_log[head];
        gate_row(c, GATE_DT)[t] = r->l->delta.dt_bias[head];
    }
    c->e->ops.delta_gates(gate_row(c, GATE_G), gate_row(c, GATE_DECAY), gate_row(c, GATE_BETA), gate_row(c, GATE_A),
                          gate_row(c, GATE_B), gate_row(c, GATE_LOG), gate_row(c, GATE_DT), n);
}

/* RMS norm of one head's outputs times silu(z), rows [row, row + n). */
static void norm_head(struct ctx *c, const struct core *r, int head, int row, int n)
{
    const struct delta_shape *d = &r->d;
    size_t at = (size_t)head * (size_t)d->dim;
    for (int t = row; t < row + n; t++) {
        float *o = c->s->mix + (size_t)t * d->value + at;
        c->e->ops.rmsnorm(o, o, r->l->delta.norm, d->dim, c->e->model.hp.eps);
        c->e->ops.silu_mul(o, r->proj + (size_t)t * d->width + d->z_at + at, o, d->dim);
        step_head_done(c, t, head, d->hv, d->dim);
    }
}

/* The rule on tiles [slice0, slice1) of a value head, for n tokens from t0 on. */
static void run_rule(struct ctx *c, const struct core *r, const struct span *sp, int head, int slice0, int slice1,
                     int t0, int n)
{
    struct worker_scratch *mine = c->mine;
    const struct delta_shape *d = &r->d;
    size_t dim = (size_t)d->dim;
    for (int i = slice0; i < slice1; i++) {
        struct delta_args args = {
            .s = state_tile(sp->seq, r->l->mixer_index, head, i),
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
        if (r->pass == PASS_TRY) { /* a span that is tried is one chunk */
            args.s = memcpy(mine->tile, args.s, dim * 16 * sizeof *args.s);
        } else if (r->pass == PASS_KEEP) { /* outputs of anything, to nowhere */
            args.q = mine->k;
            args.kq = gate_row(c, GATE_DECAY);
            args.o = mine->tile;
            args.o_stride = 16;
        }
        if (c->e->delta == QN_DELTA_CHUNKED)
            c->e->ops.delta_chunk(&args);
        else
            c->e->ops.delta_step(&args);
    }
}

/* n tokens from t0 on: queries and keys once, then every value head; heads that are whole here are normed while they are hot. */
static void run_chunk(struct ctx *c, const struct core *r, const struct delta_task *k, int t0, int n)
{
    struct worker_scratch *mine = c->mine;
    const struct delta_shape *d = &r->d;
    size_t dim = (size_t)d->dim;
    bool outputs = r->pass != PASS_KEEP;
    conv_head(c, r, k->span, d->hk + k->key, t0, n, mine->k);
    for (int t = 0; t < n; t++) {
        float *key = mine->k + (size_t)t * dim;
        c->e->ops.l2norm(key, key, d->dim, l2_eps, 1.0f);
    }
    if (outputs)
        conv_head(c, r, k->span, k->key, t0, n, mine->q);
    for (int t = 0; outputs && t < n; t++) {
        float *q = mine->q + (size_t)t * dim;
        c->e->ops.l2norm(q, q, d->dim, l2_eps, 1.0f / sqrtf((float)d->dim));
        gate_row(c, GATE_KQ)[t] = c->e->ops.dot(mine->k + (size_t)t * dim, q, d->dim);
    }
    for (int u = k->first, end; u < k->last; u = end) {
        int head = value_head(c, d, k->key, u), slice0 = u % d->slices;
        end = head_end(d, k, u);
        conv_head(c, r, k->span, 2 * d->hk + head, t0, n, mine->v);
        head_gates(c, r, head, k->span->row + t0, n);
        run_rule(c, r, k->span, head, slice0, slice0 + end - u, t0, n);
        if (outputs && end - u == d->slices)
            norm_head(c, r, head, k->span->row + t0, n);
    }
}

static void run_task(struct ctx *c, const struct core *r, const struct delta_task *k)
{
    const struct delta_shape *d = &r->d;
    for (int t0 = 0; t0 < k->span->n; t0 += DELTA_CHUNK)
        run_chunk(c, r, k, t0, k->span->n - t0 < DELTA_CHUNK ? k->span->n - t0 : DELTA_CHUNK);
    for (int u = k->first, end; r->pass != PASS_KEEP && u < k->last; u = end) {
        end = head_end(d, k, u);
        if (end - u == d->slices)
            continue;
        /* a head that workers share is normed by who ends last */
        int head = value_head(c, d, k->key, u);
        atomic_int *done = &c->s->head_done[(k->span - c->s->span) * d->hv + head];
        if ((atomic_fetch_add_explicit(done, end - u, memory_order_acq_rel) + end - u) % d->slices == 0)
            norm_head(c, r, head, k->span->row, k->span->n);
    }
}

/* Key heads x tiles of a layer, span after span. */
static int64_t tiles_of(const struct delta_shape *d, int n_spans) { return (int64_t)d->hv * d->slices * n_spans; }

/* Some of them: [at, last). */
static void run_tiles(struct ctx *c, const struct core *r, int64_t at, int64_t last)
{
    int per_key = r->d.hv / r->d.hk * r->d.slices;
    int64_t per_span = tiles_of(&r->d, 1);
    while (at < last) {
        int64_t in_span = at % per_span;
        struct delta_task k = {
            .span = &c->s->span[at / per_span], .key = (int)(in_span / per_key), .first = (int)(in_span % per_key)};
        k.last = last - at < per_key - k.first ? k.first + (int)(last - at) : per_key;
        run_task(c, r, &k);
        at += k.last - k.first;
    }
}

/* The last inputs of every span become the sequence's memory, once nobody reads the old ones. */
static void keep_inputs(struct ctx *c, const struct core *r)
{
    const struct delta_shape *d = &r->d;
    size_t dim = (size_t)d->dim;
    int heads = 2 * d->hk + d->hv, taps = d->n_tap - 1;
    int64_t first, last;
    pool_share(c->w, (int64_t)c->s->n_spans * heads, &first, &last);
    for (int64_t u = first; u < last; u++) {
        const struct span *sp = &c->s->span[u / heads];
        size_t head = (size_t)(u % heads);
        float *memory = state_conv(sp->seq, r->l->mixer_index) + head * (size_t)taps * dim;
        for (int j = 0; j < taps; j++) {
            int t = sp->n - taps + j; /* negative: still from the old memory, which moves towards its start */
            const float *from =
                t >= 0 ? r->proj + (size_t)(sp->row + t) * d->width + head * dim : memory + (size_t)(t + taps) * dim;
            memmove(memory + (size_t)j * dim, from, dim * sizeof *memory);
        }
    }
}

void delta_layer(struct ctx *c, const struct layer *l)
{
    struct step *s = c->s;
    const struct delta_weights *w = &l->delta;
    struct core r = core_of(c, l, s->tried ? PASS_TRY : PASS_WHOLE);
    const struct delta_shape *d = &r.d;
    phase(c, QN_PHASE_PROJECTIONS);
    struct acts in = step_norm(c, l->mixer_norm);
    struct product p[] = {{.m = &w->qkv, .y = r.proj, .ldy = d->width},
                          {.m = &w->z, .y = r.proj + d->z_at, .ldy = d->width},
                          {.m = &w->beta, .y = r.proj + d->beta_at, .ldy = d->width},
                          {.m = &w->alpha, .y = r.proj + d->alpha_at, .ldy = d->width}};
    step_products(c, p, 4, &in);
    meet(c);
    phase(c, QN_PHASE_DELTA);
    int64_t first, last;
    pool_share(c->w, tiles_of(d, s->n_spans), &first, &last);
    run_tiles(c, &r, first, last);
    meet(c);
    if (r.pass == PASS_WHOLE)
        keep_inputs(c, &r);
    struct acts mixed = step_mixed(c, d->hv, d->dim);
    phase(c, QN_PHASE_PROJECTIONS);
    struct product out = {.m = &w->out, .y = s->x, .ldy = (size_t)x_stride(c->e), .add = true};
    step_products(c, &out, 1, &mixed);
    meet(c);
}

void delta_keep(struct ctx *c)
{
    const struct model *m = &c->e->model;
    struct delta_shape d = shape_of(&m->hp);
    int64_t each = tiles_of(&d, c->s->n_spans), first, last, at = 0;
    phase(c, QN_PHASE_DELTA);
    pool_share(c->w, each * m->n_delta, &first, &last);
    for (const struct layer *l = m->layer; l < m->layer + m->hp.n_layer; l++)
        if (l->mixer == MIXER_DELTA) {
            struct core r = core_of(c, l, PASS_KEEP);
            int64_t from = first > at ? first - at : 0, to = last - at < each ? last - at : each;
            run_tiles(c, &r, from, to);
            at += each;
        }
    meet(c);
    for (const struct layer *l = m->layer; l < m->layer + m->hp.n_layer; l++)
        if (l->mixer == MIXER_DELTA) {
            struct core r = core_of(c, l, PASS_KEEP);
            keep_inputs(c, &r);
        }
}
