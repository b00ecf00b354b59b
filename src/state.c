/* SPDX-License-Identifier: MIT */
/* Memory of a sequence.  Keys and values lie in pages: one page is one attention block, 128 positions, of all attention layers and
 * KV heads.  Pages are shared by reference.  Nothing past a sequence's end is read, so a page's unfilled rest may be written by one
 * of those who share it, and whoever wants to write elsewhere copies the page first.  Recurrent states and the convolutions' inputs
 * have no positions: each sequence has its own slot, which is copied when it is needed twice. */
#include "run.h"
#include "store.h"

#include <stdlib.h>
#include <string.h>

static size_t round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }

/* Where in a slot the struct is, behind the other parts. */
static size_t behind_at(const struct qn_engine *e) { return round_up(e->state_bytes + e->conv_bytes, CACHE_LINE); }

const struct behind *state_behind(const struct qn_engine *e, const void *state)
{
    return e->behind_bytes ? (const void *)((const uint8_t *)state + behind_at(e)) : NULL;
}

void state_sizes(struct qn_engine *e)
{
    const struct hparams *hp = &e->model.hp;
    size_t dim = (size_t)hp->ssm_dim;
    e->n_blocks = (e->n_ctx - 1) / ATTN_BLOCK + 1;
    e->kv_block_bytes = kv_key_bytes(e->k_kind, hp->head_dim) + kv_value_bytes(e->v_kind, hp->head_dim);
    e->page_bytes = e->kv_block_bytes * (size_t)hp->n_head_kv * (size_t)e->model.n_kv;
    e->state_bytes = sizeof(float) * (size_t)e->model.n_delta * (size_t)hp->n_v_head * dim * dim;
    size_t channels = (2 * (size_t)hp->n_k_head + (size_t)hp->n_v_head) * dim;
    e->conv_bytes = hp->n_tap ? sizeof(float) * (size_t)e->model.n_delta * (size_t)(hp->n_tap - 1) * channels : 0;
    e->behind_bytes = e->model.drafts ? behind_at(e) - e->state_bytes - e->conv_bytes + sizeof(struct behind) +
                                            sizeof(float) * BEHIND_ROWS * (size_t)hp->n_embd
                                      : 0;
    e->slot_bytes = round_up(state_size(e), 4096); /* sequences do not share pages of the system */
}

int state_open(struct qn_engine *e, struct qn_error *err)
{
    size_t n_seq = (size_t)e->n_seq, n_pages = n_seq * (size_t)e->n_blocks + store_pages(e, e->cache_bytes);
    size_t fit = e->budget / budget_page_cost(e);
    n_pages = n_pages < fit ? n_pages : fit;
    /* a huge page would put the columns of a state that workers of several nodes own onto one of them */
    bool huge = pool_n_nodes(e->pool) == 1;
    e->fill = mem_reserve(n_pages, false);
    e->owner = mem_reserve(n_pages * sizeof *e->owner, false);
    if (!e->fill || !e->owner || !slab_open(&e->pages, e->page_bytes, n_pages, true) ||
        !slab_open(&e->slots, e->slot_bytes, n_seq + store_slots(e, e->cache_bytes), huge))
        return fail(err, QN_E_MEMORY, "no address space for %zu pages of %.1f KiB and %d recurrent states of %.1f MiB",
                    n_pages, (double)e->page_bytes / 1024, e->n_seq, (double)e->slot_bytes / 1048576);
    if (e->cache_bytes && !(e->store = store_open(e, e->cache_bytes)))
        return fail(err, QN_E_MEMORY, "no memory for the tables of the prefix store");
    e->keep_every = e->store ? store_interval(e) : 0;
    return 0;
}

void state_close(struct qn_engine *e)
{
    store_close(e->store);
    e->store = NULL;
    mem_release(e->fill, (size_t)e->pages.n);
    mem_release(e->owner, (size_t)e->pages.n * sizeof *e->owner);
    e->fill = NULL;
    e->owner = NULL;
    slab_close(&e->pages);
    slab_close(&e->slots);
}

uint8_t *state_keys(const struct qn_seq *s, int i, int h, int b)
{
    const struct qn_engine *e = s->engine;
    return slab_at(&e->pages, s->page[b]) + ((size_t)i * (size_t)e->model.hp.n_head_kv + (size_t)h) * e->kv_block_bytes;
}

uint8_t *state_values(const struct qn_seq *s, int i, int h, int b)
{
    const struct qn_engine *e = s->engine;
    return state_keys(s, i, h, b) + kv_key_bytes(e->k_kind, e->model.hp.head_dim);
}

float *state_tile(const struct qn_seq *s, int i, int v_head, int slice)
{
    const struct hparams *hp = &s->engine->model.hp;
    size_t dim = (size_t)hp->ssm_dim;
    return s->state + ((size_t)i * (size_t)hp->n_v_head + (size_t)v_head) * dim * dim + (size_t)slice * dim * 16;
}

float *state_conv(const struct qn_seq *s, int i)
{
    return s->conv + s->engine->conv_bytes / sizeof(float) / (size_t)s->engine->model.n_delta * (size_t)i;
}

/* ---- pages */

/* A page that s has been promised. */
static int32_t take_page(struct qn_seq *s)
{
    struct qn_engine *e = s->engine;
    budget_make_room(e, &e->pages, budget_page_cost(e));
    int32_t p = slab_take(&e->pages, NULL);
    e->owner[p] = s->slot + 1;
    s->n_promised--;
    e->n_promised--;
    e->n_pages_live++;
    return p;
}

static void drop_page(struct qn_seq *s, int32_t p)
{
    struct qn_engine *e = s->engine;
    if (e->owner[p] == s->slot + 1)
        e->owner[p] = 0;
    slab_drop(&e->pages, p);
    e->n_pages_live -= e->pages.refs[p] == store_holds(e->store, p);
}

void state_share_page(struct qn_seq *s, int32_t p)
{
    struct qn_engine *e = s->engine;
    e->n_pages_live += e->pages.refs[p] == store_holds(e->store, p);
    slab_share(&e->pages, p);
    s->page[s->n_pages++] = p;
}

/* Block b of s becomes a page of its own. */
static void copy_page(struct qn_seq *s, int b)
{
    struct qn_engine *e = s->engine;
    int32_t own = take_page(s), shared = s->page[b];
    memcpy(slab_at(&e->pages, own), slab_at(&e->pages, shared), e->page_bytes);
    drop_page(s, shared);
    s->page[b] = own;
}

bool state_copies(const struct qn_seq *s)
{
    const struct qn_engine *e = s->engine;
    if (s->n % ATTN_BLOCK == 0)
        return false;
    int32_t p = s->page[s->n / ATTN_BLOCK];
    bool others = e->owner[p] != 0 && e->owner[p] != s->slot + 1;
    return e->pages.refs[p] > 1 && (others || e->fill[p] != s->n % ATTN_BLOCK);
}

void state_claim(struct qn_seq *s)
{
    struct qn_engine *e = s->engine;
    if (s->n % ATTN_BLOCK == 0 || state_copies(s))
        return;
    int32_t p = s->page[s->n / ATTN_BLOCK];
    e->owner[p] = s->slot + 1;
    e->fill[p] = (uint8_t)(s->n % ATTN_BLOCK); /* what is behind belongs to nobody */
}

void state_admit(struct qn_seq *s, int n)
{
    struct qn_engine *e = s->engine;
    int first = s->n / ATTN_BLOCK, end = s->n + n;
    if (s->n == 0)
        state_settle(s);
    if (state_copies(s))
        copy_page(s, first);
    for (; s->n_pages * ATTN_BLOCK < end; s->n_pages++)
        s->page[s->n_pages] = take_page(s);
    for (int b = first; b < s->n_pages; b++)
        e->fill[s->page[b]] = (uint8_t)(end - b * ATTN_BLOCK < ATTN_BLOCK ? end - b * ATTN_BLOCK : ATTN_BLOCK);
}

void state_read_page(const struct qn_engine *e, int32_t page, int end, int draft_end, uint8_t *out)
{
    const int dim = e->model.hp.head_dim;
    const size_t trunk = e->kv_block_bytes * (size_t)e->model.hp.n_head_kv * (size_t)e->model.n_attn;
    memcpy(out, slab_at(&e->pages, page), e->page_bytes);
    for (size_t at = 0; at < e->page_bytes; at += e->kv_block_bytes) {
        int n = at < trunk ? end : draft_end;
        if (n >= ATTN_BLOCK)
            continue;
        n = n < 0 ? 0 : n;
        kv_clear_keys(e->k_kind, out + at, dim, n);
        kv_clear_values(e->v_kind, out + at + kv_key_bytes(e->k_kind, dim), dim, n);
    }
}

void state_drop_pages(struct qn_seq *s, int n)
{
    while (s->n_pages > n)
        drop_page(s, s->page[--s->n_pages]);
}

void state_retract(struct qn_seq *s)
{
    int n = (s->n + ATTN_BLOCK - 1) / ATTN_BLOCK, promised = s->n_pages - n;
    state_drop_pages(s, n);
    s->n_promised += promised;
    s->engine->n_promised += promised;
    if (s->n % ATTN_BLOCK)
        s->engine->fill[s->page[s->n_pages - 1]] = (uint8_t)(s->n % ATTN_BLOCK);
}

/* ---- sequences */

static void free_tables(struct qn_seq *s)
{
    mem_release(s->page, (size_t)s->engine->n_blocks * sizeof *s->page);
    mem_release(s->ids, (size_t)s->engine->n_ctx * sizeof *s->ids);
    free(s);
}

int qn_seq_new(qn_seq **out, qn_engine *e, struct qn_error *err)
{
    *out = NULL;
    if (e->vocab_only)
        return fail(err, QN_E_ARGUMENT, "the model was opened for its vocabulary only");
    if (e->n_live >= e->n_seq)
        return fail(err, QN_E_NOSPACE, "%d sequences are alive, the engine was opened for %d", e->n_live, e->n_seq);
    struct qn_seq *s = calloc(1, sizeof *s);
    if (!s)
        return fail(err, QN_E_MEMORY, "no memory for a sequence");
    s->engine = e;
    s->page = mem_reserve((size_t)e->n_blocks * sizeof *s->page, false);
    s->ids = mem_reserve((size_t)e->n_ctx * sizeof *s->ids, false);
    if (!s->page || !s->ids) {
        free_tables(s);
        return fail(err, QN_E_MEMORY, "no address space for the tables of a sequence of %d tokens", e->n_ctx);
    }
    bool fresh;
    budget_trim(e, &e->slots, e->slot_bytes);
    s->slot = slab_take(&e->slots, &fresh);
    s->stale = !fresh;
    s->state = (float *)(void *)slab_at(&e->slots, s->slot);
    s->conv = s->state + e->state_bytes / sizeof(float);
    if (e->behind_bytes)
        s->behind = (struct behind *)(void *)((uint8_t *)s->state + behind_at(e));
    e->n_live++;
    *out = s;
    return 0;
}

void state_settle(struct qn_seq *s)
{
    if (s->stale)
        memset(s->state, 0, state_size(s->engine));
    s->stale = false;
}

int qn_seq_fork(qn_seq **out, const qn_seq *from, struct qn_error *err)
{
    struct qn_engine *e = from->engine;
    if (qn_seq_new(out, e, err))
        return err->code;
    struct qn_seq *s = *out;
    if (from->n == 0)
        return 0;
    while (s->n_pages < from->n_pages)
        state_share_page(s, from->page[s->n_pages]);
    s->n = from->n;
    memcpy(s->ids, from->ids, (size_t)s->n * sizeof *s->ids);
    memcpy(s->state, from->state, state_size(e));
    s->stale = false;
    return 0;
}

void qn_seq_free(qn_seq *s)
{
    if (!s)
        return;
    struct qn_engine *e = s->engine;
    budget_release(s);
    state_drop_pages(s, 0);
    slab_drop(&e->slots, s->slot);
    e->n_live--;
    free_tables(s);
}

void qn_seq_clear(qn_seq *s)
{
    budget_release(s);
    state_drop_pages(s, 0);
    s->n = 0;
    s->stale = true;
}

int qn_seq_len(const qn_seq *s) { return s->n; }
const int32_t *qn_seq_ids(const qn_seq *s) { return s->ids; }
