/* SPDX-License-Identifier: MIT */
/* Statistics of steps: which phase the workers' time goes to, how often they meet, and how much has to be moved and multiplied.
 *
 * A worker charges the time since its last reading of the clock to the phase it is in; its clock starts when the step starts and what
 * is left when the step ends counts as waiting, so the phases of every worker add up to the wall time.  Bytes and operations follow
 * from the shapes of the step and the experts that were chosen; nothing is counted inside a product. */
#include "run.h"

#include <string.h>
#include <time.h>

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

const char *qn_phase_name(enum qn_phase p)
{
    static const char *const names[QN_PHASES] = {
        [QN_PHASE_PROJECTIONS] = "projections",
        [QN_PHASE_DELTA] = "delta-net",
        [QN_PHASE_ATTENTION] = "attention",
        [QN_PHASE_ROUTER] = "router",
        [QN_PHASE_EXPERTS] = "experts",
        [QN_PHASE_HEAD] = "head",
        [QN_PHASE_OTHER] = "other",
        [QN_PHASE_WAITING] = "waiting",
    };
    return (unsigned)p < QN_PHASES ? names[p] : "";
}

/* ---- what a step has to move and multiply */

static double mat_bytes(const struct mat *m)
{
    int64_t units = m->type->layout == LAYOUT_ROWS ? m->rows : (m->rows + TILE_ROWS - 1) / TILE_ROWS;
    return (double)m->stride * (double)units;
}

static void add_ops(struct qn_stats *s, enum qn_phase p, const struct mat *m, int64_t n)
{
    *(m->type->rule == RULE_FLOAT ? &s->float_ops[p] : &s->int_ops[p]) +=
        2.0 * (double)m->rows * (double)m->cols * (double)n;
}

/* One matrix, read once and multiplied with n rows. */
static void add_mat(struct qn_stats *s, enum qn_phase p, const struct mat *m, int64_t n)
{
    if (m->rows == 0 || n == 0)
        return;
    s->bytes[p] += mat_bytes(m);
    add_ops(s, p, m, n);
}

static void add_mixer(struct qn_stats *s, const struct layer *l, int64_t n)
{
    const struct attn_weights *a = &l->attn;
    const struct delta_weights *d = &l->delta;
    const struct mat *attn[] = {&a->q, &a->k, &a->v, &a->out, NULL};
    const struct mat *delta[] = {&d->qkv, &d->z, &d->beta, &d->alpha, &d->out, NULL};
    for (const struct mat **m = l->mixer == MIXER_ATTN ? attn : delta; *m; m++)
        add_mat(s, QN_PHASE_PROJECTIONS, *m, n);
}

static void add_ffn(struct qn_stats *s, const struct ffn_weights *f, int64_t n, int n_used)
{
    add_mat(s, QN_PHASE_ROUTER, &f->router, n);
    add_mat(s, QN_PHASE_ROUTER, &f->shared_gate, n);
    const struct mat *dense[] = {&f->gate, &f->up, &f->down},
                     *experts[] = {&f->gate_exps.m, &f->up_exps.m, &f->down_exps.m};
    for (int i = 0; i < 3; i++) {
        add_mat(s, QN_PHASE_EXPERTS, dense[i], n);
        if (f->router.rows) /* the bytes: stats_experts() */
            add_ops(s, QN_PHASE_EXPERTS, experts[i], n * n_used);
    }
}

/* States of the step's sequences. */
static void add_states(struct qn_stats *s, const struct qn_engine *e)
{
    enum { RULE_OPS = 8 }; /* for each element of a state: fma of k and of q, decay, fma of the update */
    const struct hparams *hp = &e->model.hp;
    double dim = hp->ssm_dim, state = e->model.n_delta * (double)hp->n_v_head * dim * dim;
    for (int i = 0; i < e->step.n_spans; i++) {
        s->bytes[QN_PHASE_DELTA] += (e->step.tried ? 1.0 : 2.0) * (double)(e->state_bytes + e->conv_bytes);
        s->float_ops[QN_PHASE_DELTA] += RULE_OPS * state * e->step.span[i].n;
    }
}

/* Tokens that were tried and stay: the rule once more. */
static void add_kept(struct qn_stats *s, const struct qn_engine *e)
{
    for (int i = 0; i < e->step.n_spans; i++)
        s->bytes[QN_PHASE_DELTA] += 2.0 * (double)(e->state_bytes + e->conv_bytes);
}

/* Keys and values of so many layers.  A row attends to all positions up to its own. */
static void add_attention(struct qn_stats *s, const struct qn_engine *e, int n_layers)
{
    const struct hparams *hp = &e->model.hp;
    double position = (double)hp->n_head_kv / ATTN_BLOCK *
                      (double)(kv_key_bytes(e->k_kind, hp->head_dim) + kv_value_bytes(e->v_kind, hp->head_dim));
    for (int i = 0; i < e->step.n_spans; i++) {
        double pos = e->step.span[i].pos, n = e->step.span[i].n, seen = n * pos + n * (n + 1) / 2;
        s->bytes[QN_PHASE_ATTENTION] += n_layers * position * (pos + 2 * n);
        s->float_ops[QN_PHASE_ATTENTION] += n_layers * 4.0 * (double)hp->n_head * (double)hp->head_dim * seen;
    }
}

static void add_draft(struct qn_stats *s, const struct qn_engine *e)
{
    const struct nextn_block *b = e->model.nextn;
    add_mat(s, QN_PHASE_PROJECTIONS, &b->eh_proj, e->step.n_rows);
    add_mixer(s, &b->layer, e->step.n_rows);
    add_ffn(s, &b->layer.ffn, e->step.n_rows, e->model.hp.n_expert_used);
    add_mat(s, QN_PHASE_HEAD, &e->model.output, e->step.n_out);
    add_attention(s, e, 1);
}

static void add_work(struct qn_stats *s, const struct qn_engine *e)
{
    const struct model *m = &e->model;
    int64_t n = e->step.n_rows;
    for (int i = 0; i < m->hp.n_layer; i++) {
        add_mixer(s, &m->layer[i], n);
        add_ffn(s, &m->layer[i].ffn, n, m->hp.n_expert_used);
    }
    add_mat(s, QN_PHASE_HEAD, &m->output, e->step.n_out);
    s->bytes[QN_PHASE_OTHER] += mat_bytes(&m->token_embd) / (double)m->token_embd.rows * (double)n;
    add_states(s, e);
    add_attention(s, e, e->model.n_attn);
}

/* ---- the workers' clocks */

static void charge(struct phase_clock *k, enum qn_phase p)
{
    int64_t now = now_ns();
    k->ns[p] += now - k->mark;
    k->mark = now;
}

void stats_turn(struct phase_clock *k, enum qn_phase p)
{
    charge(k, k->now);
    k->now = p;
}

void stats_meet(struct ctx *c)
{
    c->clock->barriers++;
    charge(c->clock, c->clock->now);
    pool_barrier(c->w);
    charge(c->clock, QN_PHASE_WAITING);
}

void stats_experts(struct phase_clock *k, const struct ffn_weights *f, int n_active)
{
    k->expert_layers++;
    k->experts += n_active;
    k->expert_bytes += (mat_bytes(&f->gate_exps.m) + mat_bytes(&f->up_exps.m) + mat_bytes(&f->down_exps.m)) * n_active;
}

struct phase_clock *stats_enter(struct ctx *c)
{
    struct phase_clock *k = c->mine->clock;
    if (!c->e->stats_on)
        return NULL;
    k->n_workers = c->w->n;
    return k;
}

void stats_leave(struct ctx *c)
{
    if (c->clock)
        charge(c->clock, c->clock->now);
}

/* ---- around a step */

static int most_workers(const struct qn_engine *e)
{
    return e->n_threads > e->n_threads_batch ? e->n_threads : e->n_threads_batch;
}

void stats_begin(struct qn_engine *e)
{
    if (!e->stats_on)
        return;
    int64_t now = now_ns();
    for (int i = 0; i < most_workers(e); i++)
        *e->scratch[i].clock = (struct phase_clock){.mark = now, .now = QN_PHASE_OTHER};
}

static void add_clocks(struct qn_engine *e)
{
    struct qn_stats *s = &e->stats;
    const struct phase_clock *first = e->scratch[0].clock;
    int64_t end = now_ns(), total = 0, least = INT64_MAX, most = 0;
    int n = first->n_workers;
    for (int i = 0; i < n; i++) {
        struct phase_clock *k = e->scratch[i].clock;
        k->ns[QN_PHASE_WAITING] += end - k->mark;
        int64_t wait = k->ns[QN_PHASE_WAITING];
        least = wait < least ? wait : least;
        most = wait > most ? wait : most;
        for (int p = 0; p < QN_PHASES; p++) {
            s->phase_s[p] += (double)k->ns[p] * 1e-9 / n;
            total += k->ns[p];
        }
    }
    s->seconds += (double)total * 1e-9 / n;
    s->wait_least_s += (double)least * 1e-9;
    s->wait_most_s += (double)most * 1e-9;
    s->barriers += first->barriers;
    s->expert_layers += first->expert_layers;
    s->experts += first->experts;
    s->bytes[QN_PHASE_EXPERTS] += first->expert_bytes;
}

void stats_end(struct qn_engine *e)
{
    if (!e->stats_on)
        return;
    add_clocks(e);
    e->stats.steps++;
    e->stats.rows += e->step.n_rows;
    add_work(&e->stats, e);
}

void stats_end_draft(struct qn_engine *e)
{
    if (!e->stats_on)
        return;
    add_clocks(e);
    add_draft(&e->stats, e);
}

void stats_end_keep(struct qn_engine *e)
{
    if (!e->stats_on)
        return;
    add_clocks(e);
    add_kept(&e->stats, e);
}

void qn_stats_start(qn_engine *e)
{
    memset(&e->stats, 0, sizeof e->stats);
    e->stats_on = !e->vocab_only;
}

void qn_stats_stop(qn_engine *e) { e->stats_on = false; }

void qn_stats(const qn_engine *e, struct qn_stats *out) { *out = e->stats; }
