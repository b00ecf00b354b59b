/* SPDX-License-Identifier: MIT */
/* Saving and loading a sequence; the format is in session.h.  A file is a stranger's: sizes are compared with what the model has before
 * anything is read through them, and what was read is checked before it is used. */
#include "session.h"
#include "load.h"
#include "run.h"
#include "store.h"

#include <stdlib.h>
#include <string.h>

#include <xxhash.h>

static const char magic[8] = {'Q', 'U', 'E', 'R', 'N', 'S', 'E', 'S'};
enum { DATA_ALIGN = 4096 };

static int pages_of(uint64_t n_ids) { return (int)((n_ids + ATTN_BLOCK - 1) / ATTN_BLOCK); }

static int n_states(const uint64_t *before)
{
    int n = 0;
    while (n < SESSION_BEFORE && before[n])
        n++;
    return n + 1;
}

static size_t pieces_of(const struct qn_engine *e, int n_states, int n_pages)
{
    return (size_t)n_states * content_n_pieces(state_size(e)) + (size_t)n_pages * content_n_pieces(e->page_bytes);
}

static uint64_t rope_hash(const struct model *m)
{
    uint64_t h = XXH3_64bits(m->inv_freq, (size_t)(m->hp.n_rot / 2) * sizeof *m->inv_freq);
    return XXH3_64bits_withSeed(&m->rope_mscale, sizeof m->rope_mscale, h);
}

/* The head of a session with this many tokens, those snapshots and bytes of note, after load_key(); its hash is not there yet. */
static struct session_head head_for(const struct qn_engine *e, uint64_t n_ids, const uint64_t *before,
                                    uint64_t note_bytes)
{
    struct session_head h = {
        .version = SESSION_VERSION,
        .bits = QN_BITS,
        .rope = rope_hash(&e->model),
        .k_kind = (uint32_t)e->k_kind,
        .v_kind = (uint32_t)e->v_kind,
        .state_bytes = state_size(e),
        .page_bytes = e->page_bytes,
        .n_ids = n_ids,
        .n_pieces = pieces_of(e, n_states(before), pages_of(n_ids)),
        .note_bytes = note_bytes,
    };
    memcpy(h.before, before, sizeof h.before);
    memcpy(h.magic, magic, sizeof magic);
    memcpy(h.model, e->key, sizeof h.model);
    uint64_t tables = sizeof h + n_ids * sizeof(int32_t) + h.n_pieces * sizeof(uint64_t) + note_bytes;
    h.data_at = (tables + DATA_ALIGN - 1) / DATA_ALIGN * DATA_ALIGN;
    return h;
}

/* Tables behind the head: where they begin in a file. */
static size_t pieces_at(const struct session_head *h) { return sizeof *h + (size_t)h->n_ids * sizeof(int32_t); }
static size_t note_at(const struct session_head *h) { return pieces_at(h) + (size_t)h->n_pieces * sizeof(uint64_t); }
static size_t tables_end(const struct session_head *h) { return note_at(h) + (size_t)h->note_bytes; }

/* The parts of the data in order: states, then pages. */
struct parts {
    const uint8_t **at; /* [n_states + n_pages] malloc; NULL when there is no memory */
    int n_states, n_pages;
};

static size_t part_size(const struct qn_engine *e, const struct parts *p, int i)
{
    return i < p->n_states ? state_size(e) : e->page_bytes;
}

/* Hashes of all pieces, [n_pieces] malloc; NULL when there is no memory. */
static uint64_t *hash_parts(struct qn_engine *e, const struct parts *p)
{
    size_t n = pieces_of(e, p->n_states, p->n_pages), at = 0;
    struct piece *pieces = calloc(n + 1, sizeof *pieces);
    uint64_t *hashes = calloc(n + 1, sizeof *hashes);
    if (pieces && hashes) {
        for (int i = 0; i < p->n_states + p->n_pages; at += content_n_pieces(part_size(e, p, i)), i++)
            content_cut(p->at[i], part_size(e, p, i), pieces + at);
        content_hash_pieces(e->pool, e->n_threads_batch, pieces, n, false);
        for (size_t i = 0; i < n; i++)
            hashes[i] = pieces[i].hash;
    } else {
        free(hashes);
        hashes = NULL;
    }
    free(pieces);
    return hashes;
}

/* ---- saving */

/* Head and tables as they are written, malloc [h->data_at]; NULL when there is no memory. */
static uint8_t *make_tables(struct session_head *h, const struct qn_seq *s, const struct parts *p, const void *note)
{
    uint64_t *hashes = hash_parts(s->engine, p);
    uint8_t *bytes = hashes ? calloc(1, (size_t)h->data_at) : NULL;
    if (bytes) {
        memcpy(bytes + sizeof *h, s->ids, (size_t)h->n_ids * sizeof *s->ids);
        memcpy(bytes + pieces_at(h), hashes, (size_t)h->n_pieces * sizeof *hashes);
        if (h->note_bytes)
            memcpy(bytes + note_at(h), note, (size_t)h->note_bytes);
        memcpy(bytes, h, sizeof *h);
        h->head_hash = XXH3_64bits(bytes, tables_end(h));
        memcpy(bytes, h, sizeof *h);
    }
    free(hashes);
    return bytes;
}

static int write_all(const struct qn_seq *s, const char *path, const struct session_head *h, const uint8_t *tables,
                     const struct parts *p, struct qn_error *err)
{
    const struct qn_engine *e = s->engine;
    struct file_new f;
    size_t at = (size_t)h->data_at, all = at + (size_t)p->n_states * state_size(e) + (size_t)p->n_pages * e->page_bytes;
    if (file_new_open(&f, path, all, err))
        return err->code;
    int code = file_new_write(&f, tables, at, 0, err);
    for (int i = 0; !code && i < p->n_states + p->n_pages; at += part_size(e, p, i), i++)
        code = file_new_write(&f, p->at[i], part_size(e, p, i), at, err);
    if (!code)
        code = file_new_commit(&f, err);
    file_new_close(&f);
    return code;
}

/* The last snapshots in front of the sequence's end, ascending. */
static void find_before(const struct qn_seq *s, uint64_t *before, const uint8_t **states)
{
    const struct qn_engine *e = s->engine;
    const uint8_t *found[SESSION_BEFORE];
    int at[SESSION_BEFORE], n = 0;
    for (int limit = s->n; e->store && n < SESSION_BEFORE && (at[n] = store_before(e->store, s, limit, &found[n])) > 0;)
        limit = at[n++];
    memset(before, 0, SESSION_BEFORE * sizeof *before);
    for (int i = 0; i < n; i++) {
        before[i] = (uint64_t)at[n - 1 - i];
        states[i] = found[n - 1 - i];
    }
}

/* Ascending, and in front of the end. */
static bool good_before(const struct session_head *h)
{
    uint64_t last = 0;
    for (int i = 0; i < SESSION_BEFORE; i++) {
        bool used = i < n_states(h->before) - 1;
        if (used ? h->before[i] <= last || h->before[i] >= h->n_ids : h->before[i] != 0)
            return false;
        last = h->before[i];
    }
    return true;
}

int qn_seq_save(const qn_seq *s, const char *path, const void *note, size_t n_note, struct qn_error *err)
{
    struct qn_engine *e = s->engine;
    const uint8_t *states[SESSION_BEFORE];
    uint64_t before[SESSION_BEFORE];
    if (load_key(e, err))
        return err->code;
    state_settle((qn_seq *)(uintptr_t)s);
    find_before(s, before, states);
    struct session_head h = head_for(e, (uint64_t)s->n, before, n_note);
    struct parts p = {.n_states = n_states(h.before), .n_pages = s->n_pages};
    p.at = calloc((size_t)(p.n_states + p.n_pages), sizeof *p.at);
    uint8_t *tables = NULL, *last = malloc(e->page_bytes + 1);
    if (p.at && last) {
        memcpy(p.at, states, (size_t)(p.n_states - 1) * sizeof *states);
        p.at[p.n_states - 1] = (const uint8_t *)s->state;
        for (int b = 0; b < s->n_pages; b++)
            p.at[p.n_states + b] = slab_at(&e->pages, s->page[b]);
        if (s->n_pages > 0) {
            state_read_page(s, s->n_pages - 1, last);
            p.at[p.n_states + s->n_pages - 1] = last;
        }
        tables = make_tables(&h, s, &p, note);
    }
    int code = tables ? write_all(s, path, &h, tables, &p, err)
                      : fail(err, QN_E_MEMORY, "%s: no memory for the tables of a session", path);
    free(p.at);
    free(tables);
    free(last);
    return code;
}

/* ---- loading */

/* Head and tables belong together, hold what was written, and are for this engine. */
static int check_head(struct qn_engine *e, const struct file_map *m, const char *path, struct session_head *h,
                      struct qn_error *err)
{
    if (m->size < sizeof *h || memcmp(m->data, magic, sizeof magic) != 0)
        return fail(err, QN_E_FORMAT, "%s: not a session", path);
    memcpy(h, m->data, sizeof *h);
    if (h->version != SESSION_VERSION)
        return fail(err, QN_E_UNSUPPORTED, "%s: version %u of the format, this program has %d", path, h->version,
                    SESSION_VERSION);
    if (h->note_bytes > m->size)
        return fail(err, QN_E_FORMAT, "%s: damaged: a note of %llu bytes in a file of %zu", path,
                    (unsigned long long)h->note_bytes, m->size);
    uint64_t n_ctx = (uint64_t)e->n_ctx;
    if (load_key(e, err))
        return err->code;
    struct session_head want = head_for(e, h->n_ids < n_ctx ? h->n_ids : n_ctx, h->before, h->note_bytes);
    if (h->model[0] != want.model[0] || h->model[1] != want.model[1])
        return fail(err, QN_E_ARGUMENT, "%s: a session with another model than %s", path, e->gguf->path);
    if (h->bits != want.bits)
        return fail(err, QN_E_UNSUPPORTED, "%s: arithmetic %u, this program has %d", path, h->bits, QN_BITS);
    if (h->k_kind != want.k_kind || h->v_kind != want.v_kind)
        return fail(err, QN_E_ARGUMENT, "%s: a session with other types of keys and values (%u and %u, here %u and %u)",
                    path, h->k_kind, h->v_kind, want.k_kind, want.v_kind);
    if (h->rope != want.rope)
        return fail(err, QN_E_ARGUMENT, "%s: a session with other rope settings", path);
    if (h->n_ids > n_ctx)
        return fail(err, QN_E_NOSPACE, "%s: %llu tokens, the context holds %d", path, (unsigned long long)h->n_ids,
                    e->n_ctx);
    if (h->state_bytes != want.state_bytes && h->page_bytes != want.page_bytes)
        return fail(err, QN_E_ARGUMENT, "%s: a session %s the model's draft block, which this engine was opened %s",
                    path, e->model.drafts ? "without" : "with", e->model.drafts ? "with" : "without");
    want.head_hash = h->head_hash;
    uint64_t all = want.data_at + (uint64_t)n_states(h->before) * want.state_bytes +
                   (uint64_t)pages_of(want.n_ids) * want.page_bytes;
    if (memcmp(h, &want, sizeof *h) != 0 || m->size != all || !good_before(h))
        return fail(err, QN_E_FORMAT, "%s: damaged: %zu bytes are there, %llu belong there, or its head is not right",
                    path, m->size, (unsigned long long)all);
    XXH3_state_t *x = XXH3_createState();
    if (!x)
        return fail(err, QN_E_MEMORY, "%s: no memory for a checksum", path);
    want.head_hash = 0;
    XXH3_64bits_reset(x);
    XXH3_64bits_update(x, &want, sizeof want);
    XXH3_64bits_update(x, m->data + sizeof want, tables_end(h) - sizeof want);
    uint64_t hash = XXH3_64bits_digest(x);
    XXH3_freeState(x);
    for (size_t i = tables_end(h); i < (size_t)h->data_at; i++)
        hash += m->data[i] != 0;
    if (hash != h->head_hash)
        return fail(err, QN_E_FORMAT, "%s: damaged: the head's checksum is not right", path);
    return 0;
}

/* The data is what was once saved. */
static int check_data(struct qn_engine *e, const struct file_map *m, const char *path, const struct session_head *h,
                      struct qn_error *err)
{
    struct parts p = {.n_states = n_states(h->before), .n_pages = pages_of(h->n_ids)};
    p.at = calloc((size_t)(p.n_states + p.n_pages), sizeof *p.at);
    const uint8_t *at = m->data + h->data_at;
    for (int i = 0; p.at && i < p.n_states + p.n_pages; at += part_size(e, &p, i), i++)
        p.at[i] = at;
    uint64_t *hashes = p.at ? hash_parts(e, &p) : NULL;
    int code = hashes ? 0 : fail(err, QN_E_MEMORY, "%s: no memory for checksums", path);
    for (size_t i = 0; !code && i < h->n_pieces; i++)
        if (memcmp(m->data + pieces_at(h) + i * sizeof *hashes, &hashes[i], sizeof *hashes) != 0)
            code = fail(err, QN_E_FORMAT, "%s: damaged: checksum %zu of %llu is not right", path, i + 1,
                        (unsigned long long)h->n_pieces);
    free(p.at);
    free(hashes);
    return code;
}

/* The only numbers of a state that addresses depend on. */
static int check_behind(const qn_seq *s, const char *path, struct qn_error *err)
{
    if (s->behind && (s->behind->n < 0 || s->behind->n > BEHIND_ROWS || s->behind->n > s->n))
        return fail(err, QN_E_FORMAT, "%s: damaged: the draft block is %d tokens behind %d", path, s->behind->n, s->n);
    return 0;
}

static int load(qn_seq *s, const struct file_map *m, const char *path, struct session_head *h, struct qn_error *err)
{
    struct qn_engine *e = s->engine;
    if (check_head(e, m, path, h, err) || check_data(e, m, path, h, err))
        return err->code;
    memcpy(s->ids, m->data + sizeof *h, (size_t)h->n_ids * sizeof *s->ids);
    for (size_t i = 0; i < h->n_ids; i++)
        if (s->ids[i] < 0 || s->ids[i] >= e->model.hp.n_vocab)
            return fail(err, QN_E_FORMAT, "%s: token id %d is not in the vocabulary of %d", path, s->ids[i],
                        e->model.hp.n_vocab);
    const uint8_t *from = m->data + h->data_at, *pages = from + (size_t)n_states(h->before) * state_size(e);
    if (qn_seq_reserve(s, (int)h->n_ids, err))
        return err->code;
    if (h->n_ids)
        state_admit(s, (int)h->n_ids);
    for (int b = 0; b < s->n_pages; b++, pages += e->page_bytes)
        memcpy(slab_at(&e->pages, s->page[b]), pages, e->page_bytes);
    for (int i = 0; i < n_states(h->before) - 1; i++, from += state_size(e)) {
        memcpy(s->state, from, state_size(e));
        s->n = (int)h->before[i];
        if (check_behind(s, path, err))
            return err->code;
        qn_seq_keep(s);
    }
    memcpy(s->state, from, state_size(e));
    s->stale = false;
    s->n = (int)h->n_ids;
    return check_behind(s, path, err);
}

int qn_seq_load(qn_seq *s, const char *path, char **note, size_t *n_note, struct qn_error *err)
{
    struct file_map m;
    struct session_head h;
    if (note)
        *note = NULL;
    qn_seq_clear(s);
    if (file_map_open(&m, path, err))
        return err->code;
    int code = load(s, &m, path, &h, err);
    if (!code && note) {
        *n_note = (size_t)h.note_bytes;
        *note = malloc(*n_note + 1);
        if (*note)
            ((char *)memcpy(*note, m.data + note_at(&h), *n_note))[*n_note] = 0;
        else
            code = fail(err, QN_E_MEMORY, "%s: no memory for a note of %zu bytes", path, *n_note);
    }
    file_map_close(&m);
    if (code)
        qn_seq_clear(s);
    return code;
}
