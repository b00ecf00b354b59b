/* SPDX-License-Identifier: MIT */
/* The prefix store: a radix tree over token ids.  A node is a run of tokens behind its parent's.  It has references to the KV pages of
 * its positions, where a page in which one node ends and the next begins belongs to both, and it may have a snapshot: a copy of the
 * recurrent state behind its last token.  Snapshots leave in the order of their last use; a node without one goes when nothing
 * hangs on it, so every leaf has one.  A model without recurrent states has snapshots, too, which take no memory. */
#include "store.h"
#include "run.h"
#include "tier.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct node {
    struct node *parent, *child, *next; /* child: the first; next: sibling */
    int from, to; /* positions */
    int32_t *ids; /* [to - from] */
    int32_t *page; /* [blocks_of()] pages of blocks from / 128 to (to - 1) / 128 */
    bool kept; /* has a snapshot */
    int32_t slot; /* of the snapshot, if there are recurrent states */
    struct node *older, *newer; /* among snapshots */
    int64_t used_ns; /* when the snapshot was used last: system time, for the files' */
};

struct store {
    struct qn_engine *e;
    struct node root; /* no tokens */
    struct node *oldest, *newest;
    struct node *hold; /* is not freed while something is being put below it */
    struct node *guard; /* its snapshot stays, since it is wanted next */
    int32_t *held; /* [pages] how many nodes refer to each */
    int32_t *way; /* [n_blocks] pages on the way to a place */
    int32_t n_held; /* pages that are referred to */
    size_t budget, bytes;
    int n_kept;
    int64_t n_evicted;
    struct tier *tier; /* where what leaves goes to; NULL: nowhere */
};

/* A place in the tree: n tokens lead there, the last of them in node. */
struct place {
    struct node *node;
    int n;
};

static size_t page_cost(const struct qn_engine *e) { return budget_charge(e->page_bytes); }
size_t store_pages(const struct qn_engine *e, size_t budget) { return budget / page_cost(e); }
size_t store_slots(const struct qn_engine *e, size_t budget) { return e->slot_bytes ? budget / e->slot_bytes : 0; }

int store_interval(const struct qn_engine *e)
{
    enum { UNIT = 512, MOST = 8192 };
    size_t position = e->page_bytes / ATTN_BLOCK;
    if (!e->slot_bytes)
        return 0;
    return !position || e->slot_bytes / position >= MOST ? MOST : (int)(e->slot_bytes / position / UNIT + 1) * UNIT;
}

struct store *store_open(struct qn_engine *e, size_t budget)
{
    struct store *st = calloc(1, sizeof *st);
    if (!st)
        return NULL;
    st->e = e;
    st->budget = budget;
    st->held = mem_reserve((size_t)e->pages.n * sizeof *st->held, false);
    st->way = mem_reserve((size_t)e->n_blocks * sizeof *st->way, false);
    if (st->held && st->way)
        return st;
    store_close(st);
    return NULL;
}

int store_use_folder(struct qn_engine *e, const char *folder, size_t budget, struct qn_error *err)
{
    if (!e->store)
        return fail(err, QN_E_ARGUMENT, "%s: a cache folder takes what leaves the prefix store, which has no memory",
                    folder);
    return tier_open(&e->store->tier, e, folder, budget, err);
}

/* ---- nodes */

static int blocks_of(int from, int to) { return (to - 1) / ATTN_BLOCK - from / ATTN_BLOCK + 1; }

static size_t own_bytes(const struct node *n)
{
    return sizeof *n + sizeof(int32_t) * (size_t)(n->to - n->from + blocks_of(n->from, n->to));
}

static void hold_page(struct store *st, int32_t p)
{
    slab_share(&st->e->pages, p);
    if (st->held[p]++ == 0) {
        st->bytes += page_cost(st->e);
        st->n_held++;
    }
}

static void leave_page(struct store *st, int32_t p)
{
    if (--st->held[p] == 0) {
        st->bytes -= page_cost(st->e);
        st->n_held--;
    }
    slab_drop(&st->e->pages, p);
}

/* A node for positions [from, to) of a path, linked to nothing; NULL when there is no memory. */
static struct node *new_node(struct store *st, int from, int to, const int32_t *ids, const int32_t *pages)
{
    struct node *n = calloc(1, sizeof *n);
    int n_blocks = blocks_of(from, to);
    if (!n)
        return NULL;
    n->from = from;
    n->to = to;
    n->ids = malloc((size_t)(to - from) * sizeof *ids);
    n->page = malloc((size_t)n_blocks * sizeof *pages);
    if (!n->ids || !n->page) {
        free(n->ids);
        free(n->page);
        free(n);
        return NULL;
    }
    memcpy(n->ids, ids, (size_t)(to - from) * sizeof *ids);
    memcpy(n->page, pages, (size_t)n_blocks * sizeof *pages);
    for (int b = 0; b < n_blocks; b++)
        hold_page(st, n->page[b]);
    st->bytes += own_bytes(n);
    return n;
}

static void free_node(struct store *st, struct node *n)
{
    for (int b = 0; b < blocks_of(n->from, n->to); b++)
        leave_page(st, n->page[b]);
    st->bytes -= own_bytes(n);
    free(n->ids);
    free(n->page);
    free(n);
}

static void add_child(struct node *parent, struct node *n)
{
    n->parent = parent;
    n->next = parent->child;
    parent->child = n;
}

static void unlink_child(struct node *n)
{
    struct node **at = &n->parent->child;
    while (*at != n)
        at = &(*at)->next;
    *at = n->next;
}

/* Cuts n in front of position `at` and returns the upper part; NULL when there is no memory. */
static struct node *split(struct store *st, struct node *n, int at)
{
    struct node *upper = new_node(st, n->from, at, n->ids, n->page);
    int gone = at / ATTN_BLOCK - n->from / ATTN_BLOCK; /* blocks that end in front of `at` */
    if (!upper)
        return NULL;
    st->bytes -= own_bytes(n);
    for (int b = 0; b < gone; b++)
        leave_page(st, n->page[b]);
    memmove(n->ids, n->ids + (at - n->from), (size_t)(n->to - at) * sizeof *n->ids);
    n->from = at;
    memmove(n->page, n->page + gone, (size_t)blocks_of(at, n->to) * sizeof *n->page);
    st->bytes += own_bytes(n);
    unlink_child(n);
    add_child(n->parent, upper);
    add_child(upper, n);
    return upper;
}

/* ---- snapshots, by last use */

static void unlink_kept(struct store *st, struct node *n)
{
    *(n->older ? &n->older->newer : &st->oldest) = n->newer;
    *(n->newer ? &n->newer->older : &st->newest) = n->older;
}

static void link_newest(struct store *st, struct node *n)
{
    n->older = st->newest;
    n->newer = NULL;
    *(st->newest ? &st->newest->newer : &st->oldest) = n;
    st->newest = n;
}

/* n was used.  Without recurrent states any node can be resumed from, so each that is used gets a snapshot. */
static void touch(struct store *st, struct node *n)
{
    if (n->kept)
        unlink_kept(st, n);
    else
        st->n_kept++;
    n->kept = true;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    n->used_ns = (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
    link_newest(st, n);
}

/* Frees n and its ancestors as far as nothing needs them. */
static void prune(struct store *st, struct node *n)
{
    while (n != &st->root && !n->child && !n->kept && n != st->hold) {
        struct node *parent = n->parent;
        unlink_child(n);
        free_node(st, n);
        n = parent;
    }
}

static void drop_snapshot(struct store *st, struct node *n)
{
    unlink_kept(st, n);
    n->kept = false;
    st->n_kept--;
    if (st->e->slot_bytes) {
        slab_drop(&st->e->slots, n->slot);
        st->bytes -= st->e->slot_bytes;
    }
    prune(st, n);
}

/* Fills in st->way with the pages of the first at.n positions; returns their number. */
static int find_way(struct store *st, struct place at)
{
    int n_pages = at.n ? blocks_of(0, at.n) : 0, b = n_pages - 1;
    for (const struct node *n = at.node; n != &st->root; n = n->parent)
        for (; b >= n->from / ATTN_BLOCK;
             b--) /* of nodes that share a page, the deepest has the page that ours wrote on */
            st->way[b] = n->page[b - n->from / ATTN_BLOCK];
    return n_pages;
}

/* Writes what leads to a snapshot, and it, into the folder. */
static void put_away(struct store *st, struct node *n)
{
    int depth = 0;
    for (const struct node *x = n; x != &st->root; x = x->parent)
        depth++;
    int32_t *ids = malloc((size_t)n->to * sizeof *ids);
    int *ends = malloc((size_t)depth * sizeof *ends);
    if (ids && ends) {
        int i = depth;
        for (const struct node *x = n; x != &st->root; x = x->parent) {
            memcpy(ids + x->from, x->ids, (size_t)(x->to - x->from) * sizeof *ids);
            ends[--i] = x->to;
        }
        find_way(st, (struct place){.node = n, .n = n->to});
        tier_put(st->tier, &(struct tier_place){.ids = ids,
                                                .n = n->to,
                                                .page = st->way,
                                                .state = st->e->slot_bytes ? slab_at(&st->e->slots, n->slot) : NULL,
                                                .ends = ends,
                                                .n_ends = depth,
                                                .used_ns = n->used_ns});
    }
    free(ids);
    free(ends);
}

void store_close(struct store *st)
{
    if (!st)
        return;
    for (struct node *n = st->newest; n && st->tier; n = n->older)
        put_away(st, n);
    while (st->oldest)
        drop_snapshot(st, st->oldest);
    tier_close(st->tier);
    mem_release(st->held, (size_t)st->e->pages.n * sizeof *st->held);
    mem_release(st->way, (size_t)st->e->n_blocks * sizeof *st->way);
    free(st);
}

bool store_give_way(struct store *st)
{
    struct node *n = !st ? NULL : st->oldest == st->guard && st->guard ? st->guard->newer : st->oldest;
    if (!n)
        return false;
    if (st->tier)
        put_away(st, n);
    drop_snapshot(st, n);
    st->n_evicted++;
    return true;
}

int32_t store_holds(const struct store *st, int32_t p) { return st ? st->held[p] : 0; }
size_t store_beside_pages(const struct store *st) { return st ? st->bytes - (size_t)st->n_held * page_cost(st->e) : 0; }
size_t store_node_bytes(const struct store *st)
{
    return st ? store_beside_pages(st) - (st->e->slot_bytes ? (size_t)st->n_kept * st->e->slot_bytes : 0) : 0;
}

/* ---- looking up */

static int agree(const int32_t *a, int n_a, const int32_t *b, int n_b)
{
    int n = 0;
    while (n < n_a && n < n_b && a[n] == b[n])
        n++;
    return n;
}

/* How far ids lead into the tree. */
static struct place walk(struct store *st, const int32_t *ids, int n)
{
    struct place at = {.node = &st->root};
    while (at.n == at.node->to && at.n < n) {
        struct node *child = at.node->child;
        while (child && child->ids[0] != ids[at.n])
            child = child->next;
        if (!child)
            break;
        at.n += agree(child->ids, child->to - child->from, ids + at.n, n - at.n);
        at.node = child;
    }
    return at;
}

/* The last place on the way to `at`, at most `limit` tokens deep, where a sequence can be resumed. */
static struct place resumable(struct store *st, struct place at, int limit)
{
    bool anywhere = !st->e->slot_bytes;
    at.n = at.n < limit ? at.n : limit;
    while (at.node != &st->root && (anywhere ? at.node->from >= at.n : !at.node->kept || at.node->to > at.n))
        at.node = at.node->parent;
    if (!anywhere || at.node == &st->root)
        at.n = at.node->to;
    return at;
}

int store_before(struct store *st, const struct qn_seq *s, int limit, const uint8_t **state)
{
    if (!st->e->slot_bytes || limit < 1)
        return 0;
    struct place at = resumable(st, walk(st, s->ids, s->n), limit - 1);
    if (at.n > 0)
        *state = slab_at(&st->e->slots, at.node->slot);
    return at.n;
}

/* ---- keeping */

/* Bytes that a snapshot of s adds behind the first `at` tokens, which the tree has; of these, those that are not pages. */
static size_t bytes_for(const struct store *st, const struct qn_seq *s, int at, size_t *beside)
{
    size_t bytes = st->e->slot_bytes + 2 * sizeof(struct node) + sizeof(int32_t); /* a cut makes one more of each */
    if (at < s->n)
        bytes += sizeof(int32_t) * (size_t)(s->n - at + blocks_of(at, s->n));
    *beside = bytes;
    for (int b = at / ATTN_BLOCK; at < s->n && b <= (s->n - 1) / ATTN_BLOCK; b++)
        bytes += st->held[s->page[b]] ? 0 : page_cost(st->e);
    return bytes;
}

static bool make_room(struct store *st, const struct qn_seq *s, int at)
{
    const struct qn_engine *e = st->e;
    size_t whole = e->slot_bytes + (size_t)s->n_pages * page_cost(e), beside;
    if (whole > st->budget || (size_t)e->n_pages_live * budget_page_cost(e) + e->slot_bytes > e->budget)
        return false; /* whatever left for it */
    while (bytes_for(st, s, at, &beside) > st->budget - st->bytes || budget_used(e) + beside > e->budget)
        if (!store_give_way(st))
            return false;
    return true;
}

/* The node that ends behind the last token of s, of which the tree has those up to `at`; NULL when there is no memory. */
static struct node *node_for(struct store *st, const struct qn_seq *s, struct place at)
{
    struct node *n = at.n < at.node->to ? split(st, at.node, at.n) : at.node;
    if (!n || at.n == s->n)
        return n;
    struct node *end = new_node(st, at.n, s->n, s->ids + at.n, s->page + at.n / ATTN_BLOCK);
    if (end)
        add_child(n, end);
    return end;
}

bool store_keep(struct store *st, struct qn_seq *s)
{
    struct place at = walk(st, s->ids, s->n);
    bool there = at.n == s->n && (!st->e->slot_bytes || (at.node->kept && at.node->to == s->n));
    if (s->n == 0)
        return true;
    st->hold = at.node;
    struct node *n = there ? at.node : make_room(st, s, at.n) ? node_for(st, s, at) : NULL;
    st->hold = NULL;
    if (n && !there && st->e->slot_bytes) {
        budget_make_room(st->e, &st->e->slots, st->e->slot_bytes); /* nothing leaves for it any more */
        n->slot = slab_take(&st->e->slots, NULL);
        memcpy(slab_at(&st->e->slots, n->slot), s->state, state_size(st->e));
        st->bytes += st->e->slot_bytes;
    }
    if (n)
        touch(st, n);
    prune(st, at.node);
    return n != NULL;
}

/* ---- resuming */

/* Pages that come into use when s is taken to a place, less those that nobody uses any more then. */
static int64_t pages_coming(struct store *st, const struct qn_seq *s, struct place at)
{
    const int32_t *refs = st->e->pages.refs;
    int64_t coming = 0;
    int n = find_way(st, at);
    for (int b = 0; b < n; b++)
        coming += refs[st->way[b]] == st->held[st->way[b]];
    for (int b = 0; b < s->n_pages; b++) {
        int32_t p = s->page[b];
        coming -= refs[p] == st->held[p] + 1 && !(b < n && st->way[b] == p);
    }
    return coming;
}

/* The same as resumable(), but there is memory for it unless s has as many tokens itself. */
static struct place affordable(struct store *st, const struct qn_seq *s, struct place at, int limit, int own)
{
    at = resumable(st, at, limit);
    while (at.n > own && !budget_has(st->e, pages_coming(st, s, at)))
        at = resumable(st, at, (at.n - 1) / ATTN_BLOCK * ATTN_BLOCK);
    return at;
}

/* Makes s hold the tokens that lead to a resumable place: the first of ids. */
static void restore(struct store *st, struct qn_seq *s, struct place at, const int32_t *ids)
{
    struct qn_engine *e = st->e;
    int n_pages = find_way(st, at);
    touch(st, at.node);
    state_drop_pages(s, 0);
    while (s->n_pages < n_pages)
        state_share_page(s, st->way[s->n_pages]);
    if (e->slot_bytes)
        memcpy(s->state, slab_at(&e->slots, at.node->slot), state_size(e));
    s->stale = false;
    memmove(s->ids, ids, (size_t)at.n * sizeof *ids);
    s->n = at.n;
}

/* Makes s hold what was found in the folder, but for whole blocks that the tree has; there is memory for it.  False: it could not be
 * read, and s has lost what it had. */
static bool read_back(struct store *st, struct qn_seq *s, struct tier_found *f, const int32_t *ids, struct place shared)
{
    struct qn_error none;
    int n_shared = find_way(st, shared);
    state_drop_pages(s, 0);
    while (s->n_pages < n_shared)
        state_share_page(s, st->way[s->n_pages]);
    s->n = shared.n;
    int code = qn_seq_reserve(s, f->n, &none);
    assert(!code);
    (void)code;
    state_admit(s, f->n - s->n);
    if (!tier_read(st->tier, f, n_shared, s)) {
        qn_seq_clear(s);
        return false;
    }
    s->stale = false;
    memmove(s->ids, ids, (size_t)f->n * sizeof *ids);
    s->n = f->n;
    return true;
}

/* The same for the deepest place in the folder that is behind more than `above` and at most `limit` of ids; it comes into the tree, too.
 * Returns its depth, 0 when there is none; then s may have lost what it had. */
static int resume_from_folder(struct store *st, struct qn_seq *s, const int32_t *ids, int above, int limit)
{
    struct tier_found f;
    int n = 0;
    for (int most = limit; !n && st->tier && tier_find(st->tier, ids, above, most, &f) > 0; most--) {
        most = f.n;
        struct place shared = walk(st, ids, f.n);
        shared.n -= shared.n % ATTN_BLOCK;
        int64_t coming = pages_coming(st, s, shared) + blocks_of(0, f.n) - shared.n / ATTN_BLOCK;
        if (budget_has(st->e, coming) && read_back(st, s, &f, ids, shared))
            n = f.n;
        tier_release(&f);
    }
    if (n)
        store_keep(st, s);
    return n;
}

/* The tokens that s can go back to without a snapshot, up to `limit`, when its first `same` are wanted. */
static int own_place(const struct qn_seq *s, int same, int limit)
{
    int n = same < limit ? same : limit;
    return n == s->n || !s->engine->slot_bytes ? n : 0;
}

static void go_back(struct qn_seq *s, int n)
{
    if (n == 0) {
        qn_seq_clear(s);
        return;
    }
    state_drop_pages(s, blocks_of(0, n));
    s->n = n;
}

/* Fills in what is known of ids[0..n): the first `same` in s, those up to `at` in the tree. */
static void compare(const struct qn_seq *s, int same, struct place at, const int32_t *ids, int n, struct qn_kept *out)
{
    out->n = n;
    out->same = same;
    out->was = out->same < s->n ? s->ids[out->same] : -1;
    if (at.node && (at.n > out->same || (at.n == out->same && out->was < 0))) {
        const struct node *next = at.n < at.node->to ? at.node : at.node->child;
        out->same = at.n;
        out->was = next ? next->ids[at.n - next->from] : -1;
    }
    out->is = out->same < n ? ids[out->same] : -1;
}

/* The folder may know more of them. */
static void compare_folder(const struct store *st, const int32_t *ids, int n, struct qn_kept *out)
{
    int32_t was;
    int same = st && st->tier && out->same < n ? tier_same(st->tier, ids, n, &was) : 0;
    if (same <= out->same)
        return;
    out->same = same;
    out->was = was;
    out->is = same < n ? ids[same] : -1;
}

int qn_seq_resume(qn_seq *s, const int32_t *ids, int n, struct qn_kept *out)
{
    struct qn_engine *e = s->engine;
    struct store *st = e->store;
    struct place at = {0}, best = {0};
    struct qn_kept k = {0};
    budget_release(s);
    int limit = n - 1 < e->n_ctx ? n - 1 : e->n_ctx, same = agree(s->ids, s->n, ids, n);
    limit = limit < 0 ? 0 : limit;
    if (st) {
        at = walk(st, ids, n);
        best = resumable(st, at, limit);
    }
    compare(s, same, at, ids, n, &k);
    if (out)
        compare_folder(st, ids, n, &k);
    k.kept = own_place(s, same, limit);
    bool goes_on = same == s->n && (k.kept == s->n || best.n >= s->n);
    if (st && !goes_on) {
        if (best.n > 0)
            touch(st, st->guard = best.node);
        store_keep(st, s);
        st->guard = NULL;
    }
    if (st)
        best = affordable(st, s, walk(st, ids, n), limit, k.kept);
    int known = best.n > k.kept ? best.n : k.kept, had = s->n, disk = 0;
    if (st && known < limit) /* where any token will do, the last one need not be left out in looking */
        disk = resume_from_folder(st, s, ids, known, e->slot_bytes || n > e->n_ctx ? limit : n);
    if (st && known < limit && !disk) { /* a file that could not be read may have cost what s had, and snapshots */
        k.kept = s->n < had ? 0 : k.kept;
        best = affordable(st, s, walk(st, ids, n), limit, k.kept);
    }
    if (disk) {
        go_back(s, disk < limit ? disk : limit);
        k.kept = s->n;
        k.disk = s->n - known;
    } else if (best.n > k.kept) {
        restore(st, s, best, ids);
        k.kept = best.n;
    } else if (k.kept < s->n) {
        go_back(s, k.kept);
    }
    if (out)
        *out = k;
    return k.kept;
}

int qn_seq_rewind(qn_seq *s, int n)
{
    struct store *st = s->engine->store;
    budget_release(s);
    if (n >= s->n)
        return s->n;
    n = n < 0 ? 0 : n;
    int own = own_place(s, n, n);
    struct place best = {0};
    if (st && own < n)
        best = affordable(st, s, walk(st, s->ids, n), n, own);
    int known = best.n > own ? best.n : own, had = s->n;
    if (st && known < n && resume_from_folder(st, s, s->ids, known, n))
        return s->n;
    if (st && known < n) {
        own = s->n < had ? 0 : own;
        best = affordable(st, s, walk(st, s->ids, n), n, own);
    }
    if (best.n > own)
        restore(st, s, best, s->ids);
    else
        go_back(s, own);
    return s->n;
}

int qn_seq_keep(qn_seq *s) { return s->engine->store && store_keep(s->engine->store, s); }

void qn_cache_info(const qn_engine *e, struct qn_cache_info *out)
{
    const struct store *st = e->store;
    *out = (struct qn_cache_info){0};
    if (st)
        *out = (struct qn_cache_info){
            .budget = st->budget, .bytes = st->bytes, .n_snapshots = st->n_kept, .n_evicted = st->n_evicted};
    if (st && st->tier)
        tier_info(st->tier, out);
}
