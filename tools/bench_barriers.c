/* SPDX-License-Identifier: MIT */
/* quern bench --barriers: how often workers meet in a step, what a meeting costs by itself, and how long they wait there for the
 * last one. */
#include "bench.h"
#include "bench_table.h"
#include "term.h"

#include "src/pool.h"

#include <stdlib.h>

enum { BATCH = 200, MAX_BATCHES = 200 };
static const double MOST_S = 0.25;

struct meetings {
    double ns[MAX_BATCHES]; /* of one barrier, batch by batch */
    int n; /* batches */
    bool enough; /* said by worker 0 before a barrier, read behind it */
};

static void meet_often(struct worker *w, void *arg)
{
    struct meetings *m = arg;
    double begin = now_s();
    for (int i = 0; i < BATCH; i++)
        pool_barrier(w);
    for (bool enough = false; !enough;) {
        double start = now_s();
        for (int i = 0; i < BATCH; i++)
            pool_barrier(w);
        if (w->id == 0) {
            m->ns[m->n++] = (now_s() - start) * 1e9 / BATCH;
            m->enough = m->n == MAX_BATCHES || now_s() - begin > MOST_S;
        }
        pool_barrier(w);
        enough = m->enough;
        pool_barrier(w);
    }
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Nanoseconds of a barrier between workers that have nothing else to do: the median. */
static double barrier_ns(int n_threads)
{
    static struct meetings m;
    static int of;
    struct log_sink silent = {0};
    struct qn_error err;
    struct pool *pool;
    if (of != n_threads) {
        of = n_threads;
        m = (struct meetings){0};
        if (pool_open(&pool, n_threads, true, &silent, &err))
            die("%s", err.text);
        pool_run(pool, n_threads, meet_often, &m);
        pool_close(pool);
        qsort(m.ns, (size_t)m.n, sizeof *m.ns, by_value);
    }
    return m.ns[m.n / 2];
}

void print_barriers(struct printer *p, const struct result *r)
{
    static const struct column columns[] = {{"test", "test", -24},
                                            {"threads", "n_threads", 7},
                                            {"a step", "barriers_per_step", 8},
                                            {"a layer", "barriers_per_layer", 8},
                                            {"cost, ns", "barrier_ns", 9},
                                            {"wait, ns", "wait_per_barrier_ns", 10},
                                            {"cost, % of step", "cost_percent", 15},
                                            {"wait, %", "wait_percent", 8},
                                            {"least .. ", "wait_least_percent", 9},
                                            {"most waiting, %", "wait_most_percent", 15},
                                            {0}};
    static struct table table;
    char title[64];
    int n_threads = r->n_gen ? r->n_threads : r->n_threads_batch;
    double cost = barrier_ns(n_threads), steps = (double)r->stats.steps, all = (double)r->stats.barriers;
    double wait = r->stats.phase_s[QN_PHASE_WAITING], percent = 100 / r->stats.seconds;
    result_title(r, title, sizeof title);
    table = (struct table){.format = p->format, .columns = columns, .n_rows = p->n};
    table_row(&table, (const char *[]){title, cell("%d", n_threads), cell("%.1f", all / steps),
                                       cell("%.2f", all / steps / p->info.n_layer), cell("%.0f", cost),
                                       cell("%.0f", wait / all * 1e9), cell("%.2f", cost * 1e-9 * all * percent),
                                       cell("%.1f", wait * percent), cell("%.1f", r->stats.wait_least_s * percent),
                                       cell("%.1f", r->stats.wait_most_s * percent)});
}
