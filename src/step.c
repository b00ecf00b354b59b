/* SPDX-License-Identifier: MIT */
/* The forward step: embed, walk the layers, final norm, head.  The parts are in attn.c, delta.c and ffn.c; what they share -
 * normed and quantized rows, products split over workers, task lists - is here. */
#include "run.h"

#include <limits.h>
#include <string.h>

enum { TASK_STRIDE = CACHE_LINE / sizeof(atomic_int), TASKS_PER_LAYER = 10, TASKS_BESIDE = 4 };

/* ---- scratch: one arena, walked twice, first to size it, then to hand it out */

static void *take(struct qn_engine *e, size_t n, size_t each)
{
    size_t at = e->arena_used;
    e->arena_used += (n * each + CACHE_LINE - 1) & ~(size_t)(CACHE_LINE - 1);
    return e->arena ? e->arena + at : NULL;
}

static size_t max2(size_t a, size_t b) { return a > b ? a : b; }

/* Widest row that is normed or mixed and then quantized. */
static size_t widest(const struct hparams *hp)
{
    size_t w = max2((size_t)hp->n_embd, (size_t)hp->n_head * (size_t)hp->head_dim);
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
    size_t wide = widest(hp), group = (size_t)(hp->n_head / hp->n_head_kv) * ATTN_TOKENS, dim = (size_t)hp->ssm_dim;
    s->clock = take(e, 1, sizeof *s->clock);
    s->norm = take(e, FEW_ROWS * wide, sizeof(float));
    s->act = take(e, FEW_ROWS * (wide / QUANT_GROUP + 1), sizeof(struct act_group));
    s->a = take(e, PART_COLS * TASK_ROWS, sizeof(float));
    s->b = take(e, PART_COLS * TASK_ROWS, sizeof(float));
    s->q = take(e, DELTA_CHUNK * dim, sizeof(float));
    s->k = take(e, DELTA_CHUNK * dim, sizeof(float));
    s->v = take(e, DELTA_CHUNK * dim, sizeof(float));
    s->gate = take(e, (size_t)DELTA_CHUNK * 8, sizeof(float));
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
    size_t t = (size_t)e->n_ubatch, wide = widest(hp), k = (size_t)hp->n_expert_used, n_exp = (size_t)hp->n_expert;
    size_t hidden = (size_t)hp->n_ff_exp, shared = (size_t)(n_exp ? hp->n_ff_shexp : hp->n_ff);
    e->arena_used = 0;
    s->span = take(e, t, sizeof *s->span);
    s->ids = take(e, t, sizeof *s->ids);
    s->out_row = take(e, t, sizeof *s->out_row);
    s->x = take(e, t * (size_t)x_stride(e), sizeof(float));
    s->norm = take(e, t * (size_t)hp->n_embd, sizeof(float));
    s->act = take(e, t * (wide / QUANT_GROUP + 1), sizeof(struct act_group));
    s->proj = take(e, t * proj_cols(hp), sizeof(float));
    s->mix = take(e, t * wide, sizeof(float));
    s->cos_sin = take(e, t * (size_t)hp->n_rot, sizeof(float));
    s->partial = take(e, attn_partial_floats(e), sizeof(float));
    s->router = take(e, t * n_exp, sizeof(float));
    take_routing(e, &s->routing, t);
    s->hidden = take(e, t * k * hidden, sizeof(float));
    s->hidden_act = take(e, t * k * (hidden / QUANT_GROUP + 1), sizeof(struct act_group));
    s->shared = take(e, t * shared, sizeof(float));
    s->shared_act = take(e, t * (shared / QUANT_GROUP + 1), sizeof(struct act_group));
    s->shared_gate = take(e, t, sizeof(float));
    s->shared_p = take(e, t, sizeof(float));
    s->n_task = hp->n_layer * TASKS_PER_LAYER + TASKS_BESIDE;
    s->task = take(e, (size_t)s->n_task * TASK_STRIDE, sizeof(atomic_int));
    int n_workers = e->n_threads > e->n_threads_batch ? e->n_threads : e->n_threads_batch;
    e->scratch = take(e, (size_t)n_workers, sizeof *e->scratch);
    struct worker_scratch unplaced;
    for (int i = 0; i < n_workers; i++)
        take_worker(e, e->arena ? &e->scratch[i] : &unplaced);
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

struct tasks tasks_start(struct ctx *c, int n)
{
    int index = c->next_task++;
    if (c->s->n_rows > FEW_ROWS)
        return (struct tasks){.counter = &c->s->task[(size_t)index * TASK_STRIDE], .last = n};
    int64_t first, last;
    pool_share(c->w, n, &first, &last);
    return (struct tasks){.next = (int)first, .last = (int)last};
}

int tasks_next(struct tasks *t)
{
    if (t->counter)
        t->next = atomic_fetch_add_explicit(t->counter, 1, memory_order_relaxed);
    return t->next < t->last ? t->next++ : -1;
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
static struct acts norm_rows(struct ctx *c, const float *w, const int32_t *row, int n)
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

struct acts step_norm(struct ctx *c, const float *w) { return norm_rows(c, w, NULL, c->s->n_rows); }

struct acts step_mixed(struct ctx *c, int64_t cols)
{
    struct step *s = c->s;
    int64_t first = 0, last = s->n_rows;
    struct act_group *act = few_rows(c) ? c->mine->act : s->act;
    if (!few_rows(c))
        pool_share(c->w, s->n_rows, &first, &last);
    for (int64_t t = first; t < last; t++)
        step_quantize(c, s->mix + t * cols, cols, act + t * acts_stride(cols));
    if (!few_rows(c))
        meet(c);
    return (struct acts){.f = s->mix, .q = act, .n = s->n_rows, .cols = cols};
}

/* ---- products */

static void add_rows(struct ctx *c, const struct product *p, int64_t r0, int64_t r1, const struct cols *all, int first)
{
    for (int64_t r = r0; r < r1; r += TASK_ROWS) {
        int64_t end = r + TASK_ROWS < r1 ? r + TASK_ROWS : r1;
        for (int t = 0; t < all->n; t += PART_COLS) {
            struct cols some = some_cols(all, t, all->n - t < PART_COLS ? all->n - t : PART_COLS);
            c->e->ops.mul[p->m->type->id](p->m, r, end, &some, c->mine->a, TASK_ROWS);
            for (int i = 0; i < some.n; i++)
                c->e->ops.add(p->y + (size_t)(first + t + i) * p->ldy + r, c->mine->a + i * TASK_ROWS, (int)(end - r));
        }
    }
}

/* Rows [r0, r1) of a product for n columns. */
static void product_part(struct ctx *c, const struct product *p, int64_t r0, int64_t r1, const struct acts *a,
                         int first, int n)
{
    struct cols all = acts_cols(a, p->m), x = some_cols(&all, first, n);
    if (r1 > p->m->rows)
        r1 = p->m->rows;
    if (p->add)
        add_rows(c, p, r0, r1, &x, first);
    else
        c->e->ops.mul[p->m->type->id](p->m, r0, r1, &x, p->y + (size_t)first * p->ldy + r0, p->ldy);
}

static int64_t tiles_of(const struct mat *m) { return (m->rows + TILE_ROWS - 1) / TILE_ROWS; }

static int64_t tile_bytes(const struct mat *m)
{
    return (int64_t)m->stride * (m->type->layout == LAYOUT_ROWS ? TILE_ROWS : 1);
}

/* Few rows: every worker streams an equal share of the bytes, one contiguous piece. */
static void share_products(struct ctx *c, const struct product *p, int n, const struct acts *a)
{
    int64_t total = 0, from, to, at = 0;
    for (int i = 0; i < n; i++)
        total += tiles_of(p[i].m) * tile_bytes(p[i].m);
    pool_share(c->w, total, &from, &to);
    for (int i = 0; i < n; i++) {
        int64_t tiles = tiles_of(p[i].m),
                bytes = tile_bytes(p[i].m); /* a tile belongs to whom its first byte belongs */
        int64_t first = ceil_div(from - at, bytes), last = ceil_div(to - at, bytes);
        last = last < tiles ? last : tiles;
        if (first < last)
            product_part(c, &p[i], first * TILE_ROWS, last * TILE_ROWS, a, 0, a->n);
        at += tiles * bytes;
    }
}

void step_products(struct ctx *c, const struct product *p, int n, const struct acts *a)
{
    int index = c->next_task++;
    if (a->n <= FEW_ROWS) {
        share_products(c, p, n, a);
        return;
    }
    int total = 0, wide = (int)ceil_div(a->n, TASK_COLS);
    for (int i = 0; i < n; i++)
        total += (int)ceil_div(p[i].m->rows, TASK_ROWS) * wide;
    struct tasks t = {.counter = &c->s->task[(size_t)index * TASK_STRIDE], .last = total};
    for (int task; (task = tasks_next(&t)) >= 0;) {
        int i = 0, at = task;
        for (int pieces; at >= (pieces = (int)ceil_div(p[i].m->rows, TASK_ROWS) * wide); i++)
            at -= pieces;
        int64_t r = (int64_t)(at / wide) * TASK_ROWS;
        int first = at % wide * TASK_COLS;
        product_part(c, &p[i], r, r + TASK_ROWS, a, first, a->n - first < TASK_COLS ? a->n - first : TASK_COLS);
    }
}

/* ---- the step */

static void embed(struct ctx *c)
{
    struct step *s = c->s;
    const struct model *m = &c->e->model;
    int64_t first, last;
    pool_share(c->w, s->n_rows, &first, &last);
    for (int64_t t = first; t < last; t++)
        mat_row(&m->token_embd, s->ids[t], s->x + t * x_stride(c->e));
    for (int i = 0; i < s->n_spans && m->n_attn > 0; i++) {
        const struct span *sp = &s->span[i];
        for (int64_t t = sp->row > first ? sp->row : first; t < last && t < sp->row + sp->n; t++)
            c->e->ops.rope_angles(s->cos_sin + t * m->hp.n_rot, m->inv_freq, m->hp.n_rot / 2,
                                  sp->pos + (int)(t - sp->row), m->rope_mscale);
    }
    meet(c);
}

static void head(struct ctx *c)
{
    struct step *s = c->s;
    const struct model *m = &c->e->model;
    if (s->n_out == 0)
        return;
    phase(c, QN_PHASE_HEAD);
    struct acts a = norm_rows(c, m->output_norm, s->out_row, s->n_out);
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

static void step_worker(struct worker *w, void *arg)
{
    struct qn_engine *e = arg;
    struct ctx c = {.e = e, .s = &e->step, .w = w, .mine = &e->scratch[w->id]};
    uint64_t saved = simd_float_enter();
    c.clock = stats_enter(&c);
    embed(&c);
    for (int i = 0; i < e->model.hp.n_layer; i++) {
        const struct layer *l = &e->model.layer[i];
        c.layer = i;
        trace(&c);
        if (l->mixer == MIXER_ATTN)
            attn_layer(&c, l);
        else
            delta_layer(&c, l);
        ffn_layer(&c, l);
    }
    c.layer = e->model.hp.n_layer;
    trace(&c);
    head(&c);
    stats_leave(&c);
    simd_float_leave(saved);
}

int step_run(struct qn_engine *e, struct qn_error *err)
{
    struct step *s = &e->step;
    for (int i = 0; i < s->n_task; i++)
        atomic_store_explicit(&s->task[(size_t)i * TASK_STRIDE], 0, memory_order_relaxed);
    atomic_store_explicit(&s->bad_place, INT_MAX, memory_order_relaxed);
    stats_begin(e);
    pool_run(e->pool, s->n_rows <= e->n_seq ? e->n_threads : e->n_threads_batch, step_worker, e);
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
