/* SPDX-License-Identifier: MIT */
/* Writing with guesses.  How many are worth it follows from what steps with so many guesses took and how often guesses are right:
 *
 *     tokens a second of k guesses = (1 + r + r^2 + .. + r^k) / cost(k)
 *
 * The best k may be none; then guesses are tried again every PROBE steps.  Where there are guesses all the time, a step without is made
 * as often, so that what they are compared with is not what the first steps took. */
#include "write.h"
#include "term.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PROBE = 48, SEARCH_LEAST = 2, SEARCH_MOST = 12, PLAIN_FIRST = 2 /* steps without guesses, to compare with */ };
static const double weight = 0.15; /* of the latest in a mean of the last ones */

void write_open(struct writer *w, qn_engine *e, qn_seq *seq, enum drafter drafter, int most)
{
    struct qn_model_info info;
    qn_model_info(e, &info);
    *w = (struct writer){.e = e,
                         .seq = seq,
                         .guesser.drafter = drafter,
                         .most = drafter == DRAFT_OFF ? 0 : most,
                         .n_vocab = info.n_vocab};
    w->rows = xmalloc((size_t)(w->most + 1) * (size_t)info.n_vocab * sizeof *w->rows);
    write_figures_begin(&w->figures);
}

/* ---- guessing */

int write_search(const int32_t *ids, int n, int most, int32_t *out)
{
    int best = SEARCH_LEAST - 1, at = 0;
    for (int i = n - 1; i > best; i--) { /* a candidate ends in front of i */
        int len = 0;
        while (len < SEARCH_MOST && len < i && ids[i - 1 - len] == ids[n - 1 - len])
            len++;
        if (len > best) {
            best = len;
            at = i;
            if (len == SEARCH_MOST)
                break;
        }
    }
    int found = at ? n - at : 0;
    found = found < most ? found : most;
    memcpy(out, ids + at, (size_t)found * sizeof *out);
    return found;
}

int write_guess(struct guesser *g, qn_seq *s, int32_t next, int most, int32_t *out, struct qn_error *err)
{
    int n = qn_seq_len(s);
    if (g->drafter == DRAFT_OFF || most <= 0)
        return 0;
    if (g->drafter == DRAFT_MTP)
        return qn_draft(s, next, most, out, NULL, err);
    if (n + 1 > g->cap) {
        g->cap = n + 1024;
        g->ids = xrealloc(g->ids, (size_t)g->cap * sizeof *g->ids);
    }
    memcpy(g->ids, qn_seq_ids(s), (size_t)n * sizeof *g->ids);
    g->ids[n] = next;
    return write_search(g->ids, n + 1, most, out);
}

/* ---- how many */

void write_figures_begin(struct write_figures *f) { *f = (struct write_figures){.right = 0.5}; }

static double expected(const struct write_figures *f, int k)
{
    double tokens = 1, right = 1, cost = f->cost[k];
    for (int i = 0; i < k; i++)
        tokens += right *= f->right;
    if (cost == 0) { /* not tried yet: as if each guess cost as much more as in the nearest smaller number */
        int known = k;
        while (known > 0 && f->cost[known] == 0)
            known--;
        double each = known > 0 ? (f->cost[known] - f->cost[0]) / known : f->cost[0] / 4;
        cost = f->cost[0] + each * k;
    }
    return tokens / cost;
}

int write_choose(const struct write_figures *f, int most)
{
    int best = 0;
    if (f->n_steps < PLAIN_FIRST || f->since_plain >= PROBE)
        return 0;
    for (int k = 1; k <= most; k++)
        if (expected(f, k) > expected(f, best))
            best = k;
    return best == 0 && most > 0 && f->since >= PROBE ? 1 : best;
}

static void add_mean(double *mean, double x) { *mean = *mean == 0 ? x : *mean + weight * (x - *mean); }

void write_guessed(struct write_figures *f, int n, int n_right)
{
    for (int i = 0; i < n && i <= n_right; i++)
        f->right += weight * ((i < n_right) - f->right);
    f->n_guessed += n;
    f->n_right += n_right;
}

void write_missed(struct write_figures *f) { f->right -= weight * f->right; }

void write_stepped(struct write_figures *f, int n_seq, int k, int n_tokens, double seconds)
{
    add_mean(&f->cost[k], seconds / n_seq);
    f->since = k ? 0 : f->since + 1;
    f->since_plain = k ? f->since_plain + 1 : 0;
    f->n_steps++;
    f->n_tokens += n_tokens;
    f->seconds += seconds;
}

double write_gain(const struct write_figures *f)
{
    return f->seconds > 0 ? (double)f->n_tokens * f->cost[0] / f->seconds : 0;
}

bool write_describe(const struct write_figures *f, char *out, size_t cap)
{
    int n = snprintf(out, cap, "%lld of %lld right", (long long)f->n_right, (long long)f->n_guessed);
    if (write_gain(f) > 0)
        snprintf(out + n, cap - (size_t)n, ", %.2f x as fast", write_gain(f));
    return f->n_guessed > 0;
}

/* ---- steps */

/* Guesses behind the first token of the span; false on error. */
static bool guess(struct writer *w, struct qn_error *err)
{
    int room = w->room - qn_seq_len(w->seq) - 1, most = w->most < room ? w->most : room;
    int n = w->always ? most : write_choose(&w->figures, most);
    int got = write_guess(&w->guesser, w->seq, w->span[0], n, w->span + 1, err);
    if (got < 0)
        return false;
    w->n_span = 1 + got;
    return true;
}

static void learn(struct writer *w)
{
    write_guessed(&w->figures, w->n_span - 1, w->n_true - 1);
    write_stepped(&w->figures, 1, w->n_span - 1, w->n_true, w->spent);
}

void write_end(struct writer *w)
{
    if (w->n_span > 1) {
        double start = now_s();
        qn_commit(w->e, &w->n_true);
        w->spent += now_s() - start;
        learn(w);
    }
    w->n_span = w->n_true = 0;
}

void write_begin(struct writer *w, int room)
{
    w->room = room;
    w->ahead = w->rows;
}

int write_next(struct writer *w, int32_t id, struct qn_error *err)
{
    if (w->n_true < w->n_span && w->span[w->n_true] == id) {
        w->ahead = w->rows + (size_t)w->n_true++ * (size_t)w->n_vocab;
        return 0;
    }
    write_end(w);
    w->ahead = w->rows;
    double start = now_s();
    w->span[0] = id;
    w->n_span = 1;
    if (w->most > 0 && !guess(w, err))
        return err->code;
    struct qn_span span = {.seq = w->seq, .ids = w->span, .n = w->n_span, .logits = QN_LOGITS_ALL};
    int rc = w->n_span > 1 ? qn_try(w->e, &span, 1, w->rows, err) : qn_eval(w->e, &span, 1, w->rows, err);
    w->n_true = 1;
    w->spent = now_s() - start;
    if (!rc && w->n_span == 1)
        learn(w);
    if (rc)
        w->n_span = w->n_true = 0;
    return rc;
}

int write_len(const struct writer *w) { return qn_seq_len(w->seq) + (w->n_span > 1 ? w->n_true : 0); }

void write_close(struct writer *w)
{
    write_end(w);
    free(w->rows);
    free(w->guesser.ids);
    *w = (struct writer){0};
}
