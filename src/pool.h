/* SPDX-License-Identifier: MIT */
/* The worker pool: one OpenMP parallel region per job, every worker runs the same function on its share (SPMD) and meets the others
 * at barriers.  What is computed never depends on who computes it or on how many there are. */
#ifndef QUERN_POOL_H
#define QUERN_POOL_H

#include "base.h"

enum { POOL_MAX_WORKERS = 1024, CACHE_LINE = 64, TOPOLOGY_CPUS = 4096 };

struct pool;

/* A worker as the job sees it. */
struct worker {
    int id, n; /* 0 <= id < n: workers that take part in this job */
    struct pool *pool;
    int node; /* 0 .. pool_n_nodes() - 1, ascending with id */
    int spin; /* ns at the next barrier before going to sleep */
    unsigned n_spreads; /* begun so far in this job */
};

/* n_max: most workers a job may ask for; pin: bind workers to cores by topology. */
int pool_open(struct pool **out, int n_max, bool pin, const struct log_sink *log, struct qn_error *err);
void pool_close(struct pool *p); /* NULL is fine */

/* Runs fn on min(n, what OpenMP grants) workers and returns when all are done.  Inside a caller's own parallel region that may
 * be one. */
void pool_run(struct pool *p, int n, void (*fn)(struct worker *w, void *arg), void *arg);

/* NUMA nodes that workers are pinned on, at least 1, and the system's number of the i-th. */
int pool_n_nodes(const struct pool *p);
int pool_node(const struct pool *p, int i);
/* The dense node index of worker i. */
int pool_node_of(const struct pool *p, int i);

/* Everything written before by any worker of the job is seen after it by all. */
void pool_barrier(struct worker *w);

/* The share of worker w in n equal tasks: [*first, *last). */
static inline void pool_share(const struct worker *w, int64_t n, int64_t *first, int64_t *last)
{
    *first = n * w->id / w->n;
    *last = n * (w->id + 1) / w->n;
}

/* Units 0 .. n - 1 (n below 2^32 for each worker) in shares as pool_share() has them.  Each worker takes its own from the front, half of
 * what is left at a time but at least `least` units; who is through takes pieces off the ends of others', of its node first.  Use:
 *   struct spread s = pool_spread(w, n, least);
 *   for (int64_t first, last; pool_spread_next(&s, &first, &last);) ...
 * All workers of a job begin the same spreads in the same order, and meet at a barrier between any one and the fourth after it. */
struct spread {
    struct worker *w;
    int64_t n, least;
    int whose; /* share that is taken from; -1: all are empty */
    int slot;
    bool abroad; /* own node's shares are empty */
};
struct spread pool_spread(struct worker *w, int64_t n, int64_t least);
bool pool_spread_next(struct spread *s, int64_t *first, int64_t *last);

/* Cores this process may use: min(physical cores in the affinity mask, cgroup quota), at least 1. */
int topology_default_threads(void);
/* Binds the calling thread to the i-th place: one thread per physical core first, nodes and sockets filled in order, SMT siblings
 * last.  Does nothing without libnuma or when there are more workers than places. */
void topology_pin(int i, int n);
/* NUMA node of the i-th place; 0 where unknown. */
int topology_node(int i);
/* The calling thread's affinity; false when it has more processors than fit. */
struct topology_mask {
    unsigned long bits[TOPOLOGY_CPUS / 8 / sizeof(unsigned long)];
};
bool topology_mask_get(struct topology_mask *m);
void topology_mask_set(const struct topology_mask *m);
/* Pages of [p, p + bytes) are taken from this node where it has any; p begins a page that nobody has touched. */
void topology_place(void *p, size_t bytes, int node);
/* For tests: from here on as if there were so many cores, evenly on so many nodes; nobody is pinned. */
void topology_pretend(int n_cores, int n_nodes);
int topology_cpu(int i); /* its logical processor, -1 when there is no such place */
double topology_quota(void); /* processors that the cgroup grants; INFINITY without limit */

#endif
