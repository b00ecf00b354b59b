/* SPDX-License-Identifier: MIT */
/* The model's own draft block (multi-token prediction).  At position p it reads the trunk's last state there, normed, and the token at
 * p + 1, keeps keys and values like any attention layer, and says what may come at p + 2; fed with its own last state it goes on
 * from there.
 *
 *     u = eh_proj [ rmsnorm(embedding(token p + 1)) ; rmsnorm(state p) ]
 *     logits p + 2 = output rmsnorm(block(u))
 *
 * It follows the trunk lazily: the states that it has not seen wait in the sequence's slot, so that a token that is written costs it
 * nothing, until guesses are wanted or there are too many, or they would lie in two pages (what is behind the block's end in a page
 * is nobody's, so it is cleared where a page is saved, which only a last page needs).
 *
 * Its keys and values at a sequence's last position depend on the token behind, so sequences that share a page whose last position is
 * their last may read each other's there: a guess may be worse for it, but nothing is computed from guesses. */
#include "run.h"

#include <string.h>

/* Rows of pairs, [2 n_embd] each, and what goes along with them. */
static struct acts make_pairs(struct ctx *c)
{
    struct step *s = c->s;
    const struct model *m = &c->e->model;
    const struct nextn_block *b = m->nextn;
    int64_t h = m->hp.n_embd, first, last;
    pool_share(c->w, s->n_rows, &first, &last);
    for (int64_t t = first; t < last; t++) {
        float *pair = s->pair + t * 2 * h;
        model_row(m, &m->token_embd, s->ids[t], pair);
        c->e->ops.rmsnorm(pair, pair, b->enorm, (int)h, m->hp.eps);
        c->e->ops.rmsnorm(pair + h, s->draft_in + t * h, b->hnorm, (int)h, m->hp.eps);
        step_quantize(c, pair, 2 * h, s->act + t * acts_stride(2 * h));
    }
    step_angles(c, first, last);
    meet(c);
    return (struct acts){.f = s->pair, .q = s->act, .n = s->n_rows, .cols = 2 * h};
}

/* Logits of the last row, which is kept for the next guess. */
static void draft_head(struct ctx *c)
{
    struct step *s = c->s;
    const struct model *m = &c->e->model;
    phase(c, QN_PHASE_HEAD);
    struct acts a = step_norm_rows(c, m->nextn->head_norm, s->out_row, 1);
    struct product p = {.m = &m->output, .y = s->logits, .ldy = (size_t)m->hp.n_vocab};
    step_products(c, &p, 1, &a);
    if (c->w->id == 0)
        memcpy(s->draft_out, a.f, (size_t)m->hp.n_embd * sizeof *a.f);
}

static void run_block(struct ctx *c)
{
    const struct nextn_block *b = c->e->model.nextn;
    phase(c, QN_PHASE_PROJECTIONS);
    struct acts pairs = make_pairs(c);
    struct product p = {.m = &b->eh_proj, .y = c->s->x, .ldy = (size_t)x_stride(c->e)};
    step_products(c, &p, 1, &pairs);
    meet(c);
    attn_layer(c, &b->layer);
    ffn_layer(c, &b->layer);
    if (c->s->n_out)
        draft_head(c);
}

/* The block over n positions of s from pos on, with the states there and the tokens behind them.  logits: NULL, or [n_vocab] of the
 * last one.  The spans of the step that was made last are there again afterwards. */
static void pass(qn_seq *s, int pos, int n, const float *states, const int32_t *ids, float *logits)
{
    struct qn_engine *e = s->engine;
    struct step *st = &e->step;
    struct span span = st->span[0];
    int n_rows = st->n_rows, n_spans = st->n_spans;
    for (int at = 0, rows; at < n; at += rows) {
        rows = n - at < e->n_ubatch ? n - at : e->n_ubatch;
        st->n_rows = rows;
        st->n_spans = 1;
        st->span[0] = (struct span){.seq = s, .row = 0, .n = rows, .pos = pos + at};
        st->n_out = logits && at + rows == n;
        st->out_row[0] = rows - 1;
        st->logits = logits;
        st->draft_in = states + (size_t)at * (size_t)e->model.hp.n_embd;
        memcpy(st->ids, ids + at, (size_t)rows * sizeof *ids);
        stats_begin(e);
        step_start(e, run_block);
        stats_end_draft(e);
    }
    st->span[0] = span;
    st->n_rows = n_rows;
    st->n_spans = n_spans;
}

/* The states that wait, with the tokens behind them. */
static void catch_up(qn_seq *s, int n_known, float *logits)
{
    int from = n_known - s->behind->n;
    pass(s, from, s->behind->n, s->behind->h, s->ids + from + 1, logits);
    memset(s->behind->h, 0, (size_t)s->behind->n * (size_t)s->engine->model.hp.n_embd * sizeof(float));
    s->behind->n = 0;
}

void draft_follow(struct qn_engine *e, const struct span *sp)
{
    const struct span done = *sp; /* the block's passes use the step's spans */
    struct behind *b = done.seq->behind;
    size_t h = (size_t)e->model.hp.n_embd;
    const float *states = e->step.last + (size_t)done.row * h;
    int n = done.n, first = done.pos - b->n, last = done.pos + n - 1;
    if (n == 0)
        return;
    if (b->n + n > BEHIND_ROWS || first / ATTN_BLOCK != last / ATTN_BLOCK) {
        catch_up(done.seq, done.pos, NULL);
        pass(done.seq, done.pos, n - 1, states, done.seq->ids + done.pos + 1, NULL);
        states += (size_t)(n - 1) * h;
        n = 1;
    }
    memcpy(b->h + (size_t)b->n * h, states, (size_t)n * h * sizeof *states);
    b->n += n;
}

static int32_t largest(const float *x, int n)
{
    int best = 0;
    for (int i = 1; i < n; i++)
        best = x[i] > x[best] ? i : best;
    return best;
}

static int check_draft(const qn_seq *s, int32_t next, int n, struct qn_error *err)
{
    const struct qn_engine *e = s->engine;
    if (!e->model.drafts)
        return fail(err, QN_E_ARGUMENT, "the engine was opened without a draft block");
    if (e->step.tried)
        return fail(err, QN_E_ARGUMENT, "qn_commit() has to say first what stays of the last qn_try()");
    if (next < 0 || next >= e->model.hp.n_vocab)
        return fail(err, QN_E_ARGUMENT, "token id %d is not in the vocabulary of %d", next, e->model.hp.n_vocab);
    if (n < 0)
        return fail(err, QN_E_ARGUMENT, "%d tokens are to be guessed", n);
    return 0;
}

int qn_draft(qn_seq *s, int32_t next, int n, int32_t *ids, float *logits, struct qn_error *err)
{
    struct qn_engine *e = s->engine;
    size_t n_vocab = (size_t)e->model.hp.n_vocab;
    if (check_draft(s, next, n, err))
        return err->code;
    n = n < e->n_ctx - s->n ? n : e->n_ctx - s->n;
    if (n < 1 || s->n == 0 || s->behind->n == 0)
        return 0;
    struct qn_span room = {.seq = s, .n = n};
    if (budget_promise_spans(&room, 1, err))
        return err->code;
    state_admit(s, n);
    s->ids[s->n] = next;
    for (int i = 0; i < n; i++) {
        float *row = logits ? logits + (size_t)i * n_vocab : e->step.draft_logits;
        if (i == 0)
            catch_up(s, s->n, row);
        else
            pass(s, s->n - 1 + i, 1, e->step.draft_out, &ids[i - 1], row);
        ids[i] = largest(row, (int)n_vocab);
    }
    state_retract(s);
    return n;
}
