/* SPDX-License-Identifier: MIT */
/* Sessions: a sequence in a file, and back.  The format is in saved.h.  Beside its own state the file has those of the last snapshots
 * in front of it that the prefix store has: where a template changes what comes behind, the sequence is resumed at one of them. */
#include "load.h"
#include "run.h"
#include "saved.h"
#include "store.h"

#include <stdlib.h>
#include <string.h>

/* The last snapshots in front of the sequence's end, ascending. */
static void find_before(const struct qn_seq *s, uint64_t *before, const uint8_t **states)
{
    const struct qn_engine *e = s->engine;
    const uint8_t *found[SAVED_BEFORE];
    int at[SAVED_BEFORE], n = 0;
    for (int limit = s->n; e->store && n < SAVED_BEFORE && (at[n] = store_before(e->store, s, limit, &found[n])) > 0;)
        limit = at[n++];
    memset(before, 0, SAVED_BEFORE * sizeof *before);
    for (int i = 0; i < n; i++) {
        before[i] = (uint64_t)at[n - 1 - i];
        states[i] = found[n - 1 - i];
    }
}

static int write_session(const char *path, struct qn_engine *e, struct saved_head *h, const struct saved_data *d,
                         struct qn_error *err)
{
    struct file_new f;
    int code = saved_write(&f, e, path, &saved_session, h, d, err);
    if (!code)
        code = file_new_commit(&f, err);
    file_new_close(&f);
    return code;
}

int qn_seq_save(const qn_seq *s, const char *path, const void *note, size_t n_note, struct qn_error *err)
{
    struct qn_engine *e = s->engine;
    struct saved_head h = {.n_ids = (uint64_t)s->n, .note_bytes = n_note};
    const uint8_t *states[SAVED_BEFORE];
    if (load_key(e, err))
        return err->code;
    state_settle((qn_seq *)(uintptr_t)s);
    find_before(s, h.before, states);
    h = saved_head_for(e, &saved_session, &h);
    int n = saved_n_states(&saved_session, &h), code;
    const uint8_t **part = calloc((size_t)(n + s->n_pages), sizeof *part);
    uint8_t *last = malloc(e->page_bytes + 1);
    if (part && last) {
        memcpy(part, states, (size_t)(n - 1) * sizeof *states);
        part[n - 1] = (const uint8_t *)s->state;
        for (int b = 0; b < s->n_pages; b++)
            part[n + b] = slab_at(&e->pages, s->page[b]);
        if (s->n_pages > 0) {
            int end = s->n - (s->n_pages - 1) * ATTN_BLOCK, waiting = s->behind ? s->behind->n : 0;
            state_read_page(e, s->page[s->n_pages - 1], end, end - waiting, last);
            part[n + s->n_pages - 1] = last;
        }
        code = write_session(path, e, &h, &(struct saved_data){.ids = s->ids, .note = note, .part = part}, err);
    } else {
        code = fail(err, QN_E_MEMORY, "%s: no memory for the tables of a session", path);
    }
    free(part);
    free(last);
    return code;
}

/* The sequence gets what the file has, for which it has been promised pages, and the store its snapshots. */
static int restore(qn_seq *s, struct saved *f, struct qn_error *err)
{
    struct qn_engine *e = s->engine;
    const struct saved_head *h = &f->head;
    int n = saved_n_states(f->kind, h), code = 0;
    uint8_t *state = (uint8_t *)s->state;
    if (h->n_ids) {
        memcpy(s->ids, f->ids, (size_t)h->n_ids * sizeof *s->ids);
        state_admit(s, (int)h->n_ids);
    }
    uint8_t **page = calloc((size_t)s->n_pages + 1, sizeof *page);
    for (int b = 0; page && b < s->n_pages; b++)
        page[b] = slab_at(&e->pages, s->page[b]);
    code = page ? saved_read(f, e, n, s->n_pages, page, err)
                : fail(err, QN_E_MEMORY, "%s: no memory for the tables of a session", f->path);
    free(page);
    s->stale = false;
    for (int i = 0; !code && i < n; i++) {
        code = saved_read(f, e, i, 1, &state, err);
        s->n = (int)(i < n - 1 ? h->before[i] : h->n_ids);
        if (!code && i < n - 1)
            qn_seq_keep(s);
    }
    return code;
}

int qn_seq_load(qn_seq *s, const char *path, char **note, size_t *n_note, struct qn_error *err)
{
    struct saved f;
    if (note)
        *note = NULL;
    qn_seq_clear(s);
    if (saved_open(&f, s->engine, path, &saved_session, err))
        return err->code;
    int code = qn_seq_reserve(s, (int)f.head.n_ids, err);
    if (!code && note) {
        *n_note = (size_t)f.head.note_bytes;
        *note = malloc(*n_note + 1);
        if (*note)
            ((char *)memcpy(*note, f.note, *n_note))[*n_note] = 0;
        else
            code = fail(err, QN_E_MEMORY, "%s: no memory for a note of %zu bytes", path, *n_note);
    }
    if (!code)
        code = restore(s, &f, err);
    saved_close(&f);
    if (code) {
        qn_seq_clear(s);
        if (note) {
            free(*note);
            *note = NULL;
        }
    }
    return code;
}
