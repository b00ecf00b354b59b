/* SPDX-License-Identifier: MIT */
/* The machine's limits, measured with the program's own workers: how fast memory can be read, the best of several prefetch distances
 * and numbers of streams since plain loops under-measure it, and how many operations the level's dots of
 * bytes and fused multiply-adds do from registers. */
#include "bench_limits.h"
#include "term.h"

#include "simd/simd.h"
#include "src/pool.h"

#include <stdlib.h>
#include <string.h>

enum { STEP = 256, MAX_STREAMS = 4, MAX_MEASURED = 64, RUNS = 3 };
static const size_t TOTAL_BYTES = (size_t)512 << 20; /* of all workers: several times a large cache */
static const size_t LEAST_BYTES = (size_t)96 << 20; /* of one */
static const int64_t ROUNDS = 1 << 20;
static const double MOST_S = 1.5; /* then what was found has to do */

typedef uint64_t line __attribute__((vector_size(16)));

struct job {
    uint8_t *memory;
    size_t bytes; /* of a worker: a multiple of MAX_STREAMS * STEP */
    size_t ahead; /* prefetch distance */
    int streams;
    double (*peak)(int64_t rounds);
    double start[POOL_MAX_WORKERS], end[POOL_MAX_WORKERS], ops_done[POOL_MAX_WORKERS];
    uint64_t sink[POOL_MAX_WORKERS];
};

static void touch(struct worker *w, void *arg)
{
    struct job *j = arg;
    memset(j->memory + (size_t)w->id * j->bytes, w->id + 1, j->bytes);
}

static uint64_t read_all(const uint8_t *p, size_t bytes, int streams, size_t ahead)
{
    line sum[4] = {{0}};
    size_t part = bytes / (size_t)streams;
    for (size_t i = 0; i < part; i += STEP)
        for (int s = 0; s < streams; s++) {
            const uint8_t *q = p + (size_t)s * part + i;
            for (int k = 0; k < STEP; k += 64) {
                if (ahead)
                    __builtin_prefetch(q + k + ahead);
                const line *v = (const line *)(const void *)(q + k);
                sum[0] ^= v[0];
                sum[1] ^= v[1];
                sum[2] ^= v[2];
                sum[3] ^= v[3];
            }
        }
    sum[0] ^= sum[1] ^ sum[2] ^ sum[3];
    return sum[0][0] ^ sum[0][1];
}

static void read_part(struct worker *w, void *arg)
{
    struct job *j = arg;
    pool_barrier(w);
    j->start[w->id] = now_s();
    j->sink[w->id] = read_all(j->memory + (size_t)w->id * j->bytes, j->bytes, j->streams, j->ahead);
    j->end[w->id] = now_s();
}

static void multiply(struct worker *w, void *arg)
{
    struct job *j = arg;
    pool_barrier(w);
    j->start[w->id] = now_s();
    j->ops_done[w->id] = j->peak(ROUNDS);
    j->end[w->id] = now_s();
}

/* From the first start to the last end. */
static double wall(const struct job *j, int n)
{
    double start = j->start[0], end = j->end[0];
    for (int i = 1; i < n; i++) {
        start = j->start[i] < start ? j->start[i] : start;
        end = j->end[i] > end ? j->end[i] : end;
    }
    return end - start;
}

static double read_bandwidth(struct pool *pool, struct job *j, int n)
{
    static const size_t distances[] = {0, 1024, 4096, 16384};
    double best = 0, begin = now_s();
    j->bytes = TOTAL_BYTES / (size_t)n > LEAST_BYTES ? TOTAL_BYTES / (size_t)n : LEAST_BYTES;
    j->bytes -= j->bytes % (MAX_STREAMS * STEP);
    size_t all = j->bytes * (size_t)n;
    if (all > mem_available() / 2)
        return 0;
    j->memory = mem_reserve(all, true);
    if (!j->memory)
        return 0;
    pool_run(pool, n, touch, j);
    for (size_t d = 0; d < sizeof distances / sizeof *distances; d++)
        for (j->streams = 1; j->streams <= MAX_STREAMS; j->streams *= 2)
            for (int r = 0; r < RUNS - 1 && (best == 0 || now_s() - begin < MOST_S); r++) {
                j->ahead = distances[d];
                pool_run(pool, n, read_part, j);
                double speed = (double)all / wall(j, n);
                best = speed > best ? speed : best;
            }
    mem_release(j->memory, all);
    return best;
}

static double peak(struct pool *pool, struct job *j, int n, double (*op)(int64_t rounds))
{
    double best = 0, begin = now_s();
    j->peak = op;
    for (int r = 0; op && r < 2 * RUNS && (best == 0 || now_s() - begin < MOST_S); r++) {
        pool_run(pool, n, multiply, j);
        double done = 0, t = wall(j, n);
        for (int i = 0; i < n; i++)
            done += j->ops_done[i];
        best = done / t > best ? done / t : best;
    }
    return best;
}

const struct limits *bench_limits(int n_threads, const char *level)
{
    static struct limits known[MAX_MEASURED];
    static const char *levels[MAX_MEASURED];
    static int n_known;
    struct log_sink silent = {0};
    struct qn_error err;
    struct simd_ops ops;
    struct pool *pool;
    int i = 0;
    while (i < n_known && (known[i].n_threads != n_threads || strcmp(levels[i], level)))
        i++;
    if (i < n_known)
        return &known[i];
    i = n_known < MAX_MEASURED ? n_known++ : MAX_MEASURED - 1;
    if (pool_open(&pool, n_threads, true, &silent, &err))
        die("%s", err.text);
    if (!simd_init(&ops, level))
        die("%s: no such level", level);
    struct job *j = xmalloc(sizeof *j);
    known[i] = (struct limits){.n_threads = n_threads};
    levels[i] = ops.name;
    for (int k = 0; k < i; k++) /* memory does not know levels */
        if (known[k].n_threads == n_threads)
            known[i].bytes_s = known[k].bytes_s;
    if (known[i].bytes_s == 0)
        known[i].bytes_s = read_bandwidth(pool, j, n_threads);
    known[i].int_ops_s = peak(pool, j, n_threads, ops.int_peak);
    known[i].float_ops_s = peak(pool, j, n_threads, ops.float_peak);
    pool_close(pool);
    free(j);
    return &known[i];
}
