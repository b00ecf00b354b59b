/* SPDX-License-Identifier: MIT */
/* Gated attention with rotary positions and grouped query heads.  Keys and values go to the cache first and are read from there in
 * the cache's type, also within the span that wrote them; a block's result depends on the block alone and blocks are merged in
 * index order, so neither the cutting of the prompt nor the number of workers can change a bit. */
#include "run.h"

#include <math.h>
#include <string.h>

/* Columns of a row in s->proj: q (with gates), k, v. */
struct attn_shape {
    int n_head, n_kv, group, dim, q_step; /* q_step: floats from head to head in q */
    size_t width, k_at, v_at;
};

static struct attn_shape shape_of(const struct hparams *hp)
{
    struct attn_shape a = {
        .n_head = hp->n_head, .n_kv = hp->n_head_kv, .group = hp->n_head / hp->n_head_kv, .dim = hp->head_dim};
    a.q_step = a.dim * (hp->gated ? 2 : 1);
    a.k_at = (size_t)a.n_head * (size_t)a.q_step;
    a.v_at = a.k_at + (size_t)a.n_kv * (size_t)a.dim;
    a.width = a.v_at + (size_t)a.n_kv * (size_t)a.dim;
    return a;
}

size_t attn_partial_floats(const struct qn_engine *e, int n_ctx)
{
    size_t blocks = ((size_t)n_ctx + ATTN_BLOCK - 1) / ATTN_BLOCK, hd = (size_t)e->model.hp.head_dim;
    return e->model.n_kv ? FEW_ROWS * blocks * (size_t)e->model.hp.n_head * (hd + 2) : 0;
}

/* Bias, norm and rotation of one head, in place. */
static void finish_head(struct ctx *c, float *x, const float *bias, const float *norm, const float *cos_sin)
{
    const struct hparams *hp = &c->e->model.hp;
    if (bias)
        c->e->ops.add(x, bias, hp->head_dim);
    if (norm)
        c->e->ops.rmsnorm(x, x, norm, hp->head_dim, hp->eps);
    c->e->ops.rope(x, cos_sin, hp->n_rot / 2, hp->rope_neox);
}

/* Rotating a head by a Hadamard matrix spreads its few large dimensions over all, so that a few bits can hold them.  Products of keys
 * and queries that are both rotated stay what they are; a sum of rotated values is rotated back. */
static bool rotates_keys(const struct qn_engine *e) { return kv_quantized(e->k_kind); }
static bool rotates_values(const struct qn_engine *e) { return kv_quantized(e->v_kind); }

static uint16_t to_bf16(float x)
{
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return (uint16_t)(x != x ? u >> 16 | 0x40 : (u + 0x7fff + (u >> 16 & 1)) >> 16);
}

/* A head of floats in a kind of two bytes. */
static void to_half(const struct qn_engine *e, enum kv_kind kind, uint16_t *y, const float *x)
{
    if (kind == KV_F16)
        e->ops.to_f16(y, x, e->model.hp.head_dim);
    else
        for (int d = 0; d < e->model.hp.head_dim; d++)
            y[d] = to_bf16(x[d]);
}

/* A head of floats in a quantized kind. */
struct codes {
    int8_t q[512];
    uint16_t d[512 / QUANT_GROUP];
};

static void store_key(const struct qn_engine *e, uint8_t *keys, int j, const float *k)
{
    int dim = e->model.hp.head_dim;
    if (kv_quantized(e->k_kind)) {
        struct codes c;
        e->ops.kv_encode(e->k_kind, k, dim, c.q, c.d);
        kv_put_key(e->k_kind, keys, dim, j, c.q, c.d);
        return;
    }
    if (e->k_kind == KV_F32) {
        float *out = (float *)(void *)keys + j;
        for (int d = 0; d < dim; d++)
            out[(size_t)d * ATTN_BLOCK] = k[d];
        return;
    }
    uint16_t half[512], *out = (uint16_t *)(void *)keys + j;
    to_half(e, e->k_kind, half, k);
    for (int d = 0; d < dim; d++)
        out[(size_t)d * ATTN_BLOCK] = half[d];
}

static void store_value(const struct qn_engine *e, uint8_t *values, int j, const float *v)
{
    size_t dim = (size_t)e->model.hp.head_dim;
    if (kv_quantized(e->v_kind)) {
        struct codes c;
        e->ops.kv_encode(e->v_kind, v, (int)dim, c.q, c.d);
        kv_put_value(e->v_kind, values, (int)dim, j, c.q, c.d);
    } else if (e->v_kind == KV_F32) {
        memcpy((float *)(void *)values + (size_t)j * dim, v, dim * sizeof *v);
    } else {
        to_half(e, e->v_kind, (uint16_t *)(void *)values + (size_t)j * dim, v);
    }
}

/* Key and value of row t and KV head h into the cache. */
static void fill_row(struct ctx *c, const struct layer *l, const struct attn_shape *a, const struct span *sp, int t,
                     int h)
{
    struct step *s = c->s;
    const struct attn_weights *w = &l->attn;
    int pos = sp->pos + t - sp->row, at = h * a->dim;
    float *k = s->proj + (size_t)t * a->width + a->k_at + at, *v = s->proj + (size_t)t * a->width + a->v_at + at;
    finish_head(c, k, w->k_bias ? w->k_bias + at : NULL, w->k_norm,
                s->cos_sin + (size_t)t * (size_t)c->e->model.hp.n_rot);
    if (w->v_bias)
        c->e->ops.add(v, w->v_bias + at, a->dim);
    if (rotates_keys(c->e))
        c->e->ops.rotate(k, a->dim);
    if (rotates_values(c->e))
        c->e->ops.rotate(v, a->dim);
    store_key(c->e, state_keys(sp->seq, l->mixer_index, h, pos / ATTN_BLOCK), pos % ATTN_BLOCK, k);
    store_value(c->e, state_values(sp->seq, l->mixer_index, h, pos / ATTN_BLOCK), pos % ATTN_BLOCK, v);
}

/* All new keys and values, split over rows x KV heads. */
static void fill_cache(struct ctx *c, const struct layer *l, const struct attn_shape *a)
{
    int64_t first, last;
    pool_share(c->w, (int64_t)c->s->n_rows * a->n_kv, &first, &last);
    const struct span *sp = c->s->span;
    for (int64_t u = first; u < last; u++) {
        int t = (int)(u / a->n_kv);
        while (t >= sp->row + sp->n)
            sp++;
        fill_row(c, l, a, sp, t, (int)(u % a->n_kv));
    }
}

/* What is new in block b; for few rows, whoever attends to a block stores it, so that nobody waits. */
static void fill_block(struct ctx *c, const struct layer *l, const struct attn_shape *a, const struct span *sp, int h,
                       int b)
{
    for (int t = 0; t < sp->n; t++)
        if ((sp->pos + t) / ATTN_BLOCK == b)
            fill_row(c, l, a, sp, sp->row + t, h);
}

/* A task: tokens [t0, t0 + n) of a span against one KV head; query row i * group + j is token t0 + i, head h * group + j. */
struct attn_task {
    const struct span *span;
    int t0, n, h;
};

/* In place: the groups take half of the row. */
static void quantize_query(struct ctx *c, float *q, int dim)
{
    struct act_group group[512 / QUANT_GROUP];
    c->e->ops.quantize(q, dim, group);
    memcpy(q, group, (size_t)(dim / QUANT_GROUP) * sizeof *group);
}

static void load_queries(struct ctx *c, const struct layer *l, const struct attn_shape *a, const struct attn_task *k)
{
    for (int i = 0; i < k->n; i++) {
        int t = k->span->row + k->t0 + i;
        const float *cos_sin = c->s->cos_sin + (size_t)t * (size_t)c->e->model.hp.n_rot;
        for (int j = 0; j < a->group; j++) {
            size_t at = (size_t)(k->h * a->group + j) * (size_t)a->q_step;
            float *q = c->mine->attn_q + (size_t)(i * a->group + j) * (size_t)a->dim;
            memcpy(q, c->s->proj + (size_t)t * a->width + at, (size_t)a->dim * sizeof *q);
            finish_head(c, q, l->attn.q_bias ? l->attn.q_bias + at : NULL, l->attn.q_norm, cos_sin);
            if (rotates_keys(c->e))
                c->e->ops.rotate(q, a->dim);
            if (kv_quantized(c->e->k_kind))
                quantize_query(c, q, a->dim);
        }
    }
}

/* Quantized keys: products with the queries come first, for as many rows at once as a product likes to have columns. */
static void block_of_products(struct ctx *c, const struct attn_args *all, size_t q_stride)
{
    enum { ROWS = 16 };
    float s[ROWS][ATTN_BLOCK];
    const struct quant_type *type = kv_type(all->k_kind);
    struct mat keys = {.data = all->k, .type = type, .rows = ATTN_BLOCK, .cols = all->head_dim};
    keys.stride = pack_tile_bytes(type, all->head_dim);
    for (int i = 0; i < all->n_q; i += ROWS) {
        struct attn_args part = *all;
        int most = 0;
        part.n_q = all->n_q - i < ROWS ? all->n_q - i : ROWS;
        part.n_vis += i;
        part.m += i;
        part.l += i;
        part.o += (size_t)i * all->o_stride;
        part.k_next = i == 0 ? all->k_next : NULL;
        part.s = s[0];
        for (int r = 0; r < part.n_q; r++)
            most = part.n_vis[r] > most ? part.n_vis[r] : most;
        struct cols q = {.base = all->q + (size_t)i * q_stride, .stride = q_stride * sizeof(float), .n = part.n_q};
        c->e->ops.mul[type->id](&keys, 0, (most + TILE_ROWS - 1) / TILE_ROWS * TILE_ROWS, &q, s[0], ATTN_BLOCK);
        c->e->ops.attn_block(&part);
    }
}

/* Block b against the loaded queries: m, l [n * group], o rows o_stride apart.  more: b + 1 follows. */
static void one_block(struct ctx *c, const struct layer *l, const struct attn_shape *a, const struct attn_task *k,
                      int b, bool more, float *m, float *sum, float *o, size_t o_stride)
{
    for (int i = 0; i < k->n; i++) {
        int vis = k->span->pos + k->t0 + i + 1 - b * ATTN_BLOCK;
        vis = vis < 0 ? 0 : vis > ATTN_BLOCK ? ATTN_BLOCK : vis;
        for (int j = 0; j < a->group; j++)
            c->mine->attn_vis[i * a->group + j] = vis;
    }
    struct attn_args args = {
        .q = c->mine->attn_q,
        .q_stride = (size_t)a->dim,
        .n_q = k->n * a->group,
        .head_dim = a->dim,
        .scale = 1.0f / sqrtf((float)a->dim),
        .k_kind = c->e->k_kind,
        .v_kind = c->e->v_kind,
        .k = state_keys(k->span->seq, l->mixer_index, k->h, b),
        .v = state_values(k->span->seq, l->mixer_index, k->h, b),
        .k_next = more ? state_keys(k->span->seq, l->mixer_index, k->h, b + 1) : NULL,
        .n_vis = c->mine->attn_vis,
        .m = m,
        .l = sum,
        .o = o,
        .o_stride = o_stride,
    };
    if (kv_quantized(args.k_kind))
        block_of_products(c, &args, args.q_stride);
    else
        c->e->ops.attn_block(&args);
}

/* o / sum, gated, to the mixer's output. */
static void finish_row(struct ctx *c, const struct attn_shape *a, int t, int head, float *o, float sum)
{
    float *y = c->s->mix + (size_t)t * (size_t)(a->n_head * a->dim) + (size_t)head * (size_t)a->dim;
    memcpy(y, o, (size_t)a->dim * sizeof *y);
    c->e->ops.scale(y, 1.0f / sum, a->dim);
    if (rotates_values(c->e))
        c->e->ops.rotate(y, a->dim);
    if (c->e->model.hp.gated)
        c->e->ops.sigmoid_mul(y, y, c->s->proj + (size_t)t * a->width + (size_t)head * (size_t)a->q_step + a->dim,
                              a->dim);
    step_head_done(c, t, head, a->n_head, a->dim);
}

/* Merged blocks of a task's rows, and room for one block: m, l [rows], o [rows][dim]. */
struct merge {
    float *M, *L, *O, *m, *l, *o;
};

static struct merge merge_start(struct ctx *c, int rows, int dim)
{
    struct merge g = {.M = c->mine->attn_ml, .O = c->mine->attn_o};
    g.L = g.M + rows;
    g.m = g.L + rows;
    g.l = g.m + rows;
    g.o = g.O + (size_t)rows * (size_t)dim;
    memset(g.O, 0, (size_t)rows * (size_t)dim * sizeof *g.O);
    for (int i = 0; i < rows; i++) {
        g.M[i] = -INFINITY;
        g.L[i] = 0.0f;
    }
    return g;
}

static void merge_block(struct ctx *c, const struct layer *l, const struct attn_shape *a, const struct attn_task *k,
                        int b, bool more, struct merge *g)
{
    size_t dim = (size_t)a->dim;
    one_block(c, l, a, k, b, more, g->m, g->l, g->o, dim);
    for (int i = 0; i < k->n * a->group; i++)
        if (c->mine->attn_vis[i] > 0)
            c->e->ops.attn_merge(&g->M[i], &g->L[i], g->O + (size_t)i * dim, g->m[i], g->l[i], g->o + (size_t)i * dim,
                                 a->dim);
}

static void run_task(struct ctx *c, const struct layer *l, const struct attn_shape *a, const struct attn_task *k)
{
    int rows = k->n * a->group;
    load_queries(c, l, a, k);
    struct merge g = merge_start(c, rows, a->dim);
    int last = (k->span->pos + k->t0 + k->n - 1) / ATTN_BLOCK;
    for (int b = 0; b <= last; b++) {
        if (few_rows(c))
            fill_block(c, l, a, k->span, k->h, b);
        merge_block(c, l, a, k, b, b < last, &g);
    }
    for (int i = 0; i < rows; i++)
        finish_row(c, a, k->span->row + k->t0 + i / a->group, k->h * a->group + i % a->group,
                   g.O + (size_t)i * (size_t)a->dim, g.L[i]);
}

static int chunks_of(const struct span *sp) { return (sp->n + ATTN_TOKENS - 1) / ATTN_TOKENS; }

static void run_tasks(struct ctx *c, const struct layer *l, const struct attn_shape *a)
{
    struct step *s = c->s;
    int total = 0;
    for (int i = 0; i < s->n_spans; i++)
        total += chunks_of(&s->span[i]) * a->n_kv;
    struct tasks tasks = tasks_start(c, total);
    for (int u; (u = tasks_next(&tasks)) >= 0;) {
        u = total - 1 - u; /* the longest tasks, at the end of a span, go first */
        int i = 0;
        for (; u >= chunks_of(&s->span[i]) * a->n_kv; i++)
            u -= chunks_of(&s->span[i]) * a->n_kv;
        int t0 = u / a->n_kv * ATTN_TOKENS, left = s->span[i].n - t0;
        struct attn_task task = {
            .span = &s->span[i], .t0 = t0, .n = left < ATTN_TOKENS ? left : ATTN_TOKENS, .h = u % a->n_kv};
        run_task(c, l, a, &task);
    }
}

/* ---- few rows: tasks are single blocks, so that one sequence keeps all workers busy; a second pass merges.  Who has a head's
 * first block merges what follows at once, as far as it is his. */

static int blocks_of(const struct span *sp) { return (sp->pos + sp->n - 1) / ATTN_BLOCK + 1; }

/* Results of (KV head h, block b) of a span that starts at base: o [n * group][dim], then m, then l. */
static float *partial_at(float *base, const struct attn_shape *a, const struct span *sp, int h, int b)
{
    return base + ((size_t)h * (size_t)blocks_of(sp) + (size_t)b) * (size_t)(sp->n * a->group) * (size_t)(a->dim + 2);
}

static size_t partial_floats(const struct attn_shape *a, const struct span *sp)
{
    return (size_t)blocks_of(sp) * (size_t)(sp->n * a->n_head) * (size_t)(a->dim + 2);
}

/* Blocks [b0, b1) of one KV head of span i. */
static void split_head(struct ctx *c, const struct layer *l, const struct attn_shape *a, int i, float *base, int h,
                       int b0, int b1)
{
    const struct span *sp = &c->s->span[i];
    struct attn_task task = {.span = sp, .t0 = 0, .n = sp->n, .h = h};
    size_t rows = (size_t)(sp->n * a->group), all = rows * (size_t)a->dim;
    struct merge g = merge_start(c, (int)rows, a->dim);
    load_queries(c, l, a, &task);
    for (int b = b0; b < b1; b++) {
        float *o = partial_at(base, a, sp, h, b);
        fill_block(c, l, a, sp, h, b);
        if (b0 == 0)
            merge_block(c, l, a, &task, b, b + 1 < b1, &g);
        else
            one_block(c, l, a, &task, b, b + 1 < b1, o + all, o + all + rows, o, (size_t)a->dim);
    }
    if (b0 > 0)
        return;
    float *o = partial_at(base, a, sp, h, b1 - 1);
    memcpy(o, g.O, all * sizeof *o);
    memcpy(o + all, g.M, rows * sizeof *o);
    memcpy(o + all + rows, g.L, rows * sizeof *o);
    c->s->merged[i * a->n_kv + h] = b1;
}

static void split_blocks(struct ctx *c, const struct layer *l, const struct attn_shape *a)
{
    struct step *s = c->s;
    int64_t total = 0, at, last, head = 0; /* first block of the head at hand */
    for (int i = 0; i < s->n_spans; i++)
        total += blocks_of(&s->span[i]) * a->n_kv;
    pool_share(c->w, total, &at, &last);
    float *base = s->partial;
    for (int i = 0; i < s->n_spans; base += partial_floats(a, &s->span[i++]))
        for (int h = 0, n = blocks_of(&s->span[i]); h < a->n_kv; h++, head += n)
            if (at < last && at < head + n) {
                int b0 = (int)(at - head), b1 = last - head < n ? (int)(last - head) : n;
                split_head(c, l, a, i, base, h, b0, b1);
                at = head + b1;
            }
}

static void merge_blocks(struct ctx *c, const struct attn_shape *a)
{
    struct step *s = c->s;
    struct tasks tasks = tasks_start(c, s->n_rows * a->n_head);
    for (int u; (u = tasks_next(&tasks)) >= 0;) {
        int t = u / a->n_head, head = u % a->n_head, h = head / a->group, i = 0;
        float *base = s->partial, *O = c->mine->attn_o;
        for (; t >= s->span[i].row + s->span[i].n; i++)
            base += partial_floats(a, &s->span[i]);
        const struct span *sp = &s->span[i];
        int rows = sp->n * a->group, row = (t - sp->row) * a->group + head % a->group;
        int b = s->merged[i * a->n_kv + h], last = (sp->pos + t - sp->row) / ATTN_BLOCK;
        const float *o = partial_at(base, a, sp, h, b - 1), *m = o + (size_t)rows * (size_t)a->dim;
        float M = m[row], L = m[rows + row];
        memcpy(O, o + (size_t)row * (size_t)a->dim, (size_t)a->dim * sizeof *O);
        for (; b <= last; b++) {
            o = partial_at(base, a, sp, h, b);
            m = o + (size_t)rows * (size_t)a->dim;
            c->e->ops.attn_merge(&M, &L, O, m[row], m[rows + row], o + (size_t)row * (size_t)a->dim, a->dim);
        }
        finish_row(c, a, t, head, O, L);
    }
}

void attn_layer(struct ctx *c, const struct layer *l)
{
    struct step *s = c->s;
    struct attn_shape a = shape_of(&c->e->model.hp);
    phase(c, QN_PHASE_PROJECTIONS);
    struct acts in = step_norm(c, l->mixer_norm);
    struct product p[] = {{.m = &l->attn.q, .y = s->proj, .ldy = a.width},
                          {.m = &l->attn.k, .y = s->proj + a.k_at, .ldy = a.width},
                          {.m = &l->attn.v, .y = s->proj + a.v_at, .ldy = a.width}};
    step_products(c, p, 3, &in);
    meet(c);
    phase(c, QN_PHASE_ATTENTION);
    if (!few_rows(c)) {
        fill_cache(c, l, &a);
        meet(c);
    }
    bool split = false; /* the same on every worker */
    for (int i = 0; few_rows(c) && i < s->n_spans; i++)
        split |= blocks_of(&s->span[i]) > 1;
    if (split) {
        split_blocks(c, l, &a);
        meet(c);
        merge_blocks(c, &a);
    } else {
        run_tasks(c, l, &a);
    }
    meet(c);
    phase(c, QN_PHASE_PROJECTIONS);
    struct acts mixed = step_mixed(c, a.n_head, a.dim);
    struct product out = {.m = &l->attn.out, .y = s->x, .ldy = (size_t)x_stride(c->e), .add = true};
    step_products(c, &out, 1, &mixed);
    meet(c);
}
