/* SPDX-License-Identifier: MIT */
/* Worker pool and barrier.  A barrier counts arrivals per NUMA node, then over the nodes; waiters spin for a short while and
 * then sleep in the kernel, at once when there are more workers than cores, so that nobody spins on a core that the last arrival
 * needs.  Spins that fail get shorter: on a busy machine the others are not running, and what is spun away is missing later. */
#define _GNU_SOURCE
#include "pool.h"

#include <linux/futex.h>
#include <omp.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { MAX_NODES = 64, SPIN_MAX = 1000000, SPIN_MIN = 20000, SHORT_SLEEP = 500000, SPIN_TURNS = 64 }; /* ns; turns */

struct node_barrier {
    _Alignas(CACHE_LINE) atomic_int arrived; /* workers of this node */
    _Alignas(CACHE_LINE) atomic_uint phase; /* bumped once all nodes have arrived; the futex word */
    atomic_int sleepers;
};

/* How much of a worker's share is taken, for spreads under way and, zero, for the next ones. */
enum { SPREADS = 8 };
struct taken {
    _Alignas(CACHE_LINE) atomic_ullong units[SPREADS]; /* low half: from its front, high half: from its end */
};

struct pool {
    int n_max, n_nodes;
    int n_cores; /* that may run workers at once */
    bool pin;
    bool *pinned; /* [n_max] */
    int *node_of; /* [n_max] dense node index */
    int node_number[MAX_NODES]; /* [n_nodes] as the system counts */
    int *node_size; /* [n_nodes] workers of the running job */
    int active_nodes, spin;
    struct taken *taken; /* [n_max] */
    _Alignas(CACHE_LINE) atomic_int n_empty[SPREADS]; /* shares of which everything is taken */
    _Alignas(CACHE_LINE) atomic_int nodes_arrived;
    struct node_barrier node[MAX_NODES];
};

static void cpu_relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Sleeps until *word != value; may return early. */
static void futex_wait(atomic_uint *word, unsigned value)
{
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}

static void futex_wake_all(atomic_uint *word)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
}

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* After a sleep: a short one could have been spun through, a long one was not worth its spin. */
static void adapt_spin(struct worker *w, int64_t slept_ns)
{
    if (w->pool->spin == 0)
        return;
    w->spin = slept_ns < SHORT_SLEEP ? w->spin * 2 : w->spin / 2;
    w->spin = w->spin > SPIN_MAX ? SPIN_MAX : w->spin < SPIN_MIN ? SPIN_MIN : w->spin;
}

static void release_node(struct node_barrier *b)
{
    atomic_store_explicit(&b->arrived, 0, memory_order_relaxed);
    /* both sides are sequentially consistent: a sleeper is either counted here or sees the new phase before it sleeps */
    atomic_fetch_add_explicit(&b->phase, 1, memory_order_seq_cst);
    if (atomic_load_explicit(&b->sleepers, memory_order_seq_cst) > 0)
        futex_wake_all(&b->phase);
}

/* Waits up to ns for the phase to change; true when it has.  The clock counts, not the turns: an emulator's take far longer. */
static bool spin_for(struct node_barrier *b, unsigned phase, int ns)
{
    if (ns == 0)
        return false;
    int64_t now, end = 0; /* the clock is read when the first turns are over */
    do {
        for (int i = 0; i < SPIN_TURNS; i++) {
            if (atomic_load_explicit(&b->phase, memory_order_acquire) != phase)
                return true;
            cpu_relax();
        }
        now = now_ns();
        end = end ? end : now + ns;
    } while (now < end);
    return false;
}

void pool_barrier(struct worker *w)
{
    if (w->n == 1)
        return;
    struct pool *p = w->pool;
    int node = p->node_of[w->id];
    struct node_barrier *b = &p->node[node];
    unsigned phase = atomic_load_explicit(&b->phase, memory_order_relaxed);
    if (atomic_fetch_add_explicit(&b->arrived, 1, memory_order_acq_rel) == p->node_size[node] - 1 &&
        atomic_fetch_add_explicit(&p->nodes_arrived, 1, memory_order_acq_rel) == p->active_nodes - 1) {
        atomic_store_explicit(&p->nodes_arrived, 0, memory_order_relaxed);
        for (int i = 0; i < p->n_nodes; i++)
            if (i != node && p->node_size[i])
                release_node(&p->node[i]);
        release_node(b);
        return;
    }
    if (spin_for(b, phase, w->spin))
        return;
    int64_t asleep = now_ns();
    atomic_fetch_add_explicit(&b->sleepers, 1, memory_order_seq_cst);
    while (atomic_load_explicit(&b->phase, memory_order_seq_cst) == phase)
        futex_wait(&b->phase, phase);
    atomic_fetch_sub_explicit(&b->sleepers, 1, memory_order_relaxed);
    adapt_spin(w, now_ns() - asleep);
}

struct spread pool_spread(struct worker *w, int64_t n, int64_t least)
{
    unsigned now = w->n_spreads++ % SPREADS, later = (now + SPREADS / 2) % SPREADS;
    /* of the spread that used it last everyone is through, and nobody has reached the one that uses it next */
    atomic_store_explicit(&w->pool->taken[w->id].units[later], 0, memory_order_relaxed);
    if (w->id == 0)
        atomic_store_explicit(&w->pool->n_empty[later], 0, memory_order_relaxed);
    return (struct spread){.w = w, .n = n, .least = least < 1 ? 1 : least, .whose = w->id, .slot = (int)now};
}

/* Takes a piece of share s->whose, which begins at unit `from` and ends before `end`; false when nothing is left of it. */
static bool take_piece(const struct spread *s, int64_t from, int64_t end, int64_t *first, int64_t *last)
{
    struct pool *p = s->w->pool;
    atomic_ullong *units = &p->taken[s->whose].units[s->slot];
    unsigned long long seen = atomic_load_explicit(units, memory_order_relaxed);
    int64_t left, piece;
    do {
        int64_t front = (int64_t)(seen & UINT32_MAX), back = (int64_t)(seen >> 32);
        left = end - from - front - back;
        if (left <= 0)
            return false;
        piece = left / 2 > s->least ? left / 2 : s->least < left ? s->least : left;
        *first = s->whose == s->w->id ? from + front : end - back - piece;
    } while (!atomic_compare_exchange_weak_explicit(
        units, &seen, seen + ((unsigned long long)piece << (s->whose == s->w->id ? 0 : 32)), memory_order_relaxed,
        memory_order_relaxed));
    if (piece == left)
        atomic_fetch_add_explicit(&p->n_empty[s->slot], 1, memory_order_relaxed);
    *last = *first + piece;
    return true;
}

/* On to the next worker's share: those of the own node in a circle, then the others. */
static void next_share(struct spread *s)
{
    const int *node_of = s->w->pool->node_of, id = s->w->id;
    do {
        s->whose = s->whose + 1 < s->w->n ? s->whose + 1 : 0;
        if (s->whose == id && s->abroad)
            s->whose = -1;
        else if (s->whose == id)
            s->abroad = true;
    } while (s->whose >= 0 && (s->whose == id || (node_of[s->whose] != node_of[id]) != s->abroad));
}

bool pool_spread_next(struct spread *s, int64_t *first, int64_t *last)
{
    const int n_workers = s->w->n;
    if (n_workers == 1) {
        *first = 0;
        *last = s->n;
        s->n = 0;
        return *last > 0;
    }
    const atomic_int *n_empty = &s->w->pool->n_empty[s->slot];
    int n_shares = s->n < n_workers ? (int)s->n : n_workers; /* that are not empty from the start */
    while (s->whose >= 0) {
        if (take_piece(s, s->n * s->whose / n_workers, s->n * (s->whose + 1) / n_workers, first, last))
            return true;
        if (atomic_load_explicit(n_empty, memory_order_relaxed) == n_shares)
            s->whose = -1;
        else
            next_share(s);
    }
    return false;
}

/* The index of a node of the system, which gets one when it is new. */
static int dense_node(struct pool *p, int number)
{
    for (int i = 0; i < p->n_nodes; i++)
        if (p->node_number[i] == number)
            return i;
    if (p->n_nodes == MAX_NODES)
        return MAX_NODES - 1;
    p->node_number[p->n_nodes] = number;
    return p->n_nodes++;
}

int pool_open(struct pool **out, int n_max, bool pin, const struct log_sink *log, struct qn_error *err)
{
    *out = NULL;
    struct pool *p = mem_alloc(sizeof *p);
    if (!p)
        return fail(err, QN_E_MEMORY, "no memory for %d workers", n_max);
    p->n_max = n_max;
    p->n_cores = topology_default_threads();
    p->pin = pin && n_max <= p->n_cores;
    p->pinned = calloc((size_t)n_max, sizeof *p->pinned);
    p->node_of = calloc((size_t)n_max, sizeof *p->node_of);
    p->node_size = calloc(MAX_NODES, sizeof *p->node_size);
    p->taken = mem_alloc((size_t)n_max * sizeof *p->taken);
    if (!p->pinned || !p->node_of || !p->node_size || !p->taken) {
        pool_close(p);
        return fail(err, QN_E_MEMORY, "no memory for %d workers", n_max);
    }
    for (int i = 0; p->pin && i < n_max; i++)
        p->node_of[i] = dense_node(p, topology_node(i));
    if (p->n_nodes == 0)
        p->n_nodes = 1;
    if (n_max > p->n_cores)
        log_line(log, QN_LOG_INFO, "%d workers on %d cores: waiting workers sleep", n_max, p->n_cores);
    *out = p;
    return 0;
}

void pool_close(struct pool *p)
{
    if (!p)
        return;
    free(p->pinned);
    free(p->node_of);
    free(p->node_size);
    mem_free(p->taken);
    mem_free(p);
}

int pool_n_nodes(const struct pool *p) { return p->n_nodes; }
int pool_node(const struct pool *p, int i) { return p->node_number[i]; }
int pool_node_of(const struct pool *p, int i) { return p->node_of[i]; }

static void prepare_job(struct pool *p, int n)
{
    for (int i = 0; i < p->n_nodes; i++)
        p->node_size[i] = 0;
    for (int i = 0; i < n; i++)
        p->node_size[p->node_of[i]]++;
    p->active_nodes = 0;
    for (int i = 0; i < p->n_nodes; i++)
        p->active_nodes += p->node_size[i] > 0;
    p->spin = n <= p->n_cores ? SPIN_MAX : 0;
    for (int i = 0; i < SPREADS; i++) {
        atomic_store_explicit(&p->n_empty[i], 0, memory_order_relaxed);
        for (int k = 0; k < n; k++)
            atomic_store_explicit(&p->taken[k].units[i], 0, memory_order_relaxed);
    }
}

/* Worker 0 is the caller's thread and runs where the system likes, unless there are several nodes: then it is bound to its place
 * while the job lasts, or it would read another node's memory as its own. */
static void run_first(struct worker *w, void (*fn)(struct worker *w, void *arg), void *arg)
{
    struct topology_mask callers;
    bool bound = w->n > 1 && w->pool->n_nodes > 1 && topology_mask_get(&callers);
    if (bound)
        topology_pin(0, w->pool->n_max);
    fn(w, arg);
    if (bound)
        topology_mask_set(&callers);
}

void pool_run(struct pool *p, int n, void (*fn)(struct worker *w, void *arg), void *arg)
{
    n = n < 1 ? 1 : n > p->n_max ? p->n_max : n;
    prepare_job(p, n);
    /* always the same team size: shrinking and growing a team would re-create its threads */
#pragma omp parallel num_threads(p->n_max)
    {
        int granted = omp_get_num_threads(), id = omp_get_thread_num();
        struct worker w = {.id = id, .n = n < granted ? n : granted, .pool = p};
        if (granted < n) { /* seen alike by all */
#pragma omp single
            prepare_job(p, granted);
        }
        w.spin = p->spin;
        if (id == 0) {
            run_first(&w, fn, arg);
        } else if (id < w.n) {
            w.node = p->node_of[id];
            if (p->pin && !p->pinned[id]) {
                topology_pin(id, p->n_max);
                p->pinned[id] = true;
            }
            fn(&w, arg);
        }
    }
}
