/* SPDX-License-Identifier: MIT */
/* What was read and written of a conversation.  What the sequence or the prefix store knows is not evaluated again: snapshots are made in
 * front of the assistant's header, since many templates leave out earlier thinking and so change what comes behind it, and where a prompt
 * parts from what is known. */
#include "timeline.h"
#include "gen.h"
#include "term.h"

#include <stdlib.h>
#include <string.h>

/* ---- the ids */

static void grow(struct timeline *t, int n)
{
    int had = t->cap ? t->cap + 1 : 0;
    if (n <= t->cap)
        return;
    t->cap = n + n / 2 + 1024;
    t->ids = xrealloc(t->ids, (size_t)t->cap * sizeof *t->ids);
    t->ends = xrealloc(t->ends, ((size_t)t->cap + 1) * sizeof *t->ends);
    memset(t->ends + had, 0, (size_t)(t->cap + 1 - had) * sizeof *t->ends);
}

int timeline_open(struct timeline *t, qn_engine *e, const struct opts *o, struct qn_error *err)
{
    struct qn_model_info info;
    qn_model_info(e, &info);
    *t = (struct timeline){.o = o, .on_full = (enum on_full)CHOICE(o, on_full), .e = e, .n_ctx = info.n_ctx};
    int rc = qn_seq_new(&t->seq, e, err);
    if (rc)
        return rc;
    grow(t, 1);
    write_open(&t->w, e, t->seq, (enum drafter)CHOICE(o, spec), o->draft_max);
    return 0;
}

void timeline_close(struct timeline *t)
{
    write_close(&t->w);
    if (t->o->cache_dir)
        qn_seq_keep(t->seq);
    qn_seq_free(t->seq);
    free(t->ids);
    free(t->ends);
    *t = (struct timeline){0};
}

void timeline_set(struct timeline *t, const int32_t *ids, int n)
{
    int same = gen_agree(ids, n, t->ids, t->n);
    grow(t, n);
    memset(t->ends + same + 1, 0, (size_t)(t->n - same) * sizeof *t->ends);
    if (n > same)
        memcpy(t->ids + same, ids + same, (size_t)(n - same) * sizeof *ids);
    t->n = n;
}

void timeline_forget(struct timeline *t)
{
    t->cut = 0;
    timeline_set(t, NULL, 0);
}

int timeline_load(struct timeline *t, const char *path, char **note, size_t *n, struct qn_error *err)
{
    int rc = qn_seq_load(t->seq, path, note, n, err);
    if (rc)
        return rc;
    timeline_set(t, qn_seq_ids(t->seq), qn_seq_len(t->seq));
    t->ends[t->n] = true;
    return 0;
}

/* How many of the ids, up to the end of an answer, are the beginning of a text: *at bytes of it. */
static int known_ids(const struct timeline *t, const struct qn_text *text, size_t *at)
{
    int known = 0;
    size_t n, behind = 0;
    *at = 0;
    for (int i = 0; i < t->n; i++, behind += n) {
        if (t->ends[i]) {
            known = i;
            *at = behind;
        }
        const char *bytes = qn_token_bytes(t->e, t->ids[i], 1, &n);
        if (n > text->n - behind || memcmp(text->bytes + behind, bytes, n) != 0)
            return known;
        if (qn_token_is_control(t->e, t->ids[i]) && memchr(text->special + behind, 0, n))
            return known; /* the same text, typed by somebody */
    }
    if (t->ends[t->n]) {
        known = t->n;
        *at = behind;
    }
    return known;
}

int32_t *timeline_tokenize(const struct timeline *t, const struct qn_text *text, int *n_ids, struct qn_error *err)
{
    size_t at;
    int32_t *rest;
    int n_rest, known = known_ids(t, text, &at);
    if (qn_tokenize(t->e, text->bytes + at, text->n - at, text->special + at, 0, &rest, &n_rest, err))
        return NULL;
    int32_t *ids = xmalloc((size_t)(known + n_rest + 1) * sizeof *ids);
    memcpy(ids, t->ids, (size_t)known * sizeof *ids);
    memcpy(ids + known, rest, (size_t)n_rest * sizeof *ids);
    free(rest);
    *n_ids = known + n_rest;
    return ids;
}

/* ---- the sequence */

int timeline_limit(const struct timeline *t)
{
    int fits = qn_seq_fits(t->seq);
    return t->on_full && fits < t->n_ctx ? fits : t->n_ctx;
}

bool timeline_cut(struct timeline *t, int n, int room)
{
    if (n < room || t->keep + t->cut >= n)
        t->cut = 0;
    if (n - t->cut < room)
        return false;
    t->cut = gen_shift(n, &t->keep, room);
    return true;
}

/* Tokens of an answer that are to have room behind n.  Who goes on when the context is full does with what there is. */
static int wanted(const struct timeline *t, int n)
{
    return t->on_full != FULL_STOP && t->o->n_predict > qn_seq_fits(t->seq) - n ? -1 : t->o->n_predict;
}

int timeline_read(struct timeline *t, const int32_t *ids, int n, int header, struct qn_error *err)
{
    struct marks marks = {0};
    int n_view = n;
    int32_t *view = xmalloc(((size_t)n + 1) * sizeof *view);
    memcpy(view, ids, (size_t)n * sizeof *view);
    gen_cut(view, &n_view, t->keep, t->cut);
    header -= header > t->keep + t->cut ? t->cut : 0;
    double start = now_s();
    int from = qn_seq_resume(t->seq, view, n_view, &t->kept);
    int rc = t->room = gen_admit(t->seq, n_view, wanted(t, n_view), t->n_ctx, err);
    if (rc >= 0) {
        t->n_again += t->kept.same - from;
        if (t->on_full && t->keep < n_view) /* what stays is read once */
            marks_add(&marks, from, t->keep);
        if (t->kept.same < header)
            marks_add(&marks, from, t->kept.same);
        marks_add(&marks, from, header < n_view ? header : n_view - 1);
        rc = gen_prefill(t->e, t->seq, view, from, n_view, &marks, t->o->n_batch, t->w.rows, err);
        write_begin(&t->w, t->room);
    }
    int read = qn_seq_len(t->seq);
    t->read_s = now_s() - start;
    t->last_read = read - from;
    t->n_read += t->last_read;
    timeline_set(t, ids, read > t->keep ? read + t->cut : read);
    free(view);
    return rc;
}

int timeline_write(struct timeline *t, int32_t id, struct qn_error *err)
{
    int rc = write_next(&t->w, id, err);
    if (rc)
        return rc;
    grow(t, t->n + 1);
    t->ids[t->n++] = id;
    return 0;
}

bool timeline_full(const struct timeline *t) { return write_len(&t->w) >= t->room; }
