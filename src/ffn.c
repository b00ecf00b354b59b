/* SPDX-License-Identifier: MIT */
/* Feed-forward: routed experts, a shared expert, or a dense block, which is a shared expert that counts fully.
 *
 * Rows are sorted by expert; gate and up of an expert run in one pass with the activation, tile by tile from one flat list; a down
 * task owns a tile of output rows and walks the active experts in ascending id, the shared one last, adding into the residual
 * stream.  So only the chosen experts' weights are read, and the order of every sum is fixed. */
#include "run.h"

#include <math.h>
#include <string.h>

enum { LEAST_DOWN = 64 /* rows of a down task for many rows of activations */ };

/* Chooses the n_expert_used largest probabilities of a row, ties to the lower id, ids ascending, weights summing to 1. */
static void choose_experts(struct ctx *c, float *p, int32_t *top, float *top_p)
{
    int n = c->e->model.hp.n_expert, k = c->e->model.hp.n_expert_used;
    c->e->ops.softmax(p, n);
    for (int e = 0; e < n; e++) { /* the largest so far, descending */
        if (e >= k && !(p[e] > top_p[k - 1]))
            continue;
        int at = e < k ? e : k - 1;
        for (; at > 0 && p[e] > top_p[at - 1]; at--) {
            top[at] = top[at - 1];
            top_p[at] = top_p[at - 1];
        }
        top[at] = e;
        top_p[at] = p[e];
    }
    for (int i = 1; i < k; i++) { /* by id */
        int32_t id = top[i];
        float value = top_p[i];
        int at = i;
        for (; at > 0 && top[at - 1] > id; at--) {
            top[at] = top[at - 1];
            top_p[at] = top_p[at - 1];
        }
        top[at] = id;
        top_p[at] = value;
    }
    float sum = 0.0f;
    for (int i = 0; i < k; i++)
        sum += top_p[i];
    for (int i = 0; i < k; i++)
        top_p[i] /= sum;
}

/* Rows by expert, in ascending order of expert and row. */
static void sort_rows(const struct ctx *c, struct routing *r, int n_rows)
{
    int n = c->e->model.hp.n_expert, k = c->e->model.hp.n_expert_used;
    memset(r->start, 0, ((size_t)n + 1) * sizeof *r->start);
    for (int i = 0; i < n_rows * k; i++)
        r->start[r->top[i] + 1]++;
    r->n_active = 0;
    for (int e = 0; e < n; e++) {
        if (r->start[e + 1])
            r->active[r->n_active++] = e;
        r->start[e + 1] += r->start[e];
    }
    for (int i = 0; i < n_rows * k; i++) { /* start[e] moves to the end of its list, that is start[e + 1] */
        int at = r->start[r->top[i]]++;
        r->row[at] = i / k;
        r->p[at] = r->top_p[i];
    }
    for (int e = n; e > 0; e--)
        r->start[e] = r->start[e - 1];
    r->start[0] = 0;
}

/* The routing that this worker reads: its own for few rows, else the step's, sorted by who is last to choose. */
static struct routing *route(struct ctx *c)
{
    struct step *s = c->s;
    int n = c->e->model.hp.n_expert, k = c->e->model.hp.n_expert_used;
    int64_t first = 0, last = s->n_rows;
    bool own = few_rows(c);
    struct routing *r = own ? &c->mine->routing : &s->routing;
    if (!own)
        pool_share(c->w, s->n_rows, &first, &last);
    for (int64_t t = first; t < last; t++) {
        float *p = s->router + t * n;
        if (own) /* others read it, too */
            p = memcpy(c->mine->router, p, (size_t)n * sizeof *p);
        choose_experts(c, p, r->top + t * k, r->top_p + t * k);
    }
    if (own || step_last(c))
        sort_rows(c, r, s->n_rows);
    if (!own)
        meet(c);
    return r;
}

/* One pass of gate, up and activation: rows [r0, r1) of a hidden layer for some columns. */
struct gated_up {
    const struct mat *gate, *up;
    const struct acts *in;
    const int32_t *row; /* input row of column i, or NULL: i */
    int first, end; /* columns */
    float *hidden; /* column i at hidden + i * gate->rows */
    struct act_group *hidden_act;
};

/* Columns first .. first + n - 1 of rows of activations, as matrix m wants them. */
static struct cols acts_part(const struct acts *a, const struct mat *m, const int32_t *row, int first, int n)
{
    struct cols x = acts_cols(a, m);
    x.index = row;
    return some_cols(&x, first, n);
}

static void gate_and_up(struct ctx *c, const struct gated_up *g, int64_t r0, int64_t r1)
{
    int64_t width = g->gate->rows, n_rows = r1 - r0;
    const struct simd_ops *ops = &c->e->ops;
    for (int i = g->first; i < g->end; i += PART_COLS) {
        int n = g->end - i < PART_COLS ? g->end - i : PART_COLS;
        struct cols x = acts_part(g->in, g->gate, g->row, i, n), x_up = acts_part(g->in, g->up, g->row, i, n);
        ops->mul[g->gate->type->id](g->gate, r0, r1, &x, c->mine->a, (size_t)n_rows);
        ops->mul[g->up->type->id](g->up, r0, r1, &x_up, c->mine->b, (size_t)n_rows);
        for (int j = 0; j < n; j++) {
            float *h = g->hidden + (int64_t)(i + j) * width + r0;
            ops->silu_mul(h, c->mine->a + j * n_rows, c->mine->b + j * n_rows, (int)n_rows);
            if (width % QUANT_GROUP == 0)
                ops->quantize(h, n_rows, g->hidden_act + (int64_t)(i + j) * acts_stride(width) + r0 / QUANT_GROUP);
        }
    }
}

/* Rows of matrices of one shape, split over the workers.  Few rows of activations: everyone streams an equal share of the bytes, in
 * runs as long as pieces and the scratch allow, which memory serves best; else tiles are claimed one by one. */
struct runs {
    struct tasks tasks; /* of `unit` rows */
    int64_t rows;
    int unit, per_matrix; /* tasks of a matrix's slice */
    int n_slices, per_slice;
    int matrix, slice; /* the run: rows [r0, r1) of this matrix, in this slice */
    int64_t r0, r1;
};

/* Tasks of `few` or `many` rows, 16 of which take so many bytes of weights. */
static struct runs runs_start(struct ctx *c, int n_matrices, int64_t rows, int64_t bytes, int few, int many)
{
    struct runs r = {.rows = rows, .unit = few_rows(c) ? few : many, .n_slices = c->e->model.n_slices};
    r.per_matrix = (int)((slice_most(rows, r.n_slices) + r.unit - 1) / r.unit);
    r.per_slice = n_matrices * r.per_matrix;
    r.tasks = tasks_start_slices(c, r.per_slice, r.unit / TILE_ROWS * bytes);
    return r;
}

static bool runs_next(struct runs *r)
{
    const int most = TASK_ROWS * PART_COLS / FEW_ROWS / r->unit;
    do {
        int t = tasks_next(&r->tasks);
        if (t < 0)
            return false;
        int at = t % r->per_matrix, end = at + 1;
        for (; !r->tasks.counter && end < r->per_matrix && end - at < most && r->tasks.next < r->tasks.last; end++)
            r->tasks.next++;
        r->slice = t / r->per_slice;
        r->matrix = t % r->per_slice / r->per_matrix;
        int64_t first = slice_row(r->rows, r->n_slices, r->slice), past = slice_row(r->rows, r->n_slices, r->slice + 1);
        r->r0 = first + (int64_t)at * r->unit;
        r->r1 = first + (int64_t)end * r->unit < past ? first + (int64_t)end * r->unit : past;
    } while (r->r0 >= r->r1); /* a slice may be a unit shorter than the longest */
    return true;
}

/* Slice k of expert e. */
static struct mat expert(const struct ctx *c, const struct mat_experts *x, int e, int k)
{
    struct mat m = model_slice(&c->e->model, &x->m, k);
    m.data += (size_t)e * x->stride;
    return m;
}

static void shared_up(struct ctx *c, const struct ffn_weights *f, const struct acts *in)
{
    int n = c->s->n_rows, each = few_rows(c) ? n : TASK_COLS;
    struct mat gate, up;
    struct gated_up g = {.gate = &gate, .up = &up, .in = in, .hidden = c->s->shared, .hidden_act = c->s->shared_act};
    struct runs run = runs_start(c, (n + each - 1) / each, f->gate.rows, tile_bytes(&f->gate) + tile_bytes(&f->up),
                                 QUANT_GROUP, TASK_ROWS);
    while (runs_next(&run)) {
        gate = model_slice(&c->e->model, &f->gate, run.slice);
        up = model_slice(&c->e->model, &f->up, run.slice);
        g.first = run.matrix * each;
        g.end = n - g.first < each ? n : g.first + each;
        gate_and_up(c, &g, run.r0, run.r1);
    }
}

static void experts_up(struct ctx *c, const struct ffn_weights *f, const struct acts *in, const struct routing *r)
{
    int64_t width = f->gate_exps.m.rows;
    int64_t bytes = tile_bytes(&f->gate_exps.m) + tile_bytes(&f->up_exps.m);
    struct runs run = runs_start(c, r->n_active, width, bytes, QUANT_GROUP, TASK_ROWS);
    while (runs_next(&run)) {
        int e = r->active[run.matrix], first = r->start[e];
        struct mat gate = expert(c, &f->gate_exps, e, run.slice), up = expert(c, &f->up_exps, e, run.slice);
        struct gated_up g = {.gate = &gate,
                             .up = &up,
                             .in = in,
                             .row = r->row + first,
                             .end = r->start[e + 1] - first,
                             .hidden = c->s->hidden + first * width,
                             .hidden_act = c->s->hidden_act + first * acts_stride(width)};
        gate_and_up(c, &g, run.r0, run.r1);
    }
}

/* x[row[i]][r0..r1) += p[i] * (down * column i); row NULL: i, p NULL: 1. */
static void down_rows(struct ctx *c, const struct mat *down, const struct acts *hidden, const int32_t *row,
                      const float *p, int64_t r0, int64_t r1)
{
    for (int i = 0; i < hidden->n; i += PART_COLS) {
        int n = hidden->n - i < PART_COLS ? hidden->n - i : PART_COLS;
        struct cols x = acts_part(hidden, down, NULL, i, n);
        c->e->ops.mul[down->type->id](down, r0, r1, &x, c->mine->a, (size_t)(r1 - r0));
        for (int j = 0; j < n; j++)
            c->e->ops.axpy(c->s->x + (row ? row[i + j] : i + j) * x_stride(c->e) + r0, p ? p[i + j] : 1.0f,
                           c->mine->a + j * (r1 - r0), (int)(r1 - r0));
    }
}

/* Some output rows: all active experts, then the shared one. */
static void down_run(struct ctx *c, const struct ffn_weights *f, const struct routing *r, const struct runs *run)
{
    struct step *s = c->s;
    int64_t width = f->down_exps.m.cols;
    for (int i = 0; i < r->n_active; i++) {
        int e = r->active[i], first = r->start[e];
        struct mat down = expert(c, &f->down_exps, e, run->slice);
        struct acts hidden = {.f = s->hidden + first * width,
                              .q = s->hidden_act + first * acts_stride(width),
                              .n = r->start[e + 1] - first,
                              .cols = width};
        down_rows(c, &down, &hidden, r->row + first, r->p + first, run->r0, run->r1);
    }
    if (f->down.rows) {
        struct acts hidden = {.f = s->shared, .q = s->shared_act, .n = s->n_rows, .cols = f->down.cols};
        const struct mat down = model_slice(&c->e->model, &f->down, run->slice);
        down_rows(c, &down, &hidden, NULL, f->shared_gate.rows ? s->shared_p : NULL, run->r0, run->r1);
    }
}

static void down(struct ctx *c, const struct ffn_weights *f, const struct routing *r)
{
    int64_t rows = c->e->model.hp.n_embd, many = rows / (2 * c->w->n) / TILE_ROWS * TILE_ROWS; /* two for everyone */
    many = many < LEAST_DOWN ? LEAST_DOWN : many < TASK_ROWS ? many : TASK_ROWS;
    int64_t bytes = r->n_active * tile_bytes(&f->down_exps.m) + (f->down.rows ? tile_bytes(&f->down) : 0);
    struct runs run = runs_start(c, 1, rows, bytes, TILE_ROWS, (int)many);
    while (runs_next(&run))
        down_run(c, f, r, &run);
}

/* Without experts the order of sums is no matter. */
static void dense_down(struct ctx *c, const struct ffn_weights *f)
{
    struct step *s = c->s;
    struct acts hidden = {.f = s->shared, .q = s->shared_act, .n = s->n_rows, .cols = f->down.cols};
    struct product p = {.m = &f->down, .y = s->x, .ldy = (size_t)x_stride(c->e), .add = true};
    step_products(c, &p, 1, &hidden);
}

void ffn_layer(struct ctx *c, const struct layer *l)
{
    struct step *s = c->s;
    const struct ffn_weights *f = &l->ffn;
    phase(c, f->router.rows ? QN_PHASE_ROUTER : QN_PHASE_EXPERTS);
    struct acts in = step_norm(c, l->ffn_norm);
    if (f->router.rows) {
        struct product p[] = {{.m = &f->router, .y = s->router, .ldy = (size_t)f->router.rows},
                              {.m = &f->shared_gate, .y = s->shared_gate, .ldy = 1}};
        step_products(c, p, f->shared_gate.rows ? 2 : 1, &in);
    }
    phase(c, QN_PHASE_EXPERTS);
    if (f->gate.rows)
        shared_up(c, f, &in);
    meet(c);
    struct routing *r = NULL;
    if (f->router.rows) {
        phase(c, QN_PHASE_ROUTER);
        r = route(c);
        phase(c, QN_PHASE_EXPERTS);
        if (c->clock)
            stats_experts(c->clock, f, r->n_active);
        experts_up(c, f, &in, r);
        if (f->shared_gate.rows && c->w->id == 0)
            c->e->ops.sigmoid(s->shared_p, s->shared_gate, s->n_rows);
        meet(c);
    }
    if (r)
        down(c, f, r);
    else
        dense_down(c, f);
    meet(c);
}
