/* SPDX-License-Identifier: MIT */
/* Speculation: a step whose tokens may be taken back.  Keys and values are written behind the end of their sequences, where nobody
 * reads them unless they stay.  Recurrent states are left alone: the rule runs on copies of their tiles, and what it was fed, a few KB
 * a token and layer, is kept until it is known how many tokens stay; these then pass through the rule once more.  So no state is
 * ever copied, whatever is guessed. */
#include "run.h"

#include <string.h>

static int check_try(qn_engine *e, const struct qn_span *spans, int n_spans, const float *logits, struct qn_error *err)
{
    int n = 0;
    if (engine_check_spans(e, spans, n_spans, logits, err))
        return err->code;
    for (int i = 0; i < n_spans; i++) {
        if (spans[i].n > e->n_draft + 1)
            return fail(err, QN_E_ARGUMENT, "span %d: %d tokens, the engine was opened for %d guesses", i, spans[i].n,
                        e->n_draft);
        n += spans[i].n;
    }
    if (e->n_draft == 0 || n > e->step.n_try)
        return fail(err, QN_E_ARGUMENT, "%d tokens are tried, the engine was opened for %d", n, e->step.n_try);
    return 0;
}

int qn_try(qn_engine *e, const struct qn_span *spans, int n_spans, float *logits, struct qn_error *err)
{
    struct step *s = &e->step;
    if (check_try(e, spans, n_spans, logits, err))
        return err->code;
    if (n_spans == 0)
        return 0;
    if (budget_promise_spans(spans, n_spans, err))
        return err->code;
    s->n_rows = s->n_spans = s->n_out = 0;
    s->logits = logits;
    s->tried = s->tried_room;
    for (int i = 0; i < n_spans; i++) {
        state_admit(spans[i].seq, spans[i].n);
        engine_add_rows(e, &spans[i], 0, spans[i].n);
    }
    if (step_run(e, err)) {
        s->tried = NULL;
        for (int i = 0; i < n_spans; i++)
            qn_seq_clear(spans[i].seq);
        return err->code;
    }
    return 0;
}

void qn_commit(qn_engine *e, const int *keep)
{
    struct step *s = &e->step;
    if (!s->tried)
        return;
    for (int i = 0; i < s->n_spans; i++) {
        struct span *sp = &s->span[i];
        sp->n = keep[i] < 0 ? 0 : keep[i] < sp->n ? keep[i] : sp->n;
    }
    step_keep(e);
    engine_end_step(e);
    s->tried = NULL;
}
