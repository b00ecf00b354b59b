/* SPDX-License-Identifier: MIT */
/* Files with what was computed of sequences; the format is in saved.h.  A file is a stranger's: sizes are compared with what the model
 * has before anything is read through them, and what was read is checked before it is used. */
#include "saved.h"
#include "load.h"
#include "run.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <xxhash.h>

const struct saved_kind saved_session = {{'Q', 'U', 'E', 'R', 'N', 'S', 'E', 'S'}, "a session", true, true};
const struct saved_kind saved_segment = {{'Q', 'U', 'E', 'R', 'N', 'S', 'E', 'G'}, "a segment", false, true};
const struct saved_kind saved_snapshot = {{'Q', 'U', 'E', 'R', 'N', 'S', 'T', 'A'}, "a snapshot", true, false};

enum { DATA_ALIGN = 4096 };

static int n_before(const struct saved_head *h)
{
    int n = 0;
    while (n < SAVED_BEFORE && h->before[n])
        n++;
    return n;
}

int saved_n_states(const struct saved_kind *kind, const struct saved_head *h)
{
    return kind->has_states ? n_before(h) + 1 : 0;
}

int saved_first_page(const struct saved_head *h)
{
    return (int)((h->from > h->back ? h->from - h->back : 0) / ATTN_BLOCK);
}

int saved_n_pages(const struct saved_kind *kind, const struct saved_head *h)
{
    uint64_t end = (h->from + h->n_ids + ATTN_BLOCK - 1) / ATTN_BLOCK;
    return kind->has_pages && h->n_ids ? (int)end - saved_first_page(h) : 0;
}

static uint64_t rope_hash(const struct model *m)
{
    uint64_t h = XXH3_64bits(m->inv_freq, (size_t)(m->hp.n_rot / 2) * sizeof *m->inv_freq);
    return XXH3_64bits_withSeed(&m->rope_mscale, sizeof m->rope_mscale, h);
}

/* Bytes of part i, of which n_states are states. */
static size_t part_bytes(const struct saved_head *h, int n_states, int i)
{
    return (size_t)(i < n_states ? h->state_bytes : h->page_bytes);
}

static size_t pieces_of(const struct saved_head *h, int n_states, int n_pages)
{
    return (size_t)n_states * content_n_pieces((size_t)h->state_bytes) +
           (size_t)n_pages * content_n_pieces((size_t)h->page_bytes);
}

struct saved_head saved_head_for(const struct qn_engine *e, const struct saved_kind *kind,
                                 const struct saved_head *counts)
{
    struct saved_head h = {
        .version = SAVED_VERSION,
        .bits = QN_BITS,
        .model = {e->key[0], e->key[1]},
        .rope = rope_hash(&e->model),
        .k_kind = (uint32_t)e->k_kind,
        .v_kind = (uint32_t)e->v_kind,
        .delta = (uint64_t)e->delta,
        .state_bytes = state_size(e),
        .page_bytes = e->page_bytes,
        .back = e->model.drafts,
        .from = counts->from,
        .n_ids = counts->n_ids,
        .note_bytes = counts->note_bytes,
    };
    memcpy(h.magic, kind->magic, sizeof h.magic);
    memcpy(h.before, counts->before, sizeof h.before);
    memcpy(h.parent, counts->parent, sizeof h.parent);
    h.n_pieces = pieces_of(&h, saved_n_states(kind, &h), saved_n_pages(kind, &h));
    uint64_t tables = sizeof h + h.n_ids * sizeof(int32_t) + h.n_pieces * sizeof(uint64_t) + h.note_bytes;
    h.data_at = (tables + DATA_ALIGN - 1) / DATA_ALIGN * DATA_ALIGN;
    return h;
}

size_t saved_bytes(const struct saved_kind *kind, const struct saved_head *h)
{
    return (size_t)(h->data_at + (uint64_t)saved_n_states(kind, h) * h->state_bytes +
                    (uint64_t)saved_n_pages(kind, h) * h->page_bytes);
}

/* Tables behind the head: where they begin in a file. */
static size_t pieces_at(const struct saved_head *h) { return sizeof *h + (size_t)h->n_ids * sizeof(int32_t); }
static size_t note_at(const struct saved_head *h) { return pieces_at(h) + (size_t)h->n_pieces * sizeof(uint64_t); }
static size_t tables_end(const struct saved_head *h) { return note_at(h) + (size_t)h->note_bytes; }

/* The pieces of parts [first, first + n), *count of them, malloc; NULL when there is no memory. */
static struct piece *cut_parts(const struct saved_head *h, const uint8_t *const *part, int n_states, int first, int n,
                               size_t *count)
{
    size_t at = 0;
    for (int i = first; i < first + n; i++)
        at += content_n_pieces(part_bytes(h, n_states, i));
    struct piece *pieces = calloc(at + 1, sizeof *pieces);
    *count = at;
    at = 0;
    for (int i = first; pieces && i < first + n; at += content_n_pieces(part_bytes(h, n_states, i)), i++)
        content_cut(part[i - first], part_bytes(h, n_states, i), pieces + at);
    return pieces;
}

/* ---- writing */

/* Head and tables as they are written, malloc [h->data_at]; NULL when there is no memory. */
static uint8_t *make_tables(struct saved_head *h, const struct saved_data *d, const struct piece *pieces)
{
    uint8_t *bytes = calloc(1, (size_t)h->data_at);
    if (!bytes)
        return NULL;
    if (h->n_ids)
        memcpy(bytes + sizeof *h, d->ids, (size_t)h->n_ids * sizeof *d->ids);
    for (size_t i = 0; i < h->n_pieces; i++)
        memcpy(bytes + pieces_at(h) + i * sizeof pieces[i].hash, &pieces[i].hash, sizeof pieces[i].hash);
    if (h->note_bytes)
        memcpy(bytes + note_at(h), d->note, (size_t)h->note_bytes);
    h->head_hash = 0;
    memcpy(bytes, h, sizeof *h);
    h->head_hash = XXH3_64bits(bytes, tables_end(h));
    memcpy(bytes, h, sizeof *h);
    return bytes;
}

int saved_write(struct file_new *f, struct qn_engine *e, const char *path, const struct saved_kind *kind,
                struct saved_head *h, const struct saved_data *d, struct qn_error *err)
{
    int n_states = saved_n_states(kind, h), n = n_states + saved_n_pages(kind, h);
    *f = (struct file_new){.fd = -1};
    size_t n_pieces, at = (size_t)h->data_at;
    struct piece *pieces = cut_parts(h, d->part, n_states, 0, n, &n_pieces);
    if (pieces)
        content_hash_pieces(e->pool, e->n_threads_batch, pieces, n_pieces, false);
    uint8_t *tables = pieces ? make_tables(h, d, pieces) : NULL;
    int code = tables ? file_new_open(f, path, saved_bytes(kind, h), err)
                      : fail(err, QN_E_MEMORY, "%s: no memory for its tables", path);
    if (!code)
        code = file_new_write(f, tables, at, 0, err);
    for (int i = 0; !code && i < n; at += part_bytes(h, n_states, i), i++)
        code = file_new_write(f, d->part[i], part_bytes(h, n_states, i), at, err);
    free(tables);
    free(pieces);
    return code;
}

/* ---- reading */

static int open_file(struct saved *s, struct qn_error *err)
{
    struct stat st;
    s->fd = open(s->path, O_RDONLY | O_CLOEXEC);
    if (s->fd < 0 || fstat(s->fd, &st))
        return fail(err, QN_E_IO, "%s: %s", s->path, strerror(errno));
    if (!S_ISREG(st.st_mode))
        return fail(err, QN_E_IO, "%s: not a regular file", s->path);
    s->size = (size_t)st.st_size;
    return 0;
}

static int read_bytes(const struct saved *s, void *out, size_t n, size_t at, struct qn_error *err)
{
    for (uint8_t *p = out; n > 0;) {
        ssize_t got = pread(s->fd, p, n, (off_t)at);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return fail(err, QN_E_IO, "%s: cannot be read: %s", s->path, strerror(errno));
        if (got == 0)
            return fail(err, QN_E_FORMAT, "%s: damaged: it ends at byte %zu", s->path, at);
        p += got;
        at += (size_t)got;
        n -= (size_t)got;
    }
    return 0;
}

/* What the file is for is what the engine has. */
static int check_owner(const struct saved *s, const struct qn_engine *e, struct qn_error *err)
{
    const struct saved_head *h = &s->head;
    const struct saved_head want = saved_head_for(e, s->kind, &(struct saved_head){0});
    if (h->model[0] != want.model[0] || h->model[1] != want.model[1])
        return fail(err, QN_E_ARGUMENT, "%s: %s with another model than %s", s->path, s->kind->name, e->gguf->path);
    if (h->bits != want.bits)
        return fail(err, QN_E_UNSUPPORTED, "%s: arithmetic %u, this program has %d", s->path, h->bits, QN_BITS);
    if (h->k_kind != want.k_kind || h->v_kind != want.v_kind)
        return fail(err, QN_E_ARGUMENT, "%s: %s with other types of keys and values (%u and %u, here %u and %u)",
                    s->path, s->kind->name, h->k_kind, h->v_kind, want.k_kind, want.v_kind);
    if (h->rope != want.rope)
        return fail(err, QN_E_ARGUMENT, "%s: %s with other rope settings", s->path, s->kind->name);
    if (h->delta != want.delta)
        return fail(err, QN_E_ARGUMENT, "%s: %s with another form of the delta rule", s->path, s->kind->name);
    if (h->state_bytes != want.state_bytes && h->page_bytes != want.page_bytes)
        return fail(err, QN_E_ARGUMENT, "%s: %s %s the model's draft block, which this engine was opened %s", s->path,
                    s->kind->name, e->model.drafts ? "without" : "with", e->model.drafts ? "with" : "without");
    uint64_t n_ctx = (uint64_t)e->n_ctx;
    if (h->n_ids > n_ctx || h->from > n_ctx - h->n_ids)
        return fail(err, QN_E_NOSPACE, "%s: %llu tokens, the context holds %d", s->path,
                    (unsigned long long)(h->n_ids > n_ctx ? h->n_ids : h->from + h->n_ids), e->n_ctx);
    return 0;
}

/* Snapshots ascending, and in front of the end; nothing that the kind has not. */
static bool good_counts(const struct saved_kind *kind, const struct saved_head *h)
{
    uint64_t last = 0;
    int n = n_before(h);
    for (int i = 0; i < SAVED_BEFORE; i++) {
        if (i < n ? h->before[i] <= last || h->before[i] >= h->n_ids : h->before[i] != 0)
            return false;
        last = h->before[i];
    }
    bool session = kind == &saved_session;
    return session ? h->from == 0 : n == 0 && h->n_ids > 0 && (kind->has_pages || h->from == 0);
}

/* Head and tables belong together, hold what was written, and are for this engine. */
static int check_head(struct saved *s, struct qn_engine *e, struct qn_error *err)
{
    struct saved_head *h = &s->head;
    if (s->size < sizeof *h)
        return fail(err, QN_E_FORMAT, "%s: not %s", s->path, s->kind->name);
    if (read_bytes(s, h, sizeof *h, 0, err))
        return err->code;
    if (memcmp(h->magic, s->kind->magic, sizeof h->magic) != 0)
        return fail(err, QN_E_FORMAT, "%s: not %s", s->path, s->kind->name);
    if (h->version != SAVED_VERSION)
        return fail(err, QN_E_UNSUPPORTED, "%s: version %u of the format, this program has %d", s->path, h->version,
                    SAVED_VERSION);
    if (h->note_bytes > s->size)
        return fail(err, QN_E_FORMAT, "%s: damaged: a note of %llu bytes in a file of %zu", s->path,
                    (unsigned long long)h->note_bytes, s->size);
    if (load_key(e, err) || check_owner(s, e, err))
        return err->code;
    struct saved_head want = saved_head_for(e, s->kind, h);
    size_t all = saved_bytes(s->kind, &want);
    want.head_hash = h->head_hash;
    if (memcmp(h, &want, sizeof *h) != 0 || s->size != all || !good_counts(s->kind, h))
        return fail(err, QN_E_FORMAT, "%s: damaged: %zu bytes are there, %zu belong there, or its head is not right",
                    s->path, s->size, all);
    return 0;
}

/* Reads what lies between head and data. */
static int read_tables(struct saved *s, struct qn_error *err)
{
    const struct saved_head *h = &s->head;
    struct saved_head zero = *h;
    zero.head_hash = 0;
    s->tables = malloc((size_t)h->data_at);
    if (!s->tables)
        return fail(err, QN_E_MEMORY, "%s: no memory for its tables", s->path);
    memcpy(s->tables, &zero, sizeof zero);
    if (read_bytes(s, s->tables + sizeof zero, (size_t)h->data_at - sizeof zero, sizeof zero, err))
        return err->code;
    uint64_t hash = XXH3_64bits(s->tables, tables_end(h));
    for (size_t i = tables_end(h); i < (size_t)h->data_at; i++)
        hash += s->tables[i] != 0;
    return hash == h->head_hash ? 0 : fail(err, QN_E_FORMAT, "%s: damaged: the head's checksum is not right", s->path);
}

static int check_ids(struct saved *s, const struct qn_engine *e, struct qn_error *err)
{
    s->ids = (const int32_t *)(const void *)(s->tables + sizeof s->head);
    s->note = (const char *)s->tables + note_at(&s->head);
    for (size_t i = 0; i < s->head.n_ids; i++)
        if (s->ids[i] < 0 || s->ids[i] >= e->model.hp.n_vocab)
            return fail(err, QN_E_FORMAT, "%s: token id %d is not in the vocabulary of %d", s->path, s->ids[i],
                        e->model.hp.n_vocab);
    return 0;
}

int saved_open(struct saved *s, struct qn_engine *e, const char *path, const struct saved_kind *kind,
               struct qn_error *err)
{
    *s = (struct saved){.kind = kind, .path = strdup(path), .fd = -1};
    int code = s->path ? open_file(s, err) : fail(err, QN_E_MEMORY, "%s: no memory for a name", path);
    if (!code)
        code = check_head(s, e, err);
    if (!code)
        code = read_tables(s, err);
    if (!code)
        code = check_ids(s, e, err);
    if (code)
        saved_close(s);
    return code;
}

void saved_rest(struct saved *s)
{
    if (s->path && s->fd >= 0)
        close(s->fd);
    s->fd = -1;
}

void saved_close(struct saved *s)
{
    saved_rest(s);
    free(s->tables);
    free(s->path);
    *s = (struct saved){.fd = -1};
}

/* Where part i begins. */
static size_t part_at(const struct saved *s, int i)
{
    const struct saved_head *h = &s->head;
    int n_states = saved_n_states(s->kind, h), states = i < n_states ? i : n_states;
    return (size_t)h->data_at + (size_t)states * (size_t)h->state_bytes + (size_t)(i - states) * (size_t)h->page_bytes;
}

/* The only numbers of a state that addresses depend on. */
static int check_behind(const struct saved *s, const struct qn_engine *e, int i, const uint8_t *state,
                        struct qn_error *err)
{
    const struct saved_head *h = &s->head;
    bool is_last = i == saved_n_states(s->kind, h) - 1;
    const struct behind *b = state_behind(e, state);
    uint64_t n = is_last ? h->n_ids : h->before[i];
    if (b && (b->n < 0 || b->n > BEHIND_ROWS || (uint64_t)b->n > n))
        return fail(err, QN_E_FORMAT, "%s: damaged: the draft block is %d tokens behind %llu", s->path, b->n,
                    (unsigned long long)n);
    return 0;
}

/* Pieces that lie one behind another in a file, on their way to memory. */
struct reading {
    const struct saved *s;
    struct piece *piece; /* [n] */
    size_t n;
    const size_t *at; /* [n] in the file */
    atomic_size_t next;
    atomic_bool failed;
    struct qn_error err; /* why, of the first that failed */
};

/* Memory that nobody has used yet costs more than what is read into it, so all workers do it. */
static void read_worker(struct worker *w, void *arg)
{
    struct reading *r = arg;
    struct qn_error err;
    size_t i;
    while ((i = atomic_fetch_add_explicit(&r->next, 1, memory_order_relaxed)) < r->n) {
        struct piece *p = &r->piece[i];
        if (!read_bytes(r->s, (uint8_t *)(uintptr_t)p->data, p->bytes, r->at[i], &err))
            p->hash = XXH3_64bits(p->data, p->bytes);
        else if (!atomic_exchange(&r->failed, true))
            r->err = err;
    }
}

/* The pieces from file offset `from` on have the checksums that stand in the tables from `first` on. */
static int read_pieces(struct saved *s, struct qn_engine *e, struct piece *pieces, size_t n, size_t *at, size_t from,
                       size_t first, struct qn_error *err)
{
    struct reading r = {.s = s, .piece = pieces, .n = n, .at = at};
    const uint8_t *want = s->tables + pieces_at(&s->head) + first * sizeof pieces->hash;
    for (size_t i = 0; i < n; from += pieces[i++].bytes)
        at[i] = from;
    atomic_init(&r.next, 0);
    atomic_init(&r.failed, false);
    pool_run(e->pool, e->n_threads_batch, read_worker, &r);
    if (atomic_load(&r.failed)) {
        *err = r.err;
        return err->code;
    }
    for (size_t i = 0; i < n; i++)
        if (memcmp(want + i * sizeof pieces->hash, &pieces[i].hash, sizeof pieces->hash) != 0)
            return fail(err, QN_E_FORMAT, "%s: damaged: checksum %zu of %llu is not right", s->path, first + i + 1,
                        (unsigned long long)s->head.n_pieces);
    return 0;
}

int saved_read(struct saved *s, struct qn_engine *e, int first, int n, uint8_t *const *out, struct qn_error *err)
{
    const struct saved_head *h = &s->head;
    int n_states = saved_n_states(s->kind, h), before = first < n_states ? first : n_states;
    if (s->fd < 0 && open_file(s, err))
        return err->code;
    size_t n_pieces;
    struct piece *pieces = cut_parts(h, (const uint8_t *const *)out, n_states, first, n, &n_pieces);
    size_t *at = calloc(n_pieces + 1, sizeof *at);
    int code = pieces && at ? read_pieces(s, e, pieces, n_pieces, at, part_at(s, first),
                                          pieces_of(h, before, first - before), err)
                            : fail(err, QN_E_MEMORY, "%s: no memory to read it", s->path);
    for (int i = first; !code && i < first + n && i < n_states; i++)
        code = check_behind(s, e, i, out[i - first], err);
    free(pieces);
    free(at);
    return code;
}
