/* SPDX-License-Identifier: MIT */
/* The forward step: embed, walk the layers, final norm, head.  The parts are in attn.c, delta.c and ffn.c; what they share -
 * normed and quantized rows, products split over workers, task lists - is here. */
#include "run.h"

#include <limits.h>
#include <string.h>

enum { TASK_STRIDE = CACHE_LINE / sizeof(atomic_int), TASKS_PER_LAYER = 10, TASKS_BESIDE = 4 };
/* Of weights: what a worker takes at least when few rows are multiplied, and what it is counted in. */
enum { LEAST_STREAM = 256 << 10, STREAM_UNIT = 1 << 10 };

/* ---- scratch: one arena, walked twice, first to size it, then to hand it out */

static void *take(struct qn_engine *e, size_t n, size_t each)
{
    size_t at = e->arena_used;
    e->arena_used += (n * each + CACHE_LINE - 1) & ~(size_t)(CACHE_LINE - 1);
    return e->arena ? e->arena + at : NULL;
}

static size_t max2(size_t a, size_t b) { return a > b ? a : b; }

/* Widest row that is normed or mixed and then quantized. */
static size_t widest(const struct model *m)
{
    const struct hparams *hp = &m->hp;
    size_t w = max2((size_t)hp->n_embd * (m->drafts ? 2 : 1), (size_t)hp->n_head * (size_t)hp->head_dim);
    return max2(w, (size_t)hp->n_v_head * (size_t)hp->ssm_dim);
}

static size_t proj_cols(const struct hparams *hp)
{
    size_t attn = ((size_t)hp->n_head * (hp->gated ? 2 : 1) + 2 * (size_t)hp->n_head_kv) * (size_t)hp->head_dim;
    size_t delta = 2 * ((size_t)hp->n_k_head + (size_t)hp->n_v_head) * (size_t)hp->ssm_dim + 2 * (size_t)hp->n_v_head;
    return max2(attn, delta);
}

static void take_routing(struct qn_engine *e, struct routing *r, size_t n_rows)
{
    size_t n = n_rows * (size_t)e->model.hp.n_expert_used, n_exp = (size_t)e->model.hp.n_expert;
    r->top = take(e, n, sizeof *r->top);
    r->top_p = take(e, n, sizeof *r->top_p);
    r->start = take(e, n_exp + 1, sizeof *r->start);
    r->row = take(e, n, sizeof *r->row);
    r->p = take(e, n, sizeof *r->p);
    r->active = take(e, n_exp, sizeof *r->active);
}

static void take_worker(struct qn_engine *e, struct worker_scratch *s)
{
    const struct hparams *hp = &e->model.hp;
    size_t wide = widest(&e->model), group = (size_t)(hp->n_head / hp->n_head_kv) * ATTN_TOKENS,
           dim = (size_t)hp->ssm_dim;
    s->clock = take(e, 1, sizeof *s->clock);
    s->norm = take(e, FEW_ROWS * wide, sizeof(float));
    s->act = take(e, FEW_ROWS * (wide / QUANT_GROUP + 1), sizeof(struct act_group));
    s->a = take(e, PART_COLS * TASK_ROWS, sizeof(float));
    s->b = take(e, PART_COLS * TASK_ROWS, sizeof(float));
    s->q = take(e, DELTA_CHUNK * dim, sizeof(float));
    s->k = take(e, DELTA_CHUNK * dim, sizeof(float));
    s->v = take(e, DELTA_CHUNK * dim, sizeof(float));
    s->gate = take(e, (size_t)DELTA_CHUNK * 8, sizeof(float));
    s->tile = take(e, max2(dim, DELTA_CHUNK) * 16, sizeof(float));
    s->router = take(e, (size_t)hp->n_expert, sizeof(float));
    take_routing(e, &s->routing, FEW_ROWS);
    s->attn_q = take(e, group * (size_t)hp->head_dim, sizeof(float));
    s->attn_o = take(e, 2 * group * (size_t)hp->head_dim, sizeof(float));
    s->attn_ml = take(e, 4 * group, sizeof(float));
    s->attn_vis = take(e, group, sizeof(int));
}

static void take_all(struct qn_engine *e)
{
    const struct hparams *hp = &e->model.hp;
    struct step *s = &e->step;
    size_t t = (size_t)e->n_ubatch, wide = widest(&e->model), k = (size_t)hp->n_expert_used,
           n_exp = (size_t)hp->n_expert;
    size_t hidden = (size_t)hp->n_ff_exp, shared = (size_t)(n_exp ? hp->n_ff_shexp : hp->n_ff);
    e->arena_used = 0;
    s->n_try = e->n_draft ? e->n_seq * (e->n_draft + 1) : 0;
    s->n_try = s->n_try < e->n_ubatch ? s->n_try : e->n_ubatch;
    s->span = take(e, t, sizeof *s->span);
    s->ids = take(e, t, sizeof *s->ids);
    s->out_row = take(e, t, sizeof *s->out_row);
    s->x = take(e, t * (size_t)x_stride(e), sizeof(float));
    s->norm = take(e, t * (size_t)hp->n_embd, sizeof(float));
    s->act = take(e, t * (wide / QUANT_GROUP + 1), sizeof(struct act_group));
    s->proj = take(e, t * proj_cols(hp), sizeof(float));
    s->mix = take(e, t * wide, sizeof(float));
    s->tried_room = take(e, (size_t)s->n_try * (size_t)e->model.n_delta, sizeof(float) * delta_tried_floats(hp));
    if (e->model.drafts) {
        s->last = take(e, t * (size_t)hp->n_embd, sizeof(float));
        s->pair = take(e, t * (size_t)hp->n_embd, 2 * sizeof(float));
        s->draft_out = take(e, (size_t)hp->n_embd, sizeof(float));
        s->draft_logits = take(e, (size_t)hp->n_vocab, sizeof(float));
    }
    s->cos_sin = take(e, t * (size_t)hp->n_rot, sizeof(float));
    s->partial = take(e, attn_partial_floats(e, e->n_ctx), sizeof(float));
    s->merged = take(e, (size_t)FEW_ROWS * (size_t)hp->n_head_kv, sizeof *s->merged);
    s->head_done = take(e, t * (size_t)hp->n_v_head, sizeof *s->head_done);
    s->router = take(e, t * n_exp, sizeof(float));
    take_routing(e, &s->routing, t);
    s->hidden = take(e, t * k * hidden, sizeof(float));
    s->hidden_act = take(e, t * k * (hidden / QUANT_GROUP + 1), sizeof(struct act_group));
    s->shared = take(e, t * shared, sizeof(float));
    s->shared_act = take(e, t * (shared / QUANT_GROUP + 1), sizeof(struct act_group));
    s->shared_gate = take(e, t, sizeof(float));
    s->shared_p = take(e, t, sizeof(float));
    s->n_task = (hp->n_layer * TASKS_PER_LAYER + TASKS_BESIDE) * e->model.n_slices;
    s->task = take(e, (size_t)s->n_task * TASK_STRIDE, sizeof(atomic_int));
    int n_workers = e->n_threads > e->n_threads_batch ? e->n_threads : e->n_threads_batch;
    e->scratch = take(e, (size_t)n_workers, sizeof *e->scratch);
    struct worker_scratch unplaced;
    for (int i = 0; i < n_workers; i++) {
        bool first = i == 0 || pool_node_of(e->pool, i) != pool_node_of(e->pool, i - 1); /* of its node */
        if (first && pool_n_nodes(e->pool) > 1) { /* whole huge pages; the next node takes what is behind its start */
            e->arena_used = (e->arena_used + HUGE_PAGE - 1) & ~(size_t)(HUGE_PAGE - 1);
            if (e->arena)
                topology_place(e->arena + e->arena_used, e->arena_bytes - e->arena_used,
                               pool_node(e->pool, pool_node_of(e->pool, i)));
        }
        take_worker(e, e->arena ? &e->scratch[i] : &unplaced);
    }
}

size_t step_bytes(struct qn_engine *e)
{
    struct step saved = e->step;
    uint8_t *arena = e->arena;
    struct worker_scratch *scratch = e->scratch;
    e->arena = NULL;
    take_all(e);
    e->arena = arena;
    e->scratch = scratch;
    e->step = saved;
    return e->arena_used;
}

int step_alloc(struct qn_engine *e, struct qn_error *err)
{
    e->arena_bytes = step_bytes(e);
    e->arena = mem_reserve(e->arena_bytes, true);
    if (!e->arena)
        return fail(err, QN_E_MEMORY, "no memory for %zu bytes of scratch", e->arena_bytes);
    take_all(e);
    return 0;
}

/* ---- tasks */

/* Tasks to be claimed, `each` for each of n_slices slices. */
static struct tasks tasks_claim(struct ctx *c, int each, int n_slices)
{
    size_t index = (size_t)c->next_task++ * (size_t)c->e->model.n_slices;
    return (struct tasks){.counter = &c->s->task[index * TASK_STRIDE],
                          .each = each,
                          .n_slices = n_slices,
                          .slice = c->w->node % n_slices,
                          .left = n_slices};
}

static struct tasks tasks_share(struct ctx *c, int n)
{
    int64_t first, last;
    c->next_task++;
    pool_share(c->w, n, &first, &last);
    return (struct tasks){.next = (int)first, .last = (int)last};
}

struct tasks tasks_start(struct ctx *c, int n) { return few_rows(c) ? tasks_share(c, n) : tasks_claim(c, n, 1); }

struct tasks tasks_start_slices(struct ctx *c, int n, int64_t bytes)
{
    int n_slices = c->e->model.n_slices;
    if (!few_rows(c))
        return tasks_claim(c, n, n_slices);
    c->next_task++;
    return (struct tasks){.spread = pool_spread(c->w, (int64_t)n * n_slices, ceil_div(LEAST_STREAM, bytes))};
}

int tasks_next(struct tasks *t)
{
    if (!t->counter) {
        int64_t first, last;
        if (t->next == t->last && t->spread.w && pool_spread_next(&t->spread, &first, &last)) {
            t->next = (int)first;
            t->last = (int)last;
        }
        return t->next < t->last ? t->next++ : -1;
    }
    for (; t->left > 0; t->left--) {
        int i = atomic_fetch_add_explicit(t->counter + t->slice * TASK_STRIDE, 1, memory_order_relaxed);
        if (i < t->each)
            return t->slice * t->each + i;
        t->slice = t->slice + 1 < t->n_slices ? t->slice + 1 : 0;
    }
    return -1;
}

bool step_last(struct ctx *c)
{
    atomic_int *counter = tasks_claim(c, 0, 1).counter;
    return atomic_fetch_add_explicit(counter, 1, memory_order_acq_rel) == c->w->n - 1;
}

/* ---- rows of activations */

struct cols acts_cols(const struct acts *a, const struct mat *m)
{
    if (m->type->rule == RULE_FLOAT)
        return (struct cols){.base = a->f, .stride = (size_t)a->cols * sizeof(float), .n = a->n};
    return (struct cols){.base = a->q, .stride = (size_t)acts_stride(a->cols) * sizeof(struct act_group), .n = a->n};
}

void step_quantize(const struct ctx *c, const float *x, int64_t cols, struct act_group *out)
{
    if (cols % QUANT_GROUP == 0) /* otherwise no quantized matrix can have this width */
        c->e->ops.quantize(x, cols, out);
}

/* Remembers the first place where something was not a number. */
static void note_bad(struct ctx *c)
{
    int place = c->n_norms;
    int seen = atomic_load_explicit(&c->s->bad_place, memory_order_relaxed);
    while (place < seen && !atomic_compare_exchange_weak_explicit(&c->s->bad_place, &seen, place, memory_order_relaxed,
                                                                  memory_order_relaxed))
        ;
}

/* Norms and quantizes rows row[0..n) of x (row NULL: 0..n); privately or shared, see step_norm. */
struct acts step_norm_rows(struct ctx *c, const float *w, const int32_t *row, int n)
{
    struct step *s = c->s;
    int64_t h = c->e->model.hp.n_embd, first = 0, last = n;
    bool own = n <= FEW_ROWS;
    float *norm = own ? c->mine->norm : s->norm;
    struct act_group *act = own ? c->mine->act : s->act;
    if (!own)
        pool_share(c->w, n, &first, &last);
    for (int64_t i = first; i < last; i++) {
        const float *x = s->x + (row ? row[i] : i) * x_stride(c->e);
        c->e->ops.rmsnorm(norm + i * h, x, w, (int)h, c->e->model.hp.eps);
        if (norm[i * h] != norm[i * h])
            note_bad(c);
        step_quantize(c, norm + i * h, h, act + i * acts_stride(h));
    }
    c->n_norms++;
    if (!own)
        meet(c);
    return (struct acts){.f = norm, .q = act, .n = n, .cols = h};
}

struct acts step_norm(struct ctx *c, const float *w) { return step_norm_rows(c, w, NULL, c->s->n_rows); }

void step_head_done(struct ctx *c, int t, int head, int n_head, int dim)
{
    int64_t cols = (int64_t)n_head * dim, at = (int64_t)head * dim;
    if (dim % QUANT_GROUP == 0)
        c->e->ops.quantize(c->s->mix + t * cols + at, dim, c->s->act + t * acts_stride(cols) + at / QUANT_GROUP);
}

struct acts step_mixed(struct ctx *c, int n_head, int dim)
{
    struct step *s = c->s;
    int64_t cols = (int64_t)n_head * dim, first = 0, last = s->n_rows;
    bool own = few_rows(c) && dim % QUANT_GROUP;
    struct act_group *act = own ? c->mine->act : s->act;
    if (dim % QUANT_GROUP) { /* groups that cross from head to head */
        if (!own)
            pool_share(c->w, s->n_rows, &first, &last);
        for (int64_t t = first; t < last; t++)
            step_quantize(c, s->mix + t * cols, cols, act + t * acts_stride(cols));
        if (!own)
            meet(c);
    }
    return (struct acts){.f = s->mix, .q = act, .n = s->n_rows, .cols = cols};
}

/* ---- products */

/* Rows [r0, r1) of one slice of a product, counted from its start, for columns [first, first + n); the slice may end before r1. */
struct part {
    int slice, first, n;
    int64_t r0, r1;
};

static void add_rows(struct ctx *c, const struct product *p, const struct mat *m, const struct part *k,
                     const struct cols *all)
{
    for (int64_t r = k->r0; r < k->r1; r += TASK_ROWS) {
        int64_t end = r + TASK_ROWS < k->r1 ? r + TASK_ROWS : k->r1;
        for (int t = 0; t < all->n; t += PART_COLS) {
            struct cols some = some_cols(all, t, all->n - t < PART_COLS ? all->n - t : PART_COLS);
            c->e->ops.mul[m->type->id](m, r, end, &some, c->mine->a, TASK_ROWS);
            for (int i = 0; i < some.n; i++)
                c->e->ops.add(p->y + (size_t)(k->first + t + i) * p->ldy + r, c->mine->a + i * TASK_ROWS,
                              (int)(end - r));
        }
    }
}

static void product_part(struct ctx *c, const struct product *p, struct part k, const struct acts *a)
{
    int n_slices = c->e->model.n_slices;
    int64_t start = slice_row(p->m->rows, n_slices, k.slice), end = slice_row(p->m->rows, n_slices, k.slice + 1);
    struct mat m = model_slice(&c->e->model, p->m, k.slice);
    struct cols all = acts_cols(a, &m), x = some_cols(&all, k.first, k.n);
    k.r0 += start;
    k.r1 = k.r1 + start < end ? k.r1 + start : end;
    if (k.r0 >= k.r1)
        return;
    if (p->add)
        add_rows(c, p, &m, &k, &x);
    else
        c->e->ops.mul[m.type->id](&m, k.r0, k.r1, &x, p->y + (size_t)k.first * p->ldy + k.r0, p->ldy);
}

static int64_t slice_tiles(const struct ctx *c, const struct mat *m, int k)
{
    int n = c->e->model.n_slices;
    return ceil_div(slice_row(m->rows, n, k + 1) - slice_row(m->rows, n, k), TILE_ROWS);
}

/* Bytes [from, to) of the products' tiles, in the order of slices; a tile belongs to whom its first byte belongs. */
static void product_bytes(struct ctx *c, const struct product *p, int n, const struct acts *a, int64_t from, int64_t to)
{
    int64_t at = 0;
    for (int task = 0; task < n * c->e->model.n_slices; task++) {
        int k = task / n, i = task % n;
        int64_t tiles = slice_tiles(c, p[i].m, k), bytes = tile_bytes(p[i].m);
        int64_t first = ceil_div(from - at, bytes), last = ceil_div(to - at, bytes);
        last = last < tiles ? last : tiles;
        if (first < last)
            product_part(c, &p[i],
                         (struct part){.slice = k, .n = a->n, .r0 = first * TILE_ROWS, .r1 = last * TILE_ROWS}, a);
        at += tiles * bytes;
    }
}

/* Few rows: every worker streams an equal share of the bytes, one contiguous piece unless others are faster. */
static void share_products(struct ctx *c, const struct product *p, int n, const struct acts *a)
{
    int64_t total = 0;
    for (int i = 0; i < n; i++)
        total += ceil_div(p[i].m->rows, TILE_ROWS) * tile_bytes(p[i].m);
    struct spread s = pool_spread(c->w, ceil_div(total, STREAM_UNIT), LEAST_STREAM / STREAM_UNIT);
    for (int64_t first, last; pool_spread_next(&s, &first, &last);)
        product_bytes(c, p, n, a, first * STREAM_UNIT, last * STREAM_UNIT);
}

void step_products(struct ctx *c, const struct product *p, int n, const struct acts *a)
{
    int n_slices = c->e->model.n_slices, total = 0;
    if (a->n <= FEW_ROWS) {
        c->next_task++;
        share_products(c, p, n, a);
        return;
    }
    int wide = (int)ceil_div(a->n, TASK_COLS);
    for (int i = 0; i < n; i++)
        total += (int)ceil_div(slice_most(p[i].m->rows, n_slices), TASK_ROWS) * wide;
    struct tasks t = tasks_claim(c, total, n_slices);
    for (int task; (task = tasks_next(&t)) >= 0;) {
        int i = 0, at = task % total;
        for (int pieces; at >= (pieces = (int)ceil_div(slice_most(p[i].m->rows, n_slices), TASK_ROWS) * wide); i++)
            at -= pieces;
        struct part k = {.slice = task / total, .r0 = (int64_t)(at / wide) * TASK_ROWS, .first = at % wide * TASK_COLS};
        k.r1 = k.r0 + TASK_ROWS;
        k.n = a->n - k.first < TASK_COLS ? a->n - k.first : TASK_COLS;
        product_part(c, &p[i], k, a);
    }
}

/* ---- the step */

void step_angles(struct ctx *c, int64_t first, int64_t last)
{
    struct step *s = c->s;
    const struct model *m = &c->e->model;
    for (int i = 0; i < s->n_spans && m->n_kv > 0; i++) {
        const struct span *sp = &s->span[i];
        for (int64_t t = sp->row > first ? sp->row : first; t < last && t < sp->row + sp->n; t++)
            c->e->ops.rope_angles(s->cos_sin + t * m->hp.n_rot, m->inv_freq, m->hp.n_rot / 2,
                                  sp->pos + (int)(t - sp->row), m->rope_mscale);
    }
}

static void embed(struct ctx *c)
{
    struct step *s = c->s;
    const struct model *m = &c->e->model;
    int64_t first, last;
    pool_share(c->w, s->n_rows, &first, &last);
    for (int64_t t = first; t < last; t++)
        model_row(m, &m->token_embd, s->ids[t], s->x + t * x_stride(c->e));
    step_angles(c, first, last);
    meet(c);
}

static void head(struct ctx *c)
{
    struct step *s = c->s;
    const struct model *m = &c->e->model;
    if (s->n_out == 0)
        return;
    phase(c, QN_PHASE_HEAD);
    struct acts a = step_norm_rows(c, m->output_norm, s->out_row, s->n_out);
    struct product p = {.m = &m->output, .y = s->logits, .ldy = (size_t)m->hp.n_vocab};
    step_products(c, &p, 1, &a);
    meet(c);
    int64_t first, last, bad = 0;
    pool_share(c->w, (int64_t)s->n_out * m->hp.n_vocab, &first, &last);
    for (int64_t i = first; i < last; i++)
        bad |= s->logits[i] != s->logits[i];
    if (bad)
        note_bad(c);
}

/* A copy of the residual stream for tests; nobody changes x before the next barriers, which this worker takes part in. */
static void trace(struct ctx *c)
{
    size_t h = (size_t)c->e->model.hp.n_embd, n = (size_t)c->s->n_rows;
    for (size_t t = 0; c->s->trace && c->w->id == 0 && t < n; t++)
        memcpy(c->s->trace + ((size_t)c->layer * n + t) * h, c->s->x + t * (size_t)x_stride(c->e), h * sizeof(float));
}

/* What the draft block reads. */
static void keep_last(struct ctx *c)
{
    const struct model *m = &c->e->model;
    int64_t first, last, h = m->hp.n_embd;
    phase(c, QN_PHASE_HEAD);
    pool_share(c->w, c->s->n_rows, &first, &last);
    for (int64_t t = first; t < last; t++)
        c->e->ops.rmsnorm(c->s->last + t * h, c->s->x + t * x_stride(c->e), m->output_norm, (int)h, m->hp.eps);
}

static void run_trunk(struct ctx *c)
{
    const struct model *m = &c->e->model;
    embed(c);
    for (int i = 0; i < m->hp.n_layer; i++) {
        const struct layer *l = &m->layer[i];
        c->layer = i;
        trace(c);
        if (l->mixer == MIXER_ATTN)
            attn_layer(c, l);
        else
            delta_layer(c, l);
        ffn_layer(c, l);
    }
    c->layer = m->hp.n_layer;
    trace(c);
    if (m->drafts)
        keep_last(c);
    head(c);
}

/* Steps of a row for each sequence, or few for each, read the weights; larger ones compute. */
static int n_workers(const struct qn_engine *e)
{
    const struct step *s = &e->step;
    return s->n_rows <= e->n_seq || s->tried ? e->n_threads : e->n_threads_batch;
}

/* What the workers do together. */
struct job {
    struct qn_engine *e;
    void (*part)(struct ctx *c);
};

static void job_worker(struct worker *w, void *arg)
{
    const struct job *j = arg;
    struct ctx c = {.e = j->e, .s = &j->e->step, .w = w, .mine = &j->e->scratch[w->id]};
    uint64_t saved = simd_float_enter();
    c.clock = stats_enter(&c);
    j->part(&c);
    stats_leave(&c);
    simd_float_leave(saved);
}

void step_start(struct qn_engine *e, void (*part)(struct ctx *c))
{
    struct step *s = &e->step;
    struct job job = {.e = e, .part = part};
    for (int i = 0; i < s->n_task; i++)
        atomic_store_explicit(&s->task[(size_t)i * TASK_STRIDE], 0, memory_order_relaxed);
    atomic_store_explicit(&s->bad_place, INT_MAX, memory_order_relaxed);
    pool_run(e->pool, n_workers(e), job_worker, &job);
}

void step_keep(struct qn_engine *e)
{
    if (e->model.n_delta == 0)
        return;
    stats_begin(e);
    step_start(e, delta_keep);
    stats_end_keep(e);
}

int step_run(struct qn_engine *e, struct qn_error *err)
{
    struct step *s = &e->step;
    stats_begin(e);
    step_start(e, run_trunk);
    stats_end(e);
    int bad = atomic_load_explicit(&s->bad_place, memory_order_relaxed), n_layer = e->model.hp.n_layer;
    if (bad == INT_MAX)
        return 0;
    if (bad < 2 * n_layer)
        return fail(err, QN_E_NUMERIC, "%s: logits are not numbers: first seen in layer %d, at the norm of its %s",
                    e->gguf->path, bad / 2, bad % 2 ? "feed-forward part" : "mixer");
    return fail(err, QN_E_NUMERIC, "%s: logits are not numbers: first seen at the %s", e->gguf->path,
                bad == 2 * n_layer ? "last norm" : "output matrix");
}
