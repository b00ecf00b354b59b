/* SPDX-License-Identifier: MIT */
/* Admission.  Address space is reserved for whole contexts, memory is a budget of bytes: pages of the KV cache with what goes along
 * with them, and what the prefix store has beside pages.  A sequence is promised the pages that it may need, and a promise counts as
 * if they were in use, so what was promised is there.  The store counts for nothing here: it gives way when a page is really taken.
 *
 * Pieces that were given back stay with the slab that they came from and in memory.  Where the other slab grows instead, they go
 * back to the system, so that what is resident stays within the budget, too. */
#include "run.h"
#include "store.h"

size_t budget_page_cost(const struct qn_engine *e)
{
    size_t beside = ATTN_BLOCK * sizeof(int32_t) + attn_partial_floats(e, ATTN_BLOCK) * sizeof(float);
    return budget_charge(e->page_bytes + beside);
}

static size_t in_use(const struct slab *s) { return (size_t)(s->n_used - s->n_free); }
static size_t touched(const struct slab *s) { return (size_t)(s->n_used - s->n_gone); }

size_t budget_used(const struct qn_engine *e)
{
    return in_use(&e->pages) * budget_page_cost(e) + store_beside_pages(e->store);
}

/* The same of memory that was touched.  The slots of n_seq sequences are no part of the budget. */
static size_t resident(const struct qn_engine *e)
{
    size_t slots = touched(&e->slots), own = (size_t)e->n_seq, nodes = store_node_bytes(e->store);
    return touched(&e->pages) * budget_page_cost(e) + (slots > own ? slots - own : 0) * e->slot_bytes + nodes;
}

void budget_make_room(struct qn_engine *e, const struct slab *s, size_t bytes)
{
    while (budget_used(e) + bytes > e->budget && store_give_way(e->store))
        ;
    budget_trim(e, s, bytes);
}

void budget_trim(struct qn_engine *e, const struct slab *s, size_t bytes)
{
    while (!slab_has_touched(s) && resident(e) + bytes > e->budget &&
           (slab_discard(&e->slots) || slab_discard(&e->pages)))
        ;
}

/* ---- promises */

bool budget_has(const struct qn_engine *e, int64_t n_pages)
{
    return e->n_pages_live + e->n_promised + n_pages <= (int64_t)(e->budget / budget_page_cost(e));
}

/* Pages that s has to be given until it holds n tokens. */
static int32_t pages_for(const struct qn_seq *s, int n)
{
    int32_t more = (int32_t)ceil_div(n, ATTN_BLOCK) - s->n_pages;
    return n <= s->n ? 0 : (more > 0 ? more : 0) + state_copies(s);
}

static void promise(struct qn_seq *s, int32_t n_pages)
{
    s->engine->n_promised += n_pages - s->n_promised;
    s->n_promised = n_pages;
}

void budget_release(struct qn_seq *s) { promise(s, 0); }

static double mib(size_t bytes) { return (double)bytes / 1048576; }

static int refuse(const struct qn_seq *s, int n, struct qn_error *err)
{
    const struct qn_engine *e = s->engine;
    return fail(err, QN_E_MEMORY,
                "no memory for a context of %d tokens: %d would fit (%.1f MiB are there for keys and values, sequences "
                "have %.1f and are promised %.1f)",
                n, qn_seq_fits(s), mib(e->budget), mib((size_t)e->n_pages_live * budget_page_cost(e)),
                mib((size_t)e->n_promised * budget_page_cost(e)));
}

int qn_seq_reserve(qn_seq *s, int n, struct qn_error *err)
{
    const struct qn_engine *e = s->engine;
    if (n < 0)
        return fail(err, QN_E_ARGUMENT, "a context of %d tokens", n);
    if (n > e->n_ctx)
        return fail(err, QN_E_NOSPACE, "%d tokens do not fit into a context of %d", n, e->n_ctx);
    int32_t wanted = pages_for(s, n);
    if (!budget_has(e, wanted - s->n_promised))
        return refuse(s, n, err);
    promise(s, wanted);
    if (wanted)
        state_claim(s);
    return 0;
}

int budget_promise_spans(const struct qn_span *spans, int n_spans, struct qn_error *err)
{
    int64_t missing = 0;
    for (int i = 0; i < n_spans; i++) {
        struct qn_seq *s = spans[i].seq;
        state_claim(s); /* before the next one counts: only one of two that share a page goes on there without a copy */
        int32_t wanted = pages_for(s, s->n + spans[i].n);
        missing += wanted > s->n_promised ? wanted - s->n_promised : 0;
        if (missing && !budget_has(s->engine, missing))
            return refuse(s, s->n + spans[i].n, err);
    }
    for (int i = 0; i < n_spans; i++) {
        struct qn_seq *s = spans[i].seq;
        int32_t wanted = pages_for(s, s->n + spans[i].n);
        if (wanted > s->n_promised)
            promise(s, wanted);
    }
    return 0;
}

int qn_seq_fits(const qn_seq *s)
{
    const struct qn_engine *e = s->engine;
    int64_t pages = (int64_t)(e->budget / budget_page_cost(e)) - e->n_pages_live - e->n_promised + s->n_promised +
                    s->n_pages - state_copies(s);
    int64_t n = pages * ATTN_BLOCK;
    return n < s->n ? s->n : n > e->n_ctx ? e->n_ctx : (int)n;
}

void qn_memory_info(const qn_engine *e, struct qn_memory_info *out)
{
    *out = (struct qn_memory_info){
        .budget = e->budget, .used = budget_used(e), .promised = (size_t)e->n_promised * budget_page_cost(e)};
}
