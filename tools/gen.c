/* SPDX-License-Identifier: MIT */
/* Making one answer: prefill, picking, stop texts, thinking tags. */
#include "gen.h"
#include "term.h"

#include <stdlib.h>
#include <string.h>

/* ---- stop texts */

bool stop_find(const struct strings *stop, const char *text, size_t n, size_t *at)
{
    size_t best = n, safe = n;
    bool found = false;
    for (int i = 0; i < stop->n; i++) {
        size_t len = strlen(stop->v[i]);
        const char *hit = len && n >= len ? memmem(text, n, stop->v[i], len) : NULL;
        if (hit && (!found || (size_t)(hit - text) < best)) {
            best = (size_t)(hit - text);
            found = true;
        }
        for (size_t tail = len ? len - 1 : 0; tail > 0; tail--) /* the longest end that begins it */
            if (tail <= n && !memcmp(text + n - tail, stop->v[i], tail)) {
                if (n - tail < safe)
                    safe = n - tail;
                break;
            }
    }
    *at = found ? best : safe;
    return found;
}

/* ---- picking */

/* The tag's id when it is a control token, which has no text of its own; else -1. */
static int32_t control_token(const qn_engine *e, const char *text)
{
    int32_t id = qn_token_find(e, text);
    return id >= 0 && qn_token_is_control(e, id) ? id : -1;
}

void gen_begin(struct gen *g, const qn_engine *e, qn_sampler *sampler, const struct strings *stop, int n_max)
{
    *g = (struct gen){.e = e, .sampler = sampler, .stop = *stop, .n_max = n_max, .id = -1};
    g->think_open = control_token(e, "<think>");
    g->think_close = control_token(e, "</think>");
}

void gen_free(struct gen *g) { text_free(&g->held); }

/* Gives out all text that no stop text can begin in. */
static void release_held(struct gen *g, struct text *out)
{
    size_t at;
    if (stop_find(&g->stop, g->held.s, g->held.n, &at))
        g->finish = FINISH_STOP;
    text_put(out, g->held.s, at);
    g->held.n -= at;
    memmove(g->held.s, g->held.s + at, g->held.n + 1);
}

void gen_finish(struct gen *g, enum finish why, struct text *out)
{
    char tail[16];
    size_t n = qn_detok_end(&g->detok, tail, sizeof tail);
    text_put(&g->held, tail, n);
    release_held(g, out);
    if (g->finish == FINISH_STOP) { /* a stop text was completed by the last bytes */
        g->held.n = 0;
        return;
    }
    g->finish = why;
    text_put(out, g->held.s, g->held.n);
    g->held.n = 0;
}

static void put_token(struct gen *g, int32_t id)
{
    size_t len;
    qn_token_bytes(g->e, id, 0, &len);
    char fixed[256], *buf = len + 16 <= sizeof fixed ? fixed : xmalloc(len + 16);
    size_t n = qn_detok_put(&g->detok, g->e, id, 0, buf, len + 16);
    if (id == g->think_open)
        text_put(&g->held, "<think>", 7);
    else if (id == g->think_close)
        text_put(&g->held, "</think>", 8);
    else
        text_put(&g->held, buf, n);
    if (buf != fixed)
        free(buf);
}

bool gen_next(struct gen *g, const float *logits, struct text *out)
{
    g->id = qn_sampler_pick(g->sampler, logits);
    g->n++;
    if (qn_token_is_stop(g->e, g->id)) {
        gen_finish(g, FINISH_STOP, out);
        return false;
    }
    put_token(g, g->id);
    release_held(g, out);
    if (g->finish == FINISH_STOP)
        return false;
    if (g->n_max >= 0 && g->n >= g->n_max) {
        gen_finish(g, FINISH_LENGTH, out);
        return false;
    }
    return true;
}

int gen_agree(const int32_t *a, int n_a, const int32_t *b, int n_b)
{
    int n = 0;
    while (n < n_a && n < n_b && a[n] == b[n])
        n++;
    return n;
}

int gen_admit(qn_seq *s, int n, int n_max, int n_ctx, struct qn_error *err)
{
    int fits = qn_seq_fits(s), want = n_max < 0 || n_max > n_ctx - n ? n_ctx : n + n_max;
    if (n_max < 0 && n < fits && fits < want)
        want = fits;
    return qn_seq_reserve(s, want, err) ? err->code : want;
}

int gen_shift(int n, int *keep, int room)
{
    if (*keep > room - room / 4)
        *keep = room - room / 4;
    int newest = (room - *keep) / 2 > 0 ? (room - *keep) / 2 : 1;
    return n > *keep + newest ? n - *keep - newest : 0;
}

void gen_cut(int32_t *ids, int *n, int keep, int out)
{
    *n -= out;
    memmove(ids + keep, ids + keep + out, (size_t)(*n - keep) * sizeof *ids);
}

void marks_add(struct marks *m, int there, int n)
{
    int last = m->n ? m->at[m->n - 1] : there;
    if (n - last >= MARK_LEAST)
        m->at[m->n++] = n;
}

int gen_prefill(qn_engine *e, qn_seq *seq, const int32_t *ids, int from, int n, const struct marks *marks, int n_batch,
                float *logits, struct qn_error *err)
{
    struct progress bar;
    progress_begin(&bar, "reading the prompt");
    int rc = 0;
    double start = now_s();
    for (int at = from, mark = 0; at < n && !rc;) {
        int end = n - at < n_batch ? n : at + n_batch;
        if (mark < marks->n && marks->at[mark] < end)
            end = marks->at[mark];
        struct qn_span span = {
            .seq = seq, .ids = ids + at, .n = end - at, .logits = end == n ? QN_LOGITS_LAST : QN_LOGITS_NONE};
        rc = qn_eval(e, &span, 1, logits, err);
        at = end;
        if (!rc && mark < marks->n && at == marks->at[mark]) {
            qn_seq_keep(seq);
            mark++;
        }
        char detail[64];
        snprintf(detail, sizeof detail, "%d of %d, %.0f tokens/s", at - from, n - from,
                 (at - from) / (now_s() - start));
        progress_set(&bar, (double)(at - from) / (n - from), detail);
        if (!rc && at < n && interrupted())
            rc = 1;
    }
    progress_end(&bar);
    return rc;
}

/* ---- thinking */

static const char OPEN[] = "<think>", CLOSE[] = "</think>";

void think_begin(struct think *t, bool inside)
{
    *t = (struct think){.state = inside ? THINK_INSIDE : THINK_START};
    text_put(&t->held, "", 0);
}

static void drop(struct text *t, size_t n)
{
    t->n -= n;
    memmove(t->s, t->s + n, t->n + 1);
}

/* Before the answer: blank space and an opening tag.  True: the state changed. */
static bool think_at_start(struct think *t)
{
    size_t blank = strspn(t->held.s, " \t\r\n"), left = t->held.n - blank;
    if (!strncmp(t->held.s + blank, OPEN, left < sizeof OPEN - 1 ? left : sizeof OPEN - 1)) {
        if (left < sizeof OPEN - 1)
            return false; /* may still become the tag */
        drop(&t->held, blank + sizeof OPEN - 1);
        t->state = THINK_INSIDE;
        return true;
    }
    t->state = THINK_ANSWER;
    return true;
}

static bool think_inside(struct think *t, think_piece *piece, void *cookie)
{
    const char *close = CLOSE;
    struct strings list = {.v = &close, .n = 1};
    size_t at;
    bool found = stop_find(&list, t->held.s, t->held.n, &at);
    if (at)
        piece(cookie, true, t->held.s, at);
    drop(&t->held, at + (found ? sizeof CLOSE - 1 : 0));
    if (found)
        t->state = THINK_AFTER;
    return found;
}

void think_put(struct think *t, const char *bytes, size_t n, think_piece *piece, void *cookie)
{
    text_put(&t->held, bytes, n);
    for (bool more = true; more;) {
        more = false;
        if (t->state == THINK_START) {
            more = t->held.n && think_at_start(t);
        } else if (t->state == THINK_INSIDE) {
            more = think_inside(t, piece, cookie);
        } else if (t->state == THINK_AFTER) { /* blank space between thinking and answer belongs to neither */
            drop(&t->held, strspn(t->held.s, " \t\r\n"));
            if ((more = t->held.n > 0))
                t->state = THINK_ANSWER;
        } else if (t->held.n) {
            piece(cookie, false, t->held.s, t->held.n);
            t->held.n = 0;
        }
    }
}

void think_end(struct think *t, think_piece *piece, void *cookie)
{
    if (t->held.n && (t->state == THINK_INSIDE || t->state == THINK_START))
        piece(cookie, t->state == THINK_INSIDE, t->held.s, t->held.n);
    text_free(&t->held);
}
